"""Other people's DDPMs paint what diffusers paints from the same folder, or are refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from bowerbird.errors import ModelError, RequestError
from bowerbird.generate import open_model
from bowerbird.request import PaintRequest

CPU = torch.device("cpu")
SEED, STEPS = 3, 10
Array = np.ndarray[Any, Any]


def unet(seed: int = 1, **settings: Any) -> Any:
    torch.manual_seed(seed)
    usual: dict[str, Any] = {
        "sample_size": 16, "in_channels": 3, "out_channels": 3, "block_out_channels": (32, 32), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 8,
    }  # fmt: skip
    return diffusers.UNet2DModel(**{**usual, **settings}).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """folder(scheduler, **settings of the U-Net) -> a DDPM as diffusers saves it."""

    def write(scheduler: Any, **settings: Any) -> Path:
        unet(**settings).save_pretrained(tmp_path / "unet")
        scheduler.save_pretrained(tmp_path / "scheduler")
        return tmp_path

    return write


def ours(path: Path, sampler: str, **fields: Any) -> Array:
    request = PaintRequest.model_validate({"model": "m", "seed": SEED, "steps": STEPS, "sampler": sampler, **fields})
    (painted,) = open_model(path, CPU).paint(request)
    return np.asarray(painted.picture, np.float64)


def theirs(path: Path, pipeline: Any, **arguments: Any) -> Array:
    """The folder in diffusers' own pipeline, 0..255."""
    model = diffusers.UNet2DModel.from_pretrained(path / ("unet_ema" if (path / "unet_ema").exists() else "unet"))
    name = json.loads((path / "scheduler/scheduler_config.json").read_text())["_class_name"]
    painting = pipeline(unet=model, scheduler=getattr(diffusers, name).from_pretrained(path / "scheduler"))
    painting.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(SEED)
    picture = painting(generator=generator, num_inference_steps=STEPS, output_type="np", **arguments).images[0]
    return np.asarray(picture, np.float64) * 255


def assert_same(one: Array, other: Array) -> None:
    """One was rounded to whole values, hence a half; the rest is float32 beside float32."""
    assert one.shape == other.shape and one.std() > 5
    assert np.abs(one - other).max() < 1


