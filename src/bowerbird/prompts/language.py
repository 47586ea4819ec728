"""The prompt language: parse(text) -> parts, show(parts) -> text, and nothing that can fail.

    (word:1.2)  (word)      a weight; without a number 1.1
    __colour__              a wildcard: one line of the list of that name
    [[red, blue]]           an array: a picture for each
    <lora:name:0.8>         a LoRA and its weight
    \\( \\) \\[ \\] \\_ \\, \\\\    the character itself

Any text at all is a prompt: what is not complete syntax is words.  `parse(show(parts)) == parts` for whatever parse gives.
Weights, escapes and the LoRA tag are written as AUTOMATIC1111's web UI writes them, so its prompts can be pasted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

from bowerbird.request import Syntax

EVERY_SYNTAX: tuple[Syntax, ...] = get_args(Syntax)

USUAL_WEIGHT = 1.1  # of parentheses without a number
MAX_WEIGHT = 10.0  # beyond, a number after a colon is words: "(at 12:30)"
MAX_DEPTH = 40  # brackets nested deeper are words


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Weighted:
    parts: Prompt
    weight: float


@dataclass(frozen=True)
class Wildcard:
    name: str


@dataclass(frozen=True)
class Array:
    options: tuple[Prompt, ...]


@dataclass(frozen=True)
class LoraTag:
    name: str
    weight: float


Part: TypeAlias = Words | Weighted | Wildcard | Array | LoraTag
Prompt: TypeAlias = tuple[Part, ...]

_TOKEN = re.compile(
    r"\\(?P<escaped>[\\()\[\]_,<])"
    r"|__(?P<wildcard>[^\W_](?:[\w/-]*?[^\W_])?)__"
    r"|<lora:(?P<lora>[^<>:\n]*[^<>:\s][^<>:\n]*)(?::(?P<lora_weight>-?\d{0,3}\.?\d{1,6}))?>"
    r"|(?P<bracket>\(|\)|\[\[|\]\])"
    r"|(?P<comma>,)",
    re.IGNORECASE,
)
_WEIGHT = re.compile(r":\s*(\d{0,3}\.?\d{1,6})\s*$")
_CLOSER = {"(": ")", "[[": "]]"}
_OF_BRACKET: dict[str, Syntax] = {"(": "weights", ")": "weights", "[[": "arrays", "]]": "arrays"}


@dataclass(frozen=True)
class _Token:
    kind: Literal["words", "wildcard", "lora", "bracket", "comma"]
    text: str
    weight: float = 1.0


def parse(text: str, without: Collection[Syntax] = ()) -> Prompt:
    """The parts of a prompt; neighbouring words are one part.  Syntax named in `without` is read as words."""
    tokens = list(_tokens(text, without))
    return _parts(tokens, _pairs(tokens), 0, len(tokens))


def show(prompt: Prompt) -> str:
    """The text that parses to `prompt`."""
    return "".join(_show(part, in_array=False) for part in prompt)


def plain(prompt: Prompt) -> str:
    """The words alone, as a model reads that knows no weights; what stands for something else stays as written."""
    return "".join(text for text, _ in segments(prompt))


def segments(prompt: Prompt) -> list[tuple[str, float]]:
    """Runs of words with their weights, in reading order; weights in weights multiply."""
    runs: list[tuple[str, float]] = []
    for text, weight in _runs(prompt, 1.0):
        if runs and runs[-1][1] == weight:
            runs[-1] = (runs[-1][0] + text, weight)
        else:
            runs.append((text, weight))
    return runs


def escape(text: str) -> str:
    """The text that parses to exactly these words."""
    return show((Words(text),))


def joined(*prompts: Prompt) -> Prompt:
    """One prompt after the other, their words grown together as `parse` would leave them."""
    parts: list[Part] = []
    for part in (part for prompt in prompts for part in prompt):
        last = parts[-1] if parts else None
        if isinstance(last, Words) and isinstance(part, Words):
            parts[-1] = Words(last.text + part.text)
        elif part != Words(""):
            parts.append(part)
    return tuple(parts)


def trimmed(prompt: Prompt, characters: str | None = None) -> Prompt:
    """Without spaces (or `characters`) at its two ends."""
    parts = list(prompt)
    if parts and isinstance(parts[0], Words):
        parts[0] = Words(parts[0].text.lstrip(characters))
    if parts and isinstance(parts[-1], Words):
        parts[-1] = Words(parts[-1].text.rstrip(characters))
    return tuple(part for part in parts if part != Words(""))


def _tokens(text: str, without: Collection[Syntax]) -> Iterator[_Token]:
    end = 0
    for match in _TOKEN.finditer(text):
        if match.start() > end:
            yield _Token("words", text[end : match.start()])
        end, kind = match.end(), match.lastgroup
        if kind == "escaped":
            yield _Token("words", match["escaped"])
        elif kind == "wildcard" and "wildcards" not in without:
            yield _Token("wildcard", match["wildcard"])
        elif kind in ("lora", "lora_weight") and "loras" not in without:
            yield _Token("lora", match["lora"].strip(), round(float(match["lora_weight"] or 1), 4))
        elif kind == "bracket" and _OF_BRACKET[match.group()] not in without:
            yield _Token("bracket", match.group())
        elif kind == "comma":
            yield _Token("comma", ",")
        else:
            yield _Token("words", match.group())
    if end < len(text):
        yield _Token("words", text[end:])


def _pairs(tokens: list[_Token]) -> dict[int, int]:
    """Index of each opening bracket that is closed -> index of what closes it.  One pass, so no text is slow to read."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token.kind != "bracket":
            continue
        if token.text in _CLOSER:
            if len(opened) < MAX_DEPTH:
                opened.append(index)
            continue
        below = next((n for n in reversed(range(len(opened))) if _CLOSER[tokens[opened[n]].text] == token.text), None)
        if below is not None:
            pairs[opened[below]] = index
            del opened[below:]  # brackets opened since then, and not closed, are words
    return pairs


