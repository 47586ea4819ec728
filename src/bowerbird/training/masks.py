"""Where pictures are learnt: their masks, decoded as they are and kept in memory as small as their latents."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bowerbird.data.picture_set import Pictures
from bowerbird.data.previews import decode_masks
from bowerbird.errors import PictureFolderError
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.training.latents import LatentSamples

_AT_ONCE = 64


class Masks:
    """How much each place of the latents counts, 0..1; all of them alike in a picture without a mask."""

    def __init__(self, pictures: Pictures, latents: LatentSamples, on_progress: OnProgress | None = None) -> None:
        """PictureFolderError where a mask has not the size of its picture, or shows nothing of it."""
        self.latents, self.factor = latents, latents.store.autoencoder.factor
        recipe, used = latents.store.recipe, np.concatenate([pictures.train, pictures.held])
        masked = [index for index in used.tolist() if pictures.paths[index] in pictures.masks]
        self._kept: dict[int, NDArray[np.uint8]] = {}
        digest = hashlib.sha256()
        for start in range(0, len(masked), _AT_ONCE):
            tell(on_progress, Progress("read", start, len(masked)))
            some = masked[start : start + _AT_ONCE]
            for index, (grey, sha256) in zip(some, decode_masks(pictures, some, recipe.data.size, recipe.data.fit), strict=True):
                digest.update(f"{index} {sha256}\n".encode())
                self._kept[index] = self._shrunk(grey)
                if not self._kept[index].any():
                    raise PictureFolderError(
                        f"the mask of {pictures.names[index]!r} is black all over what is shown of it. Paint white what is to be learnt, "
                        "or take both out."
                    )
        self.fingerprint = digest.hexdigest()

    def drawn(self, chosen: NDArray[np.int64], samples: NDArray[np.int64]) -> Tensor:
        """Of the chosen pictures, (B, 1, h, w), as samples number `samples` of the run show them: mirrored or not."""
        mirrored = torch.from_numpy(self.latents.mirrored(chosen, samples)).view(-1, 1, 1, 1)
        plain = self.plain(chosen)
        return torch.where(mirrored, plain.flip(-1), plain)

    def plain(self, chosen: NDArray[np.int64]) -> Tensor:
        """Of the chosen pictures as they are."""
        wide, high = (self.latents.shapes[chosen[0]] // self.factor).tolist()
        whole = np.full((high, wide), 255, np.uint8)
        return torch.from_numpy(np.stack([self._kept.get(index, whole) for index in chosen.tolist()]))[:, None] / 255

    def _shrunk(self, grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W) as small as latents: the mean of what each of them covers."""
        high, wide = (side // self.factor for side in grey.shape)
        means: NDArray[np.float64] = grey.reshape(high, self.factor, wide, self.factor).mean((1, 3))
        return means.round().astype(np.uint8)
