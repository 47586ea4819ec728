"""Tables of captions and labels: `metadata.csv` or `metadata.jsonl`, as Hugging Face's ImageFolder has them.

Columns file_name, text, label.  The table of the picture's own folder comes first, then its parents'.  A picture with several
rows in a table has several captions; in a .jsonl the text may also be a list of them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bowerbird.data.decode import Rejected, signature
from bowerbird.data.layouts.layout import Files, Said
from bowerbird.data.layouts.lists import clean, distinct, read_list
from bowerbird.data.names import printable
from bowerbird.errors import PictureFolderError

TABLES = ("metadata.csv", "metadata.jsonl")
_NAME_COLUMNS = ("file_name", "filename", "file", "image", "path")
_TEXT_COLUMNS = ("text", "texts", "caption", "captions", "prompt", "description")
_LABEL_COLUMNS = ("label", "class", "category")


@dataclass
class _About:
    """What a table says about one picture."""

    captions: list[str]
    label: str = ""
    writer: str = ""
    rows: int = 0
    used: bool = False


_Table = dict[str, _About]  # by file name, and by its NFC form


@dataclass(frozen=True)
class Tables:
    lists: frozenset[str]
    name: str = "metadata tables"

    def read(self, root: Path, files: Files, pictures: Sequence[str]) -> Said:
        said = Said()
        tables: dict[str, list[_Table]] = {}
        for path in sorted(self.lists):
            tables.setdefault(_folder(path), []).append(_read_table(root, path, files, said))
        return _said(said, tables, pictures)


@dataclass(frozen=True)
class TableElsewhere:
    """A table that does not lie among the pictures, such as `bowerbird caption` writes; its names are paths below the root."""

    path: Path
    lists: frozenset[str] = frozenset()
    name: str = "a table elsewhere"

    def read(self, root: Path, files: Files, pictures: Sequence[str]) -> Said:
        try:
            seen = signature(os.lstat(self.path))
        except OSError as error:
            raise PictureFolderError(
                f"cannot read the captions {str(self.path)!r} ({error.strerror}). Name the file they are in."
            ) from error
        said = Said()
        table = _read_table(self.path.parent, self.path.name, {self.path.name: seen}, said)
        if not table:
            raise PictureFolderError(f"there are no captions in {'; '.join(said.problems) or repr(str(self.path))}. Name another file.")
        return _said(said, {"": [table]}, pictures)


def _said(said: Said, tables: dict[str, list[_Table]], pictures: Sequence[str]) -> Said:
    """`said`, with what the tables of each folder say."""
    for picture in pictures:
        for about in _rows_about(picture, tables):
            about.used = True
            captions = distinct(about.captions)
            if captions and picture not in said.captions:
                said.captions[picture] = captions
                said.writers.update([about.writer] if about.writer else [])
            elif captions and said.captions[picture] != captions:
                said.conflicts.add(picture)
            if about.label:
                said.labels.setdefault(picture, about.label)
    every = {id(about): about for folder in tables.values() for table in folder for about in table.values()}
    said.orphans = sum(about.rows for about in every.values() if not about.used)
    return said


def find(files: Files) -> Tables | None:
    found = frozenset(path for path in files if PurePosixPath(path).name.lower() in TABLES)
    return Tables(found) if found else None


def read_records(path: str, text: str, problems: list[str]) -> list[dict[str, object]]:
    """The rows of a .csv or .jsonl as dictionaries with lower-case keys; what is none is told in `problems`."""
    try:
        return list(_csv_records(text) if path.lower().endswith(".csv") else _json_records(text, path, problems))
    except csv.Error as error:
        problems.append(f"{printable(path)}: not a CSV table ({error})")
        return []


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _rows_about(picture: str, tables: dict[str, list[_Table]]) -> Iterator[_About]:
    """What tables say about a picture, from its own folder up to the root."""
    folder = _folder(picture)
    while True:
        name = picture[len(folder) + 1 :] if folder else picture
        for table in tables.get(folder, ()):
            about = table.get(name) or table.get(unicodedata.normalize("NFC", name))
            if about:
                yield about
        if not folder:
            return
        folder = _folder(folder)


def _read_table(root: Path, path: str, files: Files, said: Said) -> _Table:
    try:
        records = read_records(path, read_list(root, path, files[path]), said.problems)
    except Rejected as error:
        said.problems.append(f"{printable(path)}: {error.reason}")
        return {}
    table: _Table = {}
    for record in records:
        name = text_of(record, _NAME_COLUMNS).replace("\\", "/").removeprefix("./")
        captions, label = _captions(record), clean(text_of(record, _LABEL_COLUMNS))
        if name and (captions or label):
            about = table.setdefault(unicodedata.normalize("NFC", name), table.setdefault(name, _About([])))
            about.captions += captions
            about.label = about.label or label
            about.writer = about.writer or clean(text_of(record, ("written_by",)))
            about.rows += 1
    if records and not table:
        said.problems.append(f"{printable(path)}: no rows with a {_NAME_COLUMNS[0]} and a {_TEXT_COLUMNS[0]} or {_LABEL_COLUMNS[0]} column")
    return table


def _csv_records(text: str) -> Iterator[dict[str, object]]:
    csv.field_size_limit(2**20)
    yield from ({str(key).strip().lower(): value for key, value in record.items()} for record in csv.DictReader(io.StringIO(text)))


def _json_records(text: str, path: str, problems: list[str]) -> Iterator[dict[str, object]]:
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
        problems.append(f"{printable(path)}: {bad} lines are not JSON objects")


def _captions(record: dict[str, object]) -> list[str]:
    several = next((record[column] for column in _TEXT_COLUMNS if isinstance(record.get(column), list)), None)
    if isinstance(several, list):
        return [clean(each) for each in several if isinstance(each, str) and clean(each)]
    return [caption for caption in [clean(text_of(record, _TEXT_COLUMNS))] if caption]


def text_of(record: dict[str, object], columns: Sequence[str]) -> str:
    """The first of `columns` that a row has, as text; '' where it has none."""
    value = next((record[column] for column in columns if record.get(column) is not None), "")
    return str(value) if isinstance(value, str | int | float) else ""
