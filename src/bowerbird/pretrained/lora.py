"""LoRA files in the three namings in use: diffusers' (`.lora.down.`), PEFT's (`.lora_A.`) and kohya's (`lora_unet_...lora_down.`)."""

from __future__ import annotations

from pathlib import Path

from bowerbird import weights
from bowerbird.errors import ModelError, RequestError

MAX_RANK = 1024
_DOWN = ("lora_A.weight", "lora.down.weight", "lora_down.weight", "_lora.down.weight", ".lora_A.default.weight")


def check_lora(file: Path) -> int:
    """The highest rank in a LoRA file, from its header alone.  RequestError when it is none or beyond any real one."""
    try:
        header = weights.read_header(file)
    except ModelError as error:
        raise RequestError(f"this LoRA cannot be used: {error}") from error
    header.pop("__metadata__", None)
    ranks: list[int] = [min(entry["shape"][:2]) for name, entry in header.items() if name.endswith(_DOWN)]
    if not ranks:
        raise RequestError(f"{str(file)!r} holds no LoRA weights in diffusers', PEFT's or kohya's naming.")
    if max(ranks) > MAX_RANK:
        raise RequestError(f"{str(file)!r} has a LoRA of rank {max(ranks)}; ranks above {MAX_RANK} are refused.")
    return max(ranks)
