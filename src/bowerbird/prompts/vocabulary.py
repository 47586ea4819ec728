"""The phrases of a model's own captions: a small table saved with the model, from which short prompts are completed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bowerbird.errors import ModelError

FILE = "words.json"
MAX_PHRASES, MAX_COMPANY, MAX_WORDS = 400, 16, 5
MAX_FILE_BYTES = 2**20

_JOINS = ("of", "with", "and", "or", "in", "on", "at", "from", "by", "for", "to", "as")
_LITTLE = (*_JOINS, "is", "are", "has", "have", "that", "which", "this", "its", "it")
_ARTICLES = ("a", "an", "the", "some")
_BREAK = re.compile(rf"[^\w\s'-]+|\b(?:{'|'.join(_LITTLE)})\b")
_ARTICLE = re.compile(rf"^(?:{'|'.join(_ARTICLES)})\s+")


class Phrase(BaseModel):
    """How many captions have a phrase, and how many of those have each other word."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    count: int = Field(ge=1)
    company: Annotated[dict[str, int], Field(max_length=MAX_COMPANY)] = Field(default_factory=dict)


class Vocabulary(BaseModel):
    """What a model's captions are made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    captions: int = Field(ge=0)
    phrases: Annotated[dict[str, Phrase], Field(max_length=MAX_PHRASES)] = Field(default_factory=dict)


def words_of(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def phrases_of(caption: str) -> list[str]:
    """The pieces between punctuation and little words, at most five words each: "3d emoji", "a red bird" without its article."""
    pieces = (_ARTICLE.sub("", " ".join(piece.split())) for piece in _BREAK.split(caption.lower()))
    return [piece for piece in pieces if 0 < len(piece.split()) <= MAX_WORDS and len(piece) <= 60 and not piece.isdigit()]


def learn_vocabulary(captions: Iterable[str]) -> Vocabulary:
    """The most frequent phrases of a model's captions with the words they occur beside.  Phrases of one caption alone are left out."""
    count: Counter[str] = Counter()
    company: dict[str, Counter[str]] = {}
    total = 0
    for caption in captions:
        total += 1
        words = set(words_of(caption)) - {*_LITTLE, *_ARTICLES}
        for phrase in dict.fromkeys(phrases_of(caption)):
            count[phrase] += 1
            company.setdefault(phrase, Counter()).update(words - set(words_of(phrase)))
    often = sorted((phrase for phrase in count if count[phrase] > 1), key=lambda phrase: (-count[phrase], phrase))[:MAX_PHRASES]
    nearest = {phrase: dict(sorted(company[phrase].items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_COMPANY]) for phrase in often}
    return Vocabulary(captions=total, phrases={phrase: Phrase(count=count[phrase], company=nearest[phrase]) for phrase in often})


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """The table of a model folder; None where it has none, ModelError where it is damaged."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ModelError(f"{str(file)!r} is larger than {MAX_FILE_BYTES >> 20} MiB, too large for a table of phrases.")
        return Vocabulary.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(f"{str(file)!r} is no table of phrases. Copy the model folder anew, or delete that file.") from error
