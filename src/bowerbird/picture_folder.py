"""Many pictures at once: those of a folder, and the request for each.

    pictures_in(folder)             its picture files, by name
    pictures_of(places)             files as they are named, the pictures of folders among them
    for_each_picture(request)       one request for each picture, where `image` is a folder
    refuse_broken(problems, of)     once the others are done

Every face that takes a folder asks here, so that the same folder is the same requests everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bowerbird.errors import PictureFolderError, RequestError
from bowerbird.request import PaintRequest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder, by name; sub-folders and files of other kinds are left alone.

    PictureFolderError when there is none, or the folder cannot be looked into.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file() and path.name[0] != ".")
    except OSError as error:
        raise PictureFolderError(f"the folder {str(folder)!r} cannot be read ({error.strerror}). Name one that can.") from error
    if not found:
        raise PictureFolderError(f"there is no picture in {str(folder)!r}. Supported: {' '.join(SUFFIXES)}.")
    return found


def pictures_of(places: Iterable[Path]) -> list[Path]:
    """The places that are files as they are named, and the pictures of those that are folders."""
    return [picture for place in places for picture in (pictures_in(place) if place.is_dir() else [place])]


def for_each_picture(request: PaintRequest) -> list[PaintRequest]:
    """The same request for each picture of the folder `image`, with the mask of the same stem where `mask` is a folder too.

    A request whose `image` is no folder stays alone.  RequestError names a picture that has no mask.
    """
    if request.image is None or not request.image.is_dir():
        return [request]
    pictures = pictures_in(request.image)
    if request.mask is None or not request.mask.is_dir():
        return [request.model_copy(update={"image": picture}) for picture in pictures]
    by_stem = {mask.stem: mask for mask in pictures_in(request.mask)}
    missing = [picture.name for picture in pictures if picture.stem not in by_stem]
    if missing:
        raise RequestError(
            f"{str(request.mask)!r} has no mask for {missing[0]!r} ({len(missing)} of {len(pictures)} have none). Name masks like pictures."
        )
    return [request.model_copy(update={"image": picture, "mask": by_stem[picture.stem]}) for picture in pictures]


def refuse_broken(problems: Sequence[str], of: int) -> None:
    """PictureFolderError about those of many that cannot be read, each with a sentence: said when the others are done."""
    if problems:
        raise PictureFolderError(f"{len(problems)} of {of} pictures cannot be read, and the others are done: {problems[0]}")
