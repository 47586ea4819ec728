"""From what is asked to what is painted: the same for everybody, once and for all, and nothing hidden."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird.errors import RequestError
from bowerbird.picture_files import Painted, encode_picture
from bowerbird.picture_metadata import read_metadata
from bowerbird.prompts import changed, finish, in_words, is_locked, lock
from bowerbird.prompts.finish import ASKING
from bowerbird.prompts.language import EVERY_SYNTAX, parse, plain
from bowerbird.prompts.library import presets, style_families, styles, wildcard_lines, wildcards
from bowerbird.request import PaintRequest, read_request
from tests.prompts.test_language import odd_text


@pytest.fixture(autouse=True, scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's folder, with a list, a style and two LoRAs of theirs."""
    folder = tmp_path_factory.getbasetemp() / "config"
    for name, text in {
        "wildcards/mine.txt": "one\n# a comment\n\ntwo\n",
        "wildcards/nested/deep.txt": "(very __mine__:1.5)\n",
        "wildcards/loop.txt": "__loop__\n",
        "wildcards/empty.txt": "# nothing\n",
        "styles/own.toml": '[mine]\nprompt = "my {prompt}"\nnegative = "theirs"\n',
        "loras/birds/robin.safetensors": "",
        "loras/ink.safetensors": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CONFIG", str(folder))
        yield folder


def asks(**fields: object) -> PaintRequest:
    return read_request({"model": "m", "seed": 7, **fields})


def words(request: PaintRequest) -> list[str]:
    return [each.prompt for each in finish(request)]


@settings(max_examples=300, deadline=None)
@given(odd_text, odd_text, st.sampled_from([[], ["oil"], ["random", "comic"]]), st.sampled_from(["off", "words"]), st.integers(1, 3))
def test_finishing_is_final(own: Path, prompt: str, negative: str, chosen: list[str], expand: str, count: int) -> None:
    """Any request is finished or refused in one sentence; finishing again changes nothing; the count is kept."""
    request = asks(prompt=prompt[:300], negative=negative[:100], styles=chosen, expand=expand, count=count)
    try:
        done = finish(request)
    except RequestError as error:
        assert "\n" not in str(error)
        return
    assert [again for one in done for again in finish(one)] == done == finish(request)
    assert sum(one.count for one in done) % count == 0
    # without the record of what was asked, the final words still mean themselves
    for one in done:
        assert [each.prompt for each in finish(one.model_copy(update={"asked": None}))] == [one.prompt]


@given(odd_text, odd_text, st.sampled_from([None, "photo"]))
def test_a_locked_prompt_is_read_as_it_stands(own: Path, prompt: str, negative: str, preset: str | None) -> None:
    """Syntax and all; a preset sets other fields and adds no words.  A finished request is locked only if it was asked so."""
    final = lock(asks(prompt=prompt[:300], negative=negative[:100], preset=preset, literal=["loras"]))
    assert finish(final) == [final] and is_locked(final) and final == lock(final)
    assert (final.prompt, final.negative) == (prompt[:300], negative[:100])
    assert final.model_copy(update={"asked": None, "prompt": "", "negative": ""}) == lock(asks(preset=preset)).model_copy(
        update={"asked": None}
    )


@given(odd_text, st.sampled_from(["", "a (__colour__<lora:ink:0.5>:1.2) [[red,<lora:birds/robin>blue]] bird"]))
def test_a_final_prompt_in_words_is_locked_to_the_same_request(own: Path, prompt: str, tagged: str) -> None:
    """Its LoRAs too: whoever passes the words on, edited or not, passes on all that they say."""
    try:
        done = finish(asks(prompt=prompt[:300] + tagged))
    except RequestError:
        return
    for one in done:
        again = lock(asks(prompt=in_words(one)))
        assert (again.prompt, again.loras) == (one.prompt, one.loras) and again == lock(again)


def test_lora_tags_of_a_locked_prompt_act(own: Path) -> None:
    final = lock(asks(prompt="a (bird <lora:ink:0.5>:1.2) [[red, <lora:birds/robin>]]"))
    assert [(lora.file, lora.weight) for lora in final.loras] == [
        (own / "loras/ink.safetensors", 0.5),
        (own / "loras/birds/robin.safetensors", 1),
    ]
    assert final.prompt == "a (bird:1.2) [[red, ]]" and is_locked(final)
    with pytest.raises(RequestError, match="no lora 'inc'"):
        lock(asks(prompt="a bird <lora:inc>"))


def test_words_that_were_made_are_not_locked_words(own: Path) -> None:
    for fields in ({"prompt": "a __colour__ bird"}, {"styles": ["oil"]}, {"preset": "photo"}, {"prompt": "(a)", "literal": ["weights"]}):
        assert not any(is_locked(one) for one in finish(asks(**{"prompt": "a bird", **fields})))
    for fields in ({"styles": ["oil"]}, {"expand": "words"}):
        with pytest.raises(RequestError, match=f"locked.*{next(iter(fields))}"):
            lock(asks(prompt="a bird", **fields))


def test_a_plain_prompt_is_left_alone() -> None:
    request = asks(prompt="a red bird, on a branch", seed=None)
    assert finish(request) == [request]


def test_arrays_paint_each_combination_on_the_same_seeds() -> None:
    done = finish(asks(prompt="[[red, blue]] bird in [[a tree, the sky, ]]", count=2))
    assert [one.prompt for one in done] == [
        f"{colour} bird in {place}" for colour, place in itertools.product(["red", "blue"], ["a tree", "the sky", ""])
    ]
    assert {(one.seed, one.count) for one in done} == {(7, 2)}
    assert words(asks(prompt="(a [[b, c]]:1.2)")) == ["(a b:1.2)", "(a c:1.2)"]
    with pytest.raises(RequestError, match="10,000"):
        finish(asks(prompt="[[a, b]]" * 14))


def test_each_picture_draws_from_its_own_seed() -> None:
    """So picture 8 reads the same alone as among others."""
    together = finish(asks(prompt="a __colour__ __bird__", count=20))
    alone = [finish(asks(prompt="a __colour__ __bird__", seed=7 + i))[0] for i in range(20)]
    spread = [((one.seed or 0) + i, one.prompt) for one in together for i in range(one.count)]
    assert spread == [(one.seed, one.prompt) for one in alone]
    assert len({one.prompt for one in alone}) > 15


def test_a_wildcard_named_twice_draws_twice() -> None:
    pairs = {tuple(words(asks(prompt="__colour__ __colour__", seed=seed))[0].split()) for seed in range(30)}
    assert any(pair[0] != pair[-1] for pair in pairs)


def test_wildcards_nest_and_the_users_lists_count() -> None:
    assert {words(asks(prompt="__nested/deep__", seed=seed))[0] for seed in range(20)} == {"(very one:1.5)", "(very two:1.5)"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": "__colur__"}, "'colour'"),
        ({"prompt": "__loop__"}, "back to itself"),
        ({"prompt": "__empty__"}, "empty"),
        ({"prompt": "__up/secret__"}, "no wildcard"),
        ({"prompt": "<lora:imk:1>"}, "'ink'"),
        ({"prompt": "<lora:../../x:1>"}, "no lora"),
        ({"prompt": "<lora:ink:9>"}, "-4 to 4"),
        ({"prompt": "x", "styles": ["watercolor"]}, "'watercolour'"),
        ({"prompt": "x", "preset": "foto"}, "'photo'"),
        ({"prompt": "x", "negative": "[[a, b]]"}, "negative"),
        ({"prompt": "x", "expand": "llm"}, "address"),
    ],
)
def test_what_there_is_not_is_said_in_a_sentence(fields: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError) as error:
        finish(asks(**fields))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_loras_are_taken_out_of_the_words(own: Path) -> None:
    (one,) = finish(asks(prompt="a <lora:ink:0.5> bird <lora:birds/robin>"))
    assert one.prompt == "a bird"
    assert [(lora.file, lora.weight) for lora in one.loras] == [
        (own / "loras/ink.safetensors", 0.5),
        (own / "loras/birds/robin.safetensors", 1.0),
    ]


