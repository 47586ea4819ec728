"""Low-rank matrices beside the weights of a Stable Diffusion U-Net (LoRA, arXiv:2106.09685), by peft; and the file they become.

They are the whole of what learns: the U-Net itself, and the text encoders where those learn too, stay as they are, are in memory
once, and every copy of the matrices, such as their running average, is read through them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from bowerbird import weights
from bowerbird.errors import MissingExtraError
from bowerbird.models.conditioning import Cond
from bowerbird.pretrained.families import Family
from bowerbird.pretrained.unets import predict
from bowerbird.pretrained.words import encode

# Where the matrices stand, by the ends of modules' names
TARGETS: dict[str, tuple[str, ...]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "transformer": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
}
ENCODER_TARGETS: dict[str, tuple[str, ...]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "transformer": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}
_ADAPTER = "default"  # peft's name for the only one
_ARCHITECTURES = {  # family: ModelSpec's name, kohya's name
    "sd15": ("stable-diffusion-v1", "sd_v1"),
    "sd21": ("stable-diffusion-v2-768-v", "sd_v2_v"),
    "sd21-base": ("stable-diffusion-v2-512", "sd_v2"),
    "x4": ("stable-diffusion-x4-upscaler", "sd_v2"),
    "sdxl": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
}


class AdaptedUNet(nn.Module):
    """A U-Net, called as in `predict`, beside whose weights matrices learn.

    With encoders, which have matrices too, `cond` has tokens instead of what they make of them (`words.encode`).

    Its parameters, in float32, are the matrices alone, under names such as `unet/mid_block/attn1/to_q/lora_A`.  At each call they
    are put into their networks in the dtype those compute in, and stay there until the next call of this or of a copy.
    """

    def __init__(self, unet: nn.Module, matrices: Mapping[str, Tensor], scale: float, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._shared = (unet, encoders)  # in a tuple, where they are no part of this module
        self.scale = scale  # of their product: alpha / rank
        self._places: dict[str, nn.Module] = {}
        for name, tensor in matrices.items():
            self.register_parameter(name, nn.Parameter(tensor.detach().float().clone()))
            network, _, place = name.partition("/")
            self._places[name] = {"unet": unet, **encoders}[network].get_submodule(f"{place.replace('/', '.')}.{_ADAPTER}")

    @property
    def unet(self) -> Any:
        return self._shared[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> AdaptedUNet:
        return AdaptedUNet(self.unet, dict(self.named_parameters()), self.scale, self._shared[1])

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        dtype = self.unet.dtype
        for name, parameter in self.named_parameters():
            self._places[name].weight = parameter.to(dtype)
        if self._shared[1]:
            cond = {**cond, **encode(self._shared[1], cond)}
        return predict(self.unet, x, time, cond)

    def file_tensors(self) -> dict[str, Tensor]:
        """The matrices under kohya's names, which diffusers, ComfyUI and AUTOMATIC1111's web UI read."""
        first = "te1" if "text_encoder_2" in self._shared[1] else "te"
        called = {"unet": "unet", "text_encoder": f"{first}_text_model", "text_encoder_2": "te2_text_model"}
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.named_parameters():
            network, _, place = name.partition("/")
            module, _, side = place.removeprefix("text_model/").rpartition("/")  # which some versions of transformers leave out
            stem = f"lora_{called[network]}_{module.replace('/', '_')}"
            tensors[f"{stem}.lora_{'down' if side == 'lora_A' else 'up'}.weight"] = parameter.detach().cpu().contiguous()
            if side == "lora_A":
                tensors[f"{stem}.alpha"] = torch.tensor(self.scale * len(parameter))
        return tensors


def adapted(
    unet: Any, rank: int, alpha: float, targets: str, recompute: bool = False, encoders: Mapping[str, Any] | None = None
) -> AdaptedUNet:
    """New matrices for a U-Net, and for the text encoders that are given, which do as before: one of each pair is 0.

    From the global random state.  recompute: keep little of a forward pass of the U-Net and do it again for the backward pass.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError("peft", "pretrained") from error
    encoders = dict(encoders or {})
    matrices: dict[str, Tensor] = {}
    for called, network in {"unet": unet, **encoders}.items():
        network.requires_grad_(False)
        settings: dict[str, Any] = {"target_modules": list((TARGETS if called == "unet" else ENCODER_TARGETS)[targets])}
        if called == "text_encoder" and "text_encoder_2" in encoders:  # XL does not read the last layer of its first encoder
            settings |= {"layers_to_transform": list(range(network.config.num_hidden_layers - 1)), "layers_pattern": "layers"}
        network.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, **settings), _ADAPTER)
        for name, module in list(network.named_modules()):
            if name.endswith((f".lora_A.{_ADAPTER}", f".lora_B.{_ADAPTER}")):
                matrices[f"{called}/{name.removesuffix(f'.{_ADAPTER}').replace('.', '/')}"] = module.weight
                del module.weight  # from now on a plain tensor, which AdaptedUNet puts there
    if recompute:
        unet.enable_gradient_checkpointing()
    return AdaptedUNet(unet, matrices, alpha / rank, encoders)


