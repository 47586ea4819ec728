"""Texts that no caption has, for every place where people may write: each is read, or refused in one sentence."""

from __future__ import annotations

ODD = {
    "empty": "",
    "blank": " \n\t ",
    "ten thousand characters": "red bird, " * 1_000,
    "one word of ten thousand": "x" * 10_000,
    "too long by far": "x" * 30_000,
    "emoji": "🐦🔥 👩‍👩‍👧",
    "right to left": "طائر أحمر ציפור",
    "turned around": "\u202ebird\u202c",
    "control characters": "a\x07bird\x1b[31m\x7f",
    "null bytes": "a\0bird\0\0",
    "half a pair": "\ud83d bird",
    "open brackets": "[[[((({{{",
}
