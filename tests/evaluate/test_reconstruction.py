from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bowerbird.data import open_pictures
from bowerbird.evaluate import evaluate
from bowerbird.evaluate.metrics import compare
from bowerbird.evaluate.reconstruction import Reconstructor, compare_pairs, open_reconstructor
from bowerbird.locate import find
from bowerbird.models.autoencoder import Autoencoder, Rgb
from bowerbird.pixels import Pixels
from tests.conftest import tiny_recipe
from tests.training.runs import run_here


def test_psnr_has_its_closed_form(animals: Pixels) -> None:
    """Every value off by d: the error is d^2, so PSNR is 20 log10(255 / d)."""
    dark = animals[:4] // 2
    assert compare_pairs(dark + 8, dark).psnr == pytest.approx(20 * np.log10(255 / 8), abs=0.01)


def test_a_perfect_restoration(animals: Pixels) -> None:
    found = compare_pairs(animals[:4], animals[:4], input_px=16)
    assert (found.psnr, found.ssim, found.consistency) == pytest.approx((60, 1, 60), rel=1e-5)


def test_an_upscaler_may_invent_detail_but_not_change_its_input(animals: Pixels, draw: np.random.Generator) -> None:
    """Noise without its low frequencies costs PSNR and hardly any consistency; a change of colour costs both alike."""
    originals = animals[:8] // 2 + 64
    fine = draw.normal(0, 12, originals.shape)
    for picture in fine:
        small = [Image.fromarray(picture[..., c].astype(np.float32)).resize((16, 16), Image.Resampling.BOX) for c in range(3)]
        picture -= np.stack([np.asarray(c.resize((64, 64), Image.Resampling.NEAREST)) for c in small], -1)
    invented = compare_pairs((originals + fine).round().clip(0, 255).astype(np.uint8), originals, input_px=16)
    recoloured = compare_pairs(originals + 12, originals, input_px=16)
    assert invented.consistency is not None and recoloured.consistency is not None
    assert invented.psnr == pytest.approx(recoloured.psnr, abs=1)
    assert invented.consistency > invented.psnr + 8
    assert recoloured.consistency == pytest.approx(recoloured.psnr, abs=0.1)


def test_structure_falls_with_blur_and_pairs_count_alone(animals: Pixels) -> None:
    shifted = np.roll(animals[:8], 3, axis=1)
    assert compare_pairs(shifted, animals[:8]).ssim < 0.9
    one, other = (compare_pairs(animals[i : i + 1], shifted[i : i + 1]) for i in (0, 1))
    both = compare_pairs(animals[:2], shifted[:2])
    assert both.psnr == pytest.approx((one.psnr + other.psnr) / 2)
    assert both.ssim == pytest.approx((one.ssim + other.ssim) / 2)


class Half(Autoencoder):
    """Latents are the picture at half its resolution."""

    factor, channels = 2, 3

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        mean = F.avg_pool2d(pictures, 2)
        return mean, torch.ones_like(mean)

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate(latents, scale_factor=2, mode="bilinear")


def test_an_autoencoder_that_loses_nothing_is_at_the_floor(animals: Pixels, tmp_path: Path) -> None:
    """The identity's pictures are the real ones: every score is exactly what real pictures score, pair by pair."""
    report = evaluate(Reconstructor("rgb", Rgb(), 64, {}, torch.device("cpu")), animals[:40], train=animals[40:], out=tmp_path)
    assert np.array_equal(report.pixels, animals[:40])
    assert all(line.score.value == line.score.floor for line in report.lines)
    assert report.reconstructed is not None
    assert report.reconstructed.psnr == pytest.approx(60) and report.reconstructed.ssim == pytest.approx(1, abs=1e-4)
    assert report.copies is None  # restoring is meant to copy
    assert "restored" in report.to_text() and "originals beside" in (tmp_path / "report.html").read_text()


def test_what_an_autoencoder_loses_is_scored(animals: Pixels) -> None:
    """Half the resolution keeps what is coarse and loses what is fine."""
    report = evaluate(Reconstructor("half", Half(), 64, {}, torch.device("cpu")), animals[:40])
    assert report.reconstructed is not None and 20 < report.reconstructed.psnr < 40
    assert report.score("kid").value > report.score("kid").floor
    fine, coarse = report.score("swd_64"), report.score("swd_16")
    assert fine.value / fine.floor > 1.05 > coarse.value / coarse.floor
    assert report.to_json()["restored"]["psnr_db"] == report.reconstructed.psnr


def test_no_picture_is_compared_with_its_own_original(draw: np.random.Generator) -> None:
    """Of sets that are pairs, no row meets its partner, and the floor is taken from the same rows."""
    rows = np.arange(40.0)[:, None]
    met = []
    compare(lambda a, b: float(met.append((a, b)) or 0), rows, rows, paired=True)  # type: ignore[func-returns-value]
    assert all(not set(a.flatten()) & set(b.flatten()) for a, b in met)
    assert all(np.array_equal(score[0], floor[0]) for score, floor in zip(met[::2], met[1::2], strict=True))


def test_an_autoencoder_is_opened_with_the_size_it_was_trained_at(picture_folder: Path, tmp_path: Path) -> None:
    own: dict[str, object] = {"size": "micro", "channels": 4, "perceptual": 0.0}
    run = run_here(picture_folder, tmp_path / "run", tiny_recipe(model={"network": "autoencoder"}, autoencoder=own))
    assert find(picture_folder) is None and find("no/such/folder") is None
    place = find(run)
    assert place is not None and not place.paints
    restorer = open_reconstructor(place, torch.device("cpu"))
    assert restorer.size_px == 16
    real = open_pictures(picture_folder, 16).pixels
    restored = restorer.reconstruct(real)
    assert restored.shape == real.shape
    assert np.array_equal(restored[:5], restorer.reconstruct(real[:5]))
