"""Prompts for CLIP's text encoders: of any length, in chunks, and with weights on words.

A prompt that fits and has no weights goes to the pipeline as it is.  Any other is encoded here, 75 tokens at a time between
the marks of start and end, and the chunks stand one after the other: the U-Net's attention takes any number of tokens.
A token of weight w moves to `empty + w (token - empty)`, `empty` being what the encoder says at that place of an empty
prompt: weight 1 changes nothing and 0 takes the word away as far as its neighbours have not heard of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bowerbird.pretrained.clip import MAX_TOKENS
from bowerbird.prompts.language import Prompt, parse, plain, segments

CHUNK = MAX_TOKENS - 2  # tokens between the marks of start and end


@dataclass(frozen=True)
class Chunk:
    """Token numbers (77,) with their weights."""

    tokens: list[int]
    weights: list[float]


def said(pipeline: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline's arguments with `prompt` and `negative_prompt` in the form that says them whole."""
    prompt, negative = (parse(arguments.get(name) or "") for name in ("prompt", "negative_prompt"))
    if _fits(pipeline.tokenizer, prompt) and _fits(pipeline.tokenizer, negative):
        words = {"prompt": plain(prompt), "negative_prompt": plain(negative) or None}
        return {**arguments, **words}
    others = {name: value for name, value in arguments.items() if name not in ("prompt", "negative_prompt")}
    return {**others, **_embedded(pipeline, prompt, negative)}


def count_chunks(tokenizer: Any, prompt: str) -> int:
    """How many parts a prompt is read in."""
    return len(_chunks(tokenizer, parse(prompt)))


def _fits(tokenizer: Any, prompt: Prompt) -> bool:
    weighted = any(weight != 1 for _, weight in segments(prompt))
    return not weighted and len(tokenizer(plain(prompt), add_special_tokens=False).input_ids) <= CHUNK


def _embedded(pipeline: Any, prompt: Prompt, negative: Prompt) -> dict[str, Tensor]:
    """The pipelines' embeddings of both prompts, (1, 77 chunks, width), and for XL the pooled ones, (1, width)."""
    pairs = [(pipeline.tokenizer, pipeline.text_encoder)]
    xl = getattr(pipeline, "text_encoder_2", None) is not None
    if xl:
        pairs.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    widths: dict[str, list[Tensor]] = {"prompt_embeds": [], "negative_prompt_embeds": []}
    pooled: dict[str, Tensor] = {}
    for tokenizer, encoder in pairs:
        both = [_chunks(tokenizer, each) for each in (prompt, negative)]
        longest = max(map(len, both))
        for name, chunks in zip(widths, both, strict=True):
            filled = [*chunks, *[_chunk(tokenizer, [], [])] * (longest - len(chunks))]
            embedded, first = _encode(tokenizer, encoder, filled, pipeline._execution_device, xl)
            widths[name].append(embedded)
            pooled[name.replace("prompt", "pooled_prompt")] = first
    found = {name: torch.cat(tensors, -1) for name, tensors in widths.items()} | (pooled if xl else {})
    if xl and not negative and pipeline.config.force_zeros_for_empty_prompt:  # as the pipeline does for an empty one
        found |= {name: torch.zeros_like(tensor) for name, tensor in found.items() if name.startswith("negative")}
    return found


def _encode(tokenizer: Any, encoder: Any, chunks: list[Chunk], device: torch.device, xl: bool) -> tuple[Tensor, Tensor]:
    """Embeddings (1, 77 chunks, width), weighted, and what the encoder makes of the first chunk as a whole."""
    empty = _chunk(tokenizer, [], [])
    tokens = torch.tensor([chunk.tokens for chunk in (empty, *chunks)], device=device)
    output = encoder(tokens, output_hidden_states=xl)
    states: Tensor = output.hidden_states[-2] if xl else output[0]
    weights = torch.tensor([chunk.weights for chunk in chunks], device=device)[..., None].to(states.dtype)
    weighted = torch.where(weights == 1, states[1:], torch.lerp(states[:1].expand_as(states[1:]), states[1:], weights))
    return weighted.flatten(0, 1)[None], output[0][1:2]


def _chunks(tokenizer: Any, prompt: Prompt) -> list[Chunk]:
    """The prompt in parts of 75 tokens; the last is filled up, and an empty prompt is one part of nothing."""
    tokens: list[int] = []
    weights: list[float] = []
    for text, weight in segments(prompt):
        numbers = tokenizer(text, add_special_tokens=False).input_ids
        tokens += numbers
        weights += [weight] * len(numbers)
    return [_chunk(tokenizer, tokens[i : i + CHUNK], weights[i : i + CHUNK]) for i in range(0, max(1, len(tokens)), CHUNK)]


def _chunk(tokenizer: Any, tokens: list[int], weights: list[float]) -> Chunk:
    room = CHUNK - len(tokens)
    numbers = [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * room]
    return Chunk(numbers, [1.0, *weights, 1.0, *[1.0] * room])
