import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from bowerbird import weights
from bowerbird.errors import ModelError, UnsafeFileError


def test_tensors_survive_bit_by_bit_even_strided_ones(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).t(), "b": torch.arange(5), "c": torch.randn(8)[::2].half()}
    (tmp_path / "x.safetensors").write_bytes(weights.to_bytes(tensors))
    loaded = weights.load(tmp_path / "x.safetensors")
    assert all(torch.equal(tensors[name], loaded[name]) for name in tensors)


def test_no_tensors_at_all_survive_too(tmp_path: Path) -> None:
    """The moments of an optimizer before its first step."""
    (tmp_path / "x.safetensors").write_bytes(weights.to_bytes({}))
    assert weights.load(tmp_path / "x.safetensors") == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_saved(value: float) -> None:
    with pytest.raises(ModelError, match="'bad'"):
        weights.to_bytes({"good": torch.ones(2), "bad": torch.tensor([1.0, value])})


def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"\x80\x02.")
    with pytest.raises(UnsafeFileError, match="bowerbird convert"):
        weights.load(file)


@pytest.mark.parametrize("data", [b"", b"short", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}", (4).to_bytes(8, "little") + b"[1] "])
def test_files_that_are_no_safetensors(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ModelError):
        weights.load(tmp_path / "x.safetensors")


def with_header(path: Path, header: Any, data: bytes = bytes(4)) -> Path:
    """A safetensors file with any header; text stands as it is."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
PLACES: tuple[object, ...] = (None, [0], [0, "4"], [0, -4], [0, 4, 8], {})


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": 5}, "does not describe the tensor 'a'"),
        ({"a": {}}, "does not describe the tensor 'a'"),
        *(({"a": {**ENTRY, "shape": shape}}, "does not describe") for shape in (None, "1", ["a"], [-1], [True], [1.0], [2**70], [1] * 99)),
        *(({"a": {**ENTRY, "data_offsets": place}}, "does not describe") for place in PLACES),
        ({"a": {**ENTRY, "data_offsets": [4, 0]}}, "another size"),
        ({"a": {**ENTRY, "shape": [2]}}, "another size"),
        ({"a": {**ENTRY, "dtype": "F4"}}, "unknown kind, 'F4'"),
        ({"a": {**ENTRY, "dtype": 3}}, "does not describe"),
        ({"a": ENTRY, "__metadata__": {"format": {}}}, "metadata that is not text"),
        ({"a": ENTRY, "__metadata__": [1]}, "metadata that is not text"),
        ("[" * 100_000 + "]" * 100_000, "damaged"),
        ('{"a":' * 50_000, "damaged"),
    ],
)
def test_a_header_says_what_a_tensor_is_or_the_file_is_refused(tmp_path: Path, header: Any, words: str) -> None:
    path = with_header(tmp_path / "x.safetensors", header)
    for read in (weights.read_header, weights.load):
        with pytest.raises(ModelError, match=words):
            read(path)


def test_every_kind_of_number_that_safetensors_writes_is_read(tmp_path: Path) -> None:
    for dtype in (
        torch.float64,
        torch.bfloat16,
        torch.int8,
        torch.uint16,
        torch.bool,
        torch.complex64,
        torch.float8_e4m3fn,
    ):
        (tmp_path / "x.safetensors").write_bytes(weights.to_bytes({"a": torch.ones(3, 0, 2).to(dtype), "b": torch.ones(()).to(dtype)}))
        assert weights.read_header(tmp_path / "x.safetensors").shapes == {"a": (3, 0, 2), "b": ()}
        assert weights.load(tmp_path / "x.safetensors")["b"].dtype == dtype


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe would block for ever and a device never end."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", Path("/dev/zero"), tmp_path):
        with pytest.raises(ModelError, match="not a regular file"):
            weights.load(path)


def test_a_file_cut_in_half_gives_our_error(tmp_path: Path) -> None:
    whole = weights.to_bytes({"a": torch.randn(1000)})
    (tmp_path / "x.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="damaged"):
        weights.load(tmp_path / "x.safetensors")


def test_weights_of_another_shape_do_not_load() -> None:
    with pytest.raises(ModelError, match="weight"):
        weights.load_into(torch.nn.Linear(2, 3), {"weight": torch.ones(3, 4), "bias": torch.ones(3)}, "x")


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "NaN"), (float("-inf"), "NaN or infinity"), (1j, "complex")])
def test_numbers_no_network_can_compute_with_are_not_loaded(value: complex, words: str) -> None:
    """They would paint black, with no word of it."""
    with pytest.raises(ModelError, match=f"'weight' of the model holds .*{words}"):
        weights.load_into(torch.nn.Linear(1, 2), {"weight": torch.tensor([[1], [value]]), "bias": torch.ones(2)}, "the model")


def test_eight_bit_floats_are_checked_as_well() -> None:
    weights.check_numbers({"a": torch.ones(3).to(torch.float8_e4m3fn)}, "x")
    with pytest.raises(ModelError, match="NaN"):
        weights.check_numbers({"a": torch.tensor([float("nan")]).to(torch.float8_e4m3fn)}, "x")
