"""What pictures show: whitened, drawn from a kernel density, dropped without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bowerbird import weights
from bowerbird.conditions import network_parts
from bowerbird.conditions.image_embedding import BANDWIDTH, COMPONENTS, KEPT, PROJECTION, ImageEmbedding, ImageEmbeddingPart, project
from bowerbird.models.transformer import Transformer, TransformerConfig


def some(count: int = 500, seed: int = 0) -> ImageEmbedding:
    components = torch.randn(count, COMPONENTS, generator=torch.Generator().manual_seed(seed))
    return ImageEmbedding(components, torch.arange(count) % 3 - 1, ("red", "green"))  # -1: no label


def test_draws_have_the_mean_and_covariance_of_the_kernel_density() -> None:
    """Closed form: those of the rows, and BANDWIDTH^2 more variance in each direction."""
    rows = some()
    drawn = rows.drawn(range(20_000))
    expected = torch.cov(rows.components.T, correction=0) + BANDWIDTH**2 * torch.eye(COMPONENTS)
    torch.testing.assert_close(drawn.mean(0), rows.components.mean(0), atol=0.04, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), expected, atol=0.06, rtol=0)


def test_a_draw_belongs_to_its_seed() -> None:
    rows = some()
    together = rows.drawn([3, 4, 5])
    assert torch.equal(together[1], rows.drawn([4])[0])
    assert not torch.equal(together[1], together[2])


def test_a_label_is_drawn_from_the_pictures_that_have_it() -> None:
    rows = ImageEmbedding(torch.tensor([[0.0], [100.0], [100.0]]).expand(3, COMPONENTS), torch.tensor([0, 1, 1]), ("a", "b", "c"))
    assert (rows.drawn(range(50), label="b") > 50).all()
    assert (rows.drawn(range(50), label="a") < 50).all()
    assert {bool(row[0] > 50) for row in rows.drawn(range(50), label="c")} == {True, False}  # nobody has it: any


def test_many_are_thinned_evenly() -> None:
    many = ImageEmbedding(torch.arange(10 * KEPT).float()[:, None].expand(-1, COMPONENTS), torch.zeros(10 * KEPT, dtype=torch.int64))
    kept = many.thinned().components[:, 0]
    assert len(kept) == KEPT
    assert kept[0] == 0 and kept[-1] == 10 * KEPT - 1
    assert (kept.diff() - 10).abs().max() <= 1


def test_the_projection_is_one_of_principal_components() -> None:
    """Orthogonal directions; whitening stretches them more from one to the next, because later ones vary less."""
    directions = weights.load(PROJECTION)["projection"].double()
    unit = directions / directions.norm(dim=0)
    torch.testing.assert_close(unit.T @ unit, torch.eye(COMPONENTS, dtype=torch.float64), atol=2e-3, rtol=0)
    assert (directions.norm(dim=0).diff() > -1e-2).all()
    features = torch.rand(5, len(directions))
    torch.testing.assert_close(project(features)[2:3], project(features[2:3]))


SHAPES = {"image_embedding": {"components": COMPONENTS}}


def fresh() -> Transformer:
    return Transformer(TransformerConfig(32, 2, 2, patch=2, channels=4, conditions=SHAPES), network_parts(SHAPES, 32))


@pytest.fixture
def network() -> Transformer:
    torch.manual_seed(0)
    network = fresh()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def test_dropped_is_not_conditioned(network: Transformer) -> None:
    """Zeros, no embedding, no condition: one and the same, row by row."""
    x, time = torch.randn(3, 4, 8, 8), torch.zeros(3)
    shown = some(3).components
    shown[1] = 0
    with torch.inference_mode():
        told = network(x, time, {"image_embedding": shown})
        plain = network(x, time)
    torch.testing.assert_close(told[1], plain[1])
    assert (told[[0, 2]] - plain[[0, 2]]).abs().amax((1, 2, 3)).min() > 1e-3
    assert torch.equal(network(x, time, {}), plain)


def test_a_new_model_does_not_yet_listen() -> None:
    """So one that begins with the weights of a model that was not told paints what that one painted."""
    network = fresh()
    part = network.part("image_embedding")
    assert isinstance(part, ImageEmbeddingPart)
    level = part({"image_embedding": some(4).components}, 4, torch.device("cpu")).level
    assert level is not None and np.all(level.detach().numpy() == 0)
