"""Captions for pictures that have none, kept outside the user's folder.

captions_of(pictures)             what a text condition learns: the pictures' own captions, else what is written here from classes
from_what_is_known(pictures)      sentences from class and folder names and CUB's attributes, long and short, the same every time
write_captions(source, ...)       a new table of captions, by the above or by a captioner, each row with who wrote it
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bowerbird import draws
from bowerbird.data.layouts.cub import Attribute, Part
from bowerbird.data.layouts.cub import find as find_cub
from bowerbird.data.layouts.lists import clean, distinct
from bowerbird.data.picture_set import Pictures
from bowerbird.data.pictures import open_pictures
from bowerbird.data.previews import decode_whole, stretched
from bowerbird.errors import PictureFolderError, RequestError
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.storage import Disk, disk_error, write_file

OWN, KNOWN = "own", "known"  # whose captions
WRITERS = {OWN: "the pictures' own files", KNOWN: "bowerbird, from classes, folders and attributes"}

_LISTED_PX = 64  # what most people train at, so that it is decoded already
_AT_ONCE = 16  # pictures a captioner gets at a time

Captioner = Callable[[NDArray[np.uint8]], list[str]]  # (n, size, size, 3) pixels 0..255 -> n captions


@dataclass(frozen=True)
class Captions:
    """The captions of n pictures: any number each, () for a picture of which nothing is said; `written_by`: OWN or KNOWN."""

    texts: tuple[tuple[str, ...], ...]
    written_by: str

    def drawn(self, seed: int, chosen: NDArray[np.int64], samples: NDArray[np.int64]) -> list[str]:
        """One caption of each chosen picture, as samples number `samples` of a run show it: a function of the number; '' for none."""
        luck = draws.uniform(seed, "caption", samples)
        several = [self.texts[picture] for picture in chosen]
        return [texts[int(u * len(texts))] if texts else "" for texts, u in zip(several, luck, strict=True)]

    def first(self, chosen: NDArray[np.int64]) -> list[str]:
        """The first caption of each chosen picture; '' for none."""
        return [self.texts[picture][0] if self.texts[picture] else "" for picture in chosen]


def captions_of(pictures: Pictures) -> Captions:
    """The captions a model can learn from: those that came with the pictures, else such as follow from their classes.

    PictureFolderError when there are neither.
    """
    if any(pictures.captions):
        return Captions(pictures.captions, OWN)
    texts = from_what_is_known(pictures)
    if not any(texts):
        raise PictureFolderError(
            f"{str(pictures.report['source'])!r} has neither captions nor class folders, so there are no words to learn. "
            "Write captions with `bowerbird caption`, or train without condition.text."
        )
    return Captions(texts, KNOWN)


# ------------------------------------------------------------------------------------------------ what is known


def from_what_is_known(pictures: Pictures) -> tuple[tuple[str, ...], ...]:
    """For each picture a name, a short and (where more is known) some longer sentences; () where not even a class is known.

    Which details a long one tells is drawn by the picture's content, so the same picture gets the same sentences everywhere.
    """
    known = _attributes_known(pictures)
    texts = []
    for path, label, one in zip(pictures.paths, pictures.labels, pictures.examined, strict=True):
        name = _in_words(pictures.label_names[label]) if label >= 0 else ""
        subject = _nearest_folder(path, name) or name
        kind = "photo" if one.format == "JPEG" else "picture"
        chance = draws.generator(0, "details of a caption", int(one.sha256[:15], 16))
        texts.append(_sentences(subject, name if name != subject else "", kind, known.get(path), chance) if name else ())
    return tuple(texts)


def sentence_of(label: str) -> str:
    """'a picture of an owl', for the class 'Owl'."""
    name = _in_words(label)
    return f"a picture of {_with_article(name)}" if name else ""


_LONGER = (2, 3, 5)  # details in the long sentences of a picture


def _sentences(subject: str, category: str, kind: str, bird: _Bird | None, chance: np.random.Generator) -> tuple[str, ...]:
    noun = _with_article(subject)
    sentences = [noun, f"a {kind} of {noun}"]
    if category:
        sentences.append(f"a {kind} of {noun}, {category}")
    if bird:
        for count in _LONGER[: len(bird.details)]:
            chosen = sorted(chance.choice(len(bird.details), min(count, len(bird.details)), replace=False))
            sentences.append(f"a {kind} of {noun}, {bird.as_a_whole} with {_listed([bird.details[i] for i in chosen])}")
    return distinct(sentences)


def _nearest_folder(path: str, name: str) -> str:
    """The folder a picture lies in, in words, when it lies below the one that is its class; '' otherwise."""
    folders = [_in_words(folder) for folder in path.split("/")[:-1]]
    return folders[-1] if name in folders[:-1] and re.search("[a-z]", folders[-1]) else ""


def _in_words(label: str) -> str:
    """'014.Indigo_Bunting' and 'IndigoBunting' are 'indigo bunting'."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"^\d+[._\- ]+(?=\D)", "", label))
    return clean(re.sub(r"[_\-]+", " ", spaced)).lower()


