"""From a request to what one of diffusers' pipelines is asked: which task, at which size, with which pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from PIL import Image, ImageOps

from bowerbird.canvas import MULTIPLE, Box, Size, close_up, extend, region_to_repaint, working_size
from bowerbird.repaint import UPSCALE, Repaint, canvas_of, is_repainting, open_picture
from bowerbird.request import PaintRequest

Task = Literal["text", "image", "inpaint", "upscale"]

UPSCALE_NOISE_LEVEL = 20  # of 350: how much of the small picture's detail the x4 upscaler may replace; diffusers' default


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


def _shape(size: Size) -> dict[str, int]:
    return {"width": size[0], "height": size[1]}
