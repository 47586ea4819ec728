"""From a file or a folder to the parts of a Stable Diffusion model: networks, tokenizers, scheduler config.

Nothing found in a model can name code.  Configs are read as data; the classes they mention are compared with the table
below and built by us from the arguments those classes have; weights come from safetensors files only.  diffusers and
transformers never see a stranger's folder, and nothing here opens a connection.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bowerbird import weights
from bowerbird.errors import MissingExtraError, ModelError, UnsafeFileError
from bowerbird.models.pretrained.clip import clip_tokenizer, from_open_clip, from_transformers
from bowerbird.models.pretrained.families import FAMILIES, Family, Prediction, Recognised, read_config

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
SCHEDULERS = ("scheduler", "low_res_scheduler")

# library and class that model_index.json may name for each part; what we have no use for is accepted and left unloaded
_KNOWN_PARTS = {
    "unet": {("diffusers", "UNet2DConditionModel")},
    "vae": {("diffusers", "AutoencoderKL")},
    "text_encoder": {("transformers", "CLIPTextModel")},
    "text_encoder_2": {("transformers", "CLIPTextModelWithProjection")},
    **{name: {("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")} for name in TOKENIZERS},
    **{
        name: {
            ("diffusers", f"{kind}Scheduler")
            for kind in (
                "DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LCM", "TCD",
                "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "KDPM2Discrete", "KDPM2AncestralDiscrete",
            )
        }
        for name in SCHEDULERS
    },
    "safety_checker": {("stable_diffusion", "StableDiffusionSafetyChecker")},
    "watermarker": {("diffusers", "StableDiffusionXLWatermarker")},
    "feature_extractor": {("transformers", "CLIPFeatureExtractor"), ("transformers", "CLIPImageProcessor")},
    "image_encoder": {("transformers", "CLIPVisionModelWithProjection")},
}  # fmt: skip
_UNUSED_PARTS = {"safety_checker", "watermarker", "feature_extractor", "image_encoder"}
_INDEX_OPTIONS = {"requires_safety_checker", "force_zeros_for_empty_prompt", "requires_aesthetics_score"}

# Keys by which a config asks its reader to import or fetch something
_CODE_KEYS = {"auto_map", "custom_pipeline", "custom_pipelines", "custom_revision", "quantization_config", "trust_remote_code"}
_CODE_KEYS |= {"_attn_implementation", "_attn_implementation_internal", "attn_implementation", "attn_processor", "_remote_code"}

_MAX_LAYERS = 64
_MAX_NUMBER = 100_000


@dataclass(frozen=True)
class Parts:
    """A model taken apart: what diffusers' pipelines are built from."""

    family: Family
    ground: str  # why it is taken for that family and prediction
    prediction: Prediction
    networks: dict[str, Any]  # unet, vae, text_encoder and for XL text_encoder_2
    tokenizers: dict[str, Any]
    schedulers: dict[str, dict[str, Any]]  # configs, each with its _class_name
    options: dict[str, Any]  # arguments of the pipeline that are not parts


def load_parts(path: Path, found: Recognised, dtype: torch.dtype, prediction: Prediction | None = None) -> Parts:
    """Read the model at `path`, which `recognise` took for `found`, into memory as `dtype`.  ModelError when it is damaged."""
    configs = path if path.is_dir() else found.family.configs
    index = _checked_index(configs)
    networks = _networks_of_folder(path, index, dtype) if path.is_dir() else _networks_of_file(path, found.family, index, dtype)
    tokenizers = {name: clip_tokenizer(configs / name) for name in TOKENIZERS if name in index}
    schedulers = {name: _scheduler_config(configs, name) for name in SCHEDULERS if name in index}
    options = {name: value for name, value in index.items() if name in _INDEX_OPTIONS - {"requires_safety_checker"}}
    parts = Parts(found.family, found.ground, "epsilon", networks, tokenizers, schedulers, options)
    return _settle_prediction(parts, found, prediction)


