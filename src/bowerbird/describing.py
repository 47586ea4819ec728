"""What a picture shows, in the words of pictures that are described already, or of a captioner.

describe(pictures, like)          the captions of the nearest pictures in `like`, for models that learnt from those captions
describe_with(pictures, captioner)    what a captioner says
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bowerbird.captioning import Captioner, captions_of
from bowerbird.data.pictures import open_pictures
from bowerbird.models.features import SECOND_OPINION, extract
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.repaint import open_picture

SIDE_PX = 128  # what is compared: enough to tell subjects apart, a third of the work of full size
_FLAT = 1e-6


@dataclass(frozen=True)
class Caption:
    """Words for a picture.  `likeness`, -1 to 1, is that of the picture they were written for; 1 for what was looked at itself."""

    text: str
    likeness: float = 1.0


@dataclass(frozen=True)
class Described:
    picture: Path
    captions: tuple[Caption, ...]  # the best first


def describe(
    pictures: Sequence[Path], like: Path, count: int = 3, device: torch.device | None = None, on_progress: OnProgress | None = None
) -> list[Described]:
    """Up to `count` different captions for each picture: those of the nearest captioned (or labelled) pictures in the folder `like`.

    Near by the cosine of EfficientNet-Lite0's features, each feature standardised over `like`.  PictureFolderError when `like`
    holds no words, or a picture cannot be read.
    """
    known = open_pictures(like, SIDE_PX, on_progress=on_progress)
    texts = captions_of(known).texts
    shown = np.stack([_square(open_picture(picture)) for picture in pictures])
    features = extract(known.pixels, SECOND_OPINION, device, on_progress, SIDE_PX)
    mean, std = features.mean(0), features.std(0) + _FLAT
    likeness = (
        _directions((extract(shown, SECOND_OPINION, device, on_progress, SIDE_PX) - mean) / std) @ _directions((features - mean) / std).T
    )
    described = []
    for picture, row in zip(pictures, likeness, strict=True):
        found: dict[str, float] = {}
        for nearest in np.argsort(-row, kind="stable"):
            if len(found) == count:
                break
            if texts[nearest]:
                found.setdefault(texts[nearest][0], float(row[nearest]))
        described.append(Described(picture, tuple(Caption(text, round(near, 4)) for text, near in found.items())))
    return described


def describe_with(pictures: Sequence[Path], captioner: Captioner, size: int, on_progress: OnProgress | None = None) -> list[Described]:
    """What a captioner says of each picture, which it sees whole, stretched over a square of `size` pixels."""
    described = []
    for number, picture in enumerate(pictures):
        tell(on_progress, Progress("describe", number, len(pictures)))
        pixels = np.asarray(open_picture(picture).resize((size, size), Image.Resampling.BICUBIC))
        described.append(Described(picture, (Caption(captioner(pixels[None])[0]),)))
    return described


def _square(picture: Image.Image) -> NDArray[np.uint8]:
    """As training crops it: the middle, the shorter side scaled to the square's."""
    return np.asarray(ImageOps.fit(picture, (SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))


def _directions(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row divided by its length."""
    directions: NDArray[np.float32] = (features / (np.linalg.norm(features, axis=1, keepdims=True) + _FLAT)).astype(np.float32)
    return directions
