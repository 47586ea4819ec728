"""LoRA files, whoever wrote them: diffusers (`.lora.down.`), PEFT (`.lora_A.`) or kohya (`lora_unet_...lora_down.`).

A file is read, checked against the networks it is for, and brought into one form before anything is changed in them:

    unet.<module>.lora_A.weight (rank, in)    unet.<module>.lora_B.weight (out, rank)    text_encoder.<module>. ...

Its scale (alpha / rank; LoRA, arXiv:2106.09685, section 4.1) is multiplied into B.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bowerbird import weights
from bowerbird.errors import ModelError, RequestError
from bowerbird.pretrained.configs import first_line, read_config
from bowerbird.reading import parse_json

MAX_RANK = 1024
ENCODERS = ("text_encoder", "text_encoder_2")
_SIDES = {"down": "A", "up": "B", "A": "A", "B": "B"}
_NAME = re.compile(
    r"(?P<module>.+?)\.(?:lora_(?P<peft>[AB])(?:\.\w+)?|(?:lora|lora_linear_layer)\.(?P<diffusers>down|up)|lora_(?P<kohya>down|up))\.weight"
)
_OLD = re.compile(r"(?:\.processor)?\.(to_[qkv]|to_out)_lora\.")  # diffusers' names of 2023, for U-Nets and text encoders alike
_OLD_ENCODER = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w1": "LoHa",
    "lokr_w1": "LoKr",
    "lora_mid": "LoCon",
}


def read_lora(file: Path, networks: Mapping[str, nn.Module], pipeline: Any) -> dict[str, Tensor]:
    """The tensors of a LoRA in the form above.  RequestError says why a file is none, or what of it does not fit the networks.

    `pipeline` is diffusers' class for these networks, which knows how kohya numbers the U-Net's blocks.
    """
    where = f"the LoRA {str(file)!r}"
    try:
        header = weights.read_header(file)
        _check_header(header, where)
        tensors = weights.load(file)
        weights.check_numbers(tensors, where)
        tensors = _scaled(tensors, _alphas(file, header, tensors))
    except ModelError as error:
        raise RequestError(f"this LoRA cannot be used: {error}") from error
    if any(name.startswith("lora_") for name in tensors):
        try:
            tensors, _ = pipeline.lora_state_dict(tensors, unet_config=networks["unet"].config)
        except Exception as error:  # diffusers raises many kinds for one cause: names it does not know
            raise RequestError(f"{where} has names that fit no Stable Diffusion: {first_line(error)}. Use another copy.") from error
    return _fitted(tensors, networks, where)


def _check_header(header: weights.Header, where: str) -> None:
    """What names and shapes tell, before gigabytes are read: that it is a LoRA, of a kind and a rank that exist."""
    for name in header.shapes:
        for sign, kind in _OTHER_KINDS.items():
            if sign in name:
                raise RequestError(f"{where} is of another kind, {kind}, which Bowerbird does not read. Ask for it as plain LoRA.")
    found = {name: shape for name, shape in header.shapes.items() if _parsed(name)}
    if not found:
        raise RequestError(f"{where} holds no LoRA weights in diffusers', PEFT's or kohya's naming.")
    for name, shape in found.items():
        if len(shape) not in (2, 4) or 0 in shape:
            raise RequestError(f"the tensor {name!r} of {where} has the shape {list(shape)}, which is no matrix. Use another copy.")
        if min(shape[:2]) > MAX_RANK:
            raise RequestError(f"{where} has rank {min(shape[:2])} in {name!r}; ranks above {MAX_RANK} are refused.")


def _parsed(name: str) -> re.Match[str] | None:
    """The parts of a tensor's name; None when it is no LoRA's."""

    def newer(found: re.Match[str]) -> str:
        usual = _OLD_ENCODER if ".self_attn." in name else {"to_out": "to_out.0"}
        return f".{usual.get(found[1], found[1])}.lora."

    return _NAME.fullmatch(_OLD.sub(newer, name))


def _alphas(file: Path, header: weights.Header, tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Alpha where the file, or PEFT's config beside it, says one: by the stem of the name, "" for all others."""
    told = {name.removesuffix(".alpha"): tensor.float() for name, tensor in tensors.items() if name.endswith(".alpha")}
    if any(tensor.numel() != 1 for tensor in told.values()):
        raise ModelError(f"the LoRA {str(file)!r} has an alpha that is not one number. Use another copy.")
    alphas = {stem: float(tensor) for stem, tensor in told.items()}
    beside = file.with_name("adapter_config.json")
    if "lora_adapter_metadata" in header.metadata:  # diffusers' way
        try:
            settings = parse_json(header.metadata["lora_adapter_metadata"].encode())
        except ValueError as error:
            raise ModelError(f"the settings in the LoRA {str(file)!r} are damaged. Use another copy.") from error
        for component in ("unet", *ENCODERS):
            alphas |= _configured(settings, f"{component}.", file)
    elif file.name == "adapter_model.safetensors" and beside.is_file():  # PEFT's way
        alphas |= _configured(read_config(beside), "", file)
    return alphas


