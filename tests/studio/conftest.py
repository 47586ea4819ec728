"""The Paint tab over a queue whose worker is a thread, without a browser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from bowerbird.jobs import Catalogue, Queue
from bowerbird.studio.form import Form
from bowerbird.studio.painting import paint_tab
from tests.server.conftest import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(Queue(tmp_path_factory.mktemp("home")), Catalogue()) as served:
        yield served


class Page:
    """The Paint tab, and what happens when its buttons are clicked: each thing that its function yields."""

    def __init__(self, served: Served) -> None:
        with gr.Blocks() as page:
            self.form: Form = paint_tab(served.queue, served.serving.catalogue)
        self.queue = served.queue
        self._functions = {str(each.name): each for each in page.fns.values()}

    def typed(self, **fields: object) -> dict[Any, Any]:
        quick = {"model": "starter", "prompt": "a fox", "count": 1, "steps": "1", "guidance": "1", "seed": "5"}
        values = {each: getattr(each, "value", None) for each in self._functions["paint"].inputs}
        return values | {self.form.fields[name]: value for name, value in {**quick, **fields}.items()}

    def show(self, **fields: object) -> list[Any]:
        return list(self._call("foresee", self.typed(**fields)))

    def paint(self, **fields: object) -> list[Any]:
        return list(self._call("paint", self.typed(**fields)))

    def painting(self, many: Sequence[Path], masks: Sequence[Path] = (), **fields: object) -> Iterator[Any]:
        """Paint was clicked at, with many pictures dropped; each thing it yields."""
        dropped = {self.form.many: [str(each) for each in many], self.form.masks: [str(each) for each in masks]}
        return self._call("paint", self.typed(**fields) | dropped)

    def paints(self) -> bool:
        """Whether a picture of plain words appears."""
        *_, shown, _ = self.paint()
        return shown[0] == "" and "<img" in shown[1]

    def put_into_words(self, picture: Image.Image | None, whose: str) -> list[Any]:
        return list(self._call("put", picture and {"background": picture, "layers": []}, None, "starter", whose))

    def put_many_into_words(self, pictures: list[Path], whose: str) -> list[Any]:
        return list(self._call("put", None, list(map(str, pictures)), "starter", whose))

    def _call(self, name: str, *arguments: Any) -> Iterator[Any]:
        function = self._functions[name].fn
        assert function is not None
        return iter(function(*arguments))


@pytest.fixture
def page(served: Served) -> Page:
    return Page(served)
