"""Crash safety of the writer: the proof by enumeration is in tests/training/test_crashes.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from bowerbird.errors import ModelError, ResourceError
from bowerbird.storage import Disk, ensure_folder, read_sealed, require_free, seal, verify_folder, write_file, write_folder
from tests.disks import FullDisk

FILES = [("a.bin", b"a" * 100), ("part/b.bin", b"b" * 100)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(Disk(), tmp_path / "new", FILES, "manifest.json", {"answer": 42})
    return tmp_path / "new"


def test_what_was_written_verifies(folder: Path) -> None:
    assert verify_folder(folder, "manifest.json")["answer"] == 42


def test_every_flipped_bit_is_noticed(folder: Path) -> None:
    """In the files and in the manifest itself: one bit at each of many places, one at a time."""
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        good = path.read_bytes()
        for offset in range(0, len(good), 7):
            bad = bytearray(good)
            bad[offset] ^= 1
            path.write_bytes(bad)
            with pytest.raises(ModelError):
                verify_folder(folder, "manifest.json")
        path.write_bytes(good)
    verify_folder(folder, "manifest.json")


def test_missing_and_cut_files_are_named(folder: Path) -> None:
    (folder / "part/b.bin").write_bytes(b"b" * 50)
    with pytest.raises(ModelError, match=r"b\.bin"):
        verify_folder(folder, "manifest.json")
    (folder / "part/b.bin").unlink()
    with pytest.raises(ModelError, match=r"b\.bin"):
        verify_folder(folder, "manifest.json")


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    for name in ("../secret", "/etc/passwd"):
        (tmp_path / "m.json").write_bytes(seal({"files": {name: {"bytes": 1, "sha256": "0"}}}))
        with pytest.raises(ModelError, match="outside"):
            verify_folder(tmp_path, "m.json")


def test_nothing_is_replaced(folder: Path) -> None:
    with pytest.raises(ResourceError):
        write_folder(Disk(), folder, FILES, "manifest.json", {})
    assert verify_folder(folder, "manifest.json")["answer"] == 42
    assert [p.name for p in folder.parent.iterdir()] == ["new"]  # and nothing lies about


@pytest.mark.parametrize("writes", range(3))
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, writes: int) -> None:
    with pytest.raises(ResourceError, match=rf"no space left .* at least {min(writes + 1, 2) * 100} bytes"):
        write_folder(FullDisk(writes), tmp_path / "new", FILES, "manifest.json", {})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    write_file(Disk(), tmp_path / "run.json", b"old")
    with pytest.raises(ResourceError):
        write_file(FullDisk(0), tmp_path / "run.json", b"new")
    assert (tmp_path / "run.json").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_new_folder_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder that got a new name in it is synced, and none else."""
    synced: list[Path] = []
    disk = Disk()
    monkeypatch.setattr(disk, "sync_folder", synced.append)
    ensure_folder(disk, tmp_path / "runs" / "first")
    ensure_folder(disk, tmp_path / "runs" / "first")
    assert synced == [tmp_path, tmp_path / "runs"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ResourceError, match="Choose another place"):
            ensure_folder(Disk(), path)


def test_space_is_checked_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="Make room"):
        require_free(tmp_path / "not/there/yet", 10**18, "this run")


def test_a_sealed_document_round_trips_any_text(tmp_path: Path) -> None:
    document = {"name": "oiseau é 鳥 \u202e", "number": 0.1 + 0.2}
    (tmp_path / "x.json").write_bytes(seal(document))
    assert read_sealed(tmp_path / "x.json") == document
