"""Other projects' autoencoders: small random ones in the published layouts, beside diffusers itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from bowerbird.errors import ModelError, UnsafeFileError
from bowerbird.generate import open_autoencoder, open_model
from bowerbird.locate import locate
from bowerbird.models.autoencoder import LatentSpace
from bowerbird.pretrained.autoencoders import PretrainedAutoencoder, open_pretrained_autoencoder
from bowerbird.request import PaintRequest

CPU = torch.device("cpu")
BIRDS = Path(__file__).parents[2] / "examples" / "birds"
WIDTHS = (32, 32, 64, 64)
_KL = {
    "block_out_channels": WIDTHS, "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


def _dc(levels: int) -> dict[str, Any]:
    """DC-AE as published: residual blocks, then efficient attention at the three deepest levels."""
    kinds = ("ResBlock",) * (levels - 3) + ("EfficientViTBlock",) * 3
    scales: tuple[tuple[int, ...], ...] = ((),) * (levels - 3) + ((5,),) * 3
    return {
        "latent_channels": 8, "attention_head_dim": 8, "scaling_factor": 0.41407,
        "encoder_block_types": kinds, "decoder_block_types": kinds, "encoder_qkv_multiscales": scales, "decoder_qkv_multiscales": scales,
        "encoder_block_out_channels": (16,) * levels, "decoder_block_out_channels": (16,) * levels,
        "encoder_layers_per_block": (0,) + (1,) * (levels - 1), "decoder_layers_per_block": (0,) + (1,) * (levels - 1),
    }  # fmt: skip


# name: (class, settings, factor, channels, mean and std of the published scale)
KINDS: dict[str, tuple[str, dict[str, Any], int, int, float, float]] = {
    "sd": ("AutoencoderKL", {**_KL, "sample_size": 512, "scaling_factor": 0.18215}, 8, 4, 0, 1 / 0.18215),
    "sdxl": ("AutoencoderKL", {**_KL, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}, 8, 4, 0, 1 / 0.13025),
    "kl-16": (
        "AutoencoderKL",
        {**_KL, "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
         "use_quant_conv": False, "use_post_quant_conv": False},
        8, 16, 0.1159, 1 / 0.3611,
    ),
    "dc-32": ("AutoencoderDC", _dc(6), 32, 8, 0, 1 / 0.41407),
    "dc-64": ("AutoencoderDC", _dc(7), 64, 8, 0, 1 / 0.41407),
    "tiny": ("AutoencoderTiny", {"encoder_block_out_channels": (16,) * 4, "decoder_block_out_channels": (16,) * 4}, 8, 4, 0, 1),
    "vq": (
        "VQModel",
        {**_KL, "block_out_channels": (32, 32, 64), "down_block_types": ("DownEncoderBlock2D",) * 3,
         "up_block_types": ("UpDecoderBlock2D",) * 3, "latent_channels": 3, "num_vq_embeddings": 64, "scaling_factor": 1.0},
        4, 3, 0, 1,
    ),
}  # fmt: skip


def network(kind: str) -> Any:
    torch.manual_seed(0)
    name, settings, *_ = KINDS[kind]
    made = getattr(diffusers, name)(**settings).eval()
    for module in made.modules():  # published ones have statistics of their own
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_var is not None
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """folders("sd") -> a folder with config.json and weights, as diffusers saves it."""
    root, made = tmp_path_factory.mktemp("autoencoders"), set()

    def folder(kind: str) -> Path:
        if kind not in made:
            network(kind).save_pretrained(root / kind)
            made.add(kind)
        return root / kind

    return folder


def bird(width: int, height: int) -> torch.Tensor:
    """(1, 3, H, W) in -1..1"""
    with Image.open(min(BIRDS.glob("*.webp"))) as file:
        pixels = np.asarray(file.convert("RGB").resize((width, height)), np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).movedim(-1, 0)[None]


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_encoding_and_decoding_are_diffusers_own(folders: Any, kind: str):
    name, _, factor, channels, mean, std = KINDS[kind]
    ours, theirs = open_pretrained_autoencoder(folders(kind)), getattr(diffusers, name).from_pretrained(folders(kind)).eval()
    picture = bird(128, 64)
    means, stds = ours.encode(picture)
    encoded = theirs.encode(picture)
    assert (ours.factor, ours.channels) == (factor, channels) and means.shape == (1, channels, 64 // factor, 128 // factor)
    if name == "AutoencoderKL":
        assert torch.equal(means, encoded.latent_dist.mean) and torch.equal(stds, encoded.latent_dist.std)
    else:
        assert torch.equal(means, encoded[0]) and not stds.any()
    assert torch.equal(ours.decode(means), theirs.decode(means).sample)
    assert [*ours.published_scale()] == [pytest.approx([mean] * channels), pytest.approx([std] * channels)]
    assert ours.config()["_class_name"] == name


@torch.inference_mode()
def test_the_published_scale_is_what_pipelines_do(folders: Any):
    """diffusers' pipelines decode latents / scaling_factor + shift_factor."""
    ours = open_pretrained_autoencoder(folders("kl-16"))
    latents = torch.randn(1, 16, 4, 4)
    expected = ours.network.decode(latents / 0.3611 + 0.1159).sample
    torch.testing.assert_close(LatentSpace(ours, *ours.published_scale()).decode(latents), expected)


