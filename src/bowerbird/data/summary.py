"""The numbers about a set of pictures that go into data.json and the reports."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.data.augment import SIDES
from bowerbird.data.decode import Examined, Fit
from bowerbird.data.layouts import Said
from bowerbird.data.picture_set import Pictures

# Calibrated on photographs and drawings blurred by a known radius: without blur, sharpness is 0.3 to 2 times the contrast;
# below a tenth of it the picture holds nothing finer than about an eightieth of its width.
_BLURRED = 0.1
_DARK, _LIGHT, _FLAT = 80, 240, 5.0  # grey levels: the 99th percentile, the 5th, the standard deviation


def summarize(pictures: Pictures, source: str, size: int, fit: Fit, how_held: str, said: Said) -> dict[str, Any]:
    """A JSON-able account: every file is in it by name, and the counts add up."""
    states = Counter(file.state for file in pictures.files)
    summary = {
        "source": source,
        "size": size,
        "fit": fit,
        "fingerprint": pictures.fingerprint,
        "files": len(pictures.files),
        "pictures": len(pictures.names),
        "counts": {state: states[state] for state in ("accepted", "changed", "duplicate", "rejected", "description")},
        "changes": _counted(change for file in pictures.files for change in file.changes),
        "rejections": _counted(file.code for file in pictures.files if file.state == "rejected"),
        "formats": _counted(one.format for one in pictures.examined),
        "split": {"train": len(pictures.train), "held": len(pictures.held), "how": how_held},
        "sizes": _sizes(pictures.examined, fit),
        "captions": _captions(pictures, said),
        "masks": len(pictures.masks),
        "labels": _labels(pictures),
        "looks": {look: [pictures.names[i] for i in rows] for look, rows in looks(pictures.examined).items()},
        "near_duplicates": [[pictures.names[i] for i in group] for group in near_groups(pictures.groups)],
    }
    summary["advice"] = _advice(summary)
    return summary | {
        "rejected": [{"name": file.name, "code": file.code, "reason": file.reason} for file in pictures.files if file.state == "rejected"],
        "duplicates": _repeats(pictures),
        "changed": [{"name": file.name, "changes": list(file.changes)} for file in pictures.files if file.state == "changed"],
        "accepted": [[name, one.sha256] for name, one in zip(pictures.names, pictures.examined, strict=True)],
    }


def near_groups(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of near-duplicates, an array for each group of two or more, the largest first."""
    order = np.argsort(groups, kind="stable")
    found = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    return sorted((group for group in found if len(group) > 1), key=len, reverse=True)


def looks(examined: Sequence[Examined]) -> dict[str, list[int]]:
    """Rows of pictures that look odd as a whole, the oddest first."""
    kinds: dict[str, dict[int, float]] = {
        "dark": {row: one.shade_p99 for row, one in enumerate(examined) if one.shade_p99 < _DARK},
        "light": {row: -one.shade_p05 for row, one in enumerate(examined) if one.shade_p05 > _LIGHT},
        "flat": {row: one.contrast for row, one in enumerate(examined) if one.contrast < _FLAT},
        "blurred": {
            row: one.sharpness / one.contrast
            for row, one in enumerate(examined)
            if one.contrast >= _FLAT and one.sharpness < _BLURRED * one.contrast
        },
    }
    return {look: sorted(rows, key=rows.__getitem__) for look, rows in kinds.items()}


def _counted(words: Any) -> dict[str, int]:
    return dict(Counter(words).most_common())


def _repeats(pictures: Pictures) -> list[dict[str, str]]:
    names = dict(zip(pictures.paths, pictures.names, strict=True))
    return [{"name": file.name, "same_as": names[file.same_as]} for file in pictures.files if file.state == "duplicate"]


