"""The Stable Diffusion family: who its members are, and how a file or folder is recognised without loading it.

Each member has a folder under families/ with the configs of its parts, in the layout of a diffusers folder without
weights, so that a single .safetensors file opens with no network.  Recognition reads names and shapes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bowerbird import weights
from bowerbird.errors import ModelError, did_you_mean
from bowerbird.pretrained.configs import PIPELINES, read_config

_HERE = Path(__file__).parent / "families"

Prediction = Literal["epsilon", "v_prediction"]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """One member: how it is spoken of, and what it does when a request leaves it open."""

    name: str
    words: str
    steps: int = 25
    guidance: float = 7.0
    sampler: str = "dpm++2m"
    kind: Literal["paint", "inpaint", "upscale"] = "paint"

    @property
    def configs(self) -> Path:
        """A diffusers folder without weights."""
        return _HERE / self.name


FAMILIES = {
    family.name: family
    for family in (
        Family("sd15", "Stable Diffusion 1.x"),
        Family("sd15-inpaint", "Stable Diffusion 1.x for inpainting", kind="inpaint"),
        Family("sd21", "Stable Diffusion 2.x, 768 px"),
        Family("sd21-base", "Stable Diffusion 2.x, 512 px"),
        Family("sd21-inpaint", "Stable Diffusion 2.x for inpainting", kind="inpaint"),
        Family("sdxl", "Stable Diffusion XL", guidance=6.0),
        Family("sdxl-inpaint", "Stable Diffusion XL for inpainting", guidance=6.0, kind="inpaint"),
        Family("x4", "Stable Diffusion x4 upscaler", guidance=4.0, sampler="ddim", kind="upscale"),
    )
}


@dataclass(frozen=True)
class Recognised:
    """What a file or folder is taken for, and why."""

    family: Family
    ground: str
    prediction: Prediction | None = None  # None: not said by the file


def recognise(path: Path) -> Recognised | None:
    """Which member of the family lies at `path`, a diffusers folder or a .safetensors file; None when it is none.

    Reads a JSON file or a safetensors header, never weights.  ModelError for a relative that we cannot paint with.
    """
    if path.is_dir():
        return _recognise_folder(path) if (path / "model_index.json").is_file() else None
    if path.suffix.lower() != ".safetensors":
        return None
    header = weights.read_header(path)
    return recognise_keys(header.shapes, header.metadata)


def recognise_keys(shapes: Shapes, told: Mapping[str, str] | None = None) -> Recognised | None:
    """The same from tensor names and shapes in the layout of the original single files; `told` is the file's metadata."""
    first = shapes.get("model.diffusion_model.input_blocks.0.0.weight")
    if first is None or len(first) != 4:
        return None
    channels = first[1]
    encoder, ground = _text_encoder(shapes)
    if channels == 8:
        raise ModelError("this is an InstructPix2Pix model (its U-Net reads 8 channels), which Bowerbird cannot paint with.")
    if channels not in (4, 7, 9):
        raise ModelError(f"this U-Net reads {channels} channels; the known ones read 4 (paint), 9 (inpaint) or 7 (x4 upscaler).")
    ground += f" and a U-Net that reads {channels} channels"
    if channels == 7:
        return Recognised(FAMILIES["x4"], ground, "v_prediction")
    prediction = _told_prediction(shapes, told or {})
    if encoder == "sd21" and channels == 4 and prediction == "epsilon":
        encoder = "sd21-base"
    return Recognised(FAMILIES[encoder if channels == 4 else f"{encoder.removesuffix('-base')}-inpaint"], ground, prediction)


def named_family(name: str) -> Family:
    """The family called `name`; ModelError naming the nearest."""
    if name not in FAMILIES:
        raise ModelError(f"there is no family {name!r}.{did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]


def check_family(folder: Path, family: Family) -> None:
    """ModelError when the U-Net in a diffusers folder is none of this family's; for a single file its weights tell."""
    own, usual = (read_config(where / "unet" / "config.json") for where in (folder, family.configs))
    for key in ("in_channels", "cross_attention_dim"):
        if own.get(key) != usual.get(key):
            raise ModelError(
                f"{str(folder)!r} is not {family.words}: its U-Net has {key} = {str(own.get(key))[:40]}, and {usual.get(key)} is expected. "
                "Leave --family out, or name another."
            )


def _text_encoder(shapes: Shapes) -> tuple[str, str]:
    """Each generation came with a text encoder of its own, under a name of its own."""
    if any(name.startswith("conditioner.embedders.1.model.") for name in shapes):
        return "sdxl", "two text encoders"
    if any(name.startswith("conditioner.embedders.0.model.") for name in shapes):
        raise ModelError("this is the SDXL refiner, which cannot paint alone; open the SDXL base model.")
    if any(name.startswith("cond_stage_model.model.") for name in shapes):
        return "sd21", "OpenCLIP's text encoder"
    if any(name.startswith("cond_stage_model.transformer.") for name in shapes):
        return "sd15", "CLIP's text encoder"
    raise ModelError("this file holds a U-Net without its text encoder; Bowerbird opens whole checkpoints and diffusers folders.")


def _told_prediction(shapes: Shapes, told: Mapping[str, str]) -> Prediction | None:
    """What the network predicts, when the file says so: in ModelSpec metadata, or by the empty tensor `v_pred` of some SDXL tunes."""
    words: dict[str, Prediction] = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
    said = words.get(str(told.get("modelspec.prediction_type", "")).lower())
    return said or ("v_prediction" if "v_pred" in shapes else None)


# A diffusers folder


def _recognise_folder(folder: Path) -> Recognised | None:
    pipeline = read_config(folder / "model_index.json").get("_class_name")
    kind = PIPELINES.get(pipeline) if isinstance(pipeline, str) else None
    if kind is None:
        return None
    unet = read_config(folder / "unet" / "config.json")
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError(f"the scheduler in {str(folder)!r} predicts {str(prediction)[:40]!r}; known are epsilon and v_prediction.")
    channels = unet.get("in_channels", 4)
    if channels not in (4, 7, 9):
        raise ModelError(
            f"the U-Net in {str(folder)!r} reads {channels} channels; the known ones read 4 (paint), 9 (inpaint) or 7 (x4 upscaler)."
        )
    name = kind
    if kind == "sd":
        second = unet.get("use_linear_projection") is True  # 1.x projects with convolutions
        name = "sd15" if not second else "sd21" if prediction == "v_prediction" or channels == 9 else "sd21-base"
    if channels == 9:
        name += "-inpaint"
    return Recognised(FAMILIES[name], f"{pipeline} in model_index.json", prediction)
