"""Every training picture encoded once: a memory-mapped file in the cache, half precision, mean and standard deviation.

One folder for each autoencoder, size and fit; a row for each content, so a picture that changed is a new row, one that was
added costs one row, and a second run starts at once.  An encoding that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bowerbird.data.augment import mirrored
from bowerbird.data.cache import cache_root, lock
from bowerbird.data.pictures import Pictures
from bowerbird.errors import RecipeError, ResourceError
from bowerbird.models.autoencoder import Autoencoder, LatentSpace
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.recipe import Recipe
from bowerbird.storage import require_free
from bowerbird.training.batches import noise, to_x0

CHUNK_PIXELS = 2**20  # pictures encoded together; memory of one 1024 px picture
Rows = NDArray[np.float16]  # (N, sides, 2, C, h, w): each side (as it is, mirrored), mean and standard deviation


class LatentSamples:
    """Latents of mean 0 and standard deviation 1, drawn anew from each picture's Gaussian."""

    def __init__(self, rows: Rows, row_of: NDArray[np.int64], space: LatentSpace, key: str, recipe: Recipe) -> None:
        self.rows, self.row_of, self.space, self.key = rows, row_of, space, key
        self.seed, self.flip = recipe.data.seed, recipe.data.flip
        self.shape: tuple[int, int, int] = rows.shape[3:]

    def drawn(self, chosen: NDArray[np.int64], samples: NDArray[np.int64]) -> Tensor:
        side = mirrored(self.seed, samples).astype(np.int64) if self.flip else np.zeros(len(chosen), np.int64)
        mean, std = torch.from_numpy(self.rows[self.row_of[chosen], side].astype(np.float32)).unbind(1)
        return self._scaled(mean + std * noise(self.seed, "latent noise", samples, self.shape))

    def plain(self, chosen: NDArray[np.int64]) -> Tensor:
        return self._scaled(torch.from_numpy(self.rows[self.row_of[chosen], 0, 0].astype(np.float32)))

    def _scaled(self, latents: Tensor) -> Tensor:
        return (latents - self.space.mean.cpu()) / self.space.std.cpu()


def open_latents(
    pictures: Pictures, recipe: Recipe, autoencoder: Autoencoder, device: torch.device, on_progress: OnProgress | None = None
) -> LatentSamples:
    """The latents of all pictures, encoded where they are not in the cache yet, and the scale of the training set's."""
    size, fit = recipe.data.size, recipe.data.fit
    if size % autoencoder.factor:
        raise RecipeError(f"data.size = {size} is no multiple of {autoencoder.factor}, the factor of {recipe.model.autoencoder!r}.")
    key = fingerprint(autoencoder)
    folder = cache_root() / "latents" / f"{key}-{size}-{fit}{'-sides' * recipe.data.flip}"
    try:
        with contextlib.closing(lock(folder, on_progress)):
            rows, row_of = _encoded(folder, pictures, recipe, autoencoder, device, on_progress)
    except OSError as error:
        raise ResourceError(f"latents cannot be kept in {str(folder)!r}: {error.strerror}. Make room, or set BOWERBIRD_CACHE.") from error
    mean, std = scale(rows, row_of[pictures.train])
    return LatentSamples(rows, row_of, LatentSpace(autoencoder, mean, std).to(device), key, recipe)


def fingerprint(autoencoder: Autoencoder) -> str:
    """Of the kind, the settings and every weight."""
    digest = hashlib.sha256(json.dumps(autoencoder.config(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(autoencoder.saved.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def scale(rows: Rows, chosen: NDArray[np.int64]) -> tuple[list[float], list[float]]:
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


def _encoded(
    folder: Path, pictures: Pictures, recipe: Recipe, autoencoder: Autoencoder, device: torch.device, on_progress: OnProgress | None
) -> tuple[Rows, NDArray[np.int64]]:
    """All rows of the folder, and the row of each picture.

    A row counts once its content's hash stands in the list, which is written after the row has reached the disk.
    """
    sides = 2 if recipe.data.flip else 1
    side = recipe.data.size // autoencoder.factor
    shape = (sides, 2, autoencoder.channels, side, side)
    row_bytes = 2 * int(np.prod(shape))
    listed, data = folder / "contents.txt", folder / "latents.f16"
    contents = [one.sha256 for one in pictures.examined]
    known = [line for line in listed.read_text().splitlines() if len(line) == 64] if listed.exists() else []
    known = known[: data.stat().st_size // row_bytes if data.exists() else 0]
    present = set(known)
    missing = [index for index, content in enumerate(contents) if content not in present]
    if missing:
        require_free(folder, len(missing) * row_bytes, f"keeping {len(missing):,} encoded pictures")
        listed.write_text("".join(f"{content}\n" for content in known))  # without a half line from a kill
    chunk = max(1, CHUNK_PIXELS // recipe.data.size**2)
    for start in range(0, len(missing), chunk):
        tell(on_progress, Progress("encode", start, len(missing)))
        indices = missing[start : start + chunk]
        _append(data, len(known) * row_bytes, _rows(pictures.pixels[indices], sides, autoencoder, device).tobytes())
        known += [contents[index] for index in indices]
        _append(listed, listed.stat().st_size, "".join(f"{contents[index]}\n" for index in indices).encode())
    places = {content: row for row, content in enumerate(known)}
    rows = np.memmap(data, np.float16, mode="r", shape=(len(known), *shape))
    return rows, np.array([places[content] for content in contents], np.int64)


@torch.inference_mode()
def _rows(pixels: NDArray[np.uint8], sides: int, autoencoder: Autoencoder, device: torch.device) -> Rows:
    x0 = to_x0(pixels).to(device)
    both = [torch.stack(autoencoder.encode(x0.flip(-1) if mirror else x0), dim=1) for mirror in range(sides)]
    return torch.stack(both, dim=1).half().cpu().numpy()


def _append(path: Path, at: int, data: bytes) -> None:
    """Write at byte `at`, over whatever an interrupted write left there, and wait for the disk."""
    with path.open("r+b" if path.exists() else "xb") as file:
        file.seek(at)
        file.write(data)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