def _sizes(examined: Sequence[Examined], fit: Fit) -> dict[str, Any]:
    """Quantiles 0, 25, 50, 75 and 100 % of the shorter side and of width / height; the share of the area that a crop drops."""
    if not examined:
        return {}
    width, height = np.array([one.width for one in examined]), np.array([one.height for one in examined])
    quantiles = (0, 0.25, 0.5, 0.75, 1)
    dropped = 1 - np.minimum(width, height) / np.maximum(width, height)
    return {
        "shorter_side": np.quantile(np.minimum(width, height), quantiles).astype(int).tolist(),
        "aspect": np.quantile(width / height, quantiles).round(2).tolist(),
        "mean_share_cropped": round(float(dropped.mean()), 3) if fit == "crop" else 0.0,
    }


def _captions(pictures: Pictures, said: Said) -> dict[str, Any]:
    captions = [caption for several in pictures.captions for caption in several]
    with_any = sum(map(bool, pictures.captions))
    words = [len(caption.split()) for caption in captions]
    uses = Counter(captions)
    return {
        "pictures": with_any,
        "missing": len(pictures.captions) - with_any,
        "captions": len(captions),
        "from": dict(said.sources),
        "written_by": dict(said.writers),
        "for_text": "own" if with_any else "known" if pictures.label_names else "none",
        "distinct": len(uses),
        "shared": sum(bool(several) and all(uses[caption] > 1 for caption in several) for several in pictures.captions),
        "lengths": dict(sorted(Counter(f"{(n - 1) // 5 * 5 + 1:3} to {(n - 1) // 5 * 5 + 5:3} words" for n in words).items())),
        "words_min_mean_max": [min(words), round(float(np.mean(words)), 1), max(words)] if words else [0, 0, 0],
        "commonest": [[caption, count] for caption, count in uses.most_common(5) if count > 1],
        "words": Counter(word for caption in captions for word in set(re.findall(r"\w+", caption.lower()))).most_common(40),
        "mention_sides_or_text": sum(any(map(SIDES.search, several)) for several in pictures.captions),
        "conflicts": len(said.conflicts),
        "rows_without_picture": said.orphans,
        "problems": said.problems,
    }


def _labels(pictures: Pictures) -> dict[str, int]:
    counts = np.bincount(pictures.labels[pictures.labels >= 0], minlength=len(pictures.label_names))
    return {name: int(count) for name, count in zip(pictures.label_names, counts, strict=True)}


def _advice(summary: dict[str, Any]) -> list[str]:
    """What somebody who knows would say, at most one sentence a matter."""
    count, size, captions, labels = summary["pictures"], summary["size"], summary["captions"], summary["labels"]
    if not count:
        return []
    enlarged, near = summary["changes"].get("enlarged", 0), sum(len(group) - 1 for group in summary["near_duplicates"])
    judged = count + summary["counts"]["rejected"]
    remarks = [
        (count < 50, f"{count} pictures are few: the model will repeat them; from about 500 on it begins to vary them."),
        (
            enlarged > 0.1 * count,
            f"smaller than {size} px and enlarged: {enlarged:,} pictures; they teach blur, so try a smaller size.",
        ),
        (
            summary["sizes"]["mean_share_cropped"] > 0.25,
            f"the crop drops {summary['sizes']['mean_share_cropped']:.0%} of the average picture; fit = pad keeps everything.",
        ),
        (near > 0.1 * count, f"{near:,} pictures are near-duplicates of others: the set is less varied than it is large."),
        (
            summary["counts"]["rejected"] > 0.01 * judged,
            f"{summary['counts']['rejected']:,} of {judged:,} files were rejected; look at them before you train.",
        ),
        (0 < captions["missing"] < count, f"without a caption: {captions['missing']:,} of {count:,} pictures."),
        (captions["shared"] > 0.5 * count, f"{captions['shared']:,} pictures share their caption with another: text will steer little."),
        (
            captions["mention_sides_or_text"] > 0,
            f"captions that speak of left, right or writing: {captions['mention_sides_or_text']:,}; mirror images would contradict them.",
        ),
        (captions["conflicts"] > 0, f"with two different captions: {captions['conflicts']:,} of {count:,} pictures; the nearest file won."),
        (
            len(labels) > 1 and max(labels.values()) > 20 * max(1, min(labels.values())),
            "the labels are uneven: the largest has more than twenty times the pictures of the smallest.",
        ),
    ]
    return [words for applies, words in remarks if applies]
