"""Malformed JSON, made by the number: one valid document in, as many broken ones out as asked for, always the same ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

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
