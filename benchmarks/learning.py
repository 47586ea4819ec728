"""What a starter's hours brought: KID, captions found again and copies of several model folders, against core-hours.

    python scripts/starter_pictures.py OUT FOLDER                 the pictures it is judged against, and learnt from
    git archive COMMIT src/bowerbird/models/bundled/starter       a starter of before, one MODEL each
    python -m benchmarks.learning FOLDER/held FOLDER/train MODEL ...     three minutes of one core each; writes learning.json and a plot

Each paints in bf16 by captions of `held` and is judged as `bowerbird evaluate` judges.  What a GPU did counts as the hours that a core
of an Intel Xeon would take for as many pictures of the same network, compiled, in bf16 (docs/lab-log.md).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import machine
from bowerbird.evaluate.judge import evaluate
from bowerbird.generate import open_model
from bowerbird.locate import Opening
from bowerbird.painter import OwnPainter

TARGET = Path(__file__).with_suffix(".json")
PLOT = Path(__file__).parents[1] / "docs/pictures/starter-learning.png"
CORE_PICTURES_PER_SECOND = 39.9  # of the starter's network, `tiny` on 64 tokens of latents and 32 of words
WALK = {"sampler": "dpm++2m", "steps": 12}  # for all alike, so that they differ by what they learnt
PANELS = {"kid": "KID x1000 (lower is better)", "caption_top_10": "own caption in the best ten, %", "copies": "copies, %"}


def core_hours(training: dict[str, Any]) -> float:
    if "thread" in training["hardware"]:
        return float(training["hours"])
    return float(training["pictures_seen"]) / CORE_PICTURES_PER_SECOND / 3600


def judged(model: Path, held: Path, train: Path, count: int) -> dict[str, Any]:
    painter = open_model(model, torch.device("cpu"), Opening(dtype=torch.bfloat16))
    assert isinstance(painter, OwnPainter)
    painter.sampling = painter.sampling.model_copy(update=WALK)
    training = painter.describe()["training"]
    report = evaluate(painter, held, train, count=count)
    assert report.copies is not None
    scores = {line.key: line.score for line in report.lines}
    percent = {key: scores[key].times(100) for key in ("caption_top_10", "style_shown", "label_shown")}
    lines = {"kid": scores["kid"], "recall": scores["recall"]} | percent
    copied, unseen = report.copies.rate, report.copies.unseen_rate
    copies = {"value": 100 * copied, "margin": 196 * (copied * (1 - copied) / count) ** 0.5, "real": 100 * unseen}
    return {
        "model": model.name,
        "parameters": sum(each.numel() for each in painter.denoiser.network.parameters()),
        **{name: training[name] for name in ("hardware", "hours", "pictures_seen")},
        "core_hours": round(core_hours(training), 2),
        "scores": {key: {"value": each.value, "margin": each.margin, "real": each.floor} for key, each in lines.items()}
        | {"copies": copies},
    }


def scores(found: dict[str, Any]) -> str:
    """The last columns of its row in docs/text.md."""
    its = found["scores"]
    kid, caption = ("{value:.0f} ± {margin:.0f}".format(**its[key]) for key in ("kid", "caption_top_10"))
    style, label = (f"{its[key]['value']:.0f} %" for key in ("style_shown", "label_shown"))
    copies = "{value:.1f} ± {margin:.1f} %".format(**its["copies"])
    return f"{found['core_hours']:.2g} | {kid} | {its['recall']['value']:.2f} | {caption} % | {style} | {label} | {copies} |"


def plot(rows: list[dict[str, Any]], target: Path) -> None:
    """A panel a score; models of one size are joined, what real pictures have is dashed."""
    figure = Figure(figsize=(11, 3.4), dpi=100, layout="constrained")
    for axes, (key, name) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for size in sorted({each["parameters"] for each in rows}):
            some = sorted((each for each in rows if each["parameters"] == size), key=lambda each: float(each["core_hours"]))
            values = [each["scores"][key]["value"] for each in some]
            margins = [each["scores"][key]["margin"] for each in some]
            axes.errorbar([each["core_hours"] for each in some], values, margins, fmt="o-", capsize=3, label=f"{size / 1e6:.1f} M weights")
        axes.axhline(rows[0]["scores"][key]["real"], linestyle="--", color="0.5", label="real pictures")
        axes.set(xlabel="core-hours", xscale="log", ylabel=name, ylim=(0, None))
        axes.set_xticks([1, 3, 10, 30, 60], ["1", "3", "10", "30", "60"])
        axes.minorticks_off()
    figure.axes[0].legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("held", "train"):
        parser.add_argument(name, type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=300, help="captions of `held`, evenly chosen")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for model in options.models:
        rows.append(judged(model, options.held, options.train, options.count))
        print("|", model.name, "|", scores(rows[-1]), flush=True)
        report = {"machine": machine.describe(), "count": options.count, "models": rows}
        TARGET.write_text(json.dumps(report, indent=1, default=float) + "\n")
    plot(rows, PLOT)


if __name__ == "__main__":
    main()
