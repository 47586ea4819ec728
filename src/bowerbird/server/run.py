"""`bowerbird serve`: the workers, the application and uvicorn around it, from start to a quiet end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import MissingExtraError, RequestError, ResourceError
from bowerbird.jobs import Catalogue, Queue, Supervisor

if TYPE_CHECKING:
    from fastapi import FastAPI
    from mcp.server.mcpserver import MCPServer
    from starlette.types import ASGIApp

    from bowerbird.server.serving import Serving

DRAIN_SECONDS = 30


def serve(
    queue: Queue,
    catalogue: Catalogue,
    host: str,
    port: int,
    key: str | None = None,
    devices: Sequence[str | None] = (None,),
    precision: str = "auto",
    keep_hours: float = 24.0,
    wrap: Callable[[FastAPI, Serving], ASGIApp] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; then what is in hand is finished, and what waits stays in the queue.

    `wrap` puts a further face around the application.  RequestError for an address that needs a key, ResourceError when the
    port or the queue is in use.
    """
    try:
        import uvicorn

        from bowerbird.server.app import create_app
        from bowerbird.server.guard import is_loopback
        from bowerbird.server.serving import Serving
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "server") from error
    loopback = is_loopback(host)
    if not loopback and key is None:
        raise RequestError(f"others can reach the server at {host}, so it needs a key. Write one to a file and give --key-file FILE.")
    with _bound(host, port) as listening, Supervisor(queue, devices, precision) as supervisor:
        serving = Serving(queue, catalogue, supervisor.problem, loopback, keep_seconds=max(1.0, keep_hours) * 3600)
        app = create_app(serving, key, _chat_tools(serving))
        config = uvicorn.Config(
            wrap(app, serving) if wrap is not None else app,
            log_level="warning",
            timeout_graceful_shutdown=DRAIN_SECONDS,
            server_header=False,
            proxy_headers=False,
        )
        server = uvicorn.Server(config)
        serving.draining = lambda: server.should_exit
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again when it is done, and we are not yet
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listening])


def _chat_tools(serving: Serving) -> MCPServer[Any] | None:
    """The tools for chat assistants, where the extra `mcp` is installed."""
    try:
        from bowerbird.mcp import create_tools
    except ImportError:
        return None
    return create_tools(serving.queue, serving.catalogue, serving.may_read)


def read_key(file: Path) -> str:
    """The key in a file: its first line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the key file {str(file)!r} cannot be read ({error}). Write the key into it as one line.") from error
    if not lines or len(lines[0].strip()) < 8:
        raise RequestError(f"the key in {str(file)!r} has fewer than 8 characters. Write a longer one into it as one line.")
    return lines[0].strip()


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        raise ResourceError(f"the server cannot listen on {host}:{port} ({error}). Choose another --port, or stop who uses it.") from error
    return listening