def _settle_prediction(parts: Parts, found: Recognised, wanted: Prediction | None) -> Parts:
    """What the network predicts: as told by the caller, by the file, by asking the network (2.x), else eps as usual."""
    family, ground = found.family, found.ground
    if wanted is not None:
        prediction, why = wanted, "prediction as asked"
    elif found.prediction is not None:
        prediction, why = found.prediction, "prediction as the model says"
    elif family.name == "sd21":
        prediction, correlation = ask_network(parts)
        why = f"the network's answer to pure noise correlates {correlation:.2f} with it"
    else:
        prediction, why = "epsilon", "epsilon prediction, as its family has"
    if family.name == "sd21" and prediction == "epsilon":
        family = FAMILIES["sd21-base"]
    schedulers = {name: {**config, "prediction_type": prediction} for name, config in parts.schedulers.items()}
    return replace(parts, family=family, prediction=prediction, schedulers=schedulers, ground=f"{ground}; {why}")


@torch.inference_mode()
def ask_network(parts: Parts) -> tuple[Prediction, float]:
    """Tell eps from v prediction by one evaluation at the last timestep, where x_t is noise almost alone.

    There eps is x_t itself and v = alpha eps - sigma x0 has next to nothing of it, so the correlation of the output with
    the input is near 1 or near 0.  Stable Diffusion 2.x came in both kinds, and no name or shape tells them apart.
    """
    unet, tokens = parts.networks["unet"], parts.tokenizers["tokenizer"]("", padding="max_length", return_tensors="pt").input_ids
    text = parts.networks["text_encoder"](tokens)[0]
    x = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0)).to(text.dtype)
    output = unet(x, torch.tensor([999]), text).sample
    correlation = float(torch.corrcoef(torch.stack([output.flatten().float(), x.flatten().float()]))[0, 1])
    return ("epsilon" if correlation > 0.5 else "v_prediction"), correlation


# Configs, as data


def _checked_index(folder: Path) -> dict[str, Any]:
    """model_index.json without what we leave unloaded; ModelError when it names anything outside the table."""
    index = _without_code(read_config(folder / "model_index.json"), folder / "model_index.json")
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if name.startswith("_") or value is None or value == [None, None]:
            continue
        if isinstance(value, list):
            if tuple(map(str, value)) not in _KNOWN_PARTS.get(name, ()):
                raise ModelError(
                    f"model_index.json in {str(folder)!r} asks for {value} as {name!r}, which is not a part Bowerbird knows; it is refused."
                )
            if name not in _UNUSED_PARTS:
                parts[name] = value
        elif name in _INDEX_OPTIONS and isinstance(value, bool):
            parts[name] = value
        else:
            raise ModelError(f"model_index.json in {str(folder)!r} has an unknown entry {name!r}; it is refused.")
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if name not in parts:
            raise ModelError(f"model_index.json in {str(folder)!r} names no {name!r}. Download the folder again.")
    return parts


def _without_code(config: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in config.keys() & _CODE_KEYS:
        if config[key] not in (None, False, [], {}):
            raise ModelError(f"{str(path)!r} sets {key!r}, by which a model asks to run code of its own; it is refused.")
    return config


def _arguments(config: Mapping[str, Any], known: Collection[str], path: Path) -> dict[str, Any]:
    """The entries of a config that are arguments of its class.  Numbers are capped: they say how much to build."""
    arguments = {key: value for key, value in config.items() if key in known and not key.startswith("_")}
    for key, value in arguments.items():
        limit = _MAX_LAYERS if "layers" in key or "blocks" in key else _MAX_NUMBER
        entries = value if isinstance(value, list) else [value]
        flat = [item for entry in entries for item in (entry if isinstance(entry, list) else [entry])]
        if len(flat) > _MAX_LAYERS or any(isinstance(item, int | float) and abs(item) > limit for item in flat):
            raise ModelError(f"{str(path)!r} sets {key} = {str(value)[:80]}, beyond any known model; it is refused.")
        if any(isinstance(item, dict) for item in flat):
            raise ModelError(f"{str(path)!r} sets {key} to a table, where a plain value is expected; it is refused.")
    return arguments


def _parameters(cls: type) -> set[str]:
    return set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}


