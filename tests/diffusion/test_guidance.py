"""Guidance laws, with models that are plain functions of their condition."""

import pytest
import torch

from bowerbird.diffusion.guidance import clip_x0, dynamic_threshold, guide, within

X = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
SIGMA = torch.full((4,), 2.0, dtype=torch.float64)


class Counting:
    """A model that remembers which conditions it was asked about."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.asked: list[float] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, cond: float) -> torch.Tensor:
        self.asked.append(cond)
        return self.factor * torch.tanh(x + cond)


def test_scale_one_is_the_conditional_model_in_one_call():
    model = Counting()
    assert torch.equal(guide(model, 0.7, 0.0, scale=1.0)(X, SIGMA), torch.tanh(X + 0.7))
    assert model.asked == [0.7]


def test_scale_zero_is_the_unconditional_model_in_one_call():
    model = Counting()
    assert torch.equal(guide(model, 0.7, 0.0, scale=0.0)(X, SIGMA), torch.tanh(X))
    assert model.asked == [0.0]


@pytest.mark.parametrize("scale", [0.5, 2.0, 7.5])
def test_guidance_is_linear_in_scale(scale):
    """x0 = uncond + scale * (cond - uncond)."""
    cond, uncond = torch.tanh(X + 0.7), torch.tanh(X)
    torch.testing.assert_close(guide(Counting(), 0.7, 0.0, scale)(X, SIGMA), uncond + scale * (cond - uncond), rtol=0, atol=1e-14)


def test_equal_conditions_make_any_scale_harmless():
    torch.testing.assert_close(guide(Counting(), 0.7, 0.7, 12.0)(X, SIGMA), torch.tanh(X + 0.7), rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [0.5, 2.0, 7.5])
def test_both_conditions_as_rows_of_one_are_one_call(scale):
    """A picture's row sees its own condition alone, so that it does not matter in which call it lies; 0 and 1 need no second row."""
    calls = []

    def model(x, sigma, cond):
        calls.append(len(x))
        return torch.tanh(x + sigma[:, None, None, None] * cond)

    cond, uncond = torch.full((4, 1, 1, 1), 0.7, dtype=torch.float64), torch.zeros(4, 1, 1, 1, dtype=torch.float64)
    apart = guide(model, cond, uncond, scale)(X, SIGMA)
    together = guide(model, cond, uncond, scale, both=torch.cat([cond, uncond]))
    torch.testing.assert_close(together(X, SIGMA), apart, rtol=0, atol=1e-14)
    assert calls == [4, 4, 8]
    assert torch.equal(guide(model, cond, uncond, 1.0, both=cond)(X, SIGMA), model(X, SIGMA, cond))


def test_clipping_comes_after_guidance():
    """Guidance overshoots; the clip is the last word and does not touch what is inside."""
    guided = guide(Counting(), 0.7, 0.0, 10.0)
    clipped = clip_x0(guided)(X, SIGMA)
    assert float(clipped.abs().max()) == 1.0
    assert torch.equal(clipped, guided(X, SIGMA).clamp(-1, 1))
    assert float(clip_x0(guided, within(0.5))(X, SIGMA).abs().max()) == 0.5


def test_a_threshold_follows_the_picture():
    """Each picture's s is the value below which the share of its |x0| lies; what is beyond saturates, the rest keeps its proportions."""
    x0 = torch.linspace(-4, 4, 101, dtype=torch.float64).reshape(1, 1, 1, 101)
    both = torch.cat([x0, x0 / 8])  # the second never leaves -0.5..0.5
    clipped = dynamic_threshold(0.5, most=100)(both)
    assert clipped[0].abs().max() == 1
    torch.testing.assert_close(clipped[0, ..., 26:75], both[0, ..., 26:75] / 2)  # half of |x0| lies below 2
    assert clipped[1].equal(both[1])  # s is 1 at least
    torch.testing.assert_close(dynamic_threshold(1.0, most=2)(both)[0], both[0].clamp(-2, 2) / 2)  # and its most at most
