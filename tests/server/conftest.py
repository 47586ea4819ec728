"""The application in this process, over a queue whose worker is a thread: no sockets, no child processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from bowerbird.jobs import Catalogue, Queue
from bowerbird.jobs.worker import LANES, Worker
from bowerbird.server.app import create_app
from bowerbird.server.serving import Serving


class Served:
    """A server and what stands behind it."""

    def __init__(self, queue: Queue, catalogue: Catalogue, key: str | None = None, loopback: bool = True) -> None:
        self.queue = queue
        self.serving = Serving(queue, catalogue, problem=lambda: "", loopback=loopback)
        self.client = TestClient(create_app(self.serving, key), base_url="http://localhost:8400", raise_server_exceptions=False)
        self._ending = threading.Event()
        self._worker = threading.Thread(target=self._work)

    def __enter__(self) -> Served:
        self.client.__enter__()
        self._worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._worker.join()
        self.client.__exit__(None, None, None)

    def _work(self) -> None:
        worker = Worker(self.queue, "painting", "cpu", "auto")
        while not self._ending.is_set():
            lease, jobs = self.queue.claim(worker.name, LANES["painting"])
            if jobs:
                worker._do(lease, jobs)
            self._ending.wait(0.005)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[Served]:
    """One server for a module's tests.  `starter` is the default model; `pets` has two labels."""
    home = tmp_path_factory.mktemp("home")
    with Served(Queue(home, max_waiting=200), Catalogue([model_folder.parent])) as served:
        yield served
