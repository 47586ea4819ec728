"""A language model behind an OpenAI-compatible address on this machine, which says what a test has it say."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def saying(content: object) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content}}]}


@dataclass
class LanguageModel:
    """What it answers, or makes of a question's words; what it was asked: (path, body).  One that dribbles sends blanks, no answer."""

    answer: object = field(default_factory=lambda: saying("a fox, snow, (blue) light"))
    status: int = 200
    dribbles: bool = False
    asked: list[tuple[str, Any]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def serve(model: LanguageModel) -> Iterator[str]:
    """The address of its /v1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model.asked.append((self.path, body))
            answer = model.answer(body["messages"][-1]["content"]) if callable(model.answer) else model.answer
            self.send_response(model.status)
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            with contextlib.suppress(OSError):  # whoever asked may have gone
                while model.dribbles and not model.over.wait(0.02):
                    self.wfile.write(b" ")
                self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        model.over.set()
        server.shutdown()
        thread.join()
