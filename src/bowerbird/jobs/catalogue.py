"""The models that can be asked for by name, read from their folders' own papers; nothing is loaded.

Names come from folders: the bundled models, the trainings of the queue, and what the user pointed at.  A client's string
is only ever looked up here, so that no client can name a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import bowerbird
from bowerbird.errors import BowerbirdError, RequestError, did_you_mean
from bowerbird.formats import upgrade_manifest
from bowerbird.prompts.vocabulary import Vocabulary, read_vocabulary
from bowerbird.storage import read_sealed

BUNDLED = Path(bowerbird.__file__).parent / "models/bundled"
DEFAULT = "starter"
_MANIFEST, _RUN = "bowerbird.json", "run.json"


class ModelEntry(BaseModel):
    """One model: what to call it, where it is, and what it can be asked."""

    model_config = ConfigDict(frozen=True)

    name: str
    where: str = Field(description="what `open_model` opens")
    kind: str = Field("", description="pixel, latent, upscaler; other people's: diffusers or checkpoint")
    size: tuple[int, int] | None = Field(None, description="width and height it paints by itself, where its papers say")
    reads_text: bool = False
    labels: list[str] = Field(default_factory=list)
    created: int = Field(0, description="unix seconds")
    licence: str = ""
    details: dict[str, Any] = Field(default_factory=dict, description="its manifest, without file hashes")


@dataclass(frozen=True)
class Catalogue:
    """Models in these folders, each a model itself or a folder of them.  Read anew at each question: runs come and grow."""

    folders: Sequence[Path] = ()
    models: Sequence[str] = ()  # single ones, as a command line would name them

    def entries(self) -> list[ModelEntry]:
        """Every model that paints, the bundled ones first; of two of one name the first is kept."""
        found: dict[str, ModelEntry] = {}
        for entry in self._all():
            if entry.kind != "autoencoder":  # it paints nothing
                found.setdefault(entry.name, entry)
        return list(found.values())

    def find(self, name: str | None, forgiving: bool = False) -> ModelEntry:
        """The model of that name; the default for None.  forgiving: also for a name that is not known, unless it tries to be a path.

        RequestError for any other.
        """
        entries = {entry.name: entry for entry in self.entries()}
        if name in entries:
            return entries[name]
        default = entries.get(DEFAULT) or next(iter(entries.values()), None)
        if name is not None and (not forgiving or ".." in name or "\\" in name or "\0" in name or name.startswith(("/", "~", "."))):
            raise RequestError(f"there is no model {name!r:.80}.{did_you_mean(name, entries)}")
        if default is None:
            raise RequestError("there is no model yet. Train one, or point at one with --models.")
        return default

    def _all(self) -> Iterator[ModelEntry]:
        for folder in (BUNDLED, *self.folders):
            if _is_model(folder):
                yield from _entry(folder.name, folder)
            elif folder.is_dir():
                for each in sorted(folder.iterdir()):
                    if each.is_dir() or each.suffix == ".safetensors":
                        yield from _entry(each.stem if each.is_file() else each.name, each)
        for where in self.models:
            path = Path(where)
            if path.exists():
                yield from _entry(path.stem if path.is_file() else path.name, path)
            else:  # a name on a hub, whose files are in its cache
                yield ModelEntry(name=where, where=where, kind="diffusers", reads_text=True)


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (_MANIFEST, _RUN, "model_index.json"))


def _entry(name: str, path: Path) -> Iterator[ModelEntry]:
    """What is known of the model at `path`; nothing when there is none that paints."""
    where, created = str(path.absolute()), int(path.stat().st_mtime)
    if path.is_file():
        yield ModelEntry(name=name, where=where, kind="checkpoint", created=created, reads_text=True)
        return
    try:
        folder = _snapshot(path)
        if folder is None:  # a training that has no model yet
            return
        if (folder / _MANIFEST).is_file():
            yield _own(name, where, folder, created)
        elif (folder / "model_index.json").is_file() or (folder / "unet").is_dir():
            yield ModelEntry(name=name, where=where, kind="diffusers", created=created, reads_text=(folder / "text_encoder").is_dir())
    except (BowerbirdError, OSError, ValueError):  # damaged, or being written: not a model to offer
        return


def _snapshot(path: Path) -> Path | None:
    """The model folder at `path`: of a run its best snapshot, None before it has one."""
    if not (path / _RUN).is_file():
        return path
    best = read_sealed(path / _RUN).get("best")
    return None if best is None else path / "models" / str(best)


def vocabulary_of(entry: ModelEntry) -> Vocabulary | None:
    """The phrases of the model's own captions, for the prompt's expander; None where it has none."""
    path = BUNDLED / entry.where if (BUNDLED / entry.where).is_dir() else Path(entry.where)
    folder = _snapshot(path) if path.is_dir() else None
    return read_vocabulary(folder) if folder is not None else None


@lru_cache(maxsize=256)  # a busy server asks at every request
def _papers(path: Path, changed_ns: int, size: int) -> dict[str, Any]:
    """A manifest without file hashes, read again when it changes."""
    manifest = upgrade_manifest(read_sealed(path))
    manifest.pop("files", None)
    return manifest


def _own(name: str, where: str, folder: Path, created: int) -> ModelEntry:
    changed = (folder / _MANIFEST).stat()
    manifest = _papers(folder / _MANIFEST, changed.st_mtime_ns, changed.st_size)
    size, kind = manifest.get("size_px"), str(manifest.get("kind") or "")
    return ModelEntry(
        name=name,
        where=name if folder.parent == BUNDLED else where,
        kind=kind,
        size=(size, size) if isinstance(size, int) else None,
        reads_text=kind in ("lora", "pipeline") or "text" in (manifest.get("conditions") or {}),
        labels=[str(label) for label in (manifest.get("conditions") or {}).get("label", {}).get("names", [])],
        created=created,
        licence=str(manifest.get("licence", "")),
        details=manifest,
    )
