"""`evaluate` on real pictures: what it must see, and what it must not be fooled by."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from bowerbird.data import open_pictures
from bowerbird.errors import PictureFolderError, ResourceError
from bowerbird.evaluate import evaluate, metrics
from bowerbird.evaluate.judge import PictureSet, paint_like, read_generated, read_real
from bowerbird.generate import open_model
from bowerbird.models.features import JUDGE, SECOND_OPINION, extract
from bowerbird.picture_files import Painted
from bowerbird.pixels import Pixels
from bowerbird.progress import Cancelled, OnProgress
from bowerbird.request import PaintRequest
from bowerbird.training import train
from tests.conftest import Bowerbird, tiny_recipe


class Brush:
    """A painter of plain squares: red ones with the label "warm", others blue."""

    def __init__(self, labels: tuple[str, ...] = ()) -> None:
        self.labels = labels

    def resolve(self, request: PaintRequest) -> PaintRequest:
        return request

    def describe(self) -> dict[str, Any]:
        return {"conditions": {"label": {"names": self.labels}}}

    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]:
        for i in range(request.count):
            seed = (request.seed or 0) + i
            colour = (255, seed, 0) if request.label == "warm" else (0, seed, 255)
            yield Painted(Image.new("RGB", (16, 16), colour), seed, request)


def blurred(pixels: Pixels, side: int) -> Pixels:
    x = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)
    small = F.interpolate(x, (side, side), mode="bicubic", antialias=True)
    return F.interpolate(small, x.shape[2:], mode="bicubic", antialias=True).permute(0, 2, 3, 1).numpy()


def noised(pixels: Pixels, strength: float) -> Pixels:
    return np.clip(pixels + np.random.default_rng(0).normal(0, 255 * strength, pixels.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("network", [JUDGE, SECOND_OPINION])
def test_worse_pictures_score_worse(animals: Pixels, network: str) -> None:
    """KID rises with blur and with noise, for both networks; the undamaged half is nearest of all."""
    real, others = extract(animals[120:], network), animals[:60]
    clean = metrics.kid(extract(others, network), real)
    by_blur = [metrics.kid(extract(blurred(others, side), network), real) for side in (32, 16)]
    by_noise = [metrics.kid(extract(noised(others, strength), network), real) for strength in (0.05, 0.2)]
    assert clean < by_blur[0] < by_blur[1]
    assert clean < by_noise[0] < by_noise[1]


def test_blur_shows_at_the_finest_scale(animals: Pixels) -> None:
    real = metrics.laplacian_patches(animals[120:])
    clean, blurry = (metrics.laplacian_patches(x) for x in (animals[:120], blurred(animals[:120], 32)))
    worse = {
        side: metrics.sliced_wasserstein(blurry[side], real[side]) / metrics.sliced_wasserstein(clean[side], real[side]) for side in real
    }
    assert worse[64] > 1.2
    assert worse[64] > worse[32] > worse[16]


def test_real_pictures_pass_and_their_copies_are_caught(animals: Pixels, tmp_path: Path) -> None:
    """Half the set against the other half is at the floor; trained on itself, it is all copies.  The report says so, and stands alone."""
    painted, real = animals[:120], animals[120:]
    report = evaluate(painted, real, train=painted, out=tmp_path)
    assert report.score("kid").at_the_floor
    assert report.copies is not None and report.copies.rate == 1.0

    document = json.loads((tmp_path / "report.json").read_text())
    assert document == json.loads(json.dumps(report.to_json()))
    assert document["scores"]["kid"]["value"] == pytest.approx(report.score("kid").value)
    assert document["copies"]["originals"] == list(range(120))
    assert any("cannot tell" in sentence for sentence in document["verdict"])
    assert any("100% of the pictures are copies" in sentence for sentence in document["verdict"])
    assert any("margins are wide" in sentence for sentence in document["verdict"])
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:image/png;base64,)""", page)
    for line in report.lines:
        assert line.name in page
        assert line.name in report.to_text()


def test_a_dropped_mode_is_named(animals: Pixels) -> None:
    """One picture painted over and over: each is real, yet there is no variety."""
    report = evaluate(animals[:1].repeat(40, axis=0), animals[120:180])
    assert report.score("recall").value < 0.1
    assert not report.score("kid").at_the_floor
    assert any("Variety is missing" in sentence for sentence in report.verdict())


