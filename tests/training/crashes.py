"""Every state a crash can leave: the operations of a save are recorded, cut off anywhere, and replayed into a folder.

Two kinds of crash.  A killed process leaves a prefix of its operations.  A power cut leaves a prefix from which
operations that were not yet synced may be missing besides, each by itself: content until its file is synced, names
(created, renamed, removed) until their folder is.
"""

from __future__ import annotations

import itertools
import json
import os
import posixpath
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bowerbird.data.pictures import open_pictures
from bowerbird.errors import Stopped
from bowerbird.model_folder import open_model_folder
from bowerbird.run_folder import RUN_FILE, model_of_run
from bowerbird.storage import Disk
from bowerbird.training.resume import start_or_resume
from tests.conftest import tiny_recipe
from tests.training.runs import Notes, new_setup, run_here

Tree = dict[str, bytes | None]  # path below the run ("" is the run itself) -> content of a file, None for a folder

NAMES = ("make", "create", "rename", "unlink", "rmdir")  # what a sync of the folder makes durable


@dataclass(frozen=True)
class Operation:
    kind: str  # one of NAMES, "write", "sync" (a file), "sync folder"
    path: str
    data: bytes = b""  # of a write: the content of the file from here on
    old: str = ""  # of a rename: where it was

    @property
    def folder(self) -> str:
        return posixpath.dirname(self.path)


class RecordingDisk(Disk):
    """Does as `Disk` does and lists it, in the pieces that a crash can separate."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.operations: list[Operation] = []

    def _note(self, kind: str, path: Path, data: bytes = b"", old: Path | None = None) -> None:
        self.operations.append(Operation(kind, _name(path, self.root), data, _name(old, self.root) if old else ""))

    def make_folder(self, path: Path) -> None:
        for folder in reversed([path, *path.parents]):
            if not folder.exists():
                self._note("make", folder)
        super().make_folder(path)

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data)
        self._note("create", path)
        self._note("write", path, data[: len(data) // 2])
        self._note("write", path, data)
        self._note("sync", path)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._note("rename", new, old=old)

    def replace(self, old: Path, new: Path) -> None:
        super().replace(old, new)
        self._note("rename", new, old=old)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self._note("sync folder", path)

    def remove(self, path: Path) -> None:
        for inside in sorted(path.rglob("*"), reverse=True):  # what lies in a folder comes before it
            self._note("rmdir" if inside.is_dir() else "unlink", inside)
        self._note("rmdir" if path.is_dir() else "unlink", path)
        super().remove(path)


def read_tree(root: Path) -> Tree:
    return {_name(path, root): path.read_bytes() if path.is_file() else None for path in [root, *root.rglob("*")]}


def _name(path: Path, root: Path) -> str:
    return "" if path == root else path.relative_to(root).as_posix()


def replay(tree: Tree, operations: Iterable[Operation]) -> Tree:
    """What is on the disk after the operations; one whose file or folder is not there does nothing."""
    tree = dict(tree)
    for operation in operations:
        path = operation.path
        if operation.kind in ("make", "create") and operation.folder in tree:
            tree[path] = None if operation.kind == "make" else b""
        elif operation.kind == "write" and path in tree:
            tree[path] = operation.data
        elif operation.kind == "rename" and operation.old in tree:
            for name in [operation.old, *_inside(operation.old, tree)]:
                tree[path + name.removeprefix(operation.old)] = tree.pop(name)
        elif operation.kind == "unlink" or (operation.kind == "rmdir" and not _inside(path, tree)):
            tree.pop(path, None)
    return tree


def _inside(folder: str, tree: Tree) -> list[str]:
    return [name for name in tree if name.startswith(f"{folder}/")]


def not_durable(operations: list[Operation]) -> list[int]:
    """Numbers of the operations that a power cut after the last of them may undo."""
    synced_files: set[str] = set()
    synced_folders: set[str] = set()
    removed: set[str] = set()  # durably: what happened inside does not matter any more
    pending = []
    for number in reversed(range(len(operations))):
        operation = operations[number]
        if operation.kind == "sync":
            synced_files.add(operation.path)
        elif operation.kind == "sync folder":
            synced_folders.add(operation.path)
        elif operation.folder in removed:
            continue
        elif operation.path not in synced_files if operation.kind == "write" else operation.folder not in synced_folders:
            pending.append(number)
        elif operation.kind == "rmdir":
            removed.add(operation.path)
    return pending[::-1]


@dataclass(frozen=True)
class Crash:
    """A state of the disk.  operations: how many had begun; lost: how many of them the power cut undid; tree: what is there;
    promised: the checkpoint that the last finished save had named."""

    operations: int
    lost: int
    tree: Tree
    promised: str


def crashes(base: Tree, operations: list[Operation]) -> Iterator[Crash]:
    """Every state, each once: after every operation, minus none, one or two of those not durable yet."""
    known: set[frozenset[tuple[str, bytes | None]]] = set()
    whole, promised = [base], _named_checkpoint(base)  # the tree after each number of operations
    for length in range(len(operations) + 1):
        if length:
            whole.append(replay(whole[-1], operations[length - 1 : length]))
            if operations[length - 1] == Operation("sync folder", ""):
                promised = _named_checkpoint(whole[-1])
        pending = not_durable(operations[:length])
        for lost in itertools.chain.from_iterable(itertools.combinations(pending, count) for count in range(3)):
            first = min(lost, default=length)
            tree = replay(whole[first], (operations[i] for i in range(first, length) if i not in lost))
            key = frozenset(tree.items())
            if key not in known:
                known.add(key)
                yield Crash(length, len(lost), tree, promised)


def _named_checkpoint(tree: Tree) -> str:
    content = tree[RUN_FILE]
    assert content is not None
    return str(json.loads(content)["checkpoint"])


class Unfolder:
    """Puts trees on the disk; a content that many trees share is written once and linked."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.blobs: dict[bytes, Path] = {}

    def unfold(self, tree: Tree, target: Path) -> Path:
        for path in sorted(tree):
            content = tree[path]
            if content is None:
                (target / path).mkdir()
            else:
                os.link(self._blob(content), target / path)
        return target

    def _blob(self, content: bytes) -> Path:
        if content not in self.blobs:
            self.blobs[content] = self.store / str(len(self.blobs))
            self.blobs[content].write_bytes(content)
        return self.blobs[content]


