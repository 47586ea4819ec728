"""One file in, one verdict out: the gate every picture passes before anything learns from it.

This module is also the program of the decoding processes (`workers.py` starts it by its path): it imports nothing of
Bowerbird, keeps its address space and its time bounded, and answers one line for each line it reads.  Hostile files
are met here and nowhere else, so a decoder that crashes, hangs or eats memory takes down one child, which names its file.

The formats are told by content, never by name, and only an allow-listed decoder is ever tried: Pillow's own sniffing
would hand a file called `safe.png` to whichever of its forty parsers claims it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import math
import os
import re
import signal
import stat
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

Fit = Literal["crop", "pad", "box", "shape"]
Shape = tuple[int, int]  # width and height in pixels
Box = tuple[float, float, float, float]  # left, top, width, height in pixels of the upright picture
Signature = tuple[int, int, int, int, int]  # device, inode, bytes, mtime and ctime in ns: a file that changed has another one

MAX_FILE_BYTES = 100 * 2**20
MAX_PIXELS = 64_000_000
MAX_SIDE_PX = 16_384
MIN_SIDE_PX = 8
MAX_ASPECT = 20
BOMB_RATIO = 200  # decoded bytes per byte of file; only asked of pictures that are too big anyway: flat drawings compress better still
SHAPE_STEP = 64  # pixels: sides of the shapes of fit "shape"; what each of Stable Diffusion's networks can halve to its end
MAX_SHAPE_ASPECT = 4  # of those shapes, as SDXL was trained with (arXiv:2307.01952, appendix I)
BOX_MARGIN = 0.1  # of the longer side of a bounding box, shown on each side of it: a bird reaches to the edge of its box
MAX_CPU_SECONDS = 20.0  # of the processor, so that a verdict does not depend on what else the machine is doing
MAX_WALL_SECONDS = 120.0  # for a disk or network that stops answering
DISK_TROUBLE = 74  # exit status of a child that cannot write to the cache (EX_IOERR)
MAX_MEMORY_BYTES = 1536 * 2**20  # address space of a child; 64 megapixels with alpha, the worst accepted case, needs about half

EXTENSIONS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "PNG": {".png", ".apng"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
}
_MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
}
_FOREIGN = {  # what people put among pictures by mistake; named so that they see it at once
    "a web page": rb"\s*<(!doctype html|html|head|body|script)",
    "an SVG drawing": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<svg",
    "an AVIF picture": rb"....ftyp(avif|avis)",
    "a HEIC picture": rb"....ftyp(heic|heix|hevc|mif1|msf1)",
    "a JPEG XL picture": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a JPEG 2000 picture": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "a video": rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ",
    "a PDF": rb"%PDF",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "a Photoshop file": rb"8BPS",
    "a FITS file": rb"SIMPLE  =",
    "an icon": rb"\0\0[\x01\x02]\0",
    "an archive": rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b|BZh|\xfd7zXZ",
    "a program": rb"\x7fELF|MZ|#!",
}
_UPRIGHT = {  # EXIF orientation, tag 0x0112, to what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_M_PERTURB = -6  # of <malloc.h>
_SIDEWAYS = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}
_WHITE = (255, 255, 255)


class Examined(NamedTuple):
    """What the gate found in one file.  It follows from the bytes and the suffix alone, never from size or fit."""

    code: str = ""  # why it is rejected, '' when a picture came out
    reason: str = ""
    sha256: str = ""  # of the whole file
    format: str = ""
    width: int = 0  # upright, in pixels
    height: int = 0
    changes: str = ""  # names of what was done to it, joined by spaces
    phash: int = 0  # 64-bit perceptual hash, signed
    shade_p05: int = 0  # 5th and 99th percentile of its grey values, 0..255
    shade_p99: int = 0
    contrast: float = 0.0  # standard deviation of its grey values
    sharpness: float = 0.0  # standard deviation of their Laplacian, at 128 px or thereabouts


class Rejected(Exception):  # noqa: N818 - a verdict
    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason


def examine(
    data: bytes, suffix: str, size: int, fit: Fit, lenient: bool = False, box: Box | None = None
) -> tuple[Examined, NDArray[np.uint8] | None]:
    """The verdict on a file's bytes and, when they hold a picture, its (size, size, 3) sRGB square, 0..255.  Never raises.

    `box`: what fit "box" shows; without one it is "crop".  With fit "shape" it is no square but (h, w, 3), of `nearest_shape`.

    `lenient` lets through what is cut short, tiny or a ribbon: a report shows people what was rejected.
    """
    assert size > 0, "settings that cannot be would become a verdict on the file"
    found = Examined(sha256=hashlib.sha256(data).hexdigest())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(data, suffix, size, fit, lenient, box, found)
    except Rejected as verdict:
        return found._replace(code=verdict.code, reason=verdict.reason), None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = int(re.findall(r"\d+", str(error))[0])
        too_big = _too_big(f"{pixels / 1e6:,.0f} megapixels; at most {MAX_PIXELS // 10**6}", pixels, len(data))
        return found._replace(code=too_big.code, reason=too_big.reason), None
    except MemoryError:
        return found._replace(code="E_MEMORY", reason=f"decoding needs more than {MAX_MEMORY_BYTES // 2**20} MiB of memory"), None
    except Exception as error:  # whatever a decoder raises on hostile bytes, it is a verdict on the file
        code, reason = _failure(error, data)
        return found._replace(code=code, reason=reason), None


def _decode(
    data: bytes, suffix: str, size: int, fit: Fit, lenient: bool, box: Box | None, found: Examined
) -> tuple[Examined, NDArray[np.uint8]]:
    changes = []
    ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    format_ = sniff(data)
    if suffix.lower() not in EXTENSIONS[format_] | {""}:
        changes.append("wrong-extension")

    if data[8:16] == b"WEBPVP8X":  # its canvas is allocated as soon as it is opened
        _check_size(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"), len(data))
    image = Image.open(io.BytesIO(data), formats=[format_])
    width, height = image.size
    tags = getattr(image, "tag_v2", {})  # only TIFF has them
    _check_size(width, height, len(data))
    if not lenient:
        _check_shape(width, height)
        _check_whole(data, tags)
    turned = tags.get(0x0112) in _UPRIGHT  # Pillow turns a TIFF upright while loading it
    changes += ["first-frame"] * bool(getattr(image, "is_animated", False))

    # Three times the target is decoded and no more: JPEG shrinks while decoding, the rest by whole factors, and the
    # bicubic filter still has three pixels for one (Pillow calls a gap of 3 indistinguishable from none).
    if fit == "shape":  # the same upright as on its side
        wide, high = nearest_shape(max(width, height), min(width, height), size)
        enough = round(max(3 * max(high, min(width, height) / max(width, height) * wide), 256))
    else:
        enough = round(max(3 * size, 256) * min(width, height) / window(width, height, box)[2])
    image.draft(None, (enough, enough))
    plain, change = _to_8_bit(image)  # before the metadata is looked at: Pillow may load to find it, and swallow the failure
    transpose, broken = _orientation(image)
    factor = min(plain.size) // enough
    if factor > 1:
        plain = plain.reduce(factor)
    plain, had_alpha = _over_white(plain)
    changes += [change] * bool(change) + ["alpha-over-white"] * had_alpha + ["broken-metadata"] * broken
    if transpose is not None:
        plain = plain.transpose(transpose)
        width, height = (height, width) if transpose in _SIDEWAYS else (width, height)
    changes += ["turned-upright"] * (turned or transpose is not None)

    if fit == "shape":
        shape = nearest_shape(width, height, size)
        shown = plain.resize(shape, Image.Resampling.BICUBIC, box=frame(*plain.size, shape))
    else:
        shape, shown = (size, size), _square(plain, size, fit, _scaled(box, plain.width / width))
    shown, colour = _to_srgb(shown, None if change == "from-lab" else image.info.get("icc_profile"))
    changes += [colour] * bool(colour)
    pixels = np.asarray(_on_white(shown, shape))
    return found._replace(format=format_, width=width, height=height, changes=" ".join(changes), **_measure(plain)), pixels


def sniff(data: bytes) -> str:
    """The allow-listed format that `data` begins as."""
    if not data:
        raise Rejected("E_EMPTY", "the file is empty")
    head = data[:512]
    for format_, magic in _MAGIC.items():
        if re.match(magic, head, re.DOTALL):
            return format_
    for name, magic in _FOREIGN.items():
        if re.match(magic, head, re.DOTALL | re.IGNORECASE):
            raise Rejected("E_FORMAT", f"this is {name}; JPEG, PNG, WebP, GIF, BMP and TIFF are read")
    raise Rejected("E_FORMAT", "this is no picture; JPEG, PNG, WebP, GIF, BMP and TIFF are read")


def _check_size(width: int, height: int, file_bytes: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        limits = f"at most {MAX_PIXELS // 10**6} megapixels and {MAX_SIDE_PX} px a side"
        raise _too_big(f"{width} x {height} px; {limits}", width * height, file_bytes)


def _check_shape(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE_PX:
        raise Rejected("E_TOO_SMALL", f"{width} x {height} px; at least {MIN_SIDE_PX} px a side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Rejected("E_RIBBON", f"{width} x {height} px; one side at most {MAX_ASPECT} times the other")


def _too_big(what: str, pixels: int, file_bytes: int) -> Rejected:
    is_bomb = 3 * pixels > BOMB_RATIO * file_bytes
    return Rejected("E_BOMB" if is_bomb else "E_TOO_BIG", what + (f", from only {file_bytes:,} bytes of file" if is_bomb else ""))


def _failure(error: Exception, data: bytes) -> tuple[str, str]:
    """Reasons are our own words: a decoder's message may quote the file, and with it somebody's name or place."""
    if "MAX_TEXT" in str(error) or "too large" in str(error):
        return "E_BOMB", "a text block of the file unpacks to more than a megabyte"
    if _is_cut_short(data):
        return "E_TRUNCATED", "the file ends before its picture is complete"
    return "E_DAMAGED", "its picture cannot be decoded"


def _is_cut_short(data: bytes) -> bool:
    """Whether the file lacks the end its format promises."""
    match data[:2]:
        case b"\xff\xd8":
            return b"\xff\xd9" not in data[-1024:]
        case b"\x89P":
            return b"IEND" not in data[-1024:]
        case b"GI":
            return not data.rstrip(b"\0").endswith(b";")
        case b"RI":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        case b"BM":
            return int.from_bytes(data[2:6], "little") > len(data)
        case _:  # TIFF: where its first directory lies
            return int.from_bytes(data[4:8], "little" if data[:2] == b"II" else "big") >= len(data)


def _check_whole(data: bytes, tiff_tags: Mapping[int, Any]) -> None:
    """Two ways of being cut short that the decoders do not tell: libjpeg shows zeros grey, libtiff's complaint is only a number."""
    if data[:2] == b"\xff\xd8" and data.endswith(bytes(64)) and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0:
        raise Rejected("E_TRUNCATED", "it ends in zeros instead of its picture, like a copy that was cut short")
    for offsets, counts in ((273, 279), (324, 325)):  # where a TIFF's strips and tiles lie
        for start, count in zip(tiff_tags.get(offsets, ()), tiff_tags.get(counts, ()), strict=False):
            if start + count > len(data):
                raise Rejected("E_TRUNCATED", "the file ends before its picture is complete")


