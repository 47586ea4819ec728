"""Captions and labels, from the files that lie beside the pictures.

Captions: a sidecar `cat.txt` beside `cat.jpg`; then `metadata.csv` or `metadata.jsonl` (columns file_name and text, as
Hugging Face's ImageFolder has them) in the picture's own folder, then in its parents', the nearest first.
Labels: the table's label column; where no table has one, the sub-folder.
"""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from bowerbird.data.decode import Rejected, Signature
from bowerbird.data.decode import read as read_file
from bowerbird.data.names import printable

TABLES = ("metadata.csv", "metadata.jsonl")
SPLIT_FOLDERS = {"train": False, "training": False, "test": True, "testing": True, "val": True, "valid": True, "validation": True}
_NAME_COLUMNS = ("file_name", "filename", "file", "image", "path")
_TEXT_COLUMNS = ("text", "caption", "prompt", "description")
_LABEL_COLUMNS = ("label", "class", "category")
_MAX_SIDECAR_BYTES = 64 * 1024
_MAX_CAPTION = 10_000  # characters


@dataclass
class Descriptions:
    """What is said about each picture, by its path below the root; '' where nothing is."""

    captions: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)  # pictures with two different captions: the nearest won
    problems: list[str] = field(default_factory=list)  # what could not be read, in words
    orphans: int = 0  # table rows that name no picture


Row = tuple[str, str]  # caption, label


def is_description(path: str, stems: set[str]) -> bool:
    """Whether a file describes pictures: a table, or a .txt beside a file of the same stem (`stems`: those of other files)."""
    stem, suffix = os.path.splitext(path)  # noqa: PTH122
    return PurePosixPath(path).name.lower() in TABLES or (suffix.lower() == ".txt" and stem in stems)


def describe(root: Path, pictures: Sequence[str], files: dict[str, Signature]) -> Descriptions:
    """Captions and labels of `pictures` from the description files among `files` (paths below `root`, '/'-separated)."""
    said = Descriptions()
    tables: dict[str, list[dict[str, Row]]] = {}
    for path in sorted(files):
        if PurePosixPath(path).name.lower() in TABLES:
            tables.setdefault(_folder(path), []).append(_read_table(root, path, files[path], said))
    used: set[int] = set()
    for picture in pictures:
        texts = []
        sidecar = os.path.splitext(picture)[0] + ".txt"  # noqa: PTH122
        if sidecar in files:
            texts.append(_read_sidecar(root, sidecar, files[sidecar], said))
        for row in _rows_about(picture, tables):
            used.add(id(row))
            texts.append(row[0])
            if row[1]:
                said.labels.setdefault(picture, row[1])
        texts = [text for text in texts if text]
        if texts:
            said.captions[picture] = texts[0]
        if len(set(texts)) > 1:
            said.conflicts.append(picture)
    said.orphans = sum(id(row) not in used for folder in tables.values() for table in folder for row in table.values())
    if not said.labels:
        said.labels = labels_from_folders(pictures)
    return said


def labels_from_folders(pictures: Sequence[str]) -> dict[str, str]:
    """Each picture's label: the first folder in which the pictures differ.  Folders named train, test and the like are looked through."""
    folders = {picture: picture.split("/")[:-1] for picture in pictures}
    if split_by_folder(pictures):
        folders = {picture: parts[1:] for picture, parts in folders.items()}
    first, last = min(folders.values(), default=[]), max(folders.values(), default=[])
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    labels = {picture: printable(parts[shared]) for picture, parts in folders.items() if len(parts) > shared}
    return labels if len(set(labels.values())) > 1 else {}


def split_by_folder(pictures: Sequence[str]) -> dict[str, bool]:
    """Whether each picture is held out, when the top folders are a split (train and test, or val) and nothing else; else {}."""
    tops = {picture: picture.split("/")[0].lower() if "/" in picture else "" for picture in pictures}
    names = set(tops.values())
    if not names <= SPLIT_FOLDERS.keys() or {SPLIT_FOLDERS[name] for name in names} != {False, True}:
        return {}
    return {picture: SPLIT_FOLDERS[top] for picture, top in tops.items()}


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _rows_about(picture: str, tables: dict[str, list[dict[str, Row]]]) -> Iterator[Row]:
    """Table rows about a picture, from its own folder up to the root."""
    folder = _folder(picture)
    while True:
        name = picture[len(folder) + 1 :] if folder else picture
        for table in tables.get(folder, ()):
            row = table.get(name) or table.get(unicodedata.normalize("NFC", name))
            if row:
                yield row
        if not folder:
            return
        folder = _folder(folder)


def _read_sidecar(root: Path, path: str, expected: Signature, said: Descriptions) -> str:
    try:
        data = read_file(root / path, expected)
    except Rejected as error:
        said.problems.append(f"{printable(path)}: {error.reason}")
        return ""
    if len(data) > _MAX_SIDECAR_BYTES:
        said.problems.append(f"{printable(path)}: {len(data):,} bytes is more than a caption; at most {_MAX_SIDECAR_BYTES:,}")
        return ""
    return _clean(_text(data))


def _read_table(root: Path, path: str, expected: Signature, said: Descriptions) -> dict[str, Row]:
    """Rows by file name, each also by its NFC form; the first row about a picture wins."""
    try:
        text = _text(read_file(root / path, expected))
        records = list(_csv_records(text) if path.lower().endswith(".csv") else _json_records(text, path, said))
    except Rejected as error:
        said.problems.append(f"{printable(path)}: {error.reason}")
        return {}
    except csv.Error as error:
        said.problems.append(f"{printable(path)}: not a CSV table ({error})")
        return {}
    table: dict[str, Row] = {}
    for record in records:
        name = _first(record, _NAME_COLUMNS).replace("\\", "/").removeprefix("./")
        row = (_clean(_first(record, _TEXT_COLUMNS)), _clean(_first(record, _LABEL_COLUMNS)))
        if name and any(row):
            table.setdefault(unicodedata.normalize("NFC", name), table.setdefault(name, row))
    if records and not table:
        said.problems.append(f"{printable(path)}: no rows with a {_NAME_COLUMNS[0]} and a {_TEXT_COLUMNS[0]} or {_LABEL_COLUMNS[0]} column")
    return table


def _csv_records(text: str) -> Iterator[dict[str, object]]:
    csv.field_size_limit(2**20)
    yield from ({str(key).strip().lower(): value for key, value in record.items()} for record in csv.DictReader(io.StringIO(text)))


def _json_records(text: str, path: str, said: Descriptions) -> Iterator[dict[str, object]]:
    bad = 0
    for line in filter(str.strip, text.split("\n")):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            yield {str(key).strip().lower(): value for key, value in record.items()}
        else:
            bad += 1
    if bad:
        said.problems.append(f"{printable(path)}: {bad} lines are not JSON objects")


def _first(record: dict[str, object], columns: Sequence[str]) -> str:
    value = next((record[column] for column in columns if record.get(column) is not None), "")
    return str(value) if isinstance(value, str | int | float) else ""


def _text(data: bytes) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding, "replace")


def _clean(text: str) -> str:
    """One line, single spaces, no control characters, a bounded length."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_MAX_CAPTION]
