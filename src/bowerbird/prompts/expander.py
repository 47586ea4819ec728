"""Short prompts completed: by the phrases of the model's own captions, by rules, or by a language model of the user's.

Everything is seeded, nothing is hidden: the words are added to the prompt that is shown and recorded.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import Future, wait
from http.client import HTTPException, HTTPMessage
from typing import IO

from pydantic import BaseModel, ConfigDict

from bowerbird.errors import RequestError
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.prompts.library import OURS, read_table
from bowerbird.prompts.vocabulary import Vocabulary, words_of

ADDRESS, REMOTE = "BOWERBIRD_EXPANDER", "BOWERBIRD_EXPANDER_REMOTE"  # of the process, never of a request: a request may be a stranger's
ADDED = 3  # phrases of the captions
LONG_ENOUGH = 25  # words: a longer prompt says what it wants
MAX_ANSWER_BYTES, MAX_ADDED_CHARS, MAX_SECONDS, POLL_SECONDS = 2**20, 600, 120, 0.2
MAX_PHRASE_WORDS = 10  # what is longer is prose
ASKING = "ask the language model"  # the stage of progress
INSTRUCTION = (
    "You complete prompts for a picture generator. Repeat the prompt and add, on the same line, three to five short phrases separated "
    "by commas: setting, light, composition, detail. Keep its subject and its style. Answer with the line alone."
)
EXAMPLES = {  # as turns of the conversation: a model of 135 million weights tells stories without them (docs/lab-log.md, 2026-11-28)
    "a cat on a sofa": "curled up asleep, warm afternoon light, shallow depth of field, soft fur",
    "watercolour of a harbour": "fishing boats at low tide, pale morning sky, loose brushwork, muted colours",
    "castle": "on a steep green hill, dramatic clouds, seen from below, weathered stone",
    "two owls": "side by side on a mossy branch, moonlight, dark forest behind, detailed feathers",
    "portrait of a queen": "golden crown, calm face, candlelight, dark red background",
    "flat icon of a teapot": "centred, simple shapes, two colours, plain background",
}


class Group(BaseModel):
    """Phrases of which one is added, unless the prompt already has one of the words."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    unless: list[str]
    phrases: list[str]


def draw(key: str, among: int) -> int:
    """0 .. among-1 as a pure function of the key, the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "replace")).digest()[:8]) % among


def by_words(text: str, seed: int, vocabulary: Vocabulary | None) -> str:
    """What to add to the prompt: phrases of the model's captions where it has some, by rules otherwise; '' for a long prompt."""
    words = words_of(text)
    if not words or len(words) >= LONG_ENOUGH:
        return ""
    if vocabulary is not None and vocabulary.phrases:
        return ", ".join(_phrases(words, seed, vocabulary))
    groups = read_table(OURS / "expander.toml", Group)
    chosen = (
        group.phrases[draw(f"{seed}/expand/{name}", len(group.phrases))]
        for name, group in groups.items()
        if not set(group.unless) & set(words)
    )
    return ", ".join(chosen)


def _phrases(words: list[str], seed: int, vocabulary: Vocabulary) -> list[str]:
    """Up to three phrases drawn by how often captions have them beside the words of the prompt.

    A phrase whose last word is taken is left out: "black wings" after "white wings" would contradict it.
    """
    taken, added = set(words), []
    asked = {word for word in words if any(word in phrase.company for phrase in vocabulary.phrases.values())}
    scores = {}
    for text, phrase in vocabulary.phrases.items():
        beside = sum(phrase.company.get(word, 0) for word in asked)
        weight = beside if asked else phrase.count
        if weight:  # Gumbel's trick: the largest of log weight + noise is a draw with these weights
            noise = (draw(f"{seed}/expand/{text}", 2**32) + 0.5) / 2**32
            scores[text] = math.log(weight) - math.log(-math.log(noise))
    for text in sorted(scores, key=lambda text: (-scores[text], text)):
        own = words_of(text)
        if own[-1] not in taken and not set(own) <= taken:
            added.append(text)
            taken |= set(own)
        if len(added) == ADDED:
            break
    return added


