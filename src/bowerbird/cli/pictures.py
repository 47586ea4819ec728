"""Pictures before training: `inspect` what lies in a folder, `caption` them, `fetch` a data set."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli.app import app
from bowerbird.cli.console import asker, print_result, progress_bar
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


@app.command()
def caption(
    context: typer.Context,
    pictures: Annotated[Path, typer.Argument(help="a folder of pictures, or an archive of one")],
    by: Annotated[
        str | None,
        typer.Option("--with", help="blip, a hub name or a folder of a captioner that looks; otherwise from classes and attributes"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="the new .csv or .jsonl; default captions/<folder>.csv")] = None,
) -> None:
    """Write captions into a new file, from what is known of the pictures or by a captioner that looks at them."""
    from bowerbird.captioning import write_captions

    target = out or Path("captions") / f"{pictures.resolve().name.partition('.')[0] or 'pictures'}.csv"
    with progress_bar() as on_progress:
        if by is None:
            written = write_captions(pictures, target, on_progress=on_progress)
        else:
            from bowerbird import hardware
            from bowerbird.pretrained.captioner import open_captioner

            captioner = open_captioner(by, hardware.choose_device(context.obj.device), context.obj.offline, asker(context.obj))
            written = write_captions(pictures, target, captioner, by, captioner.size, on_progress)
    missing = f"; of {written.without:,} nothing could be said" if written.without else ""
    words = f"{written.file}: {written.captions:,} captions of {written.pictures:,} pictures, by {written.by}{missing}."
    print_result(context, dataclasses.asdict(written), f"{words} To train on them: --set data.captions={shlex.quote(str(written.file))}")


@app.command()
def fetch(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="cub: CUB-200-2011, 11,788 photographs of birds")],
    out: Annotated[Path, typer.Option(help="folder for the archive")] = Path(),
) -> None:
    """Download a data set: asked about first, gone on with after a break, checked at the end."""
    from bowerbird.data.fetch import fetch as fetch_data
    from bowerbird.data.fetch import find_data_set

    with progress_bar() as on_progress:
        file = fetch_data(find_data_set(name), out, asker(context.obj), context.obj.offline, on_progress)
    print_result(context, {"file": str(file)}, f"{file}: whole. Next: bowerbird inspect {file}")
