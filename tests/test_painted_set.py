"""Sets of painted pictures: as many of each class as asked for, listed so that others can learn from them, gone on with after a break."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird.data import open_pictures
from bowerbird.errors import RequestError
from bowerbird.painted_set import _folders, paint_per_label, paint_prompts, read_prompts
from bowerbird.painter import OwnPainter
from bowerbird.picture_metadata import read_metadata
from bowerbird.progress import Cancelled, Progress
from bowerbird.request import PaintRequest
from tests.conftest import tiny_recipe
from tests.test_model_folder import stirred


@pytest.fixture(scope="module")
def painter() -> OwnPainter:
    return OwnPainter("m", stirred(tiny_recipe(), ("cat", "Grey/owl")))


def ask(**fields: object) -> PaintRequest:
    return PaintRequest(model="m", **{"seed": 5, **fields})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_set_is_balanced_and_can_be_learnt_from(painter: OwnPainter, tmp_path: Path) -> None:
    """What was painted is read back by the gate with its labels and captions, and every picture repeats from its own metadata."""
    heard: list[Progress] = []
    paths = paint_per_label(ask(), 3, tmp_path / "set", painter, heard.append)
    assert sorted(path.relative_to(tmp_path / "set").parent.name for path in paths) == ["Grey_owl"] * 3 + ["cat"] * 3
    pictures = open_pictures(tmp_path / "set", 16)
    assert pictures.label_names == ("Grey/owl", "cat") and np.bincount(pictures.labels).tolist() == [3, 3]
    assert set(pictures.captions) == {("a picture of a grey/owl",), ("a picture of a cat",)}
    assert [event.done for event in heard if event.stage == "paint"][-1] == heard[-1].total == 6
    again = PaintRequest.model_validate(read_metadata(paths[4]).fields)
    (painted,) = painter.paint(again)
    assert painted.picture.tobytes() == Image.open(paths[4]).tobytes()
    assert len({path.read_bytes() for path in paths}) == 6
    told = json.loads((tmp_path / "set/provenance.json").read_text())
    assert told["per_label"] == 3 and told["request"]["seed"] == 5 and told["model"]["conditions"]["label"]["names"] == ["cat", "Grey/owl"]


def test_a_broken_off_set_goes_on_and_equals_an_unbroken_one(painter: OwnPainter, tmp_path: Path) -> None:
    paint_per_label(ask(exact=True), 3, tmp_path / "whole", painter)
    count = 0

    def stop_in_the_second_class(event: Progress) -> bool:
        nonlocal count
        count += event.stage == "paint"
        return count < 4 * painter.sampling.steps + 2

    with pytest.raises(Cancelled):
        paint_per_label(ask(exact=True), 3, tmp_path / "broken", painter, stop_in_the_second_class)
    assert 3 < len(list((tmp_path / "broken").rglob("*.png"))) < 6
    paint_per_label(ask(seed=None, exact=True), 3, tmp_path / "broken", painter)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_a_larger_count_adds_to_a_finished_set(painter: OwnPainter, tmp_path: Path) -> None:
    paint_per_label(ask(exact=True), 2, tmp_path, painter)
    before = contents(tmp_path)
    paths = paint_per_label(ask(exact=True), 4, tmp_path, painter)
    after = contents(tmp_path)
    assert len(paths) == 8 and all(after[name] == data for name, data in before.items() if name.endswith(".png"))
    paint_per_label(ask(exact=True), 2, tmp_path, painter)
    assert contents(tmp_path) == after


def test_one_class_alone_gets_the_pictures_it_has_in_the_whole_set(painter: OwnPainter, tmp_path: Path) -> None:
    paint_per_label(ask(exact=True), 2, tmp_path / "all", painter)
    paint_per_label(ask(exact=True, label="Grey/owl"), 2, tmp_path / "one", painter)
    whole, one = contents(tmp_path / "all"), contents(tmp_path / "one")
    assert {name for name in one if name.endswith(".png")} == {name for name in whole if name.startswith("Grey_owl/")}
    assert all(whole[name] == data for name, data in one.items() if name.endswith(".png"))


def test_what_lies_there_is_not_mixed_with_a_set(painter: OwnPainter, tmp_path: Path) -> None:
    paint_per_label(ask(), 1, tmp_path / "set", painter)
    with pytest.raises(RequestError, match="begun with another steps"):
        paint_per_label(ask(steps=3), 1, tmp_path / "set", painter)
    with pytest.raises(RequestError, match="begun with another seed"):
        paint_per_label(ask(seed=6), 1, tmp_path / "set", painter)
    (tmp_path / "set/provenance.json").write_text("{")
    with pytest.raises(RequestError, match="is damaged"):
        paint_per_label(ask(), 1, tmp_path / "set", painter)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds other files"):
        paint_per_label(ask(), 1, tmp_path / "mine", painter)
    with pytest.raises(RequestError, match="Did you mean 'cat'"):
        paint_per_label(ask(label="cta"), 1, tmp_path / "new", painter)
    with pytest.raises(RequestError, match="knows no classes"):
        paint_per_label(ask(), 1, tmp_path / "new", OwnPainter("m", stirred(tiny_recipe())))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("metadata.csv", b"file_name,text,label,seed,model\nx.png,a,b,no number,m\n"),
        ("metadata.csv", b"file_name,text,label,seed,model\nx.png,a\n"),
        ("metadata.csv", b"\0\xff"),
        ("metadata.csv", b""),
        ("provenance.json", b"[" * 100_000),
    ],
)
def test_a_damaged_table_or_record_is_one_sentence(painter: OwnPainter, tmp_path: Path, name: str, data: bytes) -> None:
    request = PaintRequest(seed=1, steps=1)
    paint_per_label(request, 1, tmp_path, painter)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RequestError, match="damaged"):
        paint_per_label(request, 2, tmp_path, painter)


def test_folders_are_told_apart_whatever_the_labels_are_called() -> None:
    names = _folders(["Owl", "owl", "a/b", "a:b", "..", "", "x" * 300])
    assert len({name.casefold() for name in names.values()}) == 7
    assert all(name and name == os.path.basename(name) and name not in (".", "..") for name in names.values())  # noqa: PTH119


# ------------------------------------------------------------------------------------------------ prompts


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p.txt", "a cat\n\n  an owl, at night \n", [("a cat", 1), ("an owl, at night", 1)]),
        ("p.csv", 'Prompt,count\n"a cat, asleep",2\nan owl,\n', [("a cat, asleep", 2), ("an owl", 1)]),
        ("p.jsonl", '{"caption": "a cat"}\n{"prompt": "an owl", "count": 3}\n', [("a cat", 1), ("an owl", 3)]),
        ("p.txt", "\ufeffein Vögel\n", [("ein Vögel", 1)]),
    ],
)
def test_prompts_come_from_lines_and_from_tables(name: str, text: str, expected: list[tuple[str, int]], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    asked = read_prompts(tmp_path / name, {"model": "m", "seed": 3})
    assert [(request.prompt, request.count) for request in asked] == expected
    assert {request.seed for request in asked} == {3}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("p.txt", b"\n \n", "there is no prompt"),
        ("p.csv", b"prompt,colour\na cat,red\n", "row 1: a painting request has no field 'colour'"),
        ("p.csv", b"prompt,count\na cat,1\nan owl,many\n", "row 2: count = 'many'"),
        ("p.jsonl", b'{"prompt": "x"}\nno\n', "1 lines are not JSON objects"),
        ("p.csv", b"prompt,model\na,one\nb,two\n", "several models"),
        ("p.csv", b'prompt\n"' + b"x" * 2**21, "not a CSV table"),
        ("p.txt", b"x" * 30_000, "row 1: prompt"),
    ],
)
def test_prompts_that_cannot_be_are_one_sentence(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RequestError) as error:
        read_prompts(tmp_path / name, {"model": "m"})
    assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_missing_and_huge_files_of_prompts_are_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot read the prompts"):
        read_prompts(tmp_path / "gone.txt", {"model": "m"})
    (tmp_path / "huge.txt").touch()
    os.truncate(tmp_path / "huge.txt", 2**30)
    with pytest.raises(RequestError, match="1,024 MiB"):
        read_prompts(tmp_path / "huge.txt", {"model": "m"})


def test_pictures_of_prompts_are_numbered_listed_and_never_overwritten(painter: OwnPainter, tmp_path: Path) -> None:
    """Rows may ask for a label each; a second file adds to the table of the first."""
    (tmp_path / "p.csv").write_text("label,count\ncat,2\nGrey/owl,1\n")
    for _ in range(2):
        paint_prompts(read_prompts(tmp_path / "p.csv", {"model": "m", "seed": 1}), tmp_path / "out", painter)
    names = [row["file_name"] for row in csv.DictReader((tmp_path / "out/metadata.csv").open())]
    first = ["0001-0000000001.png", "0001-0000000002.png", "0002-0000000001.png"]
    assert sorted(names) == sorted([*first, *(name.replace(".png", "-2.png") for name in first)])
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == sorted(names)
    with pytest.raises(RequestError, match=r"prompt 2: .*no label 'dgo'"):
        paint_prompts([ask(), ask(label="dgo")], tmp_path / "none", painter)
    assert not list((tmp_path / "none").glob("*.png"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/metadata.csv").write_text("file_name,text\na.png,mine\n")
    with pytest.raises(RequestError, match="somebody else's pictures"):
        paint_prompts([ask()], tmp_path / "mine", painter)
    assert (tmp_path / "mine/metadata.csv").read_text() == "file_name,text\na.png,mine\n"


def test_many_prompts_share_a_walk_and_stay_the_pictures_they_are_alone(painter: OwnPainter, tmp_path: Path) -> None:
    """Across batches pictures may differ in rounding, exact ones not at all; progress counts pictures of all."""
    requests = [ask(label=("cat", "Grey/owl")[number % 2], seed=number, exact=number >= 18) for number in range(20)]
    heard: list[Progress] = []
    paths = paint_prompts(requests, tmp_path, painter, heard.append)
    assert [int(path.name[:4]) for path in paths] == list(range(1, 21))
    done = [event.done for event in heard if event.stage == "paint"]
    assert done == sorted(done) and done[-1] == 20 == heard[-1].total and len(done) < 20 * painter.sampling.steps
    for number in (0, 7, 17, 19):
        (alone,) = painter.paint(requests[number])
        differ = np.abs(np.asarray(alone.picture).astype(int) - np.asarray(Image.open(paths[number])).astype(int))
        assert differ.mean() <= 1 and (number < 18 or differ.max() == 0)