RECIPE = tiny_recipe(sample={"every_epochs": 1, "count": 1, "steps": 1})
STOP_AT = 64  # of 96 pictures: after the first snapshot, so that there is a model to lose


def record_the_rest_of_a_run(pictures: Path, run: Path) -> tuple[Tree, list[Operation]]:
    """A run stopped in its middle, and every operation of resuming it and bringing it to its end."""
    with pytest.raises(Stopped):
        run_here(pictures, run, RECIPE, on_progress=lambda event: not (event.stage == "train" and event.done >= STOP_AT))
    base, disk = read_tree(run), RecordingDisk(run)
    run_here(pictures, run, RECIPE, disk=disk)
    return base, disk.operations


def open_after(states: list[Crash], pictures: Path, folder: Path) -> None:
    """Put each state on the disk and do what the trainer and the painter do.

    The checkpoint they find is the one last promised or a newer one, verified and loaded, and never a second choice:
    a note would mean that run.json named something that is not whole.
    """
    opened, unfolder = open_pictures(pictures, 16, "crop", 0.1, 0), Unfolder(folder)
    for state in states:
        run = unfolder.unfold(state.tree, folder / "run")
        notes = Notes()
        resumed = start_or_resume(new_setup(run, RECIPE, opened, notes))
        for which in ("best", "latest"):
            open_model_folder(*model_of_run(run, which, notes))
        assert not notes
        if resumed is not None:
            assert resumed.state.seen >= int(state.promised[:10]), f"{state.operations} operations, {state.lost} lost"
        shutil.rmtree(run)
