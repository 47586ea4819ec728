"""A folder of pictures becomes an array: list it, let every file through the gate, keep the pixels, split.

Every file ends in exactly one state:

    accepted      a picture, taken as it is
    changed       a picture, taken after a named change (turned upright, alpha over white, enlarged, ...)
    duplicate     byte for byte the same as an earlier picture, which it names
    rejected      no picture for us, with a code and a reason
    description   a caption or a table about pictures

The user's files are only ever read.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.data.archives import is_archive, open_archive
from bowerbird.data.cache import VERSION, PictureCache
from bowerbird.data.decode import EXTENSIONS, Box, Examined, Fit, Signature, signature, window
from bowerbird.data.layouts import describe, find_layouts, read_boxes
from bowerbird.data.names import printable
from bowerbird.data.picture_set import FileState, Pictures
from bowerbird.data.splits import SMALLEST_SPLIT, near_duplicates, split
from bowerbird.data.summary import summarize
from bowerbird.data.workers import DecodePool, Job
from bowerbird.errors import PictureFolderError, did_you_mean
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.recipe import check_data

_RECORD_SECONDS = 3.0  # a killed scan loses no more than this
_OURS = ({"run.json", "recipe.toml"}, {"bowerbird.json"})  # what marks a training run and a model folder
_FLAT_CONTRAST = 2.0  # standard deviation of grey values below which a picture has no features to compare


def open_pictures(
    source: Path,
    size: int,
    fit: Fit = "crop",
    held_out: float = 0.1,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    *,
    captions: Path | None = None,
    workers: int | None = None,
) -> Pictures:
    """The pictures of a folder as squares of `size` pixels, decoded once and kept in the cache; at least one, or PictureFolderError.

    `captions`: a table of them that lies elsewhere.
    """
    pictures = read_pictures(source, size, fit, held_out, seed, on_progress, captions=captions, workers=workers)
    if not len(pictures.pixels):
        codes = Counter(file.code for file in pictures.files if file.state == "rejected")
        skipped = ", ".join(f"{count} {code}" for code, count in codes.most_common()) or "it is empty"
        raise PictureFolderError(f"no picture in {str(source)!r} ({skipped}). Give a folder with JPEG, PNG, WebP, GIF, BMP or TIFF files.")
    return pictures


def read_pictures(
    source: Path,
    size: int,
    fit: Fit,
    held_out: float,
    seed: int,
    on_progress: OnProgress | None = None,
    *,
    captions: Path | None = None,
    workers: int | None = None,
) -> Pictures:
    """As `open_pictures`, but a folder without a single picture is an answer too.  RecipeError for a size or fit that cannot be.

    Of fit "shape" the squares are those of "crop", to be looked at and compared: previews.decode_shaped has the shapes.
    """
    check_data(size=size, fit=fit)  # the one place that bounds them; nothing else may reach a decoder
    square: Fit = "crop" if fit == "shape" else fit
    root, refused = _open_source(source, on_progress)
    listing = list_files(root, on_progress)
    listing.odd.update(refused)
    layouts = find_layouts(listing.files, source, captions)
    described = {path for layout in layouts for path in layout.lists}
    boxes = read_boxes(root, listing.files) if fit == "box" else {}
    if fit == "box" and not boxes:
        raise PictureFolderError(
            f"fit = 'box' shows what bounding boxes frame, and {str(source)!r} has none (CUB-200-2011 has). Take fit = 'crop' or 'pad'."
        )
    candidates = {path: seen for path, seen in listing.files.items() if path not in described}
    with PictureCache(root, on_progress) as cache:
        found = _examine(cache, root, candidates, boxes, size, square, workers or _cores(), on_progress)
        accepted = _first_of_each(found)
        contents = [found[path].sha256 for path in accepted]
        shown = [found[path].sha256 + _place(boxes.get(path)) for path in accepted]
        pixels = cache.in_order(size, square, shown) if shown else np.zeros((0, size, size, 3), np.uint8)

    examined = tuple(found[path] for path in accepted)
    said = describe(root, listing.files, layouts, accepted)
    groups = near_duplicates(
        np.array([one.phash for one in examined], np.int64), np.array([one.contrast >= _FLAT_CONTRAST for one in examined], np.bool_)
    )
    held, how = _hold_out(accepted, groups, contents, said.held, held_out, seed)
    label_names = tuple(sorted({said.labels[path] for path in accepted if said.labels.get(path)}))
    numbers = {name: number for number, name in enumerate(label_names)}
    pictures = Pictures(
        pixels=pixels,
        train=np.flatnonzero(~held),
        held=np.flatnonzero(held),
        labels=np.array([numbers.get(said.labels.get(path, ""), -1) for path in accepted], np.int64),
        label_names=label_names,
        captions=tuple(said.captions.get(path, ()) for path in accepted),
        names=tuple(printable(path) for path in accepted),
        fingerprint=_fingerprint(shown, size, fit),
        files=tuple(_states(listing, described, found, accepted, boxes, size, fit)),
        examined=examined,
        groups=groups,
        report={},
        root=root,
        paths=tuple(accepted),
        seen=listing.files,
        masks=said.masks,
        boxes=boxes,
    )
    pictures.report.update(summarize(pictures, printable(source.resolve().name), size, fit, how, said))
    return pictures


# ------------------------------------------------------------------------------------------------ what is there


@dataclass(frozen=True)
class Survey:
    """What a folder promises before anything is decoded: pictures by their names, how many have captions, how many classes."""

    pictures: int
    captioned: int
    classes: int


def survey(source: Path, captions: Path | None = None, on_progress: OnProgress | None = None) -> Survey:
    """Count what a folder or an archive holds by its listing and lists."""
    root, _ = _open_source(source, on_progress)
    files = list_files(root, on_progress).files
    layouts = find_layouts(files, source, captions)
    described = {path for layout in layouts for path in layout.lists}
    suffixes = {suffix for several in EXTENSIONS.values() for suffix in several}
    pictures = [path for path in files if path not in described and PurePosixPath(path).suffix.lower() in suffixes]
    said = describe(root, files, layouts, pictures)
    labels = {said.labels[path] for path in pictures if said.labels.get(path)}
    return Survey(len(pictures), len(said.captions), len(labels))


@dataclass(frozen=True)
class Listing:
    """Everything below a folder, by '/'-separated path, in the order of the paths' bytes."""

    files: dict[str, Signature]  # regular files
    odd: dict[str, Examined]  # what else lies there, with its verdict; folders end with '/'


