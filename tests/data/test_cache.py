"""Decoded once: what is known is not decoded again, what changed is, and a scan killed at any moment goes on."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bowerbird.cache import cache_root, clear_cache
from bowerbird.data import open_pictures
from bowerbird.data.cache import cache_entries
from bowerbird.data.picture_set import Pictures
from bowerbird.data.workers import DecodePool, Job
from bowerbird.errors import PictureFolderError, RecipeError, ResourceError
from bowerbird.progress import Cancelled, Progress
from tests.data.corpus import encode, marked


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 different pictures, one broken, one twice; and a cache of this test's own."""
    monkeypatch.setenv("BOWERBIRD_CACHE", str(tmp_path / "cache"))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(60):
        marked(32 + number, 40).save(pictures / f"{number:02d}.png")
    (pictures / "05-broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (pictures / "07-again.png").write_bytes((pictures / "03.png").read_bytes())
    return pictures


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded from here on."""
    names: list[str] = []
    run = DecodePool.run

    def spy(self: DecodePool, jobs: list[Job]) -> Iterator[object]:
        names.extend(job.path for job in jobs)
        return run(self, jobs)

    monkeypatch.setattr(DecodePool, "run", spy)
    return names


def same(one: Pictures, other: Pictures) -> bool:
    return one.fingerprint == other.fingerprint and one.report == other.report and np.array_equal(one.pixels, other.pixels)


def test_an_unchanged_folder_is_not_decoded_again(folder: Path, decoded: list[str]) -> None:
    first = open_pictures(folder, 16)
    assert len(decoded) == 62
    decoded.clear()
    assert same(open_pictures(folder, 16), first)
    assert decoded == []


def test_only_what_changed_is_decoded_and_the_order_stays_that_of_the_paths(folder: Path, decoded: list[str]) -> None:
    """Added at the front, changed in the middle, removed at the end: the result is that of a fresh cache, bit for bit."""
    open_pictures(folder, 16)
    decoded.clear()
    marked(90, 50).save(folder / "00-new.png")
    marked(91, 50).save(folder / "30.png")
    (folder / "59.png").unlink()
    again = open_pictures(folder, 16)
    assert sorted(decoded) == ["00-new.png", "30.png"]
    clear_cache()
    assert same(open_pictures(folder, 16), again)
    assert list(again.names) == sorted(again.names)


def test_a_file_changed_behind_its_date_is_noticed(folder: Path, decoded: list[str]) -> None:
    """Same length, same modification time, other bytes: the change time gives it away."""
    open_pictures(folder, 16)
    path = folder / "10.png"
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-20] + bytes(20))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    decoded.clear()
    open_pictures(folder, 16)
    assert decoded == ["10.png"]


def test_another_size_keeps_the_verdicts_and_needs_only_pixels(folder: Path, decoded: list[str]) -> None:
    """A verdict does not depend on the size, so what is broken or a duplicate is not decoded for the second size."""
    small = open_pictures(folder, 16)
    decoded.clear()
    large = open_pictures(folder, 24, "pad")
    assert len(decoded) == 60 and "05-broken.png" not in decoded and "07-again.png" not in decoded
    assert large.names == small.names and large.fingerprint != small.fingerprint
    decoded.clear()
    assert same(open_pictures(folder, 16), small)  # both sizes are kept
    assert decoded == []


def test_a_cancelled_scan_goes_on(folder: Path, decoded: list[str]) -> None:
    with pytest.raises(Cancelled):
        open_pictures(folder, 16, on_progress=lambda event: not (event.stage == "read" and event.done > 30))
    decoded.clear()
    resumed = open_pictures(folder, 16)
    assert len(decoded) < 40
    clear_cache()
    assert same(open_pictures(folder, 16), resumed)


_KILLED = """
import os, signal, sys
from pathlib import Path
from bowerbird.data import open_pictures, pictures
pictures._RECORD_SECONDS = 0.0
def on_progress(event):
    if event.stage == "read" and event.done >= 25:
        os.kill(os.getpid(), signal.SIGKILL)
open_pictures(Path(sys.argv[1]), 16, on_progress=on_progress)
"""


def test_a_killed_scan_goes_on_and_leaves_no_orphans(folder: Path, decoded: list[str]) -> None:
    """Results are recorded, pixels synced first, as they come; the children end when their parent's pipe does."""
    source = Path(__file__).parents[2] / "src"
    killed = subprocess.run([sys.executable, "-c", _KILLED, folder], env={**os.environ, "PYTHONPATH": str(source)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed = open_pictures(folder, 16)
    assert 0 < len(decoded) < 45
    clear_cache()
    assert same(open_pictures(folder, 16), resumed)
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _readable(path)]
    assert not any(str(folder).encode() in command and b"decode.py" in command for command in commands)


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


@pytest.mark.parametrize("damage", ["index", "pack", "packs gone"])
def test_a_damaged_cache_is_made_anew(folder: Path, damage: str) -> None:
    """It is only a cache: nothing in it is worth an error."""
    before = open_pictures(folder, 16)
    pixels = np.array(before.pixels)
    for path in (cache_root() / "pictures").glob("*/*"):
        if damage == "index" and path.name == "index.sqlite":
            path.write_bytes(b"no database " * 1000)
        if damage == "pack" and path.suffix == ".u8":
            os.truncate(path, 1000)
        if damage == "packs gone" and path.suffix == ".u8":
            path.unlink()
    after = open_pictures(folder, 16)
    assert after.fingerprint == before.fingerprint and np.array_equal(after.pixels, pixels)


def test_a_file_that_vanishes_or_changes_later_is_named(folder: Path) -> None:
    pictures = open_pictures(folder, 16)
    pictures.verify_unchanged()
    (folder / "20.png").write_bytes(encode(marked(99, 99), "PNG"))
    (folder / "40.png").unlink()
    with pytest.raises(PictureFolderError, match=r"20\.png.*changed"):
        pictures.verify_unchanged()
    with pytest.raises(PictureFolderError, match=r"40\.png.*vanished"):
        pictures.verify_unchanged([pictures.names.index("40.png")])
    pictures.verify_unchanged([0, 1, 2])


def test_a_second_scan_of_the_same_folder_waits(folder: Path) -> None:
    """The first holds a lock that the system drops with its process; whoever waits is told, and may give up."""
    from bowerbird.cache import lock

    (entry,) = _after(folder)
    held = lock(entry, None)
    told: list[str] = []

    def on_progress(event: Progress) -> bool:
        told.append(event.stage)
        return event.stage != "wait"

    with pytest.raises(Cancelled):
        open_pictures(folder, 16, on_progress=on_progress)
    assert told[-1] == "wait"
    held.close()
    open_pictures(folder, 16)


def _after(folder: Path) -> list[Path]:
    open_pictures(folder, 16)
    return [entry.folder for entry in cache_entries()]


def test_the_cache_can_be_listed_and_cleared(folder: Path) -> None:
    open_pictures(folder, 16)
    (entry,) = cache_entries()
    assert entry.source == str(folder) and entry.bytes > 60 * 16 * 16 * 3
    assert clear_cache() >= entry.bytes
    assert cache_entries() == []


def test_a_disk_without_room_says_so_before_it_begins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match=r"need 0\.\d GiB .* BOWERBIRD_CACHE"):
        open_pictures(folder, 16)


def test_a_cache_that_cannot_be_written_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOWERBIRD_CACHE", "/dev/null/cache")
    with pytest.raises(ResourceError, match="BOWERBIRD_CACHE"):
        open_pictures(folder, 16)


def test_no_metadata_enters_the_index(folder: Path) -> None:
    """The index holds paths, numbers and our own words: no column could carry a place or a name from EXIF."""
    open_pictures(folder, 16)
    (entry,) = cache_entries()
    with sqlite3.connect(entry.folder / "index.sqlite") as index:
        texts = {str(value) for row in index.execute("SELECT code, reason, format, changes FROM files") for value in row}
    assert texts == {"", "E_TRUNCATED", "the file ends before its picture is complete", "PNG"}


@pytest.mark.parametrize(("size", "fit"), [(0, "crop"), (-1, "crop"), (10**6, "crop"), (64, "sideways")])
def test_a_size_that_cannot_be_is_no_verdict_on_the_pictures(folder: Path, size: int, fit: str) -> None:
    """It is refused before a picture is opened, so nothing wrong is remembered about any."""
    with pytest.raises(RecipeError, match="data"):
        open_pictures(folder, size, fit)  # type: ignore[arg-type]
    assert len(open_pictures(folder, 64).pixels) == 60


def test_verdicts_of_an_older_index_are_asked_again(folder: Path) -> None:
    """An index that once believed such verdicts may be lying there still."""
    open_pictures(folder, 64)
    (index,) = cache_root().glob("pictures/*/index.sqlite")
    with sqlite3.connect(index) as connection:
        connection.execute("UPDATE files SET code = 'E_DAMAGED'")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    assert len(open_pictures(folder, 64).pixels) == 60


@pytest.mark.parametrize("place", ["~nobody-of-this-name/cache", "/dev/null/cache", "/proc/cache"])
def test_an_impossible_cache_is_told_as_such(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("BOWERBIRD_CACHE", place)
    with pytest.raises(ResourceError, match="BOWERBIRD_CACHE"):
        open_pictures(folder, 64)


def test_a_full_cache_is_not_the_archives_fault(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "birds"), "zip", folder))

    def full(member: object, out: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bowerbird.data.archives._copy", full)
    with pytest.raises(ResourceError, match="BOWERBIRD_CACHE"):
        open_pictures(archive, 64)