def _orientation(image: Image.Image) -> tuple[Image.Transpose | None, bool]:
    """What turns the picture upright, and whether its metadata is unreadable: then it is taken as it lies."""
    try:
        exif = Image.Exif()  # parsed anew: Pillow has tried while opening, and kept silent about a failure
        exif.load(image.info.get("exif", b""))
        return _UPRIGHT.get(exif.get(0x0112) or image.getexif().get(0x0112, 1)), False
    except Exception:  # EXIF and XMP blocks break in every way there is; the pixels are not to blame
        return None, True


def _to_8_bit(image: ImageFile.ImageFile) -> tuple[Image.Image, str]:
    """The loaded picture in mode L, RGB, RGBA or CMYK, and the name of the change that took."""
    deep = image.tile and ";16" in str(image.tile[0].args)
    with _blank_memory() if image.format == "TIFF" else contextlib.nullcontext():
        image.load()
    mode = image.mode
    if mode in {"P", "PA"}:
        return image.convert("RGBA" if image.has_transparency_data else "RGB"), "from-palette"
    if image.has_transparency_data:
        return image if mode == "RGBA" else image.convert("RGBA"), "from-16-bit" if deep else ""
    if mode == "1":
        return image.convert("L"), "from-1-bit"
    if mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)), "from-16-bit"
    if mode in {"I", "F"}:
        return Image.fromarray(_stretch(np.array(image, np.float32))), "from-32-bit"
    if mode == "LAB":
        return _lab_transform().apply(image), "from-lab"
    if mode == "CMYK":
        return image, "from-cmyk"
    if mode == "L":
        return image, "from-16-bit" if deep else "from-grey"
    return image if mode == "RGB" else image.convert("RGB"), "from-16-bit" if deep else ""


