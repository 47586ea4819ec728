"""The tables of docs come from records, and records tell nothing about whose machine it was."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import records
from benchmarks.__main__ import RECORDS, command
from benchmarks.entrants import blurred, gaussian, real
from benchmarks.learning import TARGET as LEARNING
from benchmarks.learning import scores
from benchmarks.upscaling import kid_difference

from bowerbird.pixels import Pixels

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_what_the_records_say() -> None:
    """No hand-typed number: the page is made again, byte by byte.  Mend with `python -m benchmarks table > docs/benchmarks.md`."""
    assert (DOCS / "benchmarks.md").read_text() == records.page(RECORDS)


@pytest.mark.parametrize("found", json.loads(LEARNING.read_text())["models"], ids=lambda found: found["model"])
def test_what_hours_bring_is_what_was_recorded(found: dict[str, object]) -> None:
    assert scores(found) in (DOCS / "text.md").read_text()


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_records_hold_no_path(path: Path) -> None:
    assert not re.search(r'["\s=]/\w', path.read_text())


def test_a_command_names_no_folder_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ["--pictures", "/secret/a", "--splits=/secret/b.csv", "--records", "/secret/c", "--work=/secret/d"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "run", "quality", *ours, "--seed", "1"])
    assert command() == "python -m benchmarks run quality --pictures PICTURES --splits SPLITS --seed 1"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "run", "upscaling", "--upscaler", "theirs=/secret/e", "--upscaler", "ours=upscaler-4x"])
    assert command() == "python -m benchmarks run upscaling --upscaler theirs=FOLDER --upscaler ours=upscaler-4x"


def test_one_upscaler_less_another() -> None:
    """Nothing less itself, with no margin; and the other way round it is the negative."""
    one, other, real = np.random.default_rng(0).normal(size=(3, 12, 2, 16)).astype(np.float32)
    assert kid_difference(one, one, real) == {"value": 0, "margin": 0}
    there, back = kid_difference(one, 2 * other, real), kid_difference(2 * other, one, real)
    assert there["value"] == pytest.approx(-back["value"]) and there["value"] < 0 and there["margin"] == pytest.approx(back["margin"])


def test_the_best_size_is_that_of_the_lowest_kid(tmp_path: Path) -> None:
    """Among the pre-runs of this entrant at this size; other runs choose nothing."""
    runs = [("a", "small", True, 5), ("a", "large", True, 4), ("a", "medium", False, 1), ("b", "small", True, 2)]
    for entrant, variant, prerun, kid in runs:
        scores = {"scores": {"kid": {"value": kid}}}
        record = {"benchmark": "quality", "entrant": entrant, "variant": variant, "prerun": prerun, "size": 64, "scores": scores}
        records.write(tmp_path, record | {"name": f"{entrant}-{variant}"})
    assert records.best_variant(tmp_path, "a", 64) == "large"
    assert records.best_variant(tmp_path, "a", 32) is None


def test_the_trivial_painters_are_what_they_say() -> None:
    """Training pictures; the same without detail, so nearly the same mean; draws with the mean and covariance of the pixels."""
    draw = np.random.default_rng(0)
    train: Pixels = (draw.normal(128, 20, (40, 8, 8, 3)) + draw.normal(0, 20, (40, 1, 1, 1))).clip(0, 255).astype(np.uint8)
    known = {picture.tobytes() for picture in train}
    assert all(picture.tobytes() in known for picture in real(train, 10, 0))
    assert np.abs(blurred(train, 10, 0).mean((1, 2)) - real(train, 10, 0).mean((1, 2))).max() < 3
    painted = gaussian(train, 4000, 0).reshape(4000, -1).astype(float)
    pixels = train.reshape(40, -1).astype(float)
    assert painted.mean(0) == pytest.approx(pixels.mean(0), abs=2)
    assert np.cov(painted.T) == pytest.approx(np.cov(pixels.T), abs=60)
