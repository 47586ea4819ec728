"""How long work speaks to whoever waits for it: one event, one callback, one way to cancel.

The callback gets a `Progress` and may return False to cancel; the work then raises `Cancelled` at the next step.
A command line prints the events, a server streams them, a test records them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Progress:
    """One event.  `done` of `total` units (pictures in training, steps in painting) of `stage` are behind us.

    The stage "note" has no units: its `note` is a sentence for people, about the work that tells it.
    """

    stage: str
    done: int
    total: int
    loss: float | None = None
    preview: Callable[[], Image] | None = None  # the picture so far; costs nothing unless called
    note: str = ""  # words for people


class Cancelled(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The callback returned False."""


OnProgress = Callable[[Progress], bool | None]


def tell(on_progress: OnProgress | None, event: Progress) -> None:
    """Report `event`, and raise `Cancelled` when the listener says stop."""
    if on_progress is not None and on_progress(event) is False:
        raise Cancelled(event.stage)


def note(on_progress: OnProgress | None, sentence: str) -> None:
    """Say something that people should know and that stops nothing; where nobody listens, it goes to the log."""
    if on_progress is None:
        logging.getLogger("bowerbird").warning(sentence)
    else:
        tell(on_progress, Progress("note", 0, 0, note=sentence))
