from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bowerbird.conditions.label import Label
from bowerbird.errors import ModelError
from bowerbird.generate import open_model
from bowerbird.model_folder import MANIFEST, Model, SamplingDefaults, open_model_folder, save_model
from bowerbird.painter import OwnPainter
from bowerbird.recipe import Recipe
from bowerbird.request import PaintRequest
from bowerbird.storage import Disk, read_sealed, seal
from bowerbird.training.build import build_denoiser
from tests.conftest import tiny_recipe

DDPM: dict[str, dict[str, object]] = {
    "model": {"network": "unet"},
    "unet": {"size": "micro"},
    "diffusion": {"prediction": "eps", "weighting": "eps", "noise_levels": "uniform-t"},
}


def stirred(recipe: Recipe, labels: tuple[str, ...] = ()) -> Model:
    torch.manual_seed(0)
    conditions = {"label": Label(labels)} if labels else {}
    denoiser = build_denoiser(recipe, (3, 16, 16), conditions)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    sampling = SamplingDefaults(sampler="dpm++2m", steps=4, guidance=2.0 if labels else 1.0)
    return Model(denoiser.eval(), conditions=conditions, sampling=sampling)


def saved(folder: Path, recipe: Recipe, labels: tuple[str, ...] = ()) -> Model:
    model = stirred(recipe, labels)
    save_model(Disk(), folder, model, b"not looked at")
    return model


@pytest.mark.parametrize("recipe", [tiny_recipe(), tiny_recipe(**DDPM)], ids=["transformer", "unet"])
def test_a_saved_model_answers_as_before(tmp_path: Path, recipe: Recipe) -> None:
    model = saved(tmp_path / "m", recipe)
    opened = open_model_folder(tmp_path / "m")
    assert model.denoiser is not None and opened.denoiser is not None
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 5.0])
    assert torch.equal(model.denoiser(x, sigma), opened.denoiser(x, sigma))


def test_a_ddpm_opens_in_diffusers_and_paints_the_same(tmp_path: Path) -> None:
    """The folder is the export: DDPMPipeline's own ancestral walk and ours, same noise, same picture."""
    from diffusers import DDPMPipeline

    model = saved(tmp_path / "m", tiny_recipe(**DDPM))
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "m", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(generator=torch.Generator().manual_seed(5), num_inference_steps=50, output_type="np").images[0]
    painter = OwnPainter("m", model)
    (ours,) = painter.paint(PaintRequest(model="m", sampler="ddpm", steps=50, seed=5))
    difference = abs(torch.tensor(theirs) * 255 - torch.tensor(np.asarray(ours.picture, dtype=np.float32)))
    assert difference.max() < 1  # theirs is not rounded to whole steps of 1/255, ours is


def test_only_what_a_diffusers_pipeline_can_paint_has_a_model_index(tmp_path: Path) -> None:
    saved(tmp_path / "unet", tiny_recipe(**DDPM))
    saved(tmp_path / "ours", tiny_recipe())
    saved(tmp_path / "labels", tiny_recipe(**DDPM), labels=("cat", "dog"))
    assert (tmp_path / "unet/model_index.json").exists()
    assert not (tmp_path / "ours/model_index.json").exists()
    assert not (tmp_path / "labels/model_index.json").exists()


def test_damage_is_one_sentence(tmp_path: Path) -> None:
    saved(tmp_path / "m", tiny_recipe())
    weights = tmp_path / "m/transformer/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors.*damaged"):
        open_model(tmp_path / "m", torch.device("cpu"))
    weights.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        open_model(tmp_path / "m", torch.device("cpu"))


def test_a_folder_from_a_newer_bowerbird_asks_for_an_upgrade(tmp_path: Path) -> None:
    saved(tmp_path / "m", tiny_recipe())
    document = read_sealed(tmp_path / "m" / MANIFEST)
    (tmp_path / "m" / MANIFEST).write_bytes(seal(document | {"format_version": 99}))
    with pytest.raises(ModelError, match="pip install -U"):
        open_model_folder(tmp_path / "m")


def test_a_manifest_of_another_shape_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "m", tiny_recipe())
    document = read_sealed(tmp_path / "m" / MANIFEST)
    document["denoiser"]["prediction"] = "__import__('os')"
    (tmp_path / "m" / MANIFEST).write_bytes(seal(document))
    with pytest.raises(ModelError, match="prediction"):
        open_model_folder(tmp_path / "m")


@pytest.mark.parametrize("where", ["folder", "root"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_other_peoples_ddpms_open(tmp_path: Path, where: str, prediction: str) -> None:
    """Parts in sub-folders or at the root; painted like any other model, in a few steps."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    scheduler = DDPMScheduler(prediction_type=prediction, variance_type="fixed_small")
    if where == "folder":
        DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    else:
        unet.save_pretrained(tmp_path)
        scheduler.save_pretrained(tmp_path)
    painter = open_model(tmp_path, torch.device("cpu"))
    (ours,) = painter.paint(PaintRequest(model=str(tmp_path), sampler="ddpm", steps=20, seed=3))
    pipeline = DDPMPipeline(unet.eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(generator=torch.Generator().manual_seed(3), num_inference_steps=20, output_type="np").images[0]
    difference = abs(torch.tensor(theirs) * 255 - torch.tensor(np.asarray(ours.picture, dtype=np.float32)))
    assert difference.max() < 2


def test_a_ddpm_kept_as_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    from bowerbird.errors import UnsafeFileError

    UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    ).save_config(tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(UnsafeFileError, match="bowerbird convert"):
        open_model(tmp_path, torch.device("cpu"))


def test_a_scheduler_we_do_not_read_is_named(tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    ).save_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": "os.system", "beta_schedule": "linear"}))
    with pytest.raises(ModelError, match=r"os\.system"):
        open_model(tmp_path, torch.device("cpu"))


def test_no_model_here(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model at"):
        open_model(tmp_path / "nothing", torch.device("cpu"))
    with pytest.raises(ModelError, match="neither a run"):
        open_model(tmp_path, torch.device("cpu"))
