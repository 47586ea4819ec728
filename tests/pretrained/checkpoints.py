"""Stable Diffusion checkpoints at tiny widths, in the layout in which the real ones were published.

Names are built here from the structure of the original code bases (CompVis' and Stability's U-Net, LDM's autoencoder,
OpenAI's and OpenCLIP's text encoders), not taken from what an installed library happens to save today.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bowerbird.pretrained import families
from bowerbird.pretrained.clip import clip_vocabulary

Tensors = dict[str, Tensor]


def read_json(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text())
    return config


# Configs


def write_tiny_families(root: Path) -> None:
    """The shipped config folders with the same structure at tiny widths."""
    for name in families.FAMILIES:
        for path in (families._HERE / name).rglob("*.json"):
            config = read_json(path)
            shrink = _SHRINK.get(path.parent.name)
            target = root / name / path.relative_to(families._HERE / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(shrink(config) if shrink else config))


def _tiny_unet(config: dict[str, Any]) -> dict[str, Any]:
    levels, xl = len(config["block_out_channels"]), config.get("addition_embed_type") is not None
    return {
        **config,
        "block_out_channels": [8, 16, 16, 16][:levels],
        "norm_num_groups": 8,
        "attention_head_dim": [1, 2, 2, 2][:levels] if isinstance(config["attention_head_dim"], list) else 2,
        "cross_attention_dim": 64 if xl else 32,
        "sample_size": 8,
        **(
            {"transformer_layers_per_block": [1, 1, 2], "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80}
            if xl
            else {}
        ),
    }


def _tiny_vae(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "block_out_channels": [8, 8, 16, 16][: len(config["block_out_channels"])], "norm_num_groups": 8, "sample_size": 64}


def _tiny_clip(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "projection_dim": 32}


_SHRINK: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "unet": _tiny_unet, "vae": _tiny_vae, "text_encoder": _tiny_clip, "text_encoder_2": _tiny_clip,
}  # fmt: skip


def networks(configs: Path, seed: int = 0) -> dict[str, nn.Module]:
    """Randomly initialised networks for a config folder."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def config(part: str) -> dict[str, Any]:
        return read_json(configs / part / "config.json")

    torch.manual_seed(seed)
    made: dict[str, nn.Module] = {"unet": UNet2DConditionModel.from_config(config("unet")), "vae": AutoencoderKL.from_config(config("vae"))}
    for part, cls in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        if (configs / part).exists():
            made[part] = cls(CLIPTextConfig(**config(part)))
    return {part: network.eval() for part, network in made.items()}


# The layout of the original single files


