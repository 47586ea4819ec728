"""What a snapshot shows: a sheet of pictures, and how many of those it painted look like pictures it learnt from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.data.picture_set import Pictures
from bowerbird.evaluate.copies import ROWS, Thumbnails, nearest_thumbnails, thumbnails
from bowerbird.pages import contact_sheet, png_bytes
from bowerbird.pixels import Pixels

MAX_UNSEEN = 200  # held-out pictures that are compared, too


@dataclass(frozen=True)
class Grid:
    """png: the sheet; painted: (N, H, W, 3), or None where pictures are reconstructed or enlarged, which is to stay near them."""

    png: bytes
    painted: Pixels | None = None


def painted_grid(pixels: Pixels) -> Grid:
    """A square of painted pictures, (N, H, W, 3)."""
    return Grid(png_bytes(contact_sheet([Image.fromarray(one) for one in pixels], columns=max(1, round(len(pixels) ** 0.5)))), pixels)


def count_copies(grid: Grid, pictures: Pictures) -> dict[str, int]:
    """How many of the painted pictures look like copies of training pictures, and how many held-out ones do; {} where there is no telling.

    By thumbnails alone: `bowerbird evaluate` also compares features.
    """
    if grid.painted is None or len(pictures.train) < 2:  # nothing lies around the nearest
        return {}
    train, unseen = (_thumbnails_of(pictures, rows) for rows in (pictures.train, pictures.held[:MAX_UNSEEN]))
    found = {"painted": len(grid.painted), "copied": int(nearest_thumbnails(thumbnails(grid.painted), train).copied.sum())}
    if len(unseen):
        found |= {"unseen": len(unseen), "unseen_copied": int(nearest_thumbnails(unseen, train).copied.sum())}
    return found


def _thumbnails_of(pictures: Pictures, rows: NDArray[np.int64]) -> Thumbnails:
    """A few pictures at a time, because they may be more than memory holds."""
    parts = [thumbnails(pictures.pixels[rows[start : start + ROWS]]) for start in range(0, max(1, len(rows)), ROWS)]
    return np.concatenate(parts)
