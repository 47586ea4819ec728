"""Kernels made for a network: where they are made, that they compute the same, and that nothing is lost with or without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bowerbird.data.pictures import open_pictures
from bowerbird.errors import Stopped
from bowerbird.progress import Progress
from bowerbird.run_folder import read_run_state
from bowerbird.training import Budget, budget, compiling, forecast
from bowerbird.training.checkpoint import read_provenance
from bowerbird.training.compiling import REPAID_SECONDS, blocks_of, compile_blocks, compiler_for, gain, worth_trying
from bowerbird.training.resume import start_or_resume
from bowerbird.training.run import Run
from tests.conftest import tiny_recipe
from tests.training.runs import CPU, Notes, assert_same_run, new_setup, run_here

needs_a_compiler = pytest.mark.skipif(compiler_for(CPU) is None, reason="no C++ compiler here")


@pytest.fixture
def run(picture_folder: Path, tmp_path: Path) -> Run:
    return new_run(picture_folder, tmp_path / "run")


def new_run(pictures: Path, out: Path, **train: object) -> Run:
    recipe = tiny_recipe(train=train)
    out.mkdir(exist_ok=True)
    started = start_or_resume(new_setup(out, recipe, open_pictures(pictures, recipe.data.size), Notes()))
    assert started is not None
    return started


def provenance_of(out: Path) -> dict[str, object]:
    return read_provenance(out / "checkpoints" / str(read_run_state(out).checkpoint))


def test_kernels_are_made_where_a_run_repays_them(run: Run) -> None:
    """Long, and not forbidden; who asks for them is not contradicted."""
    assert worth_trying(run, REPAID_SECONDS + 1) and not worth_trying(run, REPAID_SECONDS - 1)
    for word, short, long in (("never", False, False), ("always", True, True)):
        other = replace(run, recipe=tiny_recipe(train={"compile": word}))
        assert (worth_trying(other, 1), worth_trying(other, 1e6)) == (short, long)


@pytest.mark.parametrize(("times", "compiled"), [(2.0, True), (1.01, False)])
def test_a_forecast_measures_what_they_bring(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float, compiled: bool
) -> None:
    """Twice as fast: kept, counted in the forecast, and the run itself makes them.  No faster: left."""
    monkeypatch.setattr(budget, "CALIBRATION_SECONDS", 0.1)
    plain = forecast(picture_folder, tiny_recipe(train={"compile": "never"}), Budget(), device=CPU)
    asked: list[Path] = []
    monkeypatch.setattr(budget, "worth_trying", lambda run, seconds: True)
    monkeypatch.setattr(budget, "compile_blocks", lambda run: True)
    monkeypatch.setattr(budget, "gain", lambda run, update, seconds: times)

    def compiled_of_run(run: Run) -> bool:
        asked.append(run.out)
        return True

    monkeypatch.setattr("bowerbird.training.resume.compile_blocks", compiled_of_run)
    plan = forecast(picture_folder, tiny_recipe(), Budget(), device=CPU)
    assert (plain.compiled, plan.compiled) == (False, compiled) and ("compiled" in plan.line()) is compiled
    run_here(picture_folder, tmp_path, tiny_recipe(), budget=Budget())
    assert asked == [tmp_path] * compiled and provenance_of(tmp_path)["compiled"] is compiled


def test_the_gain_is_a_ratio_of_turns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update that takes three times as long without kernels, on a clock of its own."""
    now = 0.0

    def update() -> float:
        nonlocal now
        now += 3.0 if torch._dynamo.eval_frame._stance.stance == "force_eager" else 1.0
        return 0.0

    monkeypatch.setattr("bowerbird.training.compiling.time.perf_counter", lambda: now)
    assert gain(run, update, 0.5) == 3.0


@needs_a_compiler
def test_kernels_compute_the_same(run: Run) -> None:
    """Loss and gradients to rounding, every block, no weight moved, no number drawn, and the average stays free of them."""
    batch, state = run.objective.draw(0, 8), run.state

    def found() -> list[torch.Tensor]:
        loss = run.objective.losses(state.model, batch, slice(None)).mean()
        return [loss.detach(), *torch.autograd.grad(loss, list(state.model.parameters()), allow_unused=True, materialize_grads=True)]

    for parameter in state.model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # a new network's branches are closed
    plain, weights, random = found(), [p.clone() for p in state.model.parameters()], torch.get_rng_state()
    assert compile_blocks(run)
    assert torch.equal(random, torch.get_rng_state()) and all(map(torch.equal, weights, state.model.parameters()))
    assert all(p.grad is None for p in state.model.parameters())
    assert all(block._compiled_call_impl is not None for block in blocks_of(state.model))
    assert all(block._compiled_call_impl is None for block in blocks_of(state.ema.model))
    for one, other in zip(plain, found(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


@needs_a_compiler
def test_stopped_and_resumed_equals_unbroken(picture_folder: Path, tmp_path: Path) -> None:
    """Bit for bit: a kernel follows from the shapes.  Kernels that draw (dropout) stand in the long proof, for time's sake."""
    recipe = tiny_recipe(train={"compile": "always"})
    run_here(picture_folder, tmp_path / "unbroken", recipe)
    events: list[Progress] = []

    def stop(event: Progress) -> bool:
        events.append(event)
        return not (event.stage == "train" and event.done >= 80)

    with pytest.raises(Stopped):
        run_here(picture_folder, tmp_path / "run", recipe, on_progress=stop)
    torch._dynamo.reset()  # what another process would not have
    run_here(picture_folder, tmp_path / "run", recipe)
    assert provenance_of(tmp_path / "run")["compiled"] is True
    assert "compile" in {event.stage for event in events}
    assert_same_run(tmp_path / "unbroken", tmp_path / "run")


@pytest.mark.parametrize("missing", [True, False])
def test_where_compiling_fails_a_run_goes_on_without(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    """No compiler, or one that breaks: one note, and bit for bit the run that never asked for kernels."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("g++: internal compiler error\nand a thousand lines more")

    monkeypatch.setattr(compiling, "compiler_for", lambda device: None if missing else "g++")
    monkeypatch.setattr(compiling, "forward_and_backward", broken)
    notes = Notes()
    run_here(picture_folder, tmp_path / "run", tiny_recipe(train={"compile": "always"}), on_progress=notes)
    said = [each for each in notes if "no kernels of its own" in each]
    assert len(said) == 1 and ("there is no C++ compiler)" if missing else "g++: internal compiler error)") in said[0]
    assert provenance_of(tmp_path / "run")["compiled"] is False
    run_here(picture_folder, tmp_path / "plain", tiny_recipe(train={"compile": "never"}))
    assert_same_run(tmp_path / "plain", tmp_path / "run")