def _parts(tokens: list[_Token], pairs: dict[int, int], start: int, stop: int) -> Prompt:
    parts: list[Part] = []
    index = start
    while index < stop:
        token, closer = tokens[index], pairs.get(index)
        if closer is not None:
            parts.extend(_group(tokens, pairs, index, closer))
            index = closer + 1
            continue
        if token.kind == "wildcard":
            parts.append(Wildcard(token.text))
        elif token.kind == "lora":
            parts.append(LoraTag(token.text, token.weight))
        else:
            parts.append(Words(token.text))
        index += 1
    return joined(tuple(parts))


def _group(tokens: list[_Token], pairs: dict[int, int], opener: int, closer: int) -> Prompt:
    if tokens[opener].text == "[[":
        edges = [opener, *_commas(tokens, pairs, opener + 1, closer), closer]
        return (Array(tuple(trimmed(_parts(tokens, pairs, a + 1, b)) for a, b in pairwise(edges))),)
    inside, weight, last = list(_parts(tokens, pairs, opener + 1, closer)), USUAL_WEIGHT, tokens[closer - 1]
    # the number must be written as such: an escaped or bracketed one ends in another token
    found = _WEIGHT.search(last.text) if last.kind == "words" and closer - 1 > opener else None
    if found and float(found[1]) <= MAX_WEIGHT:
        weight, number = round(float(found[1]), 4), len(last.text) - found.start()
        assert isinstance(inside[-1], Words)
        inside[-1] = Words(inside[-1].text[:-number])
    parts = joined(tuple(inside))
    if not parts:  # "()" and "(:1.2)" weigh nothing
        return tuple(Words(token.text) for token in tokens[opener : closer + 1])
    return (Weighted(parts, weight),)


def _commas(tokens: list[_Token], pairs: dict[int, int], start: int, stop: int) -> Iterator[int]:
    """The commas between start and stop that are not inside an inner bracket."""
    index = start
    while index < stop:
        if tokens[index].kind == "comma":
            yield index
        index = pairs.get(index, index) + 1


def _show(part: Part, in_array: bool) -> str:
    match part:
        case Words(text):
            text = re.sub(r"[\\()\[\]]" + ("|," if in_array else ""), r"\\\g<0>", text)
            text = re.sub(r"_(?=_)|(?<=_)_", r"\\_", text)
            return re.sub(r"<(?=lora:)", r"\\<", text, flags=re.IGNORECASE)
        case Weighted(parts, weight):
            return f"({show(parts)}:{_number(weight)})"
        case Wildcard(name):
            return f"__{name}__"
        case Array(options):
            return f"[[{', '.join(''.join(_show(each, in_array=True) for each in option) for option in options)}]]"
        case LoraTag(name, weight):
            return f"<lora:{name}:{_number(weight)}>"


def _runs(prompt: Prompt, weight: float) -> Iterator[tuple[str, float]]:
    for part in prompt:
        match part:
            case Words(text):
                yield text, weight
            case Weighted(parts, own):
                yield from _runs(parts, round(weight * own, 4))
            case _:
                yield _show(part, in_array=False), weight


def _number(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")