def _with_article(noun: str) -> str:
    """'an owl', 'a unicorn', 'owls', 'class 7': an article for what can be counted and is one, as far as spelling tells."""
    last = noun.rpartition(" ")[2]
    if not noun[0].isalpha() or last.isdigit() or (last.endswith("s") and not last.endswith(("ss", "us", "is"))):
        return noun
    vowel = re.match(r"(?!eu|uni|use|usu|one\b|ouija)[aeiou]|hour|honest|heir", noun)
    return f"{'an' if vowel else 'a'} {noun}"


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]


# ------------------------------------------------------------------------------------------------ CUB's attributes in words


@dataclass(frozen=True)
class _Bird:
    """as_a_whole: 'a small blue perching bird'; details: 'a blue crown', 'a cone-shaped bill', in the order of the list."""

    as_a_whole: str
    details: tuple[str, ...]


_SURE = 3  # "probably": what was only guessed is not said
_COLOURS = {  # attribute: the part, whether it is one, and CUB's parts of which one must be visible
    "forehead": ("forehead", True, ("forehead",)),
    "crown": ("crown", True, ("crown",)),
    "nape": ("nape", True, ("nape",)),
    "throat": ("throat", True, ("throat",)),
    "breast": ("breast", True, ("breast",)),
    "belly": ("belly", True, ("belly",)),
    "back": ("back", True, ("back",)),
    "upperparts": ("upperparts", False, ("back", "crown", "nape")),
    "underparts": ("underparts", False, ("belly", "breast")),
    "wing": ("wings", False, ("left wing", "right wing")),
    "upper_tail": ("tail", True, ("tail",)),
    "leg": ("legs", False, ("left leg", "right leg")),
    "eye": ("eyes", False, ("left eye", "right eye")),
}
_PATTERNED = {"breast": "breast", "back": "back", "tail": "tail", "belly": "belly", "wing": "wings"}
_PATTERNS = ("spotted", "striped", "multi-colored")
_HEADS = {
    **{pattern: f"a {pattern} head" for pattern in ("spotted", "crested", "masked", "striped", "capped")},
    "malar": "a malar stripe",
    "eyebrow": "a stripe above its eye",
    "eyeline": "a line through its eye",
    "eyering": "a ring around its eye",
}
_BILLS = {"dagger": "dagger-shaped", "needle": "needle-shaped", "cone": "cone-shaped", "curved": "curved", "hooked": "hooked"} | {
    "hooked seabird": "hooked",
    "spatulate": "spatulate",
}
_BILL_LENGTHS = {"shorter than head": "short", "longer than head": "long"}
_SHAPES = {
    "upright-perching water-like": "upright water bird",
    "chicken-like-marsh": "chicken-like marsh bird",
    "long-legged-like": "long-legged bird",
    "tree-clinging-like": "tree-clinging bird",
    "upland-ground-like": "upland ground bird",
    "perching-like": "perching bird",
}


def _attributes_known(pictures: Pictures) -> dict[str, _Bird]:
    """What CUB's lists tell of each picture, in words; {} where the pictures are not CUB or the lists are missing."""
    cub = find_cub(pictures.seen)
    if cub is None:
        return {}
    parts = cub.parts(pictures.root, pictures.seen)
    attributes = cub.attributes(pictures.root, pictures.seen)
    return {path: _bird(seen, parts.get(path, {})) for path, seen in attributes.items()}


def _bird(attributes: Iterable[Attribute], parts: Mapping[str, Part]) -> _Bird:
    seen: dict[str, list[str]] = defaultdict(list)  # 'crown color': ['blue']
    for one in attributes:
        if one.certainty >= _SURE:
            kind = one.kind.removeprefix("has_")
            seen[kind].append(clean(re.sub(r"\(.*\)", "", one.value).replace("_", " ")))
    details = [
        _coloured(colours, *_COLOURS[part][:2]) for part in _COLOURS if (colours := _few(seen[f"{part}_color"])) if _shows(part, parts)
    ]
    for part, words in _PATTERNED.items():
        patterns = [pattern for pattern in seen[f"{part}_pattern"] if pattern in _PATTERNS]
        details += [f"{pattern} {words}" if part == "wing" else f"a {pattern} {words}" for pattern in patterns if _shows(part, parts)]
    details += [_HEADS[pattern] for pattern in seen["head_pattern"] if pattern in _HEADS]
    details += [_with_article(tail) for tail in seen["tail_shape"][:1] if _shows("tail", parts)]
    details += [bill for bill in [_bill(seen)] if bill and _shows("beak", parts)]
    shape = next((_SHAPES.get(shape, f"{shape} bird") for shape in seen["shape"]), "bird")
    whole = [*seen["size"][:1], *_few(seen["primary_color"])[:1], shape]
    return _Bird(_with_article(" ".join(whole)), distinct(details))


