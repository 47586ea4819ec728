"""Which pictures are trained on and which are held out to notice memorising.

Near-duplicates stand on one side: a held-out picture whose twin was trained on would measure memory and call it learning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NEAR_BITS = 4  # of 64: perceptual hashes that differ in no more bits are the same picture to the eye
SMALLEST_SPLIT = 50  # below that every picture is needed for learning
MAX_HELD = 1_000  # more only makes the held-out loss dearer

_CROWD = 1_000  # how many pictures with an equal band each is compared with; a scene filmed for an hour needs no more to hang together
_BITS_SET = np.array([bin(value).count("1") for value in range(256)], np.uint8)


def near_duplicates(hashes: NDArray[np.int64], comparable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A group number for each picture, (n,): pictures joined by a chain of near-equal hashes share one.

    Only `comparable` pictures are joined; a flat picture's hash is noise.  Two hashes within 4 bits agree in at least one of
    five bands of bits, so only pictures that share a band are compared, in the order of their hashes: no n^2.
    """
    unique, which = np.unique(hashes[comparable], return_inverse=True)
    parent = list(range(len(unique)))
    group = np.array(parent, np.int64)  # the roots of `parent` as they were a while ago: saves looking at pairs already joined
    for band in range(NEAR_BITS + 1):
        first, last = 64 * band // (NEAR_BITS + 1), 64 * (band + 1) // (NEAR_BITS + 1)
        key = (unique.view(np.uint64) >> np.uint64(first)) & np.uint64(2 ** (last - first) - 1)
        order = np.argsort(key, kind="stable")
        key, bits = key[order], unique[order]
        left = np.arange(len(unique))
        for step in range(1, _CROWD):  # each with its step-th neighbour, while that has the same key
            left = left[left + step < len(unique)]
            left = left[key[left] == key[left + step]]
            if not len(left):
                break
            near = left[_differing_bits(bits[left], bits[left + step]) <= NEAR_BITS]
            near = near[group[order[near]] != group[order[near + step]]]
            for one, other in zip(order[near].tolist(), order[near + step].tolist(), strict=True):
                _join(parent, one, other)
            if len(near) > 1_000:
                group = np.array([_root(parent, index) for index in range(len(parent))], np.int64)
    groups = len(unique) + np.arange(len(hashes))
    groups[comparable] = np.array([_root(parent, index) for index in range(len(parent))], np.int64)[which]
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _differing_bits(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.uint8]:
    """How many of their 64 bits differ, (n,)."""
    counts: NDArray[np.uint8] = _BITS_SET[(one ^ other).view(np.uint8).reshape(-1, 8)].sum(axis=1, dtype=np.uint8)
    return counts


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = index = parent[parent[index]]
    return index


def _join(parent: list[int], one: int, other: int) -> None:
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
