"""What people look at: contact sheets, animations, and pages that hold all they show."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

GAP_PX = 2
_TEMPLATES = Path(__file__).parent / "templates"


def contact_sheet(pictures: Sequence[Image.Image], columns: int, cell_px: int | None = None) -> Image.Image:
    """The pictures in rows of `columns`, each scaled into a square cell (by default as large as the first picture)."""
    cell = cell_px or max(pictures[0].size)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (cell + GAP_PX) - GAP_PX, rows * (cell + GAP_PX) - GAP_PX), "white")
    for number, picture in enumerate(pictures):
        fitted = picture.convert("RGB")
        if max(fitted.size) != cell:
            scale = cell / max(fitted.size)
            fitted = fitted.resize((max(1, round(fitted.width * scale)), max(1, round(fitted.height * scale))), Image.Resampling.LANCZOS)
        corner = (number % columns * (cell + GAP_PX), number // columns * (cell + GAP_PX))
        sheet.paste(fitted, (corner[0] + (cell - fitted.width) // 2, corner[1] + (cell - fitted.height) // 2))
    return sheet


def png_bytes(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def animation_bytes(frames: Sequence[Path], seconds: float = 6.0, hold_last: float = 2.0) -> bytes:
    """The pictures as a GIF of `seconds` that stops a while at the last one."""
    pictures = [Image.open(frame).convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames]
    durations = [max(40, int(1000 * seconds / len(pictures)))] * len(pictures)
    durations[-1] += int(1000 * hold_last)
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return buffer.getvalue()


def data_uri(data: bytes, kind: str = "png") -> str:
    """The bytes of a picture file as a `data:` URI, so that a page holds its pictures itself."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def render(template: str, **values: Any) -> str:
    """A page from one of our templates; whatever is put in is escaped."""
    import jinja2

    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template(template).render(**values)
