"""From a request to what one of diffusers' pipelines is asked: which task, at which size, with which pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageOps

from bowerbird.errors import PictureFolderError, RequestError
from bowerbird.pretrained.canvas import MULTIPLE, Box, Size, close_up, extend, join, region_at, region_to_repaint, working_size
from bowerbird.request import PaintRequest

Task = Literal["text", "image", "inpaint", "upscale"]

USUAL_STRENGTH, DETAIL_STRENGTH = 0.6, 0.5
UPSCALE = 4
UPSCALE_NOISE_LEVEL = 20  # of 350: how much of the small picture's detail the x4 upscaler may replace; diffusers' default
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


@dataclass(frozen=True)
class Work:
    """What one request asks, the same for each of its pictures."""

    task: Task
    size: Size  # of what the network paints
    arguments: dict[str, Any]
    repaint: Repaint | None = None
    kept: Box | None = None  # of what is painted, where the network wanted more than was asked

    def asking(self, **arguments: Any) -> Work:
        """The same with further arguments for the pipeline."""
        return replace(self, arguments={**self.arguments, **arguments})


def plan(request: PaintRequest, kind: str, native: int) -> Work:
    """The work for a resolved request.  `kind` is the family's: paint, inpaint or upscale; `native` its side in pixels."""
    assert request.size is not None and request.steps is not None
    # nothing to avoid is None, not "": XL then sees zeros, as in its training, and its text encoders have half the work
    words = {"prompt": request.prompt, "negative_prompt": request.negative or None}
    always = {**words, "num_inference_steps": request.steps, "guidance_scale": request.guidance}
    if kind == "upscale":
        assert request.image is not None
        picture = open_picture(request.image)
        whole, _ = extend(picture, right=-picture.width % MULTIPLE, bottom=-picture.height % MULTIPLE)
        size, kept = ((one.width * UPSCALE, one.height * UPSCALE) for one in (whole, picture))
        return Work("upscale", size, {**always, "image": whole, "noise_level": UPSCALE_NOISE_LEVEL}, kept=(0, 0, *kept))
    if request.strength is not None:
        always["strength"] = max(request.strength, 1 / request.steps)  # at least one step
    if is_repainting(request):
        return _plan_repaint(request, native, always)
    size = working_size(request.size, native)
    start = ImageOps.fit(open_picture(request.image), size, Image.Resampling.LANCZOS) if request.image is not None else None
    if kind == "inpaint":  # its network always wants a picture and a mask: all of it is painted anew
        if start is None:
            start, always["strength"] = Image.new("RGB", size, "grey"), 1.0
        return Work("inpaint", size, {**always, **_shape(size), "image": start, "mask_image": Image.new("L", size, 255)})
    if start is not None:
        return Work("image", size, {**always, "image": start})
    return Work("text", size, {**always, **_shape(size)})


def _plan_repaint(request: PaintRequest, native: int, always: dict[str, Any]) -> Work:
    original, mask = canvas_of(request)
    box = close_up(mask) if request.detail else region_to_repaint(mask, native)
    wanted = (box[2] - box[0], box[3] - box[1])
    if request.detail:  # as large as the network paints well
        scale = max(1.0, math.sqrt(native**2 / (wanted[0] * wanted[1])))
        wanted = (round(wanted[0] * scale), round(wanted[1] * scale))
    size = working_size(wanted, native)
    image = original.crop(box).resize(size, Image.Resampling.LANCZOS)
    mask_image = mask.crop(box).resize(size, Image.Resampling.NEAREST)
    arguments = {**always, **_shape(size), "image": image, "mask_image": mask_image}
    return Work("inpaint", size, arguments, Repaint(original, mask, box))


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


def _shape(size: Size) -> dict[str, int]:
    return {"width": size[0], "height": size[1]}


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
