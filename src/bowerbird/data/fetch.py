"""Data sets by name: asked about first, fetched in one go or in several, checked, and never half there.

What has come so far lies in NAME.part; the same command goes on from its end.  Only when the checksum is right does the file get
its name.
"""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bowerbird.errors import RequestError, ResourceError, did_you_mean
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.storage import disk_error, require_free

_CHUNK = 2**20
_TRIES = 5  # without a byte in between
_PATIENCE_SECONDS = 30.0  # for an answer


@dataclass(frozen=True)
class DataSet:
    """One file somewhere on the web."""

    title: str
    url: str
    md5: str
    bytes: int  # about; the server tells exactly
    licence: str

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    def by_hand(self) -> str:
        """What to do where there is no network."""
        return f"Fetch {self.url} where there is a network (MD5 {self.md5}), copy {self.file} here, and give it as PICTURES."

    def __str__(self) -> str:
        return f"{self.title}: {self.bytes / 1e9:.2f} GB from {urlsplit(self.url).hostname}, {self.licence}"


DATA_SETS = {
    "cub": DataSet(
        "CUB-200-2011, 11,788 photographs of 200 kinds of birds",
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "97eceeb196236b17998738112f37df78",
        1_150_585_339,
        "for non-commercial research and education",
    )
}

Ask = Callable[[DataSet], bool]


def find_data_set(name: str) -> DataSet:
    if name not in DATA_SETS:
        raise RequestError(f"there is no data set {name!r} to fetch.{did_you_mean(name, DATA_SETS)}")
    return DATA_SETS[name]


def fetch(wanted: DataSet, folder: Path, ask: Ask | None, offline: bool = False, on_progress: OnProgress | None = None) -> Path:
    """The file of a data set in `folder`: there already, or fetched once `ask` agreed.  ResourceError says what to do by hand."""
    target = folder / wanted.file
    part = folder / f"{wanted.file}.part"
    if target.exists():
        if _md5(target, on_progress) != wanted.md5:
            raise RequestError(f"{str(target)!r} is there already and is not {wanted.title} (its MD5 differs). Move it away.")
        return target
    if offline:
        raise ResourceError(f"{wanted.file} is not in {str(folder)!r}, and --offline forbids fetching it. {wanted.by_hand()}")
    if ask is None or not ask(wanted):
        raise RequestError(f"{wanted}. Not downloaded: nobody agreed. Say yes when asked, or give --yes.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, target) from error
    _download(wanted, part, on_progress)
    if (found := _md5(part, on_progress)) != wanted.md5:
        part.unlink()
        raise ResourceError(
            f"what came from {wanted.url} has the MD5 {found}, not {wanted.md5}, and was removed. Try again, or by another way."
        )
    part.rename(target)
    return target


def _download(wanted: DataSet, part: Path, on_progress: OnProgress | None) -> None:
    """Append to `part` until it is whole.  A connection that breaks off is taken up again while anything comes."""
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _go_on(wanted, part, before, on_progress):
                return
            reason = "it ended early"
        except urllib.error.HTTPError as error:
            raise ResourceError(f"{wanted.url} answers {error.code} {error.reason}. {wanted.by_hand()}") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        now = part.stat().st_size if part.exists() else 0
        tries = 0 if now > before else tries + 1
        if tries == _TRIES or not now:
            have = f" after {now / 1e6:,.0f} MB, which are kept: the same command goes on from there" if now else ""
            raise ResourceError(f"{urlsplit(wanted.url).hostname} cannot be reached ({reason}){have}. {wanted.by_hand()}")
        time.sleep(min(tries, 3))


def _go_on(wanted: DataSet, part: Path, have: int, on_progress: OnProgress | None) -> bool:
    """Ask for what is behind the first `have` bytes and append it; whether the file is whole then."""
    request = urllib.request.Request(wanted.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies behind what is here: whole, or longer than the file, which its checksum will tell
            return True
        raise
    with answer:
        goes_on = answer.status == 206 and (answer.headers["Content-Range"] or "").startswith(f"bytes {have}-")
        have = have if goes_on else 0
        length = answer.headers["Content-Length"]
        total = have + int(length) if length and length.isdigit() else 0
        require_free(part.parent, max(0, total - have), wanted.file)
        try:
            with part.open("ab" if goes_on else "wb") as file:
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    tell(on_progress, Progress("fetch", have, total))
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            raise disk_error(error, part, total) from error
    return not total or have == total


def _md5(path: Path, on_progress: OnProgress | None) -> str:
    digest, size = hashlib.md5(usedforsecurity=False), path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            tell(on_progress, Progress("check", file.tell(), size))
    return digest.hexdigest()
