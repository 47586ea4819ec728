"""Preview pictures of styles: painted, found, and whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from bowerbird.errors import RequestError
from bowerbird.picture_files import Painted
from bowerbird.previews import PREVIEW_PX, paint_previews
from bowerbird.progress import OnProgress, Progress
from bowerbird.prompts.finish import finish
from bowerbird.prompts.library import preview_file, style_families, style_previews, styles
from bowerbird.request import PaintRequest

ODD_NAMES = ("../up", "a/b", "Ink, and wash", "ÖL", "..")


class Brush:
    """Paints grey of the number of letters in the final prompt."""

    def __init__(self) -> None:
        self.asked: list[PaintRequest] = []

    def describe(self) -> dict[str, object]:
        return {}

    def resolve(self, request: PaintRequest) -> PaintRequest:
        return finish(request)[0]

    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]:
        self.asked.append(request)
        final = self.resolve(request)
        yield Painted(Image.new("RGB", (300, 150), (len(final.prompt) % 256,) * 3), request.seed or 0, final)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with styles of all kinds of names, one of which is a name of ours with other words."""
    monkeypatch.setenv("BOWERBIRD_CONFIG", str(tmp_path / "own"))
    folder = tmp_path / "own" / "styles"
    folder.mkdir(parents=True)
    tables = [f'["{name}"]\nprompt = "{{prompt}}, as {number} sees it"' for number, name in enumerate((*ODD_NAMES, "twemoji"))]
    (folder / "mine.toml").write_text("\n".join(tables))
    (folder / "previews").mkdir()
    return folder


def asks(**fields: object) -> PaintRequest:
    return PaintRequest.model_validate({"model": "m", "prompt": "a house", "seed": 5, **fields})


def test_ours_are_small_pictures_of_styles_of_ours() -> None:
    found = style_previews()
    assert set(style_families()["pictogram"]) <= set(found) <= set(styles())
    for file in found.values():
        with Image.open(file) as picture:
            assert picture.format == "WEBP" and max(picture.size) == PREVIEW_PX and b"trainedAlgorithmicMedia" in picture.info["xmp"]
    assert sum(file.stat().st_size for file in found.values()) < 300_000  # they travel with every installation


def test_a_style_that_the_user_words_anew_does_not_show_our_picture(own: Path) -> None:
    assert "twemoji" not in style_previews() and "noto-emoji" in style_previews()
    paint_previews(asks(styles=["twemoji"]), Brush())
    assert style_previews()["twemoji"] == preview_file("twemoji")


def test_every_name_has_a_file_in_the_folder_and_nowhere_else(own: Path) -> None:
    paths = paint_previews(asks(styles=list(ODD_NAMES)), Brush())
    assert [style_previews()[name] for name in ODD_NAMES] == paths and len(set(paths)) == len(ODD_NAMES)
    assert {path.parent.resolve() for path in paths} == {(own / "previews").resolve()}
    for path in paths:
        with Image.open(path) as picture:
            assert picture.size == (PREVIEW_PX, PREVIEW_PX // 2)


def test_all_styles_show_the_same_words_from_the_same_noise_and_go_on_where_they_were_broken_off(own: Path) -> None:
    brush, broken = Brush(), Brush()
    paint_previews(asks(styles=["oil", "comic"]), broken)
    paint_previews(asks(seed=None), brush)
    painted = [style for request in brush.asked for style in request.styles]
    assert sorted([*painted, "oil", "comic"]) == sorted(styles())
    assert len({(request.prompt, request.seed) for request in brush.asked}) == 1
    said: list[Progress] = []
    assert paint_previews(asks(), Brush(), said.append) == [] and "already" in said[0].note


def test_only_a_style_has_a_preview(own: Path) -> None:
    for name in ("random", "oill"):
        with pytest.raises(RequestError, match="there is no style"):
            paint_previews(asks(styles=["oil", name]), Brush())
    assert not list((own / "previews").iterdir())


@pytest.mark.parametrize("fields", [{"prompt": ""}, {"count": 2}, {"asked": {"prompt": "a cat"}}])
def test_a_preview_is_one_picture_of_some_words(fields: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="one picture of each"):
        paint_previews(asks(**fields), Brush())
