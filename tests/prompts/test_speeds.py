"""Speeds: words for steps, sampler and guidance; what a request sets itself always wins."""

from __future__ import annotations

import os
import typing
from pathlib import Path

import pytest

from bowerbird.errors import RequestError
from bowerbird.prompts.speeds import Kind, Pace, pace, speeds
from bowerbird.request import read_request

KINDS = typing.get_args(Kind)
USUAL = Pace(steps=20, sampler="euler", guidance=7.5)


@pytest.mark.parametrize("kind", KINDS)
def test_faster_words_mean_fewer_steps(kind: Kind) -> None:
    steps = [pace(read_request({"model": "m", "speed": name}), kind, USUAL).steps for name in ("quality", "speed", "extreme")]
    assert steps == sorted(steps, reverse=True) and steps[0] > steps[1] > steps[2] >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_asked_is_what_the_model_usually_does(kind: Kind) -> None:
    assert pace(read_request({"model": "m"}), kind, USUAL) == USUAL


def test_what_is_asked_wins() -> None:
    request = read_request({"model": "m", "speed": "extreme", "steps": 3, "sampler": "heun", "guidance": 1})
    assert pace(request, "sd", USUAL) == Pace(3, "heun", 1.0)


def test_words_of_older_pictures_still_mean_something() -> None:
    assert set(speeds()) == {"quality", "speed", "extreme", "fine", "normal", "fast"}


def test_the_users_speeds_count_and_mistakes_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOWERBIRD_CONFIG", str(tmp_path))
    (tmp_path / "speeds.toml").write_text("[mine]\nsd = { steps = 7 }\n")
    assert pace(read_request({"model": "m", "speed": "mine"}), "sd", USUAL) == Pace(7, "euler", 7.5)
    with pytest.raises(RequestError, match="'extreme'"):
        pace(read_request({"model": "m", "speed": "extrem"}), "sd", USUAL)
    for number, (text, said) in enumerate([("[mine]\nsd = { step = 7 }\n", "mine.sd.step"), ("[mine", "not TOML")], 1):
        (tmp_path / "speeds.toml").write_text(text)
        os.utime(tmp_path / "speeds.toml", (number, number))  # written within one tick of the clock, it could look unchanged
        with pytest.raises(RequestError, match=said):
            speeds()
