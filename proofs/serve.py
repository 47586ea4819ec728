"""The proof that the server loses nothing and stays up: kills, disconnects, overload, garbage, OpenAI's own clients.

Writes proof/serve.json and prints a table.  `make prove-serve`, about twenty minutes on two cores.  With names of parts, those
alone; SERVE_KILLS sets the number of kills.  The clients are installed into environments of their own, which needs PyPI, and
schemathesis where it is found; a part that cannot be done says so.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from bowerbird.jobs import Queue
from bowerbird.picture_metadata import read_metadata

SEED = 0
KILLS = int(os.environ.get("SERVE_KILLS", "100"))
CLIENTS, DISCONNECTS, OVERLOAD_SECONDS, CAPACITY = 8, 200, 120, 8
OPENAI = ("1.109.1", "3.54.0")


class Server:
    """`bowerbird serve` as a child that can be killed and started again on the same queue."""

    program: tuple[str, ...] = ("-m", "bowerbird", "--device", "cpu", "serve")

    def __init__(self, home: Path, *options: str) -> None:
        self.home, self.options = home, options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ready: bool = True) -> None:
        command = [sys.executable, *self.program, "--port", str(self.port), "--home", str(self.home), *self.options]
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(lambda: self.get("/health/ready" if ready else "/health/live")[0] == 200, 600)

    def get(self, path: str) -> tuple[int, bytes]:
        return self.send("GET", path)

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 120
    ) -> tuple[int, bytes]:
        """The answer's status and body; status 0 when there was none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def worker(self) -> int | None:
        """The process of the painting worker."""
        assert self.process is not None
        with contextlib.suppress(OSError, ValueError):
            children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
            return int(" ".join(child.read_text() for child in children).split()[0])
        return None

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def running(home: Path, *options: str) -> Iterator[Server]:
    server = Server(home, *options)
    server.start()
    try:
        yield server
    finally:
        assert server.stop() == 0, "SIGTERM ends a server quietly"


