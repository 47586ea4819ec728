"""Laws of the measures, on arrays whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import prdc
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from bowerbird.evaluate.metrics import (
    Array,
    classification_accuracy,
    compare,
    frechet,
    kid,
    laplacian_patches,
    nearest_distances,
    neighbourhoods,
    sliced_wasserstein,
)


class Identity(torch.nn.Module):
    """Lets torchmetrics take features for pictures."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture
def clouds(draw: np.random.Generator) -> tuple[Array, Array]:
    """Two different sets of features, of different sizes."""
    return draw.normal(0, 1, (150, 12)), draw.normal(0.3, 1.5, (200, 12))


def from_torchmetrics(metric: Any, a: Array, b: Array) -> Any:
    metric.update(torch.from_numpy(a), real=True)
    metric.update(torch.from_numpy(b), real=False)
    return metric.compute()


def with_moments(draw: np.random.Generator, mean: Array, variance: Array, rows: int) -> Array:
    """Rows whose sample mean and covariance are exactly `mean` and diag(`variance`)."""
    x = draw.standard_normal((rows, len(mean)))
    x -= x.mean(0)
    q = np.linalg.qr(x)[0]
    return np.asarray(q * np.sqrt((rows - 1) * variance) + mean)


def test_kid_is_the_distance_of_the_first_three_moments(draw: np.random.Generator) -> None:
    """For d = 1 the kernel (xy + 1)^3 = 1 + 3 xy + 3 x^2 y^2 + x^3 y^3 sees just the moments: KID = 3 dm1^2 + 3 dm2^2 + dm3^2.

    N(0, 1) has moments 0, 1, 0 and N(1, 1) has 1, 2, 4, so KID = 3 + 3 + 16.
    """
    a, b = draw.normal(0, 1, (4000, 1)), draw.normal(1, 1, (4000, 1))
    assert kid(a, b) == pytest.approx(22, rel=0.1)


