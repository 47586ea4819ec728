"""What a way of laying out pictures and what is said about them has to offer, and what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bowerbird.data.decode import Signature

Files = Mapping[str, Signature]  # what was listed, by '/'-separated path below the root


@dataclass
class Said:
    """What is said about pictures, by their paths below the root; a picture of which nothing is said is in none of these."""

    captions: dict[str, tuple[str, ...]] = field(default_factory=dict)  # one or more each, the first first
    labels: dict[str, str] = field(default_factory=dict)
    masks: dict[str, str] = field(default_factory=dict)  # paths of pictures as large that show where to learn
    held: dict[str, bool] = field(default_factory=dict)  # an official split: whether a picture is held out
    conflicts: set[str] = field(default_factory=set)  # pictures of which two files say different things: the nearest won
    problems: list[str] = field(default_factory=list)  # what could not be read, in words
    orphans: int = 0  # rows that name no picture
    sources: Counter[str] = field(default_factory=Counter)  # how many pictures have their captions from which layout
    writers: Counter[str] = field(default_factory=Counter)  # how many have captions by whom, where a table tells


class Layout(Protocol):
    """One layout, recognised in a listing: a dataclass of what was recognised, made by its module's `find`."""

    @property
    def name(self) -> str:
        """For the report."""

    @property
    def lists(self) -> frozenset[str]:
        """The files that speak about pictures and are none."""

    def read(self, root: Path, files: Files, pictures: Sequence[str]) -> Said:
        """What is said about `pictures`, which lie below `root`."""