def test_styles_go_around_the_words_in_their_order() -> None:
    (one,) = finish(asks(prompt="bird", negative="cage", styles=["mine", "night"]))
    assert one.prompt == "my bird, at night, moonlight, deep blue shadows"
    assert one.negative == "cage, theirs, daylight"
    assert one.styles == [] and one.asked is not None and one.asked.styles == ["mine", "night"]
    (nothing,) = finish(asks(styles=["oil"]))
    assert nothing.prompt == "oil painting, visible brush strokes, rich colours on canvas"


def test_a_preset_fills_what_is_left_open() -> None:
    (one,) = finish(asks(prompt="bird", preset="sketches", count=2))
    assert (one.count, one.speed) == (2, "extreme") and one.prompt.startswith("quick sketch of bird")


@settings(max_examples=100, deadline=None)
@given(odd_text)
def test_parts_switched_off_are_words(own: Path, text: str) -> None:
    (one,) = finish(asks(prompt=text[:300], literal=["weights", "wildcards", "arrays", "loras"]))
    assert plain(parse(one.prompt)) == plain(parse(text[:300], ["weights", "wildcards", "arrays", "loras"]))


def test_both_prompts_are_recorded_and_the_picture_locks_them(tmp_path: Path) -> None:
    (one,) = finish(asks(prompt="a __bird__ (big:1.2) <lora:ink:0.5>", styles=["oil"], expand="words"))
    file = tmp_path / "picture.png"
    file.write_bytes(encode_picture(Painted(Image.new("RGB", (8, 8)), 7, one)))
    fields = read_metadata(file).fields
    again = read_request(fields)
    assert again == one and finish(again) == [one]
    assert again.asked is not None and again.asked.prompt == "a __bird__ (big:1.2) <lora:ink:0.5>"
    # more steps keep the words; other words ask anew; the same words asked anew read the same
    assert finish(read_request(changed(fields, {"steps": 5})))[0].prompt == one.prompt
    (other,) = finish(read_request(changed(fields, {"prompt": "a cat"})))
    assert "cat" in other.prompt and other.prompt.startswith("oil painting of") and other.loras == []
    assert finish(read_request(changed(fields, {"styles": ["oil"]}))) == [one]


