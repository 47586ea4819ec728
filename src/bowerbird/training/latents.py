"""Every training picture encoded once: a memory-mapped file in the cache, half precision, mean and standard deviation.

One folder for each autoencoder, shape and fit; a row for each content, so a picture that changed is a new row, one that was
added costs one row, and a second run starts at once.  An encoding that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bowerbird.cache import cache_root, lock
from bowerbird.data.decode import Shape
from bowerbird.data.picture_set import Pictures
from bowerbird.data.previews import decode_shaped
from bowerbird.errors import RecipeError, ResourceError
from bowerbird.models.autoencoder import Autoencoder, LatentSpace, Scale
from bowerbird.pixels import to_x0
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.recipe import Recipe
from bowerbird.storage import require_free
from bowerbird.training.batches import Mirrors, noise

SHA256_HEX = 64  # letters
CHUNK_PIXELS = 2**20  # pictures encoded together; memory of one 1024 px picture
DECODED_CHUNKS = 16  # of which the pixels are in memory at a time
Rows = NDArray[np.float16]  # (N, sides, 2, C, h, w): each side (as it is, mirrored), mean and standard deviation


class LatentSamples:
    """Latents drawn anew from each picture's Gaussian, scaled to mean 0 and standard deviation 1, or as `published` says: (mean, std).

    shape: of a square's.  Where pictures keep their shapes, those that are asked for together are of one.
    """

    def __init__(
        self, store: LatentStore, pictures: Pictures, on_progress: OnProgress | None = None, published: Scale | None = None
    ) -> None:
        self.store, self.recipe, self.mirrored = store, store.recipe, Mirrors(pictures, store.recipe)
        used = np.concatenate([pictures.train, pictures.held])
        self.shapes = store.shapes(pictures)
        self.kept: dict[Shape, tuple[Rows, NDArray[np.int64]]] = {}
        for wide, high in np.unique(self.shapes[used], axis=0).tolist():
            those = used[(self.shapes[used] == (wide, high)).all(1)]
            self.kept[wide, high] = store.of_shape((wide, high)).encoded(pictures, those, on_progress)
        mean, std = published or scale(*self.rows_of(pictures.train))
        self.space = LatentSpace(store.autoencoder, mean, std).to(store.device)
        self.shape: tuple[int, int, int] = store.row_shape[2:]

    def rows_of(self, chosen: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
        """Rows of the shape that the chosen pictures have, and which of them are theirs."""
        rows, row_of = self.kept[tuple(self.shapes[chosen[0]].tolist())]
        return rows, row_of[chosen]

    def preparation_seconds(self, pictures: Pictures) -> float:
        return self.store.seconds(pictures)

    def drawn(self, chosen: NDArray[np.int64], samples: NDArray[np.int64]) -> Tensor:
        seed = self.recipe.data.seed
        side = self.mirrored(chosen, samples).astype(np.int64)
        rows, numbers = self.rows_of(chosen)
        mean, std = torch.from_numpy(rows[numbers, side].astype(np.float32)).unbind(1)
        return self._scaled(mean + std * noise(seed, "latent noise", samples, tuple(mean.shape[1:])))

    def plain(self, chosen: NDArray[np.int64]) -> Tensor:
        rows, numbers = self.rows_of(chosen)
        return self._scaled(torch.from_numpy(rows[numbers, 0, 0].astype(np.float32)))

    def _scaled(self, latents: Tensor) -> Tensor:
        return (latents - self.space.mean.cpu()) / self.space.std.cpu()


class LatentStore:
    """The folder of the cache that holds what one autoencoder makes of pictures of one shape and fit."""

    def __init__(self, recipe: Recipe, autoencoder: Autoencoder, device: torch.device) -> None:
        size, factor = recipe.data.size, autoencoder.factor
        if size % factor:
            raise RecipeError(f"data.size = {size} is no multiple of {factor}, the factor of {recipe.model.autoencoder!r}.")
        self.recipe, self.autoencoder, self.device = recipe, autoencoder, device
        self.key = fingerprint(autoencoder)
        self.sides = 2 if recipe.data.flip else 1
        self._take_shape((size, size), str(size))

    def of_shape(self, shape: Shape) -> LatentStore:
        """The one beside this that holds pictures of that shape."""
        if self.recipe.data.fit != "shape":
            return self
        other = copy.copy(self)
        other._take_shape(shape, f"{shape[0]}x{shape[1]}")
        return other

    def _take_shape(self, shape: Shape, name: str) -> None:
        factor, fit = self.autoencoder.factor, self.recipe.data.fit
        self.row_shape = (self.sides, 2, self.autoencoder.channels, shape[1] // factor, shape[0] // factor)
        self.row_bytes = 2 * math.prod(self.row_shape)
        self.chunk = max(1, CHUNK_PIXELS // (shape[0] * shape[1]))
        self.folder = cache_root() / "latents" / f"{self.key}-{name}-{fit}{'-sides' * self.recipe.data.flip}"
        self.data, self.contents = self.folder / "latents.f16", self.folder / "contents.txt"

    def shapes(self, pictures: Pictures) -> NDArray[np.int64]:
        """Width and height, (n, 2), at which each picture is encoded."""
        size = self.recipe.data.size
        return pictures.shapes(size) if self.recipe.data.fit == "shape" else np.full((len(pictures.examined), 2), size, np.int64)

    def seconds(self, pictures: Pictures) -> float:
        """What it will take to encode those of `pictures` that are not there yet, from the time that a square one takes."""
        shapes, missing = self.shapes(pictures), 0
        for shape in np.unique(shapes, axis=0):
            those = np.flatnonzero((shapes == shape).all(1))
            missing += len({pictures.examined[index].sha256 for index in those} - set(self.of_shape(tuple(shape.tolist()))._known()))
        began = time.monotonic()
        self._rows_of(pictures.pixels[[0]])
        return missing * (time.monotonic() - began)

    def encoded(self, pictures: Pictures, used: NDArray[np.int64], on_progress: OnProgress | None) -> tuple[Rows, NDArray[np.int64]]:
        """All rows, and for each of the pictures `used` the number of its row; what is missing is encoded first."""
        try:
            with contextlib.closing(lock(self.folder, on_progress)):
                known = self._fill(pictures, used, on_progress)
        except OSError as error:
            raise ResourceError(
                f"latents cannot be kept in {str(self.folder)!r}: {error.strerror}. Make room, or set BOWERBIRD_CACHE."
            ) from error
        places = {content: row for row, content in enumerate(known)}
        row_of = np.array([places.get(one.sha256, -1) for one in pictures.examined], np.int64)
        return np.memmap(self.data, np.float16, mode="r", shape=(len(known), *self.row_shape)), row_of

    def _known(self) -> list[str]:
        """Contents whose rows have reached the disk: each stands in the list since."""
        lines = self.contents.read_text().splitlines() if self.contents.exists() else []
        return [line for line in lines if len(line) == SHA256_HEX][
            : self.data.stat().st_size // self.row_bytes if self.data.exists() else 0
        ]

    def _fill(self, pictures: Pictures, used: NDArray[np.int64], on_progress: OnProgress | None) -> list[str]:
        known = self._known()
        present = set(known)
        missing = [index for index in used.tolist() if pictures.examined[index].sha256 not in present]
        if missing:
            require_free(self.folder, len(missing) * self.row_bytes, f"keeping {len(missing):,} encoded pictures")
            self.contents.write_text("".join(f"{content}\n" for content in known))  # without a half line from a kill
        block = DECODED_CHUNKS * self.chunk
        for start in range(0, len(missing), block):
            pixels = self.pixels(pictures, missing[start : start + block])
            for at in range(0, len(pixels), self.chunk):
                tell(on_progress, Progress("encode", start + at, len(missing)))
                new = [pictures.examined[index].sha256 for index in missing[start + at : start + at + self.chunk]]
                _write_at(self.data, len(known) * self.row_bytes, self._rows_of(pixels[at : at + self.chunk]).tobytes())
                _write_at(self.contents, self.contents.stat().st_size, "".join(f"{content}\n" for content in new).encode())
                known += new
        return known

    def pixels(self, pictures: Pictures, indices: list[int]) -> NDArray[np.uint8]:
        """Those pictures as they are encoded, (n, h, w, 3)."""
        if self.recipe.data.fit == "shape":
            return decode_shaped(pictures, indices, self.recipe.data.size)
        return pictures.pixels[indices]

    @torch.inference_mode()
    def _rows_of(self, pixels: NDArray[np.uint8]) -> Rows:
        x0 = to_x0(pixels).to(self.device)
        both = [torch.stack(self.autoencoder.encode(x0.flip(-1) if mirror else x0), dim=1) for mirror in range(self.sides)]
        return torch.stack(both, dim=1).half().cpu().numpy()


def fingerprint(autoencoder: Autoencoder) -> str:
    """Of the kind, the settings and every weight."""
    digest = hashlib.sha256(json.dumps(autoencoder.config(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(autoencoder.saved.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def scale(rows: Rows, chosen: NDArray[np.int64]) -> Scale:
    """Mean and standard deviation of each channel over latents drawn from the chosen rows, a row at a time.

    The variance of a draw is that of the means and the mean of the variances.
    """
    total = np.zeros((2, rows.shape[3]))
    for row in chosen:
        mean, std = rows[row].astype(np.float64).swapaxes(0, 1)  # each (sides, C, h, w)
        total[0] += mean.mean((0, 2, 3))
        total[1] += (mean**2 + std**2).mean((0, 2, 3))
    mean, squares = total / max(1, len(chosen))
    return mean.tolist(), np.sqrt(np.maximum(squares - mean**2, 1e-12)).tolist()


def _write_at(path: Path, at: int, data: bytes) -> None:
    """Write at byte `at`, over whatever an interrupted write left there, and wait for the disk."""
    with path.open("r+b" if path.exists() else "xb") as file:
        file.seek(at)
        file.write(data)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