@contextlib.contextmanager
def _blank_memory() -> Iterator[None]:
    """New memory is zeros: libtiff leaves rows that a damaged file does not hold as it found them, and two scans are to see one picture.

    Only the GNU C library does so when asked.  It writes all of that memory once more, so nothing but TIFFs is read like this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    mallopt(_M_PERTURB, 0xFF)  # it writes the complement
    try:
        yield
    finally:
        mallopt(_M_PERTURB, 0)


def _stretch(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """32-bit values to 0..255, in place, for there may be a quarter of a gigabyte of them.

    No file says its range, so the smallest usual one that holds them is taken: 1, 255, 65535, their own.
    """
    np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max())
    white = next((usual for usual in (1.0, 255.0, 65535.0) if top <= usual), top)
    values *= np.float32(255 / white)
    values += np.float32(0.5)
    return values.clip(0, 255, out=values).astype(np.uint8)


def _over_white(image: Image.Image) -> tuple[Image.Image, bool]:
    if image.mode != "RGBA":
        return image, False
    seen_through = image.getchannel("A").getextrema() != (255, 255)
    return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB"), seen_through


def window(width: int, height: int, box: Box | None) -> tuple[float, float, float]:
    """Left, top and side of the square that fits "crop" and "box" show, in pixels: the middle one, or the one around `box` with a
    margin, moved into the picture and never larger than it.
    """
    if box is None:
        side = float(min(width, height))
        return (width - side) / 2, (height - side) / 2, side
    side = min(max(float(MIN_SIDE_PX), max(box[2:]) * (1 + 2 * BOX_MARGIN)), width, height)
    left = min(max(box[0] + box[2] / 2 - side / 2, 0), width - side)
    return left, min(max(box[1] + box[3] / 2 - side / 2, 0), height - side), side


@lru_cache(maxsize=16)
def shapes(size: int) -> tuple[Shape, ...]:
    """The shapes of fit "shape": sides are multiples of 64, as is `size`, and none has more pixels than its square, or many less."""
    sides = range(SHAPE_STEP, size * math.isqrt(MAX_SHAPE_ASPECT) + 1, SHAPE_STEP)
    long = {(side, size * size // side // SHAPE_STEP * SHAPE_STEP) for side in sides if side >= size}
    return tuple(sorted({shape for wide, high in long if wide <= MAX_SHAPE_ASPECT * high for shape in ((wide, high), (high, wide))}))


@lru_cache(maxsize=4096)
def nearest_shape(width: int, height: int, size: int) -> Shape:
    """The shape whose sides stand to each other most as those of the picture do."""
    return min(shapes(size), key=lambda shape: (abs(math.log(shape[0] * height / (shape[1] * width))), -shape[0] * shape[1]))


def frame(width: int, height: int, shape: Shape) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest middle part of a picture that has this shape, in pixels: nothing is stretched."""
    scale = min(width / shape[0], height / shape[1])
    left, top = (width - scale * shape[0]) / 2, (height - scale * shape[1]) / 2
    return left, top, width - left, height - top


