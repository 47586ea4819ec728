"""THE format: a model folder, what training leaves and what painting opens.

    MODEL/
      bowerbird.json            the manifest below, sealed, with the hash of every file
      transformer/ | unet/      config.json and weights; an autoencoder's folder has none
      vae/                      of a latent model, and of an autoencoder
      upscaler/                 of an upscaler
      text_encoder/ ...         of a Stable Diffusion all of whose U-Net was tuned: everything that a diffusers folder of it has
      lora.safetensors          of a LoRA, as other tools read it; the model it is for is training.recipe.tune.model
      image_embeddings.safetensors ...    what its conditions keep (conditions/)
      scheduler/                for a U-Net: diffusers' scheduler config
      model_index.json          exactly when a diffusers pipeline can paint from this folder
      samples.png               what it paints

Parts are named as diffusers names them, so the folder is its own export.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from torch import Tensor, nn

from bowerbird import __version__, weights
from bowerbird.conditions import Condition, known_conditions, network_parts
from bowerbird.errors import ModelError, did_you_mean
from bowerbird.faults import first_fault
from bowerbird.formats import FORMAT_VERSION, upgrade_manifest, upgrade_tensor_name, upgrade_transformer
from bowerbird.models.autoencoder import OURS, Autoencoder, AutoencoderConfig, ConvAutoencoder, LatentSpace, Rgb
from bowerbird.models.denoiser import Denoiser, DenoiserSpec
from bowerbird.models.transformer import Transformer, TransformerConfig
from bowerbird.models.unet import UNet, check_answers, unet_class
from bowerbird.models.upscaler import Upscaler, UpscalerConfig
from bowerbird.pretrained.autoencoders import open_pretrained_autoencoder
from bowerbird.pretrained.configs import class_arguments, read_config
from bowerbird.storage import Disk, verify_folder, write_folder

MANIFEST = "bowerbird.json"
LORA = "lora.safetensors"
Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)
_UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
_TRANSFORMER_WEIGHTS = "transformer/model.safetensors"
_UPSCALER_WEIGHTS = "upscaler/model.safetensors"
_VAE_WEIGHTS = f"vae/{ConvAutoencoder.weights_name}"


class SamplingDefaults(BaseModel):
    """What `generate` does when the request leaves it open."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sampler: str
    steps: int = Field(ge=1, le=10_000)
    guidance: float = Field(1.0, ge=0, le=100)


class LatentScale(BaseModel):
    """Mean and standard deviation of each channel of the latents that a model learnt on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mean: tuple[Annotated[float, Field(gt=-1e6, lt=1e6)], ...]
    std: tuple[Annotated[float, Field(gt=0, lt=1e6)], ...]


class About(BaseModel):
    """What a model says of itself beyond what is needed to use it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: dict[str, Any] = {}  # recipe, pictures seen, data fingerprint, hardware, hours
    scores: dict[str, Any] = {}
    licence: str = "The weights are yours; the pictures they were trained on keep their licences."


class Manifest(About):
    """bowerbird.json, without its seal."""

    format_version: int = FORMAT_VERSION
    written_by: str = f"bowerbird {__version__}"
    kind: str  # "pixel", "latent", "autoencoder", "upscaler", "lora" or "pipeline"
    denoiser: DenoiserSpec | None = None
    latents: LatentScale | None = None
    conditions: dict[str, dict[str, Any]] = {}
    sampling: SamplingDefaults | None = None
    files: dict[str, Any] = {}

    @property
    def base(self) -> str:
        """The model that was tuned to make this one; '' where it began at random."""
        recipe = self.training.get("recipe")
        tune = recipe.get("tune") if isinstance(recipe, dict) else None
        return str(tune.get("model") or "") if isinstance(tune, dict) else ""

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        if (self.denoiser is None) != (self.kind in ("autoencoder", "upscaler", "lora", "pipeline")):
            raise ValueError("an autoencoder, upscaler, LoRA or pipeline has no denoiser, and everything else has one")
        if self.kind == "lora" and not self.base:
            raise ValueError("a LoRA says which model it is for: training.recipe.tune.model is missing")
        if self.denoiser is not None and self.sampling is None:
            raise ValueError("what paints says how: sampling is missing")
        return self


