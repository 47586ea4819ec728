"""Enlarging pictures: alpha, odd input, and chains of painters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird.chain import Chain
from bowerbird.enlarge import Enlarger
from bowerbird.errors import PictureFolderError, RequestError
from bowerbird.generate import open_chain, open_model
from bowerbird.model_folder import Model, open_model_folder, save_model
from bowerbird.models.upscaler import Upscaler, UpscalerConfig, shrunk
from bowerbird.picture_files import Painted
from bowerbird.pixels import Pixels, to_x0
from bowerbird.progress import Cancelled, OnProgress
from bowerbird.request import PaintRequest, read_request
from bowerbird.storage import Disk

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def enlarger() -> Enlarger:
    painter = open_model("upscaler-4x", CPU)
    assert isinstance(painter, Enlarger)
    return painter


def asking(image: Path, **fields: object) -> PaintRequest:
    return read_request({"model": "m", "image": image, **fields})


def test_the_bundled_one_is_small_true_to_its_input_and_sharper_than_scaling(enlarger: Enlarger, animals: Pixels) -> None:
    """Animals are no proof of quality, but a broken file or a wrong range of pixels would fail this by far."""
    weights = sum(p.numel() for p in enlarger.network.parameters())
    assert 600_000 < weights < 1_200_000
    low, large = [], []
    for pixels in animals[:6]:
        small = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC)
        low.append(np.asarray(small))
        large.append(np.asarray(enlarger.enlarge(small, consistent=True)))
    error = shrunk(to_x0(np.stack(large)), 4) - to_x0(np.stack(low))
    assert float(10 * torch.log10(4 / error.square().mean())) >= 48
    scaled = [np.asarray(Image.fromarray(each).resize((64, 64), Image.Resampling.BICUBIC)) for each in low]
    ours, plain = (np.abs(np.stack(found).astype(float) - animals[:6]).mean() for found in (large, scaled))
    assert ours < 0.95 * plain


def test_alpha_is_kept(enlarger: Enlarger, tmp_path: Path) -> None:
    """What is opaque stays opaque, what is transparent stays so, and the colours that hide there do not bleed out."""
    pixels = np.zeros((24, 24, 4), np.uint8)
    pixels[..., 1] = 255  # hidden: green
    pixels[6:18, 6:18] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "red.png")
    (painted,) = enlarger.paint(asking(tmp_path / "red.png"))
    found = np.asarray(painted.picture).astype(int)
    assert painted.picture.mode == "RGBA" and found.shape == (96, 96, 4)
    assert found[32:64, 32:64, 3].min() > 250 and found[:16, :, 3].max() < 5
    assert found[found[..., 3] > 128][:, 1].max() < 40


def test_an_even_alpha_and_none_at_all(enlarger: Enlarger) -> None:
    glass = Image.new("RGBA", (8, 8), (10, 20, 30, 100))
    assert set(enlarger.enlarge(glass).getchannel("A").getextrema()) == {100}
    assert enlarger.enlarge(glass.convert("RGB")).mode == "RGB"


def test_the_size_and_what_was_asked_are_recorded(enlarger: Enlarger, tmp_path: Path) -> None:
    Image.new("L", (7, 5), 90).save(tmp_path / "grey.png")
    for asked, size in ((None, (28, 20)), ((20, 20), (20, 20))):
        (painted,) = enlarger.paint(asking(tmp_path / "grey.png", size=asked, noise=0.1))
        assert painted.picture.size == painted.settings.size == size and painted.settings.noise == 0.1
    (again,) = enlarger.paint(painted.settings)
    assert again.picture.tobytes() == painted.picture.tobytes()


def test_odd_input_is_one_sentence(enlarger: Enlarger, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    Image.new("1", (2100, 9)).save(tmp_path / "wide.png")
    with pytest.raises(PictureFolderError, match="cannot be read as a picture"):
        enlarger.resolve(asking(tmp_path / "no.png"))
    with pytest.raises(RequestError, match="would become 8400x36 pixels"):
        enlarger.resolve(asking(tmp_path / "wide.png"))
    with pytest.raises(RequestError, match="give it one"):
        enlarger.resolve(PaintRequest(model="m"))
    with pytest.raises(RequestError, match="cannot use 'prompt'"):
        enlarger.resolve(asking(tmp_path / "wide.png", prompt="a cat"))


def test_cancelled_between_tiles(enlarger: Enlarger) -> None:
    with pytest.raises(Cancelled):
        enlarger.enlarge(Image.new("RGB", (8, 8)), on_progress=lambda event: False)


def test_a_saved_one_opens_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Upscaler(UpscalerConfig(2, 8, 2))
    save_model(Disk(), tmp_path / "m", Model(None, upscaler=network), b"")
    opened = open_model_folder(tmp_path / "m")
    assert opened.kind == "upscaler" and opened.upscaler is not None and opened.upscaler.config == network.config
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in opened.upscaler.state_dict().items())


class Plain:
    """Paints grey pictures of 8x8, or enlarges what it is given twice; remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[PaintRequest] = []

    def describe(self) -> dict[str, Any]:
        return {"kind": "plain"}

    def resolve(self, request: PaintRequest) -> PaintRequest:
        return request

    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]:
        self.asked.append(request)
        picture = Image.new("RGB", (8, 8), "grey") if request.image is None else Image.open(request.image).resize((16, 16))
        yield Painted(picture, request.seed or 0, request)


def test_a_chain_takes_pictures_further_and_says_so() -> None:
    first, second = Plain(), Plain()
    chain = Chain(first, lambda name: second)
    (painted,) = chain.paint(PaintRequest(model="m", then=["twice"], seed=3, prompt="a cat"))
    assert painted.picture.size == (16, 16) == painted.settings.size and painted.settings.then == ["twice"]
    assert first.asked[0].then == [] and second.asked[0].seed == 3 and second.asked[0].prompt == "a cat"


@pytest.mark.parametrize(("size", "then"), [((16, 16), ["usual"]), ((40, 30), ["usual"]), ((15, 15), []), (None, [])])
def test_large_sizes_end_with_the_usual_upscaler(size: tuple[int, int] | None, then: list[str]) -> None:
    chain = Chain(Plain(), lambda name: Plain(), upscaler="usual", native_px=8)
    (painted,) = chain.paint(PaintRequest(model="m", size=size))
    assert painted.settings.then == then == chain.resolve(PaintRequest(model="m", size=size)).then
    assert not then or painted.picture.size == size


def test_a_small_model_paints_large_with_its_own_upscaler(model_folder: Path, tmp_path: Path) -> None:
    """The one in its folder `upscaler`; and what is recorded repeats the picture."""
    import shutil

    own = tmp_path / "model"
    shutil.copytree(model_folder, own)
    save_model(Disk(), own / "upscaler", Model(None, upscaler=Upscaler(UpscalerConfig(4, 8, 2))), b"")
    chain = open_chain(own, CPU)
    side = max(open_model(own, CPU).native)  # type: ignore[attr-defined]
    (painted,) = chain.paint(PaintRequest(model=str(own), size=(4 * side, 4 * side), seed=1, steps=2))
    assert painted.settings.then == [str(own / "upscaler")] and painted.picture.size == (4 * side, 4 * side)
    (again,) = chain.paint(painted.settings)
    assert again.picture.tobytes() == painted.picture.tobytes()
