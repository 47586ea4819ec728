"""Proof: a model trained from nothing paints what words say, in combinations it never saw.

    python proofs/text.py    writes proof/text.json and proof/text.png, what it painted; about an hour of one core

Pictures drawn by rule, 32x32: a shape, its colour, its place and its size vary, "a small red circle at the top left".  A quarter of
the 360 combinations is kept from training, though each shape, colour, place and size is seen in others.  What is painted for those is
read by a rule of geometry, which reads every drawing rightly; by another's prompt, it must be right as often as chance has it.
"""

from __future__ import annotations

import csv
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bowerbird import load
from bowerbird.pages import contact_sheet
from bowerbird.recipe import read_recipe
from bowerbird.request import PaintRequest
from bowerbird.training import train

PROOF = Path(__file__).parent.parent / "proof"
SIDE, FINER = 32, 8  # pixels; drawn finer and shrunk, so that edges are smooth
COLOURS = {
    "red": (210, 40, 40),
    "orange": (240, 150, 40),
    "green": (40, 150, 60),
    "blue": (50, 80, 210),
    "purple": (140, 50, 160),
    "black": (30, 30, 30),
}
PLACES = {
    "at the top left": (9, 9),
    "at the top right": (23, 9),
    "in the middle": (16, 16),
    "at the bottom left": (9, 23),
    "at the bottom right": (23, 23),
}
SIZES = {"small": 4.0, "medium": 5.5, "large": 7.5}  # half the side, pixels
SHAPES = ("circle", "square", "triangle", "cross")
GEOMETRY = {"circle": (np.pi, 0.0), "square": (4.0, 0.0), "triangle": (2.0, 1 / 3), "cross": (20 / 9, 0.0)}  # area, centroid, for half = 1
FAINT = 1 / 8  # of the contrast: a ground that is not quite even is no part of the shape, though there is much of it
SEEN_OF_EACH, PAINTED_OF_EACH = 14, 4
GOALS = {"colour": 0.95, "place": 0.95, "size": 0.95, "shape": 0.90, "all four": 0.80}
MOST_MINUTES = 60  # of processor time, for the training: half an hour of two cores
RECIPE = "pixel-32-cpu"  # pixels: the bundled autoencoder's latents of so small pictures blur the shapes
SETTINGS = [
    "condition.text=true",
    "data.held_out=0.05",
    "train.pictures=130_000",
    "sample.guidance=2",
    "diffusion.location=1.5",  # a place shows through noise that hides outlines: only above that is it read from the words
]


class Said(NamedTuple):
    """What a picture shows."""

    size: str
    colour: str
    shape: str
    place: str

    def caption(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} {self.place}"


EVERY = [Said(*each) for each in itertools.product(SIZES, COLOURS, SHAPES, PLACES)]


def outline(shape: str, x: float, y: float, half: float) -> list[tuple[float, float]]:
    """The corners of a shape around (x, y) that reaches `half` to each side."""
    if shape == "circle":
        around = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        corners = np.stack([np.cos(around), np.sin(around)], 1)
    elif shape == "cross":
        a = 1 / 3
        corners = np.array([(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)])
    else:
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)] if shape == "square" else [(0, -1), (1, 1), (-1, 1)])
    return [(x + half * a, y + half * b) for a, b in corners.tolist()]


def drawing(said: Said, luck: np.random.Generator) -> Image.Image:
    """One of the many pictures of which it can be said: place, size, colour and ground vary a little."""
    (x, y), half = PLACES[said.place] + luck.uniform(-1.5, 1.5, 2), SIZES[said.size] * luck.uniform(0.92, 1.08)
    ground, colour = int(luck.integers(225, 256)), np.clip(COLOURS[said.colour] + luck.integers(-12, 13, 3), 0, 255)
    finer = Image.new("RGB", (SIDE * FINER, SIDE * FINER), (ground, ground, ground))
    corners = [(a * FINER, b * FINER) for a, b in outline(said.shape, float(x), float(y), float(half))]
    ImageDraw.Draw(finer).polygon(corners, fill=tuple(colour.tolist()))
    return finer.resize((SIDE, SIDE), Image.Resampling.BOX)


def uneven(picture: Image.Image, luck: np.random.Generator) -> Image.Image:
    """The picture with faint noise, as painted ones have it: it says the same."""
    pixels = np.asarray(picture, np.float64)
    return Image.fromarray(np.clip(np.rint(pixels + luck.normal(0, 4, pixels.shape)), 0, 255).astype(np.uint8))


