"""A painter whose pictures others take further: `then`, and sizes far beyond what the first can paint."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from bowerbird.painter import BatchPainter, Painter
from bowerbird.picture_files import Painted
from bowerbird.progress import OnProgress
from bowerbird.request import PaintRequest

WORTHWHILE = 2  # times the side that the first paints; below it plain scaling does


class Chain:
    """A painter, and those that its pictures go through afterwards, opened when the first request names them.

    upscaler: the one to use where a request names none and asks for much more than `native_px`, the side that the first paints.
    """

    def __init__(self, first: Painter, open_next: Callable[[str], Painter], upscaler: str | None = None, native_px: int = 0) -> None:
        self.first, self.open_next, self.upscaler, self.native_px = first, open_next, upscaler, native_px
        self._opened: dict[str, Painter] = {}

    def describe(self) -> dict[str, Any]:
        return self.first.describe()

    def resolve(self, request: PaintRequest) -> PaintRequest:
        """The request with every default filled in: `size` is that of the finished picture."""
        then = self._then(request)
        if not then:
            return self.first.resolve(request)
        return self.first.resolve(self._alone(request)).model_copy(update={"then": then, **_last(request)})

    def paint(self, request: PaintRequest, on_progress: OnProgress | None = None) -> Iterator[Painted]:
        """Yield the finished pictures.  What cannot be opened is said before the first is painted."""
        self._open_all(request)
        for painted in self.first.paint(self._alone(request), on_progress):
            yield self._taken_further(painted, request, on_progress)

    def _alone(self, request: PaintRequest) -> PaintRequest:
        """What is asked of the first painter: everything but what the others do."""
        return request.model_copy(update={"then": [], "size": None, "noise": None, "consistent": False}) if self._then(request) else request

    def _taken_further(self, painted: Painted, request: PaintRequest, on_progress: OnProgress | None) -> Painted:
        """What the others make of the first painter's picture."""
        then = self._then(request)
        if not then:
            return painted
        picture = painted.picture
        for name in then:
            picture = _further(self._painter(name), picture, painted.seed, request, on_progress)
        if request.size is not None and picture.size != request.size:
            picture = ImageOps.fit(picture, request.size, Image.Resampling.LANCZOS)
        settings = painted.settings.model_copy(update={"then": then, **_last(request), "size": picture.size})
        return Painted(picture, painted.seed, settings)

    def _open_all(self, request: PaintRequest) -> None:
        for name in self._then(request):
            self._painter(name)

    def _then(self, request: PaintRequest) -> list[str]:
        much = self.upscaler is not None and request.size is not None and max(request.size) >= WORTHWHILE * self.native_px
        return request.then or ([self.upscaler] if much and self.upscaler and request.image is None else [])

    def _painter(self, name: str) -> Painter:
        if name not in self._opened:
            self._opened[name] = self.open_next(name)
        return self._opened[name]


class BatchChain(Chain):
    """A chain whose first painter paints several requests in one walk."""

    def __init__(self, first: BatchPainter, open_next: Callable[[str], Painter], upscaler: str | None = None, native_px: int = 0) -> None:
        super().__init__(first, open_next, upscaler, native_px)
        self._together = first.paint_together

    def paint_together(
        self, requests: Sequence[PaintRequest], on_progress: OnProgress | None = None
    ) -> Iterator[tuple[int, list[Painted]]]:
        """(number, finished pictures) of each request."""
        for request in requests:
            self._open_all(request)
        for number, pictures in self._together([self._alone(request) for request in requests], on_progress):
            yield number, [self._taken_further(painted, requests[number], on_progress) for painted in pictures]


def _last(request: PaintRequest) -> dict[str, Any]:
    return {"size": request.size, "noise": request.noise, "consistent": request.consistent}


def _further(painter: Painter, picture: Image.Image, seed: int, request: PaintRequest, on_progress: OnProgress | None) -> Image.Image:
    """What the next painter makes of the picture; upscalers of ours read no words, and others no noise level."""
    ours = painter.describe().get("kind") == "upscaler"
    settings: dict[str, Any] = {"noise": request.noise, "consistent": request.consistent} if ours else {"prompt": request.prompt}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        picture.save(path)
        (further,) = painter.paint(PaintRequest(model="then", image=path, seed=seed, **settings), on_progress)
    return further.picture
