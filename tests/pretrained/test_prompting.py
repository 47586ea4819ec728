"""Long and weighted prompts: weight 1 is what the pipeline itself says, and nothing of a long prompt is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bowerbird.pretrained.prompting import _embedded, count_chunks, said
from bowerbird.prompts.language import parse

LONG = "bird " * 100


@pytest.fixture(params=["sd15", "sdxl"])
def pipeline(request: pytest.FixtureRequest, tiny: Any) -> Any:
    return tiny(request.param).painter._pipeline("text")


def pipelines_own(pipeline: Any, prompt: str, negative: str | None) -> Any:
    return pipeline.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True, negative_prompt=negative)


@torch.inference_mode()
@pytest.mark.parametrize("negative", [None, "fog"])
def test_without_weights_it_says_what_the_pipeline_says(pipeline: Any, negative: str | None) -> None:
    found = _embedded(pipeline, parse("a red bird"), parse(negative or ""))
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    expected = pipelines_own(pipeline, "a red bird", negative)
    for name, tensor in zip(names[: len(expected)], expected, strict=True):
        torch.testing.assert_close(found[name], tensor)


@torch.inference_mode()
def test_a_weight_moves_its_words_alone_and_in_proportion(pipeline: Any) -> None:
    def embeds(prompt: str) -> torch.Tensor:
        return _embedded(pipeline, parse(prompt), ())["prompt_embeds"][0]

    once, twice, none = embeds("a (red:1) bird"), embeds("a (red:2) bird"), embeds("a (red:0) bird")
    red = 2  # after the mark of start and "a"
    others = [n for n in range(77) if n != red]
    assert torch.equal(once[others], twice[others])
    torch.testing.assert_close(twice[red] - once[red], once[red] - none[red])
    torch.testing.assert_close(none[red], embeds("")[red])


@torch.inference_mode()
def test_long_prompts_are_read_to_the_end(pipeline: Any) -> None:
    """Chunks stand side by side, the negative ones filled up to the same number, and the last word is heard."""
    assert count_chunks(pipeline.tokenizer, LONG) == 2
    found = _embedded(pipeline, parse(LONG), parse("fog"))
    assert found["prompt_embeds"].shape[1] == found["negative_prompt_embeds"].shape[1] == 154
    other = _embedded(pipeline, parse(LONG + " cat"), parse("fog"))["prompt_embeds"]
    assert torch.equal(found["prompt_embeds"][:, :77], other[:, :77]) and not torch.equal(found["prompt_embeds"], other)


def test_what_fits_goes_to_the_pipeline_as_words(pipeline: Any) -> None:
    arguments = {"prompt": r"a bird \(male\)", "negative_prompt": None, "width": 64}
    assert said(pipeline, arguments) == {"prompt": "a bird (male)", "negative_prompt": None, "width": 64}


@pytest.mark.parametrize("name", ["sd15", "sd21-base", "sdxl", "sd15-inpaint", "sdxl-inpaint", "x4"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_every_family_paints_weighted_and_long_prompts(tiny: Any, pictures: Any, name: str, guidance: float) -> None:
    from bowerbird.request import read_request

    def paint(prompt: str) -> bytes:
        fields = {"model": name, "prompt": prompt, "seed": 1, "steps": 2, "guidance": guidance, "negative": "fog"}
        if name == "x4":
            fields["image"] = next(iter(pictures.values()))
        (painted,) = tiny(name).painter.paint(read_request(fields))
        return bytes(painted.picture.tobytes())

    plain, weighted, longer = paint("a red bird"), paint("a (red:3) bird"), paint("a red bird " + LONG)
    assert len({plain, weighted, longer}) == 3
    assert paint("a (red:1) bird") == plain
