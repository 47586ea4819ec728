# Everything on a fresh machine with Python 3.11 to 3.13: `make demo` paints, `make test` checks.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo demo-scratch test test-lowest lint clean
.PHONY: prove-copies prove-data prove-files prove-pickles prove-resume prove-serve prove-studio prove-text

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
	$(RUN)/bowerbird generate starter "a red heart" --count 4 --seed 1 --out demo/heart
	$(RUN)/bowerbird inspect examples/birds --out demo/inspect
	$(RUN)/bowerbird generate starter "clip art of a blue bird" --count 16 --seed 1 --out demo/before
	$(RUN)/bowerbird tune starter examples/birds --pictures 2500 --out demo/run
	$(RUN)/bowerbird generate demo/run "clip art of a blue bird" --count 16 --seed 1 --out demo/after
	$(RUN)/bowerbird upscale upscaler-4x demo/heart --out demo/large
	@echo
	@echo "Look at: demo/heart (hearts from words, by the bundled starter) and demo/large (the same at 256x256), demo/before and demo/after"
	@echo "(16 birds from the same words and noise, before and after two minutes on the bundled birds), demo/run/progress.gif (how it learned)"
	@echo "and demo/run/report.html. To paint and train in a browser: $(RUN)/bowerbird studio"

# From nothing, without the starter: what two minutes of learning alone give.
demo-scratch: $(READY)
	$(RUN)/bowerbird train examples/birds --recipe text-64 --init '' --pictures 12000 --out demo/scratch
	$(RUN)/bowerbird generate demo/scratch "clip art of a blue bird" --count 16 --seed 1 --out demo/scratch-pictures

# ---------------------------------------------------------------- checks

test: $(READY) lint
	$(RUN)/python -m pytest

# The same with the lowest versions that pyproject.toml allows, in an environment of its own.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/pip install --quiet uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct \
		--editable '.[pretrained,evaluate,safety,server,mcp,studio]' --group dev
	$(VENV)-lowest/bin/python -m pytest

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# ---------------------------------------------------------------- slow proofs; each writes proof/NAME.json

prove-copies: $(READY)
	$(RUN)/python proofs/copies.py

prove-data: $(READY)
	$(RUN)/python proofs/data.py

prove-files: $(READY)
	$(RUN)/python -W ignore proofs/malformed.py

prove-pickles: $(READY)
	$(RUN)/python proofs/pickles.py

prove-resume: $(READY)
	$(RUN)/python proofs/resume.py

prove-serve: $(READY)
	$(RUN)/python proofs/serve.py

prove-studio: $(READY)
	$(RUN)/pip install --quiet playwright
	$(RUN)/python proofs/studio.py

prove-text: $(READY)
	$(RUN)/python proofs/text.py

clean:
	rm -rf $(VENV) $(VENV)-lowest demo proof
