"""A snapshot: the averaged weights scored on held-out pictures, painted as a grid, and kept as a model folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bowerbird.model_folder import About, save_model
from bowerbird.pages import animation_bytes
from bowerbird.recipe import Recipe
from bowerbird.run_folder import entries, free_entry, read_run_state, write_run_state
from bowerbird.storage import write_file
from bowerbird.training.grid import count_copies
from bowerbird.training.report import write_report
from bowerbird.training.run import Run
from bowerbird.training.validation import looked_at, takes_the_title, validate

MAX_FRAMES = 100
GRID_SHARE = 0.1  # of a run's work at most goes into grids: the epochs of a small folder are short


def snapshot_every(recipe: Recipe, epoch: int) -> int:
    """Pictures between snapshots for a training set of `epoch`: the recipe's epochs, or as many more as keep grids within GRID_SHARE.

    Work is counted in passes through the network, so that it is the same on every machine: a grid takes one for each picture and
    step, two under guidance, and learning from a picture about three.
    """
    sample = recipe.sample
    passes = sample.count * sample.steps * (1 if sample.guidance == 1 else 2)
    return max(sample.every_epochs, math.ceil(passes / (3 * GRID_SHARE) / epoch)) * epoch


def take_snapshot(run: Run) -> None:
    """Score, paint, save; then move the pointers of run.json and clear away models that nothing points to."""
    state, recipe = run.state, run.recipe
    held = looked_at(run.pictures.held, recipe, run.objective.held_out_terms)
    validation = validate(run.objective, state.ema.model, held, state.best.first, run.world, run.check)
    grid = run.objective.grid(state.ema.model, recipe.sample.count, recipe.sample.steps, run.check, run.world)
    state.snapshot_at = state.seen
    if not run.world.is_main:
        return
    name = free_entry(run.out / "models", state.seen)
    about = About(training=_training(run), scores={"held_out": validation.score} if validation else {})
    save_model(run.disk, run.out / "models" / name, run.objective.model(state.ema.model, about), grid.png)
    write_file(run.disk, run.out / "samples" / f"epoch-{state.seen // len(run.pictures.train):04d}.png", grid.png)

    is_best = validation is None or takes_the_title(validation.scores, state.best.scores, recipe.data.seed)
    if validation:
        state.best = state.best.with_(validation)
    before = read_run_state(run.out)
    write_run_state(run.disk, run.out, before.model_copy(update={"latest": name, "best": name if is_best else before.best}))
    if validation:
        run.record.append(seen=state.seen, held_out=validation.score, losses=[float(v) for v in validation.losses], best=is_best)
    if copies := count_copies(grid, run.pictures):
        run.record.append(seen=state.seen, **copies)
    _remove_unnamed_models(run)
    frames = sorted((run.out / "samples").glob("epoch-*.png"))
    write_file(run.disk, run.out / "progress.gif", animation_bytes(frames[:: math.ceil(len(frames) / MAX_FRAMES)]))
    write_report(run)


def keep_model(run: Run) -> None:
    """A model to paint with, of a run that stops before its first snapshot: not scored, and its picture is of one step."""
    grid = run.objective.grid(run.state.ema.model, run.recipe.sample.count, 1, lambda: None, run.world)
    if run.world.is_main:
        name = free_entry(run.out / "models", run.state.seen)
        save_model(run.disk, run.out / "models" / name, run.objective.model(run.state.ema.model, About(training=_training(run))), grid.png)
        write_run_state(run.disk, run.out, read_run_state(run.out).model_copy(update={"latest": name, "best": name}))


def _training(run: Run) -> dict[str, Any]:
    """How the model came to be, for its manifest."""
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "pictures_seen": run.state.seen,
        "pictures": len(run.pictures.train),
        "data_fingerprint": run.objective.fingerprint,
        "hardware": run.provenance["hardware"],
        "precision": run.precision,
        "compiled": run.provenance["compiled"],
        "hours": round(run.state.seconds / 3600, 3),
    }


def _remove_unnamed_models(run: Run) -> None:
    folder: Path = run.out / "models"
    state = read_run_state(run.out)
    for name in entries(folder):
        if name not in (state.best, state.latest):
            run.disk.remove(folder / name)
