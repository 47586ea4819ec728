"""An adversary: a small network that learns to tell restored pictures from true ones, and what is learnt from it.

Absolute error alone is smallest where every doubtful edge is blurred; an adversary sees that no true picture is blurred so
(PatchGAN: Isola et al. 2016, arXiv:1611.07004; hinge loss: Lim and Ye 2017, arXiv:1705.02894).  One that may be as steep as it
likes tells them apart by what no eye sees, and there is nothing to be learnt from it; so its slope at true pictures costs it
(R1: Mescheder et al. 2018, arXiv:1801.04406).

Its say is fixed: for each picture, its gradient at the restored pixels is scaled to a given share of the length of the
reconstruction's gradient there.  So neither an adversary that wins nor one that loses can take over, the balance is the
same at every moment of a run, and it is a function of one picture: of any batch, on any number of processes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bowerbird import hardware
from bowerbird.models.autoencoder import PlaceNorm

STEEPNESS, STEEPNESS_EVERY = 0.01, 4  # weight of the critic's squared slope, and at which pictures it is looked at
WIDTHS = (32, 64, 128)  # channels at 1/2 and 1/4 of the resolution, and of the last look: 0.18 M weights


class Critic(nn.Module):
    """How true each patch of a picture looks: (B, 3, H, W) in -1..1 -> (B, 1, H/4, W/4), positive for true."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter, last = WIDTHS
        self.layers = nn.Sequential(
            nn.Conv2d(3, half, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(half, quarter, 4, stride=2, padding=1),
            PlaceNorm(quarter),
            nn.LeakyReLU(0.2),
            nn.Conv2d(quarter, last, 3, padding=1),
            PlaceNorm(last),
            nn.LeakyReLU(0.2),
            nn.Conv2d(last, last // 2, 3, padding=1),
            PlaceNorm(last // 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(last // 2, 1, 3, padding=1),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures)  # type: ignore[no-any-return]


class Adversary:
    """A critic with its say.  share: length of its gradient in those of the reconstruction.  loss: its own, of the last look."""

    def __init__(self, share: float, seed: int, device: torch.device, precision: str) -> None:
        with torch.random.fork_rng(devices=[]):  # so that the network it judges begins the same without it
            torch.manual_seed(seed)
            critic = Critic()
        self.critic = critic.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.share, self.device, self.precision = share, device, precision
        self.loss = torch.zeros((), device=device)

    def pushed(self, restored: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at the restored pictures, (B, 3, H, W), with that of looking true added in its share."""
        seen = restored.detach().requires_grad_()
        with hardware.autocast(self.device, self.precision):
            truth = self.critic(seen.view_as(seen))  # who counts the arithmetic hangs hooks on what goes in, which a leaf does not bear
        (own,) = torch.autograd.grad(-truth.float().flatten(1).mean(1).sum(), seen)
        return gradient + own * (self.share * lengths(gradient) / lengths(own).clamp_min(1e-12))

    def lesson(self, true: Tensor, restored: Tensor, first: int) -> Tensor:
        """The hinge loss of telling them apart and the cost of its slope, (B,); their gradient reaches the critic alone.

        first: number of the first sample.  The slope is looked at where that number is a multiple of STEEPNESS_EVERY, and counts as often.
        """
        rows = [row for row in range(len(true)) if (first + row) % STEEPNESS_EVERY == 0]
        steep = true[rows].detach().requires_grad_()
        with hardware.autocast(self.device, self.precision):
            of_true, of_restored = self.critic(torch.cat([true, restored.detach()])).float().chunk(2)
            of_steep = self.critic(steep.view_as(steep)).float() if rows else None
        losses = (F.relu(1 - of_true) + F.relu(1 + of_restored)).flatten(1).mean(1)
        self.loss = losses.detach().mean()
        if of_steep is not None:
            (slope,) = torch.autograd.grad(of_steep.sum(), steep, create_graph=True)
            cost = slope.square().flatten(1).sum(1) / of_steep[0].numel()
            losses = losses.index_add(0, torch.tensor(rows, device=self.device), STEEPNESS_EVERY * STEEPNESS / 2 * cost)
        return losses


def lengths(gradient: Tensor) -> Tensor:
    """Euclidean length for each picture, (B, 1, 1, 1)."""
    return gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
