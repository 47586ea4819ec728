"""Words for pictures: `styles`."""

from __future__ import annotations

from typing import Annotated

import typer

from bowerbird.cli.app import app
from bowerbird.cli.console import print_result


@app.command()
def styles(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="show this style or preset")] = None,
) -> None:
    """List the styles, presets, speeds and word lists, or show one style or preset; yours lie beside ours."""
    from bowerbird.prompts.library import named, presets, style_families, user_folder, wildcards
    from bowerbird.prompts.library import styles as every_style
    from bowerbird.prompts.speeds import speeds

    if name is not None:
        one = named(name, {**presets(), **every_style()}, "style")
        fields = one.model_dump()
        print_result(context, fields, "\n".join(f"{field:9} {value}" for field, value in fields.items() if value))
        return
    families = {family: list(members) for family, members in style_families().items()}
    of_presets = {name: preset.about for name, preset in presets().items()}
    of_speeds = {name: speed.about for name, speed in speeds().items()}
    document = {
        "styles": families,
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
