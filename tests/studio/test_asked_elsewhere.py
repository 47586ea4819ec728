"""What the Studio asks of others, a language model and a captioner: their answers arrive, faults are one sentence, the page goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bowerbird.prompts import expander
from bowerbird.prompts.expander import ADDRESS
from tests.language_model import LanguageModel, saying
from tests.pretrained.test_captioner import blip, write_captioner
from tests.studio.conftest import Page

BAD = re.compile(r'<p class="sentence bad" role="status">([^<\n]{10,300}\.)</p>')


def is_skipped(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"__type__"}


# ------------------------------------------------------------------------------------------------ a language model


def test_a_language_models_words_are_shown_painted_and_asked_for_once(page: Page, language_model: LanguageModel) -> None:
    asking, told = page.show(expand="llm")
    assert "asking the language model" in asking[0] and told[1] == r"a fox, snow, \(blue\) light"
    *_, last = painting = page.paint(expand="llm")
    assert last[3] == told[1] and len(language_model.asked) == 2  # one question to show, one to paint
    job = page.queue.get(painting[0][2][0])
    assert job.state == "done" and job.result["settings"]["prompt"] == told[1] and job.result["settings"]["asked"]["expand"] == "llm"


def down(model: LanguageModel, patch: pytest.MonkeyPatch) -> str:
    patch.setenv(ADDRESS, "http://127.0.0.1:9/v1")
    return "does not answer"


def slow(model: LanguageModel, patch: pytest.MonkeyPatch) -> str:
    model.dribbles = True
    patch.setattr(expander, "MAX_SECONDS", 0.3)
    return "took longer than"


def rubbish(model: LanguageModel, patch: pytest.MonkeyPatch) -> str:
    model.answer = b"<html>\nI am a <b>router</b>.\n"
    return "no OpenAI-compatible language model"


def broken(model: LanguageModel, patch: pytest.MonkeyPatch) -> str:
    model.status = 500
    return "does not answer"


def elsewhere(model: LanguageModel, patch: pytest.MonkeyPatch) -> str:
    patch.setenv(ADDRESS, "http://198.51.100.1/v1")
    return "on another machine"


def nowhere(model: LanguageModel, patch: pytest.MonkeyPatch) -> str:
    patch.delenv(ADDRESS)
    return ADDRESS


Fault = Callable[[LanguageModel, pytest.MonkeyPatch], str]


@pytest.mark.parametrize("fault", [down, slow, rubbish, broken, elsewhere, nowhere])
def test_a_language_model_that_fails_is_one_sentence_and_the_page_goes_on(
    page: Page, language_model: LanguageModel, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        words = fault(language_model, patch)
        told, painted = page.show(expand="llm")[-1], page.paint(expand="llm")[-1]
    for said in (told[0], painted[0]):
        found = BAD.fullmatch(said)
        assert found is not None and words in found[1], said
    assert all(map(is_skipped, told[1:])), "what was written stays"
    assert page.queue.get(painted[2][0]).state == "failed"
    assert page.paints()


def test_whoever_tires_of_a_language_model_stops_it(page: Page, language_model: LanguageModel) -> None:
    """The next picture need not wait for it either."""
    language_model.dribbles = True
    painting = page._call("paint", page.typed(expand="llm"))
    (job_id,) = next(painting)[2]
    said = next(each[0] for each in painting if "ask the language model" in each[0])
    assert 'role="progressbar"' in said
    page.queue.cancel(job_id)
    *_, stopped = painting
    assert "stopped" in stopped[0] and page.paints()


def test_what_a_language_model_says_is_words_on_the_page_too(page: Page, language_model: LanguageModel) -> None:
    language_model.answer = saying("a fox, <script>alert(1)</script>\x1b[2J\u202e " + "and more, " * 1000)
    prompts = [page.show(expand="llm")[-1][1], page.paint(expand="llm")[-1][3]]
    assert prompts[0] == prompts[1] and len(prompts[0]) < 700 and "\x1b" not in prompts[0]
    *_, (_, _, _, others, _) = page.show(expand="llm", prompt="a [[red, blue]] fox")
    assert "<script" not in others and "&lt;script" in others


# ------------------------------------------------------------------------------------------------ a captioner


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write_captioner(tmp_path_factory.mktemp("captioner") / "blip", blip)


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((48, 32)).convert("RGBA")


def test_a_picture_is_put_into_a_captioners_words(page: Page, captioner: Path, tmp_path: Path) -> None:
    """Those that `bowerbird describe` says; a captioner has no likeness to tell."""
    from bowerbird.describing import words_for

    *_, (said, choices, _) = page.put_into_words(picture(), f" {captioner} ")
    picture().convert("RGB").save(tmp_path / "picture.png")
    (one,) = words_for([tmp_path / "picture.png"], None, str(captioner), 3, torch.device("cpu"))
    assert said == "" and choices["visible"] and choices["choices"] == [(one.captions[0].text, one.captions[0].text)]


def test_a_captioner_that_cannot_be_asked_is_one_sentence_and_the_page_goes_on(page: Page, captioner: Path, tmp_path: Path) -> None:
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "empty").mkdir()
    for dropped, whose, words in (
        (None, str(captioner), "drop a picture"),
        (picture(), str(tmp_path / "strange"), "no captioner"),
        (picture(), str(tmp_path / "empty"), "no picture"),
        (picture(), str(tmp_path / "nowhere"), "nowhere"),
        (picture(), "blip", "blip"),
        (picture(), "", "learnt from are not here"),
        (picture(), "\0", ""),
    ):
        *_, (said, choices, _) = page.put_into_words(dropped, whose)
        found = BAD.fullmatch(said)
        assert found is not None and words in found[1], said
        assert is_skipped(choices) or "choices" not in choices
    *_, (said, choices, _) = page.put_into_words(picture(), str(captioner))
    assert said == "" and choices["choices"]