def by_language_model(text: str, seed: int, on_progress: OnProgress | None = None) -> str:
    """What a language model adds to the prompt: asked at the OpenAI-compatible address in $BOWERBIRD_EXPANDER.

    It is waited for at most two minutes in all, however it dribbles, and no longer than somebody listens.
    """
    address = checked_address(os.environ.get(ADDRESS, ""))
    turns = [("system", INSTRUCTION)]
    for prompt, added in EXAMPLES.items():
        turns += [("user", prompt), ("assistant", f"{prompt}, {added}")]
    body = {
        "messages": [{"role": role, "content": content} for role, content in [*turns, ("user", text)]],
        "seed": seed % 2**31,
        "temperature": 0.7,
        "max_tokens": 160,
    }
    if model := os.environ.get(f"{ADDRESS}_MODEL"):
        body["model"] = model
    request = urllib.request.Request(f"{address}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    answer: Future[str] = Future()
    threading.Thread(target=_ask, args=(request, answer), daemon=True).start()
    end = time.monotonic() + MAX_SECONDS
    while not answer.done():
        tell(on_progress, Progress(ASKING, 0, 1))
        if time.monotonic() > end:
            raise RequestError(
                f"the language model at {address} took longer than {MAX_SECONDS} s. Choose a smaller one, or leave the expander out."
            )
        wait([answer], POLL_SECONDS)
    try:
        said = answer.result()
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise RequestError(f"the language model at {address} does not answer ({reason}). Start it, or leave the expander out.") from error
    except (ValueError, LookupError, TypeError) as error:
        raise RequestError(f"what answers at {address} is no OpenAI-compatible language model. Give the address of its /v1.") from error
    tell(on_progress, Progress(ASKING, 1, 1))
    return added_by(text, said)


def _ask(request: urllib.request.Request, answer: Future[str]) -> None:
    try:
        with _OPENER.open(request, timeout=MAX_SECONDS) as reply:
            said = json.loads(reply.read(MAX_ANSWER_BYTES))["choices"][0]["message"]["content"]
        if not isinstance(said, str):
            raise TypeError("no text")
        answer.set_result(said)
    except Exception as error:  # whoever waits sorts them
        answer.set_exception(error)


def added_by(text: str, said: str) -> str:
    """What an answer adds: short phrases of one line, at most 600 characters in all, each of which says something new.

    Without thoughts, the prompt at its front, quotes and control characters.
    """
    said = re.sub(r"<think>.*?(</think>|$)", "", said, flags=re.DOTALL)
    line = next((line for line in said.splitlines() if line.strip()), "")
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split()).strip("\"'` ")
    if line.lower().startswith(text.lower()):
        line = line[len(text) :]
    asked, added, chars = set(words_of(text)), dict[str, str](), 0
    for phrase in (phrase.strip(" .;:") for phrase in line.split(",")):
        known = bool(words_of(phrase)) and asked.issuperset(words_of(phrase))
        if phrase and not known and len(phrase.split()) <= MAX_PHRASE_WORDS and phrase.lower() not in added:
            chars += len(phrase) + 2
            if chars > MAX_ADDED_CHARS:
                break
            added[phrase.lower()] = phrase
    return ", ".join(added.values())


def checked_address(address: str) -> str:
    """The address without its last slash; RequestError unless it is on this machine or the user said that it need not be."""
    if not address:
        raise RequestError(
            f"no language model is known: give its address, such as http://127.0.0.1:8080/v1, by --expander or in {ADDRESS} of the server."
        )
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError(f"a language model's address is wanted, such as http://127.0.0.1:8080/v1, and {address!r} is none.")
    if not _is_here(parts.hostname) and os.environ.get(REMOTE) != "1":
        raise RequestError(
            f"the expander at {parts.hostname} is on another machine, which would read your prompts. Set {REMOTE}=1 to allow it."
        )
    return address.rstrip("/")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Nothing on this machine may send a prompt elsewhere."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str) -> None:
        raise urllib.error.URLError(f"it redirects to {re.sub(r'[^ -~]', '?', newurl)[:100]}")


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
