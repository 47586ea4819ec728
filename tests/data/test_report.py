"""What people look at: true, complete, and harmless whatever the files are called."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from bowerbird.data import inspect, open_pictures
from bowerbird.errors import PictureFolderError
from tests.data.corpus import PRIVATE, SIZE, corpus, encode, marked, private_exif, write


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The odd corpus, inspected: the folder of the report, and its text."""
    folder = tmp_path_factory.mktemp("odd") / "corpus"
    write(folder, corpus())
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        return out, inspect(folder, SIZE, "crop", out).to_text()


def test_the_page_runs_nothing_and_loads_nothing(looked_at: tuple[Path, str]) -> None:
    """File names are markup, templates and scripts here; on the page they are words."""
    page = Page((looked_at[0] / "report.html").read_text())
    assert set(page.tags).isdisjoint({"script", "iframe", "object", "embed", "link", "form", "a"})
    assert all(value and value.startswith("data:image/") for name, value in page.attributes if name == "src")
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "default-src 'none'" in (looked_at[0] / "report.html").read_text()


def test_hostile_names_are_written_out(tmp_path: Path) -> None:
    for number, name in enumerate(["<img src=x onerror=alert(1)>.png", "{{ 7 * 7 }}.png", "new\nline.png", "\u202egnp.exe.png"]):
        (tmp_path / name).write_bytes(encode(marked(48, 32 + number), "PNG"))
    page = Page((inspect(tmp_path, 16, out=tmp_path / "report").write_html(tmp_path / "report")).read_text())
    for shown in ("<img src=x onerror=alert(1)>.png", "{{ 7 * 7 }}.png", "new\\nline.png", "\\u202egnp.exe.png"):
        assert shown in page.text
    assert "\u202e" not in page.text


def test_every_rejected_file_is_on_the_page_with_its_reason(looked_at: tuple[Path, str]) -> None:
    page = Page((looked_at[0] / "report.html").read_text()).text
    report = json.loads((looked_at[0] / "data.json").read_text())
    assert len(report["rejected"]) == report["counts"]["rejected"] > 70
    for file in report["rejected"]:
        assert file["name"] in page and file["code"] in page and file["reason"] in page


def test_words_and_json_say_the_same(looked_at: tuple[Path, str]) -> None:
    report = json.loads((looked_at[0] / "data.json").read_text())
    for state, count in report["counts"].items():
        assert f"{count:,} {state}" in looked_at[1]
    assert looked_at[1].count("\n") < 40


def test_no_author_serial_number_or_place_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        marked(48, 32 + number).save(folder / f"{number}.jpg", exif=private_exif())
        (folder / f"{number}-cut.jpg").write_bytes((folder / f"{number}.jpg").read_bytes()[:-200])
    text = inspect(folder, 16, out=tmp_path / "out").to_text()
    written = text.encode() + b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    for secret in PRIVATE:
        assert secret.encode() not in written


def test_odd_looking_pictures_are_found(tmp_path: Path) -> None:
    """Planted among the project's own birds, which are none of these: dark, blank, flat and blurred ones."""
    birds = sorted((Path(__file__).parents[2] / "examples" / "birds").glob("fluent-*.webp"))[:20]
    for bird in birds:
        (tmp_path / bird.name).write_bytes(bird.read_bytes())
    image = Image.open(birds[0]).convert("RGB")
    image.point(lambda v: v // 8).save(tmp_path / "dark.png")
    image.point(lambda v: 245 + v // 26).save(tmp_path / "light.png")
    Image.new("RGB", image.size, (90, 120, 150)).save(tmp_path / "flat.png")
    image.filter(ImageFilter.GaussianBlur(8)).save(tmp_path / "blurred.png")
    looks = inspect(tmp_path, 64).to_json()["looks"]
    assert looks["dark"] == ["dark.png"]
    assert looks["light"] == ["light.png"]
    assert "flat.png" in looks["flat"]
    assert looks["blurred"] == ["blurred.png"]


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        ({"few": 3}, "3 pictures are few"),
        ({"small": 60}, "and enlarged"),
        ({"wide": 60}, "fit = pad"),
        ({"captions": ["a bird looking left"] + ["a bird"] * 59}, "speak of left, right or writing"),
        ({"captions": ["a bird"] * 60}, "share their caption"),
        ({"captions": ["a bird", ""]}, "without a caption: 1"),
        ({"labels": [1] * 58 + [2]}, "uneven"),
    ],
)
def test_advice_is_given_when_it_applies(plant: dict[str, object], words: str, tmp_path: Path) -> None:
    """And a plain set of different, captioned, square pictures gets none."""
    (kind, value), *_ = plant.items()
    count = value if isinstance(value, int) else len(value)  # type: ignore[arg-type]
    for number in range(count):
        width, height = {"small": (12, 12), "wide": (200, 32)}.get(kind, (48, 48))
        label = f"class{value[number]}/" if kind == "labels" else ""  # type: ignore[index]
        path = tmp_path / f"{label}{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        image = marked(width, height)
        image.putpixel((number % 12, number // 12), (number, 255 - number, 9))
        image.save(path)
        if kind == "captions" and value[number]:  # type: ignore[index]
            path.with_suffix(".txt").write_text(str(value[number]))  # type: ignore[index]
    assert any(words in advice for advice in inspect(tmp_path, 16).to_json()["advice"])


def test_a_folder_without_pictures_can_be_inspected_but_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("words")
    (tmp_path / "cut.jpg").write_bytes(encode(marked(), "JPEG")[:100])
    assert "0 pictures in 2 files" in inspect(tmp_path, 16, out=tmp_path / "out").to_text()
    assert (tmp_path / "out" / "report.html").exists()
    with pytest.raises(PictureFolderError, match=r"no picture in .* \(.*1 E_TRUNCATED"):
        open_pictures(tmp_path, 16)


@pytest.mark.parametrize(
    ("name", "words"), [("brids", "Did you mean 'birds'"), ("zzz", "Give the folder"), ("file.txt", "neither a folder nor")]
)
def test_a_wrong_path_is_answered_with_the_right_one(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(PictureFolderError, match=words):
        open_pictures(tmp_path / name, 16)
