"""Describing: a picture that is among the captioned ones gets its own caption; near ones get near words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird.describing import describe, describe_with
from bowerbird.errors import PictureFolderError
from tests.conftest import Bowerbird

BIRDS = Path(__file__).parents[1] / "examples" / "birds"


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs of birds, each with a caption of its own but two that share one."""
    folder = tmp_path_factory.mktemp("captioned")
    for number, path in enumerate(sorted(BIRDS.glob("*.webp"))[:12]):
        Image.open(path).convert("RGB").save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"bird number {max(number, 1)}")
    return folder


def test_a_known_picture_gets_its_own_caption(captioned: Path) -> None:
    files = sorted(captioned.glob("*.png"))
    described = describe(files, captioned, count=2)
    assert [one.picture for one in described] == files
    for number, one in enumerate(described):
        assert one.captions[0].text == f"bird number {max(number, 1)}" and one.captions[0].likeness == pytest.approx(1, abs=1e-3)
        assert len({caption.text for caption in one.captions}) == 2
        assert one.captions[1].likeness < one.captions[0].likeness


def test_a_changed_copy_is_still_known(captioned: Path, tmp_path: Path) -> None:
    """Smaller, and saved as JPEG: what it shows is the same."""
    for number in (3, 7):
        with Image.open(captioned / f"{number:02d}.png") as picture:
            picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)).save(tmp_path / f"{number}.jpg", quality=80)
    first, second = describe([tmp_path / "3.jpg", tmp_path / "7.jpg"], captioned, count=1)
    assert (first.captions[0].text, second.captions[0].text) == ("bird number 3", "bird number 7")


def test_without_words_or_pictures_it_is_said(captioned: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    with pytest.raises(PictureFolderError, match="no words to learn"):
        describe([tmp_path / "a.png"], tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(PictureFolderError, match="broken"):
        describe([tmp_path / "broken.png"], captioned)


def test_a_captioner_sees_each_picture_whole(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "wide.png")
    seen: list[np.ndarray] = []

    def captioner(pixels: np.ndarray) -> list[str]:
        seen.append(pixels)
        return ["a red square"]

    (one,) = describe_with([tmp_path / "wide.png"], captioner, 16)
    assert one.captions[0].text == "a red square" and seen[0].shape == (1, 16, 16, 3) and (seen[0] == (255, 0, 0)).all()


def test_the_command_answers_in_the_words_of_a_folder_or_of_a_runs_pictures(captioned: Path, tmp_path: Path, bowerbird: Bowerbird) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "data.json").write_text(json.dumps({"source": captioned.name, "place": str(captioned)}))
    for like in (captioned, run):
        code, out, _ = bowerbird("describe", captioned / "05.png", "--like", like, "--count", 1, "--json")
        assert code == 0 and json.loads(out)[0]["captions"][0]["text"] == "bird number 5"
    code, out, _ = bowerbird("describe", captioned, "--like", captioned, "--json")
    assert code == 0 and len(json.loads(out)) == 12
    (run / "data.json").write_text(json.dumps({"source": str(tmp_path / "moved")}))
    for arguments, said in [((), "--like"), (("--like", run), "are gone"), (("--like", tmp_path / "nowhere"), "nowhere")]:
        code, _, err = bowerbird("describe", captioned / "05.png", *arguments)
        assert code == 2 and said in err
