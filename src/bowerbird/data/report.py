"""What lies in a folder of pictures, for people: words, data.json, and a page to look at (`bowerbird inspect`)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bowerbird.data.decode import Fit, window
from bowerbird.data.picture_set import Pictures
from bowerbird.data.pictures import read_pictures
from bowerbird.data.previews import decode_whole
from bowerbird.data.summary import looks, near_groups
from bowerbird.pages import data_uri, render
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.storage import Disk, ensure_folder, write_file

_PREVIEW_PX = 128
_SHOWN = 48  # thumbnails in the large sheet
_SHOWN_OF_A_KIND = 24  # and in each small one
_LISTED = 500  # names in a list of the page; data.json has all
_OCTAVE_PX = 30  # of the plot of sizes: from 8 px to 16,384 px are eleven octaves
_SHOWABLE = {"E_TRUNCATED", "E_DAMAGED", "E_TOO_SMALL", "E_RIBBON"}  # rejected, and yet there may be something to see


@dataclass(frozen=True)
class Inspection:
    """A folder of pictures, looked through."""

    pictures: Pictures

    def to_json(self) -> dict[str, Any]:
        """The account that data.json holds."""
        return self.pictures.report

    def to_text(self) -> str:
        """The account in a screenful of words."""
        report = self.pictures.report
        counts, captions, labels, sizes = report["counts"], report["captions"], report["labels"], report["sizes"]
        lines = [
            f"{report['source']}: {report['pictures']:,} pictures in {report['files']:,} files",
            "  files     " + ", ".join(f"{count:,} {state}" for state, count in counts.items() if count),
            "  changed   " + _enumerate(report["changes"]),
            "  rejected  " + _enumerate(report["rejections"]),
            *(f"            {file['name']}: {file['code']}, {file['reason']}" for file in report["rejected"][:10]),
            *([f"            and {len(report['rejected']) - 10:,} more"] if len(report["rejected"]) > 10 else []),
            "  formats   " + _enumerate(report["formats"]),
        ]
        if sizes:
            side = sizes["shorter_side"]
            lines.append(
                f"  size      shorter side {side[0]} to {side[4]} px, typically {side[2]}; width/height typically {sizes['aspect'][2]}"
            )
        lines += [
            f"  captions  {captions['pictures']:,} pictures, {captions['distinct']:,} distinct captions"
            + (f" ({_enumerate(captions['from'])})" if captions["from"] else ""),
            *([f"  masks     {report['masks']:,} pictures"] if report["masks"] else []),
            "  labels    " + _enumerate(dict(sorted(labels.items(), key=lambda item: -item[1])[:12])),
            "  looks     " + _enumerate({look: len(names) for look, names in report["looks"].items() if names}),
            f"  near-duplicates  {sum(map(len, report['near_duplicates'])):,} pictures in {len(report['near_duplicates']):,} groups",
            f"  split     {report['split']['train']:,} to train on, {report['split']['held']:,} held out ({report['split']['how']})",
            *(f"  ! {words}" for words in [*captions["problems"], *report["advice"]]),
        ]
        return "\n".join(line for line in lines if not line.endswith("  "))

    def write_html(self, out: Path) -> Path:
        """Write report.html, one page with everything in it, and data.json into `out`; returns the page."""
        page = render(
            "pictures.html",
            report=self.pictures.report,
            listed=_LISTED,
            octave=_OCTAVE_PX,
            sizes=_sizes_seen(self.pictures),
            **_figures(self.pictures),
        )
        disk = Disk()
        ensure_folder(disk, out)
        write_file(disk, out / "data.json", self.pictures.report_json())
        write_file(disk, out / "report.html", page.encode())
        return out / "report.html"


def inspect(
    source: Path,
    size: int,
    fit: Fit = "crop",
    out: Path | None = None,
    on_progress: OnProgress | None = None,
    *,
    workers: int | None = None,
) -> Inspection:
    """Look a folder or archive through as training would, and with `out` write report.html and data.json there."""
    inspection = Inspection(read_pictures(source, size, fit, 0.1, 0, on_progress, workers=workers))
    if out is not None:
        tell(on_progress, Progress("report", 0, 1))
        inspection.write_html(out)
    return inspection


# ------------------------------------------------------------------------------------------------ what the page shows


@dataclass(frozen=True)
class Figure:
    """A thumbnail and the words below it."""

    image: str  # a data: URI
    name: str
    words: str = ""


def _figures(pictures: Pictures) -> dict[str, Any]:
    """Sheets of thumbnails by the names the template uses."""
    showable = [file for file in pictures.files if file.code in _SHOWABLE][: 4 * _SHOWN_OF_A_KIND]
    framed = _framed(pictures)
    paths = [file.path for file in showable] + [pictures.paths[row] for row in framed]
    whole = {path: pixels for path, (pixels, _) in decode_whole(pictures, paths, _PREVIEW_PX, lenient=True).items()}
    shown = [file for file in showable if file.path in whole][:_SHOWN_OF_A_KIND]
    return {
        "sample": _from_rows(pictures, np.unique(np.linspace(0, len(pictures.names) - 1, _SHOWN).astype(int)) if pictures.names else []),
        "held": _from_rows(pictures, pictures.held[:_SHOWN_OF_A_KIND]),
        "crops": [(_crop_shown(whole[pictures.paths[row]], pictures, row), _thumbnail(pictures.pixels[row])) for row in framed],
        "odd_looks": {look: _from_rows(pictures, rows[:_SHOWN_OF_A_KIND]) for look, rows in looks(pictures.examined).items() if rows},
        "near": [_from_rows(pictures, group[:6]) for group in near_groups(pictures.groups)[:12]],
        "rejected": [Figure(_thumbnail(whole[file.path]), file.name, f"{file.code}: {file.reason}") for file in shown],
    }


def _from_rows(pictures: Pictures, rows: Sequence[int] | NDArray[np.int64]) -> list[Figure]:
    return [Figure(_thumbnail(pictures.pixels[row]), pictures.names[row], " / ".join(pictures.captions[row])) for row in rows]


def _framed(pictures: Pictures) -> list[int]:
    """Rows of pictures to show with a frame around what is kept: a dozen with boxes, or those the crop cuts most, if by a fifth."""
    if pictures.report["fit"] == "pad":
        return []
    if pictures.boxes:
        return list(range(0, len(pictures.paths), max(1, len(pictures.paths) // 12)))[:12]
    kept = [min(one.width, one.height) / max(one.width, one.height) for one in pictures.examined]
    return [row for row in sorted(range(len(kept)), key=kept.__getitem__)[:12] if kept[row] < 0.8]


def _crop_shown(preview: NDArray[np.uint8], pictures: Pictures, row: int) -> str:
    """The whole picture with a frame around what training sees."""
    image = Image.fromarray(preview)
    one = pictures.examined[row]
    scale = _PREVIEW_PX / max(one.width, one.height)
    left, top, side = window(one.width, one.height, pictures.boxes.get(pictures.paths[row]))
    x, y = (_PREVIEW_PX - one.width * scale) / 2 + left * scale, (_PREVIEW_PX - one.height * scale) / 2 + top * scale
    ImageDraw.Draw(image).rectangle((x, y, x + side * scale - 1, y + side * scale - 1), outline=(230, 0, 90), width=2)
    return _thumbnail(np.asarray(image))


def _thumbnail(pixels: NDArray[np.uint8]) -> str:
    """A picture as a data: URI, at most 128 px."""
    image = Image.fromarray(np.asarray(pixels))
    image.thumbnail((_PREVIEW_PX, _PREVIEW_PX))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90)
    return data_uri(buffer.getvalue(), "webp")


def _enumerate(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _sizes_seen(pictures: Pictures) -> list[tuple[float, float]]:
    """Width and height of the pictures as places in the plot, logarithmic, each place once."""
    sizes = np.array([(one.width, one.height) for one in pictures.examined], np.float64).reshape(-1, 2)
    return [(x, y) for x, y in np.unique(np.round(_OCTAVE_PX * np.log2(sizes / 8)), axis=0).tolist()]
