"""What a picture shows, in the words of pictures that are described already, or of a captioner.

words_for(pictures, like, captioner)    by one or the other of these two
describe(pictures, like)          the captions of the nearest pictures in `like`, for models that learnt from those captions
describe_with(pictures, captioner)    what a captioner says
readable(pictures)                those that can be read, and what to say of the others
pictures_of(run)                  the pictures a run was trained on
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bowerbird.captioning import Captioner, captions_of
from bowerbird.data.pictures import open_pictures
from bowerbird.errors import PictureFolderError, RequestError
from bowerbird.models.features import SECOND_OPINION, extract
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.reading import read_json
from bowerbird.repaint import open_picture

if TYPE_CHECKING:
    from bowerbird.pretrained.hub import Ask

SIDE_PX = 128  # what is compared: enough to tell subjects apart, a third of the work of full size
_FLAT = 1e-6
_MAX_RECORD_BYTES = 2**28  # of a run: it names every file it found


@dataclass(frozen=True)
class Caption:
    """Words for a picture.  `likeness`, -1 to 1, is that of the picture they were written for; 1 for what was looked at itself."""

    text: str
    likeness: float = 1.0


@dataclass(frozen=True)
class Described:
    picture: Path
    captions: tuple[Caption, ...]  # the best first


def words_for(
    pictures: Sequence[Path],
    like: Path | None,
    captioner: str | None,
    count: int,
    device: torch.device,
    offline: bool = False,
    ask: Ask | None = None,
    on_progress: OnProgress | None = None,
) -> list[Described]:
    """As people ask for it: in the words of a run's or a folder's pictures, or of a captioner, which may be a name on a hub."""
    if like is not None:
        return describe(pictures, pictures_of(like), count, device, on_progress)
    from bowerbird.pretrained.captioner import open_captioner

    looks = open_captioner(str(captioner), device, offline, ask)
    return describe_with(pictures, looks, looks.size, on_progress)


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
        pixels = np.array(open_picture(picture).resize((size, size), Image.Resampling.BICUBIC))  # a copy: torch wants no read-only one
        described.append(Described(picture, (Caption(captioner(pixels[None])[0]),)))
    return described


def readable(pictures: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Those of many that can be read as pictures, and a sentence for each of the others; PictureFolderError when none can."""
    sound, problems = list[Path](), list[str]()
    for picture in pictures:
        try:
            open_picture(picture)
            sound.append(picture)
        except PictureFolderError as error:
            problems.append(str(error))
    if not sound:
        raise PictureFolderError(problems[0])
    return sound, problems


def pictures_of(like: Path) -> Path:
    """The pictures a run was trained on, or the folder itself."""
    record = like / "data.json"
    if not (like / "run.json").is_file() or not record.is_file():
        return like
    try:
        known = read_json(record, _MAX_RECORD_BYTES)
        source = Path(str(known.get("place", known["source"])))  # runs of earlier versions know the name alone
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RequestError(f"{str(record)!r} is damaged. Name the folder of captioned pictures itself.") from error
    if not source.exists():
        raise RequestError(f"the pictures {str(like)!r} was trained on lay in {str(source)!r} and are gone. Name their folder.")
    return source


def _square(picture: Image.Image) -> NDArray[np.uint8]:
    """As training crops it: the middle, the shorter side scaled to the square's."""
    return np.asarray(ImageOps.fit(picture, (SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))


def _directions(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row divided by its length."""
    directions: NDArray[np.float32] = (features / (np.linalg.norm(features, axis=1, keepdims=True) + _FLAT)).astype(np.float32)
    return directions
