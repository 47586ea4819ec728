"""How the command line speaks: results to standard output, words for people and progress to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from pydantic_core import to_jsonable_python

from bowerbird.progress import OnProgress, Progress


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
        said = {"at": 0.0}

        def on_progress(event: Progress) -> None:
            if event.stage in ("forecast", "note"):  # to be read, and to stay
                words = event.note if event.stage == "forecast" else f"note: {event.note}"
                console.print(words, highlight=False, soft_wrap=True, markup=False)
                return
            note = event.note or (f"loss {event.loss:.4f}" if event.loss is not None else "")
            if event.stage not in tasks:
                tasks[event.stage] = bars.add_task(event.stage, total=event.total, note=note)
            bars.update(tasks[event.stage], completed=event.done, total=event.total, note=note)
            if not console.is_terminal and _worth_a_line(event, said):
                typer.echo(f"{event.stage} {event.done:,}/{event.total:,} {note}".rstrip(), err=True)

        yield on_progress


def _worth_a_line(event: Progress, said: dict[str, float]) -> bool:
    """Each tenth of the work, for logs."""
    if not event.total:  # a count whose end is not known yet
        return False
    share = event.done / event.total
    if said.get(event.stage, -1.0) + 0.1 > share and event.done < event.total:
        return False
    said[event.stage] = share
    return True
