"""About 130 files as they lie in real folders and worse, each with the one state the gate must give it.

Nearly every picture shows the same four quadrants, so that an accepted file proves itself by its pixels:

    red    green
    blue   yellow          48 x 32 px, to be read at 16 x 16
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

SIZE = 16
RED, GREEN, BLUE, YELLOW, WHITE = (220, 30, 30), (30, 200, 40), (40, 50, 220), (230, 220, 40), (255, 255, 255)
QUADRANTS = (RED, GREEN, BLUE, YELLOW)
Colours = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Case:
    """A file by the name `name`, what makes it, and its expected end."""

    name: str
    make: bytes | Callable[[Path], None]
    state: str  # accepted, changed, rejected, duplicate or description
    why: str = ""  # the changes, the rejection's code, or the picture it repeats
    shows: Colours | None = QUADRANTS  # colours of the quadrants when accepted; None: not looked at


def marked(width: int = 48, height: int = 32, colours: Colours = QUADRANTS) -> Image.Image:
    """The picture of four quadrants."""
    image = Image.new("RGB", (width, height))
    for number, colour in enumerate(colours):
        left, top = (number % 2) * (width // 2), (number // 2) * (height // 2)
        image.paste(colour, (left, top, left + width // 2 + 1, top + height // 2 + 1))
    return image


def encode(image: Image.Image, format_: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def corpus() -> list[Case]:
    """Every case; names are unique."""
    return [
        *_plain(),
        *_orientations(),
        *_broken_metadata(),
        *_modes(),
        *_profiles(),
        *_moving(),
        *_cut_short(),
        *_misnamed(),
        *_foreign(),
        *_damaged(),
        *_bombs(),
        *_shapes(),
        *_names(),
        *_described(),
        *_file_system(),
    ]


def write(folder: Path, cases: list[Case]) -> None:
    """Make the folder."""
    folder.mkdir(parents=True)
    for case in cases:
        path = folder / case.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(case.make, bytes):
            path.write_bytes(case.make)
        else:
            case.make(path)


# ------------------------------------------------------------------------------------------------ builders


def grey_of(colours: Colours) -> Colours:
    """The quadrants as Pillow's luma shows them."""
    return tuple((round((r * 299 + g * 587 + b * 114) / 1000),) * 3 for r, g, b in colours)


