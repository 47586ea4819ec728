"""The numbers about a set of pictures that go into data.json and the reports."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bowerbird.data.captions import Descriptions
    from bowerbird.data.decode import Fit
    from bowerbird.data.pictures import Pictures


def summarize(pictures: Pictures, source: str, size: int, fit: Fit, how_held: str, said: Descriptions) -> dict[str, Any]:
    """A JSON-able account: every file is in it by name, and the counts add up."""
    states = Counter(file.state for file in pictures.files)
    return {
        "source": source,
        "size": size,
        "fit": fit,
        "fingerprint": pictures.fingerprint,
        "files": len(pictures.files),
        "pictures": len(pictures.names),
        "counts": {state: states[state] for state in ("accepted", "changed", "duplicate", "rejected", "description")},
        "changes": dict(Counter(change for file in pictures.files for change in file.changes).most_common()),
        "rejections": dict(Counter(file.code for file in pictures.files if file.state == "rejected").most_common()),
        "split": {"train": len(pictures.train), "held": len(pictures.held), "how": how_held},
        "captions": _captions(pictures, said),
        "labels": _labels(pictures),
        "rejected": [{"name": file.name, "code": file.code, "reason": file.reason} for file in pictures.files if file.state == "rejected"],
        "duplicates": [{"name": file.name, "same_as": file.same_as} for file in pictures.files if file.state == "duplicate"],
        "changed": [{"name": file.name, "changes": list(file.changes)} for file in pictures.files if file.state == "changed"],
        "near_duplicates": near_groups(pictures),
        "accepted": [[name, one.sha256] for name, one in zip(pictures.names, pictures.examined, strict=True)],
    }


def near_groups(pictures: Pictures) -> list[list[str]]:
    """Names of near-duplicates, a list for each group of two or more."""
    order = np.argsort(pictures.groups, kind="stable")
    starts = np.flatnonzero(np.diff(pictures.groups[order])) + 1
    return [[pictures.names[i] for i in group] for group in np.split(order, starts) if len(group) > 1]


def _captions(pictures: Pictures, said: Descriptions) -> dict[str, Any]:
    words = [len(caption.split()) for caption in pictures.captions if caption]
    return {
        "pictures": len(words),
        "missing": len(pictures.captions) - len(words),
        "distinct": len({caption for caption in pictures.captions if caption}),
        "mean_words": round(float(np.mean(words)), 1) if words else 0.0,
        "conflicts": len(said.conflicts),
        "rows_without_picture": said.orphans,
        "problems": said.problems,
    }


def _labels(pictures: Pictures) -> dict[str, int]:
    counts = np.bincount(pictures.labels[pictures.labels >= 0], minlength=len(pictures.label_names))
    return {name: int(count) for name, count in zip(pictures.label_names, counts, strict=True)}
