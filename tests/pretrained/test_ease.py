"""What a new user does with words, from the command line: final prompts shown and recorded, sheets, folders, points."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bowerbird.picture_metadata import read_metadata
from bowerbird.prompts import finish
from bowerbird.request import read_request
from tests.conftest import Bowerbird

Generate = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def model(tiny: Any) -> str:
    """A tiny Stable Diffusion."""
    return str(tiny("sd15").folder)


@pytest.fixture
def generate(model: str, bowerbird: Bowerbird, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generate:
    """generate("a bird", ...) -> (exit code, JSON or None, standard error), in an empty folder."""
    monkeypatch.setenv("BOWERBIRD_CONFIG", str(tmp_path / "config"))

    def run(*arguments: object) -> tuple[int, Any, str]:
        code, out, err = bowerbird("generate", model, *arguments, "--json")
        return code, json.loads(out) if code == 0 else None, err

    return run


QUICK = ("--steps", "1", "--seed", "5", "--guidance", "1")


def test_the_final_prompt_is_shown_recorded_and_repeated(generate: Generate, model: str) -> None:
    words = "a __colour__ [[bird, cat]] (big:1.2)"
    code, done, err = generate(words, *QUICK, "--style", "oil", "--expand", "words", "--count", "2")
    assert code == 0 and len(done["pictures"]) == 4
    asked = {"model": model, "prompt": words, "seed": 5, "styles": ["oil"], "expand": "words", "count": 2}
    expected = [one.prompt for one in finish(read_request(asked)) for _ in range(one.count)]
    assert [final["prompt"] for final in done["final"]] == expected
    assert all(f"final prompt: {prompt}" in err for prompt in expected)
    fields = read_metadata(Path(done["pictures"][0])).fields
    assert fields["prompt"] == expected[0] and fields["asked"].prompt == words
    code, again, _ = generate("--from", done["pictures"][0])
    assert again["final"][0]["prompt"] == expected[0]
    assert Path(again["pictures"][0]).read_bytes() == Path(done["pictures"][0]).read_bytes()
    code, other, _ = generate("--from", done["pictures"][0], "--style", "anime")
    assert other["final"][0]["prompt"].startswith("anime illustration of a")


def test_a_locked_prompt_is_used_as_it_stands(generate: Generate) -> None:
    code, done, _ = generate("a __colour__ bird", *QUICK, "--lock")
    assert code == 0 and done["final"][0]["prompt"] == "a __colour__ bird"
    code, done, _ = generate("a __colour__ bird", *QUICK, "--literal", "all")
    assert code == 0 and len(done["pictures"]) == 1
    code, _, err = generate("a __colur__ bird", *QUICK)
    assert code == 2 and "'colour'" in err and "Traceback" not in err


def test_a_sheet_compares_settings(generate: Generate) -> None:
    """Each place holds the picture that the same settings paint alone."""
    code, done, _ = generate("a bird", "--seed", "5", "--x", "steps=1,2,3", "--y", "guidance=1,4")
    assert code == 0 and len(done["pictures"]) == 7
    _, alone, _ = generate("a bird", "--seed", "5", "--steps", "2", "--guidance", "4")
    assert Path(alone["pictures"][0]).read_bytes() == Path(done["pictures"][4]).read_bytes()
    with Image.open(done["pictures"][-1]) as sheet:
        assert sheet.width > 3 * 64 and sheet.height > 2 * 64
    assert read_metadata(Path(done["pictures"][-1])).digital_source == "compositeWithTrainedAlgorithmicMedia"
    code, done, _ = generate("[[red, blue]] bird", *QUICK, "--sheet")
    assert code == 0 and len(done["pictures"]) == 3 and "sheet-" in done["pictures"][-1]


def test_a_folder_is_worked_through(generate: Generate, pictures: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "masks").mkdir()
    for name in ("small", "large"):
        Image.open(pictures[name]).save(tmp_path / "in" / f"{name}.png")
        Image.open(pictures[f"{name}-mask"]).save(tmp_path / "masks" / f"{name}.webp", lossless=True)
    (tmp_path / "in" / "notes.txt").write_text("left alone")
    code, done, _ = generate("a bird", *QUICK, "--image", "in", "--mask", "masks")
    assert code == 0 and [Path(path).stem for path in done["pictures"]] == ["large", "small"]
    assert Image.open(done["pictures"][0]).size == (120, 72)
    (tmp_path / "masks" / "large.webp").unlink()
    code, _, err = generate("a bird", *QUICK, "--image", "in", "--mask", "masks")
    assert code == 2 and "'large.png'" in err


def test_a_point_and_a_detail(generate: Generate, tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64), "navy")
    picture.paste("orange", (20, 20, 36, 36))
    picture.save(tmp_path / "in.png")
    code, done, _ = generate("an eye", *QUICK, "--image", "in.png", "--mask-at", "25,25", "--detail")
    changed = (np.asarray(Image.open(done["pictures"][0])) != np.asarray(picture)).any(-1)
    assert code == 0 and changed[21:35, 21:35].any()
    changed[19:37, 19:37] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--y", "steps=1,2"), "first, x"),
        (("--sheet",), "one array, two or three"),
        (("--mask-at", "5"), "X,Y"),
        (("--mask-at", "5,5"), "image"),
        (("--detail",), "mask"),
        (("--image", "empty"), "no picture"),
        (("--preset", "foto"), "'photo'"),
        (("--speed", "quick"), "'quality'"),
        (("--literal", "weight"), "literal"),
        (("--expander", "http://example.com/v1"), "another machine"),
        (("--expand", "llm"), "address"),
    ],
)
def test_what_cannot_be_is_one_sentence(generate: Generate, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = generate("a bird", *QUICK, *arguments)
    assert code == 2 and said in err and "Traceback" not in err
