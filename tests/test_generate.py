from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bowerbird.chain import BatchChain
from bowerbird.conditions import Condition
from bowerbird.conditions.image_embedding import ImageEmbedding
from bowerbird.conditions.label import Label
from bowerbird.conditions.text import Text
from bowerbird.diffusion.guidance import keep
from bowerbird.diffusion.samplers import SAMPLERS
from bowerbird.diffusion.schedule import angle_grid, karras_grid
from bowerbird.errors import RequestError
from bowerbird.generate import open_chain, open_model
from bowerbird.locate import Opening
from bowerbird.model_folder import Model, SamplingDefaults
from bowerbird.painter import OwnPainter, PictureNoise, Source
from bowerbird.picture_files import save_picture
from bowerbird.picture_metadata import read_metadata
from bowerbird.progress import Cancelled, Progress
from bowerbird.request import PaintRequest
from bowerbird.training.build import build_denoiser
from tests.conftest import tiny_recipe
from tests.test_model_folder import stirred

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def painter() -> OwnPainter:
    return OwnPainter("m", stirred(tiny_recipe(), ("cat", "dog")))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def ask(**fields: object) -> PaintRequest:
    return PaintRequest(model="m", **fields)


def test_a_picture_is_the_same_alone_and_in_a_batch(painter: OwnPainter) -> None:
    """Its noise is bit-equal by construction; sums over a larger batch may differ in rounding."""
    together = list(painter.paint(ask(count=5, seed=10)))
    (alone,) = painter.paint(ask(seed=13))
    assert together[3].seed == 13
    assert abs(pixels(together[3].picture) - pixels(alone.picture)).mean() <= 1


def test_requests_painted_together_are_what_each_asked_for(painter: OwnPainter) -> None:
    """Other words, labels and seeds in one walk: every picture is its own, in its request's order, as if painted alone."""
    asked = [ask(seed=1, label="cat"), ask(seed=7), ask(seed=3, label="dog", count=3), ask(seed=1, label="dog"), ask(seed=5, steps=2)]
    together = dict(painter.paint_together(asked))
    assert list(together) == [0, 1, 2, 3, 4]
    for number, request in enumerate(asked):
        alone = list(painter.paint(request))
        assert [one.seed for one in together[number]] == [one.seed for one in alone]
        for one, other in zip(together[number], alone, strict=True):
            assert one.settings == other.settings
            assert abs(pixels(one.picture) - pixels(other.picture)).mean() <= 1


def counted_calls(painter: OwnPainter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each call of the network."""
    calls, forward = list[int](), painter.denoiser.network.forward

    def counted(*inputs: object) -> object:
        calls.append(1)
        return forward(*inputs)

    monkeypatch.setattr(painter.denoiser.network, "forward", counted)
    return calls


def test_together_is_one_walk(painter: OwnPainter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten requests cost the network calls of three: that is what a batch is for."""
    calls = counted_calls(painter, monkeypatch)
    requests = [ask(label=("cat", "dog")[seed % 2], seed=seed) for seed in range(10)]
    list(painter.paint_together(requests[:3]))
    three = len(calls)
    list(painter.paint_together(requests))
    assert len(calls) == 2 * three


CONDITIONED = {
    "label": {"label": "dog"},
    "prompt": {"prompt": "a red bird"},
    "negative": {"negative": "blue"},
    "a long negative": {"prompt": "a cat", "negative": "blue and very dark, with a house and a tree behind it", "label": "cat"},
    "what a picture shows": {},
}


@pytest.mark.parametrize("asked", CONDITIONED.values(), ids=CONDITIONED)
@torch.inference_mode()
def test_few_pictures_are_guided_in_one_call(asked: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the condition as rows of one batch: within rounding what two calls say, for every condition there is."""
    torch.manual_seed(0)
    shown = ImageEmbedding(torch.randn(5, 64), torch.full((5,), -1))
    conditions: dict[str, Condition] = {"label": Label(("cat", "dog")), "text": Text(torch.ones(30_522)), "image_embedding": shown}
    denoiser = build_denoiser(tiny_recipe(), (3, 16, 16), conditions).eval()
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    painter = OwnPainter("m", Model(denoiser, conditions=conditions, sampling=SamplingDefaults(sampler="euler", steps=3, guidance=3)))
    calls = counted_calls(painter, monkeypatch)
    request = painter.resolve(ask(seed=1, **asked))
    source, wanted_and_unwanted = painter.source(request), painter.conditions(request, [1, 2])

    def walked() -> Tensor:
        return painter._walk(request, source, [1, 2], *wanted_and_unwanted, lambda *_: None)

    together = walked()
    assert len(calls) == 3
    monkeypatch.setattr("bowerbird.painter.GUIDED_AT_ONCE", 0)
    apart = walked()
    assert len(calls) == 3 + 6
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4 * float(apart.abs().max()))


def test_a_model_that_is_opened_with_what_follows_it_walks_together_too(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the server, `--prompts` and `evaluate` open it: one walk, and each picture as large as its request asked."""
    chain = open_chain(model_folder, CPU)
    assert isinstance(chain, BatchChain) and isinstance(chain.first, OwnPainter)
    calls = counted_calls(chain.first, monkeypatch)
    list(chain.paint(ask(label="cat", count=3)))
    one = len(calls)
    asked = [ask(label="cat", seed=1), ask(label="dog", seed=2, size=(64, 64)), ask(seed=3, label="cat", size=(64, 64))]
    together = dict(chain.paint_together(asked))
    assert len(calls) == 2 * one
    for number, request in enumerate(asked):
        (picture,), (alone,) = together[number], chain.paint(request)
        assert picture.settings == alone.settings and picture.picture.size == alone.picture.size
        assert abs(pixels(picture.picture) - pixels(alone.picture)).mean() <= 1


def test_bf16_paints_the_same_picture(model_folder: Path) -> None:
    """To within rounding, and only where it is asked for: by default a picture is the same from processor to processor."""
    plain, rounded = (open_model(model_folder, CPU, Opening(dtype=dtype)) for dtype in (None, torch.bfloat16))
    (one,), (other,) = (painter.paint(ask(seed=4, label="cat")) for painter in (plain, rounded))
    difference = abs(pixels(one.picture) - pixels(other.picture))
    assert 0 < difference.mean() <= 2


def test_exact_promises_the_bytes(painter: OwnPainter, tmp_path: Path) -> None:
    (alone,) = painter.paint(ask(seed=12, exact=True))
    third = list(painter.paint(ask(count=3, seed=10, exact=True)))[2]
    assert alone.picture.tobytes() == third.picture.tobytes()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "euler", "heun", "dpm++2m"])
