"""What Stable Diffusion's text encoders make of captions, once for each: after that they are not needed in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bowerbird.models.conditioning import Cond
from bowerbird.pretrained.loading import Parts
from bowerbird.progress import OnProgress, Progress, tell

COMMON = 40_000  # CLIP numbers its whole words by how often they are used; the last of its 49,408 hardly occur
_AT_ONCE = 16


class Words:
    """The embeddings of a fixed set of prompts, and of the empty one."""

    def __init__(self, parts: Parts, prompts: Sequence[str], device: torch.device, on_progress: OnProgress | None = None) -> None:
        self.row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(["", *prompts]))}
        distinct, found = list(self.row_of), list[dict[str, Tensor]]()
        for start in range(0, len(distinct), _AT_ONCE):
            tell(on_progress, Progress("encode", start, len(distinct)))
            found.append(_encoded(parts, distinct[start : start + _AT_ONCE], device))
        self.rows = {name: torch.cat([each[name] for each in found]) for name in found[0]}
        if "pooled" in self.rows and parts.options.get("force_zeros_for_empty_prompt"):  # as XL's pipelines guide away from nothing
            for tensor in self.rows.values():
                tensor[0] = 0

    def __call__(self, prompts: Sequence[str]) -> Cond:
        """text: (B, 77, width), and for XL pooled: (B, width), of prompts of the set."""
        rows = torch.tensor([self.row_of[prompt] for prompt in prompts])
        return {name: tensor[rows] for name, tensor in self.rows.items()}


@torch.inference_mode()
def _encoded(parts: Parts, prompts: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    states: list[Tensor] = []
    pooled: Tensor | None = None
    xl = "text_encoder_2" in parts.networks
    for name in ("", "_2") if xl else ("",):
        tokenizer, encoder = parts.tokenizers[f"tokenizer{name}"], parts.networks[f"text_encoder{name}"].to(device)
        read = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        output = encoder(read, output_hidden_states=xl)
        states.append((output.hidden_states[-2] if xl else output[0]).cpu())
        pooled = output[0].cpu() if xl else None  # that of the second encoder
    found = {"text": torch.cat(states, -1)}
    # a clone, outside the mode: what was made inside it could never be part of a forward pass that learns
    return {name: tensor.clone() for name, tensor in (found | ({} if pooled is None else {"pooled": pooled})).items()}


def is_common(word: str, tokenizers: Mapping[str, Any]) -> bool:
    """Whether CLIP knows `word` as a whole and well, so that it means something already."""
    numbers = tokenizers["tokenizer"](word, add_special_tokens=False).input_ids
    return len(numbers) == 1 and numbers[0] < COMMON
