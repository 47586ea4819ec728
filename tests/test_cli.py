"""The command line from outside: exit codes, one sentence for what a person can mend, JSON for machines."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from bowerbird.cli.app import _everywhere_first
from bowerbird.cli.console import _worth_a_line
from bowerbird.progress import Progress
from bowerbird.recipe import write_recipe
from tests.conftest import Bowerbird, tiny_recipe


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    file.write_text(write_recipe(tiny_recipe()))
    return file


def test_the_main_job(bowerbird: Bowerbird, picture_folder: Path, recipe_file: Path, tmp_path: Path) -> None:
    """A folder of pictures in, a run and pictures out; then info, and the same picture again from its own metadata."""
    code, out, _ = bowerbird("train", picture_folder, "--recipe", recipe_file, "--out", "run", "--json")
    assert (code, json.loads(out)) == (0, {"run": "run"})
    code, out, _ = bowerbird("generate", "run", "--count", "2", "--seed", "5", "--json")
    first, _second = (tmp_path / path for path in json.loads(out)["pictures"])
    assert code == 0 and Image.open(first).size == (16, 16)
    code, out, _ = bowerbird("info", first, "--json")
    assert json.loads(out)["fields"]["seed"] == 5
    code, out, _ = bowerbird("generate", "--from", first, "--out", "again", "--json")
    (again,) = (tmp_path / path for path in json.loads(out)["pictures"])
    assert Image.open(again).tobytes() == Image.open(first).tobytes()
    code, out, _ = bowerbird("info", "run", "--json")
    assert json.loads(out)["training"]["pictures_seen"] == 96
    code, _, err = bowerbird("train", picture_folder, "--recipe", recipe_file, "--out", "run")
    assert code == 0 and "finished" in err


def test_a_balanced_set_and_pictures_of_a_file_of_prompts(bowerbird: Bowerbird, picture_folder: Path, tmp_path: Path) -> None:
    """From class folders to a model of classes to a set of its classes, which can be learnt from again."""
    (tmp_path / "tiny.toml").write_text(write_recipe(tiny_recipe(condition={"label": True})))
    bowerbird("train", picture_folder, "--recipe", "tiny.toml", "--out", "run")
    code, out, _ = bowerbird("generate", "run", "--per-label", "2", "--seed", "1", "--out", "set", "--json")
    assert code == 0 and [Path(path).parent.name for path in json.loads(out)["pictures"]] == ["cold", "cold", "warm", "warm"]
    code, out, _ = bowerbird("inspect", "set", "--json")
    assert json.loads(out)["labels"] == {"cold": 2, "warm": 2} and json.loads(out)["captions"]["missing"] == 0
    (tmp_path / "wishes.csv").write_text("label,count\nwarm,1\ncold,2\n")
    code, out, _ = bowerbird("generate", "run", "--prompts", "wishes.csv", "--seed", "1", "--out", "wishes", "--json")
    assert [Path(path).name[:5] for path in json.loads(out)["pictures"]] == ["0001-", "0002-", "0002-"]
    assert (tmp_path / "wishes/metadata.csv").read_text().splitlines()[1].split(",")[1:3] == ["a picture of a warm", "warm"]
    code, _, err = bowerbird("generate", "run", "--per-label", "2", "--count", "3")
    assert code == 2 and "Leave --count and --prompts out" in err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", "x"], 75),
        (["inspect", "x"], 75),
        (["generate", "x", "--per-label", "3"], 75),
        (["generate", "x"], 130),
        (["evaluate", "x"], 130),
    ],
)
def test_ctrl_c_is_told_by_the_exit_code(bowerbird: Bowerbird, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int) -> None:
    """75 where the same command goes on, what shells expect elsewhere."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bowerbird.cli.app.app", interrupted)
    assert bowerbird(*arguments)[0] == code


def test_a_place_that_cannot_be_written_is_one_sentence(
    bowerbird: Bowerbird, picture_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "old.ckpt").write_bytes(b"")
    for arguments in (
        ["inspect", picture_folder],
        ["generate", model_folder, "--steps", "1"],
        ["train", picture_folder],
        ["evaluate", picture_folder, "--against", picture_folder],
        ["upscale", "upscaler-4x", picture_folder / "warm/001.png"],
    ):
        code, _, err = bowerbird(*arguments, "--out", "file/below")
        sentence = err.strip().splitlines()[-1]
        assert code == 2 and "file" in sentence and "Traceback" not in err, (arguments, err)


def test_a_start_that_fails_leaves_nothing(bowerbird: Bowerbird, picture_folder: Path, recipe_file: Path, tmp_path: Path) -> None:
    for settings in (["train.init=nowhere"], ["model.autoencoder=nowhere", "transformer.patch=1"]):
        words = [word for setting in settings for word in ("--set", setting)]
        code, _, err = bowerbird("train", picture_folder, "--recipe", recipe_file, *words, "--out", "run")
        assert code == 2 and "nowhere" in err and not (tmp_path / "run").exists()


