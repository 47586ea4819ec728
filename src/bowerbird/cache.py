"""The user's cache: where it lies, who holds a part of it, and emptying it.  Everything in it is made again when needed.

pictures/   decoded pictures (data/cache.py)        latents/    what an autoencoder makes of them (training/latents.py)
unpacked/   archives (data/archives.py)             features/   what a feature network sees in them (models/features.py)
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from pathlib import Path

from bowerbird.progress import OnProgress, Progress, tell

PARTS = ("pictures", "unpacked", "latents", "features")


def cache_root() -> Path:
    """$BOWERBIRD_CACHE, or `bowerbird` in the user's cache folder."""
    if chosen := os.environ.get("BOWERBIRD_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/bowerbird"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "bowerbird/cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bowerbird"


def lock(folder: Path, on_progress: OnProgress | None) -> sqlite3.Connection:
    """Make `folder` and hold it alone until the connection is closed or the process dies, which the system notices."""
    folder.mkdir(parents=True, exist_ok=True)
    held = sqlite3.connect(folder / "lock.sqlite", timeout=1, isolation_level=None)
    while True:
        try:
            held.execute("BEGIN EXCLUSIVE")
            return held
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            tell(on_progress, Progress("wait", 0, 1, note="another process is reading these pictures; waiting for it"))


def clear_cache() -> int:
    """Delete everything that was decoded, encoded or unpacked; returns the bytes freed.  It is made again when needed."""
    freed = 0
    for folder in (cache_root() / name for name in PARTS):
        freed += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        shutil.rmtree(folder, ignore_errors=True)
    return freed
