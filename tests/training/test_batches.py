"""Batches of one shape: a pure function of the sample's number, and fair to every picture."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bowerbird import draws
from bowerbird.training.batches import OneShapeABatch

TRAIN = np.arange(3, 33)  # numbers of pictures need not begin at 0


def shapes_of(*counts: int) -> NDArray[np.int64]:
    """30 pictures: so many of each shape, mixed, the first of the largest."""
    kinds = [(128, 128), (64, 192), (192, 64), (256, 64)]
    rows = np.repeat(np.array(kinds[: len(counts)]), counts, axis=0)
    return rows[np.random.default_rng(1).permutation(len(rows))]


@pytest.mark.parametrize("counts", [(30,), (20, 10), (17, 9, 3, 1), (1, 29)])
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_each_batch_is_of_one_shape_and_each_picture_comes_equally_often(counts: tuple[int, ...], batch: int) -> None:
    """Exactly so after a round of as many batches as there are pictures; and meanwhile nearly, for a shape's batches are evenly spread."""
    shapes = shapes_of(*counts)
    order, seen = OneShapeABatch(TRAIN, shapes, batch, seed=5), np.zeros(33)
    sizes = np.array([(shapes == shape).all(1).sum() for shape in shapes])
    for number in range(2 * len(TRAIN)):
        chosen = order(number * batch, (number + 1) * batch)
        assert len(np.unique(shapes[chosen - 3], axis=0)) == 1
        np.add.at(seen, chosen, 1)
        due = (number + 1) * batch / len(TRAIN)
        assert (abs(seen[TRAIN] - due) <= 1 + 2 * batch / sizes).all()
        if (number + 1) % len(TRAIN) == 0:
            assert (seen[TRAIN] == due).all()
    first = order(0, batch)
    assert (shapes[first - 3] == (128, 128)).all()


def test_a_share_of_a_batch_is_that_part_of_it_whenever_it_is_asked_for() -> None:
    """By processes that each draw a part, and by a run that goes on; numbers below 0 are samples like any other."""
    shapes = shapes_of(17, 9, 3, 1)
    one, other = (OneShapeABatch(TRAIN, shapes, 6, seed=2) for _ in range(2))
    for number in (40, 3, -1, -31):
        whole = one(6 * number, 6 * number + 6)
        parts = [other(6 * number + start, 6 * number + start + 2) for start in (4, 0, 2)]
        assert np.array_equal(whole, np.concatenate([parts[1], parts[2], parts[0]]))


def test_pictures_of_one_shape_come_as_they_do_without_shapes() -> None:
    order = OneShapeABatch(TRAIN, shapes_of(30), 4, seed=9)
    assert np.array_equal(np.concatenate([order(k, k + 4) for k in range(0, 120, 4)]), TRAIN[draws.picture_indices(9, 0, 120, 30)])