def test_many_pictures_come_with_a_page_of_them(bowerbird: Bowerbird, model_folder: Path, tmp_path: Path) -> None:
    """It is a page and no picture, so that the folder can still be judged or learnt from; one picture needs none."""
    code, out, err = bowerbird("generate", model_folder, "--count", "3", "--seed", "1", "--steps", "1")
    page = (tmp_path / "pictures/sheet.html").read_text()
    assert code == 0 and "sheet.html" in err and all(f'src="{Path(line).name}"' in page for line in out.splitlines())
    bowerbird("generate", model_folder, "--seed", "1", "--steps", "1", "--out", "one")
    assert [path.suffix for path in (tmp_path / "one").iterdir()] == [".png"]


def test_info_is_a_page_for_people(bowerbird: Bowerbird, model_folder: Path) -> None:
    """What is open is left out, a recipe is its name, and --json has it all."""
    _, out, _ = bowerbird("info", model_folder)
    assert "sample shape" in out and "{" not in out and "None" not in out and len(out.splitlines()) < 40
    _, out, _ = bowerbird("info", model_folder, "--json")
    assert json.loads(out)["denoiser"]["sample_shape"] == [3, 16, 16]


def test_recipes_are_told_in_whole_sentences(bowerbird: Bowerbird) -> None:
    _, out, _ = bowerbird("recipes")
    assert len(out.splitlines()) > 5 and all(line.endswith(".") and ":" not in line[-2:] for line in out.splitlines())


def test_logs_are_told_what_takes_long() -> None:
    """Where there is no terminal, each tenth of the work, and nothing of what is done in seconds."""
    said = {"": time.monotonic()}
    assert not _worth_a_line(Progress("train", 50, 100), said)
    said[""] -= 60
    assert [_worth_a_line(Progress("train", done, 100), said) for done in (1, 10, 20)] == [False, True, False]


def test_a_number_of_a_pair_is_told_by_the_name_of_the_pair(bowerbird: Bowerbird, model_folder: Path) -> None:
    code, _, err = bowerbird("generate", model_folder, "--size", "0x64")
    assert code == 2 and err.startswith("size = 0")


