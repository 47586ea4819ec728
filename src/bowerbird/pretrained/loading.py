"""From a file or a folder to the parts of a Stable Diffusion model: networks, tokenizers, scheduler config.

Nothing found in a model can name code.  Configs are read as data; the classes they mention are compared with the table
below and built by us from the arguments those classes have; weights come from safetensors files only.  diffusers and
transformers never see a stranger's folder, and nothing here opens a connection.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bowerbird import weights
from bowerbird.errors import MissingExtraError, ModelError, UnsafeFileError
from bowerbird.pretrained.clip import clip_tokenizer, clip_vocabulary, from_open_clip, from_transformers
from bowerbird.pretrained.configs import (
    NETWORKS,
    SCHEDULERS,
    TEXT_ENCODERS,
    TOKENIZERS,
    checked_arguments,
    class_arguments,
    first_line,
    options_of,
    read_config,
    read_index,
    read_scheduler_config,
)
from bowerbird.pretrained.families import FAMILIES, Family, Prediction, Recognised

MAX_SIDE_LATENTS = 1024


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


def load_parts(
    path: Path, found: Recognised, dtype: torch.dtype, prediction: Prediction | None = None, exact: Collection[str] = ()
) -> Parts:
    """Read the model at `path`, which `recognise` took for `found`, into memory as `dtype`.  ModelError when it is damaged.

    exact: names of networks that are read in float32 whatever the others are.
    """
    configs = path if path.is_dir() else found.family.configs
    index = read_index(configs)  # everything small is read and checked first, gigabytes of weights last
    tokenizers = {name: clip_tokenizer(configs / name, _words_read(configs, name)) for name in TOKENIZERS if name in index}
    schedulers = {name: read_scheduler_config(configs / name / "scheduler_config.json") for name in SCHEDULERS if name in index}
    dtypes = {name: torch.float32 if name in exact else dtype for name in NETWORKS}
    networks = _networks_of_folder(path, index, dtypes) if path.is_dir() else _networks_of_file(path, found.family, index, dtypes)
    _check_side(networks["unet"].config.sample_size, path)
    parts = Parts(found.family, found.ground, "epsilon", networks, tokenizers, schedulers, options_of(index))
    return _settle_prediction(parts, found, prediction)


def _check_side(sample_size: Any, path: Path) -> None:
    """ModelError unless the U-Net says what it was trained on: squares of so many latents."""
    sides = sample_size if isinstance(sample_size, list | tuple) else [sample_size]
    if not all(type(side) is int and 0 < side <= MAX_SIDE_LATENTS and side == sides[0] for side in sides) or not sides:
        raise ModelError(
            f"the U-Net of {str(path)!r} sets sample_size = {str(sample_size)[:80]}, where the side of a square in latents is expected. "
            "Use another copy."
        )


def _words_read(configs: Path, tokenizer: str) -> int:
    """How many words the text encoder that goes with a tokenizer has."""
    path = configs / tokenizer.replace("tokenizer", "text_encoder") / "config.json"
    count = read_config(path).get("vocab_size", len(clip_vocabulary()[0]))
    if type(count) is not int:
        raise ModelError(f"{str(path)!r} sets vocab_size = {str(count)[:40]}, where a whole number is expected. Use another copy.")
    return count


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


# Networks


def _networks_of_folder(folder: Path, index: Mapping[str, Any], dtypes: Mapping[str, torch.dtype]) -> dict[str, Any]:
    networks = {name: _empty(_network_class(name), folder / name) for name in NETWORKS if name in index}
    for name, network in networks.items():
        tensors = read_part(folder / name)
        fill(network, from_transformers(tensors, "") if name in TEXT_ENCODERS else tensors, dtypes[name], f"the {name} of {str(folder)!r}")
    return networks


def open_network(cls: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    """One network of a diffusers class from the config and the weights in `folder`.  ModelError when they are damaged or do not fit."""
    return fill(_empty(cls, folder), read_part(folder), dtype, f"the network in {str(folder)!r}")


def _networks_of_file(path: Path, family: Family, index: Mapping[str, Any], dtypes: Mapping[str, torch.dtype]) -> dict[str, Any]:
    """A checkpoint in the layout of the original releases: all parts in one file, under the names its trainer used.

    An EMA copy of the U-Net (`model_ema.*`) is left out: tools read the plain weights, and so does what diffusers converts.
    """
    checkpoint = {name: tensor for name, tensor in weights.load(path).items() if not name.startswith("model_ema.")}
    where = f"{family.words} in {str(path)!r}"
    networks = {part: _converted(part, checkpoint, family, dtypes[part], where) for part in ("unet", "vae")}
    for name in (name for name in TEXT_ENCODERS if name in index):
        networks[name] = fill(
            _empty(_network_class(name), family.configs / name),
            _text_weights(checkpoint, family, name),
            dtypes[name],
            f"the {name} of {where}",
        )
    return networks


def _text_weights(checkpoint: Mapping[str, Tensor], family: Family, name: str) -> dict[str, Tensor]:
    if family.name.startswith("sdxl"):
        if name == "text_encoder":
            return from_transformers(checkpoint, "conditioner.embedders.0.transformer.")
        return from_open_clip(checkpoint, "conditioner.embedders.1.model.")
    if family.name.startswith("sd15"):
        return from_transformers(checkpoint, "cond_stage_model.transformer.")
    return from_open_clip(checkpoint, "cond_stage_model.model.")


def _converted(part: str, checkpoint: dict[str, Tensor], family: Family, dtype: torch.dtype, where: str) -> nn.Module:
    """diffusers renames the U-Net and the autoencoder; our own config folder tells it their shape."""
    try:
        module: nn.Module = _network_class(part).from_single_file(
            checkpoint, config=str(family.configs), subfolder=part, local_files_only=True, torch_dtype=dtype
        )
    except Exception as error:  # diffusers raises many kinds for one cause: names or shapes that do not fit
        reason = first_line(error).split(". ")[0].rstrip(".")
        raise ModelError(f"the {part} of {where} cannot be read: {reason}. Name another --family, or use another copy.") from error
    lacking = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    if lacking:
        raise ModelError(
            f"the {part} of {where} lacks {len(lacking)} tensors, the first is {lacking[0]!r}. Name another --family, or use another copy."
        )
    weights.check_numbers(module.state_dict(), f"the {part} of {where}")
    return module


def _network_class(part: str) -> Any:
    classes = diffusers_classes()
    if part not in TEXT_ENCODERS:
        return classes[{"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}[part]]
    transformers = quiet_transformers()
    return {"text_encoder": transformers.CLIPTextModel, "text_encoder_2": transformers.CLIPTextModelWithProjection}[part]


def quiet_transformers() -> Any:
    """transformers without its remarks; MissingExtraError where there is none."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "pretrained") from error
    transformers.logging.set_verbosity_error()  # its remarks are about how it was called, which is our business
    transformers.logging.disable_progress_bar()
    return transformers