def _open_source(source: Path, on_progress: OnProgress | None) -> tuple[Path, dict[str, Examined]]:
    """The folder to read, and what an archive held that was not unpacked."""
    source = source.expanduser()
    if source.is_dir():
        return source.resolve(), {}
    if source.is_file() and _readable(source) and is_archive(source):
        return open_archive(source.resolve(), on_progress)
    if source.exists():
        raise PictureFolderError(f"{str(source)!r} is neither a folder nor a .zip, .tar or .tgz; give the folder the pictures lie in.")
    siblings = [path.name for path in source.parent.iterdir() if path.is_dir()] if source.parent.is_dir() else []
    near = did_you_mean(source.name, siblings)
    raise PictureFolderError(f"there is no folder {str(source)!r}.{near if 'mean' in near else ' Give the folder your pictures lie in.'}")


def _readable(file: Path) -> bool:
    if os.access(file, os.R_OK):
        return True
    raise PictureFolderError(f"{str(file)!r} may not be read: no permission. Change its permissions, or copy it to where you may.")


def list_files(root: Path, on_progress: OnProgress | None = None) -> Listing:
    """Walk `root` without following a link.  Bowerbird's own runs and models below it are left out: they hold pictures we painted."""
    files: dict[str, Signature] = {}
    odd: dict[str, Examined] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                names = {entry.name: entry for entry in entries}
        except OSError as error:
            odd[folder] = Examined(code="E_PERMISSION", reason=f"this folder cannot be opened: {os.strerror(error.errno or 0)}")
            continue
        if folder and any(marks <= names.keys() for marks in _OURS):
            odd[folder] = Examined(code="E_OURS", reason="a Bowerbird run or model; what it painted is not trained on")
            continue
        for name, entry in names.items():
            path = folder + name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path + "/")
            else:
                _list_one(path, entry, files, odd)
        tell(on_progress, Progress("list", len(files), 0))
    return Listing(dict(sorted(files.items(), key=_by_bytes)), dict(sorted(odd.items(), key=_by_bytes)))


def _list_one(path: str, entry: os.DirEntry[str], files: dict[str, Signature], odd: dict[str, Examined]) -> None:
    try:
        status = os.lstat(entry.path)  # DirEntry.stat has no device and inode on Windows
    except OSError:
        odd[path] = Examined(code="E_VANISHED", reason="the file vanished while the folder was being read")
        return
    if stat.S_ISREG(status.st_mode):
        files[path] = signature(status)
    elif stat.S_ISLNK(status.st_mode):
        odd[path] = Examined(code="E_LINK", reason="a link; links are not followed, copy the pictures or give the folder they lie in")
    else:
        odd[path] = Examined(code="E_NOT_REGULAR", reason="a pipe, socket or device, not a file")


