"""Are generated pictures new, or copies of training pictures?

A picture is a copy when it lies much nearer to one training picture than to the pictures around that one: its distance to
the nearest, divided by the mean distance to the next 50, is below 0.35.  Dividing by the neighbourhood follows Carlini et
al. 2023 (arXiv:2301.13188), and makes one threshold serve plain and busy pictures; the mean of 50, rather than the second
nearest alone, keeps a copy visible where the training set holds near-duplicates.

Distances are taken on 16-pixel thumbnails, also mirrored (which forgives noise and blur, and the flips of training), and
on features (which forgives a shift).  Thumbnails are compared by correlation: by plain differences, any drawing on white
lies near the whitest of a few training pictures.  The features are EfficientNet-Lite0's: the judge stays out of what a
training loop may look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from bowerbird.models.features import SECOND_OPINION, Features, extract
from bowerbird.pages import contact_sheet
from bowerbird.pixels import Pixels, to_tensor
from bowerbird.progress import OnProgress

THUMBNAIL_PX = 16
NEIGHBOURHOOD = 50
COPY_BELOW = 0.35  # what it finds, and what it flags wrongly: docs/lab-log.md, "what counts as a copy"
ROWS = 512  # queries compared at a time

Floats = NDArray[np.floating[Any]]
Thumbnails = Floats


@dataclass(frozen=True)
class Nearest:
    """For each query, its nearest training pictures.  All (N,)."""

    index: NDArray[np.int64]  # of the nearest
    distance: Floats  # to the nearest
    second: Floats  # to the second nearest
    around: Floats  # mean distance to the 50 after the nearest, or to as many as there are

    @property
    def ratio(self) -> Floats:
        """`distance / around`: near 0 for a copy, near 1 for a picture like many others."""
        return self.distance / np.maximum(self.around, 1e-12)

    @property
    def copied(self) -> NDArray[np.bool_]:
        return self.ratio < COPY_BELOW


def nearest(pixels: Pixels, train: Pixels) -> Nearest:
    """Nearest training pictures as the eye sees them.  pixels (N, H, W, 3), train (M, H, W, 3) uint8; M >= 2."""
    return nearest_thumbnails(thumbnails(pixels), thumbnails(train))


def nearest_thumbnails(queries: Thumbnails, train: Thumbnails) -> Nearest:
    """The same of what `thumbnails` made of them."""
    mirrored = train.reshape(-1, 3, THUMBNAIL_PX, THUMBNAIL_PX)[..., ::-1].reshape(train.shape)
    return _search(queries, [train, mirrored])


def nearest_by_features(features: Features, train: Features) -> Nearest:
    """Nearest training pictures by direction of their features, (N, d) and (M, d); M >= 2."""
    return _search(_unit(features), [_unit(train)])


def thumbnails(pixels: Pixels) -> Thumbnails:
    """(N, H, W, 3) uint8 -> (N, 768) of length 1, each colour with mean 0; squared distances are 2 - 2 correlation."""
    rows = [np.zeros((0, 3 * THUMBNAIL_PX**2), np.float32)]
    for start in range(0, len(pixels), ROWS):
        x = to_tensor(pixels[start : start + ROWS]).float()
        small = F.interpolate(x, (THUMBNAIL_PX, THUMBNAIL_PX), mode="bilinear", antialias=True)
        rows.append((small - small.mean((2, 3), keepdim=True)).flatten(1).numpy())
    return _unit(np.concatenate(rows))


def _unit(features: Floats) -> Floats:
    unit: Floats = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return unit


def _search(queries: Floats, views: Sequence[Floats]) -> Nearest:
    """Nearest rows; each training picture is as near as the nearest of its views."""
    count = len(views[0])
    around = min(NEIGHBOURHOOD, count - 1)
    found = []
    for start in range(0, len(queries), ROWS):
        rows = queries[start : start + ROWS]
        squared = np.min([(rows**2).sum(1)[:, None] + (view**2).sum(1) - 2 * rows @ view.T for view in views], axis=0)
        near = np.argpartition(squared, around, axis=1)[:, : around + 1]
        distances = np.sqrt(np.maximum(np.take_along_axis(squared, near, 1), 0))
        order = np.argsort(distances, axis=1)
        near, distances = np.take_along_axis(near, order, 1), np.take_along_axis(distances, order, 1)
        found.append((near[:, 0], distances[:, 0], distances[:, 1], distances[:, 1:].mean(1)))
    index, distance, second, mean = (np.concatenate(column) for column in zip(*found, strict=True))
    return Nearest(index.astype(np.int64), distance, second, mean)


@dataclass(frozen=True)
class Copies:
    """What was found about generated pictures, and about real ones that nobody trained on, for comparison."""

    by_pixels: Nearest
    by_features: Nearest
    unseen_by_pixels: Nearest
    unseen_by_features: Nearest

    @property
    def copied(self) -> NDArray[np.bool_]:
        """(N,): which generated pictures are copies, by pixels or by features."""
        return self.by_pixels.copied | self.by_features.copied

    @property
    def rate(self) -> float:
        return float(self.copied.mean())

    @property
    def unseen_rate(self) -> float:
        """Share of real, unseen pictures that the same test calls copies: near-duplicates, and the test's own error."""
        return float((self.unseen_by_pixels.copied | self.unseen_by_features.copied).mean())

    @property
    def nearer_than_unseen(self) -> float:
        """How often a generated picture lies nearer to the training set than an unseen real one, by features.

        One half for pictures that are as new as real ones (the area under the curve that Meehan et al. 2020,
        arXiv:2004.05675, test); 1 when all are drawn towards the training set.
        """
        unseen = np.sort(self.unseen_by_features.distance)
        return float(1 - np.searchsorted(unseen, self.by_features.distance).mean() / len(unseen))

    def closest(self, count: int) -> NDArray[np.int64]:
        """Rows of the generated pictures that are most like copies, most alike first."""
        return np.argsort(np.minimum(self.by_pixels.ratio, self.by_features.ratio))[:count]

    def original(self, row: int) -> int:
        """The training picture that generated picture `row` is most like."""
        pixels, features = self.by_pixels, self.by_features
        return int((pixels if pixels.ratio[row] <= features.ratio[row] else features).index[row])


def find_copies(generated: Pixels, train: Pixels, unseen: Pixels, on_progress: OnProgress | None = None) -> Copies:
    """Compare generated pictures with the training set, and with it real pictures that were not trained on.  All (., H, W, 3) uint8."""
    features = [extract(pixels, SECOND_OPINION, on_progress=on_progress) for pixels in (generated, train, unseen)]
    return Copies(
        by_pixels=nearest(generated, train),
        by_features=nearest_by_features(features[0], features[1]),
        unseen_by_pixels=nearest(unseen, train),
        unseen_by_features=nearest_by_features(features[2], features[1]),
    )


def closest_pairs(copies: Copies, generated: Pixels, train: Pixels, pairs: int = 32, columns: int = 8) -> Image.Image:
    """A contact sheet: generated pictures most like copies, each with its training picture to the right."""
    both = [picture for row in copies.closest(pairs) for picture in (generated[row], train[copies.original(int(row))])]
    return contact_sheet([Image.fromarray(picture) for picture in both], 2 * columns)