def read(picture: Image.Image) -> Said | None:
    """What a picture shows, by geometry; None where nothing stands out from the ground."""
    pixels = np.asarray(picture.convert("RGB"), np.float64)
    ground = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    away = np.abs(pixels - ground).max(2)
    if away.max() < 60:
        return None
    cover = np.clip(away / np.median(away[away > away.max() / 2]), 0, 1)  # how much of each pixel the shape covers
    cover[cover < FAINT] = 0
    colour = np.median(pixels[cover > 0.8], axis=0)
    fits = {shape: fit(shape, cover) for shape in SHAPES}
    shape = min(SHAPES, key=lambda name: disagreement(name, *fits[name], cover))
    x, y, half = fits[shape]
    return Said(
        min(SIZES, key=lambda size: abs(np.log(SIZES[size] / half))),
        min(COLOURS, key=lambda name: float(np.square(COLOURS[name] - colour).sum())),
        shape,
        min(PLACES, key=lambda place: float(np.square(np.subtract(PLACES[place], (x, y))).sum())),
    )


def fit(shape: str, cover: NDArray[np.float64]) -> tuple[float, float, float]:
    """x, y, half of the one drawing of a shape that has the area and the centroid of what is there."""
    area, centroid_y = GEOMETRY[shape]
    half = float(np.sqrt(cover.sum() / area))
    row, column = (float((np.arange(SIDE) + 0.5) @ cover.sum(other) / cover.sum()) for other in (1, 0))
    return column, row - half * centroid_y, half


def disagreement(shape: str, x: float, y: float, half: float, cover: NDArray[np.float64]) -> float:
    """Sum of squares over pixels."""
    finer = Image.new("L", (SIDE * FINER, SIDE * FINER))
    ImageDraw.Draw(finer).polygon([(a * FINER, b * FINER) for a, b in outline(shape, x, y, half)], fill=255)
    return float(np.square(np.asarray(finer.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255 - cover).sum())


def shares(asked: Sequence[Said], shown: Sequence[Said | None]) -> dict[str, float]:
    """How often each is right, and how often all four are."""
    right = np.array([[is_ and is_[part] == wanted[part] for part in range(4)] for wanted, is_ in zip(asked, shown, strict=True)], bool)
    return {**dict(zip(Said._fields, right.mean(0).tolist(), strict=True)), "all four": float(right.all(1).mean())}


def by_chance(asked: Sequence[Said], shown: Sequence[Said | None]) -> dict[str, float]:
    """How often each is right where what is shown has nothing to do with what is asked: over all pairs of the two."""
    pairs = list(itertools.product(asked, shown))
    return shares(*zip(*pairs, strict=True))


def draw_all(seen: Sequence[Said], folder: Path, luck: np.random.Generator) -> None:
    rows, specks = [], np.random.default_rng(1)
    for number, said in enumerate(each for each in seen for _ in range(SEEN_OF_EACH)):
        picture = drawing(said, luck)
        for seen_as in (picture, uneven(picture, specks)):
            assert read(seen_as) == said, f"{said.caption()} is read as {read(seen_as)}"
        picture.save(folder / f"{number:05d}.png")
        rows.append((f"{number:05d}.png", said.caption()))
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), *rows])


def main() -> None:
    PROOF.mkdir(exist_ok=True)
    luck = np.random.default_rng(0)
    order = luck.permutation(len(EVERY))
    unseen, seen = [EVERY[i] for i in sorted(order[:90])], [EVERY[i] for i in sorted(order[90:])]
    for values in zip(*unseen, strict=True):
        assert set(values) <= {value for said in seen for value in said}
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        draw_all(seen, pictures, luck)
        cpu = time.process_time()
        train(pictures, Path(folder, "run"), read_recipe(RECIPE, SETTINGS))
        minutes = (time.process_time() - cpu) / 60
        painter = load(str(Path(folder, "run")))
        asked = [said for said in unseen for _ in range(PAINTED_OF_EACH)]
        requests = [PaintRequest(prompt=said.caption(), count=PAINTED_OF_EACH, seed=PAINTED_OF_EACH * i) for i, said in enumerate(unseen)]
        painted = [one.picture for request in requests for one in painter.paint(request)]
    shown = [read(picture) for picture in painted]
    others = [asked[i] for i in luck.permutation(len(asked)).tolist()]
    report: dict[str, Any] = {
        "combinations": len(EVERY),
        "never seen": len(unseen),
        "painted": len(painted),
        "minutes of one core": round(minutes, 1),
        "right": shares(asked, shown),
        "against another's prompt": shares(others, shown),
        "by chance": by_chance(asked, shown),
    }
    (PROOF / "text.json").write_text(json.dumps(report, indent=1) + "\n")
    contact_sheet(painted[::PAINTED_OF_EACH], columns=15).save(PROOF / "text.png")
    print(json.dumps(report, indent=1))
    assert minutes <= MOST_MINUTES, f"{minutes:.0f} minutes, where {MOST_MINUTES} are the most"
    for name, goal in GOALS.items():
        assert report["right"][name] >= goal, f"{name}: {report['right'][name]:.1%} right, where {goal:.0%} is the goal"
        chance, found = report["by chance"][name], report["against another's prompt"][name]
        assert abs(found - chance) < 4 * np.sqrt(chance / len(painted)), (
            f"{name}: {found:.1%} right by another's prompt, {chance:.1%} by chance"
        )


if __name__ == "__main__":
    main()
