from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird.evaluate.features import Pixels

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def animals() -> Pixels:
    """240 pictures of animals at 64x64, in no particular order."""
    files = sorted((EXAMPLES / "animals").glob("*.webp"))
    chosen = np.random.default_rng(0).permutation(len(files))[:240]
    pictures = [Image.open(files[i]).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC) for i in chosen]
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)
