"""The one place where what is asked becomes what is painted, the same on every face.

    finish(request)     requests whose prompt is final: the words as the model reads them, weights included
    lock(request)       its prompt is final as it stands
    in_words(final)     a final prompt for people, with the tags of its LoRAs, so that it can be edited and locked
    changed(fields, …)  an earlier request with changes; other words unlock its prompt

A finished request says in `asked` what it was made from, and is left as it is: finishing again, on whatever face, changes
nothing, so a final prompt can be edited and painted, and a picture's recorded request paints that picture again.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, product
from math import prod
from pathlib import Path
from typing import Any

from bowerbird.errors import RequestError
from bowerbird.progress import OnProgress, note
from bowerbird.prompts.expander import by_language_model, by_words, draw
from bowerbird.prompts.language import Array, LoraTag, Prompt, Weighted, Wildcard, Words, joined, parse, plain, show, trimmed
from bowerbird.prompts.library import Style, loras, named, presets, styles, wildcard_lines
from bowerbird.prompts.vocabulary import Vocabulary
from bowerbird.request import MAX_COUNT, Asked, Lora, PaintRequest, read_request

RANDOM = "random"  # a style drawn by the picture's seed
MAX_NESTED = 16  # wildcards in wildcards
MAX_WORDS = 2_000  # wildcards drawn for one picture
ANNOUNCED = 20
ASKING = tuple(Asked.model_fields)
_SPENT: dict[str, Any] = {"styles": [], "expand": "off", "preset": None, "literal": []}  # once the words are final


def finish(request: PaintRequest, vocabulary: Vocabulary | None = None, on_progress: OnProgress | None = None) -> list[PaintRequest]:
    """The requests to paint: one for each value of the arrays and each stretch of pictures that share their words.

    Wildcards, random styles and the expander draw from each picture's own seed.  `vocabulary` has the model's own phrases;
    `on_progress` hears of a language model that is waited for, and may stop that.
    RequestError is one sentence that names what there is not, and the nearest there is.
    """
    if request.asked is not None:
        return [request]
    preset = with_preset(request)
    asked = preset if preset.seed is not None else preset.model_copy(update={"seed": secrets.randbelow(2**32)})
    maker = _Maker(asked, vocabulary, on_progress)
    finished = [made for choice in choices(parse(asked.prompt, asked.literal), asked.count) for made in _stretches(maker, choice)]
    if len(finished) == 1 and _same(finished[0], request):
        return [request]
    origin = Asked(**{name: getattr(request, name) for name in ASKING})
    return [read_request({**one, "asked": origin}) for one in finished]


def announced(request: PaintRequest, vocabulary: Vocabulary | None, on_progress: OnProgress | None) -> Iterator[PaintRequest]:
    """As `finish`, for a painter: each final prompt that is not what was typed is said first, up to twenty of them."""
    for number, final in enumerate(finish(request, vocabulary, on_progress)):
        if on_progress is not None and final.asked is not None and number < ANNOUNCED:
            avoid = f"; avoiding: {final.negative}" if final.negative else ""
            note(on_progress, f"final prompt: {in_words(final)}{avoid}")
        yield final


def in_words(final: PaintRequest) -> str:
    """The final prompt and the LoRAs that were tags in what was typed, as tags again: locked, these words mean the same request."""
    added = final.loras[len(final.asked.loras) :] if final.asked is not None else []
    names = {file: name for name, file in loras().items()} if added else {}
    tags = (show((LoraTag(names[lora.file], lora.weight),)) for lora in added if lora.file in names)
    return " ".join(filter(None, (final.prompt, *tags)))


def lock(request: PaintRequest) -> PaintRequest:
    """The request with its prompt and negative final: they are read as they stand, but for LoRA tags, which become `loras`.

    A preset still sets what is left open, but adds no words.  RequestError where words are asked for that a final prompt cannot take.
    """
    if is_locked(request):
        return request
    for name in ("styles", "expand"):
        if getattr(request, name) != _SPENT[name]:
            raise RequestError(f"a locked prompt is read as it stands, so it takes no {name}. Leave that out, or do not lock the prompt.")
    given = with_preset(request)
    prompt, tags = _without_tags(parse(request.prompt, request.literal))
    words = {"prompt": show(prompt) if tags else request.prompt, "negative": request.negative}
    every = [*given.loras, *_files_of(tags, loras() if tags else {})]
    return given.model_copy(update={**_SPENT, **words, "loras": every, "asked": Asked(**words, loras=every)})


def is_locked(request: PaintRequest) -> bool:
    """Whether its words were final when they were asked for."""
    return request.asked == Asked(prompt=request.prompt, negative=request.negative, loras=request.loras)


def with_preset(request: PaintRequest) -> PaintRequest:
    """The request with its preset's fields where it has none of its own."""
    if request.preset is None:
        return request
    own = request.model_dump(exclude_defaults=True)
    fields = named(request.preset, presets(), "preset").fields
    for name in {"model", "preset", "asked"} & fields.keys():
        raise RequestError(f"the preset {request.preset!r} sets {name!r}, which a preset cannot.")
    return read_request({**fields, **own})


