"""OpenAI's own Python client against a running server; runs in an environment of its own, with whichever version is in it.

python proofs/openai_client.py http://localhost:8400 -> one line of JSON, or the assertion that does not hold.
"""

from __future__ import annotations

import base64
import json
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import openai

PNG = b"\x89PNG\r\n\x1a\n"


def fails(call: Callable[[], Any], kind: type[Exception], code: str | None = None) -> str:
    """The message of the error that the call must end in."""
    try:
        call()
    except openai.APIError as error:
        assert type(error) is kind, (type(error), error)
        assert code is None or error.code == code, (error.code, code)
        assert error.message, "an error without words"
        return error.message
    raise AssertionError(f"{kind.__name__} was expected")


def main() -> None:
    server = sys.argv[1]
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="unused", max_retries=0)
    images, checks = client.images, 0

    answer = images.generate(model="dall-e-3", prompt="a bird", size="1024x1024", quality="hd", style="vivid", response_format="b64_json")
    picture = base64.b64decode(answer.data[0].b64_json)
    assert picture.startswith(PNG) and answer.size == "1024x1024"
    answer = images.generate(model="dall-e-3", prompt="a bird")
    assert urllib.request.urlopen(answer.data[0].url).read().startswith(PNG)
    asked = {"seed": 5, "steps": 4}
    answer = images.generate(model="gpt-image-1", prompt="a bird", n=2, size="512x512", output_format="webp", extra_body=asked)
    assert [one.seed for one in answer.data] == [5, 6] and answer.output_format == "webp"
    assert base64.b64decode(answer.data[0].b64_json)[8:12] == b"WEBP"
    checks += 3

    events = list(images.generate(model="gpt-image-1", prompt="a bird", stream=True, partial_images=3))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:3]] == [0, 1, 2]
    assert all(base64.b64decode(event.b64_json).startswith(PNG) for event in events)
    name = next(iter(client.models.list())).id
    assert client.models.retrieve(name).id == name
    checks += 2

    # The bundled model may take no picture; then it says so.  A picture that is none never reaches it.
    for call in (
        lambda: images.edit(image=("a.png", picture), prompt="a bird"),
        lambda: images.create_variation(image=("a.png", picture), n=1),
    ):
        try:
            assert base64.b64decode(call().data[0].b64_json).startswith(PNG)
        except openai.BadRequestError as error:
            assert "image" in error.message
        checks += 1

    bad = openai.BadRequestError
    fails(lambda: images.generate(prompt="x", size="100000x1"), bad, "invalid_size")
    fails(lambda: images.generate(prompt="x", n=1000), bad, "invalid_value")
    fails(lambda: images.generate(prompt="x" * 100_000), bad, "invalid_value")
    fails(lambda: images.generate(prompt="x", model="../x"), bad)
    fails(lambda: images.generate(prompt="x", extra_body={"stepz": 3}), bad, "unknown_parameter")
    fails(lambda: images.edit(image=b"garbage", prompt="x"), bad, "invalid_image")
    fails(lambda: images.edit(image=("a.png", picture), mask=("m.png", picture), prompt="x"), bad, "invalid_mask")
    fails(lambda: client.models.retrieve("no such model"), openai.NotFoundError, "model_not_found")
    fails(lambda: client.chat.completions.create(model="x", messages=[]), openai.NotFoundError, "unknown_route")
    fails(lambda: list(images.generate(prompt="x", stream=True, extra_body={"label": "no such label"})), openai.APIError)
    fails(lambda: images.edit(image=("big.png", PNG + bytes(80 * 2**20)), prompt="x"), openai.APIStatusError, "body_too_large")
    checks += 11
    print(json.dumps({"openai": openai.__version__, "checks": checks}))


if __name__ == "__main__":
    main()
