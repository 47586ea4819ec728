"""A .zip, .tar or .tgz of pictures, unpacked once into the cache: member by member, under caps, never outside it.

`extractall` is not used: its filters have had holes.  Only regular files are made, under names checked here, in a folder that
held nothing before, so there is no link to be led away by.  What is refused is reported like any other file.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from bowerbird.cache import cache_root, lock, usable
from bowerbird.data.cache import source_key
from bowerbird.data.decode import MAX_FILE_BYTES, Examined, Rejected, signature
from bowerbird.errors import PictureFolderError
from bowerbird.progress import OnProgress, Progress, tell

MAX_MEMBERS = 2_000_000
MAX_GROWTH = 100  # unpacked bytes per byte of archive, once above a gibibyte: pictures are packed already and hardly grow
_GROWTH_FLOOR = 2**30
_HEADER_BYTES = 16 * 2**20  # a tar header (long names, attributes) may claim any length
_CHUNK = 2**20


class _Member(NamedTuple):
    name: str
    size: int  # bytes, by its header
    refusal: Rejected | None
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Told by content: zip, gzip or tar."""
    with path.open("rb") as file:
        head = file.read(512)
    return head[:4] == b"PK\x03\x04" or head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar"


def open_archive(archive: Path, on_progress: OnProgress | None = None) -> tuple[Path, dict[str, Examined]]:
    """The folder its files were unpacked to, now or before, and the members that were refused, by name."""
    home = cache_root() / "unpacked" / source_key(archive)
    marker, files = home / "unpacked.json", home / "files"
    seen = list(signature(archive.stat()))
    with contextlib.closing(lock(home, on_progress)), usable(home):
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(marker.read_text())
            if known["archive"] == seen:
                return files, {name: Examined(code=code, reason=reason) for name, code, reason in known["refused"]}
        marker.unlink(missing_ok=True)
        shutil.rmtree(files, ignore_errors=True)
        refused = _unpack(archive, files, on_progress)
        if hasattr(os, "sync"):
            os.sync()  # the marker must not outlive a power cut that the files did not
        marker.write_text(json.dumps({"archive": seen, "refused": [(name, one.code, one.reason) for name, one in refused.items()]}))
    return files, refused


def _unpack(archive: Path, target: Path, on_progress: OnProgress | None) -> dict[str, Examined]:
    """Write every acceptable member below `target`, which does not exist yet."""
    target.mkdir()
    archive_bytes = archive.stat().st_size
    room = max(_GROWTH_FLOOR, MAX_GROWTH * archive_bytes)
    refused: dict[str, Examined] = {}
    try:
        with archive.open("rb") as file:
            for count, member in enumerate(_members(file)):
                if count == MAX_MEMBERS:
                    raise PictureFolderError(
                        f"{archive.name!r} has more than {MAX_MEMBERS:,} members; unpack it yourself and give the folder."
                    )
                try:
                    room -= _write(member, target)
                except Rejected as verdict:
                    name = f"{member.name} (member {count + 1})" if member.name in refused else member.name
                    refused[name] = Examined(code=verdict.code, reason=verdict.reason)
                if room < 0:
                    raise PictureFolderError(
                        f"{archive.name!r} grows more than {MAX_GROWTH}-fold when unpacked, as no archive of pictures does."
                    )
                tell(on_progress, Progress("unpack", count + 1, 0))
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise PictureFolderError(f"{archive.name!r} is damaged or cut short ({type(error).__name__}); fetch it again.") from error
    return refused


def _write(member: _Member, target: Path) -> int:
    """Write one member; returns its bytes.  Rejected says why not; nothing is left of it then."""
    path = target.joinpath(*_safe_parts(member.name))
    if member.refusal is not None:
        raise member.refusal
    if member.size > MAX_FILE_BYTES:
        raise Rejected("E_TOO_BIG", f"{member.size / 2**20:,.0f} MiB; at most {MAX_FILE_BYTES // 2**20}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as out:
            try:
                return _copy(member, out)
            except BaseException:
                path.unlink()
                raise
    except FileExistsError:
        raise Rejected("E_SAME_NAME", "an earlier member of the archive has this name") from None
    except NotADirectoryError:
        raise Rejected("E_NAME", "an earlier member of the archive is a file where this needs a folder") from None
    except OSError as error:
        if error.errno not in {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR}:
            raise  # our disk's fault, not the member's
        raise Rejected("E_NAME", f"no file can have this name here: {os.strerror(error.errno or 0)}") from None


def _copy(member: _Member, out: IO[bytes]) -> int:
    written = 0
    try:
        with member.open() as data:
            while chunk := data.read(_CHUNK):
                written += len(chunk)
                if written > MAX_FILE_BYTES:  # whatever its header said
                    raise Rejected("E_BOMB", f"it unpacks to more than {MAX_FILE_BYTES // 2**20} MiB")
                out.write(chunk)
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, MemoryError):
        raise Rejected("E_DAMAGED", "its checksum or compression is wrong") from None
    return written


def _safe_parts(name: str) -> list[str]:
    """The folders and file name of a member, or Rejected when they could lead out of the target."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise Rejected("E_NAME", "its name leads out of the archive's own folder")
    parts = [part for part in parts if part not in {"", "."}]
    if not parts:
        raise Rejected("E_NAME", "it has no name")
    return parts


def _members(file: IO[bytes]) -> Iterator[_Member]:
    """Every member that is not a folder."""
    head = file.read(4)
    file.seek(0)
    if head == b"PK\x03\x04":
        yield from _zip_members(file)
    else:
        stream = gzip.GzipFile(fileobj=file) if head[:2] == b"\x1f\x8b" else file
        yield from _tar_members(stream)


def _zip_members(file: IO[bytes]) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            refusal = None
            kind = info.external_attr >> 16 & 0o170000
            if info.flag_bits & 1:
                refusal = Rejected("E_ENCRYPTED", "it is encrypted")
            elif kind == 0o120000:
                refusal = Rejected("E_LINK", "a link; links are not followed")
            elif kind not in {0, 0o100000}:
                refusal = Rejected("E_NOT_REGULAR", "a pipe, socket or device, not a file")
            elif info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                refusal = Rejected("E_FORMAT", "packed by a method that is not read; stored and deflated are")
            yield _Member(info.filename, info.file_size, refusal, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(stream: IO[bytes] | gzip.GzipFile) -> Iterator[_Member]:
    with tarfile.open(fileobj=_ShortReads(stream), mode="r:") as archive:  # type: ignore[call-overload]
        while info := archive.next():
            archive.members.clear()  # tarfile remembers every header it has read
            if info.isdir():
                continue
            refusal = None
            if info.issym() or info.islnk():
                refusal = Rejected("E_LINK", "a link; links are not followed")
            elif not info.isreg():
                refusal = Rejected("E_NOT_REGULAR", "a pipe, socket or device, not a file")
            yield _Member(info.name, info.size, refusal, lambda info=info: archive.extractfile(info))  # type: ignore[misc]
        stream.seek(archive.offset)  # tarfile takes a broken header for the end: an archive really ends with zeros
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end of archive")
        for _ in range(_GROWTH_FLOOR // _CHUNK):  # the padding; behind it gzip checks its sum over everything
            if not stream.read(_CHUNK):
                return
        raise tarfile.ReadError("an end without end")


class _ShortReads:
    """A stream that refuses to be read in one piece larger than any honest tar header."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _HEADER_BYTES:
            raise tarfile.ReadError("a header claims an absurd length")
        return self._stream.read(count)
