"""Old checkpoints become safetensors bit for bit; nothing a file contains is ever run."""

from __future__ import annotations

import ast
import zipfile
from pathlib import Path

import pytest
import torch

from bowerbird import weights
from bowerbird.convert import convert, read_checkpoint
from bowerbird.errors import ModelError, UnsafeFileError
from tests.audit import Audit
from tests.pickle_corpus import DANGEROUS, as_zip, forms, honest, hostile

SOURCE = Path(__file__).parent.parent / "src"


def bit_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal as bytes, so that NaN equals itself and 0 differs from -0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.contiguous().reshape(-1).view(torch.uint8).equal(b.detach().contiguous().reshape(-1).view(torch.uint8))


def test_honest_checkpoints_are_read_bit_for_bit(tmp_path: Path):
    """Forty files in both formats of PyTorch, as training programs leave them."""
    count = 0
    for path, expected in honest(tmp_path):
        tensors, _ = read_checkpoint(path)
        assert tensors.keys() == expected.keys(), path.name
        assert all(bit_equal(tensors[name], expected[name]) for name in expected), path.name
        assert all(tensor.is_contiguous() for tensor in tensors.values()), path.name
        count += 1
    assert count == 40


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_rarer_kinds_are_data_too(tmp_path: Path, dtype: torch.dtype):
    """Eight-bit floats come through a newer door of PyTorch's format than the rest: memory in bytes, two views of it here."""
    whole = torch.arange(12).reshape(3, 4).to(dtype)
    kept = {"whole": whole, "part": whole[1:, ::2]}
    torch.save(kept, tmp_path / "old.pt")
    assert convert(tmp_path / "old.pt", tmp_path / "new.safetensors").tensors == 2
    written = weights.load(tmp_path / "new.safetensors")
    assert all(bit_equal(written[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}}, "'a.b'.*two of its tensors"),
        ({1: torch.zeros(1), "1": torch.ones(1)}, "'1'.*two of its tensors"),
        ({"x": torch.zeros(1), "__metadata__": torch.ones(1)}, "'__metadata__'.*safetensors keeps this name"),
        ({"x": torch.zeros(1, dtype=torch.complex128)}, "'x' holds complex128"),
    ],
)
def test_no_tensor_is_dropped_without_a_word(tmp_path: Path, kept: dict[object, object], words: str):
    """Names are flattened and become text, so two may meet; and one name is the format's own."""
    torch.save(kept, tmp_path / "old.pt")
    with pytest.raises(ModelError, match=words):
        convert(tmp_path / "old.pt", tmp_path / "new.safetensors")
    assert not (tmp_path / "new.safetensors").exists()


def test_hostile_files_are_refused_and_touch_nothing(tmp_path: Path):
    """More than 300 files: not one import, connection, process or written file, and no error but ours."""
    canary, path = tmp_path / "canary", tmp_path / "hostile.ckpt"
    files = list(hostile(canary))
    assert len(files) >= 300 and len(dict(files)) == len(files)
    for name, data in files:
        path.write_bytes(data)
        with Audit() as audit, pytest.raises(ModelError) as refusal:
            read_checkpoint(path)
        assert not audit.events, name
        assert len(str(refusal.value)) < 500, name
    assert not canary.exists()


@pytest.mark.parametrize(("module", "name"), DANGEROUS)
def test_the_refusal_names_what_the_file_asks_for(tmp_path: Path, module: str, name: str):
    path = tmp_path / "hostile.pt"
    path.write_bytes(as_zip(forms(module, name, "x")["reduce"]))
    with pytest.raises(UnsafeFileError, match=f"{module}.{name}"):
        read_checkpoint(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    for path, _ in list(honest(tmp_path))[:2]:
        whole = path.read_bytes()
        for length in range(0, len(whole) - 1, max(1, len(whole) // 60)):
            path.write_bytes(whole[:length])
            with pytest.raises(ModelError):
                read_checkpoint(path)


def test_convert_writes_safetensors_in_a_process_of_its_own(tmp_path: Path):
    base = torch.randn(3, 2)
    kept = {"weight": base, "transposed": base.T, "mask": torch.full((2, 2), float("-inf"))}
    torch.save({"state_dict": kept, "epoch": 7}, tmp_path / "old.ckpt")
    converted = convert(tmp_path / "old.ckpt", tmp_path / "new.safetensors")
    assert (converted.tensors, converted.left_out) == (3, ["epoch"])
    written = weights.load(tmp_path / "new.safetensors")
    assert all(bit_equal(written[name], kept[name]) for name in kept)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.safetensors", "old.ckpt"]


def test_convert_hands_the_refusal_on_and_writes_nothing(tmp_path: Path):
    (tmp_path / "old.ckpt").write_bytes(as_zip(forms("os", "system", "touch canary")["reduce"]))
    with pytest.raises(UnsafeFileError, match=r"os\.system"):
        convert(tmp_path / "old.ckpt", tmp_path / "new.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["old.ckpt"]


def test_convert_never_overwrites(tmp_path: Path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "old.pt")
    (tmp_path / "new.safetensors").write_text("mine")
    with pytest.raises(ModelError, match="exists already"):
        convert(tmp_path / "old.pt", tmp_path / "new.safetensors")
    with pytest.raises(ModelError, match="end in"):
        convert(tmp_path / "old.pt", tmp_path / "new.bin")
    with pytest.raises(ModelError, match="no checkpoint"):
        convert(tmp_path / "missing.pt", tmp_path / "other.safetensors")


def test_a_checkpoint_is_recognised_by_content_not_by_name(tmp_path: Path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "picture.png")
    assert read_checkpoint(tmp_path / "picture.png")[0].keys() == {"x"}
    with zipfile.ZipFile(tmp_path / "notes.ckpt", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ModelError, match=r"no data\.pkl"):
        read_checkpoint(tmp_path / "notes.ckpt")


def test_nothing_in_the_project_can_load_a_pickle():
    """A rule for every module: none of the calls by which a file becomes code."""
    forbidden = {"torch.load", "torch.jit.load", "yaml.load", "eval", "exec", "pickle.load", "pickle.loads", "marshal.loads", "os.system"}
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden:
                found.append(f"{path.name}:{node.lineno} {ast.unparse(node.func)}")
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "shell", "weights_only", "pickle_module"):
                found.append(f"{path.name}:{node.lineno if hasattr(node, 'lineno') else 0} {node.arg}=")
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + ([node.module] if isinstance(node, ast.ImportFrom) and node.module else [])
                found += [
                    f"{path.name}:{node.lineno} import {name}"
                    for name in names
                    if name in ("pickle", "marshal", "dill", "joblib", "shelve")
                ]
    assert not found