def _scaled(box: Box | None, scale: float) -> Box | None:
    return box and (box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale)


def _square(image: Image.Image, size: int, fit: Fit, box: Box | None) -> Image.Image:
    """The square window at `size` ("crop", "box"), or the whole picture with its longer side at `size` ("pad"); antialiased bicubic."""
    width, height = image.size
    if fit == "pad":
        scale = size / max(width, height)
        return image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)
    left, top, side = window(width, height, box)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _on_white(image: Image.Image, shape: Shape) -> Image.Image:
    if image.size == shape:
        return image
    canvas = Image.new("RGB", shape, _WHITE)
    canvas.paste(image, ((shape[0] - image.width) // 2, (shape[1] - image.height) // 2))
    return canvas


def _to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, str]:
    """8-bit sRGB by the embedded profile, or by Pillow's plain rules when it has none or a broken one."""
    if not icc:
        return image.convert("RGB"), ""
    try:
        transform = _icc_transform(icc, image.mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image.convert("RGB"), "broken-profile"
    if transform is None:
        return image.convert("RGB"), ""
    return transform.apply(image), "profile-to-srgb"


@lru_cache(maxsize=16)
def _icc_transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    if mode == "RGB" and "srgb" in (ImageCms.getProfileDescription(profile) or "").lower():
        return None
    return ImageCms.ImageCmsTransform(profile, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), mode, "RGB")


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab, srgb = (ImageCms.ImageCmsProfile(ImageCms.createProfile(space)) for space in ("LAB", "sRGB"))
    return ImageCms.ImageCmsTransform(lab, srgb, "LAB", "RGB")


_DCT = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1)).astype(np.float32)  # lowest 8 of 32 frequencies