@torch.inference_mode()
def test_tiles_of_the_tiny_one_are_the_whole(folders: Any, monkeypatch: pytest.MonkeyPatch):
    """It is convolutions alone, so tiles that see as far as they do differ by rounding."""
    ours, picture = open_pretrained_autoencoder(folders("tiny")), bird(512, 448)
    whole = ours.encode(picture)[0]
    restored = ours.decode(whole)
    monkeypatch.setattr("bowerbird.pretrained.autoencoders.TILE_PX", 64)
    torch.testing.assert_close(ours.encode(picture)[0], whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.decode(whole), restored, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "tile"), [("sd", 128), ("dc-32", 256)])
@torch.inference_mode()
def test_tiles_resemble_the_whole(folders: Any, kind: str, tile: int):
    """Each tile is normalised by what it sees of the picture, so they differ, and most with random weights: here by 0.3 to 0.7 of
    the spread.  Tiles in a wrong place would differ by 1.4 of it, as pictures do that have nothing to do with each other.
    """
    ours, picture = open_pretrained_autoencoder(folders(kind)), bird(2 * tile, 3 * tile // 2)
    whole = ours.encode(picture)[0]
    restored = ours.decode(whole)
    if kind == "sd":
        ours.network.tile_sample_min_size, ours.network.tile_latent_min_size = tile, tile // 8
    else:
        ours.network.enable_tiling(tile, tile, 3 * tile // 4, 3 * tile // 4)
    for tiled, one in ((ours.encode(picture)[0], whole), (ours.decode(whole), restored)):
        assert tiled.shape == one.shape
        assert 0 < (tiled - one).std() < 0.8 * one.std()


def test_they_open_from_a_pipelines_folder_and_by_hub_name(tiny: Any, folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tests.pretrained.test_hub import Hub, install

    autoencoder = open_autoencoder(tiny("sd15").folder, CPU)
    assert isinstance(autoencoder, PretrainedAutoencoder) and autoencoder.published_scale()[1] == [1 / 0.18215] * 4
    assert locate(tiny("sd15").folder).paints and not locate(folders("sd")).paints
    hub = install(Hub(tiny("sd15").folder, tmp_path), monkeypatch)
    with pytest.raises(ModelError, match="Not downloaded"):
        open_autoencoder("maker/model", CPU)
    from bowerbird.locate import Opening

    open_autoencoder("maker/model", CPU, Opening(ask=lambda plan: True))
    assert [file for _, files in hub.asked for file in files] == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    open_autoencoder("maker/model", CPU, Opening(offline=True))
    with pytest.raises(ModelError, match="--offline"):  # a part of the model is here, not the model
        open_model("maker/model", CPU, Opening(offline=True))


def test_what_is_no_autoencoder_is_refused(folders: Any, tmp_path: Path):
    for name in ("AutoencoderOobleck", "os.system", None):
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
        with pytest.raises(ModelError, match="no autoencoder"):
            open_autoencoder(tmp_path, CPU)
    damaged = Path(shutil.copytree(folders("sd"), tmp_path / "damaged"))
    weights = damaged / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        open_autoencoder(damaged, CPU)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UnsafeFileError, match="bowerbird convert"):
        open_autoencoder(damaged, CPU)


# Models of their latents


def unet(channels: int) -> Any:
    torch.manual_seed(1)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=(32, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8,
    ).eval()  # fmt: skip


def painted(painter: Any, **fields: Any) -> np.ndarray[Any, Any]:
    (one,) = painter.paint(PaintRequest.model_validate({"model": "m", "seed": 3, "steps": 10, **fields}))
    return np.asarray(one.picture, np.float32)


def theirs(model: Any, autoencoder: Any, steps: int = 10) -> np.ndarray[Any, Any]:
    """diffusers' LDMPipeline with DDIM, from the noise that our seed 3 draws."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="leading")
    pipeline = diffusers.LDMPipeline(vqvae=autoencoder, unet=model, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(generator=torch.Generator().manual_seed(3), num_inference_steps=steps, output_type="np").images[0]
    return np.asarray(picture, np.float32) * 255


@pytest.mark.parametrize(("kind", "place", "channels"), [("sd", "vae", 4), ("vq", "vqvae", 3)])
def test_a_latent_model_with_its_autoencoder_paints_what_diffusers_paints(
    folders: Any, tmp_path: Path, kind: str, place: str, channels: int
):
    """`LDMPipeline` as published: unet, vqvae (or vae) and scheduler side by side."""
    model = unet(channels)
    model.save_pretrained(tmp_path / "unet")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    shutil.copytree(folders(kind), tmp_path / place)
    painter = open_model(tmp_path, CPU)
    ours = painted(painter, sampler="ddim")
    side = 8 * KINDS[kind][2]
    assert ours.shape == (side, side, 3)
    assert np.abs(ours - theirs(model, network(kind))).max() < 2
    assert painter.describe()["kind"] == "latent"


def test_a_bare_latent_unet_is_told_its_autoencoder(tiny: Any, folders: Any, tmp_path: Path):
    """As unet-cub2011-latent-64 was published: four channels, nothing beside it, Stable Diffusion's scale of 0.18215."""
    from bowerbird.locate import Opening

    model = unet(4)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"latents of 4 channels and brings no autoencoder.*--autoencoder"):
        open_model(tmp_path, CPU)
    with pytest.raises(ModelError, match="that autoencoder has 16"):
        open_model(tmp_path, CPU, Opening(autoencoder=str(folders("kl-16"))))
    painter = open_model(tmp_path, CPU, Opening(autoencoder=str(tiny("sd15").folder)))
    assert np.abs(painted(painter, sampler="ddim") - theirs(model, tiny("sd15").networks["vae"])).max() < 2
    with pytest.raises(ModelError, match="autoencoder of its own"):
        open_model(tiny("sd15").folder, CPU, Opening(autoencoder=str(folders("sd"))))


@pytest.mark.parametrize(
    "wrong", [{"scaling_factor": "x"}, {"scaling_factor": 0}, {"shift_factor": [[]]}, {"latents_mean": [1.0]}, {"latents_std": "y"}]
)
def test_a_scale_that_is_none_is_refused_in_a_sentence(tmp_path: Path, wrong: dict[str, Any]) -> None:
    cls, settings = KINDS["sd"][:2]
    getattr(diffusers, cls)(**settings).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **wrong}))
    with pytest.raises(ModelError, match=next(iter(wrong))):
        open_pretrained_autoencoder(tmp_path)


def test_a_config_of_a_network_that_does_not_work_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """It is built and its weights fit; only the encoder's levels are fewer than the decoder's."""
    network = diffusers.AutoencoderKL(block_out_channels=(8, 16), up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4)
    network.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="does not work"):
        open_pretrained_autoencoder(tmp_path)
