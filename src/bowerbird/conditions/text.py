"""What a picture shows, in words: `bowerbird generate MODEL "a red bird"`.

Captions are varied in training, so that a prompt need not be worded as the captions were: the words for the medium, the article and
some of the tags are left out now and then, and tags come in any order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bowerbird import draws, weights
from bowerbird.captioning import captions_of, from_what_is_known
from bowerbird.data.picture_set import Pictures
from bowerbird.errors import ModelError
from bowerbird.models import text_encoder
from bowerbird.models.conditioning import Cond, Steering
from bowerbird.models.text_encoder import LONGEST, PADDING, UNKNOWN, TextEncoder, padded, tokens
from bowerbird.progress import OnProgress, note
from bowerbird.prompts.vocabulary import FILE as PHRASES
from bowerbird.prompts.vocabulary import Vocabulary, learn_vocabulary, read_vocabulary
from bowerbird.recipe import Recipe
from bowerbird.request import PaintRequest

_FILE = "text.safetensors"
_MEDIUM = re.compile(
    r"^(?:[\w-]+ )*?(?:clip art|drawing|emoji|icon|illustration|image|logo|painting|photo|photograph|picture|render|sketch|sprite)s? of ",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"^(?:an?|the) ", re.IGNORECASE)
_TAG_WORDS = 3  # pieces between commas of at most so many words are tags, in any order


@dataclass(frozen=True)
class Text:
    """cond["text"]: (B, L) int64 token numbers, PADDING where there is none; a row of PADDING alone where it is dropped.

    seen: (tokens,) bool, those of the captions that the model learnt from.  vocabulary: their phrases, for the prompt's expander.
    """

    seen: Tensor
    vocabulary: Vocabulary | None = None
    captions: tuple[tuple[str, ...], ...] | None = None  # of all pictures, while it learns

    name: ClassVar[str] = "text"
    fields: ClassVar[tuple[str, ...]] = ("prompt", "negative")

    @classmethod
    def learn(
        cls, recipe: Recipe, pictures: Pictures, device: torch.device, on_progress: OnProgress | None, base: Self | None = None
    ) -> Self:
        if base is not None and not any((*pictures.captions, *from_what_is_known(pictures))):
            note(on_progress, "there are neither captions nor classes: the model keeps the words it knows, and learns how things look")
            return replace(base, captions=((),) * len(pictures.captions))
        captions = captions_of(pictures).texts  # their own, or what follows from their classes
        said = [caption for row in pictures.train for caption in captions[row]]
        seen = torch.zeros(_vocabulary(), dtype=torch.bool) if base is None else base.seen.clone()
        for caption in said:
            seen[tokens(caption)] = True
        return cls(seen, learn_vocabulary(said), captions)

    @classmethod
    def open(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        if settings.get("words") != text_encoder.fingerprint():
            raise ModelError(
                f"{str(folder)!r} was trained with another table of words than this Bowerbird has. Use the version that made it."
            )
        seen = weights.load(folder / _FILE).get("seen")
        if seen is None or seen.shape != (_vocabulary(),):
            raise ModelError(f"{str(folder / _FILE)!r} does not say which words were seen. Restore it, or use another copy.")
        return cls(seen.bool(), read_vocabulary(folder))

    @classmethod
    def seconds(cls, pictures: Pictures, device: torch.device) -> float:
        return 0.0

    def shown(self, chosen: NDArray[np.int64], samples: NDArray[np.int64], seed: int, dropped: NDArray[np.bool_]) -> Cond:
        assert self.captions is not None, "only a condition that learns has captions"
        said = [
            [] if off else tokens(drawn(self.captions[row], draws.generator(seed, "caption", int(sample))))
            for row, sample, off in zip(chosen.tolist(), samples.tolist(), dropped.tolist(), strict=True)
        ]
        return {self.name: padded(said)}

    def asked(self, request: PaintRequest, seeds: Sequence[int]) -> Cond:
        return self._said(request.prompt, len(seeds))

    def unwanted(self, request: PaintRequest, count: int) -> Cond:
        return self._said(request.negative, count)

    def _said(self, text: str, count: int) -> Cond:
        read = tokens(text)
        return {self.name: padded([read]).expand(count, -1)} if read else {}

    def nothing(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like)

    def remarks(self, request: PaintRequest) -> Iterator[str]:
        words = text_encoder.words(request.prompt)
        unreadable = [word for word, its in words if UNKNOWN in its]
        unseen = [word for word, its in words if UNKNOWN not in its and not self.seen[its].all()]
        if unreadable:
            yield f"cannot read {_quoted(unreadable)}, and paints as if it were not there"
        if unseen:
            yield f"learnt from no caption with {_quoted(unseen)}, and goes by words that mean something near"
        if len(tokens(request.prompt)) == LONGEST:
            yield f"reads the first {LONGEST} pieces of words, as far as {words[-1][0]!r}"

    def settings(self) -> dict[str, Any]:
        return {"words": text_encoder.fingerprint()}

    def shape(self) -> dict[str, int]:
        return {"beside": 1}

    @classmethod
    def part(cls, shape: Mapping[str, int], width: int) -> nn.Module:
        return TextPart(width, beside=bool(shape.get("beside")))

    def files(self) -> Iterator[tuple[str, bytes]]:
        yield _FILE, weights.to_bytes({"seen": self.seen.to(torch.uint8)})
        if self.vocabulary is not None:
            yield PHRASES, self.vocabulary.model_dump_json().encode()


class TextPart(TextEncoder):
    """What was read: its summary is added to the noise level's vector, its tokens lie beside the picture's.

    A summary steers all places of a picture alike; by tokens each place looks up what concerns it.  beside: False for the first models
    of text, which had the summary alone.
    """

    def __init__(self, width: int, beside: bool = True) -> None:
        super().__init__(width)
        self.beside = nn.Linear(width, width) if beside else None

    def initialise(self) -> None:
        nn.init.normal_(self.start, std=0.02)
        nn.init.normal_(self.position, std=0.02)
        nn.init.zeros_(self.read[-1].weight)  # type: ignore[arg-type]

    def forward(self, cond: Cond, batch: int, device: torch.device) -> Steering:  # type: ignore[override]
        numbers = cond.get(Text.name)
        if numbers is None:
            return Steering(super().forward(torch.full((batch, 1), PADDING, device=device))[0])
        level, tokens = super().forward(numbers)
        return Steering(level) if self.beside is None else Steering(level, self.beside(tokens), numbers != PADDING)


def drawn(captions: Sequence[str], generator: np.random.Generator) -> str:
    """One of the captions, worded somehow; '' where there is none."""
    return varied(captions[int(generator.integers(len(captions)))], generator) if captions else ""


def varied(caption: str, generator: np.random.Generator) -> str:
    """The same in other words: without its medium or its article at times, and with some of its tags in any order.

    Only what reads as "..., tag, tag" has tags; sentences with commas stay whole.
    """
    head, *tags = caption.split(", ")
    without_medium, without_article, ordered, half = generator.random(4)
    medium = _MEDIUM.match(head)
    opening, subject = (head[: medium.end()], head[medium.end() :]) if medium else ("", head)
    if without_article < 0.25:
        subject = _ARTICLE.sub("", subject)
    if without_medium < 0.15:
        opening = ""
    if any(len(tag.split()) > _TAG_WORDS for tag in tags):
        return ", ".join([opening + subject, *tags])
    if ordered < 0.4:  # the head alone
        return opening + subject
    tags = [tags[place] for place in generator.permutation(len(tags))]
    if half < 0.6:
        tags = [tag for tag in tags if generator.random() < 0.5]
    return ", ".join([opening + subject, *tags])


def medium(caption: str) -> str:
    """What a caption says its picture is, such as "clip art"; '' where it does not."""
    said = _MEDIUM.match(caption)
    return said.group().removesuffix(" of ").lower() if said else ""


def _vocabulary() -> int:
    return int(text_encoder.tokenizer().get_vocab_size())


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in dict.fromkeys(words))