def wait_for(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


# ---------------------------------------------------------------------------------------------------- parts


def kills(folder: Path) -> dict[str, Any]:
    """SIGKILL of server or worker at random moments while clients ask, again and again with the same key until they are answered.

    In the end every accepted job has exactly one result, with the picture that was asked for, and the database is sound.
    """
    server, chance = Server(folder / "home", "--max-waiting", "100"), random.Random(SEED)
    server.start()
    accepted: dict[str, str] = {}  # key -> job
    ending, lock = threading.Event(), threading.Lock()

    def client(number: int) -> None:
        asked = 0
        while not ending.is_set():
            key = f"{number}-{asked}"
            body = {"requests": [{"model": "starter", "seed": 10_000 * number + asked}]}
            status, answer = server.send("POST", "/api/jobs", body, {"Idempotency-Key": key}, timeout=10)
            if status == 202:
                with lock:
                    accepted[key] = json.loads(answer)[0]["id"]
                asked += 1
            time.sleep(0.3)

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    killed: Counter[str] = Counter()
    for number in range(KILLS):
        time.sleep(chance.uniform(0.1, 4))
        assert server.process is not None
        worker = server.worker()
        if number % 2 and worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
                killed["worker"] += 1
        else:
            server.process.kill()
            server.process.wait()
            killed["server"] += 1
            server.start(ready=False)
        if number % 10 == 9:
            print(f"  {number + 1} kills, {len(accepted)} jobs accepted", flush=True)
    ending.set()
    for thread in threads:
        thread.join()
    queue = Queue(server.home)
    wait_for(lambda: queue.counts()["queued"] + queue.counts()["running"] == 0, 1800)
    assert server.stop() == 0
    states: Counter[str] = Counter()
    for key, job_id in accepted.items():
        job, seed = queue.get(job_id), 10_000 * int(key.partition("-")[0]) + int(key.partition("-")[2])
        states[job.state] += 1
        (path,) = job.paths
        Image.open(path).load()
        assert read_metadata(path).fields["seed"] == seed, "another picture than was asked for"
    with sqlite3.connect(server.home / "queue.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (duplicates,) = db.execute("SELECT count(*) - count(DISTINCT key) FROM jobs").fetchone()
        (rows,) = db.execute("SELECT count(*) FROM jobs").fetchone()
        (died,) = db.execute("SELECT sum(attempts) FROM jobs").fetchone()
    lost = len(accepted) - states["done"]
    assert lost == 0 and duplicates == 0, (states, duplicates)
    return {
        **{f"{name} killed": count for name, count in killed.items()},
        "accepted": len(accepted),
        "lost": lost,
        "duplicates": duplicates,
        "accepted but unheard": rows - len(accepted),
        "interrupted and done again": died,
        "integrity": "ok",
    }


def disconnects(folder: Path) -> dict[str, Any]:
    """Clients ask for a long picture and go away; how long until the worker begins what waits next, in steps of that picture."""
    chance, waits, step_seconds = random.Random(SEED), [], []
    with running(folder / "home") as server:
        queue = Queue(server.home)
        body = json.dumps({"prompt": "x", "steps": 5000}).encode()
        head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

        def ask() -> tuple[socket.socket, str]:
            before = {job.id for job in queue.jobs(limit=5)}
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(head % len(body) + body)
            wait_for(lambda: bool({job.id for job in queue.jobs(limit=5)} - before), 30)
            return connection, ({job.id for job in queue.jobs(limit=5)} - before).pop()

        def paints(job_id: str) -> bool:
            progress = queue.get(job_id).progress
            return progress is not None and progress.phase == "paint" and progress.seconds_left is not None

        connection, job_id = ask()
        for _ in range(DISCONNECTS):
            wait_for(lambda: paints(job_id), 60)  # noqa: B023
            following = ask()
            time.sleep(chance.uniform(0, 0.3))
            progress = queue.get(job_id).progress
            assert progress is not None and progress.seconds_left is not None
            step_seconds.append(progress.seconds_left / (progress.total - progress.done))
            closed = time.time()
            connection.close()
            wait_for(lambda: queue.get(following[1]).started is not None, 30)  # noqa: B023
            assert queue.get(job_id).state == "cancelled"
            waits.append((queue.get(following[1]).started or 0) - closed)
            connection, job_id = following
        connection.close()
        wait_for(lambda: queue.get(job_id).state == "cancelled", 30)
    waits.sort()
    return {
        "disconnects": DISCONNECTS,
        "cancelled": DISCONNECTS,
        "ms of a step": round(1000 * sorted(step_seconds)[len(step_seconds) // 2], 1),
        "ms until the worker was free, median": round(1000 * waits[len(waits) // 2], 1),
        "longest": round(1000 * waits[-1], 1),
    }


def overload(folder: Path) -> dict[str, Any]:
    """Ten times as many clients as may wait, for two minutes: each answer is a picture or says when to ask again."""
    statuses: Counter[int] = Counter()
    lock = threading.Lock()
    with running(folder / "home", "--max-waiting", str(CAPACITY)) as server:
        end = time.monotonic() + OVERLOAD_SECONDS

        def client() -> None:
            while time.monotonic() < end:
                status, _ = server.send("POST", "/v1/images/generations", {"prompt": "x"})
                with lock:
                    statuses[status] += 1
                if status != 200:
                    time.sleep(0.2)  # far sooner than Retry-After asks for

        results: multiprocessing.Queue[tuple[list[float], list[float]]] = multiprocessing.Queue()
        probe = multiprocessing.Process(target=_probe, args=(server.port, OVERLOAD_SECONDS, results))
        probe.start()
        threads = [threading.Thread(target=client) for _ in range(10 * CAPACITY)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        latencies, late = map(sorted, results.get(timeout=60))
        probe.join()
    assert set(statuses) <= {200, 429, 503}, statuses
    usual = latencies[int(0.99 * len(latencies))]
    figures = {
        "seconds": OVERLOAD_SECONDS,
        "clients": 10 * CAPACITY,
        **{str(status): count for status, count in sorted(statuses.items())},
        "health probes": len(latencies),
        "health ms, median": round(1000 * latencies[len(latencies) // 2], 1),
        "99 of 100 within": round(1000 * usual, 1),
        "longest": round(1000 * latencies[-1], 1),
        "a process that only sleeps woke late by at most": round(1000 * late[-1], 1),
    }
    assert usual < 0.25, f"health took {usual:.3f} s: {figures}"
    return figures


def _probe(port: int, seconds: float, results: multiprocessing.Queue[tuple[list[float], list[float]]]) -> None:
    """Ask for health, in a process of its own so that the clients' threads do not slow the clock down.

    How late it wakes between two questions says what the machine alone, busy with other programs, adds to an answer.
    """
    latencies, late, end = [], [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/health/live")
        assert connection.getresponse().status == 200
        connection.close()
        answered = time.monotonic()
        latencies.append(answered - began)
        time.sleep(0.1)
        late.append(time.monotonic() - answered - 0.1)
    results.put((latencies, late))


def schema(folder: Path) -> dict[str, Any]:
    """schemathesis makes requests up from /openapi.json; none may end in a fault of the server's."""
    tool = shutil.which("schemathesis", path=os.environ.get("SCHEMATHESIS_PATH") or os.environ["PATH"])
    if tool is None:
        return {"not done": "schemathesis is not installed"}
    with running(folder / "home", "--max-waiting", "50") as server:
        command: list[str | Path] = [
            tool,
            "run",
            f"http://localhost:{server.port}/openapi.json",
            "--checks",
            "not_a_server_error",
            "--seed",
            str(SEED),
        ]
        command += ["--max-examples", "15", "--request-timeout", "300", "--exclude-path-regex", "/events|/mcp"]
        command += ["--suppress-health-check", "all"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).splitlines()
        cases = next((line.strip() for line in reversed(said) if "generated" in line.lower() and "case" in line.lower()), "")
        (folder / "schemathesis.txt").write_text("\n".join(said))
        metrics = server.get("/metrics")[1].decode()
        faults = [line for line in metrics.splitlines() if line.startswith("bowerbird_answers_total") and 'status="500"' in line]
        assert not faults, faults
        assert cases and "failed" not in cases, "\n".join(said[-60:])  # "errored" may be a painting of 9,999 steps
    return {"faults of the server": 0, "said": cases}


def clients(folder: Path) -> dict[str, Any]:
    """OpenAI's own client in two versions, years of its history apart: generate, edit, variations, stream, every class of error."""
    figures: dict[str, Any] = {}
    with running(folder / "home") as server:
        for version in OPENAI:
            place = folder / version
            venv.create(place, with_pip=True)
            installed = subprocess.run([place / "bin/pip", "install", "-q", f"openai=={version}"], capture_output=True, check=False)
            if installed.returncode:
                figures[version] = "not done: it cannot be installed here"
                continue
            script: list[str | Path] = [
                place / "bin/python",
                "-W",
                "ignore",
                Path(__file__).with_name("openai_client.py"),
                f"http://localhost:{server.port}",
            ]
            clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            done = subprocess.run(script, capture_output=True, text=True, env=clean, check=False)
            assert done.returncode == 0, done.stderr
            figures[f"openai {version}"] = f"{json.loads(done.stdout)['checks']} checks passed"
    return figures


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "OpenAI's clients": clients,
    "disconnects": disconnects,
    "overload": overload,
    "schemathesis": schema,
    "random kills": kills,
}


def main() -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    proof = Path("proof/serve.json")
    proof.parent.mkdir(exist_ok=True)
    document: dict[str, Any] = {"seed": SEED, "python": platform.python_version(), "commit": commit, "parts": {}}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        for name in sys.argv[1:] or PARTS:
            folder, began = Path(temporary) / PARTS[name].__name__, time.monotonic()
            folder.mkdir()
            figures = {**PARTS[name](folder), "seconds": round(time.monotonic() - began)}
            document["parts"][name] = figures
            print(f"{name:18} {', '.join(f'{key} {value}' for key, value in figures.items())}", flush=True)
            proof.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
