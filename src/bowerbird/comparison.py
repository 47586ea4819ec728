"""The same picture under changed settings, side by side on one labelled sheet (an X/Y plot).

compare(request, "steps=5,10,20", "guidance=1,4")     settings along the columns and down the rows; a third, in sections
compare_arrays(request)                               the arrays of its prompt, [[red, blue]], instead
comparison.requests                                   what to paint, section by section, row by row, all from the same noise
comparison.sheet(pictures)                            the pictures in their places, with labels
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from bowerbird.errors import RequestError, did_you_mean
from bowerbird.picture_files import SUFFIXES, save_picture, save_sheet
from bowerbird.progress import OnProgress
from bowerbird.prompts.finish import ASKING, choices
from bowerbird.prompts.language import Array, parse, plain, show
from bowerbird.request import PaintRequest, read_request

if TYPE_CHECKING:
    from bowerbird.painter import Painter

MAX_PICTURES = 400
MAX_SHEET_PX = 16_384
GAP_PX = 6
_COMPARED = (
    *("prompt", "negative", "label", "seed", "size", "steps", "sampler", "guidance", "speed", "preset", "styles", "expand"),
    *("mask_tolerance", "strength"),
)


@dataclass(frozen=True)
class Comparison:
    """`requests` fill a sheet row by row, one section below the other; its columns, rows and sections are called by the labels."""

    requests: tuple[PaintRequest, ...]
    columns: tuple[str, ...]
    rows: tuple[str, ...] = ("",)
    sections: tuple[str, ...] = ("",)

    def sheet(self, pictures: Sequence[Image.Image]) -> Image.Image:
        """The pictures with their labels, in cells as large as the largest of them; shrunk where the sheet would be huge."""
        down = len(self.rows) * len(self.sections)
        assert len(pictures) == len(self.requests) == len(self.columns) * down
        largest = [max(picture.size[side] for picture in pictures) for side in (0, 1)]
        scale = min(1.0, *(MAX_SHEET_PX / (n * side) for n, side in zip((len(self.columns), down), largest, strict=True)))
        shown = [_scaled(picture, scale) for picture in pictures]
        width, height = (max(picture.size[side] for picture in shown) for side in (0, 1))
        letters = max(11, min(28, round(min(width, height) / 12)))
        font = ImageFont.load_default(letters)
        above = [_wrapped(label, font, max(width, 90)) for label in self.columns]
        beside = [_wrapped(label, font, max(width, 160)) for label in self.rows]
        width, top = (
            max(side, *sides) for side, sides in zip((width, 0), zip(*(_extent(text, font) for text in above), strict=True), strict=True)
        )
        left, tallest = (max(sides) for sides in zip(*(_extent(text, font) for text in beside), strict=True))
        height = max(height, tallest)
        left, top = (side + 2 * GAP_PX if side else 0 for side in (left, top))
        across = left + len(above) * (width + GAP_PX) - GAP_PX
        font_of_titles = ImageFont.load_default(round(letters * 1.3))
        titles = [_wrapped(label, font_of_titles, max(across, 160)) for label in self.sections]
        wide, title = (max(sides) for sides in zip(*(_extent(text, font_of_titles) for text in titles), strict=True))
        title = title + 4 * GAP_PX if title else 0
        top += title
        section = top + len(beside) * (height + GAP_PX)
        sheet = Image.new("RGB", (max(across, wide), len(titles) * section - GAP_PX), "white")
        draw = ImageDraw.Draw(sheet)
        for start, heading in zip(range(0, sheet.height, section), titles, strict=True):
            draw.multiline_text((0, start + title // 2), heading, "black", font_of_titles, "lm")
            for i, text in enumerate(above):
                middle = (left + i * (width + GAP_PX) + width // 2, start + (title + top) // 2)
                draw.multiline_text(middle, text, "black", font, "mm", align="center")
            for i, text in enumerate(beside):
                right = (left - GAP_PX, start + top + i * (height + GAP_PX) + height // 2)
                draw.multiline_text(right, text, "black", font, "rm", align="right")
        for i, picture in enumerate(shown):
            row, column = divmod(i, len(above))
            below = row // len(beside) * section + top + row % len(beside) * (height + GAP_PX)
            corner = (left + column * (width + GAP_PX), below)
            sheet.paste(picture, (corner[0] + (width - picture.width) // 2, corner[1] + (height - picture.height) // 2))
        return sheet


def comparison_of(request: PaintRequest, x: str | None = None, y: str | None = None, z: str | None = None) -> Comparison:
    """Along the named axes, or where none is named along the arrays of the prompt; all pictures start from one seed."""
    if y is not None and x is None:
        raise RequestError("y is the second axis of a sheet; give the first, x.")
    if z is not None and y is None:
        raise RequestError("z is the third axis of a sheet; give the first two, x and y.")
    if request.seed is None:
        request = request.model_copy(update={"seed": secrets.randbelow(2**32)})
    return compare(request, x, y, z) if x is not None else compare_arrays(request)


def paint_sheet(comparison: Comparison, out: Path, painter: Painter, on_progress: OnProgress | None = None) -> list[Path]:
    """Paint every place, and the sheet of them, which is the last of the paths."""
    from bowerbird.painted_set import free_name

    paths, pictures = [], []
    for request in comparison.requests:
        painted = next(iter(painter.paint(request, on_progress)))
        paths.append(out / free_name(out, f"{painted.seed:010d}", SUFFIXES[painted.settings.format]))
        save_picture(painted, paths[-1])
        pictures.append(painted.picture)
    sheet = out / free_name(out, f"sheet-{comparison.requests[0].seed:010d}", ".png")
    save_sheet(comparison.sheet(pictures), sheet)
    return [*paths, sheet]


def compare(request: PaintRequest, x: str, y: str | None = None, z: str | None = None) -> Comparison:
    """A comparison along one axis, two or three, each written FIELD=VALUE,VALUE or, where values have commas, FIELD=VALUE|VALUE.

    Several styles at once are written oil+night.  RequestError for a field that is none, or a value that cannot be.
    """
    fixed: list[tuple[str, dict[str, Any]]] = [("", {})]
    axes = [fixed if axis is None else _axis(axis) for axis in (z, y, x)]
    fields = [name for axis in axes for name in axis[0][1]]
    if twice := next((name for name in fields if fields.count(name) > 1), None):
        raise RequestError(f"{twice!r} cannot change in two directions of a sheet.")
    places = [{**section, **beside, **above} for (_, section), (_, beside), (_, above) in product(*axes)]
    return _compared(request, places, *([label for label, _ in axis] for axis in axes))


def compare_arrays(request: PaintRequest) -> Comparison:
    """The comparison that the arrays of a prompt ask for, three at most: the last along the columns, the one before it down the rows, and
    the one before that section by section.
    """
    prompt = parse(request.prompt, request.literal)
    values = [[plain(value) or "nothing" for value in choices((part,))] for part in prompt if isinstance(part, Array)]
    finals = [{"prompt": show(each)} for each in choices(prompt)]
    if not 1 <= len(values) <= 3 or len(finals) != prod(map(len, values)):
        raise RequestError("a sheet of a prompt wants one array, two or three, such as [[red, blue]], outside of brackets.")
    return _compared(request, finals, *[[""]] * (3 - len(values)), *values)


def _compared(request: PaintRequest, places: list[dict[str, Any]], sections: list[str], rows: list[str], columns: list[str]) -> Comparison:
    if request.count != 1:
        raise RequestError(f"a sheet shows one picture in each place, and {request.count} are asked for. Leave the count out.")
    if len(places) > MAX_PICTURES:
        raise RequestError(f"a sheet of {len(places):,} pictures is too large; {MAX_PICTURES} are possible.")
    of_words = {name for place in places for name in place} & set(ASKING)
    if request.asked is not None and of_words:
        raise RequestError(f"the prompt is locked, so a sheet cannot change {min(of_words)!r}. Unlock it, or compare other settings.")
    shared = {name: getattr(request, name) for name in request.model_fields_set}
    return Comparison(tuple(read_request({**shared, **fields}) for fields in places), tuple(columns), tuple(rows), tuple(sections))


def _axis(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Labels and fields of the places along an axis."""
    written, equals, rest = (part.strip() for part in text.partition("="))
    name = "styles" if written == "style" else written
    if not equals or name not in _COMPARED:
        raise RequestError(f"{text!r:.80} is no axis, which is written like steps=5,10,20.{did_you_mean(name, _COMPARED) if name else ''}")
    values = [value.strip() for value in rest.split("|" if "|" in rest else ",")]
    return [(f"{written} {value or 'none'}", {name: _value(name, value)}) for value in values]


def _value(name: str, value: str) -> Any:
    match name:
        case "size":
            return value.lower().split("x")
        case "styles":
            return [style.strip() for style in value.split("+") if style.strip()]
        case "prompt" | "negative":
            return value
        case _:
            return value or None


def _scaled(picture: Image.Image, scale: float) -> Image.Image:
    shown = picture.convert("RGB")
    if scale == 1:
        return shown
    return shown.resize((max(1, round(shown.width * scale)), max(1, round(shown.height * scale))), Image.Resampling.LANCZOS)


def _wrapped(text: str, font: Any, width: int) -> str:
    """The text in at most three lines of about that many pixels; what is longer ends in dots."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > 3:
        lines = [*lines[:2], lines[2] + " ..."]
    return "\n".join(_cut(line, font, width) for line in lines)


def _cut(line: str, font: Any, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    kept = next(n for n in range(len(line), -1, -1) if font.getlength(line[:n] + "...") <= width or n == 0)
    return line[:kept] + "..."


def _extent(text: str, font: Any) -> tuple[int, int]:
    """Width and height of lines as they are drawn."""
    box = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font)
    return (round(box[2] - box[0]), round(box[3] - box[1])) if text else (0, 0)