def _scheduler_config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name / "scheduler_config.json"
    config = _without_code(read_config(path), path)
    if ("diffusers", config.get("_class_name")) not in _KNOWN_PARTS[name]:
        raise ModelError(f"{str(path)!r} asks for {config.get('_class_name')!r}, which is not a scheduler Bowerbird knows; it is refused.")
    import diffusers

    cls = getattr(diffusers, config["_class_name"])
    return {"_class_name": config["_class_name"], **_arguments(config, _parameters(cls), path)}


# Networks


def _networks_of_folder(folder: Path, index: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    build: dict[str, Callable[[Path], nn.Module]] = {
        "unet": _empty_unet,
        "vae": _empty_vae,
        "text_encoder": _empty_clip,
        "text_encoder_2": _empty_clip,
    }
    networks = {}
    for name in build.keys() & index.keys():
        tensors = read_part(folder / name)
        if name == "vae":
            tensors = {_renamed_attention(key): tensor for key, tensor in tensors.items()}
        if name in TEXT_ENCODERS:
            tensors = from_transformers(tensors, "")
        networks[name] = _fill(build[name](folder / name), tensors, dtype, f"the {name} of {str(folder)!r}")
    return networks


def _networks_of_file(path: Path, family: Family, index: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """A checkpoint in the layout of the original releases: all parts in one file, under the names its trainer used.

    An EMA copy of the U-Net (`model_ema.*`) is left out: tools read the plain weights, and so does what diffusers converts.
    """
    checkpoint = {name: tensor for name, tensor in weights.load(path).items() if not name.startswith("model_ema.")}
    where = f"{family.words} in {str(path)!r}"
    networks = {
        "unet": _converted(_diffusers().UNet2DConditionModel, "unet", checkpoint, family, dtype, where),
        "vae": _converted(_diffusers().AutoencoderKL, "vae", checkpoint, family, dtype, where),
    }
    for name in index.keys() & set(TEXT_ENCODERS):
        encoder = _empty_clip(family.configs / name)
        networks[name] = _fill(encoder, _text_weights(checkpoint, family, name), dtype, f"the {name} of {where}")
    return networks


def _text_weights(checkpoint: Mapping[str, Tensor], family: Family, name: str) -> dict[str, Tensor]:
    if family.name.startswith("sdxl"):
        if name == "text_encoder":
            return from_transformers(checkpoint, "conditioner.embedders.0.transformer.")
        return from_open_clip(checkpoint, "conditioner.embedders.1.model.")
    if family.name.startswith("sd15"):
        return from_transformers(checkpoint, "cond_stage_model.transformer.")
    return from_open_clip(checkpoint, "cond_stage_model.model.")


def _converted(cls: Any, part: str, checkpoint: dict[str, Tensor], family: Family, dtype: torch.dtype, where: str) -> nn.Module:
    """diffusers renames the U-Net and the autoencoder; our own config folder tells it their shape."""
    try:
        module: nn.Module = cls.from_single_file(
            checkpoint, config=str(family.configs), subfolder=part, local_files_only=True, torch_dtype=dtype
        )
    except Exception as error:  # diffusers raises many kinds for one cause: names or shapes that do not fit
        raise ModelError(
            f"the {part} of {where} cannot be read: {str(error).splitlines()[0][:300]}. Name another --family, or use another copy."
        ) from error
    lacking = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    if lacking:
        raise ModelError(
            f"the {part} of {where} lacks {len(lacking)} tensors, the first is {lacking[0]!r}. Name another --family, or use another copy."
        )
    return module.requires_grad_(False)


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtraError("diffusers", "pretrained") from error
    return diffusers


def _empty_unet(folder: Path) -> nn.Module:
    return _empty(_diffusers().UNet2DConditionModel, folder)


def _empty_vae(folder: Path) -> nn.Module:
    return _empty(_diffusers().AutoencoderKL, folder)


def _empty(cls: Any, folder: Path) -> nn.Module:
    config = _without_code(read_config(folder / "config.json"), folder / "config.json")
    if config.get("_class_name") != cls.__name__:
        raise ModelError(f"{str(folder)!r} asks for {config.get('_class_name')!r} where {cls.__name__} is expected; it is refused.")
    return _on_meta(cls, _arguments(config, _parameters(cls), folder), folder)


def _empty_clip(folder: Path) -> nn.Module:
    try:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
    except ImportError as error:
        raise MissingExtraError("transformers", "pretrained") from error
    classes = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}
    config = _without_code(read_config(folder / "config.json"), folder / "config.json")
    expected = "CLIPTextModelWithProjection" if folder.name == "text_encoder_2" else "CLIPTextModel"
    if config.get("architectures") != [expected]:
        raise ModelError(f"{str(folder)!r} asks for {str(config.get('architectures'))[:80]} where {expected} is expected; it is refused.")
    return _on_meta(lambda **arguments: classes[expected](CLIPTextConfig(**arguments)), _arguments(config, _CLIP_ARGUMENTS, folder), folder)


_CLIP_ARGUMENTS = (
    "vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
    "hidden_act", "layer_norm_eps", "bos_token_id", "pad_token_id", "eos_token_id",
)  # fmt: skip


def _on_meta(build: Callable[..., nn.Module], arguments: dict[str, Any], folder: Path) -> nn.Module:
    """The network without memory for its weights; buffers that no file holds, such as position ids, are real."""
    from accelerate import init_empty_weights

    try:
        with init_empty_weights(include_buffers=False):
            return build(**arguments)
    except Exception as error:  # the libraries raise many kinds for one cause: a value no network can have
        raise ModelError(
            f"the config in {str(folder)!r} describes no network: {str(error).splitlines()[0][:300]}. Use another copy."
        ) from error


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype, where: str) -> nn.Module:
    """Give an empty network its weights.  Tensors it has no place for (position ids, layers a config leaves out) are passed over."""
    own = module.state_dict()
    if "text_model.final_layer_norm.weight" in own:  # as transformers < 5.6 and the encoders with a projection have it
        tensors = {f"text_model.{name}" if f"text_model.{name}" in own else name: tensor for name, tensor in tensors.items()}
    wrong = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
    if wrong:
        raise ModelError(
            f"{where} does not fit its config: {len(wrong)} of {len(own)} tensors differ, the first is {wrong[0]!r}. Use another copy."
        )
    module.load_state_dict({name: tensors[name].to(dtype) for name in own}, assign=True)
    return module.eval().requires_grad_(False)


