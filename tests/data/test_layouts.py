"""Each layout is recognised from its files; the nearest file wins; what contradicts or cannot be read is counted."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bowerbird.data import open_pictures
from bowerbird.data.decode import BOX_MARGIN, Box, window
from bowerbird.data.layouts import describe, find_layouts
from bowerbird.data.layouts.cub import Attribute, Part
from bowerbird.data.layouts.cub import find as find_cub
from bowerbird.data.pictures import list_files
from bowerbird.errors import PictureFolderError
from tests.data.corpus import marked
from tests.data.small_cub import CUB_IMAGES, small_cub


def picture(folder: Path, name: str) -> None:
    """A picture that differs from every other by its width."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    marked(32 + sum(1 for _ in folder.rglob("*.png")), 40).save(path)


def all_captions(folder: Path) -> dict[str, tuple[str, ...]]:
    pictures = open_pictures(folder, 16)
    return dict(zip(pictures.names, pictures.captions, strict=True))


def captions(folder: Path) -> dict[str, str]:
    """The only caption of each picture, '' for none."""
    return {name: "".join(several) for name, several in all_captions(folder).items()}


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
        pytest.param("metadata.csv", 'file_name,text\na.png,"' + "x" * 2**21, "not a CSV table", id="an endless field"),
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


def test_rows_of_one_picture_are_its_captions_in_their_order(tmp_path: Path) -> None:
    """Several rows in a .csv, several lines or a list in a .jsonl; the same sentence twice is one caption."""
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path, name)
    (tmp_path / "metadata.csv").write_text("image,caption\na.png,one\na.png,two\na.png,one\ngone.png,x\ngone.png,y\n")
    rows = [{"file_name": "b.png", "text": ["three", " ", 4, "five"]}, {"file_name": "c.png", "text": []}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert all_captions(tmp_path) == {"a.png": ("one", "two"), "b.png": ("three", "five"), "c.png": ()}
    report = open_pictures(tmp_path, 16).report["captions"]
    assert (report["pictures"], report["captions"], report["rows_without_picture"]) == (2, 4, 2)
    assert report["from"] == {"metadata tables": 2}


# ------------------------------------------------------------------------------------------------ COCO


def coco(images: object, annotations: object) -> str:
    return json.dumps({"info": {}, "images": images, "annotations": annotations, "licenses": []})


def test_coco_captions_are_several_a_picture_and_its_files_are_the_split(tmp_path: Path) -> None:
    """As the archives unpack: the JSONs in annotations/, the pictures in a folder for each."""
    for name in ("train2017/1.png", "train2017/2.png", "val2017/1.png"):
        picture(tmp_path, name)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/captions_train2017.json").write_text(
        coco(
            [{"id": 7, "file_name": "1.png"}, {"id": 8, "file_name": "2.png"}],
            [
                {"image_id": 7, "id": 1, "caption": "a cat\n"},
                {"image_id": 8, "id": 2, "caption": "a dog"},
                {"image_id": 7, "id": 3, "caption": "it sits"},
            ],
        )
    )
    (tmp_path / "annotations/captions_val2017.json").write_text(
        coco(
            [{"id": 7, "file_name": "1.png"}],
            [{"image_id": 7, "id": 9, "caption": "a bus"}, {"image_id": 99, "id": 10, "caption": "of nothing"}],
        )
    )
    assert all_captions(tmp_path) == {"train2017/1.png": ("a cat", "it sits"), "train2017/2.png": ("a dog",), "val2017/1.png": ("a bus",)}
    pictures = open_pictures(tmp_path, 16)
    assert [pictures.names[row] for row in pictures.held] == ["val2017/1.png"]
    assert pictures.report["captions"]["rows_without_picture"] == 1
    assert pictures.report["captions"]["from"] == {"COCO captions": 3}
    assert pictures.report["counts"]["description"] == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"[]", "no JSON object"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"{}", "no list 'images'"),
        (coco({}, []).encode(), "no list 'images'"),
        (coco([], [{"image_id": 1}]).encode(), "entry 0 of its 'annotations' lacks image_id or caption"),
        (coco([{"id": [1], "file_name": "a.png"}], []).encode(), "entry 0 of its 'images' lacks id or file_name"),
        (b'{"images": [], "annotations": 1e999, "x": "\xff"}', "no list 'annotations'"),
    ],
)
def test_a_file_that_is_no_coco_is_said_in_a_sentence(text: bytes, problem: str, tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    (tmp_path / "captions.json").write_bytes(text)
    (said,) = open_pictures(tmp_path, 16).report["captions"]["problems"]
    assert said.startswith("captions.json: ") and problem in said


# ------------------------------------------------------------------------------------------------ CUB-200-2011


@pytest.fixture(scope="module")
def cub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that CUB_200_2011.tgz unpacks to, with its ten sentences beside it."""
    return small_cub(tmp_path_factory.mktemp("cub"))


@pytest.mark.parametrize("how", ["around", "itself", "archive", "beside"])
def test_cub_brings_class_names_its_official_split_and_ten_sentences(how: str, cub: Path, tmp_path: Path) -> None:
    """From the folder around CUB_200_2011, from itself, from its archive, each with text_c10 within or beside; nothing else is rejected."""
    home = shutil.copytree(cub, tmp_path / "birds")
    source = home if how == "around" else home / "CUB_200_2011"
    if how in ("archive", "beside"):
        source = home / "CUB_200_2011.tgz"
        with tarfile.open(source, "w:gz") as archive:
            for name in ("attributes.txt", "CUB_200_2011", *(["text_c10"] if how == "archive" else [])):
                archive.add(home / name, name)
    pictures = open_pictures(source, 16)
    assert pictures.label_names == ("Indigo Bunting", "Laysan Albatross")
    assert pictures.report["split"] == {"train": 4, "held": 2, "how": "the test pictures the folder itself names"}
    by_name = {name.rpartition("/")[2]: row for row, name in enumerate(pictures.names)}
    assert {pictures.names[row].rpartition("/")[2] for row in pictures.held} == {"Indigo_Bunting_0003_3.jpg", "Laysan_Albatross_0003_6.jpg"}
    assert pictures.captions[by_name["Indigo_Bunting_0002_2.jpg"]] == tuple(f"sentence {n} of picture 2." for n in range(1, 11))
    assert [file.name.rpartition("/")[2] for file in pictures.files if file.state == "rejected"] == ["README"]


def test_attributes_and_parts_are_read_as_the_lists_say(cub: Path) -> None:
    files = list_files(cub).files
    found = find_cub(files, cub)
    assert found is not None
    bunting, albatross = (f"CUB_200_2011/images/{path}" for path in (CUB_IMAGES[0], CUB_IMAGES[3]))
    assert Attribute("has_crown_color", "blue", 4) in found.attributes(cub, files)[bunting]
    assert {one.kind for one in found.attributes(cub, files)[albatross]} == {"has_size", "has_shape", "has_crown_color", "has_bill_shape"}
    assert found.parts(cub, files)[bunting] == {"beak": Part(30.0, 20.0, True), "crown": Part(0.0, 0.0, False)}
    assert found.parts(cub, files)[albatross]["crown"] == Part(30.0, 15.0, True)


def test_a_picture_in_no_list_is_trained_on_without_a_label(cub: Path, tmp_path: Path) -> None:
    home = shutil.copytree(cub, tmp_path / "birds")
    picture(home / "CUB_200_2011/images", "003.Sooty_Albatross/unlisted.png")
    pictures = open_pictures(home, 16)
    row = pictures.names.index("CUB_200_2011/images/003.Sooty_Albatross/unlisted.png")
    assert pictures.labels[row] == -1 and row in pictures.train and pictures.captions[row] == ()


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("images.txt", b"1\n", "line 1 is '1', which is not 2 columns (image_id image_name)"),
        ("images.txt", "1 a\n2 b".encode("utf-16")[:-1] + b"\xd8", ""),
        ("train_test_split.txt", b"1 1\n2 maybe\n", "picture '2' has 'maybe'"),
        ("train_test_split.txt", b"1 1\n\xff\xfe\n", "line 2 is '\\\\udcff\\\\udcfe'"),
        ("bounding_boxes.txt", b"1 60.0 27.0 325.0\n", "line 1 is '1 60.0 27.0 325.0', which is not 5 columns"),
        ("bounding_boxes.txt", b"1 60.0 27.0 wide 304.0\n", "'wide' is no number"),
        ("bounding_boxes.txt", b"1 60.0 27.0 nan 304.0\n", "'nan' is no number"),
        ("bounding_boxes.txt", b"1 60.0 27.0 1e300 304.0\n", "'1e300' is no number"),
        ("bounding_boxes.txt", b"1 60.0 27.0 0 -3\n", "picture '1' has a box of 0 x -3 px"),
    ],
)
def test_a_damaged_list_of_cub_is_one_sentence(path: str, text: bytes, words: str, cub: Path, tmp_path: Path) -> None:
    home = shutil.copytree(cub, tmp_path / "birds")
    (home / "CUB_200_2011" / path).write_bytes(text)
    if not words:  # bytes that are no list at all: names that lead nowhere
        assert open_pictures(home, 16).label_names == ()
        return
    with pytest.raises(PictureFolderError) as error:
        open_pictures(home, 16, fit="box")
    assert words in str(error.value) and str(error.value).endswith("Unpack the archive again.") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"1 1 1\n1 2 0 4 1.5\n", "1 of 2 lines"),
        (b"1 1 yes 4 1.0\n", "1 of 1 lines"),
        (b"\x00" * 1000, "1 of 1 lines"),
        (b"", "1 of 1 lines"),
    ],
)
def test_damaged_attribute_labels_are_one_sentence(text: bytes, words: str, cub: Path, tmp_path: Path) -> None:
    home = shutil.copytree(cub, tmp_path / "birds")
    (home / "CUB_200_2011/attributes/image_attribute_labels.txt").write_bytes(text)
    files = list_files(home).files
    found = find_cub(files)
    assert found is not None
    with pytest.raises(PictureFolderError, match=words):
        found.attributes(home, files)


def test_lists_may_name_pictures_that_are_not_there(cub: Path, tmp_path: Path) -> None:
    """A subset keeps the lists of the whole: rows of other pictures are no error."""
    home = shutil.copytree(cub, tmp_path / "birds")
    (home / "CUB_200_2011/images" / CUB_IMAGES[1]).unlink()
    with (home / "CUB_200_2011/train_test_split.txt").open("a") as file:
        file.write("77 1\n")
    pictures = open_pictures(home, 16, fit="box")
    assert len(pictures.names) == 5 and pictures.report["captions"]["rows_without_picture"] == 1


def test_a_list_beyond_all_measure_is_refused_by_its_size(cub: Path, tmp_path: Path) -> None:
    home = shutil.copytree(cub, tmp_path / "birds")
    os.truncate(home / "CUB_200_2011/images.txt", 200 * 2**20)
    with pytest.raises(PictureFolderError, match="it has 200 MiB; at most 100"):
        open_pictures(home, 16)


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    """Cut short, with bytes changed, with a piece of itself put in elsewhere, or something else altogether."""
    cut, place = int(draw.integers(len(data))), int(draw.integers(len(data)))
    match draw.integers(5):
        case 0:
            return data[:cut]
        case 1:
            changed = bytearray(data)
            for where in draw.integers(len(data), size=5):
                changed[where] = draw.integers(256)
            return bytes(changed)
        case 2:
            return data[:place] + data[cut:] + data[:cut]
        case 3:
            return data.replace(b"1", [b"-1", b"1e400", b"\xff", b"99999999999999999999", b'"'][draw.integers(5)])
        case _:
            return bytes(draw.integers(256, size=300, dtype=np.uint8))


def test_damaged_lists_never_do_worse_than_one_sentence(cub: Path, tmp_path: Path) -> None:
    """120 damaged tables, JSONs, sidecars and lists of CUB: each is read, passed over with a problem told, or refused by our own error."""
    home = shutil.copytree(cub, tmp_path / "birds")
    image = f"CUB_200_2011/images/{CUB_IMAGES[0]}"
    (home / "metadata.csv").write_text(f'file_name,text,label\n{image},"a bird, 1",1\n')
    (home / "metadata.jsonl").write_text(json.dumps({"file_name": image, "text": ["a bird", "1"], "label": 1}) + "\n")
    (home / "captions.json").write_text(coco([{"id": 1, "file_name": image}], [{"image_id": 1, "caption": "a bird"}]))
    (home / image).with_suffix(".txt").write_text("a bird, 1")
    files = list_files(home).files
    lists = sorted({path for layout in find_layouts(files, home) for path in layout.lists})
    assert len(lists) > 15
    draw, outcomes = np.random.default_rng(0), Counter[str]()
    for path in lists:
        whole = (home / path).read_bytes()
        for _ in range(120 // len(lists)):
            (home / path).write_bytes(damaged(whole, draw))
            files = list_files(home).files
            try:
                found = find_cub(files, home)
                said = describe(home, files, find_layouts(files, home), [image])
                assert found is not None and all("\n" not in problem for problem in said.problems)
                assert all(isinstance(text, str) and text.isprintable() for texts in said.captions.values() for text in texts)
                for read in (found.boxes, found.attributes, found.parts):
                    read(home, files)
                outcomes["problem" if said.problems else "read"] += 1
            except PictureFolderError as error:
                assert "\n" not in str(error) and len(str(error)) < 500
                outcomes["refused"] += 1
        (home / path).write_bytes(whole)
    assert min(outcomes[kind] for kind in ("read", "problem", "refused")) > 5


# ------------------------------------------------------------------------------------------------ bounding boxes


def test_fit_box_shows_the_square_around_the_box_with_its_margin(cub: Path) -> None:
    """Red inside the box, green around it: what training sees is red but for a margin, and each fit is kept apart in the cache."""
    boxed, cropped = (open_pictures(cub, 32, fit=fit) for fit in ("box", "crop"))
    assert boxed.fingerprint != cropped.fingerprint
    red = {pictures.report["fit"]: (pictures.pixels[:, :, :, 0] > 128).mean(axis=(1, 2)) for pictures in (boxed, cropped)}
    share = 1 / (1 + 2 * BOX_MARGIN) ** 2
    assert red["box"] == pytest.approx([share] * 6, abs=0.06)
    assert (red["crop"] < 0.2).all()
    again = open_pictures(cub, 32, fit="box")
    assert np.array_equal(again.pixels, boxed.pixels)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((40, 30, 20, 10), (38, 23, 24)),  # in the middle: the longer side and a tenth of it on both sides
        ((0, 0, 20, 20), (0, 0, 24)),  # in the corner: moved into the picture
        ((90, 50, 20, 30), (64, 24, 36)),  # it reaches outside
        ((0, 0, 100, 60), (20, 0, 60)),  # as large as the picture: as crop
        ((500, 500, 1, 1), (92, 52, 8)),  # nowhere: still a square of the picture
        (None, (20, 0, 60)),
    ],
)
def test_the_window_never_leaves_the_picture(box: Box | None, expected: tuple[float, float, float]) -> None:
    assert window(100, 60, box) == pytest.approx(expected)


def test_fit_box_without_boxes_says_so(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    with pytest.raises(PictureFolderError, match="has none"):
        open_pictures(tmp_path, 16, fit="box")