def test_kid_is_unbiased(draw: np.random.Generator) -> None:
    """Its mean over draws from one distribution is 0, even with ten rows each; the biased estimate would be 0.2 or more."""
    values = [kid(draw.normal(0, 1, (10, 4)), draw.normal(0, 1, (10, 4))) for _ in range(500)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_kid_agrees_with_torchmetrics(clouds: tuple[Array, Array]) -> None:
    """torchmetrics takes subsets of equal size; one subset of everything is the whole estimate."""
    a, b = clouds[0], clouds[1][:150]
    mean, _ = from_torchmetrics(KernelInceptionDistance(Identity(12), subsets=1, subset_size=150), a, b)
    assert kid(a, b) == pytest.approx(float(mean), rel=1e-4)  # it computes in single precision


def test_frechet_agrees_with_torchmetrics(clouds: tuple[Array, Array]) -> None:
    theirs = from_torchmetrics(FrechetInceptionDistance(Identity(12)).set_dtype(torch.float64), *clouds)
    assert frechet(*clouds) == pytest.approx(float(theirs), rel=1e-3)


@pytest.mark.parametrize("rows", [40, 9], ids=["more rows than features", "just enough"])
def test_frechet_has_the_closed_form_of_gaussians(draw: np.random.Generator, rows: int) -> None:
    """Commuting covariances: the distance is |dm|^2 + sum (s_a - s_b)^2."""
    means, variances = draw.normal(size=(2, 8)), draw.uniform(0.1, 3, (2, 8))
    a, b = (with_moments(draw, m, v, rows) for m, v in zip(means, variances, strict=True))
    expected = ((means[0] - means[1]) ** 2).sum() + ((np.sqrt(variances[0]) - np.sqrt(variances[1])) ** 2).sum()
    assert frechet(a, b) == pytest.approx(expected)


def test_frechet_of_fewer_pictures_than_features(draw: np.random.Generator) -> None:
    """Features that never vary add nothing, so padding with zero columns changes no distance, whichever way it is computed."""
    a, b = draw.normal(size=(30, 8)), draw.normal(1, 2, (25, 8))
    assert frechet(np.pad(a, ((0, 0), (0, 60))), np.pad(b, ((0, 0), (0, 60)))) == pytest.approx(frechet(a, b))


def test_neighbourhoods_agree_with_prdc(clouds: tuple[Array, Array]) -> None:
    ours = neighbourhoods(clouds[0], clouds[1], k=5)
    theirs = prdc.compute_prdc(real_features=clouds[1], fake_features=clouds[0], nearest_k=5)
    assert ours._asdict() == pytest.approx(theirs)


def test_equal_sets_are_at_no_distance(clouds: tuple[Array, Array]) -> None:
    a = clouds[0]
    patches = a.reshape(len(a), 4, 3).repeat(7, axis=2)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert sliced_wasserstein(patches, patches) == 0
    assert neighbourhoods(a, a)[:2] == (1, 1)
    assert kid(a, a) <= 0  # without bias means: as far below 0 as it must be above it elsewhere


def test_distances_are_symmetric(clouds: tuple[Array, Array]) -> None:
    a, b = clouds
    assert kid(a, b) == pytest.approx(kid(b, a))
    assert frechet(a, b) == pytest.approx(frechet(b, a))
    assert neighbourhoods(a, b).precision == neighbourhoods(b, a).recall
    small, large = (x.reshape(len(x), 4, 3) for x in clouds)
    assert sliced_wasserstein(small, large) == pytest.approx(sliced_wasserstein(large, small))


def test_dropped_modes_cost_recall_and_coverage_but_no_precision(draw: np.random.Generator) -> None:
    """A generator that paints three of four clusters paints them well."""
    clusters = draw.normal(0, 20, (4, 1, 6))
    real, painted = ((clusters + draw.normal(size=(4, 50, 6))).reshape(-1, 6) for _ in range(2))
    scores = neighbourhoods(painted[:150], real)
    assert scores.precision > 0.9
    assert scores.recall == pytest.approx(0.75, abs=0.05)
    assert scores.coverage == pytest.approx(0.75, abs=0.05)


def test_coverage_of_real_by_real_has_its_known_mean(draw: np.random.Generator) -> None:
    """All k neighbours of a real picture are nearer than any of as many others with probability 2^-k (Naeem et al. 2020)."""
    coverage = np.mean([neighbourhoods(draw.normal(size=(300, 3)), draw.normal(size=(300, 3)), k=3).coverage for _ in range(20)])
    assert coverage == pytest.approx(1 - 2**-3, abs=0.01)


def test_nearest_distances_by_hand() -> None:
    assert nearest_distances(np.array([[0.0], [5.0]]), np.array([[1.0], [3.5]])) == pytest.approx([1, 1.5])


def test_a_laplacian_level_holds_only_its_own_detail(draw: np.random.Generator) -> None:
    """A flat picture has detail at no level but the last; fine noise is strongest at the finest level, slow waves at the coarsest."""

    def energy(pixels: Array) -> dict[int, float]:
        return {side: float((p - p.mean()).std()) for side, p in laplacian_patches(pixels.astype(np.uint8)).items()}

    y, x = np.mgrid[:64, :64]
    waves = 128 + 100 * np.sin(2 * np.pi * (x + y) / 64)
    noise = energy(draw.integers(0, 256, (4, 64, 64, 3)))
    slow = energy(np.repeat(np.repeat(waves[None, :, :, None], 4, 0), 3, 3))
    assert set(noise) == {64, 32, 16}
    assert noise[64] > noise[32] > noise[16]
    assert slow[16] > 10 * slow[64]
    assert all(np.abs(p).max() < 1e-5 for side, p in laplacian_patches(np.full((2, 64, 64, 3), 77, np.uint8)).items() if side > 16)


def test_sliced_wasserstein_ignores_brightness_and_contrast(draw: np.random.Generator) -> None:
    patches = draw.normal(size=(50, 4, 147)).astype(np.float32)
    assert sliced_wasserstein(patches, 3 * patches + 2) == pytest.approx(0, abs=1e-5)


def test_classification_learns_what_can_be_learnt(draw: np.random.Generator) -> None:
    """Far classes are always told apart; shuffled labels leave chance, 1/4."""
    centres = draw.normal(0, 5, (4, 20))

    def sample(count: int) -> Array:
        labels = draw.integers(0, 4, count)
        return np.column_stack([centres[labels] + draw.normal(size=(count, 20)), labels])

    train, test = sample(200), sample(400)
    assert classification_accuracy(train, test) > 0.98
    train[:, -1] = draw.permutation(train[:, -1])
    assert classification_accuracy(train, test) < 0.5


def test_margin_of_a_mean_is_its_standard_error(draw: np.random.Generator) -> None:
    """The jackknife of a mean must give 1.96 sd / sqrt(n): at half the pictures a draw, and where draws are capped at 1,000."""
    for count in (400, 4000):
        x = draw.normal(3, 2, (count, 1))
        (score,) = compare(lambda a, b: float(a.mean()), x, x)
        assert score.value == pytest.approx(3, abs=0.3)
        assert score.margin == pytest.approx(1.96 * 2 / np.sqrt(count), rel=0.5)  # 20 draws know a deviation to 16 %


def test_equal_distributions_meet_the_floor_and_others_do_not(draw: np.random.Generator) -> None:
    real = draw.normal(size=(300, 8))
    met = [compare(kid, draw.normal(size=(300, 8)), real)[0].at_the_floor for _ in range(20)]
    assert sum(met) >= 18
    assert not compare(kid, draw.normal(0.5, 1, (300, 8)), real)[0].at_the_floor


def test_biased_measures_meet_their_floor_on_equal_terms(draw: np.random.Generator) -> None:
    """Frechet distances grow when pictures are few; comparing 4,000 with 100 must not hide that, nor be misled by it."""
    (score,) = compare(frechet, draw.normal(size=(4000, 30)), draw.normal(size=(100, 30)))
    assert score.floor > 5  # far above the 0 of infinitely many
    assert score.at_the_floor
