"""What people look at: curves.png, report.html and a TensorBoard log, all made from the record."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.pages import render
from bowerbird.recipe import Recipe, write_recipe
from bowerbird.storage import write_file
from bowerbird.training.record import Record
from bowerbird.training.run import Run
from bowerbird.training.validation import WORSE_LOOKS, stops_itself


def write_report(run: Run) -> None:
    """curves.png and report.html of the run so far."""
    lines = run.record.lines()
    write_file(run.disk, run.out / "curves.png", curves_png(lines))
    grids = sorted((run.out / "samples").glob("epoch-*.png"))
    page = render(
        "run.html",
        name=run.out.name,
        verdict=verdict(lines, run.recipe),
        latest_grid=grids[-1].name,
        facts=facts(run, lines),
        recipe=write_recipe(run.recipe),
    )
    write_file(run.disk, run.out / "report.html", page.encode())


def verdict(lines: list[dict[str, Any]], recipe: Recipe) -> str:
    """Where the run stands by its held-out scores, and how many pictures of its last grid look like copies."""
    return f"{_learning(lines, recipe)} {_copying(lines)}".rstrip()


def _learning(lines: list[dict[str, Any]], recipe: Recipe) -> str:
    scores = [line["held_out"] for line in lines if "held_out" in line]
    if not scores:
        return "No pictures are held out, so nothing here tells learning from memorising; look at the grid."
    low, begins_as = int(np.argmin(scores)), recipe.begins_as
    if stops_itself(recipe, lines):
        best = f"The best is kept: {begins_as} as it was" if low == 0 else "The best model is kept"
        return (
            f"It stopped itself: the last {WORSE_LOOKS} held-out scores were all worse than the best, beyond chance "
            f"({scores[-1]:.3f} after {scores[low]:.3f}; lower is better). {best}. More pictures or a lower train.lr go further."
        )
    if begins_as and low == 0:
        return (
            f"No better yet than {begins_as}, which it began with and which is kept: the held-out score (1 then, lower is better) is "
            f"{scores[-1]:.3f}. Train longer, or lower train.lr."
        )
    if len(scores) < 3:
        return f"Too early to say; the held-out score ({scores[-1]:.3f}; 1 at the first grid, lower is better) needs a few more looks."
    if low == len(scores) - 1:
        return f"Still learning: the held-out score (1 at the first grid, lower is better) fell to {scores[-1]:.3f}, its lowest so far."
    if scores[-1] > 1.02 * scores[low] and low < len(scores) - 3:
        return f"More training only memorises: the held-out score rose from {scores[low]:.3f} to {scores[-1]:.3f}. The best model is kept."
    return (
        f"Nearly level: the held-out score (1 at the first grid, lower is better) is {scores[-1]:.3f}, its lowest was {scores[low]:.3f}. "
        "More of the same training changes little; more pictures, or a larger model, would."
    )


def _copying(lines: list[dict[str, Any]]) -> str:
    last = next((line for line in reversed(lines) if line.get("painted")), None)
    if last is None:
        return ""
    unseen = f" (of {last['unseen']} real ones it never saw, {last['unseen_copied']})" if last.get("unseen") else ""
    return f"Of the {last['painted']} pictures in the grid {last['copied']} look like copies of training pictures{unseen}."


def facts(run: Run, lines: list[dict[str, Any]]) -> dict[str, str]:
    state = run.state
    parameters = sum(p.numel() for p in state.model.parameters())
    skipped = sum(1 for line in lines if line.get("skipped"))
    return {
        "pictures in the training set": f"{len(run.pictures.train):,} ({len(run.pictures.held):,} held out)",
        "pictures seen": f"{state.seen:,} of {run.recipe.train.pictures:,}",
        "parameters": f"{parameters / 1e6:.1f} M",
        "hardware": run.provenance["hardware"],
        "training time": f"{state.seconds / 3600:.2f} h",
        "pictures a second": f"{state.seen / state.seconds:.1f}" if state.seconds else "-",
        "updates skipped (not finite)": str(skipped),
    }


def curves_png(lines: list[dict[str, Any]]) -> bytes:
    """Training loss (smoothed), held-out score, learning rate, against pictures seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    left, right = figure.subplots(2, 1, sharex=True)
    steps = [line for line in lines if line.get("loss") is not None]
    if steps:
        seen, losses = np.array([line["seen"] for line in steps]), np.array([line["loss"] for line in steps])
        left.plot(seen, losses, color="0.85", linewidth=0.5)
        left.plot(seen, smoothed(losses), color="C0", label="training loss")
        low, high = np.quantile(losses[len(losses) // 20 :], [0.0, 0.995])
        left.set_ylim(low * 0.9, high * 1.1)
        left.legend()
        rate = right.twinx()
        rate.plot(seen, [line["lr"] for line in steps], color="0.8", linewidth=1)
        rate.set_ylabel("learning rate")
    looks = [line for line in lines if "held_out" in line]
    if looks:
        right.plot([line["seen"] for line in looks], [line["held_out"] for line in looks], "o-", color="C1", label="held-out score")
        right.legend()
    right.set_xlabel("pictures seen")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def smoothed(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mean over a window of 1/50 of the run."""
    window = max(1, len(values) // 50)
    padded = np.concatenate([np.full(window - 1, values[0]), values])
    return np.convolve(padded, np.ones(window) / window, mode="valid")


def write_tensorboard(record: Record, folder: Path) -> None:
    """The record as a TensorBoard log, for those who compare runs there."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for line in record.lines():
            for key in ("loss", "grad_norm", "lr", "held_out"):
                if line.get(key) is not None:
                    writer.add_scalar(key, line[key], line["seen"])
