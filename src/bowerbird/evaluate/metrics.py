"""How far two sets of pictures are apart: pure functions of arrays, first axis pictures.

Features are (N, d) arrays from `features.extract`; `sliced_wasserstein` takes the patches of `laplacian_patches`.
`compare` turns any of them into a score with an interval and the score of real pictures against real ones beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bowerbird import draws
from bowerbird.pixels import to_x0

Array = NDArray[Any]

DRAWS = 20
MOST_IN_A_DRAW = 1000
NEIGHBOURS = 5  # k of precision, recall, density and coverage, as Naeem et al. use it
PATCH_PX = 7
PATCHES_PER_PICTURE = 16
SMALLEST_LEVEL_PX = 16
DIRECTIONS = 128


def kid(a: Array, b: Array) -> float:
    """Kernel Inception distance: the squared maximum mean discrepancy under the kernel (x.y/d + 1)^3, without bias.

    a: (N, d), b: (M, d), at least 2 rows each; 0 on average when both come from one distribution, so it can fall below 0.
    Binkowski et al. 2018, "Demystifying MMD GANs", arXiv:1801.01401.  Customarily shown times 1000.
    """
    within = _mean_of_pairs(_kernel(a, a)) + _mean_of_pairs(_kernel(b, b))
    return float(within - 2 * _kernel(a, b).mean())


def _kernel(a: Array, b: Array) -> Array:
    base: Array = a.astype(np.float64) @ b.astype(np.float64).T / a.shape[1] + 1
    return base * base * base  # much faster than ** 3


def _mean_of_pairs(kernel: Array) -> float:
    """Mean over pairs of different rows; the diagonal would bias it."""
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))


def frechet(a: Array, b: Array) -> float:
    """Frechet distance of the Gaussians with the means and covariances of a (N, d) and b (M, d): the formula of FID.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)); Heusel et al. 2017, arXiv:1706.08500.  Biased upwards for few pictures:
    compare only figures from equally many.
    """
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    # With A = Ra' Ra and B = Rb' Rb, the eigenvalues of A B are the squared singular values of Ra Rb': no complex root needed.
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    means = a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)
    return float(means @ means + (root_a**2).sum() + (root_b**2).sum() - 2 * cross)


def _covariance_root(x: Array) -> Array:
    """R with R' R the covariance of the rows; min(N, d) rows."""
    root: Array = (x - x.mean(0, dtype=np.float64)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(root, mode="r")) if len(x) > x.shape[1] else root


class Neighbourhoods(NamedTuple):
    """How two sets share their space, each 0..1 but for density, which may pass 1."""

    precision: float  # share of generated pictures inside the real set
    recall: float  # share of real pictures inside the generated set
    density: float  # how deep inside the real set the generated pictures lie; real pictures score 1
    coverage: float  # share of real pictures with a generated one as near as their own k-th real neighbour


def neighbourhoods(generated: Array, real: Array, k: int = NEIGHBOURS) -> Neighbourhoods:
    """Precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020, arXiv:2002.09797).

    generated: (N, d), real: (M, d).  A set is the union of balls around its members that reach to their k-th neighbour.
    """
    between = _distances(generated, real)
    real_radius, generated_radius = _kth_neighbour(real, k), _kth_neighbour(generated, k)
    in_real = between < real_radius  # (N, M): generated i lies in the ball of real j
    in_generated = between < generated_radius[:, None]
    return Neighbourhoods(
        precision=float(in_real.any(1).mean()),
        recall=float(in_generated.any(0).mean()),
        density=float(in_real.sum(1).mean() / k),
        coverage=float(in_real.any(0).mean()),
    )


def nearest_distances(a: Array, b: Array) -> Array:
    """For each row of a, the distance to the nearest row of b."""
    nearest: Array = _distances(a, b).min(1)
    return nearest


def _distances(a: Array, b: Array) -> Array:
    a, b = a.astype(np.float64), b.astype(np.float64)
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    root: Array = np.sqrt(np.maximum(squared, 0))
    return root


def _kth_neighbour(x: Array, k: int) -> Array:
    """Distance from every row to its k-th nearest other row; row i itself is the 0-th."""
    k = min(k, len(x) - 1)
    distances: Array = np.partition(_distances(x, x), k, axis=1)[:, k]
    return distances


def laplacian_patches(pixels: Array, seed: int = 0) -> dict[int, Array]:
    """What every scale of the pictures looks like: {side in pixels: patches (N, 16, 147) float32}, fine to coarse.

    pixels: (N, H, W, 3) uint8.  Each level of a Laplacian pyramid holds the detail the next coarser level lacks; from each,
    7x7 patches are cut at random places, the same for every set (Karras et al. 2018, arXiv:1710.10196, section 5).
    """
    levels: dict[int, list[Tensor]] = {}
    for start in range(0, len(pixels), 64):
        x = to_x0(pixels[start : start + 64])
        while True:
            side = min(x.shape[2:])
            coarser = _halve(x) if side // 2 >= SMALLEST_LEVEL_PX else None
            detail = x if coarser is None else x - F.interpolate(coarser, x.shape[2:], mode="bilinear")
            levels.setdefault(side, []).append(_cut_patches(detail, seed))
            if coarser is None:
                break
            x = coarser
    return {side: torch.cat(patches).numpy() for side, patches in levels.items()}


