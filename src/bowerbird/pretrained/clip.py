"""CLIP's text side: its vocabulary, which ships with us, and the layouts in which its weights are found."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from bowerbird.errors import MissingExtraError, ModelError
from bowerbird.pretrained.configs import read_config

_MERGES = Path(__file__).parent / "families" / "clip" / "merges.txt"
_START, _END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77


def clip_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer; of `folder` only the padding word is read, which differs between the members of the family."""
    return _tokenizer(_padding(folder))


@cache
def _tokenizer(padding: str) -> Any:
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise MissingExtraError("transformers", "pretrained") from error
    vocabulary, merges = clip_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=padding, model_max_length=MAX_TOKENS)


@cache
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Word pieces with their numbers, and the merges they follow from: single bytes, bytes at a word's end, merges, two marks."""
    lines = _MERGES.read_text(encoding="utf-8").split("\n")[1:-1]
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    bytes_ = _byte_letters()
    pieces = [*bytes_, *(f"{letter}</w>" for letter in bytes_), *(left + right for left, right in merges), _START, _END]
    return {piece: number for number, piece in enumerate(pieces)}, merges


def _byte_letters() -> list[str]:
    """A visible letter for each of the 256 bytes: itself if it prints, else one from U+0100 on (GPT-2's byte-level alphabet)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, visible), *(chr(0x100 + i) for i in range(256 - len(visible)))]


def _padding(folder: Path) -> str:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        path = folder / "special_tokens_map.json"
    said = read_config(path).get("pad_token", _END) if path.is_file() else _END
    word = said.get("content") if isinstance(said, dict) else said
    if word not in (_END, "!"):
        raise ModelError(f"{str(path)!r} pads with {str(word)[:40]!r}; Stable Diffusion pads with '!' or {_END!r}. Use another copy.")
    return str(word)


def from_transformers(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A text encoder in transformers' names, under `prefix`; with or without `text_model.`, which came and went with versions."""
    return {name.removeprefix(prefix).removeprefix("text_model."): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def from_open_clip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A text encoder in OpenCLIP's names, under `prefix`, renamed to transformers'; query, key and value come as one matrix there."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            continue
        name = name.removeprefix(prefix)
        if name == "text_projection":
            renamed["text_projection.weight"] = tensor.T.contiguous()  # OpenCLIP multiplies from the right
        elif name in _OPEN_CLIP:
            renamed[_OPEN_CLIP[name]] = tensor
        elif name.startswith("transformer.resblocks."):
            _, _, layer, rest = name.split(".", 3)
            stem = f"encoder.layers.{layer}"
            if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
                for projection, rows in zip(("q", "k", "v"), tensor.chunk(3), strict=True):
                    renamed[f"{stem}.self_attn.{projection}_proj.{rest.rpartition('_')[2]}"] = rows.contiguous()
            else:
                part, _, kind = rest.rpartition(".")
                renamed[f"{stem}.{_OPEN_CLIP_LAYER.get(part, part)}.{kind}"] = tensor
    return renamed


_OPEN_CLIP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
