"""What has a name: styles, presets, word lists and LoRAs, ours and the user's beside them.

    ~/.config/bowerbird/            ($BOWERBIRD_CONFIG, or bowerbird in $XDG_CONFIG_HOME)
        styles/*.toml               as the files in prompts/styles
        styles/previews/*.webp      how a style looks, named as the style, percent-encoded where a file cannot be called so
        presets.toml                as ours
        speeds.toml                 as ours
        wildcards/**/*.txt          one entry a line; # begins a comment
        loras/**/*.safetensors      named by their path below loras

The user's wins where both have a name.  Names come from prompts, which may be anybody's: each is looked up among what is
there, never opened as a path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bowerbird.errors import RequestError, did_you_mean
from bowerbird.faults import first_fault
from bowerbird.reading import parse_toml

OURS = Path(__file__).parent
MAX_FILE_BYTES = 4 * 2**20

T = TypeVar("T")


class Style(BaseModel):
    """Words around a prompt, and words to avoid with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    prompt: str = Field("{prompt}", max_length=2_000)
    negative: str = Field("", max_length=2_000)


class Preset(BaseModel):
    """Fields of a request under one name; read as a request when it is used."""

    model_config = ConfigDict(frozen=True, extra="allow")
    about: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def user_folder() -> Path:
    """Where the user keeps what is theirs."""
    own = os.environ.get("BOWERBIRD_CONFIG")
    return Path(own) if own else Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "bowerbird"


def styles() -> dict[str, Style]:
    """Every style by name, in the order of the files."""
    return {name: style for family in style_families().values() for name, style in family.items()}


def style_families() -> dict[str, dict[str, Style]]:
    """The styles by family, a file each."""
    ours, theirs = _families(OURS), _families(user_folder())
    return {family: ours.get(family, {}) | theirs.get(family, {}) for family in [*ours, *theirs]}


def style_previews() -> dict[str, Path]:
    """The preview picture of each style that has one.  Ours shows only a style of ours: one that the user words anew looks otherwise."""
    known, ours = styles(), {name: style for family in _families(OURS).values() for name, style in family.items()}
    shown = {name: file for name, file in _previews(OURS / "styles" / "previews").items() if known.get(name) == ours.get(name)}
    found = shown | _previews(preview_folder())
    return {name: found[name] for name in known if name in found}


def preview_folder() -> Path:
    """Where the user's previews are kept."""
    return user_folder() / "styles" / "previews"


def preview_file(style: str) -> Path:
    """Where the user's preview of a style is kept, whatever the style is called."""
    return preview_folder() / f"{quote(style, safe='')}.webp"


def presets() -> dict[str, Preset]:
    return {name: preset for folder in (OURS, user_folder()) for name, preset in read_table(folder / "presets.toml", Preset).items()}


def wildcards() -> dict[str, Path]:
    """The word lists by name."""
    return _files("wildcards", ".txt", OURS) | _files("wildcards", ".txt", user_folder())


def wildcard_lines(name: str) -> list[str]:
    """The entries of a word list; RequestError names the nearest list."""
    lines = [line.strip() for line in _read(named(name.lower(), wildcards(), "wildcard")).splitlines()]
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise RequestError(f"the wildcard {name!r} is an empty list. Write one entry a line.")
    return entries


def loras() -> dict[str, Path]:
    """The LoRA files in the user's folder by name."""
    return _files("loras", ".safetensors", user_folder())


def named(name: str, known: Mapping[str, T], what: str) -> T:
    """What `name` stands for; RequestError names the nearest."""
    if name not in known:
        where = did_you_mean(name, known) if known else f" None is in {str(user_folder() / f'{what}s')!r}."
        raise RequestError(f"there is no {what} {name!r}.{where}")
    return known[name]


def _families(root: Path) -> dict[str, dict[str, Style]]:
    return {file.stem: read_table(file, Style) for file in sorted((root / "styles").glob("*.toml"))}


def _previews(folder: Path) -> dict[str, Path]:
    return {unquote(file.stem): file for file in sorted(folder.glob("*.webp"))}


M = TypeVar("M", bound=BaseModel)


def read_table(file: Path, kind: type[M]) -> dict[str, M]:
    """A TOML file of named tables, each a `kind`; {} where there is no file."""
    return dict(_table(file, kind, file.stat().st_mtime_ns)) if file.is_file() else {}


@lru_cache(maxsize=256)
def _table(file: Path, kind: type[M], changed_ns: int) -> dict[str, M]:
    """Read once for each time that the file changes."""
    try:
        tables = parse_toml(_read(file))
    except ValueError as error:
        raise RequestError(f"{str(file)!r} is not TOML ({error}).") from error
    read: dict[str, M] = {}
    for name, fields in tables.items():
        try:
            read[name] = kind.model_validate(fields)
        except ValidationError as error:
            fault = first_fault(error, name)
            raise RequestError(f"{str(file)!r}: {fault}. Fields of a table: {', '.join(kind.model_fields)}.") from error
    return read


def _files(folder: str, suffix: str, root: Path) -> dict[str, Path]:
    """Files below a folder by their path there without the suffix, in small letters where they are word lists."""
    below = root / folder
    names = {path.relative_to(below).with_suffix("").as_posix(): path for path in sorted(below.rglob(f"*{suffix}"))}
    return {name.lower(): path for name, path in names.items()} if suffix == ".txt" else names


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise RequestError(f"{str(file)!r} is larger than {MAX_FILE_BYTES >> 20} MiB, too large for a list of words.")
        return file.read_text("utf-8-sig", "replace")
    except OSError as error:
        raise RequestError(f"{str(file)!r} cannot be read ({error.strerror}).") from error
