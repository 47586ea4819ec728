"""Everything that can go wrong and that a person can mend, as one tree.

    BowerbirdError                  exit code 2: one sentence, no traceback
    ├── PictureFolderError          the folder of pictures: missing, empty, changed while in use
    ├── RecipeError                 a setting that does not exist or cannot be
    ├── RequestError                a painting request this model cannot honour
    ├── ModelError                  a model or run folder: missing, damaged, of an unknown kind
    │   └── UnsafeFileError         a file that could run code if it were loaded (pickles)
    ├── RunError                    a training run: locked, of another recipe, diverged
    ├── ResourceError               no disk space, no memory, no such device
    ├── MissingExtraError           an optional dependency is not installed
    └── Stopped                     exit code 75: stopped on purpose, the same command resumes

Every message says what was found, what was expected and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MAX_MESSAGE = 1_000  # letters; what was found may be anybody's, and as long as they like


class BowerbirdError(Exception):
    """Base of every error a user can mend."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE // 2]} ... {message[-_MAX_MESSAGE // 4 :]}")


class PictureFolderError(BowerbirdError):
    pass


class RecipeError(BowerbirdError):
    pass


class RequestError(BowerbirdError):
    pass


class ModelError(BowerbirdError):
    pass


class UnsafeFileError(ModelError):
    pass


class RunError(BowerbirdError):
    pass


class ResourceError(BowerbirdError):
    pass


class MissingExtraError(BowerbirdError):
    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package}, which is not installed. Run: pip install 'bowerbird[{extra}]'")


class Stopped(BowerbirdError):  # noqa: N818 - not a failure
    """Stopped by a signal or by the caller; everything is saved and the same command goes on."""

    exit_code = 75


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' for the nearest known name, or the whole list when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(names)}."
