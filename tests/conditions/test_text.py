"""Words: any text is read, near words lie near, captions vary without lying, what is dropped leaves no trace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bowerbird import draws
from bowerbird.conditions import dropped, network_parts
from bowerbird.conditions.text import Text, TextPart, varied
from bowerbird.errors import ModelError
from bowerbird.models import text_encoder
from bowerbird.models.text_encoder import LONGEST, PADDING, TextEncoder, padded, tokens, vectors, words
from bowerbird.models.transformer import Transformer, TransformerConfig
from bowerbird.recipe import check_recipe
from bowerbird.request import PaintRequest
from bowerbird.training.batches import Mirrors

CAPTION = "3D fluent emoji of a red bird, animal, ornithology, white background"
SHAPES: dict[str, dict[str, int]] = {"text": {"beside": 1}}
FIRST: dict[str, dict[str, int]] = {"text": {}}  # of the first models of text, which had the summary alone


def likeness(one: str, other: str) -> float:
    first, second = (vectors(torch.tensor(tokens(word))).mean(0) for word in (one, other))
    return float(torch.cosine_similarity(first, second, dim=0))


def test_near_words_are_near() -> None:
    """What the table is for: a word that no caption used goes by those that mean something like it."""
    for word, near, far in (("kitten", "cat", "car"), ("crimson", "red", "bird"), ("truck", "car", "flower"), ("eagle", "bird", "house")):
        assert likeness(word, near) > likeness(word, far) + 0.2


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t ",
        "\0\0",
        "a\0bird",
        "x" * 10_000,
        "red bird " * 5_000,
        "🐦🔥",
        "طائر أحمر",
        "ציפור אדומה",
        "\u202ebird",
        "\ud800",
        "鳥",
        "é" * 3000,
    ],
)
def test_any_text_is_read(text: str) -> None:
    """Nothing in a text is an error, and no text costs more than LONGEST tokens."""
    read = tokens(text)
    assert len(read) <= LONGEST and PADDING not in read
    assert [token for _, its in words(text) for token in its] == read
    assert padded([read], LONGEST).shape == (1, LONGEST)


def test_control_characters_and_case_do_not_matter() -> None:
    assert tokens("A\0 Red\u0007 BIRD") == tokens("a red bird")


def test_words_are_those_of_the_text() -> None:
    assert [word for word, _ in words("A zeppelin, over Gdańsk")] == ["A", "zeppelin", ",", "over", "Gdańsk"]


def test_lengths_come_in_few_shapes() -> None:
    shapes = {padded([[7] * count]).shape[1] for count in range(LONGEST + 1)}
    assert shapes == {8, 16, 24, 32}


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    encoder = TextEncoder(24)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


@torch.inference_mode()
def test_padding_changes_nothing(encoder: TextEncoder) -> None:
    """A prompt means the same alone and beside longer ones: attention gives padding no weight, and the mean leaves it out."""
    read = tokens("a red bird")
    (summary, its), (summaries, all_its) = encoder(torch.tensor([read])), encoder(padded([read, [9] * LONGEST]))
    torch.testing.assert_close(summary, summaries[:1])
    torch.testing.assert_close(its, all_its[:1, : len(read)])
    assert not all_its[0, len(read) :].any()


@torch.inference_mode()
def test_order_is_read(encoder: TextEncoder) -> None:
    (one, other), _ = encoder(padded([tokens("a red bird on a blue house"), tokens("a blue bird on a red house")]))
    assert (one - other).abs().max() > 1e-3


def fresh(shapes: dict[str, dict[str, int]] = SHAPES) -> Transformer:
    return Transformer(TransformerConfig(32, 2, 2, patch=2, channels=4, conditions=shapes), network_parts(shapes, 32))


@torch.inference_mode()
@pytest.mark.parametrize("shapes", [SHAPES, FIRST], ids=["beside", "summary"])
def test_dropped_is_no_text(shapes: dict[str, dict[str, int]]) -> None:
    """Padding alone, and no condition at all: one and the same for the network, row by row."""
    torch.manual_seed(0)
    network = fresh(shapes)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, time = torch.randn(3, 4, 8, 8), torch.zeros(3)
    some = network(x, time, {"text": padded([tokens("a red bird"), [], tokens("a cat")])})
    without = network(x, time, {})
    torch.testing.assert_close(some[1], without[1])
    assert (some[0] - without[0]).abs().max() > 1e-4


def test_a_model_that_gains_words_paints_as_before() -> None:
    """So that --init from a model without text is no step back: nothing changes where no words are given, and no summary speaks yet."""
    part = network_parts(SHAPES, 32)["text"]
    assert isinstance(part, TextPart)
    part.initialise()
    level = part({"text": padded([tokens("a red bird")])}, 1, torch.device("cpu")).level
    last = part.read[-1]
    assert isinstance(last, torch.nn.Linear)
    assert level is not None and torch.equal(level, last.bias.expand(1, -1))  # the same for every text
    assert part({}, 1, torch.device("cpu")).tokens is None


def test_the_table_is_not_saved_with_every_model() -> None:
    assert not {"text.table", "text.step"} & fresh().state_dict().keys()


def wordings(count: int = 400) -> list[str]:
    return [varied(CAPTION, draws.generator(0, "caption", k)) for k in range(count)]


def test_wordings_say_nothing_new() -> None:
    """Every wording is made of the caption's own words, and the subject is never lost."""
    for wording in wordings():
        assert "red bird" in wording
        assert set(wording.replace(",", "").split()) <= set(CAPTION.replace(",", "").split())


