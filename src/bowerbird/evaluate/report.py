"""What `evaluate` found: as words, as JSON, and as one self-contained page to look at."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from bowerbird import __version__
from bowerbird.evaluate.copies import COPY_BELOW, Copies, closest_pairs
from bowerbird.evaluate.metrics import Score, nearest_distances
from bowerbird.evaluate.reconstruction import Reconstruction
from bowerbird.models.features import Features
from bowerbird.pages import contact_sheet, data_uri, png_bytes, render
from bowerbird.pixels import Pixels
from bowerbird.storage import Disk, ensure_folder, write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID = 64
SHEET = 24
MANY_COPIES = 0.02
ADVISED = 500


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    key: str
    name: str
    network: str  # whose features, '' for none
    better: Literal["lower", "higher"]
    score: Score
    meaning: str


@dataclass(frozen=True)
class Report:
    """An evaluation.  pixels (N, H, W, 3) uint8, features (N, 1280) of the judge; originals are what was trained on."""

    generated: str
    against: str
    pixels: Pixels
    real_pixels: Pixels
    features: Features
    real_features: Features
    lines: tuple[Line, ...]
    copies: Copies | None
    originals: Pixels | None
    reconstructed: Reconstruction | None  # of an autoencoder's pictures: picture i is real picture i, restored
    seconds: float

    def score(self, key: str) -> Score:
        """A score by its key in the JSON, such as "kid" or "swd_64"."""
        return next(line.score for line in self.lines if line.key == key)

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures.  Each score: value, margin (95 %), and the floor, which real pictures score."""
        return {
            "generated": {"name": self.generated, "pictures": len(self.pixels)},
            "against": {"name": self.against, "pictures": len(self.real_pixels)},
            "size": list(self.pixels.shape[1:3]),
            "verdict": self.verdict(),
            "scores": {
                line.key: {
                    "name": line.name,
                    "network": line.network,
                    "better": line.better,
                    "value": line.score.value,
                    "margin": line.score.margin,
                    "floor": line.score.floor,
                    "floor_margin": line.score.floor_margin,
                }
                for line in self.lines
            },
            "copies": _copies_json(self.copies),
            "restored": None if self.reconstructed is None else {"psnr_db": self.reconstructed.psnr, "ssim": self.reconstructed.ssim},
            "seconds": round(self.seconds, 1),
            "versions": {"bowerbird": __version__, "torch": torch.__version__},
        }

    def to_text(self) -> str:
        """A screenful of words."""
        width, judges = (max(map(len, texts)) for texts in zip(*((line.name, line.network) for line in self.lines), strict=True))
        rows = [
            f"{self.generated} ({len(self.pixels):,}) against {self.against} ({len(self.real_pixels):,})",
            f"  {'':{width}}  {'':{judges}}  {self.made:>16}  {'real':>16}  better",
        ]
        for line in self.lines:
            painted, real = number(line.score.value, line.score.margin), number(line.score.floor, line.score.floor_margin)
            rows.append(f"  {line.name:{width}}  {line.network:{judges}}  {painted:>16}  {real:>16}  {line.better}")
        return "\n".join([*rows, *self.verdict()])

    def verdict(self) -> list[str]:
        """What the figures say, in plain sentences."""
        if self.reconstructed is not None:
            return [_fidelity(self.reconstructed), *_likeness(self), *_scales(self), *_how_sure(self)]
        return [*_likeness(self), *_words(self), *_variety(self), *_scales(self), *_copying(self.copies), *_how_sure(self)]

    @property
    def made(self) -> str:
        """How the pictures came to be, in a word."""
        return "painted" if self.reconstructed is None else "restored"

    def write(self, out: Path) -> Path:
        """Write report.html and report.json into `out`; returns the page."""
        disk, page = Disk(), out / "report.html"
        ensure_folder(disk, out)
        write_file(disk, out / "report.json", json.dumps(self.to_json(), indent=1).encode() + b"\n")
        text = render("evaluate.html", report=self, number=number, figures=_figures(self))
        write_file(disk, page, text.encode())
        return page


