"""Tensors on disk: the only caller of safetensors for our own files.

Safetensors cannot run code, and its format checks that offsets lie inside the file; what it leaves open is checked
here: the size of the header (a 100k-entry header takes seconds to parse) and finite values.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bowerbird.errors import ModelError, UnsafeFileError

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 20_000
_PICKLE_SUFFIXES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The tensors as a safetensors file.  ModelError when one is not finite: such weights are never saved."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"the tensor {name!r} holds NaN or infinity and is not saved; go back to the last good checkpoint.")
    data: bytes = safetensors.torch.save(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, dict(metadata) if metadata else None
    )
    return data


def save_as_is(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Another program's tensors, bit for bit, NaN and infinity among them.  Names a temporary file first; a kill leaves no half file."""
    unfinished = path.with_name(f".tmp-{path.name}")
    safetensors.torch.save_file(dict(tensors), unfinished)
    unfinished.replace(path)


def read_header(path: Path) -> dict[str, Any]:
    """Names, dtypes, shapes and metadata of a safetensors file, without its data."""
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise UnsafeFileError(
            f"{str(path)!r} is a pickle, which can run code when loaded. Run: bowerbird convert {str(path)!r} --out NEW.safetensors"
        )
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise ModelError(f"{str(path)!r} is damaged or not a safetensors file ({size} bytes). Restore it, or use another copy.")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}: {error.strerror}. A model needs its weights as .safetensors.") from error
    except ValueError as error:  # bad UTF-8 or bad JSON
        raise ModelError(f"the header of {str(path)!r} is damaged. Restore it, or use another copy.") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise ModelError(f"the header of {str(path)!r} is not a table of at most {MAX_TENSORS} tensors; this file is not a model.")
    return header


def load(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU."""
    read_header(path)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(f"{str(path)!r} is damaged ({error}). Restore it, or use another copy.") from error
    return tensors


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put tensors into a module; ModelError when names or shapes do not match exactly."""
    own = module.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys()) or [k for k in own if own[k].shape != tensors[k].shape]
    if wrong:
        raise ModelError(
            f"{where} does not fit its config: {len(wrong)} tensors differ, the first is {wrong[0]!r}. Use the weights saved with it."
        )
    module.load_state_dict(dict(tensors))