def single_file(made: dict[str, nn.Module], family: str, ema: bool = False, half: bool = True, text_model: bool = True) -> Tensors:
    """One checkpoint with all parts, their training-time extras among them."""
    unet = {f"model.diffusion_model.{name}": tensor for name, tensor in ldm_unet(made["unet"]).items()}
    tensors = unet | {f"first_stage_model.{name}": tensor for name, tensor in ldm_vae(made["vae"]).items()}
    if family.startswith("sdxl"):
        tensors |= published_clip(made["text_encoder"], "conditioner.embedders.0.transformer.", text_model)
        tensors |= open_clip(made["text_encoder_2"], "conditioner.embedders.1.model.")
    elif family.startswith("sd15"):
        tensors |= published_clip(made["text_encoder"], "cond_stage_model.transformer.", text_model)
    else:
        tensors |= open_clip(made["text_encoder"], "cond_stage_model.model.", extra_layer=True)
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if ema:  # the averaged copy, its dots left out, with other values than the plain weights
        tensors |= {"model_ema." + name.removeprefix("model.").replace(".", ""): torch.zeros_like(tensor) for name, tensor in unet.items()}
        tensors |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(1)}
    tensors |= {name: torch.linspace(0, 1, 1000) for name in ("betas", "alphas_cumprod", "sqrt_recip_alphas_cumprod")}
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def ldm_unet(unet: nn.Module) -> Tensors:
    config: Any = unet.config
    levels, layers = len(config.block_out_channels), config.layers_per_block
    own = unet.state_dict()
    prefixes = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
        "class_embedding": "label_emb", "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }  # fmt: skip
    for level in range(levels):
        for layer in range(layers):
            block = 1 + level * (layers + 1) + layer
            prefixes[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{block}.0"
            prefixes[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{block}.1"
        prefixes[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
        for layer in range(layers + 1):
            block = level * (layers + 1) + layer
            prefixes[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{block}.0"
            prefixes[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{block}.1"
        with_attention = any(name.startswith(f"up_blocks.{level}.attentions.") for name in own)
        prefixes[f"up_blocks.{level}.upsamplers.0.conv"] = (
            f"output_blocks.{level * (layers + 1) + layers}.{2 if with_attention else 1}.conv"
        )
    inside = {
        ".norm1.": ".in_layers.0.", ".conv1.": ".in_layers.2.", ".time_emb_proj.": ".emb_layers.1.", ".norm2.": ".out_layers.0.",
        ".conv2.": ".out_layers.3.", ".conv_shortcut.": ".skip_connection.",
    }  # fmt: skip
    return {_renamed(name, prefixes, inside if ".resnets." in name else {}): tensor for name, tensor in own.items()}


def ldm_vae(vae: nn.Module) -> Tensors:
    config: Any = vae.config
    levels, layers = len(config.block_out_channels), config.layers_per_block
    prefixes: dict[str, str] = {}
    for side in ("encoder", "decoder"):
        prefixes |= {f"{side}.conv_norm_out": f"{side}.norm_out", f"{side}.mid_block.attentions.0": f"{side}.mid.attn_1"}
        prefixes |= {f"{side}.mid_block.resnets.{i}": f"{side}.mid.block_{i + 1}" for i in (0, 1)}
    for level in range(levels):
        prefixes[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        prefixes[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"decoder.up.{levels - 1 - level}.upsample.conv"
        for layer in range(layers + 1):
            prefixes[f"encoder.down_blocks.{level}.resnets.{layer}"] = f"encoder.down.{level}.block.{layer}"
            prefixes[f"decoder.up_blocks.{level}.resnets.{layer}"] = f"decoder.up.{levels - 1 - level}.block.{layer}"
    inside = {
        ".group_norm.": ".norm.",
        ".to_q.": ".q.",
        ".to_k.": ".k.",
        ".to_v.": ".v.",
        ".to_out.0.": ".proj_out.",
        ".conv_shortcut.": ".nin_shortcut.",
    }
    named = {_renamed(name, prefixes, inside): tensor for name, tensor in vae.state_dict().items()}
    attention = (".q.weight", ".k.weight", ".v.weight", ".proj_out.weight")  # 1x1 convolutions there
    return {name: tensor[:, :, None, None] if name.endswith(attention) else tensor for name, tensor in named.items()}


def published_clip(encoder: nn.Module, prefix: str, text_model: bool = True) -> Tensors:
    """transformers' names of 2022: everything under `text_model.`, position ids saved as well."""
    named = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    named["embeddings.position_ids"] = torch.arange(77)[None]
    inner = "text_model." if text_model else ""
    return {prefix + ("" if name == "text_projection.weight" else inner) + name: tensor for name, tensor in named.items()}


def open_clip(encoder: nn.Module, prefix: str, extra_layer: bool = False) -> Tensors:
    """OpenCLIP's names.  SD 2.x uses the last layer but one, so its files hold a layer more than the config asks for."""
    own = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    width = own["final_layer_norm.weight"].shape[0]
    named = {
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "ln_final.weight": own["final_layer_norm.weight"], "ln_final.bias": own["final_layer_norm.bias"],
        "text_projection": own["text_projection.weight"].T if "text_projection.weight" in own else torch.randn(width, width),
        "logit_scale": torch.tensor(4.6), "attn_mask": torch.zeros(77, 77),
    }  # fmt: skip
    layers = 1 + max(int(name.split(".")[2]) for name in own if name.startswith("encoder.layers."))
    for layer in range(layers + extra_layer):
        source, target = f"encoder.layers.{min(layer, layers - 1)}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            named[f"{target}.attn.in_proj_{kind}"] = torch.cat([own[f"{source}.self_attn.{p}_proj.{kind}"] for p in "qkv"])
            for theirs, ours in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                named[f"{target}.{theirs}.{kind}"] = own[f"{source}.{ours}.{kind}"]
    return {prefix + name: tensor for name, tensor in named.items()}


def _renamed(name: str, prefixes: dict[str, str], inside: dict[str, str]) -> str:
    stem = max((p for p in prefixes if name.startswith(f"{p}.")), key=len, default="")
    rest = name.removeprefix(stem)
    for ours, theirs in inside.items():
        rest = rest.replace(ours, theirs)
    return prefixes.get(stem, "") + rest


# The layout of a diffusers folder


def write_diffusers_folder(folder: Path, made: dict[str, nn.Module], configs: Path, old_names: bool = True, half: str = "") -> Path:
    """A folder as the hub has it: configs with the versions that wrote them, text encoder under `text_model.`, a tokenizer's files."""
    for path in configs.rglob("*.json"):
        target = folder / path.relative_to(configs)
        target.parent.mkdir(parents=True, exist_ok=True)
        config = read_json(path)
        if target.name == "config.json":
            config |= {"_diffusers_version": "0.6.0", "_name_or_path": "somebody/else"}
        if target.name == "model_index.json":
            config |= {"_diffusers_version": "0.6.0", "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
            config |= {"feature_extractor": ["transformers", "CLIPImageProcessor"], "requires_safety_checker": True}
            if "XL" in config["_class_name"] or "Upscale" in config["_class_name"]:
                for name in ("safety_checker", "feature_extractor", "requires_safety_checker"):
                    del config[name]
        target.write_text(json.dumps(config))
    vocabulary, merges = clip_vocabulary()
    for tokenizer in (path for path in folder.glob("tokenizer*")):
        (tokenizer / "vocab.json").write_text(json.dumps(vocabulary))
        (tokenizer / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
        (tokenizer / "tokenizer_config.json").write_text(
            json.dumps({**read_json(tokenizer / "tokenizer_config.json"), "model_max_length": 77})
        )
    for part, network in made.items():
        tensors = dict(network.state_dict())
        if part.startswith("text_encoder"):
            tensors = published_clip(network, "")
        if part == "vae" and old_names:  # attention as it was called until 2023
            for new, old in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")):
                tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
        stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
        save_file({name: t.contiguous().clone() for name, t in tensors.items()}, folder / part / f"{stem}{half}.safetensors")
    return folder


# LoRA files


def lora_files(folder: Path, unet: nn.Module, rank: int = 4, alpha: float = 2.0, seed: int = 0) -> tuple[dict[str, Path], Tensors]:
    """The same LoRA of the U-Net's attention in the three namings in use, and what it adds to each weight."""
    generator = torch.Generator().manual_seed(seed)
    ours = {
        name.removesuffix(".weight"): t
        for name, t in unet.state_dict().items()
        if ".attn" in name and name.endswith(("to_q.weight", "to_v.weight"))
    }
    down = {name: torch.randn(rank, weight.shape[1], generator=generator) for name, weight in ours.items()}
    up = {name: torch.randn(weight.shape[0], rank, generator=generator) for name, weight in ours.items()}
    scale = alpha / rank
    peft: Tensors = {}
    diffusers: Tensors = {}
    kohya: Tensors = {}
    for name in ours:
        peft |= {f"unet.{name}.lora_A.weight": down[name], f"unet.{name}.lora_B.weight": up[name] * scale}
        diffusers |= {f"unet.{name}.lora.down.weight": down[name], f"unet.{name}.lora.up.weight": up[name] * scale}
        stem = f"lora_unet_{name.replace('.', '_')}"
        kohya |= {f"{stem}.lora_down.weight": down[name], f"{stem}.lora_up.weight": up[name], f"{stem}.alpha": torch.tensor(alpha)}
    paths = {}
    for naming, tensors in (("peft", peft), ("diffusers", diffusers), ("kohya", kohya)):
        paths[naming] = folder / f"{naming}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, paths[naming])
    return paths, {f"{name}.weight": scale * up[name] @ down[name] for name in ours}
