"""The held-out pictures: few, keyed, and never a twin of one that is trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from bowerbird.data import open_pictures
from bowerbird.data.augment import flip
from bowerbird.data.splits import NEAR_BITS, near_duplicates, split


def contents(count: int) -> list[str]:
    return [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(count)]


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 19), st.lists(st.integers(0, 63), max_size=6)), max_size=20),
)
def test_near_duplicates_are_the_chains_of_near_hashes(bases: list[int], variants: list[tuple[int, list[int]]]) -> None:
    """Exactly the connected components under "at most 4 of 64 bits differ", as the n^2 comparison finds them."""
    hashes = list(bases)
    for base, flips in variants:
        value = np.int64(bases[base % len(bases)])
        for bit in flips:
            value ^= np.int64(1) << np.int64(bit)
        hashes.append(int(value))
    groups = near_duplicates(np.array(hashes, np.int64), np.ones(len(hashes), bool))
    near = np.array([[(a ^ b) & (2**64 - 1) for b in hashes] for a in hashes], dtype=object)
    linked = np.vectorize(lambda x: bin(x).count("1") <= NEAR_BITS)(near)
    for _ in hashes:  # the transitive closure
        linked = (linked.astype(int) @ linked.astype(int)) > 0
    np.testing.assert_array_equal(groups[:, None] == groups, linked)


def test_incomparable_pictures_stand_alone() -> None:
    """A flat picture has no features: its hash is noise, and equal noise means nothing."""
    groups = near_duplicates(np.array([7, 7, 7, 7], np.int64), np.array([True, False, True, False]))
    assert groups[0] == groups[2] and len(set(groups.tolist())) == 3


@pytest.mark.parametrize(("count", "share", "held"), [(49, 0.1, 0), (50, 0.1, 5), (1_000, 0.1, 100), (30_000, 0.1, 1_000), (1_000, 0.0, 0)])
def test_how_many_are_held_out(count: int, share: float, held: int) -> None:
    assert split(np.arange(count), contents(count), share, seed=0).sum() == held


def test_groups_stay_on_one_side() -> None:
    groups = np.arange(600) // 3
    held = split(groups, contents(600), 0.1, seed=1)
    assert held.sum() == 60
    assert all(len(set(held[groups == group].tolist())) == 1 for group in range(200))


def test_the_choice_follows_content_and_seed_not_place() -> None:
    """Shuffled pictures are held out all the same; another seed chooses others; ten new pictures move few old ones."""
    names = contents(500)
    held = {name for name, out in zip(names, split(np.arange(500), names, 0.1, 7), strict=True) if out}
    backwards = names[::-1]
    assert held == {name for name, out in zip(backwards, split(np.arange(500), backwards, 0.1, 7), strict=True) if out}
    assert held != {name for name, out in zip(names, split(np.arange(500), names, 0.1, 8), strict=True) if out}
    more = contents(510)
    assert len(held - {name for name, out in zip(more, split(np.arange(510), more, 0.1, 7), strict=True) if out}) <= 10


def test_a_recoded_or_brightened_twin_is_near_and_another_picture_is_not(tmp_path: Path) -> None:
    """What a perceptual hash is for, on pictures of the project's own."""
    birds = sorted((Path(__file__).parents[2] / "examples" / "birds").glob("fluent3d-*.webp"))[:12]
    for bird in birds:
        image = Image.open(bird).convert("RGB")
        image.save(tmp_path / f"{bird.stem}-a.png")
        ImageEnhance.Brightness(image.resize((200, 200))).enhance(0.9).save(tmp_path / f"{bird.stem}-b.jpg", quality=60)
    pictures = open_pictures(tmp_path, 16)
    groups = pictures.groups.reshape(len(birds), 2)
    assert (groups[:, 0] == groups[:, 1]).all()
    assert len(set(groups[:, 0].tolist())) >= len(birds) - 1


def test_mirrors_are_keyed_and_about_half() -> None:
    """The same sample number sees the same side in whatever batch, and mirroring twice gives the picture back."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), dtype=np.uint8)
    once = flip(pixels, 3, range(400))
    np.testing.assert_array_equal(flip(pixels[100:130], 3, range(100, 130)), once[100:130])
    np.testing.assert_array_equal(flip(once, 3, range(400)), pixels)
    mirrored = (once == pixels[:, :, ::-1]).all(axis=(1, 2, 3))
    assert 160 < mirrored.sum() < 240  # 4 standard deviations around 200