def test_labels_are_judged_where_there_are_any(picture_folder: Path) -> None:
    """Warm and cold discs are told apart by what was learnt from discs."""
    report = evaluate(picture_folder, picture_folder)
    assert report.score("classification_accuracy").value > 0.9


def test_equal_pictures_are_counted_as_often_as_they_are_there(picture_folder: Path, tmp_path: Path) -> None:
    """The data gate keeps each content once, which would hide a painter that paints one picture for ever."""
    for number, file in enumerate(["000", "000", "002"]):
        (tmp_path / f"{number}.png").write_bytes((picture_folder / f"cold/{file}.png").read_bytes())
    found = read_generated(tmp_path)
    assert found.pixels.shape == (3, 16, 16, 3)
    assert np.array_equal(found.pixels[0], found.pixels[1])
    assert not np.array_equal(found.pixels[0], found.pixels[2])


def test_the_training_folder_is_never_its_own_examiner(picture_folder: Path) -> None:
    """Given twice, it is split as training splits it: held-out pictures to compare with, the others to look for copies of."""
    real, originals = read_real(picture_folder, picture_folder, 16)
    everything, _ = read_real(picture_folder, None, 16)
    assert originals is not None
    assert len(real.pixels) + len(originals) == len(everything.pixels) == 60
    assert not {p.tobytes() for p in real.pixels} & {p.tobytes() for p in originals}


@pytest.mark.parametrize("encoder", ["", " in 3d77753fb0ebea06"])
@pytest.mark.parametrize("side", [16, 32])
def test_a_model_names_the_pictures_it_was_trained_on(picture_folder: Path, encoder: str, side: int) -> None:
    """By their fingerprint, in pixels or in latents, whatever size it paints at, and with the split of its own recipe."""
    data = {"size": 16, "fit": "pad", "held_out": 0.25, "seed": 7}
    pictures = open_pictures(picture_folder, **data)  # type: ignore[arg-type]
    training = {"recipe": {"data": data}, "data_fingerprint": pictures.fingerprint + encoder}
    real, originals = read_real(picture_folder, None, side, training)
    same = open_pictures(picture_folder, **{**data, "size": side})  # type: ignore[arg-type]
    assert np.array_equal(real.pixels, same.pixels[pictures.held])
    assert originals is not None and np.array_equal(originals, same.pixels[pictures.train])
    everything, none = read_real(picture_folder, None, side, {**training, "data_fingerprint": "of others"})
    assert len(everything.pixels) == 60
    assert none is None


CAPTION = "a {} disc, number {}"


def captioned_elsewhere(folder: Path, table: Path) -> Path:
    """A table of captions for every picture of a folder, elsewhere."""
    names = [path.relative_to(folder) for path in sorted(folder.glob("*/*.png"))]
    rows = (json.dumps({"file_name": str(name), "text": CAPTION.format(name.parent, name.stem)}) for name in names)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join(rows))
    return table


def test_captions_are_those_that_were_learnt(picture_folder: Path, tmp_path: Path) -> None:
    """From the table that the recipe names, held-out pictures with their own; another folder is not what the table speaks of."""
    table = captioned_elsewhere(picture_folder, tmp_path / "captions/discs.jsonl")
    data = {"size": 16, "captions": str(table)}
    training = {"recipe": {"data": data}, "data_fingerprint": open_pictures(picture_folder, 16).fingerprint}
    pictures = open_pictures(picture_folder, 16, captions=table)
    real, _ = read_real(picture_folder, None, 16, training)
    assert real.captions == tuple(pictures.captions[row][0] for row in pictures.held)
    assert all(said.startswith(f"a {label} disc") for said, label in zip(real.captions, real.labels, strict=True))
    elsewhere, _ = read_real(picture_folder / "cold", None, 16, training)
    assert not elsewhere.captions
    table.rename(table.with_name("moved.jsonl"))
    with pytest.raises(PictureFolderError, match=r"that were learnt, '.*discs.jsonl', are not there. Say with --captions"):
        read_real(picture_folder, None, 16, training)
    assert read_real(picture_folder, None, 16, training, table.with_name("moved.jsonl"))[0].captions == real.captions


