"""Reading the texts that lie beside pictures: bounded, once, in whatever encoding, and never believed further than that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bowerbird.data.decode import MAX_FILE_BYTES, Rejected, Signature, read
from bowerbird.data.layouts.layout import Files
from bowerbird.data.names import printable
from bowerbird.errors import PictureFolderError

MAX_CAPTION = 10_000  # characters


def read_bytes(root: Path, path: str, seen: Signature) -> bytes:
    """The bytes of a file, at most 100 MiB; Rejected says why not."""
    if seen[2] > MAX_FILE_BYTES:
        raise Rejected("E_TOO_BIG", f"it has {seen[2] / 2**20:,.0f} MiB; at most {MAX_FILE_BYTES // 2**20}")
    return read(root / path, seen)


def read_list(root: Path, path: str, seen: Signature) -> str:
    """The text of a file.  A byte that is no text stays what it was, as in names of files."""
    return decoded(read_bytes(root, path, seen), "surrogateescape")


def decoded(data: bytes, errors: str = "replace") -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding, "replace" if encoding == "utf-16" else errors)


def clean(text: str) -> str:
    """One line, single spaces, no control characters, a bounded length."""
    return " ".join("".join(_shown(c) for c in text).split())[:MAX_CAPTION]


def _shown(c: str) -> str:
    return c if c.isprintable() else "\ufffd" if "\udc80" <= c <= "\udcff" else " "


def distinct(texts: list[str]) -> tuple[str, ...]:
    """The texts that say something, each once, in their order."""
    return tuple(dict.fromkeys(filter(None, texts)))


def columns(root: Path, path: str, files: Files, names: str, dataset: str) -> list[list[str]]:
    """The rows of a list with columns between blanks, the last one to the end of the line.

    PictureFolderError tells the first line that is no row.  names: 'image_id x y', what the columns are called.
    """
    wanted = names.split()
    try:
        text = read_list(root, path, files[path])
    except Rejected as error:
        raise unreadable(path, dataset, error.reason) from error
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        row = line.split(maxsplit=len(wanted) - 1)
        if not row:
            continue
        if len(row) != len(wanted):
            raise unreadable(path, dataset, f"line {number} is {shown(line)}, which is not {len(wanted)} columns ({names})")
        rows.append([*row[:-1], row[-1].strip()])
    return rows


def shown(text: str) -> str:
    """What a list says, in quotes, printable and not too long."""
    return repr(printable(text.strip()[:60]))


def unreadable(path: str, dataset: str, reason: str) -> PictureFolderError:
    return PictureFolderError(f"{printable(path)!r}, a list of {dataset}, cannot be read: {reason}. Unpack the archive again.")


def json_object(root: Path, path: str, seen: Signature) -> dict[str, Any]:
    """A JSON file that is an object; Rejected says why not."""
    text = read_list(root, path, seen)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise Rejected("E_FORMAT", "it is no JSON") from None
    if not isinstance(document, dict):
        raise Rejected("E_FORMAT", "it is no JSON object")
    return document
