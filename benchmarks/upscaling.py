"""Upscalers side by side: held-out pictures of 256 pixels, shrunk to 64 and enlarged again, drawings and photographs apart."""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bowerbird.enlarge import Enlarger
from bowerbird.evaluate import metrics
from bowerbird.evaluate.reconstruction import compare_pairs
from bowerbird.generate import open_model
from bowerbird.models.features import extract
from bowerbird.pages import contact_sheet
from bowerbird.pixels import Pixels

SIZE_PX, SMALL_PX = 256, 64
PHOTOGRAPHS = "gcompris"  # how the source of photographs begins in the table of pictures
FINEST = (256, 128)
SHOWN = 8

Enlarge = Callable[[Image.Image], Image.Image]


def upscaling(options: argparse.Namespace) -> dict[str, Any]:
    """Plain scaling, and each --upscaler NAME=MODEL as it is and consistent, judged against the pictures themselves."""
    real, photographs = held_pictures(options.pictures, options.splits)
    small = [Image.fromarray(pixels).resize((SMALL_PX, SMALL_PX), Image.Resampling.BICUBIC) for pixels in real]
    rows, columns = [], {}
    for name, enlarge in entrants(options.upscaler).items():
        started = time.process_time()
        found = np.stack([np.asarray(enlarge(picture)) for picture in small])
        seconds = (time.process_time() - started) / len(small)
        columns[name] = found
        for what, chosen in (("all", photographs | True), ("drawings", ~photographs), ("photographs", photographs)):
            rows.append({"upscaler": name, "of": what, "cpu_seconds": seconds, **scores(found[chosen], real[chosen])})
            print(rows[-1], flush=True)
    if options.sheet:
        sheet([np.stack([np.asarray(one.resize((SIZE_PX, SIZE_PX), Image.Resampling.NEAREST)) for one in small]), *columns.values(), real],
              photographs).save(options.sheet, quality=85)  # fmt: skip
    return {"name": "upscaling", "size": SIZE_PX, "from": SMALL_PX, "pictures": len(real), "rows": rows}


def held_pictures(pictures: Path, splits: Path) -> tuple[Pixels, np.ndarray[Any, np.dtype[np.bool_]]]:
    """The pictures of the split `held` at 256 pixels, and which of them are photographs."""
    with splits.open(newline="", encoding="utf-8") as file:
        held = {row["file_name"] for row in csv.DictReader(file) if row["split"] == "held"}
    with (pictures / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["file_name"] in held]
    opened = (Image.open(pictures / row["file_name"]).convert("RGB") for row in rows)
    pixels = np.stack([np.asarray(each.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)) for each in opened])
    return pixels, np.array([row["source"].startswith(PHOTOGRAPHS) for row in rows])


def entrants(models: list[str]) -> dict[str, Enlarge]:
    """What enlarges, by name."""
    found: dict[str, Enlarge] = {
        name: lambda picture, how=how: picture.resize((SIZE_PX, SIZE_PX), how)  # type: ignore[misc]
        for name, how in (("bicubic", Image.Resampling.BICUBIC), ("Lanczos", Image.Resampling.LANCZOS))
    }
    for word in models:
        name, _, where = word.partition("=")
        painter = open_model(where or name, torch.device("cpu"))
        assert isinstance(painter, Enlarger)
        found[name] = painter.enlarge
        found[f"{name}, consistent"] = lambda picture, painter=painter: painter.enlarge(picture, consistent=True)  # type: ignore[misc]
    return found


def scores(found: Pixels, real: Pixels) -> dict[str, Any]:
    """KID x1000 and the finest sliced Wasserstein distances x1000 with 95 % margins; PSNR, SSIM, and PSNR at the small size."""
    (kid,) = metrics.compare(metrics.kid, extract(found), extract(real), paired=True)
    one, other = metrics.laplacian_patches(found), metrics.laplacian_patches(real)
    found_scores = {"kid": kid} | {
        f"swd_{side}": metrics.compare(metrics.sliced_wasserstein, one[side], other[side], paired=True)[0] for side in FINEST
    }
    pairs = compare_pairs(found, real, SMALL_PX)
    margins = {name: {"value": 1000 * score.value, "margin": 1000 * score.margin} for name, score in found_scores.items()}
    return {"pictures": len(found), **margins, "psnr": pairs.psnr, "ssim": pairs.ssim, "consistency": pairs.consistency}


def sheet(columns: list[Pixels], photographs: np.ndarray[Any, np.dtype[np.bool_]]) -> Image.Image:
    """A row for each of some drawings and photographs, a column for each upscaler, the small picture first and the true one last."""
    drawings, photos = (np.flatnonzero(which) for which in (~photographs, photographs))
    half = SHOWN // 2
    chosen = [*drawings[:: max(1, len(drawings) // half)][:half], *photos[:: max(1, len(photos) // half)][:half]]
    return contact_sheet([Image.fromarray(column[row]) for row in chosen for column in columns], columns=len(columns))