def tree_hash(folder: Path) -> str:
    """Over every path, kind, mode, size, time and content below `folder`, links and pipes as themselves."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=os.fsencode):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size < 2**26 else b""
        digest.update(repr((os.fsencode(path), status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)).encode() + content)
    return digest.hexdigest()


def _distinct(number: int) -> Image.Image:
    """The marked picture with one odd pixel in the middle of an edge, so that no two files are equal by chance."""
    image = marked()
    image.putpixel((number % 48, 0), (number * 5 % 256, number * 11 % 256, 128))
    return image


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand, for what Pillow does not write.  `rows` are raw scanlines without filter bytes."""
    stride = len(rows) // height if height else 0
    raw = b"".join(b"\0" + rows[y * stride : (y + 1) * stride] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _huge_png(width: int, height: int) -> bytes:
    """A valid header of any size over a little data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def exif(orientation: int, endian: str = "<") -> bytes:
    order = b"II*\0" if endian == "<" else b"MM\0*"
    entry = struct.pack(endian + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + order + struct.pack(endian + "IH", 8, 1) + entry + bytes(4)


def with_app1(jpeg: bytes, payload: bytes) -> bytes:
    """A JPEG with one more APP1 block, right after its start."""
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


PRIVATE = ("Ada Lovelace", "SN-4711-0815", "GPS-SECRET")


def private_exif() -> Image.Exif:
    """EXIF with an author, a serial number and a place, none of which may ever be seen again."""
    tags = Image.Exif()
    tags[0x013B] = PRIVATE[0]  # artist
    tags[0x8298] = PRIVATE[0]  # copyright
    tags[0x010E] = PRIVATE[2]  # description
    tags.get_ifd(0x8769)[0xA431] = PRIVATE[1]  # body serial number
    place = tags.get_ifd(0x8825)
    place[1], place[2], place[3], place[4] = "N", (52.0, 31.0, 7.9), "W", (13.0, 24.0, 18.0)
    return tags


# ------------------------------------------------------------------------------------------------ the cases


def _plain() -> list[Case]:
    image = marked()
    return [
        Case("plain/good.jpg", encode(image, "JPEG", quality=95), "duplicate", "plain/copy of good.jpg"),  # the first by name is kept
        Case("plain/UPPER.JPG", encode(image, "JPEG", quality=94), "accepted"),
        Case("plain/progressive.jpeg", encode(image, "JPEG", quality=95, progressive=True), "accepted"),
        Case("plain/good.png", encode(image, "PNG"), "accepted"),
        Case("plain/good.webp", encode(image, "WEBP", quality=95), "duplicate", "plain/good (2).webp"),
        Case("plain/lossless.webp", encode(image, "WEBP", lossless=True), "accepted"),
        Case("plain/good.bmp", encode(image, "BMP"), "accepted"),
        Case("plain/good.tiff", encode(image, "TIFF"), "accepted"),
        Case("plain/lzw.tif", encode(image, "TIFF", compression="tiff_lzw"), "accepted"),
        Case("plain/deflate.tif", encode(image, "TIFF", compression="tiff_adobe_deflate"), "accepted"),
        Case("plain/jpeg-inside.tif", encode(image, "TIFF", compression="jpeg", quality=95), "accepted"),
        Case("plain/no-extension", encode(_distinct(1), "PNG"), "accepted"),
        Case("plain/large.jpg", encode(marked(3000, 2000), "JPEG"), "accepted"),
        Case("plain/large.png", encode(marked(1500, 1000), "PNG"), "accepted"),
        Case("plain/copy of good.jpg", encode(image, "JPEG", quality=95), "accepted"),
        Case("plain/good (2).webp", encode(image, "WEBP", quality=95), "accepted"),
    ]


def _orientations() -> list[Case]:
    """Stored turned, so that obeying the tag shows the quadrants upright."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    cases = []
    for number, transpose in undo.items():
        stored = marked() if transpose is None else marked().transpose(transpose)
        state = ("accepted", "") if number == 1 else ("changed", "turned-upright")
        cases.append(Case(f"exif/{number}.jpg", encode(stored, "JPEG", quality=95, exif=exif(number)), *state))
    stored = marked().transpose(Image.Transpose.ROTATE_90)
    return [
        *cases,
        Case("exif/6-big-endian.jpg", encode(stored, "JPEG", quality=95, exif=exif(6, ">")), "changed", "turned-upright"),
        Case("exif/6.png", encode(stored, "PNG", exif=exif(6)[6:]), "changed", "turned-upright"),
        Case("exif/6.webp", encode(stored, "WEBP", quality=95, exif=exif(6)[6:]), "changed", "turned-upright"),
        Case("exif/6.tif", encode(stored, "TIFF", tiffinfo={0x0112: 6}), "changed", "turned-upright"),
        Case("exif/99.jpg", encode(marked(), "JPEG", quality=95, exif=exif(99)), "accepted"),
        Case("exif/private.jpg", encode(marked(), "JPEG", quality=93, exif=private_exif()), "accepted"),
    ]


def _broken_metadata() -> list[Case]:
    jpeg, still = encode(marked(), "JPEG", quality=95), encode(marked(), "PNG")
    bad_xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>\xff\xfe\xc3\x28 tiff:Orientation="\xff</x:xmpmeta>'
    loop = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    png_exif = still[:33] + chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff") + still[33:]
    bad_itxt = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe\xc3\x28<broken>")
    return [
        Case("metadata/exif-noise.jpg", with_app1(jpeg, b"Exif\0\0" + bytes(range(200))), "changed", "broken-metadata"),
        Case("metadata/exif-no-tiff.jpg", with_app1(jpeg, b"Exif\0\0XX*\0" + bytes(40)), "changed", "broken-metadata"),
        Case("metadata/exif-empty.jpg", with_app1(jpeg, b"Exif\0\0"), "accepted"),
        Case("metadata/exif-cut.jpg", with_app1(jpeg, exif(6)[:16]), "accepted"),
        Case("metadata/exif-loop.jpg", with_app1(jpeg, loop), "accepted"),
        Case("metadata/xmp-not-text.jpg", with_app1(jpeg, bad_xmp), "accepted"),
        Case("metadata/exif-broken.png", png_exif, "accepted"),
        Case("metadata/xmp-not-text.png", still[:33] + bad_itxt + still[33:], "accepted"),
    ]


def _modes() -> list[Case]:
    image = marked()
    rgb = np.asarray(image)
    grey = grey_of(QUADRANTS)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (24, 0, 48, 16))  # the green quadrant is seen through
    through = (RED, WHITE, BLUE, YELLOW)
    seen = image.copy()
    seen.putalpha(alpha)
    solid = image.convert("RGBA")
    deep = (rgb.astype(">u2") * 257).tobytes()
    luma = np.asarray(image.convert("L"))
    cmyk = tuple((Image.new("RGB", (1, 1), c).convert("CMYK").convert("RGB").getpixel((0, 0))) for c in QUADRANTS)
    keyed = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    ycck = bytearray(encode(image.convert("CMYK"), "JPEG", quality=95))
    ycck[ycck.index(b"Adobe") + 11] = 2  # the transform byte: the same data, now said to be YCCK
    return [
        Case("modes/grey.png", encode(image.convert("L"), "PNG"), "changed", "from-grey", grey),
        Case("modes/grey.jpg", encode(image.convert("L"), "JPEG", quality=95), "changed", "from-grey", grey),
        Case("modes/grey.tif", encode(image.convert("L"), "TIFF"), "changed", "from-grey", grey),
        Case("modes/grey-alpha.png", encode(seen.convert("LA"), "PNG"), "changed", "alpha-over-white", grey_of(through)),
        Case("modes/palette.png", encode(keyed, "PNG"), "changed", "from-palette"),
        Case("modes/palette.bmp", encode(keyed, "BMP"), "changed", "from-palette"),
        Case("modes/palette.tif", encode(keyed, "TIFF"), "changed", "from-palette"),
        Case(
            "modes/palette-keyed.png",
            encode(keyed, "PNG", transparency=keyed.getpixel((40, 4))),
            "changed",
            "from-palette alpha-over-white",
            through,
        ),
        Case("modes/1-bit.png", encode(image.convert("L").point(lambda v: 255 * (v > 128), "1"), "PNG"), "changed", "from-1-bit", None),
        Case("modes/fax.tif", encode(image.convert("1"), "TIFF", compression="group4"), "changed", "from-1-bit", None),
        Case("modes/16-bit-grey.png", encode(Image.fromarray(luma.astype(np.uint16) * 257), "PNG"), "changed", "from-16-bit", grey),
        Case("modes/16-bit-grey.tif", encode(Image.fromarray(luma.astype(np.uint16) * 257), "TIFF"), "changed", "from-16-bit", grey),
        Case("modes/16-bit-rgb.png", png(48, 32, 16, 2, deep), "changed", "from-16-bit"),
        Case("modes/32-bit.tif", encode(Image.fromarray(luma.astype(np.int32)), "TIFF"), "changed", "from-32-bit", grey),
        Case("modes/float.tif", encode(Image.fromarray(luma.astype(np.float32) / 255), "TIFF"), "changed", "from-32-bit", grey),
        Case(
            "modes/float-nan.tif",
            encode(Image.fromarray(np.full((32, 48), np.nan, np.float32)), "TIFF"),
            "changed",
            "from-32-bit",
            ((0, 0, 0),) * 4,
        ),
        Case("modes/alpha.png", encode(seen, "PNG"), "changed", "alpha-over-white", through),
        Case("modes/alpha.webp", encode(seen, "WEBP", lossless=True), "changed", "alpha-over-white", through),
        Case("modes/alpha.tif", encode(seen, "TIFF"), "changed", "alpha-over-white", through),
        Case("modes/alpha-solid.png", encode(solid, "PNG"), "accepted"),
        Case("modes/colour-key.png", encode(image, "PNG", transparency=GREEN), "changed", "alpha-over-white", through),
        Case("modes/cmyk.jpg", encode(image.convert("CMYK"), "JPEG", quality=95), "changed", "from-cmyk", cmyk),  # type: ignore[arg-type]
        Case("modes/cmyk.tif", encode(image.convert("CMYK"), "TIFF"), "changed", "from-cmyk", cmyk),  # type: ignore[arg-type]
        Case("modes/ycck.jpg", bytes(ycck), "changed", "from-cmyk", None),
        Case("modes/lab.tif", _lab(image), "changed", "from-lab"),
        Case("modes/ycbcr.tif", encode(image.convert("YCbCr"), "TIFF", compression="tiff_lzw"), "accepted"),
    ]