def test_captions_that_are_not_read_are_told_and_a_path_is_quoted(
    bowerbird, picture_folder: Path, recipe_file: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "captioned"
    shutil.copytree(picture_folder, pictures)
    (pictures / "metadata.csv").write_text("file_name,text\nwarm/001.png,a warm disc\n")
    _, out, err = bowerbird("train", pictures, "--recipe", recipe_file, "--out", "my run")
    assert "captions, which this recipe does not read" in err and "bowerbird generate 'my run'" in out


def test_nothing_of_the_users_is_overwritten(bowerbird: Bowerbird, picture_folder: Path, recipe_file: Path) -> None:
    bowerbird("train", picture_folder, "--recipe", recipe_file, "--out", "run")
    names = [bowerbird("generate", "run", "--seed", "5", "--json")[1] for _ in range(2)]
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere"], "nowhere"),
        (["train", "EMPTY"], "EMPTY"),
        (["train", "EMPTY", "--recipe", "pixl-64"], "pixel-64"),
        (["train", "EMPTY", "--set", "train.learnrate=1"], "lr"),
        (["generate", "nowhere"], "no model at"),
        (["generate", "EMPTY"], "neither a run"),
        (["generate", "old.ckpt"], "bowerbird convert"),
        (["generate"], "which model"),
        (["evaluate", "nowhere", "--against", "EMPTY"], "nowhere"),
        (["generate", "EMPTY", "--size", "big"], "WIDTHxHEIGHT"),
        (["generate", "EMPTY", "--count", "0"], "count"),
        (["generate", "EMPTY", "--colour", "red"], "--colour"),
        (["generate", "EMPTY", "--device", "abacus"], "abacus"),
        (["paint"], "paint"),
        (["inspect", "nowhere"], "nowhere"),
        (["inspect", "EMPTY", "--fit", "squeeze"], "crop, pad or box"),
        (["recipes", "pixl-64"], "pixel-64"),
        (["info", "nowhere"], "no model at"),
        (["convert", "nowhere.ckpt", "--out", "x.safetensors"], "nowhere.ckpt"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(bowerbird: Bowerbird, tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02.")
    code, out, err = bowerbird(*arguments)
    sentences = [line for line in err.splitlines() if line and not line.startswith(("read ", "list "))]
    assert code == 2 and words in err and not out
    assert len(sentences) == 1 and "Traceback" not in err


def test_upscaled_pictures_are_marked_as_enhanced_and_keep_their_names(
    bowerbird: Bowerbird, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is opened once for all of them, and one JSON document tells of all."""
    from bowerbird import generate
    from bowerbird.picture_files import Painted
    from bowerbird.picture_metadata import read_metadata

    opened = list[int]()

    class Twice:
        def resolve(self, request):
            return request

        def paint(self, request, on_progress):
            with Image.open(request.image) as picture:
                yield Painted(picture.resize((16, 16)), 1, request)

    def open_model(*_: object) -> Twice:
        opened.append(1)
        return Twice()

    monkeypatch.setattr(generate, "open_model", open_model)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    code, out, _ = bowerbird("upscale", "x4", "a.png", "b.png", "--json")
    paths = [Path(path) for path in json.loads(out)["pictures"]]
    assert code == 0 and len(opened) == 1
    assert [path.name for path in paths] == ["a.png", "b.png"]
    assert {read_metadata(tmp_path / path).digital_source for path in paths} == {"algorithmicallyEnhanced"}


def test_one_broken_picture_of_a_folder_costs_the_others_nothing(bowerbird: Bowerbird, tmp_path: Path) -> None:
    """They are done and told of, and then one sentence names it; alone it is refused as ever."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "c.png"):
        Image.new("RGB", (64, 64), "red").save(photos / name)
    (photos / "b.png").write_bytes(b"no picture")
    (photos / "metadata.csv").write_text("file_name,text\na.png,a red square\nc.png,the same again\n")
    for command in (("generate", "starter", "--image", photos, "--steps", 1), ("upscale", "upscaler-4x", photos)):
        code, out, err = bowerbird(*command, "--out", command[0])
        assert code == 2 and "1 of 3 pictures cannot be read, and the others are done" in err and "b.png" in err
        assert [Path(path).name for path in out.split()] == ["a.png", "c.png"] and all(Path(path).is_file() for path in out.split())
    code, out, err = bowerbird("describe", photos, "--like", photos)
    assert (
        code == 2
        and "1 of 3 pictures" in err
        and [line.partition(":")[0] for line in out.splitlines()] == [str(photos / name) for name in ("a.png", "c.png")]
    )
    code, out, err = bowerbird("generate", "starter", "--image", photos / "b.png", "--steps", 1)
    assert code == 2 and "b.png" in err and not out


def test_a_model_that_only_varies_does_not_upscale(bowerbird: Bowerbird, tmp_path: Path) -> None:
    """It would give pictures of the same size back, marked as enhanced."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    code, out, err = bowerbird("upscale", "starter", "a.png")
    assert code == 2 and "'starter' paints, it does not enlarge" in err and not out
    assert not list((tmp_path / "pictures").glob("*"))


def test_three_pictures_are_allowed_with_advice(bowerbird: Bowerbird, picture_folder: Path, recipe_file: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(picture_folder.rglob("*.png"))[:3]:
        (few / file.name).write_bytes(file.read_bytes())
    code, _, err = bowerbird("train", few, "--recipe", recipe_file, "--out", "run")
    assert code == 0 and "3 pictures" in err


def test_recipes_are_listed_and_shown(bowerbird: Bowerbird) -> None:
    code, out, _ = bowerbird("recipes")
    assert code == 0 and "pixel-64-ddpm" in out
    assert "[train]" in bowerbird("recipes", "pixel-64")[1]


def test_options_of_every_command_may_stand_anywhere() -> None:
    assert _everywhere_first(["info", "x", "--json", "--device", "cpu", "--seed", "3"]) == [
        "--json",
        "--device",
        "cpu",
        "info",
        "x",
        "--seed",
        "3",
    ]


def test_info_tells_all_a_picture_knows(bowerbird: Bowerbird, tmp_path: Path) -> None:
    """Also what is not plain JSON: paths and LoRA files."""
    from bowerbird.picture_files import Painted, save_picture
    from bowerbird.request import read_request

    request = read_request({"model": "m", "seed": 1, "size": (8, 8), "loras": [{"file": "a/b.safetensors", "weight": 0.5}]})
    save_picture(Painted(Image.new("RGB", (8, 8)), 1, request), tmp_path / "x.png")
    code, out, _ = bowerbird("info", "x.png", "--json")
    assert code == 0 and json.loads(out)["fields"]["loras"] == [{"file": "a/b.safetensors", "weight": 0.5}]


def test_the_cache_is_told_of_and_emptied(
    bowerbird: Bowerbird, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))
    bowerbird("inspect", picture_folder)
    assert json.loads(bowerbird("info", "--cache", "--json")[1])["bytes"] > 0
    bowerbird("info", "--cache", "--clear")
    assert json.loads(bowerbird("info", "--cache", "--json")[1])["entries"] == []
