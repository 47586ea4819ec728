"""Files that survive a kill at any moment: the one interface through which anything durable is written.

A folder is written beside its target, synced, hashed and renamed to a new name; nothing is ever replaced but small
pointer files.  Because every write goes through `Disk`, a test can record the operations of a save and replay every
prefix of them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelError, ResourceError
from bowerbird.reading import open_regular, read_json

TEMPORARY = ".tmp-"
MAX_TABLE_BYTES = 16 * 2**20  # a manifest of thousands of files is below one


class Disk:
    """The operations that change a disk.  A subclass may record them, or fail them."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True)

    def write(self, path: Path, data: bytes) -> None:
        """Create a file and make its content durable."""
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, old: Path, new: Path) -> None:
        """Give a folder its final name, which must be free."""
        old.rename(new)

    def replace(self, old: Path, new: Path) -> None:
        old.replace(new)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable.  Windows cannot open a folder and needs no such call."""
        if os.name == "nt":
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a folder with all its files, or a file."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_folder(disk: Disk, target: Path, files: Iterable[tuple[str, bytes]], manifest_name: str, manifest: dict[str, Any]) -> None:
    """Write `files` (relative name, content) and a manifest that lists their sizes and hashes as the new folder `target`.

    `files` may be a generator: one file at a time is held in memory.  After a crash there is either no `target`, or a
    whole one.  ResourceError when the disk is full; what was written so far is taken away again.
    """
    temporary = target.parent / f"{TEMPORARY}{target.name}-{uuid.uuid4().hex[:8]}"
    needed_bytes = 0  # so far
    try:
        disk.make_folder(temporary)
        listed: dict[str, dict[str, Any]] = {}
        for name, data in files:
            needed_bytes += len(data)
            path = temporary / name
            if path.parent != temporary and not path.parent.exists():
                disk.make_folder(path.parent)
            disk.write(path, data)
            listed[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        disk.write(temporary / manifest_name, seal({**manifest, "files": listed}))
        for folder in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
            disk.sync_folder(folder)
        disk.rename(temporary, target)
        disk.sync_folder(target.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise disk_error(error, target, needed_bytes) from error


def ensure_folder(disk: Disk, path: Path) -> None:
    """Create a folder, and those it lies in, where they are missing; their names survive a power cut."""
    try:
        for folder in reversed((path, *path.parents)):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                disk.sync_folder(folder.parent)
    except OSError as error:
        raise disk_error(error, path) from error


def write_file(disk: Disk, target: Path, data: bytes) -> None:
    """Replace a small file in one step: readers see the old content or the new one."""
    temporary = target.parent / f"{TEMPORARY}{target.name}-{uuid.uuid4().hex[:8]}"
    try:
        disk.write(temporary, data)
        disk.replace(temporary, target)
        disk.sync_folder(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error, target, len(data)) from error


def seal(document: dict[str, Any]) -> bytes:
    """A JSON document that carries its own hash, so that a flipped bit anywhere in it is noticed."""
    return json.dumps({**document, "seal": _seal_of(document)}, indent=1, ensure_ascii=False).encode()


def read_sealed(path: Path) -> dict[str, Any]:
    """The document of a sealed JSON file.  ModelError when it is missing, damaged or changed by hand."""
    document = read_table(path)
    if document.pop("seal", None) != _seal_of(document):
        raise ModelError(f"{str(path)!r} was changed since it was written. Restore it, or use another copy.")
    return document


def read_table(path: Path) -> dict[str, Any]:
    """A table of settings from a file that anybody may have written.  ModelError when it is missing, endless, or no such thing."""
    try:
        document = read_json(path, MAX_TABLE_BYTES)
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()  # what parses and yet is no JSON: NaN, and half letters
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}: {error.strerror}. Restore it, or use another copy.") from error
    except ValueError as error:
        raise ModelError(f"{str(path)!r} is damaged. Restore it, or use another copy.") from error
    if not isinstance(document, dict):
        raise ModelError(f"{str(path)!r} is not a table of settings. Restore it, or use another copy.")
    return document


def verify_folder(folder: Path, manifest_name: str) -> dict[str, Any]:
    """The manifest of a folder of which every listed file is there with its size and hash; ModelError names the first that is not."""
    manifest = read_sealed(folder / manifest_name)
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) and isinstance(entry.get("sha256"), str) for entry in files.values()):
        raise ModelError(f"{str(folder / manifest_name)!r} does not list its files with their hashes. Restore it, or use another copy.")
    for name, expected in files.items():
        path = folder / name
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"the manifest of {str(folder)!r} names {name!r}, a file outside the folder; do not use this folder.")
        try:
            with open_regular(path) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
            reason = error.strerror if isinstance(error, OSError) else "no file can have this name"
            raise ModelError(f"{str(path)!r} is listed but cannot be read: {reason}. Restore it, or use another copy.") from error
        if found != expected["sha256"]:
            raise ModelError(f"{str(path)!r} is damaged: its hash differs from the one written with it. Restore it, or use another copy.")
    return manifest


def remove_temporary(disk: Disk, folder: Path) -> None:
    """Clear what an interrupted write left behind."""
    for path in folder.glob(f"{TEMPORARY}*"):
        disk.remove(path)


def free_bytes(folder: Path) -> int:
    """Free space of the disk that holds `folder` or its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_free(folder: Path, needed_bytes: int, purpose: str) -> None:
    """ResourceError unless the disk of `folder` has room for `needed_bytes`."""
    free = free_bytes(folder)
    if free < needed_bytes:
        raise ResourceError(
            f"{purpose} needs {needed_bytes / 1e6:,.0f} MB in {str(folder)!r}, where {free / 1e6:,.0f} MB are free. "
            "Make room, or choose another place."
        )


def _seal_of(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def disk_error(error: OSError, target: Path, needed_bytes: int = 0) -> ResourceError:
    """What to raise when `target`, at least so many bytes, could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = free_bytes(target.parent)
        return ResourceError(
            f"no space left to write {str(target)!r}: it takes at least {needed_bytes:,} bytes, and {free:,} are free. "
            "What was saved before is intact; make room and run the same command again."
        )
    return ResourceError(f"cannot write {str(target)!r}: {error.strerror or error}. Choose another place with --out.")