def _configured(settings: Any, prefix: str, file: Path) -> dict[str, float]:
    """The one alpha in a table of PEFT's settings, for names that begin with `prefix`; its patterns are refused."""
    if not isinstance(settings, dict):
        raise ModelError(f"the settings in the LoRA {str(file)!r} are no table. Use another copy.")
    if any(settings.get(f"{prefix}{key}") for key in ("alpha_pattern", "use_rslora", "use_dora")):
        raise ModelError(f"the LoRA {str(file)!r} is scaled in a way that Bowerbird does not read (patterns, rsLoRA or DoRA).")
    alpha = settings.get(f"{prefix}lora_alpha")
    if alpha is None:
        return {}
    if not isinstance(alpha, int | float) or not 0 <= alpha <= 1e6:
        raise ModelError(f"the LoRA {str(file)!r} has alpha = {str(alpha)[:40]}, which is no scale. Use another copy.")
    return {prefix: float(alpha)}


def _scaled(tensors: Mapping[str, Tensor], alphas: Mapping[str, float]) -> dict[str, Tensor]:
    """The tensors without their alphas, B multiplied by alpha / rank, in float32."""
    scaled = {name: tensor.float() for name, tensor in tensors.items() if not name.endswith(".alpha")}
    general = {prefix: alpha for prefix, alpha in alphas.items() if prefix == "" or prefix.endswith(".")}
    for name, tensor in scaled.items():
        parsed = _parsed(name)
        if parsed is None or _side(parsed) != "B":
            continue
        alpha = alphas.get(parsed["module"]) or next((alpha for prefix, alpha in general.items() if name.startswith(prefix)), None)
        if alpha is not None:
            scaled[name] = tensor * (alpha / tensor.shape[1])
    return scaled


def _side(parsed: re.Match[str]) -> str:
    return _SIDES[parsed["peft"] or parsed["diffusers"] or parsed["kohya"]]


def _fitted(tensors: Mapping[str, Tensor], networks: Mapping[str, nn.Module], where: str) -> dict[str, Tensor]:
    """The tensors under our names, once each has a place in the networks and its partner."""
    fitted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parsed = _parsed(name)
        place = _place(parsed["module"], networks) if parsed else None
        if parsed is None or place is None:
            raise RequestError(f"{where} does not fit this model: it has no part for {name!r}. It was made for another one.")
        component, module = place
        layer = networks[component].get_submodule(module)
        weight: Tensor = layer.weight  # type: ignore[assignment]
        side, index = _side(parsed), 1 if _side(parsed) == "A" else 0
        kernel = tuple(weight.shape[2:]) if side == "A" else (1,) * (weight.ndim - 2)
        if tensor.ndim != weight.ndim or tensor.shape[index] != weight.shape[index] or tuple(tensor.shape[2:]) != kernel:
            raise RequestError(
                f"{where} does not fit this model: {name!r} has the shape {list(tensor.shape)} for weights of {list(weight.shape)}. "
                "It was made for another one."
            )
        fitted[f"{component}.{module}.lora_{side}.weight"] = tensor
    for name, tensor in fitted.items():
        partner = fitted.get(name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A."))
        if partner is None or (".lora_A." in name and partner.shape[1] != tensor.shape[0]):
            raise RequestError(f"{where} is incomplete: {name!r} has no partner of its rank. Use another copy.")
    return fitted


def _place(name: str, networks: Mapping[str, nn.Module]) -> tuple[str, str] | None:
    """The network and the module that a name means; PEFT leaves out which network, and transformers' `text_model.` comes and goes."""
    name = name.removeprefix("base_model.model.")
    component, _, rest = name.partition(".")
    named = [(component, rest)] if component in networks else [(each, name) for each in ("unet", *ENCODERS) if each in networks]
    for network, module in named:
        for spelled in (module, module.removeprefix("text_model."), f"text_model.{module}"):
            if _is_adaptable(networks[network], spelled):
                return network, spelled
    return None


def _is_adaptable(network: nn.Module, module: str) -> bool:
    try:
        return isinstance(getattr(network.get_submodule(module), "weight", None), nn.Parameter)
    except AttributeError:
        return False
