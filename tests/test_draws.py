"""Keyed draws: the law is that nothing but the key decides."""

import numpy as np
from scipy import stats

from bowerbird import draws


def test_a_draw_depends_on_its_index_alone() -> None:
    """Whatever was drawn before or beside it: this is what makes resuming exact."""
    together = draws.normal(3, "noise", range(10), (4, 5))
    alone = draws.normal(3, "noise", [7], (4, 5))
    assert np.array_equal(together[7], alone[0])


def test_a_row_is_the_generator_of_its_index() -> None:
    """One generator is moved from stream to stream; nothing of the last one may stay in it, nor may an index beyond 64 bits break it."""
    indices = [5, 2**40, 2**64 + 7]
    for number, index in enumerate(indices):
        alone = draws.generator(3, "noise", index).standard_normal((3,), dtype=np.float32)  # an odd count leaves half a word behind
        assert np.array_equal(draws.normal(3, "noise", indices, (3,))[number], alone)
        assert draws.uniform(3, "noise", indices)[number] == draws.generator(3, "noise", index).random()


def test_keys_do_not_meet() -> None:
    one = draws.normal(0, "noise", [0], (1000,))[0]
    for seed, purpose, index in ((1, "noise", 0), (0, "flip", 0), (0, "noise", 1)):
        other = draws.normal(seed, purpose, [index], (1000,))[0]
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.15  # 5 standard deviations of independent draws


def test_draws_are_normal_and_uniform() -> None:
    assert stats.kstest(draws.normal(0, "a", range(200), (50,)).ravel(), "norm").pvalue > 1e-3
    assert stats.kstest(draws.uniform(0, "a", range(5000)), "uniform").pvalue > 1e-3


def test_every_epoch_shows_every_picture_once_in_another_order() -> None:
    epochs = draws.picture_indices(0, 0, 30, 10).reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_any_slicing_of_the_run_sees_the_same_pictures() -> None:
    whole = draws.picture_indices(5, 0, 100, 13)
    parts = [draws.picture_indices(5, start, start + 20, 13) for start in range(0, 100, 20)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_the_numbers_are_the_same_on_every_machine() -> None:
    """Recorded once; a change here silently changes every run that is resumed."""
    assert draws.uniform(0, "flip", [0, 1]).tolist() == [0.5951012150998353, 0.646643276809435]
