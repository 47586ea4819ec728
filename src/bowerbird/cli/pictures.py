"""What lies in a folder of pictures: `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli.app import app
from bowerbird.cli.console import print_result, progress_bar
from bowerbird.errors import RequestError

if TYPE_CHECKING:
    from bowerbird.data.decode import Fit


@app.command()
def inspect(
    context: typer.Context,
    pictures: Annotated[Path, typer.Argument(help="a folder of pictures, or a .zip, .tar or .tgz of one")],
    size: Annotated[int, typer.Option(help="side of the training pictures in pixels, to show what training would see")] = 64,
    fit: Annotated[str, typer.Option(help="crop, pad, or box: around the bounding boxes of CUB-200-2011")] = "crop",
    out: Annotated[Path | None, typer.Option(help="folder for report.html and data.json")] = None,
) -> None:
    """Tell what lies in a folder: counts, sizes, captions, rejected files and why, and what training would see."""
    from bowerbird.data.report import inspect as look_through

    fits: dict[str, Fit] = {"crop": "crop", "pad": "pad", "box": "box"}
    if fit not in fits:
        raise RequestError(f"--fit {fit!r} is not possible. Choose crop, pad or box.")
    with progress_bar() as on_progress:
        inspection = look_through(pictures, size, fits[fit], out, on_progress)
    page = f"\nlook at {out / 'report.html'}" if out else ""
    print_result(context, inspection.to_json(), inspection.to_text() + page)