def _measure(image: Image.Image) -> dict[str, Any]:
    """Numbers for the report.  The hash marks which of the lowest 8 x 8 DCT frequencies of a 32 x 32 thumbnail lie above their median."""
    view = image.reduce(max(1, round(max(image.size) / 128))).convert("L")
    low = (_DCT @ np.asarray(view.resize((32, 32), Image.Resampling.BILINEAR), np.float32) @ _DCT.T).ravel()
    low[0] = np.inf  # the mean brightness is no feature: the first bit is always set
    bits = low > np.median(low[1:])
    shades = np.asarray(view, np.float32)
    laplacian = shades[:-2, 1:-1] + shades[2:, 1:-1] + shades[1:-1, :-2] + shades[1:-1, 2:] - 4 * shades[1:-1, 1:-1]
    p05, p99 = np.searchsorted(np.cumsum(view.histogram()), (0.05 * shades.size, 0.99 * shades.size))
    return {
        "phash": int(np.packbits(bits).view(np.int64)[0]),
        "shade_p05": int(p05),
        "shade_p99": int(p99),
        "contrast": round(float(shades.std()), 2),
        "sharpness": round(float(laplacian.std()), 2),
    }


# ------------------------------------------------------------------------------------------------ the child process


def signature(status: os.stat_result) -> Signature:
    below = 2**63  # what a database column holds; some file systems number higher
    return status.st_dev % below, status.st_ino % below, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read(path: str | os.PathLike[str], expected: Signature) -> bytes:
    """The bytes of exactly the file the scan saw: opened once, never through a link, never blocking, checked, read whole."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or signature(status) != expected:
                raise Rejected("E_CHANGED", "the file changed while the folder was being read")
            data = file.read(MAX_FILE_BYTES if status.st_size <= MAX_FILE_BYTES else 512)
    except PermissionError:
        raise Rejected("E_PERMISSION", "no permission to read it") from None
    except FileNotFoundError:
        raise Rejected("E_VANISHED", "the file vanished while the folder was being read") from None
    except OSError as error:
        raise Rejected("E_UNREADABLE", f"the disk answers: {os.strerror(error.errno or 0)}") from None
    if status.st_size > MAX_FILE_BYTES:
        sniff(data)
        raise Rejected("E_TOO_BIG", f"{status.st_size / 2**20:,.0f} MiB; at most {MAX_FILE_BYTES // 2**20}")
    if len(data) != status.st_size:
        raise Rejected("E_CHANGED", "the file changed while the folder was being read")
    return data


def _bound_this_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; a child ends when its input does
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    with contextlib.suppress(ImportError):  # no such limits on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _start_clock() -> None:
    """The kernel ends this process when the file at hand takes too long, even deep inside a decoder that hears no signal."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, MAX_WALL_SECONDS)


def main() -> None:
    """Serve jobs: each line [path, signature, slot, box] on standard input gets one line, its Examined, on standard output."""
    root, pack, size, fit, lenient = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a C library that prints must not speak into the protocol
    _bound_this_process()
    with open(pack, "r+b") as pixels_file:  # noqa: PTH123
        for line in sys.stdin:
            path, expected, slot, box = json.loads(line)
            _start_clock()
            try:
                found, pixels = examine(read(f"{root}/{path}", tuple(expected)), PurePath(path).suffix, size, fit, lenient, box)
            except Rejected as verdict:
                found, pixels = Examined(code=verdict.code, reason=verdict.reason), None
            if pixels is not None:
                try:
                    pixels_file.seek(slot * size * size * 3)  # the pixels of a shape do not fill their row
                    pixels_file.write(pixels.tobytes())
                    pixels_file.flush()
                except OSError:  # our disk's fault, not the picture's
                    os._exit(DISK_TROUBLE)
            replies.write(json.dumps(found) + "\n")
            replies.flush()


if __name__ == "__main__":
    main()