def lora_metadata(
    family: Family,
    base: str,
    base_sha256: str,
    size_px: int,
    shapes: Mapping[tuple[int, ...], int],
    trigger: str,
    captions: Iterable[str],
) -> dict[str, str]:
    """What other tools read of a LoRA: kohya's `ss_` entries and the ModelSpec (1.0.0) of a LoRA of this family.

    shapes: widths and heights of the pictures it learnt from, and how many have them.
    """
    buckets = {str(number): {"resolution": shape, "count": count} for number, (shape, count) in enumerate(sorted(shapes.items()))}
    architecture, version = _ARCHITECTURES[family.name]
    tags = Counter(tag for caption in captions for tag in caption.split(", "))
    told = {
        "ss_base_model_version": version,
        "ss_v2": str(family.name in ("sd21", "sd21-base", "x4")),
        "ss_sd_model_name": base,
        "ss_new_sd_model_hash": base_sha256,
        "ss_network_module": "networks.lora",
        "ss_resolution": f"({size_px}, {size_px})",
        "ss_enable_bucket": str(len(shapes) > 1),
        "ss_bucket_info": json.dumps({"buckets": buckets}),
        "ss_tag_frequency": json.dumps({"pictures": dict(tags.most_common(500))}),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"LoRA of {base}",
        "modelspec.resolution": f"{size_px}x{size_px}",
        "modelspec.prediction_type": "v" if family.name in ("sd21", "x4") else "epsilon",
    }
    return told | ({"modelspec.trigger_phrase": trigger, "ss_trigger_words": trigger} if trigger else {})


def lora_file(network: AdaptedUNet, metadata: Mapping[str, str]) -> bytes:
    """The LoRA as a safetensors file, with the hashes by which kohya's tools and web UIs know it."""
    tensors = network.file_tensors()
    rank = next(len(tensor) for name, tensor in tensors.items() if name.endswith("lora_down.weight"))
    told = {**metadata, "ss_network_dim": str(rank), "ss_network_alpha": f"{network.scale * rank:g}"}
    saved = safetensors.torch.save(tensors)
    start = 8 + int.from_bytes(saved[:8], "little")
    header, data = json.loads(saved[8:start]), saved[start:]
    # kohya hashes a file without what people may edit later
    hashed = _with_header(header, {name: words for name, words in told.items() if name.startswith("ss_")}, data)
    told["sshs_model_hash"] = hashlib.sha256(data).hexdigest()
    told["sshs_legacy_hash"] = hashlib.sha256(hashed[0x100000:0x110000]).hexdigest()[:8]
    told["modelspec.hash_sha256"] = f"0x{told['sshs_model_hash']}"
    return _with_header(header, told, data)


def _with_header(tensors: Mapping[str, Any], metadata: Mapping[str, str], data: bytes) -> bytes:
    """A safetensors file; safetensors itself writes metadata in another order each time."""
    words = json.dumps({weights.METADATA: dict(sorted(metadata.items())), **tensors}).encode()
    words += b" " * (-len(words) % 8)
    return len(words).to_bytes(8, "little") + words + data
