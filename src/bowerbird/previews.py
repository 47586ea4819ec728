"""Preview pictures of the styles: the same words from the same noise in each, for who chooses among them."""

from __future__ import annotations

import secrets
from pathlib import Path

from bowerbird.errors import RequestError
from bowerbird.painted_set import paint_each
from bowerbird.painter import Painter
from bowerbird.picture_files import save_thumbnail
from bowerbird.progress import OnProgress, note
from bowerbird.prompts.library import named, preview_file, style_previews, styles
from bowerbird.request import PaintRequest

PREVIEW_PX = 128  # the longer side; shown at half of it, for screens of two pixels a point


def paint_previews(request: PaintRequest, painter: Painter, on_progress: OnProgress | None = None) -> list[Path]:
    """Paint the request in each of its styles by itself, and keep it small as that style's preview in the user's folder.

    Without styles: in every one of which there is no preview of the user's, so that what was broken off goes on with the rest.
    RequestError where there are no words, or locked ones, or more pictures than one are asked for; and for what is no style.
    """
    if request.count != 1 or not request.prompt or request.asked is not None:
        raise RequestError("a preview shows the same words in each style, one picture of each. Give a prompt; no --count, no --lock.")
    known, shown = styles(), style_previews()
    for name in request.styles:
        named(name, known, "style")
    names = request.styles or [name for name in known if shown.get(name) != preview_file(name)]
    if not names:
        note(on_progress, "every style has a preview of yours already; name with --style those to paint anew")
    seed = secrets.randbelow(2**32) if request.seed is None else request.seed
    paths = []
    for number, pictures in paint_each(
        painter, [request.model_copy(update={"styles": [name], "seed": seed}) for name in names], on_progress
    ):
        paths.append(preview_file(names[number - 1]))
        save_thumbnail(pictures[0].picture, paths[-1], PREVIEW_PX)
    return paths
