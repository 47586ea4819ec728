"""The expander: seeded, bounded, from the model's own words, and never to another machine unasked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowerbird.errors import ModelError, RequestError
from bowerbird.progress import Cancelled, Progress
from bowerbird.prompts import expander, finish
from bowerbird.prompts.expander import ADDRESS, ASKING, MAX_ADDED_CHARS, REMOTE, added_by, by_words, checked_address
from bowerbird.prompts.vocabulary import FILE, Vocabulary, learn_vocabulary, phrases_of, read_vocabulary
from bowerbird.request import PaintRequest, read_request
from tests.language_model import LanguageModel, saying

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


def asks(**fields: object) -> PaintRequest:
    return read_request({"model": "m", "prompt": "a fox", "seed": 5, "expand": "llm", **fields})


def test_a_language_model_is_asked_once_with_the_seed_and_its_words_are_only_words(language_model: LanguageModel) -> None:
    (one,) = finish(asks(count=3))
    assert one.prompt == r"a fox, snow, \(blue\) light" and one.count == 3
    ((path, body),) = language_model.asked
    assert path == "/v1/chat/completions" and body["seed"] == 5 and body["messages"][-1]["content"] == "a fox"


def test_prose_and_what_was_said_already_are_left_out() -> None:
    """As small models answer: a paraphrase of the prompt, a phrase twice, a story."""
    said = "flat emoji of a cat, round eyes, Round eyes, once upon a time there was a cat that lived in a very old mill. wide mouth, 猫"
    assert added_by("flat fluent emoji of a cat", said) == "round eyes, 猫"
    assert added_by("a fox", "The story of the fox is one of the most evocative stories that were ever told to anyone.") == ""


def test_thoughts_are_not_words(language_model: LanguageModel) -> None:
    for said, added in (("<think>a fox\nin snow?</think>\n\na fox, snow", ", snow"), ("<think>a fox is", "")):
        language_model.answer = saying(said)
        assert finish(asks())[0].prompt == f"a fox{added}"


@pytest.mark.parametrize("answer", [{}, {"choices": []}, saying(None), "text", [], b"<html>hello</html>", b"", b"\xff\xfe"])
def test_a_strange_answer_is_a_sentence(language_model: LanguageModel, answer: object) -> None:
    language_model.answer = answer
    with pytest.raises(RequestError, match="OpenAI-compatible"):
        finish(asks())


@pytest.mark.parametrize("status", [307, 302, 404, 500])
def test_an_answer_that_leads_elsewhere_or_nowhere_is_a_sentence(language_model: LanguageModel, status: int) -> None:
    language_model.status = status
    with pytest.raises(RequestError, match="does not answer"):
        finish(asks())


def test_without_an_address_it_is_said_where_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    with pytest.raises(RequestError, match=ADDRESS):
        finish(asks())


def test_a_language_model_that_dribbles_is_left_in_time(language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for the answer, not for each byte of it; and whoever waits may leave before."""
    language_model.dribbles = True
    heard: list[Progress] = []

    def leave(event: Progress) -> bool:
        heard.append(event)
        return len(heard) < 3

    with pytest.raises(Cancelled):
        finish(asks(), on_progress=leave)
    assert {event.stage for event in heard} == {ASKING}
    monkeypatch.setattr(expander, "MAX_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(RequestError, match="longer than"):
        finish(asks())
    assert time.monotonic() - began < 5
