"""How the command line speaks: results to standard output, words for people and progress to standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from pydantic_core import to_jsonable_python

from bowerbird.progress import OnProgress, Progress

_LINE_SECONDS = 10.0  # between two lines of progress, where there is no terminal
_SHOWN_ITEMS = 10  # of a list, on a page for people
_UNITS = {"paint": "steps"}  # what a stage counts, where it is not pictures


@dataclass
class Everywhere:
    """The options every command takes."""

    json: bool = False
    device: str | None = None
    precision: str = "auto"
    offline: bool = False
    yes: bool = False


def say(sentence: str, code: int) -> int:
    typer.echo(sentence, err=True)
    return code


def print_result(context: typer.Context, document: Any, words: str) -> None:
    typer.echo(to_json(document) if context.obj.json else words)


def to_json(document: Any, indent: int | None = None) -> str:
    """JSON of plain values, paths and pydantic models."""
    return json.dumps(document, indent=indent, ensure_ascii=False, default=to_jsonable_python)


def to_page(document: Mapping[str, Any], indent: str = "") -> str:
    """The same for people: a line for each thing that is said, what is left open left out; of a recipe its name."""
    width = max((len(key) for key, value in document.items() if _shown(value)), default=0)
    lines = []
    for key, value in document.items():
        if key == "recipe" and isinstance(value, dict):
            value = value.get("name", "")
        words = key.replace("_", " ")
        if isinstance(value, dict) and value:
            lines += [f"{indent}{words}", to_page(value, f"{indent}  ")]
        elif _shown(value):
            lines.append(f"{indent}{words:{width}}  {_in_words(value)}")
    return "\n".join(line for line in lines if line.strip())


def _shown(value: object) -> bool:
    return value is False or value == 0 or bool(value)


def _in_words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(map(_in_words, value[:_SHOWN_ITEMS]))
        return shown if len(value) <= _SHOWN_ITEMS else f"{shown} ... ({len(value)} in all)"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(inner)}" for key, inner in value.items())
    return str(value)


def asker(options: Everywhere) -> Any:
    """The question before a download: answered by --yes, or by a person at a terminal; otherwise it is no."""
    if options.yes:
        return lambda download: True
    return (lambda download: typer.confirm(f"download {download}?", err=True)) if sys.stdin.isatty() else None


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """A bar on standard error for people; where that is not a terminal, a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}
        said: dict[str, float] = {"": time.monotonic()}

        def on_progress(event: Progress) -> None:
            if event.stage in ("forecast", "note", "finished"):  # to be read, and to stay
                words = f"note: {event.note}" if event.stage == "note" else event.note
                console.print(words, highlight=False, soft_wrap=True, markup=False)
                return
            note = event.note or (f"loss {event.loss:.4f}" if event.loss is not None else "")
            if event.stage not in tasks:
                tasks[event.stage] = bars.add_task(_counted(event.stage), total=event.total, note=note)
            bars.update(tasks[event.stage], completed=event.done, total=event.total, note=note)
            if not console.is_terminal and _worth_a_line(event, said):
                typer.echo(f"{_counted(event.stage)} {event.done:,}/{event.total:,} {note}".rstrip(), err=True)

        yield on_progress


def _counted(stage: str) -> str:
    return f"{stage}, {_UNITS[stage]}" if stage in _UNITS else stage


def _worth_a_line(event: Progress, said: dict[str, float]) -> bool:
    """For logs: each tenth of work that takes long; `said` holds the share at which each stage spoke last, and when any did."""
    share = event.done / event.total if event.total else 0.0  # a count whose end is not known yet tells nothing
    now = time.monotonic()
    if share < said.get(event.stage, 0.0) + 0.1 or now - said[""] < _LINE_SECONDS:
        return False
    said[event.stage], said[""] = share, now
    return True
