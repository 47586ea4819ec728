"""Words for pictures and from them: `styles`, `describe`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.app import app
from bowerbird.cli.console import asker, print_result, progress_bar
from bowerbird.errors import RequestError
from bowerbird.picture_folder import pictures_of, refuse_broken


@app.command()
def styles(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="show this style or preset")] = None,
) -> None:
    """List the styles, presets, speeds and word lists, or show one style or preset; yours lie beside ours."""
    from bowerbird.prompts.library import named, presets, style_families, style_previews, user_folder, wildcards
    from bowerbird.prompts.library import styles as every_style
    from bowerbird.prompts.speeds import speeds

    if name is not None:
        one = named(name, {**presets(), **every_style()}, "style")
        fields = one.model_dump() | ({"preview": str(style_previews()[name])} if name in style_previews() else {})
        print_result(context, fields, "\n".join(f"{field:9} {value}" for field, value in fields.items() if value))
        return
    families = {family: list(members) for family, members in style_families().items()}
    of_presets = {name: preset.about for name, preset in presets().items()}
    of_speeds = {name: speed.about for name, speed in speeds().items()}
    document = {
        "styles": families,
        "previews": {name: str(file) for name, file in style_previews().items()},
        "presets": of_presets,
        "speeds": of_speeds,
        "wildcards": sorted(wildcards()),
        "folder": str(user_folder()),
    }
    lines = [f"styles ({family}): {', '.join(members)}" for family, members in families.items()]
    lines += [f"preset {name:12} {about}" for name, about in of_presets.items()]
    lines += [f"speed {name:13} {about}" for name, about in of_speeds.items()]
    lines += [f"wildcards: {' '.join(f'__{name}__' for name in sorted(wildcards()))}", f"yours: {user_folder()}"]
    print_result(context, document, "\n".join(lines))


@app.command()
def describe(
    context: typer.Context,
    pictures: Annotated[list[Path], typer.Argument(help="the pictures to put into words, or folders of them")],
    like: Annotated[
        Path | None, typer.Option(help="a run, or a folder of captioned pictures: answer in the words of the nearest ones")
    ] = None,
    by: Annotated[str | None, typer.Option("--with", help="blip, a hub name or a folder of a captioner that looks")] = None,
    count: Annotated[int, typer.Option(min=1, max=100, help="with --like: how many different captions for each")] = 3,
) -> None:
    """Put pictures into words to paint from: those of the nearest captioned pictures, or a captioner's."""
    from bowerbird import hardware
    from bowerbird.describing import readable, words_for

    if (like is None) == (by is None):
        raise RequestError("describe in whose words? Give --like RUN or FOLDER for those of captioned pictures, or --with a captioner.")
    every = pictures_of(pictures)
    each, broken = readable(every)
    options = context.obj
    device = hardware.choose_device(options.device)
    with progress_bar() as on_progress:
        described = words_for(each, like, by, count, device, options.offline, asker(options), on_progress)
    lines = [f"{one.picture}: {' | '.join(f'{caption.text} ({caption.likeness:.2f})' for caption in one.captions)}" for one in described]
    print_result(context, [dataclasses.asdict(one) for one in described], "\n".join(lines))
    refuse_broken(broken, len(every))