def test_what_comes_with_the_project_is_whole() -> None:
    """Every style, preset and list can be used, and no name is used twice."""
    assert len(styles()) == sum(map(len, style_families().values())) > 60
    for name in styles():
        (one,) = finish(asks(prompt="a bird", styles=[name]))
        assert "a bird" in one.prompt and not one.prompt.count(",,")
        (nothing,) = finish(asks(styles=[name]))
        assert "{" not in nothing.prompt and nothing.prompt[0].isalnum() and ", ," not in nothing.prompt
    for name in presets():
        assert finish(asks(prompt="a bird", preset=name))
    for name in wildcards():
        if name not in ("loop", "empty"):
            assert len(wildcard_lines(name)) == len(set(wildcard_lines(name)))
            assert "__" not in words(asks(prompt=f"__{name}__"))[0]


PARTS = ["a bird", "(big:1.2)", "__colour__", "[[red, blue]]", "<lora:ink:0.5>", r"\(as it is\)", "snake_case"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(PARTS), max_size=5).map(" ".join),
    st.sampled_from(["", "(fog:1.4)", "__colour__"]),
    st.sampled_from([[], ["oil"], ["random", "mine"]]),
    st.sampled_from([None, "photo"]),
    st.sampled_from(["off", "words"]),
    st.sets(st.sampled_from(EVERY_SYNTAX)).map(sorted),
    st.booleans(),
)
def test_each_part_of_the_language_comes_back_from_the_picture(
    own: Path, prompt: str, negative: str, chosen: list[str], preset: str | None, expand: str, literal: list[str], locked: bool
) -> None:
    """What was asked and what was read, of weights, wildcards, arrays, LoRA tags, styles, presets, expansion, `literal` and the lock."""
    asked = asks(prompt=prompt, negative=negative, preset=preset, literal=literal)
    if not locked:
        asked = asked.model_copy(update={"styles": chosen, "expand": expand})
    for one in [lock(asked)] if locked else finish(asked):
        file = own / "picture.png"
        file.write_bytes(encode_picture(Painted(Image.new("RGB", (8, 8)), 7, one)))
        again = read_request(read_metadata(file).fields)
        assert again == one and finish(again) == finish(one) and is_locked(again) == is_locked(one)
        if again.asked is not None and not locked:
            assert {name: getattr(again.asked, name) for name in ASKING} == {name: getattr(asked, name) for name in ASKING}
