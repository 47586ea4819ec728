"""Laws of the prompt language: whatever is typed is a prompt, and showing a prompt loses nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.prompts.language import (
    EVERY_SYNTAX,
    Array,
    LoraTag,
    Part,
    Prompt,
    Weighted,
    Wildcard,
    Words,
    escape,
    parse,
    plain,
    segments,
    show,
)
from bowerbird.request import Syntax

# Random letters hardly ever meet the syntax; these pieces meet it all the time, whole, broken and nested.
PIECES = [
    "(",
    ")",
    "((",
    "[[",
    "]]",
    "[",
    "]",
    ":1.2)",
    ":",
    "1.2",
    "-",
    "__",
    "_",
    "colour",
    "__colour__",
    ",",
    ", ",
    "\\",
    "\\\\",
    "<lora:",
    "x:0.8>",
    ">",
]
odd_text = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30).map("".join)


@settings(max_examples=5000, deadline=None)
@given(odd_text)
def test_any_text_is_a_prompt_and_what_is_shown_means_the_same(text: str) -> None:
    prompt = parse(text)
    assert parse(show(prompt)) == prompt
    assert show(parse(show(prompt))) == show(prompt)


@settings(max_examples=500, deadline=None)
@given(odd_text)
def test_escaped_text_is_words_and_nothing_else(text: str) -> None:
    assert parse(escape(text)) == ((Words(text),) if text else ())
    assert plain(parse(escape(text))) == text


@settings(max_examples=500, deadline=None)
@given(odd_text, st.sets(st.sampled_from(EVERY_SYNTAX)))
def test_each_part_can_be_switched_off(text: str, without: set[Syntax]) -> None:
    kinds: dict[Syntax, type[Part]] = {"weights": Weighted, "wildcards": Wildcard, "arrays": Array, "loras": LoraTag}
    off = tuple(kinds[name] for name in without)

    def flat(parts):
        for part in parts:
            yield part
            inner = part.parts if isinstance(part, Weighted) else sum(part.options, ()) if isinstance(part, Array) else ()
            yield from flat(inner)

    assert not [part for part in flat(parse(text, without)) if isinstance(part, off)]


@given(st.text(st.characters(exclude_characters="()[]\\_<"), max_size=200))
def test_text_without_syntax_stays_as_it_is(text: str) -> None:
    assert show(parse(text)) == text == plain(parse(text))


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a cat", (Words("a cat"),)),
        ("(cat:1.3)", (Weighted((Words("cat"),), 1.3),)),
        ("(cat)", (Weighted((Words("cat"),), 1.1),)),
        (
            "a ((cat) in (hat:0.5):2)",
            (Words("a "), Weighted((Weighted((Words("cat"),), 1.1), Words(" in "), Weighted((Words("hat"),), 0.5)), 2.0)),
        ),
        ("a __nature/bird__ here", (Words("a "), Wildcard("nature/bird"), Words(" here"))),
        ("__hair_colour____eyes__", (Wildcard("hair_colour"), Wildcard("eyes"))),
        ("[[red, (dark, blue:1.2), ]] hat", (Array(((Words("red"),), (Weighted((Words("dark, blue"),), 1.2),), ())), Words(" hat"))),
        ("<lora:my style:0.8><LORA:b>", (LoraTag("my style", 0.8), LoraTag("b", 1.0))),
        (r"\(cat\) a\,b c:\d", (Words(r"(cat) a,b c:\d"),)),
        # incomplete or impossible syntax is words
        ("(cat", (Words("(cat"),)),
        ("cat:1.2)", (Words("cat:1.2)"),)),
        ("()", (Words("()"),)),
        ("snake__case and __ init", (Words("snake__case and __ init"),)),
        ("<lora:>", (Words("<lora:>"),)),
        ("[one]", (Words("[one]"),)),
        ("(at 12:30)", (Weighted((Words("at 12:30"),), 1.1),)),
    ],
)
def test_what_is_read(text: str, prompt: Prompt) -> None:
    assert parse(text) == prompt


def test_weights_multiply_and_runs_keep_their_order() -> None:
    assert segments(parse("a (b (c:2):0.5) d")) == [("a ", 1.0), ("b ", 0.5), ("c d", 1.0)]
    assert plain(parse("a (b (c:2):0.5) d")) == "a b c d"


def test_nothing_but_brackets_is_read_at_once() -> None:
    """Nesting is bounded and brackets are matched in one pass: neither the stack nor the clock runs out."""
    for text in ("(" * 20_000, "(" * 10_000 + ")" * 10_000, "[[" * 10_000 + "]]" * 10_000, "([[" * 7_000, "(])" * 7_000):
        assert parse(show(parse(text))) == parse(text)
