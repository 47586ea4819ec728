"""A training run on disk, as everybody but the trainer needs to know it.

RUN/
  run.json      which model is best, which latest, which checkpoint goes on; replaced in one step
  recipe.toml   data.json   metrics.jsonl   run.lock
  models/<pictures seen>/        immutable model folders
  checkpoints/<pictures seen>/   immutable, hashed
  samples/epoch-0010.png ...     progress.gif   report.html
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from bowerbird.errors import ModelError
from bowerbird.model_folder import MANIFEST, Manifest, read_manifest
from bowerbird.progress import OnProgress, note
from bowerbird.storage import Disk, read_sealed, seal, verify_folder, write_file

_ENTRY = re.compile(r"[0-9]{10}(-[0-9]+)?")
EntryName = Annotated[str, Field(pattern=f"^{_ENTRY.pattern}$")]  # never a path that leads elsewhere
RUN_FILE = "run.json"
CHECKPOINT_MANIFEST = "checkpoint.json"


class RunState(BaseModel):
    """The content of run.json: names of sub-folders, and what the run has been promised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    best: EntryName | None = None
    latest: EntryName | None = None
    checkpoint: EntryName | None = None
    before_decay: EntryName | None = None  # the checkpoint that an extension goes on from
    finished: bool = False
    promised_hours: float | None = None  # from the first update to the end, as forecast
    extensions: tuple[dict[str, Any], ...] = ()


def is_run(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file() or (folder / "checkpoints").is_dir()


def write_run_state(disk: Disk, run: Path, state: RunState) -> None:
    write_file(disk, run / RUN_FILE, seal(state.model_dump(mode="json")))


def read_run_state(run: Path, on_progress: OnProgress | None = None) -> RunState:
    """run.json; when that is damaged or gone, the newest entries that verify, said aloud.  An empty state for a new run."""
    if not (run / RUN_FILE).exists() and not entries(run / "checkpoints"):
        return RunState()
    try:
        return RunState.model_validate(read_sealed(run / RUN_FILE))
    except (ModelError, ValueError) as error:
        state = RunState(
            latest=newest_verified(run / "models", MANIFEST, on_progress),
            best=newest_verified(run / "models", MANIFEST, on_progress),
            checkpoint=newest_verified(run / "checkpoints", CHECKPOINT_MANIFEST, on_progress),
        )
        if state.latest or state.checkpoint:
            note(on_progress, f"{str(run / RUN_FILE)!r} is missing or damaged; using the newest entries that verify ({error})")
        return state


def newest_verified(folder: Path, manifest_name: str, on_progress: OnProgress | None = None) -> str | None:
    """Name of the newest sub-folder of which every file is as it was written; damaged ones are passed over aloud."""
    for name in entries(folder):
        try:
            verify_folder(folder / name, manifest_name)
        except ModelError as error:
            note(on_progress, f"passing over {str(folder / name)!r}: {error}")
        else:
            return name
    return None


def entries(folder: Path) -> list[str]:
    """Sub-folders named by pictures seen, newest first; what an interrupted write left behind is no entry."""
    if not folder.is_dir():
        return []
    return sorted((path.name for path in folder.iterdir() if _ENTRY.fullmatch(path.name)), reverse=True)


def free_entry(folder: Path, pictures_seen: int) -> str:
    """A name for a new entry.  One of the same count may be there, from before a resume: it is left alone until pruning."""
    names = (f"{pictures_seen:010d}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(name for name in names if not (folder / name).exists())


def model_of_run(run: Path, which: str = "best", on_progress: OnProgress | None = None) -> tuple[Path, Manifest]:
    """The model folder that a run stands for, verified: 'best' or 'latest', or the newest intact one when that is damaged."""
    if which not in ("best", "latest"):
        raise ModelError(f"{str(run)!r} has no model {which!r}; write RUN@latest, or RUN alone for the best.")
    state = read_run_state(run, on_progress)
    name = state.best if which == "best" else state.latest
    if name is None:
        raise ModelError(f"the run {str(run)!r} has no model yet; train it until the first sample grid.")
    try:
        return run / "models" / name, read_manifest(run / "models" / name)
    except ModelError as error:
        intact = newest_verified(run / "models", MANIFEST, on_progress)
        if intact is None:
            raise
        note(on_progress, f"the {which} model of {str(run)!r} is damaged ({error}); using {intact}")
        return run / "models" / intact, read_manifest(run / "models" / intact)
