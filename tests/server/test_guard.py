"""Who may call: the door holds before anything is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bowerbird.errors import RequestError, ResourceError
from bowerbird.jobs import Catalogue, Queue
from bowerbird.request import PaintRequest
from bowerbird.server.guard import is_loopback
from bowerbird.server.run import read_key, serve
from tests.server.conftest import Served

KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[Served]:
    with Served(Queue(tmp_path_factory.mktemp("home")), Catalogue([model_folder.parent]), KEY, loopback=False) as served:
        yield served


@pytest.mark.parametrize(
    "headers", [{"host": "evil.com"}, {"host": "localhost.evil.com"}, {"origin": "http://evil.com"}, {"origin": "null"}]
)
def test_a_page_of_another_site_cannot_drive_the_loopback_server(served: Served, headers: dict[str, str]) -> None:
    """By a name made to point here (Host), or from its own page (Origin)."""
    answer = served.client.post("/v1/images/generations", json={"prompt": "x"}, headers=headers)
    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["localhost:8400", "127.0.0.1:8400", "[::1]:8400", "127.0.0.2"])
def test_this_machines_own_names_are_answered(served: Served, host: str) -> None:
    assert served.client.get("/v1/models", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", KEY, "Basic !!!", "Basic YTpi", "Bearer " + KEY[:-1]])
def test_a_wrong_key_opens_nothing(keyed: Served, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    for path in ("/v1/models", "/api/jobs", "/metrics", "/openapi.json", "/"):
        answer = keyed.client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert keyed.client.get("/health/live").status_code == 200


def test_the_key_opens(keyed: Served) -> None:
    import base64

    basic = base64.b64encode(f"anybody:{KEY}".encode()).decode()
    for header in (f"Bearer {KEY}", f"Basic {basic}"):
        assert keyed.client.get("/v1/models", headers={"authorization": header}).status_code == 200


def test_from_elsewhere_no_file_of_the_server_can_be_named(keyed: Served, picture_folder: Path) -> None:
    """With a key but from another machine: pictures to train on are uploaded first."""
    headers = {"authorization": f"Bearer {KEY}"}
    answer = keyed.client.post("/api/train", json={"pictures": str(picture_folder)}, headers=headers)
    assert answer.status_code == 400 and "upload" in answer.json()["error"]["message"]
    fields = {"model": "pets", "image": str(next(picture_folder.glob("*/*.png")))}
    assert keyed.client.post("/api/jobs", json={"requests": [fields]}, headers=headers).status_code == 400
    kept = keyed.client.post("/api/pictures", files={"file": ("p.zip", b"PK")}, headers=headers).json()["pictures"]
    assert keyed.client.post("/api/train", json={"pictures": kept}, headers=headers).status_code == 202


def test_a_large_body_is_refused_and_the_server_goes_on(served: Served) -> None:
    answer = served.client.post("/v1/images/generations", content=b"x" * (3 * 2**20), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")

    def unannounced() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 2**17

    answer = served.client.post("/v1/images/generations", content=unannounced(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert served.client.get("/health/live").status_code == 200


def test_a_full_queue_says_when_to_ask_again(tmp_path: Path, model_folder: Path) -> None:
    queue = Queue(tmp_path, max_waiting=3)
    served = Served(queue, Catalogue([model_folder.parent]))
    queue.submit("paint", [PaintRequest(model=str(model_folder))] * 3)
    with served.client as client:  # without a worker
        answer = client.post("/v1/images/generations", json={"prompt": "x", "model": "pets"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) >= 1
    assert queue.counts()["queued"] == 3


def test_a_server_that_shuts_down_accepts_nothing(tmp_path: Path, model_folder: Path) -> None:
    served = Served(Queue(tmp_path), Catalogue([model_folder.parent]))
    served.serving.draining = lambda: True
    with served.client as client:
        assert client.post("/v1/images/generations", json={"prompt": "x"}).status_code == 503
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/nope", 404), ("/v1/nope", 404), ("/pictures/../x", 404), ("/api/jobs/nope", 400)])
def test_an_unknown_route_is_said_in_our_shape(served: Served, path: str, status: int) -> None:
    answer = served.client.get(path)
    assert answer.status_code == status and set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_every_answer_has_a_name_for_the_log(served: Served) -> None:
    assert len({served.client.get("/health/live").headers["x-request-id"] for _ in range(3)}) == 3


def test_metrics_are_prometheus(served: Served) -> None:
    served.client.post("/v1/images/generations", json={"prompt": "x", "model": "pets"})
    text = served.client.get("/metrics").text
    assert 'bowerbird_answers_total{route="/v1/images/generations",status="200"}' in text and "bowerbird_jobs" in text


def test_the_document_names_every_route(served: Served) -> None:
    """Clients are generated from it; nothing in it, and nothing served, comes from elsewhere."""
    document = served.client.get("/openapi.json").json()
    assert {"/v1/images/generations", "/sdapi/v1/txt2img", "/api/jobs"} <= set(document["paths"])
    fields = json.dumps(document["components"]["schemas"]["GenerationRequest"])
    assert PaintRequest.model_fields["steps"].description in fields  # type: ignore[operator]
    assert served.client.get("/docs").status_code == 404


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("192.168.1.5", False), ("evil", False)],
)
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_open_address_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--key-file"):
        serve(Queue(tmp_path), Catalogue(), "0.0.0.0", 8400)


def test_a_port_in_use_is_said_in_a_sentence(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ResourceError, match="--port"):
            serve(Queue(tmp_path), Catalogue(), "127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff\xfe\xff"])
def test_a_bad_key_file_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(RequestError, match="one line"):
        read_key(tmp_path / "key")
