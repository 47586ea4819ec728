"""How often the search for copies is right: altered copies found, and unseen real pictures wrongly taken for copies, by kind."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.pictures import read_column
from bowerbird.data import open_pictures
from bowerbird.evaluate.copies import Copies, closest_pairs, nearest, nearest_by_features
from bowerbird.models.features import SECOND_OPINION, Features, extract
from bowerbird.pixels import Pixels

FEW, SETS = 16, 20  # a model overtrained on 16 pictures is the hardest case: its copies have few neighbours to stand out from
SHOWN = 48
ALTERED = 64  # training pictures that are altered and looked for, of a large training set

Rows = NDArray[np.int64]


def copies(options: argparse.Namespace) -> dict[str, Any]:
    """Rates by kind of picture (what `subject` in the splits file begins with), for small training sets of one kind and for all of `bench`.

    The unseen pictures are all of the kind in the other splits.  No subject is on both sides, yet versions of one drawing are, and
    count as errors here; copies.webp shows the alarms in `held`, each beside the training picture.
    """
    found = open_pictures(options.pictures, options.size, held_out=0.0)
    split_of, subject_of = read_column(options.splits, "split"), read_column(options.splits, "subject")
    splits = np.array([split_of.get(name, "") for name in found.names])
    kinds = np.array([subject_of.get(name, "").partition(":")[0] for name in found.names])
    pixels, features = found.pixels, extract(found.pixels, SECOND_OPINION)
    draw, rows, every = np.random.default_rng(options.seed), [], np.flatnonzero(splits == "bench")
    for kind in sorted(set(kinds) - {""}):
        train, unseen = (np.flatnonzero((kinds == kind) & side) for side in (splits == "bench", np.isin(splits, ("held", "parts"))))
        sets = [np.sort(draw.choice(train, FEW, replace=False)) for _ in range(SETS)]
        rows.append(_row(kind, FEW, pixels, features, [(few, few, unseen) for few in sets]))
        some = draw.choice(train, min(ALTERED, len(train)), replace=False)
        rows.append(_row(kind, len(every), pixels, features, [(every, some, unseen)]))
    options.records.mkdir(parents=True, exist_ok=True)
    _alarms(pixels, features, np.flatnonzero(splits == "held"), every).save(options.records / "copies.webp", quality=80)
    return {"name": "copies", "size": options.size, "seed": options.seed, "kinds": rows}


def _row(kind: str, trained: int, pixels: Pixels, features: Features, cases: list[tuple[Rows, Rows, Rows]]) -> dict[str, Any]:
    """Means over cases of (training set, those of it to alter, unseen pictures)."""
    flagged, unseen_flagged = [], []
    for train, copied, unseen in cases:
        altered = np.concatenate([alter(pixels[copied]) for alter in (_mirrored, _noised, _shifted_and_noised)])
        flagged.append(_flagged(altered, extract(altered, SECOND_OPINION), pixels[train], features[train]))
        unseen_flagged.append(_flagged(pixels[unseen], features[unseen], pixels[train], features[train]))
    return {
        "kind": kind,
        "trained_on": trained,
        "sets": len(cases),
        "copies": sum(map(len, flagged)),
        "copies_found": float(np.mean(flagged)),
        "unseen": len(cases[0][2]),
        "unseen_flagged": float(np.mean(unseen_flagged)),
        "unseen_flagged_in_the_worst_set": float(max(map(np.mean, unseen_flagged))),
    }


def _alarms(pixels: Pixels, features: Features, held: Rows, every: Rows) -> Image.Image:
    """The unseen pictures that are called copies, most alike first."""
    by_pixels, by_features = nearest(pixels[held], pixels[every]), nearest_by_features(features[held], features[every])
    alarms = Copies(by_pixels, by_features, by_pixels, by_features)  # unseen pictures in the place of generated ones
    return closest_pairs(alarms, pixels[held], pixels[every], pairs=min(SHOWN, int(alarms.copied.sum())), columns=6)


def _flagged(pixels: Pixels, features: Features, train: Pixels, train_features: Features) -> NDArray[np.bool_]:
    return nearest(pixels, train).copied | nearest_by_features(features, train_features).copied


def _mirrored(pixels: Pixels) -> Pixels:
    return pixels[:, :, ::-1]


def _noised(pixels: Pixels, strength: float = 0.1) -> Pixels:
    noise = np.random.default_rng(0).normal(0, 255 * strength, pixels.shape)
    noised: Pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return noised


def _shifted_and_noised(pixels: Pixels) -> Pixels:
    return _noised(np.pad(pixels, ((0, 0), (1, 0), (1, 0), (0, 0)), mode="edge")[:, :-1, :-1], 0.05)
