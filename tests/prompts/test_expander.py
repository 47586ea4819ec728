"""The expander: seeded, bounded, from the model's own words, and never to another machine unasked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowerbird.errors import ModelError, RequestError
from bowerbird.prompts import finish
from bowerbird.prompts.expander import ADDRESS, MAX_ADDED_CHARS, REMOTE, added_by, by_words, checked_address
from bowerbird.prompts.vocabulary import FILE, Vocabulary, learn_vocabulary, phrases_of, read_vocabulary
from bowerbird.request import read_request

CAPTIONS = [
    *["a flat emoji of a red bird", "a flat emoji of a fox", "a glossy emoji of a fox", "a glossy emoji of a red bird"] * 3,
    *["this bird has a red crown, black wings and a short beak", "this bird has a red crown, grey wings and a long beak"] * 2,
]


def test_phrases_are_what_stands_between_little_words() -> None:
    assert phrases_of("This bird has a red crown, black wings and a short beak.") == ["bird", "red crown", "black wings", "short beak"]


def test_a_model_completes_with_its_own_words() -> None:
    vocabulary = learn_vocabulary(CAPTIONS)
    added = by_words("a fox", 1, vocabulary)
    assert set(added.split(", ")) <= set(vocabulary.phrases) and "emoji" in added and "crown" not in added
    assert len({by_words("a bird", seed, vocabulary) for seed in range(20)}) > 3
    for seed in range(20):  # one crown, one beak, one pair of wings
        heads = [phrase.split()[-1] for phrase in by_words("bird with white wings", seed, vocabulary).split(", ")]
        assert len(set(heads)) == len(heads) and "wings" not in heads


@given(st.text(max_size=80), st.integers(0, 2**63 - 1))
def test_any_prompt_is_completed_the_same_way_each_time(text: str, seed: int) -> None:
    for vocabulary in (None, learn_vocabulary(CAPTIONS)):
        assert by_words(text, seed, vocabulary) == by_words(text, seed, vocabulary)


def test_rules_leave_alone_what_the_prompt_speaks_of() -> None:
    for seed in range(20):
        added = by_words("a simple red fox at night seen from above", seed, None)
        assert added == ""
        assert len(by_words("a fox", seed, None).split(", ")) == 4
    assert by_words("", 1, None) == by_words("word " * 25, 1, None) == ""


def test_a_table_of_phrases_is_kept_with_a_model(tmp_path: Path) -> None:
    vocabulary = learn_vocabulary(CAPTIONS)
    (tmp_path / FILE).write_text(vocabulary.model_dump_json())
    assert read_vocabulary(tmp_path) == vocabulary
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text()[:50])
    with pytest.raises(ModelError, match="table of phrases"):
        read_vocabulary(tmp_path)
    assert read_vocabulary(tmp_path / "elsewhere") is None
    assert learn_vocabulary([]) == Vocabulary(captions=0)


@given(st.text(max_size=2_000))
def test_whatever_a_language_model_says_is_one_short_line(said: str) -> None:
    added = added_by("a fox", said)
    assert len(added) <= MAX_ADDED_CHARS and (added.isprintable() or not added)
    assert added_by("a fox", f'"A fox, {added}"\n') in (added, added.strip(" ,.;:\"'`"), added_by("a fox", added))


@pytest.mark.parametrize("address", ["", "127.0.0.1:80", "file:///etc/passwd", "http://", "http://example.com/v1", "http://10.0.0.1/v1"])
def test_prompts_stay_on_this_machine(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError) as error:
        checked_address(address)
    assert "\n" not in str(error.value)
    monkeypatch.setenv(REMOTE, "1")
    assert checked_address("http://example.com/v1/") == "http://example.com/v1"


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/v1/", "http://localhost:1/v1", "http://[::1]:1/v1"])
def test_this_machine_may_be_asked(address: str) -> None:
    assert checked_address(address) == address.rstrip("/")


@pytest.fixture
def language_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A server on this machine that answers with state["answer"]; what it was asked is in state["asked"]."""
    state: dict[str, Any] = {
        "asked": [],
        "answer": lambda body: {"choices": [{"message": {"content": "a fox, snow, (blue) light"}}]},
        "status": 200,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state["asked"].append((self.path, body))
            self.send_response(state["status"])
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(json.dumps(state["answer"](body)).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv(ADDRESS, f"http://127.0.0.1:{server.server_port}/v1")
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_language_model_is_asked_once_with_the_seed_and_its_words_are_only_words(language_model: dict[str, Any]) -> None:
    request = read_request({"model": "m", "prompt": "a fox", "seed": 5, "count": 3, "expand": "llm"})
    (one,) = finish(request)
    assert one.prompt == r"a fox, snow, \(blue\) light" and one.count == 3
    ((path, body),) = language_model["asked"]
    assert path == "/v1/chat/completions" and body["seed"] == 5 and body["messages"][-1]["content"] == "a fox"


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{"message": {"content": None}}]}, "text"])
def test_a_strange_answer_is_a_sentence(language_model: dict[str, Any], answer: object) -> None:
    language_model["answer"] = lambda body: answer
    with pytest.raises(RequestError, match="OpenAI-compatible"):
        finish(read_request({"model": "m", "prompt": "a fox", "expand": "llm"}))


@pytest.mark.parametrize("status", [307, 302, 404, 500])
def test_an_answer_that_leads_elsewhere_or_nowhere_is_a_sentence(language_model: dict[str, Any], status: int) -> None:
    language_model["status"] = status
    with pytest.raises(RequestError, match="does not answer"):
        finish(read_request({"model": "m", "prompt": "a fox", "expand": "llm"}))
