"""Fit the projection behind conditions/image_embedding.py: the principal components of what EfficientNet-Lite0 sees in PICTURES.

    python scripts/fit_image_embedding.py PICTURES

The one that comes with the project was fitted to the `parts` split of the project's pictures, at 64 px.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from bowerbird import weights
from bowerbird.conditions.image_embedding import COMPONENTS, INPUT_PX, PROJECTION
from bowerbird.data import open_pictures
from bowerbird.models.features import SECOND_OPINION, extract

SIZE = 64


def main() -> None:
    pictures = open_pictures(Path(sys.argv[1]), SIZE, held_out=0.0)
    features = torch.from_numpy(extract(pictures.pixels, SECOND_OPINION, input_px=INPUT_PX)).double()
    mean = features.mean(0)
    _, spread, directions = torch.linalg.svd(features - mean, full_matrices=False)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()  # their sign is anybody's choice
    deviation = spread[:COMPONENTS] / (len(features) - 1) ** 0.5
    projection = directions[:COMPONENTS].T / deviation
    PROJECTION.write_bytes(weights.to_bytes({"mean": mean.half(), "projection": projection.half()}))
    explained = float(spread[:COMPONENTS].square().sum() / spread.square().sum())
    print(f"{PROJECTION}: {len(features):,} pictures, {explained:.0%} of their variance in {COMPONENTS} components")


if __name__ == "__main__":
    main()