def test_every_sampler_paints_and_repeats(painter: OwnPainter, sampler: str) -> None:
    (one,), (two,) = (painter.paint(ask(seed=1, sampler=sampler)) for _ in range(2))
    assert one.picture.tobytes() == two.picture.tobytes()
    assert one.settings.sampler == sampler


def test_guidance_towards_nothing_changes_nothing_and_costs_nothing(painter: OwnPainter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted_calls(painter, monkeypatch)
    (plain,) = painter.paint(ask(seed=1, guidance=1))
    (guided,) = painter.paint(ask(seed=1, guidance=7))
    assert plain.picture.tobytes() == guided.picture.tobytes()
    assert len(calls) == 2 * 4


def test_noise_belongs_to_the_seed() -> None:
    both, one = PictureNoise([4, 5]), PictureNoise([5])
    like = torch.empty(2, 3, 4, 4)
    for _ in range(3):  # also the noise on the way
        assert torch.equal(both(like)[1], one(like[:1])[0])


def test_labels_and_guidance_steer(painter: OwnPainter) -> None:
    def paint(**fields: object) -> np.ndarray:
        (painted,) = painter.paint(ask(seed=1, **fields))
        return pixels(painted.picture)

    cat, dog, none = paint(label="cat"), paint(label="dog"), paint()
    assert (cat != dog).any() and (cat != none).any()
    assert (paint(label="cat", guidance=0.0) == none).all()


def test_the_resolved_request_repeats_the_picture(painter: OwnPainter, tmp_path: Path) -> None:
    """info gives back what was painted, painting that gives the same picture."""
    (painted,) = painter.paint(ask(label="dog"))  # the seed is drawn
    save_picture(painted, tmp_path / "a.png")
    (again,) = painter.paint(PaintRequest(**read_metadata(tmp_path / "a.png").fields))
    assert again.picture.tobytes() == painted.picture.tobytes()


@pytest.mark.parametrize("size", [(16, 16), (32, 16), (20, 50), (8, 8)])
def test_any_size_is_honoured(painter: OwnPainter, size: tuple[int, int]) -> None:
    (painted,) = painter.paint(ask(seed=1, size=size))
    assert painted.picture.size == size


def test_another_shape_is_cut_from_the_middle_and_never_stretched(painter: OwnPainter) -> None:
    """At equal width the scale is equal, so the wide picture is the middle of the square one, pixel for pixel."""
    (square,), (wide,) = (painter.paint(ask(seed=1, size=size)) for size in ((32, 32), (32, 16)))
    assert square.picture.crop((0, 8, 32, 24)).tobytes() == wide.picture.tobytes()


def test_progress_previews_and_cancelling(painter: OwnPainter) -> None:
    events: list[Progress] = []

    def listen(event: Progress) -> bool:
        events.append(event)
        return len(events) < 3

    with pytest.raises(Cancelled):
        list(painter.paint(ask(seed=1, steps=10), listen))
    assert [e.done for e in events] == [1, 2, 3] and events[0].total == 10
    preview = events[0].preview
    assert preview is not None and preview().size == (16, 16)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"label": "cot"}, "Did you mean 'cat'"),
        ({"sampler": "eulr"}, "Did you mean 'euler'"),
        ({"prompt": "a bird"}, "reads no prompt"),
        ({"then": ["x"]}, "cannot use 'then'"),
        ({"speed": "fats"}, "Did you mean 'fast'"),
    ],
)
def test_what_the_model_cannot_do_is_said(painter: OwnPainter, fields: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        list(painter.paint(ask(**fields)))


def test_a_model_from_python(tmp_path: Path) -> None:
    import bowerbird
    from tests.test_model_folder import saved

    saved(tmp_path / "m", tiny_recipe())
    (painted,) = bowerbird.load(tmp_path / "m", device="cpu").paint(ask(seed=0))
    assert painted.picture.size == (16, 16)
    assert open_model(tmp_path / "m", torch.device("cpu")).describe()["kind"] == "pixel"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """48x40, a smooth gradient with a dark disc in it."""
    y, x = np.mgrid[:40, :48]
    pixels = np.stack([5 * x, 6 * y, 255 - 5 * x], -1).clip(0, 255)
    pixels[(y - 20) ** 2 + (x - 30) ** 2 < 60] = 20
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_painting_begins_at_the_picture_in_as_much_noise_as_the_strength_says(
    painter: OwnPainter, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x = x0 + sigma eps at the noise level where the walk begins; at strength 1 the picture is forgotten."""
    begun: list[tuple[torch.Tensor, float]] = []

    def spy(denoise: object, x: torch.Tensor, sigmas: torch.Tensor, *_: object) -> torch.Tensor:
        begun.append((x, float(sigmas[0])))
        return x

    monkeypatch.setitem(SAMPLERS, "euler", spy)
    for strength in (0.05, 0.5, 1.0, None):
        list(painter.paint(ask(seed=3, steps=20, sampler="euler", image=photo if strength else None, strength=strength)))
    x0 = painter.latents(ImageOps.fit(Image.open(photo), (16, 16), Image.Resampling.LANCZOS))
    eps = PictureNoise([3])(x0)
    for x, sigma in begun[:2]:
        torch.testing.assert_close(x, x0 + sigma * eps)
    assert begun[0][1] < begun[1][1] < begun[2][1]
    assert torch.equal(begun[2][0], begun[3][0])


def test_the_walk_from_a_picture_is_the_end_of_the_grid() -> None:
    """Half of the strength is half of the steps, always the last ones; however little, one step is walked."""
    grid = torch.tensor([80.0, 20.0, 5.0, 1.0, 0.1, 0.0])
    assert torch.equal(Source(grid, 1.0).later(grid), grid)
    assert torch.equal(Source(grid, 0.4).later(grid), grid[3:])
    assert torch.equal(Source(grid, 0.0).later(grid), grid[4:])


def test_what_is_not_masked_keeps_its_pixels(painter: OwnPainter, photo: Path) -> None:
    mask = np.zeros((40, 48), np.uint8)
    mask[10:30, 20:40] = 255
    Image.fromarray(mask).save(photo.with_name("mask.png"))
    (painted,) = painter.paint(ask(seed=1, image=photo, mask=photo.with_name("mask.png")))
    before, after = pixels(Image.open(photo)), pixels(painted.picture)
    assert after.shape == before.shape
    assert (after[mask == 0] == before[mask == 0]).all()
    assert np.abs(after - before)[mask > 0].mean() > 5


def test_a_picture_is_continued_on_the_sides_that_are_asked_for(painter: OwnPainter, photo: Path) -> None:
    (painted,) = painter.paint(ask(seed=1, image=photo, outpaint={"left": 8, "bottom": 16}))
    assert painted.picture.size == (56, 56)
    assert (pixels(painted.picture)[:40, 8:] == pixels(Image.open(photo))).all()


def test_euler_steps_on_angles_and_others_on_karras_grid(painter: OwnPainter) -> None:
    """Those of second order paint what they painted; a DDPM's schedule has other tools' grids (test_ddpm_folder)."""
    spec = painter.denoiser.spec
    angles, karras = angle_grid(6, spec.sigma_min, spec.sigma_max, 2 * spec.sigma_data), karras_grid(6, spec.sigma_min, spec.sigma_max)
    for name, grid in (("euler", angles), ("ddim", angles), ("heun", karras), ("dpm++2m", karras), ("ddpm", karras)):
        assert torch.equal(painter.sigmas(ask(steps=6, sampler=name)), grid)


def test_a_known_part_is_reached_exactly() -> None:
    """Whatever the denoiser says elsewhere, a deterministic sampler ends on what is known."""
    known, anew = torch.randn(1, 3, 4, 4, dtype=torch.float64), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    anew[..., :2] = True
    denoise = keep(lambda x, sigma: 0.3 * x, known, anew)
    for name in ("euler", "heun", "dpm++2m"):
        x = SAMPLERS[name](
            denoise, 9 * torch.randn(2, 3, 4, 4, dtype=torch.float64), karras_grid(9, 0.01, 80.0), torch.randn_like, lambda *_: None
        )
        torch.testing.assert_close(x[..., 2:], known.expand(2, -1, -1, -1)[..., 2:])
