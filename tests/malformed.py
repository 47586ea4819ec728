"""Malformed files, made by the number: one valid file in, as many broken ones out as asked for, always the same ones."""

from __future__ import annotations

import copy
import hashlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from bowerbird.storage import seal
from tests.data.corpus import Case
from tests.data.mutants import mutant

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 10**5, 10**10, 10**30, -(10**30), 0.5, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"),
    "", "abc", "../../other", "/etc/passwd", "a/b", "\0", "\ud800", "x" * 100_000, "0000000096", [], [[]], ["a"], [1, 2, 3], [None] * 70,
    {}, {"a": 5}, {"": {}}, [10**9] * 3, {"auto_map": {"AutoModel": "evil--x.Y"}},
)  # fmt: skip
TEXTS = (
    b"", b"{", b"[]", b"[1]", b"null", b"5", b'"text"', b"{}", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 50_000, b"{\"a\": NaN}",
    b"\x00" * 64, b'{"seal": 5}', b"\x80\x04cos\nsystem\n",
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a document there is something, itself aside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def broken(document: dict[str, Any], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """`count` documents, each with one to three things in it replaced, taken away or added."""
    draw, everywhere = np.random.default_rng(seed), list(places(document))
    for _ in range(count):
        changed = copy.deepcopy(document)
        for _ in range(int(draw.integers(1, 4))):
            *path, last = everywhere[draw.integers(len(everywhere))]
            inner: Any = changed
            try:
                for key in path:
                    inner = inner[key]
                action = draw.random()
                if action < 0.7:
                    inner[last] = copy.deepcopy(VALUES[draw.integers(len(VALUES))])
                elif action < 0.9:
                    del inner[last]
                elif isinstance(inner, dict):
                    inner["unknown"] = VALUES[draw.integers(len(VALUES))]
            except (KeyError, IndexError, TypeError):
                continue  # an earlier change took it away
        yield changed


def broken_texts(document: dict[str, Any], count: int, seed: int) -> Iterator[bytes]:
    """`count` texts: documents cut short, with bytes flipped, and what is no document at all."""
    draw, text = np.random.default_rng(seed), json.dumps(document).encode()
    for number in range(count):
        if number < len(TEXTS):
            yield TEXTS[number]
        elif number % 2:
            yield text[: int(draw.integers(len(text)))]
        else:
            flipped = bytearray(text)
            for place in draw.integers(len(flipped), size=3):
                flipped[place] = draw.integers(256)
            yield bytes(flipped)


def documents(document: dict[str, Any], count: int, seed: int) -> Iterator[bytes]:
    """Broken documents, sealed where they were sealed, and half as many broken texts."""
    sealed = "seal" in document
    plain = {key: value for key, value in document.items() if key != "seal"}
    for one in broken(plain, count, seed):
        try:
            yield seal(one) if sealed else json.dumps(one).encode()
        except (ValueError, UnicodeEncodeError):  # half a letter has no bytes
            yield json.dumps(one).encode()
    yield from broken_texts(document, count // 2, seed)


def resealed(folder: Path, manifest: str, name: str, data: bytes) -> None:
    """Write a file of a sealed folder as whoever knows the format would: with its hash and a new seal."""
    (folder / name).write_bytes(data)
    document = json.loads((folder / manifest).read_bytes())
    document.pop("seal")
    document["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / manifest).write_bytes(seal(document))


def broken_bytes(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Files with bits flipped, parts cut, repeated or blanked, or absurd numbers in them; the first are no such file at all."""
    yield from TEXTS[:count]
    original = Case("file", data, "accepted")
    for number in range(len(TEXTS), count):
        yield mutant([original], seed * 1_000_000 + number)[1]


def broken_toml(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Tables with other values in them, and broken texts of them."""
    document = tomllib.loads(data.decode())
    for one in broken(document, count - count // 2, seed):
        try:
            yield tomli_w.dumps(one).encode()
        except (TypeError, ValueError, OverflowError):  # null has no TOML, nor has half a letter
            yield repr(one).encode("utf-8", "backslashreplace")
    yield from broken_bytes(data, count // 2, seed)


def broken_safetensors(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Headers that say something else of the same data, and files hurt anywhere."""
    length = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    for one in broken(header, count - count // 2, seed):
        text = json.dumps(one).encode()
        yield len(text).to_bytes(8, "little") + text + tensors
    yield from broken_bytes(data, count // 2, seed)