_PLAIN_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors")
_HALF_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)\.fp16(-\d{5}-of-\d{5})?\.safetensors")


def read_part(folder: Path) -> dict[str, Tensor]:
    """All tensors of one part of a diffusers folder, from one file or several shards; half precision if there is no other."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    chosen = [n for n in names if _PLAIN_WEIGHTS.fullmatch(n)] or [n for n in names if _HALF_WEIGHTS.fullmatch(n)]
    if not chosen:
        pickles = [folder / n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        if pickles:
            new = pickles[0].with_name(
                pickles[0].name.replace("pytorch_model.bin", "model.safetensors")
                if pickles[0].name == "pytorch_model.bin"
                else f"{pickles[0].stem}.safetensors"
            )
            raise UnsafeFileError(
                f"{str(pickles[0])!r} is a pickle, which can run code when loaded. Run: bowerbird convert {pickles[0]} --out {new}"
            )
        raise ModelError(
            f"no weights in {str(folder)!r}; expected model.safetensors or diffusion_pytorch_model.safetensors. Download the folder again."
        )
    tensors: dict[str, Tensor] = {}
    for name in chosen:
        tensors |= weights.load(folder / name)
    return tensors


_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def _renamed_attention(name: str) -> str:
    """Autoencoders saved before 2023 name their attention's projections otherwise."""
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name
