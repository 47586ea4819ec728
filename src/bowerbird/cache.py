"""The user's cache: where it lies, who holds a part of it, and emptying it.  Everything in it is made again when needed.

pictures/   decoded pictures (data/cache.py)        latents/    what an autoencoder makes of them (training/latents.py)
unpacked/   archives (data/archives.py)             features/   what a feature network sees in them (models/features.py)
compiled/   kernels made for networks (training/compiling.py)
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bowerbird.errors import ResourceError
from bowerbird.progress import OnProgress, Progress, tell

PARTS = ("pictures", "unpacked", "latents", "features", "compiled")


def cache_root() -> Path:
    """$BOWERBIRD_CACHE, or `bowerbird` in the user's cache folder.  ResourceError when there is no such home."""
    chosen = os.environ.get("BOWERBIRD_CACHE")
    try:
        return Path(chosen).expanduser() if chosen else _usual_place()
    except RuntimeError as error:  # `~somebody` whom the system does not know, or no home at all
        raise ResourceError(f"there is no folder for the cache: {error}. Set BOWERBIRD_CACHE to a writable folder.") from error


def _usual_place() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/bowerbird"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "bowerbird/cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bowerbird"


def lock(folder: Path, on_progress: OnProgress | None) -> sqlite3.Connection:
    """Make `folder` and hold it alone until the connection is closed or the process dies, which the system notices."""
    with usable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = sqlite3.connect(folder / "lock.sqlite", timeout=1, isolation_level=None)
    while True:
        try:
            held.execute("BEGIN EXCLUSIVE")
            return held
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise _unusable(folder, error) from error
            tell(on_progress, Progress("wait", 0, 1, note="another process is reading these pictures; waiting for it"))


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Whatever the disk of the cache answers inside is told as its own trouble, with what to do: a ResourceError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: OSError | sqlite3.Error) -> ResourceError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ResourceError(f"the cache {str(folder)!r} is unusable: {reason}. Make room, or set BOWERBIRD_CACHE to a writable folder.")


def clear_cache() -> int:
    """Delete everything that was decoded, encoded or unpacked; returns the bytes freed.  It is made again when needed."""
    freed = 0
    for folder in (cache_root() / name for name in PARTS):
        freed += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        shutil.rmtree(folder, ignore_errors=True)
    return freed
