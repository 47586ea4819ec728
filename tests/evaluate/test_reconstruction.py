from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bowerbird.evaluate.features import Pixels
from bowerbird.evaluate.reconstruction import compare_pairs


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
