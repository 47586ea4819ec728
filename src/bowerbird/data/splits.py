"""Which pictures are trained on and which are held out to notice memorising.

Near-duplicates stand on one side: a held-out picture whose twin was trained on would measure memory and call it learning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

NEAR_BITS = 4  # of 64: perceptual hashes that differ in no more bits are the same picture to the eye
SMALLEST_SPLIT = 50  # below that every picture is needed for learning
MAX_HELD = 1_000  # more only makes the held-out loss dearer

_BYTES_SET = np.array([bin(value).count("1") for value in range(256)], np.uint8)


def near_duplicates(hashes: NDArray[np.int64], comparable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A group number for each picture, (n,): pictures joined by a chain of near-equal hashes share one.

    Only `comparable` pictures are joined; a flat picture's hash is noise.  Two hashes within 4 bits agree in at least one of
    five bands of bits, so only pictures that share a band are compared: no n^2.
    """
    unique, which = np.unique(hashes, return_inverse=True)
    parent = np.arange(len(unique))
    bits = unique.view(np.uint64)
    for band in range(NEAR_BITS + 1):
        first, last = 64 * band // (NEAR_BITS + 1), 64 * (band + 1) // (NEAR_BITS + 1)
        key = (bits >> np.uint64(first)) & np.uint64(2 ** (last - first) - 1)
        by_key = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(key[by_key]) != 0, True])
        for start, stop in pairwise(starts):
            bucket = by_key[start:stop]
            for position in range(len(bucket) - 1):
                here, others = bucket[position], bucket[position + 1 :]
                for other in others[_distance(bits[here], bits[others]) <= NEAR_BITS]:
                    _join(parent, int(here), int(other))
    roots = np.array([_root(parent, index) for index in range(len(unique))], np.int64)
    groups = roots[which]
    groups[~comparable] = len(unique) + np.flatnonzero(~comparable)
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _distance(one: np.uint64, others: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Differing bits between one hash and each of the others."""
    differing: NDArray[np.int64] = _BYTES_SET[(one ^ others).view(np.uint8).reshape(len(others), 8)].sum(axis=1, dtype=np.int64)
    return differing


def _root(parent: NDArray[np.int64], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = int(parent[index])
    return index


def _join(parent: NDArray[np.int64], one: int, other: int) -> None:
    one, other = _root(parent, one), _root(parent, other)
    parent[max(one, other)] = min(one, other)


def split(groups: NDArray[np.int64], contents: Sequence[str], held_out: float, seed: int) -> NDArray[np.bool_]:
    """Which pictures are held out, (n,) bool: `held_out` of them, at most 1,000, whole groups, none below 50 pictures.

    The choice depends on the seed and each picture's content, not on its name or place: new pictures move few old ones.
    """
    held = np.zeros(len(groups), np.bool_)
    if len(groups) < SMALLEST_SPLIT:
        return held
    room = min(MAX_HELD, round(held_out * len(groups)))
    draw = np.array([int.from_bytes(hashlib.blake2b(f"{seed} {sha256}".encode(), digest_size=7).digest()) for sha256 in contents], np.int64)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    sizes = np.diff(np.r_[starts, len(groups)])
    luck = np.minimum.reduceat(draw[order], starts)  # a group is drawn with its luckiest picture
    for group in np.argsort(luck):
        if sizes[group] <= room:
            held[order[starts[group] : starts[group] + sizes[group]]] = True
            room -= sizes[group]
        if not room:
            break
    return held