def _halve(x: Tensor) -> Tensor:
    """Half the side, by the binomial filter 1 4 6 4 1 of the Laplacian pyramid (Burt and Adelson 1983)."""
    row = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    kernel = (row[:, None] * row).expand(3, 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=3)


def _cut_patches(x: Tensor, seed: int) -> Tensor:
    """(B, 3, H, W) -> (B, 16, 147)"""
    height, width = x.shape[2] - PATCH_PX + 1, x.shape[3] - PATCH_PX + 1
    places = draws.generator(seed, "patches", x.shape[2]).integers((height, width), size=(PATCHES_PER_PICTURE, 2))
    return torch.stack([x[:, :, y : y + PATCH_PX, z : z + PATCH_PX].flatten(1) for y, z in places], 1)


def sliced_wasserstein(a: Array, b: Array, seed: int = 0) -> float:
    """Sliced Wasserstein distance of two sets of patches, (N, P, D) and (M, P, D): the mean distance of their sorted shadows.

    Each channel of each set is brought to mean 0, std 1 first, so that it is the patterns that count, not brightness or
    contrast; shadows are cast in 128 random directions (Karras et al. 2018).  Customarily shown times 1000.
    """
    count = min(len(a), len(b))
    directions = draws.generator(seed, "directions", 0).standard_normal((DIRECTIONS, a.shape[2]), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    shadows = [np.sort(directions @ _standardise(x[:count].reshape(-1, x.shape[2])).T, axis=1) for x in (a, b)]
    return float(np.abs(shadows[0] - shadows[1]).mean())


def _standardise(patches: Array) -> Array:
    """Mean 0, std 1 in each of the three colour channels; patches (N, 3 * 49)."""
    channels = patches.reshape(len(patches), 3, -1)
    mean, std = channels.mean((0, 2), keepdims=True), channels.std((0, 2), keepdims=True)
    standard: Array = ((channels - mean) / np.maximum(std, 1e-6)).reshape(patches.shape)
    return standard


def classification_accuracy(train: Array, test: Array) -> float:
    """Share of `test` that a classifier trained on `train` names rightly: the classification accuracy score, 0..1.

    train: (N, d + 1), test: (M, d + 1), features with a class number as last column.  Trained on generated pictures and tested
    on real ones, it falls when classes are mixed up or lack variety (Ravuri and Vinyals 2019, arXiv:1905.10887).  Here the
    classifier is linear, ridge regression on the features, so that it has no settings and takes no time.
    """
    x, labels = train[:, :-1].astype(np.float64), train[:, -1].astype(int)
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, y = (x - mean) / std, (test[:, :-1] - mean) / std
    targets = np.eye(labels.max() + 1)[labels]
    targets -= targets.mean(0)
    duals = np.linalg.solve(x @ x.T + x.shape[1] * np.eye(len(x)), targets)
    guesses = (y @ x.T @ duals).argmax(1)
    return float((guesses == test[:, -1]).mean())


@dataclass(frozen=True)
class Score:
    """A score, and what real pictures score against real ones.  A 95 % interval is value +- margin."""

    value: float
    margin: float
    floor: float
    floor_margin: float

    def times(self, factor: float) -> Score:
        return Score(factor * self.value, factor * self.margin, factor * self.floor, factor * self.floor_margin)

    @property
    def at_the_floor(self) -> bool:
        """No difference from real pictures could be shown: the intervals meet."""
        return abs(self.value - self.floor) <= self.margin + self.floor_margin


def compare(
    measure: Callable[[Array, Array], float | tuple[float, ...]], generated: Array, real: Array, seed: int = 0, *, paired: bool = False
) -> list[Score]:
    """Scores of `measure(generated, real)` with 95 % intervals, beside `measure(real, real)` at the same number of pictures.

    `measure` takes what its rows are drawn from; it returns one score or several.  Needs 4 rows of each.

    20 draws, without replacement, of s = half the smaller set (1,000 at most): s generated pictures against s real ones, and
    s *other* real ones against the same.  Drawing without replacement, because a bootstrap's repeated pictures would be each
    other's nearest neighbours.  The spread over draws, times sqrt(s / (n - s)), is the delete-d jackknife's standard error
    for n pictures (Shao and Wu 1989).  Values are means over the draws: biased measures meet the floor on equal terms.

    `paired`: generated picture i was made from real picture i, as by an autoencoder.  Then those drawn are the ones made from the
    *other* real pictures, so that none is compared with its own original, which would flatter it.
    """
    size = min(MOST_IN_A_DRAW, min(len(generated), len(real)) // 2)
    scores, floors = [], []
    for draw in range(DRAWS):
        rng = draws.generator(seed, "halves", draw)
        some, order = np.sort(rng.permutation(len(generated))[:size]), rng.permutation(len(real))
        one, other = np.sort(order[:size]), np.sort(order[size : 2 * size])
        scores.append(np.atleast_1d(measure(generated[other if paired else some], real[one])))
        floors.append(np.atleast_1d(measure(real[other], real[one])))
    fewest = min(len(generated), len(real))
    to_margin = 1.96 * np.sqrt(size / (fewest - size))
    columns = zip(np.mean(scores, 0), np.std(scores, 0, ddof=1), np.mean(floors, 0), np.std(floors, 0, ddof=1), strict=True)
    return [Score(float(v), float(dv * to_margin), float(f), float(df * to_margin)) for v, dv, f, df in columns]
