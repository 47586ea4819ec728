"""The picture a request starts from: opened, with the mask of what is painted anew, and put back together without a seam."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from bowerbird.canvas import Box, Size, extend, join, region_at
from bowerbird.errors import PictureFolderError, RequestError
from bowerbird.request import PaintRequest

USUAL_STRENGTH, DETAIL_STRENGTH = 0.6, 0.5
UPSCALE = 4  # by which pretrained upscalers enlarge
OPEN_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


@dataclass(frozen=True)
class Repaint:
    """Where a repainted part belongs: `box` of the original, and there only where the mask is white."""

    original: Image.Image
    mask: Image.Image
    box: Box

    def put_back(self, painted: Image.Image) -> Image.Image:
        part = painted.resize((self.box[2] - self.box[0], self.box[3] - self.box[1]), Image.Resampling.LANCZOS)
        whole = self.original.copy()
        whole.paste(join(self.original.crop(self.box), part, self.mask.crop(self.box)), self.box[:2])
        return whole


def is_repainting(request: PaintRequest) -> bool:
    """Whether a part of a picture is painted anew, rather than a whole one."""
    return request.mask is not None or request.mask_at is not None or bool(request.outpaint)


def canvas_of(request: PaintRequest) -> tuple[Image.Image, Image.Image]:
    """The picture to repaint and the mask of what is painted anew, with new room on the sides that `outpaint` names."""
    assert request.image is not None
    picture = open_picture(request.image)
    mask = Image.new("L", picture.size)
    if request.mask is not None:
        mask = open_mask(request.mask).resize(picture.size, Image.Resampling.NEAREST)
    if request.mask_at is not None:
        x, y = request.mask_at
        if x >= picture.width or y >= picture.height:
            raise RequestError(f"the point {x},{y} lies outside the picture, which is {picture.width} x {picture.height} pixels.")
        mask = region_at(picture, request.mask_at, request.mask_tolerance)
    if not request.outpaint:
        return picture, mask
    canvas, new_room = extend(picture, **request.outpaint)
    new_room.paste(mask, (request.outpaint.get("left", 0), request.outpaint.get("top", 0)))
    return canvas, new_room


def usual_size(request: PaintRequest, kind: str, native: int) -> Size:
    """The size of the result when the request leaves it open: that of the picture it starts from, else the native one."""
    if request.image is None:
        return native, native
    width, height = open_picture(request.image).size
    if kind == "upscale":
        return width * UPSCALE, height * UPSCALE
    out = request.outpaint
    return width + out.get("left", 0) + out.get("right", 0), height + out.get("top", 0) + out.get("bottom", 0)


def strength_of(request: PaintRequest, kind: str) -> float | None:
    """How far to move from the picture, None where there is none to move from.  Left open, a masked part is painted anew."""
    if request.image is None or kind == "upscale":
        return None
    if request.strength is not None:
        return request.strength
    return DETAIL_STRENGTH if request.detail else 1.0 if is_repainting(request) else USUAL_STRENGTH


def check_enlarges(resolved: PaintRequest) -> None:
    """RequestError when a resolved request, asked to enlarge its picture, would vary it at its size."""
    if resolved.strength is not None:
        raise RequestError(
            f"{resolved.model!r} paints, it does not enlarge. Give upscaler-4x, or Stable Diffusion's upscaler; or generate --image."
        )


def open_picture(path: Path) -> Image.Image:
    """A picture to start from, upright and RGB, transparent parts over white.  PictureFolderError when it cannot be read."""
    return _opened(path, "RGB")


def open_mask(path: Path) -> Image.Image:
    return _opened(path, "L")


def _opened(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path, formats=OPEN_FORMATS) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.has_transparency_data:
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
            return picture.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        formats = ", ".join(OPEN_FORMATS)
        raise PictureFolderError(f"{str(path)!r} cannot be read as a picture ({reason}). Give one of {formats}.") from error
