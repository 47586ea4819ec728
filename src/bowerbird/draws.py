"""Random numbers as pure functions of (seed, purpose, index): keyed, not streamed.

A streamed generator must be saved and restored exactly for a run to resume, and splits differently over one, two or
eight processes.  A counter-based generator (Philox; Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
gives draw number `index` without the ones before it, so the whole random state of a training run is one integer: the
number of pictures seen.  All functions are numpy on the CPU and return the same numbers on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Indices = Sequence[int] | NDArray[np.int64]


def generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    """The generator that belongs to one (seed, purpose, index); streams of different keys never meet.

    The seed and the purpose make Philox's 128-bit key, the index its high counter words, which leaves 2^128 blocks a stream.
    """
    purpose_key = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    key = np.array([seed % 2**64, purpose_key], dtype=np.uint64)
    counter = np.array([0, 0, index % 2**64, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _generators(seed: int, purpose: str, indices: Indices) -> Iterator[np.random.Generator]:
    """The generator of each index, good until the next: one that is moved from stream to stream, a fifth of the work of making each."""
    moved = generator(seed, purpose, 0)
    start = moved.bit_generator.state
    for index in indices:
        start["state"]["counter"] = np.array([0, 0, int(index) % 2**64, 0], dtype=np.uint64)
        moved.bit_generator.state = start
        yield moved


def normal(seed: int, purpose: str, indices: Indices, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal draws, (len(indices), *shape) float32; row k depends on indices[k] alone."""
    found = np.empty((len(indices), *shape), np.float32)
    for row, its in zip(found, _generators(seed, purpose, indices), strict=True):
        its.standard_normal(out=row, dtype=np.float32)
    return found


def uniform(seed: int, purpose: str, indices: Indices) -> NDArray[np.float64]:
    """One uniform draw in [0, 1) for each index, (len(indices),) float64."""
    return np.array([its.random() for its in _generators(seed, purpose, indices)])


@lru_cache(maxsize=4)  # every update asks for that of its epoch: 0.2 ms for 20,000 pictures
def order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of `count` pictures in epoch number `epoch`: a permutation of 0..count-1, not to be written to."""
    found = generator(seed, "order", epoch).permutation(count)
    found.setflags(write=False)
    return found


def picture_indices(seed: int, start: int, stop: int, count: int) -> NDArray[np.int64]:
    """Which of `count` pictures are sample number start..stop-1 of a run: every epoch is a fresh permutation."""
    samples = np.arange(start, stop)
    epochs = samples // count
    orders = {int(epoch): order(seed, int(epoch), count) for epoch in np.unique(epochs)}
    return np.array([orders[int(epoch)][sample % count] for epoch, sample in zip(epochs, samples, strict=True)], dtype=np.int64)
