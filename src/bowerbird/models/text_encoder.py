"""Words -> numbers: a table of what a sentence encoder makes of each token, and a small transformer over them that is trained.

    "a red bird"  ->  token numbers (32,)  ->  table (32, 128), frozen  ->  start + tokens through one layer  ->  summary (width,)
                                                                                                            ->  tokens (32, width)

The table knows words that no caption of the pictures used: near words have near vectors (scripts/distil_words.py made it from
MiniLM, Apache-2.0).  Only torch, safetensors and tokenizers are needed to read a prompt.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bowerbird import weights

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

WEIGHTS = Path(__file__).parent / "weights"
TABLE, VOCABULARY = WEIGHTS / "words.safetensors", WEIGHTS / "words.txt"
WORDS = 128  # numbers a token
LONGEST = 32  # tokens of a prompt that are read; captions of the project's pictures have 20 at the median, 30 at most but for 1 %
PADDING = 0  # [PAD]: no token there
UNKNOWN = 100  # [UNK]: characters that the vocabulary has not
_MOST_CHARACTERS = 2_000  # of a prompt that are looked at: LONGEST tokens are long past
_STEP = 8  # lengths are multiples of it, so that few shapes occur
HEADS = 3


@cache
def tokenizer() -> Tokenizer:
    """BERT's: lower case, accents and control characters off, Chinese characters one by one, then WordPiece."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(VOCABULARY.read_text(encoding="utf-8").split("\n")[:-1])}
    reader = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    reader.normalizer = normalizers.BertNormalizer()
    reader.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return reader


def tokens(text: str) -> list[int]:
    """Token numbers of the start of a text, LONGEST at most.  Any text has some or none: nothing in it is an error."""
    return [int(token) for token in _encoded(text).ids[:LONGEST]]


def words(text: str) -> list[tuple[str, list[int]]]:
    """The words of a text as they are read, each with its tokens; what lies beyond LONGEST tokens is not read."""
    encoded = _encoded(text)
    found: dict[int | None, tuple[int, int, list[int]]] = {}
    for word, (start, stop), token in list(zip(encoded.word_ids, encoded.offsets, encoded.ids, strict=True))[:LONGEST]:
        first, _, its = found.get(word, (start, stop, []))
        found[word] = (first, stop, [*its, token])
    return [(text[start:stop], its) for start, stop, its in found.values()]


def _encoded(text: str) -> Encoding:
    """The start of a text; half of a surrogate pair, which a broken client may send, becomes a question mark."""
    return tokenizer().encode(text[:_MOST_CHARACTERS].encode("utf-8", "replace").decode(), add_special_tokens=False)


def padded(texts: list[list[int]], length: int | None = None) -> Tensor:
    """Token numbers (N, L) int64, PADDING after the last; L is `length`, or the longest rounded up to a few shapes."""
    if length is None:
        length = min(LONGEST, _STEP * max(1, -(-max(map(len, texts), default=0) // _STEP)))
    table = torch.full((len(texts), length), PADDING, dtype=torch.int64)
    for row, its in zip(table, texts, strict=True):
        row[: len(its)] = torch.tensor(its[:length], dtype=torch.int64)
    return table


@cache
def _table() -> tuple[Tensor, Tensor]:
    tensors = weights.load(TABLE)
    return tensors["table"], tensors["step"]


def vectors(numbers: Tensor) -> Tensor:
    """What the table says of token numbers (...), (..., WORDS) float32."""
    table, step = _table()
    return table[numbers].float() * step


@cache
def fingerprint() -> str:
    """Of table and vocabulary: a model reads with those it learnt with."""
    return hashlib.sha256(TABLE.read_bytes() + VOCABULARY.read_bytes()).hexdigest()[:16]


class TextEncoder(nn.Module):
    """Token numbers (B, L), PADDING where there is none -> a summary (B, width), and the tokens (B, L, width) as they read in context.

    One pre-norm transformer layer over a learnt start and the tokens; the summary is of the start and the mean.  The start alone
    stands for no text.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        table, step = _table()
        self.table: Tensor
        self.step: Tensor
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("step", step, persistent=False)
        self.project = nn.Linear(WORDS, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.position = nn.Parameter(torch.zeros(LONGEST, width))
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.read = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.table[numbers].to(self.step.dtype) * self.step
        x = self.project(vectors) + self.position[: numbers.shape[1]]
        x = torch.cat([self.start.expand(len(x), 1, -1), x], dim=1)  # (B, 1 + L, W)
        there = F.pad(numbers != PADDING, (1, 0), value=True)
        x = x + self.attention(self.norm_attention(x), there)
        x = x + self.down(F.gelu(self.up(self.norm_mlp(x))))
        x = self.norm(x) * there[..., None]
        mean = x.sum(dim=1) / there.sum(dim=1, keepdim=True)
        return self.read(torch.cat([x[:, 0], mean], dim=1)), x[:, 1:]

    def attention(self, x: Tensor, there: Tensor) -> Tensor:
        heads = HEADS if x.shape[-1] % HEADS == 0 else 1
        q, k, v = self.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, 1 + L, D)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        return self.mix(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
