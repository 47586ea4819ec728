from __future__ import annotations

import numpy as np
import pytest

from bowerbird.evaluate.copies import closest_pairs, find_copies, nearest, nearest_by_features
from bowerbird.pixels import Pixels

TRAINED = 16


def shifted(pixels: Pixels, right: int, down: int) -> Pixels:
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    return padded[:, 4 - down : 68 - down, 4 - right : 68 - right]


def noised(pixels: Pixels, strength: float) -> Pixels:
    noise = np.random.default_rng(1).normal(0, 255 * strength, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def test_copies_are_found_and_new_pictures_let_be(animals: Pixels) -> None:
    """What a model that has learnt its 16 pictures by heart would paint: exact, mirrored, noised and shifted ones."""
    train, unseen = animals[:TRAINED], animals[TRAINED:]
    painted = np.concatenate([train, train[:, :, ::-1], noised(train, 0.1), shifted(train, 1, -1), shifted(noised(train, 0.05), 1, 1)])
    copies = find_copies(painted, train, unseen)
    assert copies.rate >= 0.95
    assert copies.unseen_rate <= 0.02
    assert copies.nearer_than_unseen > 0.85  # one half is new; shifted and noised copies lie a little off
    exact = range(2 * TRAINED)  # the mirrored ones too
    assert [copies.original(row) for row in exact] == 2 * list(range(TRAINED))
    assert set(copies.closest(len(exact))) == set(exact)


def test_unseen_pictures_are_as_near_as_unseen_pictures(animals: Pixels) -> None:
    """Exchangeable sets: neither lies nearer to the training pictures."""
    copies = find_copies(animals[80:160], animals[:80], animals[160:])
    assert copies.nearer_than_unseen == pytest.approx(0.5, abs=0.1)


def test_near_duplicates_in_training_hide_no_copy(animals: Pixels) -> None:
    """With each training picture there twice, nearest and second nearest are equal; a ratio of the two would see nothing."""
    train = np.repeat(animals[:60], 2, axis=0)
    found = nearest(noised(animals[:60], 0.05), train)
    assert found.second == pytest.approx(found.distance, abs=1e-4)
    assert found.copied.mean() >= 0.95


def test_nearest_by_hand() -> None:
    """Two uncorrelated patterns span a plane, in which pictures at an angle a are 2 sin(a / 2) apart, bright or dark, strong or faint."""
    side = np.sign(np.arange(64) - 31.5)[:, None]
    down, right = np.broadcast_to(side, (64, 64)), np.broadcast_to(side.T, (64, 64))

    def picture(degrees: float, brightness: float = 128, contrast: float = 60) -> Pixels:
        plane = np.cos(np.deg2rad(degrees)) * down + np.sin(np.deg2rad(degrees)) * right
        pixels: Pixels = (brightness + contrast * plane).round().astype(np.uint8)[..., None].repeat(3, axis=-1)
        return pixels

    def apart(degrees: float) -> float:
        return float(2 * np.sin(np.deg2rad(degrees) / 2))

    train = np.stack([picture(60), picture(20), picture(10)])
    for query in (picture(23), picture(23, brightness=90, contrast=30), picture(23)[:, ::-1]):
        found = nearest(query[None], train)
        assert found.index.tolist() == [1]
        measured = [found.distance[0], found.second[0], found.around[0]]
        assert measured == pytest.approx([apart(3), apart(13), (apart(13) + apart(37)) / 2], abs=0.02)


def test_features_are_compared_by_direction(draw: np.random.Generator) -> None:
    """Brightness lengthens features and is no difference between pictures."""
    train = draw.normal(size=(30, 8)).astype(np.float32)
    found = nearest_by_features(3 * train, train)
    assert found.index.tolist() == list(range(30))
    assert found.distance == pytest.approx(0, abs=1e-3)


def test_order_of_the_training_set_does_not_matter(animals: Pixels, draw: np.random.Generator) -> None:
    order = draw.permutation(100)
    one, other = nearest(animals[100:130], animals[:100]), nearest(animals[100:130], animals[:100][order])
    assert np.array_equal(one.index, order[other.index])
    assert one.ratio == pytest.approx(other.ratio, rel=1e-4)


def test_pairs_show_the_copy_beside_its_original(animals: Pixels) -> None:
    train = animals[:20]
    painted = np.concatenate([animals[100:104], train[7:8]])
    sheet = np.asarray(closest_pairs(find_copies(painted, train, animals[60:80]), painted, train, pairs=1))
    assert np.array_equal(sheet[:64, :64], train[7])
    assert np.array_equal(sheet[:64, -64:], train[7])
