"""Whether a picture shows what was asked for: two small networks that bring captions and pictures to one place.

    caption  ->  mean of its words' vectors (models/text_encoder.py), 128  ->  (128)  \\
                                                                                        cosine: high where they belong together
    picture  ->  MobileNetV2's features, 1280                              ->  (128)  /

Trained contrastively on captions and pictures of the project's own kind (scripts/train_alignment.py), as CLIP was (Radford et al.
2021, arXiv:2103.00020).  So it knows drawings of things, and says little of other pictures: beside every score stands what real
pictures reach, and by chance a picture finds its caption among N as often as once in N.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bowerbird import weights
from bowerbird.evaluate.metrics import Score
from bowerbird.models import features
from bowerbird.models.features import FEATURES, Features
from bowerbird.models.text_encoder import WORDS, tokens, vectors

WEIGHTS: Path = features.WEIGHTS / "alignment.safetensors"
HIDDEN, SHARED = 288, 128


class Towers(nn.Module):
    """Captions (N, WORDS) and pictures (M, FEATURES) to unit vectors (N, SHARED) and (M, SHARED)."""

    def __init__(self) -> None:
        super().__init__()
        self.caption = _tower(WORDS, 0.1)
        self.picture = _tower(FEATURES, 0.3)

    def forward(self, captions: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.caption(captions), dim=1), F.normalize(self.picture(pictures), dim=1)


def _tower(inputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(inputs), nn.Dropout(dropout), nn.Linear(inputs, HIDDEN), nn.GELU(), nn.Dropout(0.2), nn.Linear(HIDDEN, SHARED)
    )


def bags(captions: Sequence[str]) -> Tensor:
    """The mean of each caption's word vectors, (N, WORDS); zeros where there is no word."""
    none = torch.zeros(WORDS)
    return torch.stack([vectors(torch.tensor(read)).mean(0) if (read := tokens(caption)) else none for caption in captions])


@cache
def towers() -> Towers:
    """As trained, frozen, in eval mode."""
    network = Towers()
    weights.load_into(network, weights.load(WEIGHTS), str(WEIGHTS))
    return network.eval().requires_grad_(False)


def ranks(captions: Sequence[str], shown: Features, among: Sequence[str]) -> NDArray[np.int64]:
    """How many of the different captions `among` fit each picture better than its own does, (N,); shown: (N, 1280) of the judge.

    Equal captions are one, so a picture that finds another's copy of its caption has found it.
    """
    different = list(dict.fromkeys([*among, *captions]))
    place = {caption: number for number, caption in enumerate(different)}
    said, pictures = towers()(bags(different), torch.from_numpy(np.ascontiguousarray(shown, np.float32)))
    likeness = pictures @ said.T  # (N, different)
    own = likeness.gather(1, torch.tensor([[place[caption]] for caption in captions]))
    better: NDArray[np.int64] = (likeness > own).sum(1).numpy()
    return better


def retrieval(painted: tuple[Sequence[str], Features], real: tuple[Sequence[str], Features], within: Sequence[int]) -> list[Score]:
    """For each of `within`, the share of painted pictures whose own caption is one of so many that fit best, of all there are.

    The floor is the real pictures' share.  painted, real: captions and features, a row a picture.
    """
    among = [*painted[0], *real[0]]
    ours, theirs = (ranks(captions, shown, among) for captions, shown in (painted, real))
    return [Score(*_share(ours < best), *_share(theirs < best)) for best in within]


def clip_score(said: Tensor, shown: Tensor) -> Tensor:
    """How well each picture fits its caption in CLIP's eyes, 0..2.5, (N,); said, shown: unit vectors (N, D).

    2.5 * max(cosine, 0), as Hessel et al. 2021 weigh it (CLIPScore, arXiv:2104.08718), by the caption alone: they put "A photo
    depicts" before it, which drawings are not.
    """
    return 2.5 * (said * shown).sum(1).clamp(min=0)


def _share(hits: NDArray[np.bool_]) -> tuple[float, float]:
    """How many, and the margin of 95 %: of a share of 0 or 1 too, as if one hit were otherwise."""
    share = float(hits.mean())
    return share, float(1.96 * np.sqrt(max(share * (1 - share), 1 / len(hits)) / len(hits)))
