"""The application: routes, door, metrics, health."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bowerbird import __version__
from bowerbird.jobs.job import OVER
from bowerbird.server import a1111, errors, openai_images, own
from bowerbird.server.guard import Guard
from bowerbird.server.serving import Serving

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

_PRUNE_SECONDS = 60.0


def create_app(serving: Serving, key: str | None = None, tools: MCPServer[Any] | None = None) -> FastAPI:
    """The server as an ASGI application.

    key: what clients must send; None only behind a loopback address.  tools: for chat assistants, at /mcp.
    """
    chat = None
    if tools is not None:
        from mcp.server.transport_security import TransportSecuritySettings

        ours = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # the Guard looks at Host and Origin for every route
        chat = tools.streamable_http_app(stateless_http=True, transport_security=ours)

    @contextlib.asynccontextmanager
    async def housekeeping(app: FastAPI) -> AsyncIterator[None]:
        """Now and then, results that a client no longer may fetch are removed."""

        async def prune() -> None:
            while True:
                await serving.write(serving.queue.prune, "api", serving.keep_seconds)
                await asyncio.sleep(_PRUNE_SECONDS)

        task = asyncio.create_task(prune())
        async with contextlib.AsyncExitStack() as stack:
            if chat is not None:
                await stack.enter_async_context(chat.router.lifespan_context(chat))
            yield
        task.cancel()

    # Swagger's pages would load scripts from elsewhere; the document itself is at /openapi.json.
    app = FastAPI(title="Bowerbird", version=__version__, docs_url=None, redoc_url=None, lifespan=housekeeping)
    registry = CollectorRegistry()
    answers = Counter("bowerbird_answers", "answers given", ("route", "status"), registry=registry)
    seconds = Histogram("bowerbird_answer_seconds", "from request to answer, painting included", registry=registry)
    jobs = Gauge("bowerbird_jobs", "jobs in the queue by state", ("state",), registry=registry)
    ready_gauge = Gauge("bowerbird_ready", "1 when pictures can be painted", registry=registry)
    for state in ("queued", "running", *OVER):
        jobs.labels(state)
    app.add_middleware(Guard, key=key, answers=answers, seconds=seconds)
    errors.install(app)
    for router in (openai_images.routes(serving), a1111.routes(serving), own.routes(serving), own.pictures(serving)):
        app.include_router(router)

    if chat is not None:
        app.router.routes.extend(chat.routes)

    @app.get("/health/live", tags=["operation"])
    async def live() -> dict[str, str]:
        """Answers while the server runs."""
        return {"status": "alive", "version": __version__}

    @app.get("/health/ready", tags=["operation"], responses={503: {"description": "Nothing can be painted just now."}})
    async def ready() -> JSONResponse:
        """200 when a picture can be painted."""
        problem = "the server is shutting down" if serving.draining() else serving.problem()
        return JSONResponse({"status": problem or "ready"}, 503 if problem else 200)

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """For Prometheus."""
        for state, count in serving.queue.counts().items():
            jobs.labels(state).set(count)
        ready_gauge.set(0 if serving.problem() else 1)
        return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4")

    @app.get("/", tags=["operation"])
    async def index() -> dict[str, str]:
        """What this is, and where to go on."""
        return {
            "name": "Bowerbird",
            "version": __version__,
            "openai": "/v1",
            "automatic1111": "/sdapi/v1",
            "own": "/api",
            "document": "/openapi.json",
        }

    return app
