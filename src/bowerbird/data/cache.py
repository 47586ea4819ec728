"""Pictures decoded once: an index of verdicts and packs of pixels, one folder of the cache for each folder of pictures.

    CACHE/pictures/<key of the source's path>/
        index.sqlite      files: what the gate found, keyed by path and valid while the file's signature stands
                          rows:  which row of which pack holds a picture's pixels, keyed by size, fit and content (and box)
        lock.sqlite       held while somebody scans; the system releases it when the process dies
        64-crop-1.u8      a pack: rows of size * size * 3 bytes, written by the decoding processes

A pack grows while a scan goes on and is recorded, synced, every few seconds: a killed scan loses those seconds.
When the accepted pictures are not simply rows 0..n-1 of one pack, they are copied in order into a new one, and the old
ones go.  Everything here can be deleted at any time; it costs a new scan.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bowerbird.cache import cache_root, lock, usable
from bowerbird.data.decode import Examined, Fit, Signature
from bowerbird.errors import ResourceError
from bowerbird.progress import OnProgress

VERSION = 1  # of the gate's rules, a part of every fingerprint
_STORED = 2  # of what lies here: another number makes every verdict and every pixel stale (1 kept verdicts that a size had caused)
_COPY_BYTES = 16 * 2**20
_SPARE_BYTES = 64 * 2**20  # never fill a disk to the last byte

_TABLES = f"""
CREATE TABLE IF NOT EXISTS about (source TEXT);
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, device INTEGER, inode INTEGER, bytes INTEGER, mtime INTEGER, ctime INTEGER,
    {", ".join(Examined._fields)}
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (size INTEGER, fit TEXT, sha256 TEXT, pack TEXT, slot INTEGER,
    PRIMARY KEY (size, fit, sha256)) WITHOUT ROWID;
PRAGMA user_version = {_STORED};
"""

# What does not follow from the bytes alone may come out otherwise next time, so it is asked again.
_PASSING = {"E_TIMEOUT", "E_CRASH", "E_MEMORY"}


def source_key(source: Path) -> str:
    """The name of a source's folder in the cache."""
    return hashlib.sha256(os.fsencode(source)).hexdigest()[:16]


