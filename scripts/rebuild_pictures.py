"""The picture set that the bundled parts learnt from, made again from the packages it came from, and checked file by file.

    apt-get install librsvg2-bin && pip install resvg-py==0.5.0         # what draws
    python scripts/rebuild_pictures.py PACKAGES OUT [noto twemoji ...]  # all sources, or these

PACKAGES keeps the packages (180 MB); those that lack are fetched there by npm and apt-get, the latter from a Debian 12 that has
been told of its packages (apt-get update).  OUT gets birds/, animals/, clipart/ and more/, metadata.csv, more/metadata.csv and splits.csv.

scripts/picture_set.csv.xz has a row a picture, in the set's order: where it lies in its package, caption, label, source, licence,
subject, split, and the first half of its file's SHA-256.  The same file comes out where librsvg, resvg, Pillow and libwebp draw and
compress alike (Debian 12's, 0.5.0 and 12.3.0 do); each that does not is named, and is the same picture with other rounding.

How each was drawn: vector pictures 256 px large, on white; what is not white cut out, brought to a longest side by Lanczos, in the
middle of 256 x 256; WebP of quality 88.  photographs: the middle square.  docs/picture-set.md has the sources and whom to credit.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import lzma
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LIST = Path(__file__).with_name("picture_set.csv.xz")
METADATA, SPLITS = ("file_name", "text", "label", "source", "licence"), ("file_name", "subject", "split")
SIDE_PX = 256
EMOJI_PX, CLIP_ART_PX, PLANET_PX = 230, 225, 245  # longest sides
SMALL_PX = 150  # clip art drawn smaller than that on its page is drawn anew, larger
LARGER_PX = 240
LARGEST_PAGE_PX = 2048
NEARLY_WHITE = 8  # of 255
QUALITY = 88
ICONIFY = "@iconify-json/"


@dataclass(frozen=True)
class Package:
    """name and version as npm and Debian have them; inside: the folder of what is taken, below where it is unpacked."""

    name: str
    version: str
    inside: str

    @property
    def folder(self) -> str:
        return f"{self.name.strip('@').replace('/', '-')}-{self.version.replace(':', '_')}"

    def fetch(self, home: Path) -> Path:
        """Where it lies unpacked below `home`; fetched if it does not yet."""
        place = home / self.folder
        if not place.exists():
            beside = home / f"{self.folder}.part"
            beside.mkdir(parents=True, exist_ok=True)
            if self.inside.startswith("usr/"):
                subprocess.run(["apt-get", "download", f"{self.name}={self.version}"], cwd=beside, check=True)
                for file in beside.glob("*.deb"):
                    subprocess.run(["dpkg-deb", "-x", file.name, "."], cwd=beside, check=True)
            else:
                npm = ["npm", "pack", "--silent", f"{self.name}@{self.version}"]
                subprocess.run(npm, cwd=beside, check=True, stdout=subprocess.DEVNULL)
                for file in beside.glob("*.tgz"):
                    subprocess.run(["tar", "xzf", file.name], cwd=beside, check=True)
            beside.rename(place)
        return place / self.inside


SOURCES = {
    **{
        name: Package(f"{ICONIFY}{name}", version, "package")
        for name, version in {
            "noto": "1.2.9", "noto-v1": "1.2.5", "fxemoji": "1.2.2", "fluent-emoji": "1.2.7", "fluent-emoji-flat": "1.2.6",
            "twemoji": "1.2.5", "streamline-emojis": "1.2.4",
        }.items()
    },
    "fluent-emoji-3d": Package("@lobehub/fluent-emoji-3d", "1.1.0", "package/assets"),
    "openclipart": Package("openclipart-svg", "1:0.18+dfsg-19", "usr/share/openclipart/svg"),
    "gcompris": Package("gcompris-qt-data", "3.1-2", "usr/share"),
}  # fmt: skip


def main(home: Path, out: Path, wanted: Sequence[str]) -> None:
    if unknown := set(wanted) - SOURCES.keys():
        sys.exit(f"there is no source {sorted(unknown)}; there are {', '.join(SOURCES)}.")
    chosen = {name: SOURCES[name] for name in wanted or SOURCES}
    places = {name: package.fetch(home) for name, package in chosen.items()}
    with lzma.open(LIST, "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["package"] in chosen]
    for folder in {row["file_name"].rpartition("/")[0] for row in rows}:
        (out / folder).mkdir(parents=True, exist_ok=True)
    other = []
    with Pool() as pool:
        for number, (row, same) in enumerate(zip(rows, pool.imap(partial(make, places, out), rows, 16), strict=True), 1):
            other += [] if same else [row]
            if number % 1000 == 0:
                print(f"{number:,} of {len(rows):,}", flush=True)
    write_table(out / "metadata.csv", METADATA, rows, "\r\n")
    if more := [{**row, "file_name": name} for row in rows if (name := row["file_name"].removeprefix("more/")) != row["file_name"]]:
        write_table(out / "more/metadata.csv", METADATA, more, "\r\n")
    write_table(out / "splits.csv", SPLITS, rows, "\n")
    counted, differ = (Counter(row["package"] for row in some) for some in (rows, other))
    for name in chosen:
        print(f"{name}: {counted[name]:,} pictures, {counted[name] - differ[name]:,} the same to the last byte")
    if other:
        (out / "other.txt").write_text("".join(f"{row['file_name']}\n" for row in other))
        print(f"{len(other):,} files are not the same; their names are in {out / 'other.txt'}.")


def make(places: Mapping[str, Path], out: Path, row: Mapping[str, str]) -> bool:
    """Draw one picture into `out`; whether it is the same file as it was."""
    name, package = row["file_name"], row["package"]
    buffer = io.BytesIO()
    draw(package, places[package], row["entry"], name).save(buffer, "WEBP", quality=QUALITY, method=4)
    (out / name).write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest().startswith(row["sha256"])


def draw(package: str, place: Path, entry: str, name: str) -> Image.Image:
    if package == "openclipart":
        return clip_art(place / entry)
    if package == "gcompris":
        return photograph(place, entry)
    if package == "fluent-emoji-3d":
        return on_white(Image.open(place / entry)).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)  # all but one are of that size
    svg = iconify_svg(place, entry).encode()
    if name.startswith("more/"):  # made later, by another hand
        return centred(on_white(by_resvg(svg, SIDE_PX)), EMOJI_PX, by_grey=True)
    return centred(on_white(by_rsvg(svg, SIDE_PX)), EMOJI_PX)


# ------------------------------------------------------------------------------------------------ from packages


@cache
def icons(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "icons.json").read_text())
    return found


def iconify_svg(place: Path, name: str) -> str:
    """An icon of an Iconify set, or an alias of one, as an SVG: its body, within its own bounds or those of the set."""
    whole = icons(place)
    alias = whole.get("aliases", {}).get(name, {"parent": name})
    icon = {"left": 0, "top": 0, **{side: whole.get(side, 16) for side in ("width", "height")}, **whole["icons"][alias["parent"]], **alias}
    width, height = icon["width"], icon["height"]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width}" height="{height}" '
        f'viewBox="{icon["left"]} {icon["top"]} {width} {height}">{icon["body"]}</svg>'
    )


def clip_art(path: Path) -> Image.Image:
    """What is drawn on the page, from the page at 256 px; from a larger one where that left it small."""
    svg = path.read_bytes()
    whole = on_white(by_rsvg(svg, SIDE_PX))
    left, top, right, bottom = drawn_box(whole)
    longest = max(right - left, bottom - top)
    if longest < SMALL_PX:
        whole = on_white(by_rsvg(svg, min(SIDE_PX * LARGER_PX // longest, LARGEST_PAGE_PX)))
    return centred(whole, CLIP_ART_PX)


def photograph(place: Path, entry: str) -> Image.Image:
    """entry: 'lang.rcc:words_sample/bison.webp'.  The swimming fish are two pictures side by side, of which the first is taken."""
    archive, _, path = entry.partition(":")
    picture = Image.open(io.BytesIO(resources(next(place.rglob(archive)))[path]))
    if archive == "clickgame.rcc" and not path.startswith("sea"):
        return centred(on_white(picture.crop((0, 0, picture.width // 2, picture.height))), CLIP_ART_PX)
    if archive == "solar_system.rcc":
        return centred(on_white(picture), PLANET_PX)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return on_white(picture).crop((left, top, left + side, top + side)).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


@cache
def resources(path: Path) -> dict[str, bytes]:
    """The pictures in a Qt resource file, by their path below /resource/; Qt leaves what is compressed already as it is.

    A header of offsets, a tree of nodes (name, flags; of folders their children, of files their data), data and names, big-endian.
    """
    packed = path.read_bytes()
    version, tree, data, names = struct.unpack(">4xIIII", packed[:20])
    node_bytes = 22 if version >= 2 else 14
    found: dict[str, bytes] = {}

    def walk(node: int, above: str) -> None:
        name, flags, one, other = struct.unpack_from(">IHII", packed, tree + node * node_bytes)
        (letters,) = struct.unpack_from(">H", packed, names + name)
        here = f"{above}/{packed[names + name + 6 : names + name + 6 + 2 * letters].decode('utf-16-be')}" if node else ""
        if flags & 2:
            for child in range(other, other + one):
                walk(child, here)
        elif not flags & 5:  # neither zlib nor zstd
            (size,) = struct.unpack_from(">I", packed, data + other)
            found[here.rpartition("/resource/")[2]] = packed[data + other + 4 : data + other + 4 + size]

    walk(0, "")
    return found


# ------------------------------------------------------------------------------------------------ drawing


def by_rsvg(svg: bytes, side_px: int) -> Image.Image:
    """Its longest side `side_px`."""
    sides = ("-w", str(side_px), "-h", str(side_px), "--keep-aspect-ratio")
    return Image.open(io.BytesIO(subprocess.run(["rsvg-convert", *sides], input=svg, capture_output=True, check=True).stdout))


def by_resvg(svg: bytes, side_px: int) -> Image.Image:
    import resvg_py

    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg.decode(), width=side_px, height=side_px))))


def on_white(picture: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture.convert("RGBA"))
    return ground.convert("RGB")


def drawn_box(picture: Image.Image, by_grey: bool = False) -> tuple[int, int, int, int]:
    """Bounds of what differs from white by more than a trace, in any colour or in its grey level."""
    darkness = 255 - np.asarray(picture.convert("L"))[..., None] if by_grey else 255 - np.asarray(picture)
    rows, columns = np.nonzero(darkness.max(2) > NEARLY_WHITE)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def centred(picture: Image.Image, longest_px: int, by_grey: bool = False) -> Image.Image:
    """What is drawn, its longest side of that length, in the middle of a white square."""
    cut = picture.crop(drawn_box(picture, by_grey))
    factor = longest_px / max(cut.size)
    size = max(1, round(cut.width * factor)), max(1, round(cut.height * factor))
    square = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
    square.paste(cut.resize(size, Image.Resampling.LANCZOS), ((SIDE_PX - size[0]) // 2, (SIDE_PX - size[1]) // 2))
    return square


def write_table(path: Path, fields: Sequence[str], rows: Sequence[Mapping[str, str]], line_end: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore", lineterminator=line_end)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
