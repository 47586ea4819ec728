"""How good pictures are: `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.app import app
from bowerbird.cli.console import print_result, progress_bar


@app.command()
def evaluate(
    context: typer.Context,
    generated: Annotated[str, typer.Argument(help="a model, which then paints, an autoencoder, which restores, or a folder of pictures")],
    against: Annotated[Path, typer.Option(help="real pictures that were not trained on, or the training folder for its held-out ones")],
    train: Annotated[Path | None, typer.Option(help="the pictures that were trained on, to look for copies of them")] = None,
    captions: Annotated[Path | None, typer.Option(help="their captions, a table elsewhere; default: what was learnt")] = None,
    clip: Annotated[Path | None, typer.Option(help="a CLIPModel folder of transformers, for its score too")] = None,
    count: Annotated[int, typer.Option(help="how many pictures a model paints")] = 1000,
    seed: Annotated[int, typer.Option(help="picture i starts from seed + i")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for report.html and report.json")] = None,
) -> None:
    """Judge pictures: how near to real ones, how varied, and whether they copy."""
    from bowerbird import hardware
    from bowerbird.evaluate import evaluate as judge
    from bowerbird.evaluate import open_subject
    from bowerbird.pretrained.clip_model import open_clip

    device = hardware.choose_device(context.obj.device)
    with progress_bar() as on_progress:
        judges = open_clip(clip, device) if clip else None
        subject = open_subject(generated, device, on_progress)
        report = judge(subject, against, train, out, on_progress, captions=captions, clip=judges, count=count, seed=seed, device=device)
    page = f"\nlook at {out / 'report.html'}" if out else ""
    print_result(context, report.to_json(), report.to_text() + page)
