"""Tensors on disk: the only caller of safetensors.

Safetensors cannot run code, and its format checks that offsets lie inside the file; what it leaves open is checked
here: the size of the header (a 100k-entry header takes seconds to parse), what its entries say, and finite values.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bowerbird.errors import ModelError, UnsafeFileError
from bowerbird.reading import open_regular, parse_json

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 8
METADATA = "__metadata__"  # what safetensors calls its own entry, so no tensor can have this name
_PICKLE_SUFFIXES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E4M3FNUZ": 1, "F8_E5M2": 1, "F8_E5M2FNUZ": 1, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds, without its data: shapes by tensor name, and words of whoever wrote it."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The tensors as a safetensors file.  ModelError when one is not finite: such weights are never saved."""
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
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


def read_header(path: Path) -> Header:
    """The header of a safetensors file.  ModelError when it is damaged, UnsafeFileError for a pickle."""
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        command = f"bowerbird convert {shlex.quote(str(path))} --out NEW.safetensors"
        raise UnsafeFileError(f"{str(path)!r} is a pickle, which can run code when loaded. Run: {command}")
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise ModelError(f"{str(path)!r} is damaged or not a safetensors file ({size} bytes). Restore it, or use another copy.")
            entries = parse_json(file.read(length))
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}: {error.strerror}. A model needs its weights as .safetensors.") from error
    except ValueError as error:  # bad UTF-8 or bad JSON
        raise ModelError(f"the header of {str(path)!r} is damaged. Restore it, or use another copy.") from error
    if not isinstance(entries, dict) or len(entries) > MAX_TENSORS:
        raise ModelError(f"the header of {str(path)!r} is not a table of at most {MAX_TENSORS} tensors; this file is not a model.")
    metadata = entries.pop(METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelError(f"the header of {str(path)!r} holds metadata that is not text. Restore it, or use another copy.")
    return Header({name: _shape(name, entry, path) for name, entry in entries.items()}, metadata)


def _shape(name: str, entry: Any, path: Path) -> tuple[int, ...]:
    """The shape that a header's entry gives its tensor, once all it says is sane."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
        raise ModelError(f"the header of {str(path)!r} does not describe the tensor {name[:100]!r}. Restore it, or use another copy.")
    if dtype not in _BYTES:
        raise ModelError(f"the tensor {name[:100]!r} of {str(path)!r} has numbers of an unknown kind, {dtype[:20]!r}. Use another copy.")
    if offsets[1] - offsets[0] != math.prod(shape) * _BYTES[dtype]:
        raise ModelError(f"the tensor {name[:100]!r} of {str(path)!r} has another size than its shape. Restore it, or use another copy.")
    return shape


def _counts(value: Any) -> tuple[int, ...] | None:
    """A list of whole numbers that are no less than 0, and no more than a file can mean; None for anything else."""
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**63 for item in value):
        return None
    return tuple(value)


def load(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU."""
    read_header(path)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(f"{str(path)!r} is damaged ({error}). Restore it, or use another copy.") from error
    return tensors


def check_numbers(tensors: Mapping[str, Tensor], where: str) -> None:
    """ModelError naming the first tensor that no network can compute with: NaN or infinity paint black, complex numbers nothing."""
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise ModelError(f"the tensor {name!r} of {where} holds complex numbers, which no model here has. Use another copy.")
        if not _is_finite(tensor):
            raise ModelError(f"the tensor {name!r} of {where} holds NaN or infinity. Use another copy.")


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all())  # PyTorch cannot ask eight-bit floats


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put tensors into a module; ModelError when names or shapes do not match exactly, or a number is none."""
    check_fit(module, tensors, where)
    check_numbers(tensors, where)
    module.load_state_dict(dict(tensors))


def check_fit(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """ModelError when names or shapes do not match exactly."""
    own = module.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys()) or [k for k in own if own[k].shape != tensors[k].shape]
    if wrong:
        raise ModelError(
            f"{where} does not fit its config: {len(wrong)} tensors differ, the first is {wrong[0]!r}. Use the weights saved with it."
        )