class PictureCache:
    """The cache of one folder of pictures.  Entering it waits until nobody else is scanning that folder."""

    def __init__(self, source: Path, on_progress: OnProgress | None = None) -> None:
        self._source, self._on_progress = source, on_progress
        self.folder = cache_root() / "pictures" / source_key(source)

    def __enter__(self) -> Self:
        self._held = lock(self.folder, self._on_progress)
        with usable(self.folder):
            self._index = self._open_index()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._index.close()
        self._held.close()

    def _open_index(self) -> sqlite3.Connection:
        path = self.folder / "index.sqlite"
        try:
            index = sqlite3.connect(path)
            if index.execute("PRAGMA user_version").fetchone()[0] == _STORED:
                index.execute("SELECT count(*) FROM rows").fetchone()
                return index
            index.close()
        except sqlite3.DatabaseError:  # damaged: only a cache, so begin anew
            pass
        for old in self.folder.glob("*"):
            if old.name != "lock.sqlite":
                old.unlink()
        index = sqlite3.connect(path)
        index.executescript(_TABLES)
        index.execute("INSERT INTO about VALUES (?)", (os.fsencode(self._source).decode("utf-8", "backslashreplace"),))
        index.commit()
        return index

    # -- verdicts

    def verdicts(self) -> dict[bytes, tuple[Signature, Examined]]:
        """What is known, by path below the source."""
        rows = self._index.execute("SELECT * FROM files")
        return {row[0]: (row[1:6], Examined._make(row[6:])) for row in rows}

    def record(self, examined: Iterable[tuple[bytes, Signature, Examined, int, str]], size: int, fit: Fit, pack: Path) -> None:
        """Remember verdicts, and the slots of `pack` that hold their pixels.  The pixels reach the disk before the record of them.

        examined: path, signature, verdict, slot, and what is shown of the content where that is not all.
        """
        with pack.open("r+b") as file:
            os.fsync(file.fileno())
        lasting = [entry for entry in examined if entry[2].sha256 and entry[2].code not in _PASSING]
        marks = ",".join("?" * (6 + len(Examined._fields)))
        with self._index:
            self._index.executemany(
                f"INSERT OR REPLACE INTO files VALUES ({marks})", ((path, *seen, *found) for path, seen, found, _, _ in lasting)
            )
            self._index.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)",
                ((size, fit, found.sha256 + shown, pack.name, slot) for _, _, found, slot, shown in lasting if not found.code),
            )

    def forget(self, paths: Iterable[bytes]) -> None:
        """Drop the verdicts of files that are no longer there."""
        with self._index:
            self._index.executemany("DELETE FROM files WHERE path = ?", ((path,) for path in paths))

    # -- pixels

    def slots(self, size: int, fit: Fit) -> dict[str, tuple[str, int]]:
        """(pack, slot) by content hash, for every picture whose pixels are held at this size and fit."""
        row_bytes = size * size * 3
        held = {path.name: path.stat().st_size // row_bytes for path in self.folder.glob(f"{size}-{fit}-*.u8")}
        rows = self._index.execute("SELECT sha256, pack, slot FROM rows WHERE size = ? AND fit = ?", (size, fit))
        return {sha256: (pack, slot) for sha256, pack, slot in rows if slot < held.get(pack, 0)}

    def pack_to_fill(self, size: int, fit: Fit, count: int) -> Path:
        """A new, empty pack on a disk with room for `count` more pictures."""
        need = 2 * count * size * size * 3 + _SPARE_BYTES  # twice: they may have to be copied into order
        free = shutil.disk_usage(self.folder).free
        if free < need:
            raise ResourceError(
                f"{count:,} pictures at {size} px need {need / 2**30:.1f} GiB in {self.folder}, which has {free / 2**30:.1f} GiB free; "
                "free some space or set BOWERBIRD_CACHE to another disk."
            )
        pack = self._next_pack(size, fit)
        pack.touch()
        return pack

    def _next_pack(self, size: int, fit: Fit) -> Path:
        used = [int(path.stem.rsplit("-", 1)[1]) for path in self.folder.glob(f"{size}-{fit}-*.u8")]
        return self.folder / f"{size}-{fit}-{max(used, default=0) + 1}.u8"

    def in_order(self, size: int, fit: Fit, contents: Sequence[str]) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
        """The pixels of `contents`, (n, size, size, 3) uint8, read-only, in this order and nothing else in the file."""
        places = self.slots(size, fit)
        packs = [places[sha256][0] for sha256 in contents]
        slots = np.array([places[sha256][1] for sha256 in contents], np.int64)
        if len(set(packs)) > 1 or not np.array_equal(slots, np.arange(len(slots))):
            pack = self._gather(size, fit, packs, slots)
            with self._index:
                self._index.execute("DELETE FROM rows WHERE size = ? AND fit = ?", (size, fit))
                rows = ((size, fit, sha256, pack.name, slot) for slot, sha256 in enumerate(contents))
                self._index.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)
        else:
            pack = self.folder / packs[0]
        for old in self.folder.glob(f"{size}-{fit}-*.u8"):
            if old != pack:
                with contextlib.suppress(OSError):  # Windows keeps files that a running training reads
                    old.unlink()
        return np.memmap(pack, np.uint8, mode="r", shape=(len(contents), size, size, 3))

    def _gather(self, size: int, fit: Fit, packs: Sequence[str], slots: NDArray[np.int64]) -> Path:
        """Copy rows into a new pack, a run of neighbours at a time."""
        row_bytes = size * size * 3
        longest = max(1, _COPY_BYTES // row_bytes)
        target = self._next_pack(size, fit)
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(target.open("xb"))
            sources = {name: stack.enter_context((self.folder / name).open("rb")) for name in set(packs)}
            start = 0
            while start < len(slots):
                stop = start + 1
                while stop < len(slots) and stop - start < longest and packs[stop] == packs[start] and slots[stop] == slots[stop - 1] + 1:
                    stop += 1
                sources[packs[start]].seek(int(slots[start]) * row_bytes)
                out.write(sources[packs[start]].read((stop - start) * row_bytes))
                start = stop
            out.flush()
            os.fsync(out.fileno())
        return target


@dataclass(frozen=True)
class CacheEntry:
    """One folder of pictures in the cache, for `info --cache`."""

    source: str
    folder: Path
    bytes: int
    used: float  # when it was last written, seconds since 1970


def cache_entries() -> list[CacheEntry]:
    """What the cache holds, the largest first."""
    entries = []
    for index in (cache_root() / "pictures").glob("*/index.sqlite"):
        try:
            with contextlib.closing(sqlite3.connect(index)) as connection:
                source = connection.execute("SELECT source FROM about").fetchone()[0]
        except sqlite3.Error:
            source = "(damaged)"
        files = list(index.parent.iterdir())
        entries.append(CacheEntry(source, index.parent, sum(f.stat().st_size for f in files), max(f.stat().st_mtime for f in files)))
    return sorted(entries, key=lambda entry: -entry.bytes)