def test_captions_are_read_as_training_reads_them(picture_folder: Path, tmp_path: Path) -> None:
    """Beside the pictures, in a table among them or elsewhere: the painter is asked for the same."""
    elsewhere = captioned_elsewhere(picture_folder, tmp_path / "elsewhere.jsonl")
    beside, among = (Path(shutil.copytree(picture_folder, tmp_path / name)) for name in ("beside", "among"))
    captioned_elsewhere(among, among / "metadata.jsonl")
    for path in beside.glob("*/*.png"):
        path.with_suffix(".txt").write_text(CAPTION.format(path.parent.name, path.stem))
    wanted, _ = read_real(picture_folder, None, 16, captions=elsewhere)
    assert len(set(wanted.captions)) == 60
    for folder in (beside, among):
        assert read_real(folder, None, 16)[0].captions == wanted.captions
    assert read_generated(among).captions == wanted.captions


def test_a_run_is_judged_by_the_table_it_learnt(picture_folder: Path, bowerbird: Bowerbird, tmp_path: Path) -> None:
    """By the command alone; where a table is named that is none, that is said before anything is painted."""
    table = captioned_elsewhere(picture_folder, tmp_path / "captions/discs.jsonl")
    recipe = tiny_recipe(data={"captions": "captions/discs.jsonl", "held_out": 0.5}, condition={"text": True})
    train(picture_folder, tmp_path / "run", recipe, device=torch.device("cpu"))
    code, out, err = bowerbird("evaluate", "run", "--against", picture_folder, "--count", 24, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["generated"]["name"] == "pictures painted by captions"
    assert document["scores"]["caption_top_10"]["floor"] > 0
    table.write_text("")
    code, _, err = bowerbird("evaluate", "run", "--against", picture_folder, "--captions", table)
    assert code == 2 and "there are no captions in" in err


def test_a_run_on_latents_is_judged_on_its_held_out_pictures(picture_folder: Path, tmp_path: Path) -> None:
    """From the run itself, as `bowerbird evaluate RUN --against PICTURES` does it."""
    recipe = tiny_recipe(model={"autoencoder": "autoencoder-8x"}, transformer={"patch": 1})
    train(picture_folder, tmp_path / "run", recipe, device=torch.device("cpu"))
    painter = open_model(tmp_path / "run", torch.device("cpu"))
    real, originals = read_real(picture_folder, None, 16, painter.describe()["training"])
    assert originals is not None and len(real.pixels) + len(originals) == 60
    assert "held out" in real.name


def test_a_missing_folder_is_noticed_before_anything_is_painted(picture_folder: Path, tmp_path: Path) -> None:
    class Busy(Brush):
        def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]:
            raise AssertionError("it began to paint")

    for wrong in ({"against": tmp_path / "none"}, {"against": picture_folder, "train": tmp_path / "none"}):
        with pytest.raises(PictureFolderError, match="there is no folder"):
            evaluate(Busy(), **wrong)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="--out"):
        evaluate(Busy(), picture_folder, out=tmp_path / "file" / "judged")


def test_a_painter_is_asked_for_the_labels_of_the_real_pictures() -> None:
    real = PictureSet("real", np.zeros((40, 16, 16, 3), np.uint8), ("warm",) * 30 + ("cold",) * 9 + ("unknown",))
    painted = paint_like(Brush(("warm", "cold")), real, 20, seed=5)
    assert Counter(painted.labels) == {"warm": 15, "cold": 5}
    assert (painted.pixels[..., 0].max((1, 2)) == np.where(np.array(painted.labels) == "warm", 255, 0)).all()
    assert sorted(painted.pixels[:, 0, 0, 1]) == list(range(5, 25))  # every picture has a seed of its own


def test_a_painter_paints_at_its_own_size(picture_folder: Path) -> None:
    report = evaluate(Brush(), picture_folder, count=12)
    assert report.pixels.shape == report.real_pixels[:12].shape == (12, 16, 16, 3)


def test_too_few_pictures_are_refused(animals: Pixels) -> None:
    with pytest.raises(PictureFolderError, match="3 generated pictures are too few"):
        evaluate(animals[:3], animals[10:40])


def test_it_can_be_cancelled(animals: Pixels) -> None:
    with pytest.raises(Cancelled):
        evaluate(animals[:30, ::-1], animals[40:60], on_progress=lambda event: False)
