"""Pictures as files that say how they were painted.

Every picture we write carries three things:

    the request     JSON of the resolved PaintRequest for this one picture: painting it again gives the picture again
    `parameters`    the same as the text other programs read (the convention of AUTOMATIC1111's web UI)
    the AI mark     IPTC DigitalSourceType in XMP (IPTC Photo Metadata Standard), so that machines can tell it is synthetic

PNG keeps the first two in text chunks `bowerbird` and `parameters`; JPEG and WebP in EXIF, as MakerNote and UserComment.
Nothing written depends on the clock, so equal pictures are equal files.  `picture_metadata.py` reads them again.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image, PngImagePlugin

from bowerbird import __version__
from bowerbird.errors import RequestError, ResourceError
from bowerbird.request import PaintRequest

DigitalSource = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "algorithmicallyEnhanced"]

FORMAT_VERSION = 1
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
SOFTWARE = f"Bowerbird {__version__}"
MAX_JPEG_EXIF_BYTES = 65_000  # a JPEG segment holds 65,533 bytes, header included

EXIF_IFD, SOFTWARE_TAG, USER_COMMENT, MAKER_NOTE = 0x8769, 0x0131, 0x9286, 0x927C

A1111_SAMPLERS = {"ddpm": "DDPM", "ddim": "DDIM", "euler": "Euler", "heun": "Heun", "dpm++2m": "DPM++ 2M"}

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool="{software}"
    Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{source}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


@dataclass(frozen=True)
class Painted:
    """One finished picture, the seed it started from, and the request with every default filled in."""

    picture: Image.Image
    seed: int
    settings: PaintRequest

    def save(self, path: str | Path) -> None:
        """Write the picture as PNG, JPEG or WebP, by the suffix of `path`, with its request: `bowerbird generate --from` repeats it."""
        formats = {suffix: name for name, suffix in SUFFIXES.items()} | {".jpeg": "jpeg"}
        suffix = Path(path).suffix.lower()
        if suffix not in formats:
            raise RequestError(f"{str(path)!r} does not end in a format that is written. Use one of {', '.join(sorted(formats))}.")
        settings = self.settings.model_copy(update={"format": formats[suffix]})
        save_picture(replace(self, settings=settings), Path(path))


def save_picture(painted: Painted, path: Path, source: DigitalSource | None = None) -> None:
    """Write the picture with its metadata to `path`, in the format its request names; a killed write leaves no half file.

    ResourceError when there is no room, or no right to write there.
    """
    _write(encode_picture(painted, source), path)


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet of painted pictures as PNG with the AI mark; the pictures themselves say how they were painted."""
    chunks, file = PngImagePlugin.PngInfo(), io.BytesIO()
    chunks.add_itxt("XML:com.adobe.xmp", _XMP.format(software=SOFTWARE, source="compositeWithTrainedAlgorithmicMedia"))
    sheet.save(file, "PNG", pnginfo=chunks)
    _write(file.getvalue(), path)


def save_thumbnail(picture: Image.Image, path: Path, longest_px: int) -> None:
    """Write a painted picture small, as WebP with the AI mark alone: it is no longer the picture that its request paints."""
    small, file = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    xmp = _XMP.format(software=SOFTWARE, source="trainedAlgorithmicMedia").encode()
    small.save(file, "WEBP", quality=85, method=6, xmp=xmp)
    _write(file.getvalue(), path)


def _write(data: bytes, path: Path) -> None:
    unfinished = path.with_name(f".tmp-{path.name}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise ResourceError(f"{str(path)!r} cannot be written ({error.strerror}). Make room, or choose another folder.") from error


def encode_picture(painted: Painted, source: DigitalSource | None = None) -> bytes:
    """The file's bytes.  `source` is the IPTC word for how the picture came about; by default a repainted or continued picture
    (one with a mask or outpaint) is a composite and every other is wholly synthetic."""
    request = request_of(painted)
    note, text = _our_note(request), infotext(request)
    xmp = _XMP.format(software=SOFTWARE, source=source or _digital_source(request)).encode()
    file = io.BytesIO()
    match request.format:
        case "png":
            chunks = PngImagePlugin.PngInfo()
            chunks.add_text("parameters", text)
            chunks.add_itxt("bowerbird", note)
            chunks.add_itxt("XML:com.adobe.xmp", xmp.decode())
            painted.picture.save(file, "PNG", pnginfo=chunks)
        case "jpeg":
            painted.picture.convert("RGB").save(file, "JPEG", quality=95, subsampling=0, exif=_exif(note, text), xmp=xmp)
        case "webp":
            painted.picture.save(file, "WEBP", quality=95, exif=_exif(note, text), xmp=xmp)
    return file.getvalue()


def request_of(painted: Painted) -> PaintRequest:
    """The resolved request that paints this one picture again."""
    return painted.settings.model_copy(update={"seed": painted.seed, "count": 1})


def check_fits(request: PaintRequest) -> None:
    """RequestError when `request` is too long for its file format; call it before painting, not after."""
    size = len(_exif(_our_note(request), infotext(request)))
    if request.format == "jpeg" and size > MAX_JPEG_EXIF_BYTES:
        raise RequestError(f"a JPEG file holds {MAX_JPEG_EXIF_BYTES} bytes of text and this request needs {size}; use png or webp.")


def infotext(request: PaintRequest) -> str:
    """The request as A1111's `parameters` text: prompt, negative prompt, then one line of `key: value` pairs."""
    pairs = {
        "Steps": request.steps,
        "Sampler": A1111_SAMPLERS.get(request.sampler or "", request.sampler),
        "CFG scale": request.guidance,
        "Seed": request.seed,
        "Size": "x".join(map(str, request.size)) if request.size else None,
        "Model": Path(request.model).name,
        "Denoising strength": request.strength if request.image else None,
        "Lora weights": ", ".join(f"{lora.file.stem}: {lora.weight:g}" for lora in request.loras) or None,
        "RNG": "CPU",
        "Version": SOFTWARE,
    }
    lines = [request.prompt]
    if request.negative:
        lines.append(f"Negative prompt: {request.negative}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items() if value is not None))
    return "\n".join(lines).encode("utf-8", "replace").decode()  # without half letters, as in `_our_note`


def _digital_source(request: PaintRequest) -> DigitalSource:
    repainted = request.mask or request.mask_at or request.outpaint
    return "compositeWithTrainedAlgorithmicMedia" if repainted else "trainedAlgorithmicMedia"


def _our_note(request: PaintRequest) -> str:
    note = {"format": FORMAT_VERSION, "software": SOFTWARE, "request": request.model_dump()}
    text = json.dumps(note, ensure_ascii=False, default=str)
    # half letters are how Python names the bytes of a path that is no UTF-8: JSON can escape them, no file format can hold them
    return re.sub(r"[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


def _exif(note: str, text: str) -> bytes:
    exif = Image.Exif()
    exif[SOFTWARE_TAG] = SOFTWARE
    exif.get_ifd(EXIF_IFD).update({USER_COMMENT: b"UNICODE\0" + text.encode("utf-16-be"), MAKER_NOTE: note.encode()})
    return exif.tobytes()


def _quoted(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,\n:"]', text) else text