def test_wordings_vary_in_medium_article_and_tags() -> None:
    """Expected shares: without the medium 15 %, without the article 25 %, the head alone 40 %; three standard deviations of 400 draws."""
    said = wordings()
    assert np.mean(["emoji" not in one for one in said]) == pytest.approx(0.15, abs=0.054)
    assert np.mean([" a red" not in f" {one}" for one in said]) == pytest.approx(0.25, abs=0.065)
    heads_alone = 0.4 + 0.6 * 0.6 / 8  # and all three tags left out
    assert np.mean(["," not in one for one in said]) == pytest.approx(heads_alone, abs=0.075)
    orders = {tuple(word for word in ("animal", "ornithology", "background") if word in one and one.index(word)) for one in said}
    assert any(one.index("background") < one.index("animal") for one in said if "background" in one and "animal" in one)
    assert len(orders) == 8


def test_sentences_stay_whole() -> None:
    sentence = "this bird has a red crown, and its long wings are as blue as the sky in May, and it sits"
    said = {varied(sentence, draws.generator(0, "caption", k)) for k in range(100)}
    assert said == {sentence}


def text_of(*captions: str) -> Text:
    seen = torch.zeros(len(text_encoder.tokenizer().get_vocab()), dtype=torch.bool)
    for caption in captions:
        seen[tokens(caption)] = True
    return Text(seen, None, tuple((caption,) for caption in captions))


def test_what_is_shown_belongs_to_its_sample() -> None:
    """Sample k reads the same whatever else is in its batch; dropped rows hold padding alone."""
    text = text_of(CAPTION, "a photo of a cat, animal, pet", "clip art of a house")
    samples, chosen = np.arange(40), np.arange(40) % 3
    off = dropped(0, "text", samples, 0.3)
    whole = text.shown(chosen, samples, 0, off)["text"]
    part = text.shown(chosen[7:9], samples[7:9], 0, off[7:9])["text"]
    width = min(whole.shape[1], part.shape[1])
    assert torch.equal(whole[7:9, :width], part[:, :width])
    assert torch.equal((whole == PADDING).all(1), torch.from_numpy(off)) and 0 < off.sum() < 40


def test_a_picture_without_a_caption_shows_none() -> None:
    text = Text(text_of("a").seen, None, ((), ("a cat",)))
    shown = text.shown(np.array([0, 1]), np.array([0, 1]), 0, np.zeros(2, np.bool_))["text"]
    assert not shown[0].any() and shown[1].any()


def test_a_negative_is_what_guidance_leads_away_from() -> None:
    text = text_of("a cat")
    request = PaintRequest(model="m", prompt="a cat", negative="a " * 500)
    assert text.asked(request, [1, 2])["text"].shape == (2, 8) and text.unwanted(request, 2)["text"].shape == (2, LONGEST)
    assert text.asked(PaintRequest(model="m"), [1]) == {} == text.unwanted(PaintRequest(model="m", prompt="a cat"), 1)


def test_words_never_seen_are_named() -> None:
    text = text_of("a red bird", "a cat")
    assert list(text.remarks(PaintRequest(model="m", prompt="a red cat"))) == []
    (unseen,) = text.remarks(PaintRequest(model="m", prompt="a red zeppelin, Zeppelin"))
    assert "'zeppelin'" in unseen and "red" not in unseen
    (unreadable,) = text.remarks(PaintRequest(model="m", prompt="a red 🐦 cat"))
    assert "'🐦'" in unreadable
    assert any("reads the first" in said for said in text.remarks(PaintRequest(model="m", prompt="a cat " * 99)))


def test_another_table_is_refused() -> None:
    with pytest.raises(ModelError, match="another table of words"):
        Text.open({"words": "0" * 16}, text_encoder.WEIGHTS)


def test_captions_that_speak_of_sides_are_not_mirrored() -> None:
    """Where captions are learnt; about half of all others are, as everywhere."""
    pictures: Any = SimpleNamespace(captions=(("a hand to the left",), ("a cat",)))
    samples = np.arange(400)
    for learnt in (True, False):
        mirrored = Mirrors(pictures, check_recipe({"name": "x", "condition": {"text": learnt}}))
        assert mirrored(samples * 0, samples).any() == (not learnt)
        assert mirrored(samples * 0 + 1, samples).mean() == pytest.approx(0.5, abs=0.075)
