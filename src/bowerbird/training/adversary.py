"""An adversary: a small network that learns to tell restored pictures from true ones, and what is learnt from it.

Absolute error alone is smallest where every doubtful edge is blurred; an adversary sees that no true picture is blurred so
(PatchGAN: Isola et al. 2016, arXiv:1611.07004; hinge loss: Lim and Ye 2017, arXiv:1705.02894).  One that may be as steep as it
likes tells them apart by what no eye sees, and there is nothing to be learnt from it but grain; so no layer of it lengthens
what goes through (spectral norm: Miyato et al. 2018, arXiv:1802.05957).

Its say is fixed: for each picture, its gradient at the restored pixels is scaled to a given share of the length of the
reconstruction's gradient there.  So neither an adversary that wins nor one that loses can take over, the balance is the
same at every moment of a run, and it is a function of one picture: of any batch, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from bowerbird import hardware

WIDTHS = (48, 96, 128)  # channels at 1/2 and 1/4 of the resolution, and of the last look: 0.26 M weights


class Critic(nn.Module):
    """How true each patch of a picture looks: (B, 3, H, W) in -1..1 -> (B, 1, H/4, W/4), positive for true."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter, last = WIDTHS
        self.layers = nn.Sequential(
            spectral_norm(nn.Conv2d(3, half, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(half, quarter, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(quarter, last, 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(last, last // 2, 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(last // 2, 1, 3, padding=1)),
        )
        self.eval()  # looking moves nothing; what it knows of its own lengths is brought up to date once an update

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures)  # type: ignore[no-any-return]

    def measure(self) -> None:
        """One more step of the power iteration that finds the longest direction of each layer."""
        self.train()
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                _ = layer.weight
        self.eval()


class Adversary:
    """A critic with its say.  share: length of its gradient in those of the reconstruction.  loss: its own, of the last look."""

    def __init__(self, share: float, seed: int, device: torch.device, precision: str) -> None:
        with torch.random.fork_rng(devices=[]):  # so that the network it judges begins the same without it
            torch.manual_seed(seed)
            critic = Critic()
        self.critic = critic.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.share, self.device, self.precision = share, device, precision
        self.loss = torch.zeros((), device=device)

    def losses(self, restored: Tensor, true: Tensor, error: Callable[[Tensor], Tensor]) -> Tensor:
        """error(restored), (B,), with a gradient that is also drawn to look true, and from which the critic learns beside."""
        seen = restored.detach().requires_grad_()
        found = error(seen)
        (gradient,) = torch.autograd.grad(found.sum(), seen)
        pull, lesson = self.pushed(seen, gradient), self.lesson(true, seen)
        # the last two are 0 with a gradient: that of the restored pictures, and the critic's own
        losses: Tensor = found.detach() + ((restored - seen.detach()) * pull).flatten(1).sum(1) + (lesson - lesson.detach())
        return losses

    def pushed(self, restored: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at the restored pictures, (B, 3, H, W), with that of looking true added in its share."""
        seen = restored.detach().requires_grad_()
        with hardware.autocast(self.device, self.precision):
            truth = self.critic(seen.view_as(seen))  # who counts the arithmetic hangs hooks on what goes in, which a leaf does not bear
        (own,) = torch.autograd.grad(-truth.float().flatten(1).mean(1).sum(), seen)
        return gradient + own * (self.share * lengths(gradient) / lengths(own).clamp_min(1e-12))

    def lesson(self, true: Tensor, restored: Tensor) -> Tensor:
        """The hinge loss of telling them apart, (B,); its gradient reaches the critic alone."""
        with hardware.autocast(self.device, self.precision):
            of_true, of_restored = self.critic(torch.cat([true, restored.detach()])).float().chunk(2)
        losses: Tensor = (F.relu(1 - of_true) + F.relu(1 + of_restored)).flatten(1).mean(1)
        self.loss = losses.detach().mean()
        return losses


def lengths(gradient: Tensor) -> Tensor:
    """Euclidean length for each picture, (B, 1, 1, 1)."""
    norms: Tensor = gradient.flatten(1).norm(dim=1)
    return norms.view(-1, 1, 1, 1)
