"""Pictures a second from `bowerbird serve` with 1, 4 and 16 clients, painted in batches and one at a time; what the server itself costs.

    python benchmarks/serving.py [--model starter] [--pictures 48]

One at a time is the same server with `exact` requests, which are never painted together.  The server's own cost of a picture is the
time from request to answer less the time the worker had the job, with one client: HTTP, the queue's durable writes, waking up.
Each number of clients runs in turn with its counterpart, so that a noisy machine disturbs both alike.  Results go to
benchmarks/serving.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from proofs.serve import Server

from benchmarks import machine
from bowerbird.jobs import Queue

HERE = Path(__file__).parent


def rate(server: Server, model: str, clients: int, pictures: int, exact: bool) -> float:
    """Pictures a second over `pictures` requests from so many clients."""
    left, lock = [pictures], threading.Lock()

    def client() -> None:
        while True:
            with lock:
                if not left[0]:
                    return
                left[0] -= 1
            status, _ = server.send("POST", "/v1/images/generations", {"prompt": "x", "model": model, "exact": exact})
            assert status == 200, status

    threads, began = [threading.Thread(target=client) for _ in range(clients)], time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return pictures / (time.monotonic() - began)


def own_milliseconds(server: Server, model: str, pictures: int) -> dict[str, float]:
    """The server's own part of a picture: median and the slowest tenth."""
    queue, own = Queue(server.home), []
    for _ in range(pictures):
        began = time.monotonic()
        server.send("POST", "/v1/images/generations", {"prompt": "x", "model": model})
        passed = time.monotonic() - began
        (job,) = queue.jobs(limit=1)
        own.append(1000 * (passed - (job.seconds or 0)))
    own.sort()
    return {"median": round(statistics.median(own), 1), "slowest tenth from": round(own[int(0.9 * len(own))], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--pictures", type=int, default=48, help="for each figure")
    options = parser.parse_args()
    found: dict[str, Any] = {"model": options.model, "pictures": options.pictures, "machine": machine.describe()}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "home")
        server.start()
        try:
            rate(server, options.model, 1, 4, exact=False)  # warm
            found["pictures a second"] = {}
            for clients in (1, 4, 16):
                together, alone = (round(rate(server, options.model, clients, options.pictures, exact), 2) for exact in (False, True))
                found["pictures a second"][clients] = {"in batches": together, "one at a time": alone}
                print(f"{clients:3} clients: {together} in batches, {alone} one at a time", flush=True)
            found["own milliseconds a picture"] = own_milliseconds(server, options.model, options.pictures)
            print(found["own milliseconds a picture"])
        finally:
            server.stop()
    (HERE / "serving.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
