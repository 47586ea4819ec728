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
from bowerbird.training.report import write_report
from bowerbird.training.run import Run
from bowerbird.training.validation import takes_the_title, validate

MAX_FRAMES = 100
MAX_SNAPSHOTS = 40  # a small folder has short epochs; painting a grid after each ten of them would take most of the time


def snapshot_every(recipe: Recipe, epoch: int) -> int:
    """Pictures between snapshots for a training set of `epoch`: the recipe's epochs, or as many more as keep within MAX_SNAPSHOTS."""
    return max(recipe.sample.every_epochs, math.ceil(recipe.train.pictures / epoch / MAX_SNAPSHOTS)) * epoch


def take_snapshot(run: Run) -> None:
    """Score, paint, save; then move the pointers of run.json and clear away models that nothing points to."""
    state, recipe = run.state, run.recipe
    validation = validate(run.objective, state.ema.model, run.pictures.held, state.best.first, run.world, run.check)
    grid = run.objective.grid(state.ema.model, recipe.sample.count, recipe.sample.steps, run.check, run.world)
    state.snapshot_at = state.seen
    if not run.world.is_main:
        return
    name = free_entry(run.out / "models", state.seen)
    about = About(training=_training(run), scores={"held_out": validation.score} if validation else {})
    save_model(run.disk, run.out / "models" / name, run.objective.model(state.ema.model, about), grid)
    write_file(run.disk, run.out / "samples" / f"epoch-{state.seen // len(run.pictures.train):04d}.png", grid)

    is_best = validation is None or takes_the_title(validation.scores, state.best.scores, recipe.data.seed)
    if validation:
        state.best = state.best.with_(validation)
    before = read_run_state(run.out)
    write_run_state(run.disk, run.out, before.model_copy(update={"latest": name, "best": name if is_best else before.best}))
    if validation:
        run.record.append(seen=state.seen, held_out=validation.score, losses=[float(v) for v in validation.losses], best=is_best)
    _remove_unnamed_models(run)
    frames = sorted((run.out / "samples").glob("epoch-*.png"))
    write_file(run.disk, run.out / "progress.gif", animation_bytes(frames[:: math.ceil(len(frames) / MAX_FRAMES)]))
    write_report(run)


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