DDPM: dict[str, dict[str, Any]] = {
    "as published": {},
    "another range": {"clip_sample_range": 3.0},
    "thresholding": {"thresholding": True, "clip_sample": False, "sample_max_value": 2.0},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "offset": {"steps_offset": 1},
    "fixed_large": {"variance_type": "fixed_large"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "4000 steps": {"num_train_timesteps": 4000},
    "sample": {"prediction_type": "sample"},
}


@pytest.mark.parametrize("what", DDPM)
def test_ddpm_steps_as_its_scheduler_says(folder: Any, what: str):
    path = folder(diffusers.DDPMScheduler(**DDPM[what]))
    assert_same(ours(path, "ddpm"), theirs(path, diffusers.DDPMPipeline))


DDIM: dict[str, dict[str, Any]] = {
    "as published": {},
    "free": {"clip_sample": False},
    "another range": {"clip_sample_range": 3.0},
    "thresholding": {"thresholding": True, "clip_sample": False, "sample_max_value": 2.0, "prediction_type": "v_prediction"},
    "trailing": {"timestep_spacing": "trailing"},
    "offset": {"steps_offset": 1, "set_alpha_to_one": False},
    # a random network that clips is chaotic: with eps, diffusers in float32 is 1.2 away from itself in float64
    "4000 steps": {"num_train_timesteps": 4000, "prediction_type": "v_prediction"},
    "sample": {"prediction_type": "sample"},
}


@pytest.mark.parametrize("what", DDIM)
def test_ddim_steps_as_its_scheduler_says(folder: Any, what: str):
    """On diffusers' timesteps, with the noise of the unclipped estimate: Karras' grid alone made 1 to 33 of difference."""
    path = folder(diffusers.DDIMScheduler(**DDIM[what]))
    assert_same(ours(path, "ddim"), theirs(path, diffusers.DDIMPipeline))


@pytest.mark.parametrize(("scheduler", "clips"), [("PNDM", False), ("EulerDiscrete", False), ("DPMSolverMultistep", False), ("DDIM", True)])
def test_what_a_config_leaves_open_is_the_classs_own_default(folder: Any, scheduler: str, clips: bool):
    path = folder(getattr(diffusers, f"{scheduler}Scheduler")())
    config = path / "scheduler/scheduler_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({key: value for key, value in settings.items() if key in ("_class_name", "beta_schedule")}))
    assert open_model(path, CPU).denoiser.spec.clip_x0 == clips  # type: ignore[attr-defined]


def test_pictures_need_not_be_square(folder: Any):
    path = folder(diffusers.DDPMScheduler(), sample_size=(16, 32))
    picture = ours(path, "ddpm")
    assert picture.shape == (16, 32, 3)
    assert_same(picture, theirs(path, diffusers.DDPMPipeline))


def test_the_average_of_a_training_run_is_preferred(folder: Any):
    """As diffusers' training script leaves it in a checkpoint."""
    path = folder(diffusers.DDPMScheduler())
    without = ours(path, "ddpm")
    unet(seed=2).save_pretrained(path / "unet_ema")
    config = json.loads((path / "unet_ema/config.json").read_text())
    (path / "unet_ema/config.json").write_text(json.dumps({**config, "decay": 0.9999, "optimization_step": 7, "inv_gamma": 1.0}))
    with_average = ours(path, "ddpm")
    assert np.abs(with_average - without).mean() > 5
    assert_same(with_average, theirs(path, diffusers.DDPMPipeline))


def test_classes_go_by_number(folder: Any):
    """diffusers' pipelines pass no class, so its loop is written out."""
    path = folder(diffusers.DDPMScheduler(prediction_type="sample"), num_class_embeds=3)
    model, scheduler = diffusers.UNet2DModel.from_pretrained(path / "unet"), diffusers.DDPMScheduler.from_pretrained(path / "scheduler")
    for label in (0, 2):
        generator = torch.Generator().manual_seed(SEED)
        x = torch.randn(1, 3, 16, 16, generator=generator)
        scheduler.set_timesteps(STEPS)
        with torch.inference_mode():
            for t in scheduler.timesteps:
                output = model(x, t, class_labels=torch.tensor([label])).sample
                x = scheduler.step(output, t, x, generator=generator).prev_sample
        expected = (x[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).double().numpy() * 255
        assert_same(ours(path, "ddpm", label=str(label)), expected)
    for fields, words in (
        ({}, "one of 3 classes.*--label 0 to 2"),
        ({"label": "3"}, "no label '3'"),
        ({"label": "1", "guidance": 2}, "guidance"),
    ):
        with pytest.raises(RequestError, match=words):
            ours(path, "ddpm", **fields)


def test_learnt_time_embeddings_are_asked_for_whole_timesteps(folder: Any):
    path = folder(diffusers.DDPMScheduler(), time_embedding_type="learned", num_train_timesteps=1000)
    assert_same(ours(path, "ddpm"), theirs(path, diffusers.DDPMPipeline))
    assert ours(path, "dpm++2m").std() > 5  # between timesteps, the nearest


def test_more_steps_than_the_schedule_has_are_refused(folder: Any):
    path = folder(diffusers.DDPMScheduler(steps_offset=1))
    for sampler in ("ddpm", "ddim"):
        with pytest.raises(RequestError, match="do not fit a schedule of 1000 timesteps"):
            ours(path, sampler, steps=1000)


UNFIT_UNETS: list[tuple[dict[str, Any], str]] = [
    ({"sample_size": None}, "sample_size = None"),
    ({"sample_size": [16]}, "sample_size = .16"),
    ({"sample_size": 17}, "multiple of 2"),
    ({"sample_size": "16"}, "sample_size = 16"),
    ({"sample_size": 99_998}, "sample_size = 99998"),
    ({"class_embed_type": "identity"}, "class_embed_type = 'identity'"),
    ({"time_embedding_type": "x"}, "describes no network"),
    ({"down_block_types": []}, "describes no network"),
    ({"layers_per_block": 100_000}, "beyond any known model"),
    ({"auto_map": {"x": "y"}}, "refused"),
    ({"downsample_padding": [[]]}, "does not work"),
]
UNFIT_SCHEDULERS: list[tuple[dict[str, Any], str]] = [
    ({"num_train_timesteps": value}, "num_train_timesteps") for value in (0, -1, "abc", None, 10**10, 2.5, [1000], True, float("nan"))
] + [
    ({"beta_start": None}, "describes no scheduler"),
    ({"beta_start": "x"}, "describes no scheduler"),
    ({"beta_end": 5.0}, "does not fall"),
    ({"beta_start": 0, "beta_end": 0}, "does not fall"),
    ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
    ({"beta_schedule": ["linear"]}, "describes no scheduler|beta_schedule"),
    ({"prediction_type": "flow"}, "prediction_type is 'flow'"),
    ({"prediction_type": None}, "prediction_type is 'None'"),
    ({"timestep_spacing": "x"}, "describes no scheduler|timestep_spacing"),
    ({"variance_type": "fixed_large_log"}, "variance_type is 'fixed_large_log'"),  # diffusers takes the root of a negative number
    ({"steps_offset": -1}, "steps_offset"),
    ({"steps_offset": 1000}, "steps_offset"),
    ({"clip_sample_range": "1"}, "clip_sample_range"),
    ({"clip_sample_range": -1}, "clip_sample_range"),
    ({"thresholding": True, "dynamic_thresholding_ratio": 2}, "thresholds at"),
    ({"thresholding": True, "sample_max_value": None}, "thresholds at"),
    ({"rescale_betas_zero_snr": True}, "zero signal"),
    ({"trained_betas": [0.1, 0.2, 0.3, 0.4, 0.5]}, "trained_betas"),
    ({"_class_name": "ScoreSdeVeScheduler"}, "not a scheduler Bowerbird knows"),
    ({"_class_name": None}, "not a scheduler Bowerbird knows"),
    ({"_class_name": "LCMScheduler"}, "not one Bowerbird reads"),
]


@pytest.mark.parametrize(
    ("part", "changed", "words"),
    [("unet/config.json", *each) for each in UNFIT_UNETS] + [("scheduler/scheduler_config.json", *each) for each in UNFIT_SCHEDULERS],
)
def test_what_cannot_be_honoured_is_refused_in_a_sentence(folder: Any, part: str, changed: dict[str, Any], words: str):
    path = folder(diffusers.DDPMScheduler())
    config = json.loads((path / part).read_text())
    (path / part).write_text(json.dumps({**config, **changed}))
    with pytest.raises(ModelError, match=words) as refusal:
        open_model(path, CPU)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ({"time_embedding_type": "fourier"}, "Fourier"),
        ({"time_embedding_type": "learned", "num_train_timesteps": 10}, "learnt 10 timesteps, and its scheduler has 1000"),
        ({"out_channels": 5}, "gives 5"),
    ],
)
def test_a_network_of_another_kind_is_refused_in_a_sentence(folder: Any, settings: dict[str, Any], words: str):
    with pytest.raises(ModelError, match=words):
        open_model(folder(diffusers.DDPMScheduler(), **settings), CPU)


def test_weights_that_are_not_numbers_are_refused_by_name(folder: Any):
    path = folder(diffusers.DDPMScheduler())
    model = diffusers.UNet2DModel.from_pretrained(path / "unet")
    with torch.no_grad():
        model.conv_out.bias[1] = float("nan")
    model.save_pretrained(path / "unet")
    with pytest.raises(ModelError, match=r"'conv_out\.bias' of the network in .* NaN"):
        open_model(path, CPU)
