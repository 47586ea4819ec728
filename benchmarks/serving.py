"""Pictures a second from `bowerbird serve` with 1, 4 and 16 clients, beside diffusers one at a time; what the server itself costs.

    python benchmarks/serving.py [--model starter] [--pictures 48] [--rounds 3]

Each is measured three ways: in batches; one at a time, the same server with `exact` requests, which are never painted together; and
`benchmarks/serve_diffusers.py`, a diffusers pipeline of equal shape and steps behind the same web server.  The three take turns, so
that a noisy machine disturbs them alike, and each figure is the median of the rounds.  The server's own cost of a picture is the time
from request to answer less the time the worker had the job, with one client: HTTP, the queue's durable writes, waking up.  Results
go to benchmarks/serving.json.
"""

from __future__ import annotations

import argparse
import contextlib
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


class Diffusers(Server):
    """The peer, which is asked in the same way."""

    program = (str(HERE / "serve_diffusers.py"),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--pictures", type=int, default=48, help="for each figure of a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, Any] = {"model": options.model, "pictures": options.pictures, "rounds": options.rounds, "machine": machine.describe()}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as started:
        server, peer = Server(Path(folder) / "home"), Diffusers(Path(folder) / "peer", options.model)
        ways = {"in batches": (server, False), "one at a time": (server, True), "diffusers": (peer, False)}
        for each in (server, peer):
            each.start()
            started.callback(each.stop)
        found["operations a picture"] = json.loads(peer.get("/flops")[1])
        for each, exact in ways.values():  # warm
            rate(each, options.model, 1, 4, exact)
        found["pictures a second"] = {}
        for clients in (1, 4, 16):
            rounds = [
                [rate(each, options.model, clients, options.pictures, exact) for each, exact in ways.values()]
                for _ in range(options.rounds)
            ]
            figures = {way: round(statistics.median(rates), 2) for way, rates in zip(ways, zip(*rounds, strict=True), strict=True)}
            figures["ours to diffusers"] = round(statistics.median(rates[0] / rates[2] for rates in rounds), 2)
            found["pictures a second"][clients] = figures
            print(f"{clients:3} clients: {figures}", flush=True)
        found["own milliseconds a picture"] = own_milliseconds(server, options.model, options.pictures)
        print(found["own milliseconds a picture"])
    (HERE / "serving.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