def _lab(image: Image.Image) -> bytes:
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(image, transform)
    assert lab is not None
    return encode(lab, "TIFF", icc_profile=_made_in_2026(lab.info["icc_profile"]))


def _made_in_2026(profile: bytes) -> bytes:
    """The profile without the time of its making, so that the corpus is the same every time."""
    return profile[:24] + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + profile[36:]


def _profiles() -> list[Case]:
    image = marked()
    srgb = _made_in_2026(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # A profile whose red and green primaries trade places: only who obeys it sees the quadrants.
    swapped = bytearray(srgb.replace(b"s\0R\0G\0B", b"o\0d\0d\0d").replace(b"sRGB", b"oddd"))
    red, green = swapped.index(b"rXYZ"), swapped.index(b"gXYZ")
    swapped[red : red + 4], swapped[green : green + 4] = swapped[green : green + 4], swapped[red : red + 4]
    traded = Image.merge("RGB", [image.getchannel(c) for c in "GRB"])
    return [
        Case("profiles/srgb.jpg", encode(image, "JPEG", quality=95, icc_profile=srgb), "accepted"),
        Case(
            "profiles/odd.jpg", encode(traded, "JPEG", quality=95, subsampling=0, icc_profile=bytes(swapped)), "changed", "profile-to-srgb"
        ),
        Case("profiles/odd.png", encode(traded, "PNG", icc_profile=bytes(swapped)), "changed", "profile-to-srgb"),
        Case("profiles/odd.webp", encode(traded, "WEBP", lossless=True, icc_profile=bytes(swapped)), "changed", "profile-to-srgb"),
        Case("profiles/odd.tif", encode(traded, "TIFF", icc_profile=bytes(swapped)), "changed", "profile-to-srgb"),
        Case("profiles/noise.jpg", encode(image, "JPEG", quality=95, icc_profile=bytes(500)), "changed", "broken-profile"),
        Case("profiles/cut.png", encode(image, "PNG", icc_profile=srgb[:200]), "changed", "broken-profile"),
        Case(
            "profiles/of-rgb-on-grey.jpg",
            encode(image.convert("L"), "JPEG", quality=95, icc_profile=srgb),
            "changed",
            "from-grey broken-profile",
            grey_of(QUADRANTS),
        ),
    ]


def _moving() -> list[Case]:
    frames = [marked(), marked(colours=(BLUE,) * 4), marked(colours=(RED,) * 4)]
    rest: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    three = encode(frames[0], "GIF", **rest)
    first = three.index(b"!\xf9")  # where the frames begin
    return [
        Case("moving/still.gif", encode(marked(), "GIF"), "changed", "from-palette"),
        Case("moving/three.gif", three, "changed", "first-frame from-palette"),
        Case("moving/thousand.gif", three[:first] + three[first:-1] * 333 + b";", "changed", "first-frame from-palette"),
        Case("moving/three.webp", encode(frames[0], "WEBP", lossless=True, **rest), "changed", "first-frame"),
        Case("moving/three.png", encode(frames[0], "PNG", **rest), "changed", "first-frame"),
        Case("moving/pages.tif", encode(frames[0], "TIFF", **rest), "changed", "first-frame"),
        Case("moving/stereo.jpg", encode(frames[0], "MPO", quality=95, **rest), "changed", "first-frame"),
    ]


def _cut_short() -> list[Case]:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))  # cut in its pixels, not in a footer
    whole = {
        "baseline.jpg": encode(noise, "JPEG"),
        "progressive.jpg": encode(noise, "JPEG", progressive=True),
        "noise.png": encode(noise, "PNG"),
        "noise.webp": encode(noise, "WEBP"),
        "noise.gif": encode(noise, "GIF"),
        "noise.bmp": encode(noise, "BMP"),
        "strips.tif": encode(noise, "TIFF"),
        "lzw.tif": encode(noise, "TIFF", compression="tiff_lzw"),
    }
    cases = [Case(f"cut/{name}", data[: len(data) * 6 // 10], "rejected", "E_TRUNCATED") for name, data in whole.items()]
    return [
        *cases,
        Case("cut/header.jpg", whole["baseline.jpg"][:30], "rejected", "E_TRUNCATED"),
        Case("cut/header.png", whole["noise.png"][:30], "rejected", "E_TRUNCATED"),
        Case("cut/header.gif", whole["noise.gif"][:10], "rejected", "E_TRUNCATED"),
        Case("cut/empty.jpg", b"", "rejected", "E_EMPTY"),
        Case("cut/one-byte.jpg", b"\xff", "rejected", "E_FORMAT"),
        Case("cut/zeros.png", bytes(1024), "rejected", "E_FORMAT"),
        Case("cut/half-zeros.jpg", whole["baseline.jpg"][:1000] + bytes(3000), "rejected", "E_TRUNCATED"),
    ]


def _misnamed() -> list[Case]:
    return [
        Case("misnamed/png.jpg", encode(_distinct(2), "PNG"), "changed", "wrong-extension"),
        Case("misnamed/jpeg.png", encode(_distinct(3), "JPEG", quality=95), "changed", "wrong-extension"),
        Case("misnamed/webp.jpg", encode(_distinct(4), "WEBP", quality=95), "changed", "wrong-extension"),
        Case("misnamed/photo.txt", encode(_distinct(5), "JPEG", quality=95), "changed", "wrong-extension"),
        Case("misnamed/gif.tmp.part", encode(_distinct(6), "GIF"), "changed", "wrong-extension from-palette"),
    ]


def _foreign() -> list[Case]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("a.txt"), "a")
    foreign = {
        "page.jpg": b"<!DOCTYPE html><html><title>404 Not Found</title></html>",
        "drawing.svg": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        "paper.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "ghostscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
        "layers.png": b"8BPS\0\1" + bytes(60),
        "telescope.png": b"SIMPLE  =                    T" + b" " * 50,
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "modern.avif": encode(marked(), "AVIF"),
        "film.jp2": encode(marked(), "JPEG2000"),
        "icon.ico": encode(marked(), "ICO"),
        "old.pcx": encode(marked(), "PCX"),
        "raw.ppm": encode(marked(), "PPM"),
        "game.tga": encode(marked(), "TGA"),
        "archive.jpg": archive.getvalue(),
        "video.jpg": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2",
        "program.png": b"\x7fELF\2\1\1" + bytes(60),
        "pickle.jpg": b"\x80\4\x95\x0b\0\0\0\0\0\0\0\x8c\5posix\x94.",
        "notes.jpg": "just some words, ünd Ümlaute".encode(),
        "list.json": b'{"pictures": []}',
        "README.md": b"# pictures\n",
        ".DS_Store": b"\0\0\0\1Bud1" + bytes(40),
        "._good.jpg": b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(40),
        "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(40),
    }
    return [Case(f"foreign/{name}", data, "rejected", "E_FORMAT") for name, data in foreign.items()]


def _damaged() -> list[Case]:
    jpeg, still, moving = encode(marked(), "JPEG"), encode(marked(), "PNG"), encode(marked(), "GIF")
    bad_table = jpeg.replace(b"\xff\xc4", b"\xff\xc4\xff\xff", 1)
    bad_data = still[:45] + bytes(b ^ 0x55 for b in still[45:60]) + still[60:]
    tiff = encode(marked(), "TIFF")
    return [
        Case("damaged/huffman.jpg", bad_table, "rejected", "E_DAMAGED"),
        Case("damaged/no-picture.jpg", b"\xff\xd8\xff\xd9", "rejected", "E_DAMAGED"),
        Case("damaged/noise.jpg", b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8 + b"\xff\xd9", "rejected", "E_DAMAGED"),
        Case("damaged/header-checksum.png", still[:20] + b"\x7f" + still[21:], "rejected", "E_DAMAGED"),
        Case("damaged/data.png", bad_data, "rejected", "E_DAMAGED"),
        Case("damaged/no-data.png", png(48, 32, 8, 2, b"")[:33] + chunk(b"IEND", b""), "rejected", "E_DAMAGED"),
        Case("damaged/size-0.png", png(0, 0, 8, 2, b""), "rejected", "E_DAMAGED"),
        Case("damaged/noise.webp", b"RIFF\x18\0\0\0WEBPVP8 \x0c\0\0\0" + bytes(12), "rejected", "E_DAMAGED"),
        Case("damaged/offset.tif", tiff[:4] + b"\xff\xff\xff\x7f" + tiff[8:], "rejected", "E_TRUNCATED"),
        Case("damaged/header.bmp", b"BM" + bytes(12) + b"\x28" + bytes(50), "rejected", "E_DAMAGED"),
        Case("damaged/bm-text.txt", b"BMW, a car of a make that begins like a bitmap", "rejected", "E_FORMAT"),
        Case("damaged/no-frame.gif", moving[:13] + b";", "rejected", "E_DAMAGED"),
    ]


def _bombs() -> list[Case]:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "A" * 3_000_000, zip=True)
    wide_jpeg = bytearray(encode(marked(), "JPEG"))
    frame = wide_jpeg.index(b"\xff\xc0")
    wide_jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    wide_gif = bytearray(encode(marked(), "GIF"))
    wide_gif[6:10] = b"\xff\xff\xff\xff"
    wide_bmp = bytearray(encode(marked(), "BMP"))
    wide_bmp[18:26] = struct.pack("<ii", 40_000, 40_000)
    return [
        Case("bombs/50k.png", _huge_png(50_000, 50_000), "rejected", "E_BOMB"),
        Case("bombs/9k.png", _huge_png(9_000, 9_000), "rejected", "E_BOMB"),
        Case("bombs/2-billion.png", _huge_png(2**31 - 1, 2**31 - 1), "rejected", "E_BOMB"),
        Case("bombs/text.png", encode(marked(), "PNG", pnginfo=text), "rejected", "E_BOMB"),
        Case("bombs/wide.jpg", bytes(wide_jpeg), "rejected", "E_BOMB"),
        Case("bombs/wide.gif", bytes(wide_gif), "rejected", "E_BOMB"),
        Case("bombs/wide.bmp", bytes(wide_bmp), "rejected", "E_BOMB"),
        Case("bombs/canvas.webp", b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2 + bytes(8), "rejected", "E_BOMB"),
        Case("bombs/100-mib.jpg", _sparse(encode(marked(), "JPEG"), 101 * 2**20), "rejected", "E_TOO_BIG"),
        Case("bombs/film.mp4", _sparse(b"\0\0\0\x20ftypisom", 101 * 2**20), "rejected", "E_FORMAT"),
    ]


def _sparse(head: bytes, size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(head)
        os.truncate(path, size)

    return make


def _shapes() -> list[Case]:
    return [
        Case("shapes/1x1.png", encode(marked(1, 1), "PNG"), "rejected", "E_TOO_SMALL"),
        Case("shapes/7x7.png", encode(marked(7, 7), "PNG"), "rejected", "E_TOO_SMALL"),
        Case("shapes/8x8.png", encode(marked(8, 8), "PNG"), "changed", "enlarged"),
        Case("shapes/15x15.png", encode(marked(14, 14), "PNG"), "changed", "enlarged"),
        Case("shapes/16x16.png", encode(marked(16, 16), "PNG"), "accepted"),
        Case("shapes/ribbon.png", encode(marked(2000, 10), "PNG"), "rejected", "E_RIBBON"),
        Case("shapes/tower.jpg", encode(marked(10, 2000), "JPEG"), "rejected", "E_RIBBON"),
        Case("shapes/panorama.png", encode(marked(320, 16), "PNG"), "accepted"),
        Case("shapes/17k.png", _huge_png(17_000, 1_000), "rejected", "E_BOMB"),
    ]


def _names() -> list[Case]:
    """Names that break logs, pages and shells.  Every picture differs, or it would be a duplicate."""
    names = {
        "names/new\nline.png": 10,
        "names/right-to-left \u202egnp.exe.png": 11,
        "names/" + os.fsdecode(b"not-utf-8 \xff\xfe.png"): 12,
        "names/" + "x" * 251 + ".png": 13,
        "names/-rf.png": 14,
        "names/ spaces and\ttab .png": 15,
        "names/\U0001f426 bird.png": 16,
        "names/caf\u00e9.png": 17,  # composed
        "names/cafe\u0301.png": 18,  # decomposed: the same to the eye, another file
        "names/<img src=x onerror=alert(1)>.png": 19,
        "names/'; DROP TABLE files; --.png": 20,
        "names/{{ 7 * 7 }}.png": 21,
        "names/back\\slash.png": 22,
        "names/...png": 23,
        "names/a/b/c/d/e/f/g/h/i/j/deep.png": 24,
    }
    return [Case(name, encode(_distinct(number), "PNG"), "accepted") for name, number in names.items()]


def _described() -> list[Case]:
    return [
        Case("described/bird.png", encode(_distinct(30), "PNG"), "accepted"),
        Case("described/bird.txt", "\ufeffa  bird\non a branch\n".encode(), "description"),
        Case("described/fish.png", encode(_distinct(31), "PNG"), "accepted"),
        Case("described/metadata.csv", b"file_name,text\nfish.png,a fish\nbird.png,not this one\ngone.png,nobody\n", "description"),
        Case("described/stray.txt", b"beside no picture", "rejected", "E_FORMAT"),
    ]


def _file_system() -> list[Case]:
    def link(target: str) -> Callable[[Path], None]:
        return lambda path: path.symlink_to(target)

    def fifo(path: Path) -> None:
        os.mkfifo(path)

    def bind(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(path.parent)  # a socket's whole path may have 107 bytes
            try:
                listener.bind(path.name)
            finally:
                os.chdir(here)

    return [
        Case("odd/pipe.jpg", fifo, "rejected", "E_NOT_REGULAR"),
        Case("odd/socket.jpg", bind, "rejected", "E_NOT_REGULAR"),
        Case("odd/inside.jpg", link("../plain/good.jpg"), "rejected", "E_LINK"),
        Case("odd/outside.jpg", link("/etc/hostname"), "rejected", "E_LINK"),
        Case("odd/endless.png", link("/dev/zero"), "rejected", "E_LINK"),
        Case("odd/nowhere.png", link("gone.png"), "rejected", "E_LINK"),
        Case("odd/itself.png", link("itself.png"), "rejected", "E_LINK"),
        Case("odd/up", link(".."), "rejected", "E_LINK"),
        Case("odd/root", link("/"), "rejected", "E_LINK"),
        Case("odd/run/run.json", b"{}", "inside", "odd/run/"),
        Case("odd/run/recipe.toml", b"", "inside", "odd/run/"),
        Case("odd/run/samples.png", encode(_distinct(40), "PNG"), "inside", "odd/run/"),
    ]
