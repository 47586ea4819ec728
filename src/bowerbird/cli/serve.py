"""The faces that others use: `serve`, `studio`, `mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli.app import app

if TYPE_CHECKING:
    from bowerbird.jobs import Catalogue

Home = Annotated[Path | None, typer.Option(help="folder of the queue and its pictures; default $BOWERBIRD_HOME or the user's data folder")]
Models = Annotated[
    list[str] | None, typer.Option(help="a model, or a folder of models, to offer beside the bundled ones and the queue's runs")
]


@app.command()
def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8400,
    host: Annotated[str, typer.Option(help="address to listen on; any but this machine's own needs a key")] = "127.0.0.1",
    key_file: Annotated[Path | None, typer.Option(help="file with the key that clients must send")] = None,
    home: Home = None,
    models: Models = None,
    max_waiting: Annotated[int, typer.Option(min=1, help="how many pictures may wait; more are told to ask again later")] = 1000,
    keep_hours: Annotated[float, typer.Option(min=1, help="how long pictures painted for clients are kept")] = 24,
) -> None:
    """Serve pictures over HTTP, to clients of OpenAI's Images API, of AUTOMATIC1111 and our own."""
    from bowerbird.jobs import Queue
    from bowerbird.server.run import read_key, serve

    queue = Queue(home, max_waiting)
    key = read_key(key_file) if key_file is not None else None
    options = context.obj
    typer.echo(f"http://{host}:{port}/v1 speaks OpenAI's Images API; the queue is in {queue.home}; Ctrl-C ends it", err=True)
    devices = options.device.split(",") if options.device else [None]
    serve(queue, _catalogue(queue.home, models), host, port, key, devices, options.precision, keep_hours)


@app.command()
def studio(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8401,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="do not open one")] = False,
    home: Home = None,
    models: Models = None,
) -> None:
    """Paint and train in a browser on this machine."""
    from bowerbird.jobs import Queue
    from bowerbird.studio.run import PLACE, run_studio

    queue, options = Queue(home), context.obj
    typer.echo(f"http://127.0.0.1:{port}{PLACE} is the Studio; Ctrl-C ends it", err=True)
    devices = options.device.split(",") if options.device else [None]
    run_studio(queue, _catalogue(queue.home, models), port, not no_browser, devices, options.precision)


@app.command()
def mcp(context: typer.Context, home: Home = None, models: Models = None) -> None:
    """Be a tool of a chat assistant (MCP over standard input and output); `serve` offers the same over HTTP at /mcp."""
    import contextlib

    from bowerbird.errors import MissingExtraError, ResourceError
    from bowerbird.jobs import Queue, Supervisor

    try:
        from bowerbird.mcp import create_tools
    except ImportError as error:
        raise MissingExtraError("mcp", "mcp") from error
    queue, options = Queue(home), context.obj
    with contextlib.ExitStack() as workers:
        running: list[Supervisor] = []

        def ready() -> None:
            """Have workers: those of a server on the same queue, or our own."""
            if not running:
                with contextlib.suppress(ResourceError):  # somebody else runs them
                    running.append(workers.enter_context(Supervisor(queue, [options.device], options.precision)))

        ready()
        create_tools(queue, _catalogue(queue.home, models), ready=ready).run("stdio")


def _catalogue(home: Path, models: list[str] | None) -> Catalogue:
    from bowerbird.jobs import Catalogue

    folders = [Path(each) for each in models or [] if Path(each).is_dir()]
    return Catalogue([home / "runs", *folders], [each for each in models or [] if not Path(each).is_dir()])
