"""CLIP's text side: tokenizers, whose usual vocabulary ships with us, and the layouts in which its weights are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from bowerbird.errors import MissingExtraError, ModelError
from bowerbird.pretrained.configs import first_line, read_config
from bowerbird.reading import read_bytes

_MERGES = Path(__file__).parent / "families" / "clip" / "merges.txt"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_MARKS = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
_MAX_VOCABULARY_BYTES = 16 * 2**20
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
MAX_TOKENS = 77


@dataclass(frozen=True)
class Words:
    """A vocabulary: numbers of word pieces, the merges they follow from, and words added whole, in the order of their numbers."""

    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    added: list[dict[str, Any]]  # `content`, and how it is looked for in a text


def clip_tokenizer(folder: Path, words_read: int) -> Any:
    """The tokenizer in `folder`, of which JSON and text are read; CLIP's own where it brings no vocabulary.

    `words_read` is how many words its text encoder has.  ModelError when the two do not fit.
    """
    words = _read_words(folder) or Words(*clip_vocabulary(), [])
    marks = _marks(folder)
    numbers = dict(words.vocabulary)
    for entry in words.added:
        numbers.setdefault(entry["content"], len(numbers))
    for name, mark in marks.items():
        if mark not in numbers or (mark not in (_START, _END, "!") and mark not in (entry["content"] for entry in words.added)):
            raise ModelError(f"the tokenizer in {str(folder)!r} lacks its {name}, {mark[:40]!r}. Use another copy.")
    highest = max(numbers.values())
    if highest >= words_read:
        raise ModelError(
            f"the tokenizer in {str(folder)!r} knows words up to number {highest}, and its text encoder reads {words_read} words. "
            "They are not of one model; use another copy."
        )
    if words == Words(*clip_vocabulary(), []):
        return _clip_tokenizer(*marks.values())
    return _tokenizer(words, marks, folder)


@cache
def _clip_tokenizer(bos: str, eos: str, unk: str, pad: str) -> Any:
    return _tokenizer(Words(*clip_vocabulary(), []), dict(zip(_MARKS, (bos, eos, unk, pad), strict=True)), _MERGES.parent)


def _tokenizer(words: Words, marks: Mapping[str, str], folder: Path) -> Any:
    try:
        from tokenizers import AddedToken
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise MissingExtraError("transformers", "pretrained") from error
    try:
        tokenizer = CLIPTokenizer(vocab=words.vocabulary, merges=words.merges, model_max_length=MAX_TOKENS, **marks)
    except Exception as error:  # the library has one kind for all: merges of pieces that are not in the vocabulary
        raise ModelError(f"the vocabulary in {str(folder)!r} does not fit together: {first_line(error)}. Use another copy.") from error
    tokenizer.add_tokens([AddedToken(**entry) for entry in words.added])
    return tokenizer


def _read_words(folder: Path) -> Words | None:
    """The vocabulary in tokenizer.json, or in vocab.json and merges.txt; None without either."""
    whole, vocabulary, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if whole.exists():
        document = read_config(whole, _MAX_VOCABULARY_BYTES)
        model = document.get("model")
        if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
            raise ModelError(f"{str(whole)!r} holds no vocabulary of CLIP's kind (BPE). Use another copy.")
        return _checked_words(model.get("vocab"), model.get("merges"), document.get("added_tokens") or [], whole)
    if not vocabulary.exists():
        return None
    try:
        lines = read_bytes(merges, _MAX_VOCABULARY_BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(merges)!r}, which belongs to vocab.json, cannot be read. Download the folder again.") from error
    added_beside = folder / "added_tokens.json"
    added = [{"content": word, "id": number} for word, number in read_config(added_beside).items()] if added_beside.exists() else []
    said = _config_of(folder).get("added_tokens_decoder")
    if isinstance(said, dict):
        added += [{**entry, "id": int(number)} for number, entry in said.items() if isinstance(entry, dict) and number.isdecimal()]
    pairs = lines[1:] if lines and lines[0].startswith("#version") else lines
    return _checked_words(read_config(vocabulary, _MAX_VOCABULARY_BYTES), [pair for pair in pairs if pair], added, vocabulary)


def _checked_words(vocabulary: Any, merges: Any, added: Any, path: Path) -> Words:
    """Words as what they must be: pieces numbered from 0 on without a gap, pairs of pieces, and further words numbered on."""
    if not isinstance(vocabulary, dict) or sorted(map(str, vocabulary.values())) != sorted(map(str, range(len(vocabulary)))):
        raise ModelError(f"{str(path)!r} does not number its words from 0 on. Use another copy.")
    pairs: list[Any] = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges or [] if isinstance(pair, str | list)]
    if any(len(pair) != 2 or not all(isinstance(piece, str) for piece in pair) for pair in pairs) or len(pairs) != len(merges or []):
        raise ModelError(f"the merges of {str(path)!r} are not all pairs of word pieces. Use another copy.")
    further: dict[int, dict[str, Any]] = {}
    for entry in added if isinstance(added, list) else [None]:
        fields = entry if isinstance(entry, dict) else {}
        word, number = fields.get("content"), fields.get("id")
        if not isinstance(word, str) or not word or type(number) is not int:
            raise ModelError(f"{str(path)!r} or a file beside it adds a word without its number. Use another copy.")
        if vocabulary.get(word, number) != number:
            raise ModelError(f"{str(path)!r} or a file beside it gives {word[:40]!r} two numbers. Use another copy.")
        if word not in (_START, _END):
            further[number] = {"content": word, **{flag: bool(fields[flag]) for flag in _FLAGS if flag in fields}}
    numbers, words = sorted(further), {entry["content"] for entry in further.values()}
    new = [number for number in numbers if number >= len(vocabulary)]
    if numbers and (numbers[0] < 0 or new != list(range(len(vocabulary), len(vocabulary) + len(new))) or len(words) != len(further)):
        raise ModelError(f"{str(path)!r} or a file beside it adds words with numbers that do not follow its own. Use another copy.")
    return Words(vocabulary, pairs, [further[number] for number in numbers])


@cache
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Word pieces with their numbers, and the merges they follow from: single bytes, bytes at a word's end, merges, two marks."""
    lines = _MERGES.read_text(encoding="utf-8").split("\n")[1:-1]
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    bytes_ = _byte_letters()
    pieces = [*bytes_, *(f"{letter}</w>" for letter in bytes_), *(left + right for left, right in merges), _START, _END]
    return {piece: number for number, piece in enumerate(pieces)}, merges


