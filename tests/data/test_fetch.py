"""A download is asked about, goes on where it broke off, is checked, and says what to do by hand; against a server on this machine."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bowerbird import storage
from bowerbird.data import fetch as fetching
from bowerbird.data.fetch import DATA_SETS, DataSet, fetch, find_data_set
from bowerbird.errors import RequestError, ResourceError
from bowerbird.progress import Cancelled, Progress

CONTENT = bytes(range(256)) * 12_000  # three chunks


@dataclass
class Site:
    """A server of one file: `breaks` says after how many bytes each next answer is cut; `ranges` what was asked for."""

    breaks: list[int] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    knows_ranges: bool = True
    status: int = 200
    content: bytes = CONTENT
    address: str = ""

    @property
    def data_set(self) -> DataSet:
        return DataSet("a test", f"{self.address}/file.tgz", hashlib.md5(CONTENT).hexdigest(), len(CONTENT), "free")


@pytest.fixture
def site() -> Iterator[Site]:
    served = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            served.ranges.append(asked)
            start = int(asked[6:-1]) if asked and served.knows_ranges else 0
            if served.status != 200 or start >= len(served.content):
                self.send_error(served.status if served.status != 200 else 416)
                return
            body = served.content[start:]
            self.send_response(206 if asked and served.knows_ranges else 200)
            self.send_header("Content-Length", str(len(body)))
            if asked and served.knows_ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
            self.end_headers()
            self.wfile.write(body[: served.breaks.pop(0)] if served.breaks else body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.address = f"http://127.0.0.1:{server.server_port}"
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bowerbird.data.fetch.time.sleep", lambda seconds: None)


def yes(data_set: DataSet) -> bool:
    return True


def test_it_comes_whole_and_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    seen: list[Progress] = []
    file = fetch(site.data_set, tmp_path / "new", yes, on_progress=seen.append)
    assert file.read_bytes() == CONTENT and [path.name for path in file.parent.iterdir()] == ["file.tgz"]
    fetched = [event.done for event in seen if event.stage == "fetch"]
    assert fetched == sorted(fetched) and fetched[-1] == len(CONTENT) == seen[-1].total
    assert fetch(site.data_set, tmp_path / "new", None) == file
    assert len(site.ranges) == 1


def test_a_connection_that_breaks_is_taken_up_at_the_byte_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.breaks = [1_000_000, 5, 500_000]
    assert fetch(site.data_set, tmp_path, yes).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=1000000-", "bytes=1000005-", "bytes=1500005-"]


def test_a_cancelled_or_killed_fetch_goes_on_with_the_same_command(site: Site, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        fetch(site.data_set, tmp_path, yes, on_progress=lambda event: False)
    kept = (tmp_path / "file.tgz.part").stat().st_size
    assert 0 < kept < len(CONTENT) and not (tmp_path / "file.tgz").exists()
    assert fetch(site.data_set, tmp_path, yes).read_bytes() == CONTENT
    assert site.ranges[-1] == f"bytes={kept}-"


def test_a_server_that_knows_no_ranges_sends_all_of_it_anew(site: Site, tmp_path: Path) -> None:
    site.knows_ranges = False
    (tmp_path / "file.tgz.part").write_bytes(b"old" * 1000)
    assert fetch(site.data_set, tmp_path, yes).read_bytes() == CONTENT


def test_a_whole_part_is_checked_and_kept(site: Site, tmp_path: Path) -> None:
    """Killed between the last byte and the new name."""
    (tmp_path / "file.tgz.part").write_bytes(CONTENT)
    assert fetch(site.data_set, tmp_path, yes).read_bytes() == CONTENT


def test_a_wrong_checksum_is_said_and_nothing_stays(site: Site, tmp_path: Path) -> None:
    site.content = b"x" + CONTENT[1:]
    with pytest.raises(ResourceError, match=f"not {site.data_set.md5}, and was removed"):
        fetch(site.data_set, tmp_path, yes)
    assert not list(tmp_path.iterdir())
    site.content = CONTENT
    assert fetch(site.data_set, tmp_path, yes).read_bytes() == CONTENT


def test_a_file_that_is_something_else_is_never_overwritten(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.tgz").write_bytes(b"mine")
    with pytest.raises(RequestError, match="Move it away"):
        fetch(site.data_set, tmp_path, yes)
    assert (tmp_path / "file.tgz").read_bytes() == b"mine" and not site.ranges


def test_without_a_network_one_sentence_says_what_to_do_by_hand(tmp_path: Path) -> None:
    with socket.socket() as unused:  # a port where nobody listens
        unused.bind(("127.0.0.1", 0))
        wanted = replace(DATA_SETS["cub"], url=f"http://127.0.0.1:{unused.getsockname()[1]}/CUB_200_2011.tgz")
        with pytest.raises(ResourceError, match="cannot be reached") as error:
            fetch(wanted, tmp_path, yes)
    assert f"MD5 {wanted.md5}" in str(error.value) and "give it as PICTURES" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(
        ResourceError, match=r"--offline forbids.*Fetch https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
    ):
        fetch(DATA_SETS["cub"], tmp_path, yes, offline=True)


def test_a_server_that_stops_for_good_keeps_what_came(site: Site, tmp_path: Path) -> None:
    site.breaks = [1_000_000, *[0] * 9]
    with pytest.raises(ResourceError, match="after 1 MB, which are kept: the same command goes on"):
        fetch(site.data_set, tmp_path, yes)
    assert (tmp_path / "file.tgz.part").stat().st_size == 1_000_000


def test_an_answer_that_is_an_error_is_told(site: Site, tmp_path: Path) -> None:
    site.status = 404
    with pytest.raises(ResourceError, match="answers 404"):
        fetch(site.data_set, tmp_path, yes)


def test_a_disk_without_room_is_found_out_first(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "free_bytes", lambda folder: 1000)
    with pytest.raises(ResourceError, match="needs 3 MB"):
        fetch(site.data_set, tmp_path, yes)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_disk_that_fills_up_on_the_way_is_one_sentence(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.tgz.part").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match="no space left to write"):
        fetch(site.data_set, tmp_path, yes)


@pytest.mark.parametrize("ask", [None, lambda data_set: False])
def test_nothing_is_fetched_unless_somebody_agrees(ask: fetching.Ask | None, site: Site, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a test: 0.00 GB from 127.0.0.1, free. Not downloaded"):
        fetch(site.data_set, tmp_path, ask)
    assert not site.ranges


def test_an_unknown_name_is_answered_with_the_known() -> None:
    with pytest.raises(RequestError, match="Known: cub"):
        find_data_set("imagenet")