def _few(colours: list[str]) -> list[str]:
    """One colour or two; of more none is the colour."""
    return colours if len(colours) <= 2 else []


def _coloured(colours: Sequence[str], part: str, single: bool) -> str:
    words = f"{' and '.join(colours)} {part}"
    return _with_article(words) if single else words


def _bill(seen: Mapping[str, list[str]]) -> str:
    lengths = [_BILL_LENGTHS[length] for length in seen.get("bill_length", []) if length in _BILL_LENGTHS]
    shapes = [_BILLS[shape] for shape in seen.get("bill_shape", []) if shape in _BILLS]
    colours = _few(seen.get("bill_color", []))
    words = [*lengths[:1], *shapes[:1], " and ".join(colours)]
    return _with_article(" ".join([*filter(None, words), "bill"])) if any(words) else ""


def _shows(part: str, parts: Mapping[str, Part]) -> bool:
    """Whether a part of the bird is to be seen, by CUB's part locations; yes where they do not tell."""
    places = [parts[name] for name in (_COLOURS[part][2] if part in _COLOURS else (part,)) if name in parts]
    return not places or any(place.visible for place in places)


# ------------------------------------------------------------------------------------------------ a table of captions


@dataclass(frozen=True)
class Written:
    """What `write_captions` did."""

    file: Path
    pictures: int
    captions: int
    without: int  # pictures of which nothing could be said
    by: str


def write_captions(
    source: Path,
    out: Path,
    captioner: Captioner | None = None,
    by: str = WRITERS[KNOWN],
    size: int = 64,
    on_progress: OnProgress | None = None,
) -> Written:
    """Write a .csv or .jsonl with file_name, text and written_by for each picture of `source` as the new file `out`.

    Without a `captioner` the sentences are those of `from_what_is_known`; with one, it sees each picture whole, `size` pixels a side.
    RequestError when `out` is there already: nothing of the user's is overwritten.
    """
    if out.suffix.lower() not in (".csv", ".jsonl"):
        raise RequestError(f"captions are written as .csv or .jsonl, not as {out.name!r}. Name another --out.")
    if out.exists():
        raise RequestError(f"{str(out)!r} is there already, and nothing is overwritten. Name another --out.")
    pictures = open_pictures(source, _LISTED_PX, on_progress=on_progress)
    if captioner is None:
        texts = from_what_is_known(pictures)
        if not any(texts):
            raise PictureFolderError(
                f"nothing is known of the pictures in {str(source)!r}: they lie in no class folders. "
                "Sort them into folders named after what they show, or let a captioner look: --with."
            )
    else:
        texts = _looked_at(pictures, captioner, size, on_progress)
    rows = [(path, text) for path, several in zip(pictures.paths, texts, strict=True) for text in several]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) from error
    write_file(Disk(), out, _table(rows, by, out.suffix.lower()))
    return Written(out, len(texts), len(rows), sum(not several for several in texts), by)


def _looked_at(pictures: Pictures, captioner: Captioner, size: int, on_progress: OnProgress | None) -> tuple[tuple[str, ...], ...]:
    """What the captioner says of each picture, () where it went meanwhile.  It sees them stretched over a square, as it was taught to."""
    texts: list[tuple[str, ...]] = []
    for start in range(0, len(pictures.paths), _AT_ONCE):
        rows = range(start, min(start + _AT_ONCE, len(pictures.paths)))
        whole = decode_whole(pictures, [pictures.paths[row] for row in rows], 2 * size)
        shown = {path: stretched(pixels, found, size) for path, (pixels, found) in sorted(whole.items())}
        said = captioner(np.stack([*shown.values()])) if shown else []
        by_path = dict(zip(shown, said, strict=True))
        texts += [distinct([clean(by_path.get(pictures.paths[row], ""))]) for row in rows]
        tell(on_progress, Progress("caption", len(texts), len(pictures.paths)))
    return tuple(texts)


def _table(rows: Iterable[tuple[str, str]], by: str, suffix: str) -> bytes:
    """file_name, text, written_by; a name that is no text keeps its bytes."""
    text = io.StringIO()
    if suffix == ".csv":
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("file_name", "text", "written_by"))
        writer.writerows((name, caption, by) for name, caption in rows)
    else:
        for name, caption in rows:
            text.write(json.dumps({"file_name": name, "text": caption, "written_by": by}, ensure_ascii=False) + "\n")
    return text.getvalue().encode("utf-8", "surrogateescape")