@dataclass(frozen=True)
class Model:
    """A model whole: what training leaves, a folder holds, and painting needs.

    denoiser: None of an autoencoder, of an upscaler, of a LoRA, which is its file, and of a pipeline, which are its files.  space: what it
    learnt on; of an autoencoder, its own.
    """

    denoiser: Denoiser | None
    space: LatentSpace = field(default_factory=lambda: LatentSpace(Rgb()))
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    sampling: SamplingDefaults | None = None
    about: About = field(default_factory=About)
    upscaler: Upscaler | None = None
    lora: bytes | None = None
    pipeline: Callable[[], Iterator[tuple[str, bytes]]] | None = None

    @property
    def kind(self) -> str:
        if self.lora is not None:
            return "lora"
        if self.pipeline is not None:
            return "pipeline"
        if self.upscaler is not None:
            return "upscaler"
        if self.denoiser is None:
            return "autoencoder"
        return "pixel" if isinstance(self.space.autoencoder, Rgb) else "latent"

    @property
    def network(self) -> nn.Module:
        """What training moves."""
        return self.upscaler or self.denoiser or self.space.autoencoder

    def to(self, device: torch.device) -> Self:
        """The same on `device`; networks move in place."""
        self.network.to(device)
        self.space.to(device)
        return self

    def manifest(self) -> Manifest:
        mean, std = self.space.scale
        scale = LatentScale(mean=tuple(mean), std=tuple(std))
        return Manifest(
            kind=self.kind,
            denoiser=self.denoiser.spec if self.denoiser else None,
            latents=scale if self.kind == "latent" else None,
            conditions={name: condition.settings() for name, condition in self.conditions.items()},
            sampling=self.sampling,
            **self.about.model_dump(include=set(About.model_fields)),
        )

    def describe(self) -> dict[str, Any]:
        """The manifest for people: everything but the file hashes."""
        return self.manifest().model_dump(mode="json", exclude={"files"})


