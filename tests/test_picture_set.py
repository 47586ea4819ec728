"""The list by which the picture set is made again: whole, true of the pictures that come with the project, and no subject on two sides."""

from __future__ import annotations

import csv
import hashlib
import json
import lzma
import struct
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from scripts import rebuild_pictures
from scripts.starter_pictures import SIDES

from tests.conftest import EXAMPLES


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with lzma.open(rebuild_pictures.LIST, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_list_is_whole(rows: list[dict[str, str]]) -> None:
    """Every picture once, from a source there is, with words, licence and a split; by name no picture leaves its folder."""
    assert len(rows) == len({row["file_name"] for row in rows}) == 13_315
    for row in rows:
        assert row["package"] in rebuild_pictures.SOURCES
        assert all(row.values()), row
        assert row["split"] in SIDES
        folder, _, name = row["file_name"].partition("/")
        assert folder in ("birds", "animals", "clipart", "more") and "/" not in name
        assert (folder == "more") == row["split"].startswith("more-")


def test_a_subject_lies_on_one_side(rows: list[dict[str, str]]) -> None:
    """Whatever its style: else what is held out would have been seen in another."""
    splits = defaultdict(set)
    for row in rows:
        splits[row["subject"]].add(row["split"].removeprefix("more-"))
    assert not [subject for subject, found in splits.items() if "held" in found and len(found) > 1]


def test_the_list_speaks_of_the_pictures_that_come_with_the_project(rows: list[dict[str, str]]) -> None:
    known = {row["file_name"]: row for row in rows}
    for folder in ("birds", "animals"):
        with (EXAMPLES / folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
            told = list(csv.DictReader(file))
        assert told
        for picture in told:
            name = f"{folder}/{picture['file_name'].rpartition('/')[2]}"
            row = known[name]
            assert hashlib.sha256((EXAMPLES / name).read_bytes()).hexdigest().startswith(row["sha256"])
            assert (picture["text"], picture["label"], picture["licence"]) == (row["text"], row["label"], row["licence"])


def test_what_is_drawn_lies_in_the_middle() -> None:
    """Wherever it was and however small; its longest side as told, its shape kept."""
    picture = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(picture).rectangle((5, 100, 24, 139), fill="navy")  # 20 x 40
    left, top, right, bottom = rebuild_pictures.drawn_box(rebuild_pictures.centred(picture, 230))
    assert (bottom - top, right - left) == (230, 115)
    assert abs(left - (256 - right)) <= 1 and top == 256 - bottom


def test_icons_and_their_aliases_are_drawn_in_their_own_bounds(tmp_path: Path) -> None:
    icons = {"a": {"body": "<a/>"}, "b": {"body": "<b/>", "width": 20, "left": 3}}
    (tmp_path / "icons.json").write_text(json.dumps({"width": 16, "height": 12, "icons": icons, "aliases": {"c": {"parent": "b"}}}))
    assert 'viewBox="0 0 16 12"><a/>' in rebuild_pictures.iconify_svg(tmp_path, "a")
    assert 'viewBox="3 0 20 12"><b/>' in rebuild_pictures.iconify_svg(tmp_path, "c")


def test_a_qt_resource_file_gives_its_pictures(tmp_path: Path) -> None:
    """As Qt's rcc lays them out: here /resource/fish.webp, of four bytes."""
    path = tmp_path / "fish.rcc"
    path.write_bytes(resource_file({"resource": {"fish.webp": b"fish"}}))
    assert rebuild_pictures.resources(path) == {"fish.webp": b"fish"}


def resource_file(tree: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """Two levels, version 1."""
    ((folder, files),) = tree.items()
    names, data, nodes = b"", b"", [struct.pack(">IHII", 0, 2, 1, 1)]
    offsets = {}
    for name in (folder, *files):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    nodes.append(struct.pack(">IHII", offsets[folder], 2, len(files), 2))
    for name, content in files.items():
        nodes.append(struct.pack(">IHII", offsets[name], 0, 0, len(data)))
        data += struct.pack(">I", len(content)) + content
    body = b"".join(nodes)
    return b"qres" + struct.pack(">IIII", 1, 20, 20 + len(body), 20 + len(body) + len(data)) + body + data + names
