from pathlib import Path

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


def test_a_file_cut_in_half_gives_our_error(tmp_path: Path) -> None:
    whole = weights.to_bytes({"a": torch.randn(1000)})
    (tmp_path / "x.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="damaged"):
        weights.load(tmp_path / "x.safetensors")


def test_weights_of_another_shape_do_not_load() -> None:
    with pytest.raises(ModelError, match="weight"):
        weights.load_into(torch.nn.Linear(2, 3), {"weight": torch.ones(3, 4), "bias": torch.ones(3)}, "x")
