"""The nearest file wins; each picture has one caption; what contradicts or cannot be read is counted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bowerbird.data import open_pictures
from tests.data.corpus import marked


def picture(folder: Path, name: str) -> None:
    """A picture that differs from every other by its width."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    marked(32 + sum(1 for _ in folder.rglob("*.png")), 40).save(path)


def captions(folder: Path) -> dict[str, str]:
    pictures = open_pictures(folder, 16)
    return dict(zip(pictures.names, pictures.captions, strict=True))


def test_the_nearest_file_wins(tmp_path: Path) -> None:
    for name in ("birds/a.png", "birds/b.png", "birds/c.png", "birds/d.png"):
        picture(tmp_path, name)
    (tmp_path / "birds/a.txt").write_text("sidecar a")
    (tmp_path / "birds/metadata.csv").write_text("file_name,text\na.png,table a\nb.png,table b\nd.png,\n")
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"birds/{x}.png", "text": f"root {x}"}) for x in "abc") + "\n"
    )
    assert captions(tmp_path) == {"birds/a.png": "sidecar a", "birds/b.png": "table b", "birds/c.png": "root c", "birds/d.png": ""}
    report = open_pictures(tmp_path, 16).report["captions"]
    assert report["conflicts"] == 2 and report["missing"] == 1


def test_text_is_one_clean_line_whatever_its_encoding(tmp_path: Path) -> None:
    contents = {
        "a": "\ufeff  a bird\r\n\ton a branch \n".encode(),
        "b": "ein Vögel".encode("utf-16"),
        "c": b"caf\xe9 \0 bird",
        "d": "\u202ebird\u202c".encode(),
        "e": b"x" * 70_000,
    }
    for name, data in contents.items():
        picture(tmp_path, f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(data)
    assert list(captions(tmp_path).values()) == ["a bird on a branch", "ein Vögel", "caf\ufffd bird", "bird", ""]
    assert "70,000 bytes is more than a caption" in open_pictures(tmp_path, 16).report["captions"]["problems"][0]


@pytest.mark.parametrize(
    ("name", "table", "problem"),
    [
        ("metadata.csv", "picture,words\na.png,a bird\n", "no rows with a file_name"),
        ("metadata.csv", 'file_name,text\na.png,"' + "x" * 2**21, "not a CSV table"),
        ("metadata.jsonl", 'not json\n{"file_name": "a.png", "text": "a bird"}\n[1]\n', "2 lines are not JSON objects"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": {"deep": 1}}\n', "no rows with a file_name"),
    ],
)
def test_a_table_that_cannot_be_read_is_said_not_raised(tmp_path: Path, name: str, table: str, problem: str) -> None:
    picture(tmp_path, "a.png")
    (tmp_path / name).write_text(table)
    assert problem in " ".join(open_pictures(tmp_path, 16).report["captions"]["problems"])


def test_rows_that_name_no_picture_are_counted(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\n./a.png,a bird\n../a.png,outside\ngone.png,nobody\n/etc/passwd,no\n")
    assert captions(tmp_path) == {"a.png": "a bird"}
    assert open_pictures(tmp_path, 16).report["captions"]["rows_without_picture"] == 3


def test_names_match_across_unicode_forms(tmp_path: Path) -> None:
    """A table written on a Mac may name é in two characters where the disk has one."""
    picture(tmp_path, "caf\u00e9.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\ncafe\u0301.png,a cup\n")
    assert list(captions(tmp_path).values()) == ["a cup"]


def test_labels_come_from_the_first_folder_in_which_pictures_differ(tmp_path: Path) -> None:
    for name in ("all/birds/owl/a.png", "all/birds/b.png", "all/fish/c.png", "all/d.png"):
        picture(tmp_path, name)
    pictures = open_pictures(tmp_path, 16)
    named = {name: pictures.label_names[label] if label >= 0 else "" for name, label in zip(pictures.names, pictures.labels, strict=True)}
    assert named == {"all/birds/owl/a.png": "birds", "all/birds/b.png": "birds", "all/d.png": "", "all/fish/c.png": "fish"}


def test_a_label_is_printable_whatever_its_folder_is_called(tmp_path: Path) -> None:
    """A folder's name need not be text; the report must be."""
    for name in (os.fsdecode(b"\xff\xfe/a.png"), "\u202ewol/b.png"):
        picture(tmp_path, name)
    pictures = open_pictures(tmp_path, 16)
    assert pictures.label_names == ("\\u202ewol", "\\udcff\\udcfe")
    assert json.loads(pictures.report_json())["labels"] == {"\\u202ewol": 1, "\\udcff\\udcfe": 1}


def test_one_folder_is_no_label(tmp_path: Path) -> None:
    for name in ("birds/a.png", "birds/b.png"):
        picture(tmp_path, name)
    assert open_pictures(tmp_path, 16).label_names == ()


def test_a_tables_labels_replace_the_folders(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/b.png", "y/c.png"):
        picture(tmp_path, name)
    (tmp_path / "metadata.csv").write_text("file_name,label\nx/a.png,owl\ny/b.png,hen\n")
    pictures = open_pictures(tmp_path, 16)
    assert pictures.label_names == ("hen", "owl")
    assert pictures.labels.tolist() == [1, 0, -1]


def test_folders_named_train_and_test_are_the_split_and_no_label(tmp_path: Path) -> None:
    for name in ("train/owl/a.png", "train/hen/b.png", "test/owl/c.png"):
        picture(tmp_path, name)
    pictures = open_pictures(tmp_path, 16)
    assert pictures.label_names == ("hen", "owl")
    assert [pictures.names[i] for i in pictures.held] == ["test/owl/c.png"]


def test_cub_brings_class_names_and_its_official_split(tmp_path: Path) -> None:
    """images.txt and train_test_split.txt, as the archive has them; a picture in no list is trained on without a label."""
    home = tmp_path / "CUB_200_2011"
    paths = ["001.Black_footed_Albatross/one.png", "001.Black_footed_Albatross/two.png", "002.Laysan_Albatross/three.png"]
    for path in (*paths, "003.Sooty_Albatross/unlisted.png"):
        picture(home, f"images/{path}")
    (home / "images.txt").write_text("".join(f"{number} {path}\n" for number, path in enumerate(paths, 1)))
    (home / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n")
    (home / "classes.txt").write_text("1 001.Black_footed_Albatross\n")
    for source, prefix in ((tmp_path, "CUB_200_2011/"), (home, "")):
        pictures = open_pictures(source, 16)
        assert [pictures.names[i] for i in pictures.held] == [f"{prefix}images/{paths[1]}"]
        assert pictures.label_names == ("Black footed Albatross", "Laysan Albatross")
        assert pictures.labels[np.argsort(pictures.names)].tolist() == [0, 0, 1, -1]
        assert pictures.report["counts"]["description"] == 3