def number(value: float, margin: float) -> str:
    """A value and its margin, to the digits that the margin leaves meaningful."""
    digits = int(np.clip(1 - np.floor(np.log10(max(margin, 1e-9))), 0, 3))
    return f"{value:,.{digits}f} ± {margin:,.{digits}f}"


def _copies_json(copies: Copies | None) -> dict[str, Any] | None:
    if copies is None:
        return None
    return {
        "rate": copies.rate,
        "rate_of_unseen_pictures": copies.unseen_rate,
        "nearer_than_unseen": copies.nearer_than_unseen,
        "copied": np.flatnonzero(copies.copied).tolist(),
        "originals": [copies.original(int(row)) for row in np.flatnonzero(copies.copied)],
        "median_ratio": float(np.median(copies.by_pixels.ratio)),
        "median_nearest_to_second": float(np.median(copies.by_pixels.distance / np.maximum(copies.by_pixels.second, 1e-12))),
    }


# ------------------------------------------------------------------------------------------------ the verdict


def _fidelity(reconstructed: Reconstruction) -> str:
    return f"Restored pictures agree with their originals to {reconstructed.psnr:.1f} dB (PSNR) and {reconstructed.ssim:.3f} (SSIM)."


def _likeness(report: Report) -> list[str]:
    kid, second = report.score("kid"), report.score("kid_second_opinion")
    if kid.at_the_floor:
        said = f"The judge cannot tell these pictures from real ones: KID x1000 is {number(kid.value, kid.margin)}"
    else:
        said = f"The judge tells these pictures from real ones: KID x1000 is {number(kid.value, kid.margin)}"
    said += f", where real pictures score {number(kid.floor, kid.floor_margin)} against each other."
    if kid.at_the_floor == second.at_the_floor:
        return [said]
    return [said, "The second network disagrees, so look at the pictures before believing either."]


def _words(report: Report) -> list[str]:
    found = next((line.score for line in report.lines if line.key == "caption_top_10"), None)
    if found is None:
        return []
    return [f"{found.value:.0%} of the pictures find their caption among the ten that fit best; of real pictures, {found.floor:.0%} do."]


def _variety(report: Report) -> list[str]:
    recall, coverage = report.score("recall"), report.score("coverage")
    if recall.at_the_floor and coverage.at_the_floor:
        return ["Their variety is that of the real pictures."]
    return [
        f"Variety is missing: painted pictures come close to {coverage.value:.0%} of the real ones and span {recall.value:.0%} of their "
        f"range; other real pictures come close to {coverage.floor:.0%} and span {recall.floor:.0%}."
    ]


def _scales(report: Report) -> list[str]:
    scales = {line.key.removeprefix("swd_"): line.score for line in report.lines if line.key.startswith("swd_")}
    off = {side: score.value / score.floor for side, score in scales.items() if not score.at_the_floor}
    if not off:
        return ["At every scale, their patterns are those of real pictures."]
    side = max(off, key=lambda key: off[key])
    words = {min(scales, key=int): "coarse shapes and colours", max(scales, key=int): "the finest detail"}
    what = words.get(side, "mid-sized forms")
    return [f"Of all scales, {what} ({side} px) are furthest from real: {off[side]:.1f} times what real pictures differ by."]


def _copying(copies: Copies | None) -> list[str]:
    if copies is None:
        return ["Copies were not looked for: that needs the pictures it was trained on."]
    if copies.rate > max(MANY_COPIES, 2 * copies.unseen_rate):
        said = f"{copies.rate:.0%} of the pictures are copies of training pictures"
    else:
        said = f"No sign of copying: {copies.rate:.1%} look like copies of training pictures"
    return [f"{said} (of real pictures it never saw, {copies.unseen_rate:.1%} do)."]


def _how_sure(report: Report) -> list[str]:
    fewest = min(len(report.pixels), len(report.real_pixels))
    if fewest >= ADVISED:
        return []
    return [f"{fewest} pictures are few: the margins are wide. {ADVISED} or more of each would say more."]


