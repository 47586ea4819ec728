from __future__ import annotations

import pytest
import torch

from bowerbird.conditions import network_parts
from bowerbird.models.transformer import (
    MAX_FREQUENCY,
    POSITIONS,
    SIZES,
    FourierFeatures,
    Transformer,
    TransformerConfig,
    attend,
    positions,
    rotary_angles,
    rotate,
)

WIDTH, DEPTH, HEADS = SIZES["micro"]


def awake(labels: int = 0, patch: int = 4, stem: int = 0) -> Transformer:
    """A small network whose zero-initialised parts are stirred, so that everything it has takes part."""
    torch.manual_seed(0)
    shapes = {"label": {"count": labels}} if labels else {}
    config = TransformerConfig(WIDTH, DEPTH, HEADS, patch, stem_channels=stem, absolute=True, conditions=shapes)
    network = Transformer(config, network_parts(shapes, WIDTH))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("stem", [0, 4])
def test_every_parameter_gets_a_gradient(stem: int) -> None:
    network = awake(labels=3, stem=stem)
    cond = {"label": torch.tensor([0, 1, 2, 3])}
    network(torch.randn(4, 3, 16, 16), torch.rand(4), cond).square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize("stem", [0, 4])
def test_permuting_the_batch_permutes_the_output(stem: int) -> None:
    """Pictures do not see each other."""
    network = awake(stem=stem)
    x, time, order = torch.randn(5, 3, 16, 16), torch.rand(5), torch.randperm(5)
    torch.testing.assert_close(network(x, time)[order], network(x[order], time[order]))


@pytest.mark.parametrize("stem", [0, 4])
def test_it_starts_as_zero(stem: int) -> None:
    """With EDM preconditioning a zero output is the best linear denoiser: a calm place to start from."""
    network = Transformer(TransformerConfig(WIDTH, DEPTH, HEADS, 4, stem_channels=stem))
    assert not network(torch.randn(2, 3, 16, 16), torch.rand(2)).any()


def test_dropped_labels_are_no_labels() -> None:
    network = awake(labels=3)
    x, time = torch.randn(2, 3, 16, 16), torch.rand(2)
    torch.testing.assert_close(network(x, time), network(x, time, {"label": torch.tensor([3, 3])}))
    assert not torch.allclose(network(x, time), network(x, time, {"label": torch.tensor([1, 1])}))


def test_neighbouring_noise_levels_look_alike() -> None:
    """What is learnt at one level serves the next: a tenth more noise hardly turns the features, ten times more turns them away."""
    features = FourierFeatures(192, MAX_FREQUENCY)
    levels = torch.logspace(-2, 2, 50)

    def likeness(ratio: float) -> torch.Tensor:
        return torch.cosine_similarity(features(levels.log() / 4), features((ratio * levels).log() / 4))

    assert likeness(1.1).min() > 0.98
    assert likeness(10.0).max() < 0.3


def test_every_place_is_told_apart_and_means_the_same_at_every_size() -> None:
    """Features of a place are those of the same share of a larger picture, and no two places share them."""
    told = positions(6, 6, torch.device("cpu"))
    assert told.shape == (36, 4 * POSITIONS)
    assert torch.cdist(told, told).fill_diagonal_(9).min() > 0.5
    finer = positions(18, 18, torch.device("cpu")).unflatten(0, (18, 18))[1::3, 1::3]  # the middle one of three lies where the one lay
    torch.testing.assert_close(finer.flatten(0, 1), told)


def test_rotary_attention_depends_on_distance_alone() -> None:
    """q(i) . k(j) is a function of j - i in both directions: the point of rotary positions."""
    angles = rotary_angles(6, 6, 16, torch.device("cpu")).double()
    turns = angles.cos(), angles.sin()
    q, k = torch.randn(16).double(), torch.randn(16).double()
    scores = (rotate(q.expand(36, 16), turns) @ rotate(k.expand(36, 16), turns).T).reshape(6, 6, 6, 6)
    torch.testing.assert_close(scores[0, 1, 2, 4], scores[3, 0, 5, 3])
    torch.testing.assert_close(scores[2, 2, 1, 5], scores[4, 1, 3, 4])
    assert not torch.allclose(scores[0, 0, 0, 2], scores[0, 0, 2, 0])  # and the two directions differ


@pytest.mark.parametrize("shape", [(16, 16), (8, 24)])
def test_any_multiple_of_the_patch_works(shape: tuple[int, int]) -> None:
    assert awake()(torch.randn(1, 3, *shape), torch.rand(1)).shape == (1, 3, *shape)


def test_patches_land_where_they_came_from() -> None:
    """A change in one corner of the input, without attention, changes that corner alone."""
    network = awake()
    network.blocks = torch.nn.ModuleList()
    x = torch.randn(1, 3, 16, 16)
    changed = x.clone()
    changed[..., :4, 12:] += 1
    difference = (network(x, torch.ones(1)) - network(changed, torch.ones(1))).abs().sum(1)[0]
    assert difference[:4, 12:].min() > 0
    difference[:4, 12:] = 0
    assert difference.max() == 0


def test_convolutions_carry_detail_across_the_borders_of_patches() -> None:
    """With them, a change in one patch also reaches its neighbours' pixels, without any attention."""
    network = awake(stem=4)
    network.blocks = torch.nn.ModuleList()
    x = torch.randn(1, 3, 16, 16)
    changed = x.clone()
    changed[..., :4, :4] += 1
    difference = (network(x, torch.ones(1)) - network(changed, torch.ones(1))).abs().sum(1)[0]
    assert difference[4, 4] > 0 and difference[12:, 12:].max() == 0


@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_hand_is_attention(masked: bool) -> None:
    """In bf16 on a CPU it is done in three steps; what comes out is the same up to bf16's eight bits."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 16, 8)
    mask = (torch.arange(16) < 11)[None, None, None].expand(2, 1, 1, 16) if masked else None
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
    assert torch.equal(attend(q, k, v, mask), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(attend(q, k, v, mask).float(), expected, atol=0.03, rtol=0.03)
