"""A snapshot: the averaged weights scored on held-out pictures, painted as a grid, and kept as a model folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bowerbird.generate import OwnPainter
from bowerbird.model_folder import Manifest, SamplingDefaults, save_model
from bowerbird.recipe import Recipe
from bowerbird.request import PaintRequest
from bowerbird.run_folder import entries, free_entry, read_run_state, write_run_state
from bowerbird.sheets import animation_bytes, contact_sheet, png_bytes
from bowerbird.storage import write_file
from bowerbird.training.held_out import Best, better, look
from bowerbird.training.report import write_report
from bowerbird.training.run import Run
from bowerbird.training.world import World

MAX_FRAMES = 100
MAX_SNAPSHOTS = 40  # a small folder has short epochs; painting a grid after each ten of them would take most of the time


def snapshot_every(recipe: Recipe, epoch: int) -> int:
    """Pictures between snapshots for a training set of `epoch`: the recipe's epochs, or as many more as keep within MAX_SNAPSHOTS."""
    return max(recipe.sample.every_epochs, math.ceil(recipe.train.pictures / epoch / MAX_SNAPSHOTS)) * epoch


def take_snapshot(run: Run) -> None:
    """Score, paint, save; then move the pointers of run.json and clear away models that nothing points to."""
    state, recipe = run.state, run.recipe
    seen_by_model = look(state.ema.model, run.pictures, recipe, state.best.first, run.check, run.world)
    manifest = manifest_of(run, {"held_out": seen_by_model.score} if seen_by_model else {})
    grid = paint_grid(OwnPainter(str(run.out), state.ema.model, manifest), recipe.sample.count, recipe.data.seed, run.check, run.world)
    state.looked = state.seen
    if not run.world.leads:
        return
    name = free_entry(run.out / "models", state.seen)
    save_model(run.disk, run.out / "models" / name, state.ema.model, manifest, grid)
    write_file(run.disk, run.out / "samples" / f"epoch-{state.seen // len(run.pictures.train):04d}.png", grid)

    is_best = seen_by_model is None or better(seen_by_model.scores, state.best.scores, recipe.data.seed)
    if is_best and seen_by_model:
        first = state.best.first or tuple(seen_by_model.levels)
        state.best = Best(first=first, scores=tuple(seen_by_model.scores))
    before = read_run_state(run.out)
    write_run_state(run.disk, run.out, before.model_copy(update={"latest": name, "best": name if is_best else before.best}))
    if seen_by_model:
        run.record.append(seen=state.seen, held_out=seen_by_model.score, levels=[float(v) for v in seen_by_model.levels], best=is_best)
    _remove_unnamed_models(run)
    frames = sorted((run.out / "samples").glob("epoch-*.png"))
    write_file(run.disk, run.out / "progress.gif", animation_bytes(frames[:: math.ceil(len(frames) / MAX_FRAMES)]))
    write_report(run)


def paint_grid(painter: OwnPainter, count: int, seed: int, check: Callable[[], None], world: World) -> bytes:
    """`count` pictures from noise that is the same at every snapshot, one label after the other where there are labels."""

    def on_progress(event: Any) -> None:
        check()

    labels: list[str | None] = list(painter.manifest.labels[:count]) or [None]
    each = -(-count // len(labels))
    wanted = [(label, seed + number) for label in labels for number in range(each)][:count]
    first, last = world.share(0, count)
    side = painter.model.spec.sample_shape[1]
    painted: list[Any] = [np.zeros((0, side, side, 3))]
    for label, group in groupby(wanted[first:last], key=lambda one: one[0]):
        seeds = [number for _, number in group]
        request = PaintRequest(model=painter.name, label=label, seed=seeds[0], count=len(seeds))
        painted += [np.asarray(each.picture, dtype=np.float64)[None] for each in painter.paint(request, on_progress)]
    pixels = world.joined(np.concatenate(painted), first, count).astype(np.uint8)
    return png_bytes(contact_sheet([Image.fromarray(one) for one in pixels], columns=max(1, round(count**0.5))))


def manifest_of(run: Run, scores: dict[str, Any]) -> Manifest:
    """What the model folder says of itself and of how it came to be."""
    recipe, state = run.recipe, run.state
    return Manifest(
        rung="pixel",
        denoiser=state.model.spec,
        labels=run.pictures.label_names if recipe.condition.label else (),
        sampling=SamplingDefaults(sampler=recipe.sample.sampler, steps=recipe.sample.steps, guidance=recipe.sample.guidance),
        training={
            "recipe": recipe.model_dump(mode="json"),
            "pictures_seen": state.seen,
            "pictures": len(run.pictures.train),
            "data_fingerprint": run.pictures.fingerprint,
            "hardware": run.surroundings["hardware"],
            "hours": round(state.seconds / 3600, 3),
        },
        scores=scores,
    )


def _remove_unnamed_models(run: Run) -> None:
    folder: Path = run.out / "models"
    state = read_run_state(run.out)
    for name in entries(folder):
        if name not in (state.best, state.latest):
            run.disk.remove(folder / name)
