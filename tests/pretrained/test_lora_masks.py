"""Masks beside pictures: what is learnt lies in the white, and nothing else counts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird.data.pictures import open_pictures
from bowerbird.diffusion.loss import denoising_loss
from bowerbird.errors import PictureFolderError, RunError, Stopped
from bowerbird.training import train
from bowerbird.training.objectives import choose_objective
from bowerbird.training.objectives.adapting import Adapting, PairedBatch
from tests.pretrained.test_lora_training import plan
from tests.training.runs import CPU, assert_same_run, run_here


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def painted(path: Path, size: tuple[int, int], edge: int, colour: tuple[int, int, int] = (255, 255, 255)) -> None:
    """Left of `edge` the colour, right of it black."""
    picture = Image.new("RGB", size)
    picture.paste(colour, (0, 0, edge, size[1]))
    picture.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures, two of them with masks: white in the left half of the wide one, in the left quarter of the square one."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for number, size in enumerate([(384, 128), (128, 128)] * 2):
        Image.new("RGB", size, (40 * number, 200, 90)).save(folder / f"{number}.jpg")
    painted(folder / "0.mask.png", (384, 128), 192)
    painted(folder / "1.mask.png", (128, 128), 32)
    return folder


def objective_of(base: Path, folder: Path, *settings: str) -> Adapting:
    recipe = plan(base, "data.size=128", "lora.trigger=sks", *settings)
    objective = choose_objective(recipe, open_pictures(folder, 128, recipe.data.fit), CPU, "fp32")
    assert isinstance(objective, Adapting)
    return objective


def test_only_what_the_mask_shows_counts_and_each_place_by_its_grey() -> None:
    """The mean square error over the white; grey counts in part; white all over is no mask."""
    draw = torch.Generator().manual_seed(0)
    x0, guess, weight = (torch.randn(shape, generator=draw) for shape in ((2, 3, 4, 4), (2, 3, 4, 4), (2,)))
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :2] = 1
    torch.testing.assert_close(denoising_loss(guess, x0, weight, mask), denoising_loss(guess[:, :, :2], x0[:, :, :2], weight))
    torch.testing.assert_close(denoising_loss(guess, x0, weight, torch.ones(2, 1, 4, 4)), denoising_loss(guess, x0, weight))
    mask[:, :, 2:] = 0.5
    halves = [denoising_loss(guess[:, :, rows], x0[:, :, rows], weight) for rows in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(denoising_loss(guess, x0, weight, mask), (halves[0] + 0.5 * halves[1]) / 1.5)
    guess.requires_grad_()
    mask[:, :, 2:] = 0
    denoising_loss(guess, x0, weight, mask).sum().backward()
    assert guess.grad is not None and not guess.grad[:, :, 2:].any() and guess.grad[:, :, :2].all()


def test_a_mask_is_no_picture_and_is_cut_and_mirrored_as_its_own(tiny: Any, folder: Path) -> None:
    pictures = open_pictures(folder, 128, "shape")
    assert pictures.names == ("0.jpg", "1.jpg", "2.jpg", "3.jpg")
    assert pictures.masks == {"0.jpg": "0.mask.png", "1.jpg": "1.mask.png"} and pictures.report["masks"] == 2
    objective, wanted = objective_of(tiny("sd15").folder, folder, "data.flip=true"), {}
    wanted[0], wanted[1] = torch.zeros(8, 24), torch.zeros(16, 16)  # 192x64 and 128x128 pixels
    wanted[0][:, :12], wanted[1][:, :4] = 1, 1
    wanted[2], wanted[3] = torch.ones(8, 24), torch.ones(16, 16)
    seen = set()
    for start in range(0, 64, 4):
        batch = objective.draw(start, start + 4)
        mirrored = objective.latents.mirrored(batch.pictures, np.arange(start, start + 4))
        assert batch.mask is not None and batch.mask.shape[2:] == batch.x0.shape[2:]
        for picture, mirror, mask in zip(batch.pictures.tolist(), mirrored.tolist(), batch.mask, strict=True):
            shown = wanted[picture].flip(-1) if mirror else wanted[picture]
            torch.testing.assert_close(mask[0], shown, atol=0.02, rtol=0)  # shrinking rings at the edge
            seen.add((picture, mirror))
    assert len(seen) == 8
    held = objective.held_out_losses(objective.new_model(), np.arange(4), 0)
    assert torch.isfinite(held).all()


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_squares_have_masks_as_well(tiny: Any, folder: Path, fit: str) -> None:
    objective = objective_of(tiny("sd15").folder, folder, f"data.fit={fit}")
    assert objective.masks is not None
    left = objective.masks.plain(np.array([0]))[0, 0, 8]
    torch.testing.assert_close(left[[*range(7), *range(9, 16)]], torch.tensor([1.0] * 7 + [0.0] * 7), atol=0.02, rtol=0)


def test_stopped_and_resumed_equals_unbroken_while_the_masks_are_the_same(tiny: Any, folder: Path, tmp_path: Path) -> None:
    recipe = plan(tiny("sd15").folder, "data.size=128", "lora.trigger=sks", "train.micro_batch=2")
    whole = run_here(folder, tmp_path / "whole", recipe)
    with pytest.raises(Stopped):
        run_here(folder, tmp_path / "run", recipe, on_progress=lambda event: not (event.stage == "train" and event.done >= 16))
    assert_same_run(whole, run_here(folder, tmp_path / "run", recipe))
    painted(folder / "1.mask.png", (128, 128), 64)
    with pytest.raises(RunError, match="have changed since it was started"):
        train(folder, tmp_path / "run", recipe, device=CPU)


def test_the_pictures_of_a_prior_have_masks_of_their_own(tiny: Any, folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    painted(own / "a.png", (128, 128), 64, (200, 0, 0))
    objective = objective_of(tiny("sd15").folder, own, f"lora.prior={folder}", "lora.prior_caption=a disc")
    batch = objective.draw(0, 4)
    assert isinstance(batch, PairedBatch) and batch.mask is None and batch.prior.mask is not None


@pytest.mark.parametrize(
    ("size", "edge", "words"),
    [((64, 64), 32, r"'1.mask.png' is 64x64 px and its picture 128x128"), ((128, 128), 0, r"mask of '1.jpg' is black all over")],
)
def test_a_mask_that_cannot_be_is_one_sentence(tiny: Any, folder: Path, size: tuple[int, int], edge: int, words: str) -> None:
    painted(folder / "1.mask.png", size, edge)
    with pytest.raises(PictureFolderError, match=words):
        objective_of(tiny("sd15").folder, folder)


def test_a_damaged_mask_is_named(tiny: Any, folder: Path) -> None:
    (folder / "1.mask.png").write_bytes((folder / "1.mask.png").read_bytes()[:60])
    with pytest.raises(PictureFolderError, match=r"the mask '1.mask.png' cannot be used: the file ends"):
        objective_of(tiny("sd15").folder, folder)


def test_a_mask_without_a_picture_is_a_picture(folder: Path) -> None:
    shutil.move(folder / "1.jpg", folder / "elsewhere.jpg")
    pictures = open_pictures(folder, 128)
    assert "1.mask.png" in pictures.names and pictures.masks == {"0.jpg": "0.mask.png"}
