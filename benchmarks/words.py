"""What guidance does to a model of words, and the same things in eight styles: a table, a plot and a sheet for docs/text.md.

    python -m benchmarks.words MODEL PICTURES SPLITS    minutes on one core; --count, --out

For each guidance the model paints by the captions of the split `held`, from the same noise, and is judged as `bowerbird evaluate` judges.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.pictures import read_column
from bowerbird.comparison import Comparison
from bowerbird.data import open_pictures
from bowerbird.evaluate import metrics
from bowerbird.evaluate.judge import PictureSet, by_class, by_words, paint_like
from bowerbird.evaluate.metrics import Score
from bowerbird.evaluate.report import number
from bowerbird.generate import open_model
from bowerbird.models.features import Features, extract
from bowerbird.painter import OwnPainter
from bowerbird.request import PaintRequest

GUIDANCE = (1.0, 1.5, 2.5, 4.0, 6.0)
SHOWN = ("caption_top_1", "caption_top_5", "caption_top_10", "style_shown", "label_shown")
STYLES = (
    *("clip art", "noto emoji", "noto v1 blob emoji", "3D fluent emoji"),
    *("flat fluent emoji", "fluent emoji", "firefox emoji", "streamline emoji"),
)
SUBJECTS = ("a red heart", "a smiling face", "a woman with red hair", "a cat face", "a bird", "a red car", "a green tree", "a clock")
SIZE, SEED = 64, 1


def held(pictures: Path, splits: Path) -> PictureSet:
    """The pictures that nothing trained on, with labels and captions."""
    split_of = read_column(splits, "split")
    found = open_pictures(pictures, SIZE, held_out=0.0)
    rows = [row for row, name in enumerate(found.names) if split_of.get(name) == "held" and found.captions[row]]
    labels = tuple([*found.label_names, ""][found.labels[row]] for row in rows)
    return PictureSet("held", np.ascontiguousarray(found.pixels[rows]), labels, tuple(found.captions[row][0] for row in rows))


def judged(painted: PictureSet, real: PictureSet, real_features: Features) -> dict[str, Score]:
    features = extract(painted.pixels)
    (kid,) = metrics.compare(metrics.kid, features, real_features)
    lines = [*by_words(painted, real, features, real_features), *by_class(painted, real, features, real_features)]
    return {"kid": kid.times(1000)} | {line.key: line.score for line in lines if line.key in SHOWN}


def row(guidance: float, scores: dict[str, Score]) -> str:
    """A row of the table; in brackets a share of what real pictures reach."""
    shares = (f"{score.value:.1%} ({score.value / score.floor:.0%})" for key, score in scores.items() if key != "kid")
    return " | ".join([f"| {guidance:g}", number(scores["kid"].value, scores["kid"].margin), *shares]) + " |"


def plot(found: dict[float, dict[str, Score]], target: Path) -> None:
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for key, name in (("caption_top_10", "caption in the best ten"), ("style_shown", "style"), ("label_shown", "label")):
        axes.plot(list(found), [100 * scores[key].value / scores[key].floor for scores in found.values()], "o-", label=f"{name}, % of real")
    axes.set(xlabel="guidance", ylabel="% of what real pictures reach", ylim=(0, None))
    other = axes.twinx()
    kid = [scores["kid"] for scores in found.values()]
    other.errorbar(
        list(found), [s.value for s in kid], [s.margin for s in kid], fmt="s--", color="0.5", capsize=3, label="KID x1000 (right)"
    )
    other.set(ylabel="KID x1000 (lower is better)", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(target, quality=90)


def styles(painter: OwnPainter, target: Path) -> None:
    """Rows of things, columns of styles, each row from the same noise."""
    asked = tuple(PaintRequest(model="model", prompt=f"{style} of {what}", seed=SEED) for what, style in product(SUBJECTS, STYLES))
    painted: list[Image.Image] = []
    for start in range(0, len(asked), len(STYLES)):
        painted += [one.picture for _, some in painter.paint_together(asked[start : start + len(STYLES)]) for one in some]
    Comparison(asked, STYLES, SUBJECTS).sheet([each.resize((96, 96), Image.Resampling.LANCZOS) for each in painted]).save(
        target, quality=90
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind in (("model", str), ("pictures", Path), ("splits", Path)):
        parser.add_argument(name, type=kind)
    parser.add_argument("--count", type=int, default=200, help="captions of `held`, evenly chosen")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/pictures")
    options = parser.parse_args()
    started = time.process_time()
    painter = open_model(options.model, torch.device("cpu"))
    assert isinstance(painter, OwnPainter)
    styles(painter, options.out / "words-styles.webp")
    real = held(options.pictures, options.splits)
    real_features = extract(real.pixels)
    print("| guidance | KID x1000 | own caption in the best 1 | best 5 | best 10 | style | label |\n|---|---|---|---|---|---|---|")
    found, usual = dict[float, dict[str, Score]](), painter.sampling
    for guidance in GUIDANCE:
        painter.sampling = usual.model_copy(update={"guidance": guidance})
        found[guidance] = judged(paint_like(painter, real, options.count, SEED), real, real_features)
        print(row(guidance, found[guidance]), flush=True)
    floors = [f"{found[GUIDANCE[0]][key].floor:.1%}" for key in SHOWN]
    kid = found[GUIDANCE[0]]["kid"]
    print(" | ".join(["| real pictures", number(kid.floor, kid.floor_margin), *floors]) + " |")
    plot(found, options.out / "words-guidance.webp")
    print(f"{options.count} captions, {(time.process_time() - started) / 60:.1f} minutes of one core")


if __name__ == "__main__":
    main()