def _by_bytes(item: tuple[str, Any]) -> bytes:
    return os.fsencode(item[0])


# ------------------------------------------------------------------------------------------------ the gate


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _examine(
    cache: PictureCache,
    root: Path,
    files: dict[str, Signature],
    boxes: dict[str, Box],
    size: int,
    fit: Fit,
    workers: int,
    on_progress: OnProgress | None,
) -> dict[str, Examined]:
    """A verdict on every file, in the order of `files`; afterwards the cache holds the pixels of every picture."""
    found = dict.fromkeys(files, Examined())
    todo = []
    known = cache.verdicts()
    held = set(cache.slots(size, fit))
    for path, seen in files.items():
        before = known.pop(os.fsencode(path), None)
        if before is None or before[0] != seen:
            todo.append(path)
        else:
            found[path] = before[1]
            shown = before[1].sha256 + _place(boxes.get(path))
            if not before[1].code and shown not in held:
                todo.append(path)
                held.add(shown)
    cache.forget(known)
    if todo:
        pack = cache.pack_to_fill(size, fit, len(todo))
        jobs = [Job(path, files[path], slot, boxes.get(path)) for slot, path in enumerate(todo)]
        with DecodePool(root, pack, size, fit, workers) as pool:
            for done, (job, verdict) in enumerate(_recorded(pool.run(jobs), cache, size, fit, pack), 1):
                found[job.path] = verdict
                tell(on_progress, Progress("read", done, len(todo)))
    return found


def _recorded(
    results: Iterator[tuple[Job, Examined]], cache: PictureCache, size: int, fit: Fit, pack: Path
) -> Iterator[tuple[Job, Examined]]:
    """Pass results on, writing them to the index every few seconds and at the end, also when the scan is cancelled."""
    batch: list[tuple[bytes, Signature, Examined, int, str]] = []
    since = time.monotonic()
    try:
        for job, verdict in results:
            batch.append((os.fsencode(job.path), job.signature, verdict, job.slot, _place(job.box)))
            if time.monotonic() - since > _RECORD_SECONDS:
                cache.record(batch, size, fit, pack)
                batch, since = [], time.monotonic()
            yield job, verdict
    finally:
        cache.record(batch, size, fit, pack)


def _place(box: Box | None) -> str:
    """What of a content its pixels show, as the end of their key: nothing, or a box."""
    return f" {box[0]:g},{box[1]:g},{box[2]:g},{box[3]:g}" if box else ""


def _first_of_each(found: dict[str, Examined]) -> list[str]:
    """Paths of the pictures, each content once, the first path of it."""
    first: dict[str, str] = {}
    for path, verdict in found.items():
        if not verdict.code:
            first.setdefault(verdict.sha256, path)
    return list(first.values())


def _states(
    listing: Listing,
    described: set[str],
    found: dict[str, Examined],
    accepted: Sequence[str],
    boxes: dict[str, Box],
    size: int,
    fit: Fit,
) -> Iterator[FileState]:
    first = {found[path].sha256: path for path in accepted}
    for path, verdict in sorted([*found.items(), *listing.odd.items(), *((path, Examined()) for path in described)], key=_by_bytes):
        if path in described:
            yield FileState(path, "description")
        elif verdict.code:
            yield FileState(path, "rejected", verdict.code, verdict.reason)
        elif first[verdict.sha256] != path:
            yield FileState(path, "duplicate", same_as=first[verdict.sha256])
        else:
            width, height = verdict.width, verdict.height
            side = max(width, height) if fit == "pad" else window(width, height, boxes.get(path))[2]
            changes = (*verdict.changes.split(), *(["enlarged"] if side < size else []))
            yield FileState(path, "changed" if changes else "accepted", changes=changes)


def _fingerprint(contents: Sequence[str], size: int, fit: Fit) -> str:
    return hashlib.sha256("\n".join([f"{VERSION} {size} {fit}", *contents]).encode()).hexdigest()


def _hold_out(
    accepted: Sequence[str], groups: NDArray[np.int64], contents: Sequence[str], official: dict[str, bool], held_out: float, seed: int
) -> tuple[NDArray[np.bool_], str]:
    """Which pictures are held out, and why, in words."""
    if official:
        return np.array([official.get(path, False) for path in accepted], np.bool_), "the test pictures the folder itself names"
    if len(accepted) < SMALLEST_SPLIT:
        return np.zeros(len(accepted), np.bool_), f"none: below {SMALLEST_SPLIT} pictures all are needed for learning"
    return split(groups, contents, held_out, seed), f"{held_out:.0%} by content and seed, near-duplicates on one side"