def save_model(disk: Disk, target: Path, model: Model, samples_png: bytes) -> None:
    """Write a model as the new folder `target`; it exists whole or not at all."""
    parts = _parts(model, samples_png)
    write_folder(disk, target, parts, MANIFEST, model.manifest().model_dump(mode="json", exclude={"files"}))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of which every listed file is there with its hash; ModelError else, or from a newer Bowerbird."""
    document = verify_folder(folder, MANIFEST)
    version = document.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ModelError(
            f"{str(folder)!r} has format {version}, newer than this Bowerbird reads ({FORMAT_VERSION}). Upgrade: pip install -U bowerbird"
        )
    try:
        return Manifest.model_validate(upgrade_manifest(document))
    except ValidationError as error:
        raise ModelError(f"the manifest of {str(folder)!r} is wrong: {first_fault(error)}. Use another copy.") from error


def open_model_folder(folder: Path, manifest: Manifest | None = None) -> Model:
    """The model of a folder; with `manifest`, of one that was verified already.  ModelError when anything is missing or damaged."""
    manifest = manifest or read_manifest(folder)
    about = About(**manifest.model_dump(include=set(About.model_fields)))
    if manifest.kind == "lora":
        return Model(None, about=about, lora=(folder / LORA).read_bytes())
    if manifest.kind == "pipeline":
        raise ModelError(f"{str(folder)!r} is a Stable Diffusion, to be opened as one of other projects.")
    if manifest.kind == "upscaler":
        return Model(None, about=about, upscaler=_open_upscaler(folder))
    if manifest.denoiser is None:
        return Model(None, LatentSpace(_open_autoencoder(folder)), about=about)
    network, shape = _open_network(folder), manifest.denoiser.sample_shape
    space = LatentSpace(Rgb())
    if manifest.latents is not None:
        autoencoder = _open_autoencoder(folder)
        if not len(manifest.latents.mean) == len(manifest.latents.std) == autoencoder.channels == shape[0]:
            raise ModelError(f"the manifest of {str(folder)!r} tells of other latents than its autoencoder makes. Use another copy.")
        space = LatentSpace(autoencoder, manifest.latents.mean, manifest.latents.std)
    channels, patch = (network.config.channels, network.config.patch) if isinstance(network, Transformer) else (network.channels, 1)
    if isinstance(network, UNet):
        check_answers(lambda: unet_class()(**network.network.config), shape[1:], str(folder))
    if channels != shape[0] or shape[1] % patch or shape[2] % patch:
        raise ModelError(f"the manifest of {str(folder)!r} tells of samples {shape}, which its network cannot take. Use another copy.")
    return Model(Denoiser(network, manifest.denoiser).eval(), space, _open_conditions(folder, manifest), manifest.sampling, about)


def _open_network(folder: Path) -> Transformer | UNet:
    if not (folder / "transformer").is_dir():
        place, kind = folder / "unet/config.json", unet_class()
        settings = class_arguments(kind, read_config(place), place)
        return UNet(_with_weights(lambda: kind(**settings), weights.load(folder / _UNET_WEIGHTS), folder / "unet"))
    config = _checked(TransformerConfig, upgrade_transformer(read_config(folder / "transformer/config.json")), folder)
    tensors = {upgrade_tensor_name(name): tensor for name, tensor in weights.load(folder / _TRANSFORMER_WEIGHTS).items()}

    def build() -> Transformer:
        return Transformer(config, network_parts(config.conditions, config.width))

    return _with_weights(build, tensors, folder / "transformer")


def _with_weights(build: Callable[[], Network], tensors: Mapping[str, Tensor], place: Path) -> Network:
    """The network that `build` makes, holding `tensors`.  ModelError when its config describes another, or none.

    It is built without memory first, where it takes none however large it is: a config may ask for more than there is.
    """
    try:
        with torch.device("meta"):
            weights.check_fit(build(), tensors, str(place))
    except ModelError:
        raise
    except Exception as error:  # whatever torch and diffusers raise for numbers that make no network
        raise ModelError(
            f"the config in {str(place)!r} describes no network: {str(error).splitlines()[0][:200]}. Use another copy."
        ) from error
    network = build()
    weights.load_into(network, tensors, str(place))
    return network


def _open_upscaler(folder: Path) -> Upscaler:
    settings = _checked(UpscalerConfig, read_config(folder / "upscaler/config.json"), folder)
    return _with_weights(lambda: Upscaler(settings), weights.load(folder / _UPSCALER_WEIGHTS), folder / "upscaler").eval()


def _open_conditions(folder: Path, manifest: Manifest) -> dict[str, Condition]:
    known = known_conditions()
    for name in manifest.conditions.keys() - known.keys():
        raise ModelError(f"{str(folder)!r} was trained on a condition {name!r} that this Bowerbird has not.{did_you_mean(name, known)}")
    return {name: known[name].open(settings, folder) for name, settings in manifest.conditions.items()}


def _open_autoencoder(folder: Path) -> Autoencoder:
    """The autoencoder in the `vae` of a verified folder."""
    config = read_config(folder / "vae/config.json")
    if config.pop("_class_name", None) != OURS:
        return open_pretrained_autoencoder(folder / "vae")
    settings = _checked(AutoencoderConfig, config, folder)
    return _with_weights(lambda: ConvAutoencoder(settings), weights.load(folder / _VAE_WEIGHTS), folder / "vae").eval()


def _parts(model: Model, samples_png: bytes) -> Iterator[tuple[str, bytes]]:
    yield "samples.png", samples_png
    if model.pipeline is not None:
        yield from model.pipeline()
        return
    denoiser, autoencoder = model.denoiser, model.space.autoencoder
    network = denoiser.network if denoiser is not None else None
    if isinstance(network, Transformer):
        yield "transformer/config.json", _json(network.config.to_dict())
        yield _TRANSFORMER_WEIGHTS, weights.to_bytes(network.state_dict())
    elif isinstance(network, UNet) and denoiser is not None:
        yield "unet/config.json", network.network.to_json_string().encode()
        yield _UNET_WEIGHTS, weights.to_bytes(network.network.state_dict(), {"format": "pt"})
        if denoiser.spec.betas is not None:
            yield "scheduler/scheduler_config.json", _json(_scheduler_config(denoiser.spec))
            if not model.conditions and model.kind == "pixel":
                yield "model_index.json", _json(_MODEL_INDEX)
    if model.lora is not None:
        yield LORA, model.lora
    if model.upscaler is not None:
        yield "upscaler/config.json", _json(asdict(model.upscaler.config))
        yield _UPSCALER_WEIGHTS, weights.to_bytes(model.upscaler.state_dict(), {"format": "pt"})
    if not isinstance(autoencoder, Rgb):
        yield "vae/config.json", _json(autoencoder.config())
        yield f"vae/{autoencoder.weights_name}", weights.to_bytes(autoencoder.saved.state_dict(), {"format": "pt"})
    for condition in model.conditions.values():
        yield from condition.files()


_MODEL_INDEX = {
    "_class_name": "DDPMPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


def _scheduler_config(spec: DenoiserSpec) -> dict[str, Any]:
    assert spec.betas is not None
    kinds = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    return {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.42.1",
        "num_train_timesteps": spec.betas.num_steps,
        "beta_start": spec.betas.start,
        "beta_end": spec.betas.end,
        "beta_schedule": kinds[spec.betas.kind],
        "prediction_type": {"eps": "epsilon", "v": "v_prediction"}[spec.prediction],
        "variance_type": "fixed_small",
        "clip_sample": spec.clip_x0,
    }


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()


def _checked(kind: type[Config], config: dict[str, Any], folder: Path) -> Config:
    """The config as its class, every number within its bounds."""
    unknown = sorted(config.keys() - {each.name for each in fields(kind)})  # type: ignore[arg-type]
    if unknown:
        raise ModelError(f"a config of {str(folder)!r} has a field {unknown[0]!r}, which this Bowerbird does not know. Upgrade it.")
    try:
        return TypeAdapter(kind).validate_python(config)
    except ValidationError as error:
        raise ModelError(f"a config of {str(folder)!r} is wrong: {first_fault(error)}. Use another copy.") from error
