"""`bowerbird studio`: the server with the Studio in it.  A page that says "starting" answers at once, while Gradio loads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bowerbird.errors import MissingExtraError
from bowerbird.jobs import Catalogue, Queue

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send

    from bowerbird.server.serving import Serving

PLACE = "/studio"
_STARTING = b"""<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="1"><title>Bowerbird</title>
<body style="font:1.2rem system-ui;display:grid;place-items:center;height:90vh"><p>Bowerbird Studio is starting.</p>"""


def run_studio(
    queue: Queue, catalogue: Catalogue, port: int, open_browser: bool, devices: Sequence[str | None] = (None,), precision: str = "auto"
) -> None:
    """Serve the Studio on this machine until SIGTERM or Ctrl-C.  MissingExtraError without Gradio."""
    import importlib.util

    if importlib.util.find_spec("gradio") is None:
        raise MissingExtraError("gradio", "studio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported; it speaks to nobody
    from bowerbird.server.run import serve

    if open_browser:
        threading.Timer(0.5, webbrowser.open, [f"http://127.0.0.1:{port}{PLACE}"]).start()
    options = [f"--precision={precision}", "--offline", *([f"--device={devices[0]}"] if devices[0] else [])]  # as the workers have it
    serve(queue, catalogue, "127.0.0.1", port, None, devices, precision, wrap=lambda app, serving: WithStudio(app, serving, options))


class WithStudio:
    """The server's application; PLACE and what Gradio needs go to the Studio, once it has loaded."""

    def __init__(self, app: FastAPI, serving: Serving, options: Sequence[str] = ()) -> None:
        self.app, self.serving, self._options = app, serving, options
        self.studio: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            loading = asyncio.create_task(self._load())
            try:
                await self.app(scope, receive, send)
            finally:
                loading.cancel()
            return
        path = str(scope.get("path", ""))
        if self.studio is None and (path == "/" or path.startswith(PLACE)):
            await _answer(send, 200, [(b"content-type", b"text/html; charset=utf-8")], _STARTING)
        elif path == "/":
            await _answer(send, 307, [(b"location", f"{PLACE}/".encode())], b"")
        else:
            await self.app(scope, receive, send)

    async def _load(self) -> None:
        """Import Gradio and build the page, in a thread; then hang it into the application."""
        page = await asyncio.to_thread(self._built)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(page.router.lifespan_context(page))
            self.app.mount(PLACE, page)
            self.studio = page
            await asyncio.Event().wait()  # until the server ends

    def _built(self) -> Any:
        import gradio as gr
        from fastapi import FastAPI

        from bowerbird.studio.app import create_studio, look

        _add_files(self.app, self.serving)
        page = create_studio(self.serving.queue, self.serving.catalogue, self._options)
        return gr.mount_gradio_app(
            FastAPI(), page, path="/", root_path=PLACE, show_error=False, enable_monitoring=False, footer_links=[], ssr_mode=False, **look()
        )


def _add_files(app: FastAPI, serving: Serving) -> None:
    """The pictures of a run, by the job's id and one of a few names."""
    from fastapi.responses import FileResponse, JSONResponse, Response

    from bowerbird.studio.training import file_of_run

    def file(job_id: str, name: str) -> Response:
        path = file_of_run(serving.queue.get(job_id), name)
        return FileResponse(path) if path is not None else JSONResponse({"error": {"message": "there is no such file."}}, 404)

    app.get("/studio-files/{job_id}/{name}", include_in_schema=False)(file)


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