# ------------------------------------------------------------------------------------------------ pictures of it


def _figures(report: Report) -> dict[str, str]:
    """Pictures of the page, as data URIs."""
    to_real, to_painted = nearest_distances(report.features, report.real_features), nearest_distances(report.real_features, report.features)
    figures = {
        "painted": _sheet(report.pixels[_spread(len(report.pixels))]),
        "real": _sheet(report.real_pixels[_spread(len(report.real_pixels))]),
        "strangest": _sheet(report.pixels[np.argsort(-to_real)[:SHEET]], columns=12),
        "missing": _sheet(report.real_pixels[np.argsort(-to_painted)[:SHEET]], columns=12),
        "map": _plot(lambda axes: _draw_map(axes, report)),
        "scales": _plot(lambda axes: _draw_scales(axes, report)),
    }
    if report.reconstructed is not None:
        rows = _spread(len(report.pixels))
        figures["beside"] = _sheet(np.stack([report.real_pixels[rows], report.pixels[rows]], 1).reshape(-1, *report.pixels.shape[1:]), 16)
    if report.copies is not None and report.originals is not None:
        copies = report.copies
        figures["pairs"] = _uri(closest_pairs(copies, report.pixels, report.originals))
        figures["ratios"] = _plot(lambda axes: _draw_ratios(axes, copies))
    return figures


def _spread(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """64 rows (or all) evenly over the set: uncurated, and from every label where they lie in order."""
    return np.unique(np.linspace(0, count - 1, min(GRID, count)).astype(np.int64))


def _sheet(pixels: Pixels, columns: int = 8) -> str:
    return _uri(contact_sheet([Image.fromarray(picture) for picture in pixels], columns, cell_px=min(128, max(64, pixels.shape[1]))))


def _uri(picture: Image.Image) -> str:
    return data_uri(png_bytes(picture))


def _plot(draw: Any) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), dpi=110, layout="constrained")
    draw(figure.subplots())
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return data_uri(buffer.getvalue())


def _draw_map(axes: Axes, report: Report) -> None:
    """Both sets in the plane in which the real pictures vary most."""
    real = report.real_features
    mean = real.mean(0)
    directions = np.linalg.svd(real[: 4 * real.shape[1]] - mean, full_matrices=False)[2][:2]
    for name, rows, colour in (("real", real, "0.6"), (report.made, report.features, "C1")):
        places = (rows - mean) @ directions.T
        axes.scatter(places[:, 0], places[:, 1], s=5, color=colour, alpha=0.6, label=name, linewidths=0)
    axes.set(xticks=[], yticks=[], title="where they lie among the real ones")
    axes.legend(markerscale=3, loc="upper right")


def _draw_scales(axes: Axes, report: Report) -> None:
    scales = [(line.key.removeprefix("swd_"), line.score) for line in report.lines if line.key.startswith("swd_")][::-1]
    names = [f"{side} px" for side, _ in scales]
    axes.errorbar(names, [s.value for _, s in scales], [s.margin for _, s in scales], fmt="o-", color="C1", capsize=3, label=report.made)
    axes.errorbar(names, [s.floor for _, s in scales], [s.floor_margin for _, s in scales], fmt="o-", color="0.6", capsize=3, label="real")
    axes.set(ylim=(0, None), title="distance from real at each scale (sliced Wasserstein x1000)")
    axes.legend(loc="upper right")


def _draw_ratios(axes: Axes, copies: Copies) -> None:
    bins = list(np.linspace(0, 1, 41))
    for name, ratio, colour in (("real, unseen", copies.unseen_by_features.ratio, "0.6"), ("painted", copies.by_features.ratio, "C1")):
        axes.hist(ratio, bins, weights=np.full(len(ratio), 100 / len(ratio)), alpha=0.6, color=colour, label=name)
    axes.axvline(COPY_BELOW, color="0.2", linestyle="--", linewidth=1)
    axes.set(
        xlabel="distance to the nearest training picture / to its neighbours", ylabel="% of pictures", title="left of the line: copies"
    )
    axes.legend(loc="upper right")