def diffusers_classes() -> dict[str, Any]:
    """The networks of diffusers that a model may name; MissingExtraError without diffusers."""
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtraError("diffusers", "pretrained") from error
    diffusers.logging.set_verbosity_error()  # its remarks are about how it was called, which is our business
    return {
        cls.__name__: cls
        for cls in (
            diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, diffusers.AutoencoderDC, diffusers.AutoencoderTiny, diffusers.VQModel,
        )
    }  # fmt: skip


# What shapes a text encoder; a published config has a hundred entries more, defaults of the version that wrote it
CLIP_ARGUMENTS = (
    "vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads", "hidden_act",
    "max_position_embeddings", "layer_norm_eps", "bos_token_id", "pad_token_id", "eos_token_id",
)  # fmt: skip


def _empty(cls: Any, folder: Path) -> Any:
    """The network a config describes, without memory for its weights."""
    config, path = read_config(folder / "config.json"), folder / "config.json"
    is_text_encoder = hasattr(cls, "config_class")  # transformers' way
    named = config.get("architectures") if is_text_encoder else [config.get("_class_name", cls.__name__)]
    if named != [cls.__name__]:
        raise ModelError(f"{str(path)!r} asks for {str(named)[:80]} where {cls.__name__} is expected; it is refused.")
    if is_text_encoder:
        return build_empty(lambda: cls(cls.config_class(**checked_arguments(config, CLIP_ARGUMENTS, path))), path)
    return build_empty(lambda: cls(**class_arguments(cls, config, path)), path)


