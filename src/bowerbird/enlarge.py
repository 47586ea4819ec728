"""Enlarges pictures with an upscaler of ours: a painter like any other, whose request has an image.

One step, without chance: the same picture in is the same picture out, whatever its seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from bowerbird.canvas import membrane
from bowerbird.errors import PictureFolderError, RequestError
from bowerbird.model_folder import Model
from bowerbird.models.upscaler import enlarged, tiles_of
from bowerbird.picture_files import Painted
from bowerbird.pixels import Pixels, to_x0
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.repaint import OPEN_FORMATS
from bowerbird.request import MAX_SIDE_PX, PaintRequest, read_request

_UNDERSTOOD = {"model", "image", "size", "noise", "consistent", "format", "exact", "seed"}


class Enlarger:
    """A painter whose pictures are those it is given, `factor` times as large."""

    def __init__(self, name: str, model: Model) -> None:
        assert model.upscaler is not None, "what enlarges has a network for it"
        self.name, self.model, self.network = name, model, model.upscaler

    def describe(self) -> dict[str, Any]:
        return self.model.describe()

    def resolve(self, request: PaintRequest) -> PaintRequest:
        """The request with every default filled in; RequestError names what this model cannot do."""
        for field, known in PaintRequest.model_fields.items():
            if field not in _UNDERSTOOD and getattr(request, field) != known.get_default(call_default_factory=True):
                raise RequestError(f"this model enlarges pictures in one step and cannot use {field!r}. Leave it out.")
        if request.image is None:
            raise RequestError(f"{self.name!r} enlarges pictures: give it one, as in bowerbird upscale {self.name} PICTURE.")
        size = request.size
        if size is None:
            width, height = (self.network.factor * side for side in open_picture(request.image).size)
            if max(width, height) > MAX_SIDE_PX:
                become = f"{str(request.image)!r} would become {width}x{height} pixels"
                raise RequestError(f"{become}, and {MAX_SIDE_PX} a side is the most. Give a smaller picture.")
            size = width, height
        fill = {"seed": request.seed or 0, "size": size, "noise": request.noise or 0.0}
        return read_request({**request.model_dump(), **fill})

    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]:
        """Yield the one picture.  Cancelled is raised at the tile at which the callback returns False."""
        request = self.resolve(request)
        assert request.image is not None and request.size is not None and request.noise is not None and request.seed is not None
        picture = self.enlarge(open_picture(request.image), request.noise, request.consistent, on_progress)
        if picture.size != request.size:
            picture = ImageOps.fit(picture, request.size, Image.Resampling.LANCZOS)
        yield Painted(picture, request.seed, request)

    def enlarge(
        self, picture: Image.Image, noise: float = 0.0, consistent: bool = False, on_progress: OnProgress | None = None
    ) -> Image.Image:
        """The picture, RGB or RGBA, `factor` times as wide and high.

        noise: standard deviation of the noise in it, of a range of -1..1.  What is transparent stays so: the alpha channel is
        enlarged like a grey picture, and the colours under it begin as those of what can be seen next to them.
        """
        colours, alpha = np.asarray(picture.convert("RGB")), picture.getchannel("A") if picture.mode == "RGBA" else None
        layers = [colours]
        plain = alpha is None or len(set(alpha.getextrema())) == 1
        if not plain:
            seen = np.asarray(alpha)
            continued = membrane(colours.astype(np.float32), seen > 0)
            layers = [continued.round().clip(0, 255).astype(np.uint8), np.repeat(seen[..., None], 3, axis=2)]
        total, done = len(layers) * tiles_of(*colours.shape[:2]), 0

        def on_tile() -> None:
            nonlocal done
            tell(on_progress, Progress("upscale", done, total))
            done += 1

        # the alpha channel has no noise, whatever the colours have
        large = [self._layer(layer, noise * (number == 0), consistent, on_tile) for number, layer in enumerate(layers)]
        tell(on_progress, Progress("upscale", total, total))
        result = Image.fromarray(large[0])
        if alpha is not None:
            result.putalpha(Image.new("L", result.size, alpha.getextrema()[0]) if plain else Image.fromarray(large[1]).convert("L"))
        return result

    @torch.inference_mode()
    def _layer(self, pixels: Pixels, noise: float, consistent: bool, on_tile: Any) -> Pixels:
        device = next(self.network.parameters()).device
        found = enlarged(self.network, to_x0(pixels)[None].to(device), noise, consistent, on_tile)
        return np.ascontiguousarray(found[0].movedim(0, -1).cpu().numpy())


def open_picture(path: Path) -> Image.Image:
    """A picture, upright, RGB or, where anything in it is transparent, RGBA.  PictureFolderError when it cannot be read."""
    try:
        with Image.open(path, formats=OPEN_FORMATS) as file:
            picture = ImageOps.exif_transpose(file)
            return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PictureFolderError(f"{str(path)!r} cannot be read as a picture ({reason}). Give one of {', '.join(OPEN_FORMATS)}.") from error
