"""Train the two towers behind evaluate/alignment.py, and say how often real pictures find their captions by them.

    python scripts/train_alignment.py PICTURES PICTURES/splits.csv

PICTURES have captions; the table of splits has columns file_name and split.  Learnt from are parts, bench, more-parts and more-bench;
asked about are held and more-held.  A few minutes on one core.  MobileNetV2, the judge's network, is used as it is: nothing
that paints learns from it, or from this.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from bowerbird import weights
from bowerbird.data import open_pictures
from bowerbird.evaluate.alignment import WEIGHTS, Towers, bags, ranks, towers
from bowerbird.models.features import Features, extract

SIZE = 64
LEARNT, ASKED = ("parts", "bench", "more-parts", "more-bench"), ("held", "more-held")
BATCH, EPOCHS, LR, WEIGHT_DECAY = 512, 60, 1.5e-3, 0.05
SHARPNESS = 2.7  # ln of what the cosines are multiplied by, at first


class Captioned(NamedTuple):
    captions: list[str]
    features: Features

    def rows(self, chosen: list[int]) -> Captioned:
        return Captioned([self.captions[row] for row in chosen], self.features[chosen])


def read(folder: Path, splits: Path) -> dict[str, Captioned]:
    """The first caption and the features of every picture that has a caption and a split, by split."""
    with splits.open(newline="", encoding="utf-8") as file:
        split_of = {row["file_name"]: row["split"] for row in csv.DictReader(file)}
    pictures = open_pictures(folder, SIZE, held_out=0.0)
    all_of_them = Captioned([said[0] if said else "" for said in pictures.captions], extract(pictures.pixels))
    captioned = [row for row, said in enumerate(all_of_them.captions) if said]
    return {
        split: all_of_them.rows([row for row in captioned if split_of.get(pictures.names[row]) == split]) for split in (*LEARNT, *ASKED)
    }


def train(captions: list[str], features: Features) -> Towers:
    """Each caption is to lie nearer to its own picture than to the others of its batch, and each picture to its own caption."""
    torch.manual_seed(0)
    said, shown = bags(captions), torch.from_numpy(features)
    both, sharpness = Towers(), torch.nn.Parameter(torch.tensor(SHARPNESS))
    optimizer = torch.optim.AdamW([*both.parameters(), sharpness], LR, weight_decay=WEIGHT_DECAY)
    steps, own = EPOCHS * len(said) // BATCH, torch.arange(BATCH)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, 1.2 * (steps - step) / steps)
        rows = torch.randint(len(said), (BATCH,))
        one, other = both(said[rows], shown[rows])
        likeness = one @ other.T * sharpness.exp()
        loss = (F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return both


def main() -> None:
    splits = read(Path(sys.argv[1]), Path(sys.argv[2]))
    captions = [caption for split in LEARNT for caption in splits[split].captions]
    both = train(captions, np.concatenate([splits[split].features for split in LEARNT]))
    about = {
        "network": "two towers, captions and MobileNetV2's features",
        "trained_on": f"{len(captions):,} pictures",
        "licence": "Apache-2.0",
    }
    WEIGHTS.write_bytes(weights.to_bytes({name: tensor.half() for name, tensor in both.state_dict().items()}, {"about": json.dumps(about)}))
    towers.cache_clear()
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size:,} bytes, from {len(captions):,} pictures")
    for split in ASKED:
        found = ranks(*splits[split], among=splits[split].captions)
        shares = ", ".join(f"{(found < best).mean():.1%} among the best {best}" for best in (1, 5, 10))
        print(f"{split}: of {len(found):,} pictures and {len(set(splits[split].captions)):,} captions, {shares}")


if __name__ == "__main__":
    main()
