"""Our pictures are diffusers' pictures, pixel for pixel, at equal seed, steps and scheduler.

The other side is diffusers alone: it opens the published folder by itself and is called as its documentation says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bowerbird.pretrained import PretrainedPainter, open_pretrained
from bowerbird.pretrained.samplers import SAMPLERS
from bowerbird.repaint import open_mask, open_picture
from bowerbird.request import Lora, PaintRequest
from tests.pretrained import checkpoints

WORDS = {"prompt": "a photo of a cat", "negative": "blurry, dark"}
SEED = 11
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain(tiny: Any) -> Any:
    """plain("sd15", "StableDiffusionPipeline", sampler) -> the pipeline as diffusers opens it."""

    def opened(name: str, cls: str, sampler: str) -> Any:
        safety = {} if name.startswith("sdxl") or name == "x4" else {"safety_checker": None, "feature_extractor": None}
        pipeline = getattr(diffusers, cls).from_pretrained(tiny(name).folder, local_files_only=True, **safety)
        pipeline.set_progress_bar_config(disable=True)
        scheduler, settings = SAMPLERS[sampler]
        pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config, **settings)
        return pipeline

    return opened


def ours(painter: PretrainedPainter, **fields: Any) -> Image.Image:
    request = PaintRequest.model_validate({"model": "m", "seed": SEED, "steps": 4, "guidance": 5.0, **WORDS, **fields})
    (painted,) = painter.paint(request)
    return painted.picture


def theirs(pipeline: Any, **arguments: Any) -> Image.Image:
    generator = torch.Generator().manual_seed(SEED)
    common: dict[str, Any] = {
        "prompt": WORDS["prompt"],
        "negative_prompt": WORDS["negative"],
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
    }
    if "image" not in arguments:
        common |= {"width": 64, "height": 64}
    return pipeline(**{**common, **arguments}, generator=generator).images[0]  # type: ignore[no-any-return]


def assert_same(one: Image.Image, other: Image.Image, tolerance: int = 0) -> None:
    difference = np.abs(np.asarray(one, int) - np.asarray(other, int))
    assert difference.max() <= tolerance and np.asarray(one).std() > 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_text_to_image_with_every_sampler(tiny: Any, plain: Any, sampler: str):
    expected = theirs(plain("sd15", "StableDiffusionPipeline", sampler))
    assert_same(ours(tiny("sd15").folder_painter, sampler=sampler), expected)


@pytest.mark.parametrize(("name", "cls"), [("sd21", "StableDiffusionPipeline"), ("sdxl", "StableDiffusionXLPipeline")])
@pytest.mark.parametrize("sampler", ["euler", "dpm++2m"])
def test_text_to_image_with_every_generation(tiny: Any, plain: Any, name: str, cls: str, sampler: str):
    """From the folder bit for bit.  A single file places the weights at other addresses, and MKL's vector code rounds by address."""
    expected = theirs(plain(name, cls, sampler))
    assert_same(ours(tiny(name).folder_painter, sampler=sampler), expected)
    assert_same(ours(tiny(name).painter, sampler=sampler), expected, tolerance=1)


@pytest.mark.parametrize(("name", "cls"), [("sd15", "StableDiffusionPipeline"), ("sdxl", "StableDiffusionXLPipeline")])
def test_nothing_to_avoid(tiny: Any, plain: Any, name: str, cls: str):
    """Without a negative prompt XL's guidance goes away from zeros, Stable Diffusion's from the empty text: diffusers' defaults."""
    expected = theirs(plain(name, cls, "euler"), negative_prompt=None)
    assert_same(ours(tiny(name).folder_painter, sampler="euler", negative=""), expected)


@pytest.mark.parametrize(("name", "cls"), [("sd15", "StableDiffusionImg2ImgPipeline"), ("sdxl", "StableDiffusionXLImg2ImgPipeline")])
def test_image_to_image(tiny: Any, plain: Any, pictures: dict[str, Path], name: str, cls: str):
    expected = theirs(plain(name, cls, "euler"), image=open_picture(pictures["small"]), strength=0.5)
    assert_same(ours(tiny(name).folder_painter, sampler="euler", image=pictures["small"], strength=0.5), expected)


INPAINT = [
    ("sd15", "StableDiffusionInpaintPipeline"),
    ("sd15-inpaint", "StableDiffusionInpaintPipeline"),
    ("sdxl", "StableDiffusionXLInpaintPipeline"),
    ("sdxl-inpaint", "StableDiffusionXLInpaintPipeline"),
]


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize(("name", "cls"), INPAINT)
def test_inpainting(
    tiny: Any, plain: Any, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, cls: str, strength: float
):
    """With inpainting networks and with ordinary ones, before the repainted part is joined to the rest (that is ours alone)."""
    monkeypatch.setattr("bowerbird.repaint.join", lambda _original, painted, _mask: painted)
    image, mask = open_picture(pictures["small"]), open_mask(pictures["small-mask"])
    expected = theirs(plain(name, cls, "ddim"), image=image, mask_image=mask, strength=strength, width=64, height=64)
    fields = {"image": pictures["small"], "mask": pictures["small-mask"], "strength": strength}
    assert_same(ours(tiny(name).folder_painter, sampler="ddim", **fields), expected)


def test_upscaling(tiny: Any, plain: Any, pictures: dict[str, Path]):
    expected = theirs(plain("x4", "StableDiffusionUpscalePipeline", "ddim"), image=open_picture(pictures["small"]), noise_level=20)
    picture = ours(tiny("x4").folder_painter, sampler="ddim", image=pictures["small"])
    assert picture.size == (256, 256)
    assert_same(picture, expected)


@pytest.mark.parametrize("naming", ["peft", "diffusers", "kohya"])
def test_lora(tiny: Any, plain: Any, tmp_path: Path, naming: str):
    files, _ = checkpoints.lora_files(tmp_path, tiny("sd15").networks["unet"])
    pipeline = plain("sd15", "StableDiffusionPipeline", "euler")
    pipeline.load_lora_weights(str(tmp_path), weight_name=files[naming].name, adapter_name="a", local_files_only=True)
    pipeline.set_adapters(["a"], [0.7])
    picture = ours(tiny("sd15").folder_painter, sampler="euler", loras=[Lora(file=files[naming], weight=0.7)])
    assert_same(picture, theirs(pipeline))


def test_the_folder_and_the_single_file_are_one_model(tiny: Any):
    for name in ("sd15", "sd21-inpaint", "sdxl", "x4"):
        one, other = (open_pretrained(where, CPU).parts.networks for where in (tiny(name).file, tiny(name).folder))
        assert one.keys() == other.keys()
        for part in one:
            a, b = one[part].state_dict(), other[part].state_dict()
            assert a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a), part


def test_older_layouts_open_to_the_same_model(tiny: Any, tmp_path: Path):
    """Checkpoints in half precision, and text encoders from before `text_model.` (2022) or from after it (transformers 5.6)."""
    model = tiny("sd15")
    save_file(checkpoints.single_file(model.networks, "sd15", half=True, text_model=False), tmp_path / "old.safetensors")
    old = open_pretrained(tmp_path / "old.safetensors", CPU).parts.networks
    for part, network in open_pretrained(model.file, CPU).parts.networks.items():
        for key, tensor in network.state_dict().items():
            assert old[part].state_dict()[key].equal(tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor), key