def changed(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an earlier request with changes.  Whoever asks for other words, styles or expansion asks anew."""
    before = dict(fields)
    asked = before.get("asked")
    if asked is not None and set(ASKING) & set(changes):
        before |= {**(asked.model_dump() if isinstance(asked, Asked) else asked), "asked": None}
    return before | dict(changes)


def choices(prompt: Prompt, count: int = 1) -> list[Prompt]:
    """The prompt once for each combination of its arrays' values, the last array changing fastest."""
    total = _combinations(prompt)
    if total * count > MAX_COUNT:
        raise RequestError(f"the arrays of this prompt ask for {total:,} x {count:,} pictures; {MAX_COUNT:,} are possible at once.")
    return list(_chosen(prompt)) if total > 1 or _has(prompt, Array) else [prompt]


def _combinations(prompt: Prompt) -> int:
    return prod(_values(part) for part in prompt)


def _values(part: object) -> int:
    match part:
        case Array(options):
            return sum(_combinations(option) for option in options)
        case Weighted(parts, _):
            return _combinations(parts)
    return 1


def _chosen(prompt: Prompt) -> Iterator[Prompt]:
    def of(part: Any) -> Iterator[Prompt]:
        match part:
            case Array(options):
                for option in options:
                    yield from _chosen(option)
            case Weighted(parts, weight):
                for each in _chosen(parts):
                    yield (Weighted(each, weight),) if each else ()
            case _:
                yield (part,)

    for parts in product(*(list(of(part)) for part in prompt)):
        yield joined(*parts)


def _has(prompt: Prompt, kind: type) -> bool:
    inside = (part.parts for part in prompt if isinstance(part, Weighted))
    return any(isinstance(part, kind) for part in prompt) or any(_has(parts, kind) for parts in inside)


def _stretches(maker: _Maker, choice: Prompt) -> list[dict[str, Any]]:
    """One request for each run of pictures that read the same."""
    request = maker.request
    assert request.seed is not None
    made = ((request.seed + i, maker.make(choice, request.seed + i)) for i in range(request.count))
    requests = []
    for words, run in groupby(made, key=lambda pair: pair[1]):
        seeds = [seed for seed, _ in run]
        fields = {name: getattr(request, name) for name in PaintRequest.model_fields}
        final = {"prompt": words.prompt, "negative": words.negative, "loras": [*request.loras, *words.loras]}
        requests.append({**fields, **_SPENT, **final, "seed": seeds[0], "count": len(seeds)})
    return requests


def _same(fields: Mapping[str, Any], request: PaintRequest) -> bool:
    """Whether finishing changed nothing but drew a seed."""
    return all(fields[name] == getattr(request, name) for name in PaintRequest.model_fields if name != "seed")


@dataclass(frozen=True)
class _Final:
    prompt: str
    negative: str
    loras: tuple[Lora, ...]


@dataclass
class _Draws:
    """What one picture draws: a pure function of its seed and of what was drawn before under the same name."""

    seed: int
    drawn: dict[str, int] = field(default_factory=dict)

    def choose(self, what: str, among: list[str]) -> str:
        nth = self.drawn[what] = self.drawn.get(what, -1) + 1
        if sum(self.drawn.values()) + len(self.drawn) > MAX_WORDS:
            raise RequestError(
                f"the wildcards of this prompt draw more than {MAX_WORDS:,} times. Let the lists name each other less often."
            )
        return among[draw(f"{self.seed}/{what}/{nth}", len(among))]


class _Maker:
    """Final words for one picture after another; what all of them share is read once."""

    def __init__(self, request: PaintRequest, vocabulary: Vocabulary | None, on_progress: OnProgress | None) -> None:
        self.request = request
        self.vocabulary = vocabulary
        self.on_progress = on_progress
        self.negative = parse(request.negative, request.literal)
        for kind, what in ((Array, "an array"), (LoraTag, "a LoRA")):
            if _has(self.negative, kind):
                raise RequestError(f"{what} stands in the negative prompt; it belongs in the prompt.")
        self.styles = styles() if request.styles else {}
        for name in request.styles:
            named(name, {**self.styles, RANDOM: None}, "style")
        self.loras = loras() if "loras" not in request.literal else {}
        self.lines: dict[str, list[str]] = {}
        self.answers: dict[str, str] = {}  # of the language model

    def make(self, choice: Prompt, seed: int) -> _Final:
        draws = _Draws(seed)
        chosen_styles = [self._style(name, draws) for name in self.request.styles]
        words, tags = _without_tags(self._resolve(choice, draws))
        words = _then(words, Words(self._expansion(plain(words), seed)))
        avoid = self._words(self.negative, draws)
        for style in chosen_styles:
            before, after = self._around(style, words)
            words = trimmed(joined(self._words(before, draws), words, self._words(after, draws)))
            avoid = _then(avoid, *self._words(parse(style.negative), draws))
        return _Final(show(words), show(avoid), tuple(_files_of(tags, self.loras)))

    def _style(self, name: str, draws: _Draws) -> Style:
        return self.styles[draws.choose("style", sorted(self.styles)) if name == RANDOM else name]

    def _around(self, style: Style, words: Prompt) -> tuple[Prompt, Prompt]:
        template = style.prompt if "{prompt}" in style.prompt else f"{{prompt}}, {style.prompt}"
        if not words:  # "oil painting of {prompt}, ..." of nothing in particular is an oil painting
            template = re.sub(r"\s+of\s+\{prompt\}|^\{prompt\},?\s*|\s*\{prompt\}", "", template)
        before, _, after = template.partition("{prompt}")
        return parse(before), parse(after)

    def _expansion(self, text: str, seed: int) -> str:
        if self.request.expand == "off" or not text.strip():
            return ""
        if self.request.expand == "words":
            return by_words(text, seed, self.vocabulary)
        assert self.request.seed is not None
        if text not in self.answers:
            self.answers[text] = by_language_model(text, self.request.seed, self.on_progress)
        return self.answers[text]

    def _words(self, prompt: Prompt, draws: _Draws) -> Prompt:
        """Words and weights alone, of what can bring no LoRA along."""
        return _without_tags(self._resolve(prompt, draws))[0]

    def _resolve(self, prompt: Prompt, draws: _Draws, depth: int = 0) -> Prompt:
        """With each wildcard's line in its place."""
        parts: list[Prompt] = []
        for part in prompt:
            match part:
                case Weighted(inside, weight):
                    inner = self._resolve(inside, draws, depth)
                    parts.append((Weighted(inner, weight),) if inner else ())
                case Wildcard(name):
                    parts.append(self._resolve(self._drawn(name, draws, depth), draws, depth + 1))
                case Array():
                    raise AssertionError("arrays are chosen before")
                case _:
                    parts.append((part,))
        return joined(*parts)

    def _drawn(self, name: str, draws: _Draws, depth: int) -> Prompt:
        if depth >= MAX_NESTED:
            raise RequestError(f"the wildcard {name!r} leads back to itself, or lies in more than {MAX_NESTED} others.")
        if name not in self.lines:
            self.lines[name] = wildcard_lines(name)
        return parse(draws.choose(f"wildcard/{name.lower()}", self.lines[name]), {*self.request.literal, "arrays"})


def _without_tags(prompt: Prompt) -> tuple[Prompt, list[LoraTag]]:
    """The prompt without its LoRA tags, and the tags."""
    parts: list[Prompt] = []
    tags: list[LoraTag] = []
    for part in prompt:
        match part:
            case LoraTag():
                tags.append(part)
            case Weighted(inside, weight):
                inner, more = _without_tags(inside)
                parts.append((Weighted(inner, weight),) if inner else ())
                tags += more
            case Array(options):
                inners = [_without_tags(option) for option in options]
                parts.append((Array(tuple(inner for inner, _ in inners)),))
                tags += [tag for _, more in inners for tag in more]
            case _:
                parts.append((part,))
    words = joined(*parts)
    return (trimmed(tuple(_single_spaced(part) for part in words)) if tags else words), tags


def _files_of(tags: list[LoraTag], known: Mapping[str, Path]) -> Iterator[Lora]:
    for tag in tags:
        file = named(tag.name.removesuffix(".safetensors"), known, "lora")
        if abs(tag.weight) > 4:
            raise RequestError(f"the LoRA {tag.name!r} is to act with weight {tag.weight:g}; -4 to 4 are possible.")
        yield Lora(file=file, weight=tag.weight)


def _then(words: Prompt, *more: Any) -> Prompt:
    """The words, a comma, and more; what is empty leaves no comma."""
    added = joined(tuple(more))
    if not added or not words:
        return words or added
    return joined(trimmed(words, " ,"), (Words(", "),), added)


def _single_spaced(part: Any) -> Any:
    return Words(re.sub(r" {2,}", " ", part.text)) if isinstance(part, Words) else part
