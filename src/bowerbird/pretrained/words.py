"""What Stable Diffusion's text encoders make of captions, once for each: after that they are not needed in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bowerbird.models.conditioning import Cond
from bowerbird.pretrained.loading import Parts
from bowerbird.pretrained.lora import ENCODERS
from bowerbird.progress import OnProgress, Progress, tell

COMMON = 40_000  # CLIP numbers its whole words by how often they are used; the last of its 49,408 hardly occur
_AT_ONCE = 16


class Words:
    """A fixed set of prompts and the empty one: what the text encoders make of them or, for encoders that learn, their tokens."""

    def __init__(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, on_progress: OnProgress | None = None, encoded: bool = True
    ) -> None:
        self.row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(["", *prompts]))}
        self.rows = _tokens(parts.tokenizers, list(self.row_of))
        if parts.options.get("force_zeros_for_empty_prompt"):  # as XL's pipelines guide away from nothing
            self.rows["silent"] = torch.tensor([not prompt for prompt in self.row_of])
        if encoded:
            encoders, found = {name: encoder.to(device) for name, encoder in encoders_of(parts).items()}, list[Cond]()
            for start in range(0, len(self.row_of), _AT_ONCE):
                tell(on_progress, Progress("encode", start, len(self.row_of)))
                some = {name: tensor[start : start + _AT_ONCE].to(device) for name, tensor in self.rows.items()}
                with torch.inference_mode():
                    found.append({name: tensor.cpu() for name, tensor in encode(encoders, some).items()})
            # copies, made outside the mode: what was made inside it could never be part of a forward pass that learns
            self.rows = {name: torch.cat([each[name].clone() for each in found]) for name in found[0]}

    def __call__(self, prompts: Sequence[str]) -> Cond:
        """Of prompts of the set, text: (B, 77, width) and for XL pooled: (B, width); or their tokens, as `encode` reads them."""
        rows = torch.tensor([self.row_of[prompt] for prompt in prompts])
        return {name: tensor[rows] for name, tensor in self.rows.items()}


def encoders_of(parts: Parts) -> dict[str, nn.Module]:
    """The one text encoder of 1.x and 2.x, or both of XL."""
    return {name: parts.networks[name] for name in ENCODERS if name in parts.networks}


def _tokens(tokenizers: Mapping[str, Any], prompts: Sequence[str]) -> dict[str, Tensor]:
    """(N, 77) for each text encoder, under its name."""
    return {
        name.replace("tokenizer", "text_encoder"): tokenizer(
            list(prompts), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        for name, tokenizer in tokenizers.items()
    }


def encode(encoders: Mapping[str, nn.Module], tokens: Cond) -> Cond:
    """What the encoders make of tokens, (B, 77) under the name of each.  text: (B, 77, width), and for XL pooled: (B, width).

    Zeros where `tokens["silent"]` (B,) says so.
    """
    xl = "text_encoder_2" in encoders
    outputs = [encoder(tokens[name], output_hidden_states=xl) for name, encoder in encoders.items()]
    found = {"text": torch.cat([each.hidden_states[-2] if xl else each[0] for each in outputs], -1)}
    if xl:
        found["pooled"] = outputs[-1][0]  # that of the second encoder
    silent = tokens.get("silent")
    if silent is None:
        return found
    return {name: tensor.masked_fill(silent.view(-1, *[1] * (tensor.ndim - 1)), 0) for name, tensor in found.items()}


def is_common(word: str, tokenizers: Mapping[str, Any]) -> bool:
    """Whether CLIP knows `word` as a whole and well, so that it means something already."""
    numbers = tokenizers["tokenizer"](word, add_special_tokens=False).input_ids
    return len(numbers) == 1 and numbers[0] < COMMON
