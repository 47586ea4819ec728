"""The program `bowerbird`: the options of every command, errors as sentences and exit codes."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from bowerbird import __version__
from bowerbird.cli.console import Everywhere, say
from bowerbird.errors import BowerbirdError, Stopped
from bowerbird.threads import choose_threads

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train image generators on your own pictures, and paint with them.",
)


# Options of every command may stand anywhere on the line; `main` moves them to the front, where typer looks for them.
_EVERYWHERE = {
    "--json": False,
    "--offline": False,
    "--yes": False,
    "--device": True,
    "--precision": True,
    "--threads": True,
}  # name: takes a value


INTERRUPTED = 130  # what shells give a program that Ctrl-C ended
RESUMING = frozenset({"inspect", "train", "tune", "caption", "fetch", "--per-label", "--prompts"})


@app.callback(invoke_without_command=True, help="Train image generators on your own pictures, and paint with them.")
def _everywhere(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the best there is by default")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16; auto paints with models trained here in fp32")] = "auto",
    offline: Annotated[bool, typer.Option("--offline", help="never download anything")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="answer yes to every question")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="threads that compute; by default OMP_NUM_THREADS, or as many as are free")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="say which version this is")] = False,
) -> None:
    if version:
        typer.echo(f"bowerbird {__version__}")
        raise typer.Exit
    choose_threads(threads)
    context.obj = Everywhere(as_json, device, precision, offline, yes)


def main() -> None:
    """Run a command; BowerbirdError becomes its sentence and its exit code."""
    for stream in (sys.stdout, sys.stderr):  # names of files and texts of pictures may hold what no terminal can show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(_everywhere_first(sys.argv[1:]), standalone_mode=False)
        if code == INTERRUPTED:  # so typer tells of Ctrl-C, as a result
            raise typer.Abort
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(Stopped.exit_code if _goes_on(sys.argv[1:]) else INTERRUPTED)
    except BowerbirdError as error:
        sys.exit(say(str(error), error.exit_code))
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a wrong option or argument, found by typer
            sys.exit(say(error.format_message(), 2))
        raise


def _goes_on(arguments: list[str]) -> bool:
    """Whether the same command, given again, goes on where it was interrupted."""
    return not RESUMING.isdisjoint(arguments)


def _everywhere_first(arguments: list[str]) -> list[str]:
    """Move the options of every command to the front of the line."""
    front, rest, words = [], [], iter(arguments)
    for word in words:
        name = word.partition("=")[0]
        if name not in _EVERYWHERE:
            rest.append(word)
            continue
        front.append(word)
        if _EVERYWHERE[name] and "=" not in word:
            front += [value for value in [next(words, None)] if value is not None]
    return front + rest