def build_empty(make: Callable[[], Any], path: Path) -> Any:
    """What `make` builds of the config at `path`, without memory for its weights; buffers no file holds, such as position ids, are real."""
    from accelerate import init_empty_weights

    try:
        with init_empty_weights(include_buffers=False):
            return make()
    except ModelError:
        raise
    except Exception as error:  # the libraries raise many kinds for one cause: a value no network can have
        raise ModelError(f"{str(path)!r} describes no network: {first_line(error)}. Use another copy.") from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype, where: str) -> nn.Module:
    """Give an empty network its weights.  Tensors it has no place for (position ids, layers a config leaves out) are passed over."""
    own = module.state_dict()
    # text encoders with a projection, and all of them before transformers 5.6, keep their layers under `text_model.`
    tensors = {f"text_model.{name}" if f"text_model.{name}" in own else name: tensor for name, tensor in tensors.items()}
    if any(".to_q." in name for name in own):
        tensors = {_renamed_attention(name): tensor for name, tensor in tensors.items()}
    wrong = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
    if wrong:
        raise ModelError(
            f"{where} does not fit its config: {len(wrong)} of {len(own)} tensors differ, the first is {wrong[0]!r}. Use another copy."
        )
    weights.check_numbers({name: tensors[name] for name in own}, where)
    whole = {name: tensors[name].to(dtype if own[name].is_floating_point() else own[name].dtype) for name in own}
    module.load_state_dict(whole, assign=True)
    return module.eval()


_PLAIN_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors")
_HALF_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)\.fp16(-\d{5}-of-\d{5})?\.safetensors")


def read_part(folder: Path) -> dict[str, Tensor]:
    """All tensors of one part of a diffusers folder, from one file or several shards; half precision if there is no other."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors |= weights.load(file)
    return tensors


def native_side(path: Path, family: Family) -> int:
    """Side in pixels of what a Stable Diffusion at `path` was made to paint."""
    configs = path if path.is_dir() else family.configs
    latents, levels = (
        read_config(configs / part / "config.json").get(key) for part, key in (("unet", "sample_size"), ("vae", "block_out_channels"))
    )
    if type(latents) is not int or not 0 < latents <= 512 or not isinstance(levels, list):
        raise ModelError(f"the configs of {str(path)!r} do not say at which size it paints. Use another copy.")
    return int(latents * 2 ** (len(levels) - 1))


def count_weights(path: Path) -> int:
    """How many numbers a model's networks hold, from the headers of its files."""
    files = [file for name in NETWORKS if (path / name).is_dir() for file in weight_files(path / name)] if path.is_dir() else [path]
    headers = [weights.read_header(file) for file in files]
    return sum(math.prod(shape) for header in headers for name, shape in header.shapes.items() if not name.startswith("model_ema."))


def count_unet_weights(path: Path) -> int:
    """How many numbers the U-Net of a model holds, from the headers of its files."""
    prefix = "" if path.is_dir() else "model.diffusion_model."
    headers = [weights.read_header(file) for file in (weight_files(path / "unet") if path.is_dir() else [path])]
    return sum(math.prod(shape) for header in headers for name, shape in header.shapes.items() if name.startswith(prefix))


def weights_sha256(path: Path, networks: Sequence[str] = ("unet",)) -> str:
    """Of the file, or of the files of a folder's networks; of its U-Net alone, which model a LoRA was made for."""
    digest = hashlib.sha256()
    for file in [file for name in networks for file in weight_files(path / name)] if path.is_dir() else [path]:
        with file.open("rb") as opened:
            while block := opened.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files of one part that hold its weights; UnsafeFileError when there are only pickles."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    chosen = [name for name in names if _PLAIN_WEIGHTS.fullmatch(name)] or [name for name in names if _HALF_WEIGHTS.fullmatch(name)]
    if not chosen:
        for old, new in (("diffusion_pytorch_model.bin", "diffusion_pytorch_model"), ("pytorch_model.bin", "model")):
            if old in names:
                command = f"bowerbird convert {shlex.quote(str(folder / old))} --out {shlex.quote(str(folder / new))}.safetensors"
                raise UnsafeFileError(f"{str(folder / old)!r} is a pickle, which can run code when loaded. Run: {command}")
        raise ModelError(f"no weights in {str(folder)!r}; expected model.safetensors or diffusion_pytorch_model.safetensors.")
    return [folder / name for name in chosen]


_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def _renamed_attention(name: str) -> str:
    """Autoencoders saved before 2023 name their attention's projections otherwise."""
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name
