"""Proof: a model overtrained on 16 pictures is caught copying, and real pictures it never saw are let be.

    python proofs/copies.py    writes proof/copies.json and proof/copies-NAME.png, the closest pairs; minutes on one core

For drawings of birds and for photographs, neither of which the detector's threshold was set on: the default recipe sees 16
of them a thousand times and paints 64.  Unseen are the other pictures, less those of the same subject: an emoji comes in
several versions of one drawing, which are copies of each other.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bowerbird import load
from bowerbird.data import open_pictures
from bowerbird.evaluate.copies import closest_pairs, find_copies
from bowerbird.pages import contact_sheet
from bowerbird.recipe import read_recipe
from bowerbird.request import PaintRequest
from bowerbird.training import train

ROOT = Path(__file__).parent.parent
PROOF = ROOT / "proof"
TRAINED_ON, PAINTED, SIZE = 16, 64, 64
SETTINGS = ["data.held_out=0", "data.flip=false", "train.pictures=16_000"]  # a thousand times each


def overtrain(name: str, files: list[Path], folder: Path) -> dict[str, Any]:
    """Train on 16 of the files, and look for copies among 64 painted pictures and among the files left over."""
    chosen = set(np.random.default_rng(0).permutation(len(files))[:TRAINED_ON].tolist())
    known = {subject(files[number]) for number in chosen}
    for number, file in enumerate(files):
        if number in chosen or subject(file) not in known:
            target = folder / ("trained" if number in chosen else "unseen") / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    train(folder / "trained", folder / "run", read_recipe("latent-64", SETTINGS))
    painted = [each.picture for each in load(str(folder / "run")).paint(PaintRequest(model=name, count=PAINTED, seed=0))]
    pixels = np.stack([np.asarray(picture) for picture in painted])
    originals, unseen = (open_pictures(folder / part, SIZE, held_out=0.0).pixels for part in ("trained", "unseen"))
    copies = find_copies(pixels, originals, unseen)
    closest_pairs(copies, pixels, originals).save(PROOF / f"copies-{name}.png")
    let_be = [Image.fromarray(each) for i in np.flatnonzero(~copies.copied) for each in (pixels[i], originals[copies.original(int(i))])]
    if let_be:  # beside the training picture each is nearest to: is it one after all?
        contact_sheet(let_be, columns=8).save(PROOF / f"copies-{name}-let-be.png")
    return {"painted": PAINTED, "flagged": copies.rate, "unseen": len(unseen), "unseen flagged": copies.unseen_rate}


def subject(file: Path) -> str:
    """noto-v1-flamingo.webp -> flamingo"""
    return re.findall("[a-z]+", file.stem)[-1]


def main() -> None:
    PROOF.mkdir(exist_ok=True)
    kinds = {
        "birds": sorted((ROOT / "examples/birds").glob("*.webp")),
        "photographs": sorted((ROOT / "examples/animals").glob("photo-*.webp")),
    }
    found = {}
    for name, files in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = overtrain(name, files, Path(folder))
            print(name, found[name], flush=True)
    (PROOF / "copies.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, rates in found.items():
        assert rates["flagged"] >= 0.95, f"{name}: only {rates['flagged']:.1%} of the copies were found"
        assert rates["unseen flagged"] <= 0.02, f"{name}: {rates['unseen flagged']:.1%} of unseen pictures were called copies"


if __name__ == "__main__":
    main()
