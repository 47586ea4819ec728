"""What is dropped on the page is kept in the queue's home by its content: nothing there is ever written over.

keep_archive(queue, files)     pictures with their words, or an archive, to train on
keep_pictures(queue, files)    a folder of pictures, each of them to start from
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bowerbird.errors import PictureFolderError
from bowerbird.jobs import Queue

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
MAX_DROPPED_BYTES = 256 * 2**20  # as much as the server takes


def keep_archive(queue: Queue, files: Sequence[Path]) -> Path:
    """An archive of what was dropped.

    What lies in it is judged, as in any archive, when it is looked through or trained on.  PictureFolderError when it cannot be kept.
    """
    archives = [file for file in files if file.name.lower().endswith(ARCHIVES)]
    if archives and len(files) > 1:
        raise PictureFolderError(f"{archives[0].name!r} is an archive; drop one archive alone, or pictures.")
    contents = _contents(files)
    if archives:
        (data,) = contents.values()
        return queue.keep_input(data, next(end for end in ARCHIVES if archives[0].name.lower().endswith(end)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # without its time: the same pictures are kept once
    return queue.keep_input(buffer.getvalue(), ".zip")


def keep_pictures(queue: Queue, files: Sequence[Path]) -> Path:
    """A folder of what was dropped, under the names it was dropped with.  PictureFolderError when it cannot be kept."""
    return queue.keep_folder(_contents(files))


def _contents(files: Sequence[Path]) -> dict[str, bytes]:
    """What the files hold, by their names, in the order of these."""
    if sum(file.stat().st_size for file in files) > MAX_DROPPED_BYTES:
        raise PictureFolderError(
            f"these files are larger than {MAX_DROPPED_BYTES >> 20} MiB together; name the folder they lie in instead."
        )
    names = [file.name for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PictureFolderError(f"{twice!r} was dropped twice; give one of the two another name.")
    return {file.name: file.read_bytes() for file in sorted(files, key=lambda file: file.name)}
