"""What the routes share: the queue, the catalogue, and waiting for jobs without a thread each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
from fastapi import Request

from bowerbird.jobs import Catalogue, Job, Kind, Queue
from bowerbird.jobs.requests import AnyRequest
from bowerbird.server.errors import ApiError

LOOK_SECONDS = 0.01
T = TypeVar("T")


@dataclass
class Serving:
    """One running server."""

    queue: Queue
    catalogue: Catalogue
    problem: Callable[[], str]  # why nothing can be painted just now; empty when all is well
    loopback: bool = True
    draining: Callable[[], bool] = lambda: False
    keep_seconds: float = 24 * 3600.0  # how long results that a client may fetch again are kept
    _waiting: dict[str, list[asyncio.Event]] = field(default_factory=dict)
    _watcher: asyncio.Task[None] | None = None
    _writer: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))

    async def submit(self, kind: Kind, requests: Sequence[AnyRequest], request: Request, previews: int = 0) -> list[Job]:
        """Accept the requests, or answer why not."""
        if self.draining():
            raise ApiError(503, "the server is shutting down.", code="shutting_down", headers={"Retry-After": "10"})
        key = request.headers.get("idempotency-key")
        if key is not None and len(key) > 255:
            raise ApiError(400, "an Idempotency-Key has at most 255 characters.", code="invalid_value")
        if key is None:  # with one it may have been accepted before, which only the queue knows
            self.queue.check_room(requests)
        return await self.write(lambda: self.queue.submit(kind, requests, origin="api", previews=previews, key=key))

    async def cancel(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            await self.write(self.queue.cancel, job.id)

    async def write(self, change: Callable[..., T], *arguments: Any) -> T:
        """Change the queue in a thread, one at a time: it has one writer, and more would only wait there and slow everybody down."""
        return await anyio.to_thread.run_sync(change, *arguments, limiter=self._writer)

    async def follow(self, job_id: str, ping_seconds: float = 15.0) -> AsyncIterator[Job | None]:
        """The job now and at each change, until it is over or the server shuts down; None when nothing changed for a while."""
        changed = asyncio.Event()
        self._waiting.setdefault(job_id, []).append(changed)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        try:
            while True:
                changed.clear()
                job = self.queue.get(job_id)
                yield job
                if job.is_over:
                    return
                while not changed.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), ping_seconds)
                        break
                    if self.draining():
                        return
                    yield None
        finally:
            self._waiting[job_id].remove(changed)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def over(self, jobs: Sequence[Job], request: Request) -> list[Job]:
        """The jobs when they are over.  They are cancelled when the client goes away: nobody would see the pictures."""
        gone = asyncio.create_task(_disconnected(request))
        done = asyncio.create_task(self._all_over(jobs))
        try:
            await asyncio.wait((gone, done), return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                await self.cancel(jobs)
                raise ApiError(499, "the client went away.", code="client_gone")
            return done.result()
        finally:
            gone.cancel()
            done.cancel()

    async def _all_over(self, jobs: Sequence[Job]) -> list[Job]:
        return [await self._over(job.id) for job in jobs]

    async def _over(self, job_id: str) -> Job:
        job: Job | None = None
        async for seen in self.follow(job_id):
            job = seen or job
        if job is None or not job.is_over:
            raise ApiError(
                503, "the server is shutting down; the job waits and will be done.", code="shutting_down", headers={"Retry-After": "10"}
            )
        return job

    async def _watch(self) -> None:
        """Look at the queue while anybody waits, once for all of them, and wake those whose job has changed."""
        version = -1
        seen: dict[str, tuple[str, str | None]] = {}
        while self._waiting:
            now = self.queue.version()
            if now != version or any(job_id not in seen for job_id in self._waiting):
                version = now
                glance = self.queue.glance(list(self._waiting))
                for job_id, state in glance.items():
                    if (job_id in seen and seen[job_id] != state) or job_id not in seen:
                        for event in self._waiting.get(job_id, ()):
                            event.set()
                seen = glance
            await asyncio.sleep(LOOK_SECONDS)
        self._watcher = None

    def may_read(self, path: Path) -> bool:
        """Whether a client may name this place as pictures: anybody on this machine may; from elsewhere, only what was uploaded."""
        return self.loopback or (path.absolute().parent == self.queue.home / "inputs" and path.name != "..")


async def _disconnected(request: Request) -> None:
    """Until the client goes away.  The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