def _byte_letters() -> list[str]:
    """A visible letter for each of the 256 bytes: itself if it prints, else one from U+0100 on (GPT-2's byte-level alphabet)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, visible), *(chr(0x100 + i) for i in range(256 - len(visible)))]


def _marks(folder: Path) -> dict[str, str]:
    """The words that stand for start, end, the unknown and padding; the last differs between the members of the family."""
    said = _config_of(folder)
    words: dict[str, str] = {}
    for name, usual in _MARKS.items():
        word = said.get(name) or usual
        words[name] = str(word.get("content")) if isinstance(word, dict) else str(word)
    return words


def _config_of(folder: Path) -> dict[str, Any]:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            return read_config(folder / name)
    return {}


def from_transformers(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A text encoder in transformers' names, under `prefix`; with or without `text_model.`, which came and went with versions."""
    return {name.removeprefix(prefix).removeprefix("text_model."): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def from_open_clip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A text encoder in OpenCLIP's names, under `prefix`, renamed to transformers'; query, key and value come as one matrix there."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            continue
        name = name.removeprefix(prefix)
        if name == "text_projection":
            renamed["text_projection.weight"] = tensor.T.contiguous()  # OpenCLIP multiplies from the right
        elif name in _OPEN_CLIP:
            renamed[_OPEN_CLIP[name]] = tensor
        elif name.startswith("transformer.resblocks."):
            _, _, layer, rest = name.split(".", 3)
            stem = f"encoder.layers.{layer}"
            if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
                for projection, rows in zip(("q", "k", "v"), tensor.chunk(3), strict=True):
                    renamed[f"{stem}.self_attn.{projection}_proj.{rest.rpartition('_')[2]}"] = rows.contiguous()
            else:
                part, _, kind = rest.rpartition(".")
                renamed[f"{stem}.{_OPEN_CLIP_LAYER.get(part, part)}.{kind}"] = tensor
    return renamed


_OPEN_CLIP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
