"""Pictures that clients send: checked before they are decoded, decoded once, kept as what they are."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from pathlib import Path

import anyio
from PIL import Image

from bowerbird.jobs import Queue
from bowerbird.server.errors import ApiError

FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
MAX_PIXELS = 64_000_000
MAX_SIDE_PX = 16_384
_DECODING = 2  # pictures decoded at once: each may take a quarter of a gigabyte

_turn = anyio.CapacityLimiter(_DECODING)


async def keep_picture(queue: Queue, data: bytes, param: str) -> tuple[Path, tuple[int, int]]:
    """Where the picture is kept, and its size; ApiError when it is none."""
    return await anyio.to_thread.run_sync(lambda: _keep(queue, data, param), limiter=_turn)


async def keep_mask(queue: Queue, data: bytes, size: tuple[int, int], from_alpha: bool) -> Path:
    """A mask of ours (white is painted anew) from a client's: OpenAI's is transparent there, AUTOMATIC1111's white.

    ApiError unless it has the size of its picture.
    """
    return await anyio.to_thread.run_sync(lambda: _keep_mask(queue, data, size, from_alpha), limiter=_turn)


def from_base64(text: str, param: str) -> bytes:
    """The bytes of base64, or of a data: URI; ApiError for anything else, a URL among it."""
    if text[:5].lower() in ("http:", "https") or text[:5].lower() == "file:":
        raise ApiError(400, f"{param}: the server fetches no URL. Send the picture itself.", param=param, code="url_not_allowed")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{param}: this is not base64.", param=param, code="invalid_image") from error


def _keep(queue: Queue, data: bytes, param: str) -> tuple[Path, tuple[int, int]]:
    picture = _decoded(data, param)
    return queue.keep_input(data, FORMATS[str(picture.format)]), picture.size


def _keep_mask(queue: Queue, data: bytes, size: tuple[int, int], from_alpha: bool) -> Path:
    mask: Image.Image = _decoded(data, "mask")
    if mask.size != size:
        found, wanted = ("x".join(map(str, each)) for each in (mask.size, size))
        raise ApiError(400, f"the mask is {found} and the image {wanted}; they must be of one size.", param="mask", code="invalid_mask")
    if from_alpha:
        if "A" not in mask.getbands() and "transparency" not in mask.info:
            raise ApiError(
                400, "the mask has no transparency; it is transparent where the image is painted anew.", param="mask", code="invalid_mask"
            )
        painted = mask.convert("RGBA").getchannel("A").point(lambda alpha: 255 - alpha)
    else:
        painted = mask.convert("L")
    buffer = io.BytesIO()
    painted.save(buffer, "PNG")
    return queue.keep_input(buffer.getvalue(), ".png")


def _decoded(data: bytes, param: str) -> Image.Image:
    """The picture, whole.  Its size is judged by its header, before any pixel."""
    too_large = ApiError(
        400, f"{param}: the picture is too large; up to {MAX_PIXELS // 10**6} million pixels.", param=param, code="image_too_large"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=list(FORMATS))
            if picture.width * picture.height > MAX_PIXELS or max(picture.size) > MAX_SIDE_PX:
                raise too_large
            picture.load()
    except Image.DecompressionBombError:
        raise too_large from None
    except ApiError:
        raise
    except Exception as error:  # a decoder given garbage raises what it likes
        raise ApiError(
            400, f"{param}: this is not a whole PNG, JPEG or WebP picture ({len(data)} bytes).", param=param, code="invalid_image"
        ) from error
    return picture
