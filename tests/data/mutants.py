"""Damaged pictures without end: mutant number n is a pure function of n."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from bowerbird import draws
from tests.data.corpus import Case, corpus

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def seeds() -> list[Case]:
    """The corpus's small readable pictures, in every format and mode."""
    return [case for case in corpus() if isinstance(case.make, bytes) and case.state in {"accepted", "changed"} and len(case.make) < 50_000]


def mutant(originals: Sequence[Case], number: int) -> tuple[str, bytes]:
    """A file name and its bytes: one of the originals, hurt once to three times."""
    draw = draws.generator(0, "mutant", number)
    original = originals[int(draw.integers(len(originals)))]
    other = originals[int(draw.integers(len(originals)))]
    assert isinstance(original.make, bytes) and isinstance(other.make, bytes)
    data = bytearray(original.make)
    for _ in range(int(draw.integers(1, 4))):
        _WOUNDS[int(draw.integers(len(_WOUNDS)))](data, other.make, draw)
    return f"{number:05d}{PurePath(original.name).suffix}", bytes(data)


def _place(data: bytearray, draw: np.random.Generator) -> int:
    """A position, as often in the header as in the rest."""
    return int(draw.integers(min(len(data), 100) if draw.random() < 0.5 else len(data)))


def _flip_bits(data: bytearray, other: bytes, draw: np.random.Generator) -> None:
    for _ in range(int(draw.integers(1, 33))):
        data[_place(data, draw)] ^= 1 << int(draw.integers(8))


def _truncate(data: bytearray, other: bytes, draw: np.random.Generator) -> None:
    del data[max(1, _place(data, draw)) :]


def _splice(data: bytearray, other: bytes, draw: np.random.Generator) -> None:
    start, stop = sorted(int(i) for i in draw.integers(0, len(other) + 1, 2))
    place = _place(data, draw)
    data[place : place + int(draw.integers(0, stop - start + 1))] = other[start:stop]


def _extreme_number(data: bytearray, other: bytes, draw: np.random.Generator) -> None:
    """A length, a size or an offset that no honest file has."""
    value = _EXTREMES[int(draw.integers(len(_EXTREMES)))]
    packed = struct.pack(str(draw.choice(["<I", ">I", "<H", ">H"])).replace("H", "H" if value < 2**16 else "I"), value)
    place = _place(data, draw)
    data[place : place + len(packed)] = packed


def _blank(data: bytearray, other: bytes, draw: np.random.Generator) -> None:
    place = _place(data, draw)
    length = min(int(draw.integers(1, 200)), len(data) - place)
    data[place : place + length] = bytes([int(draw.choice([0, 255]))]) * length


def _repeat(data: bytearray, other: bytes, draw: np.random.Generator) -> None:
    place = _place(data, draw)
    data[place:place] = data[place : place + int(draw.integers(1, 500))]


_WOUNDS = (_flip_bits, _truncate, _splice, _extreme_number, _blank, _repeat)
