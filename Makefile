# Everything on a fresh machine with Python 3.11 to 3.13: `make demo` paints, `make test` checks.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test lint clean prove-copies prove-data prove-pickles prove-resume

# ---------------------------------------------------------------- set-up

# pip takes the CPU build where there is no GPU wheel to choose; constraints.txt is the tested set.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(0 if ok else "Bowerbird needs Python 3.11 to 3.13, this is %d.%d. Give another: make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(RUN)/pip install --quiet --upgrade pip
	$(RUN)/pip install --quiet --constraint constraints.txt --editable '.[pretrained,evaluate,safety,server,mcp,studio]' --group dev
	@touch $@

# ---------------------------------------------------------------- the main job, end to end

demo: $(READY)
	$(RUN)/bowerbird inspect examples/birds --out demo/inspect
	$(RUN)/bowerbird generate starter --count 16 --seed 1 --out demo/starter
	$(RUN)/bowerbird train examples/birds --recipe latent-64 --pictures 20000 --out demo/run
	$(RUN)/bowerbird generate demo/run --count 16 --seed 1 --out demo/pictures
	@echo
	@echo "Look at: demo/starter (16 things by the bundled starter), demo/run/report.html (how it learned birds), demo/run/progress.gif,"
	@echo "demo/pictures (16 new birds, 64x64, from the same noise). Four minutes of one core give soft birds, some of which can be named."

# ---------------------------------------------------------------- checks

test: $(READY) lint
	$(RUN)/python -m pytest

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# ---------------------------------------------------------------- slow proofs; each writes proof/NAME.json

prove-copies: $(READY)
	$(RUN)/python proofs/copies.py

prove-data: $(READY)
	$(RUN)/python proofs/data.py

prove-pickles: $(READY)
	$(RUN)/python proofs/pickles.py

prove-resume: $(READY)
	$(RUN)/python proofs/resume.py

clean:
	rm -rf $(VENV) demo proof
