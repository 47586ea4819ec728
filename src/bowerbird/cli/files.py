"""What a file is, and old files made safe: `info`, `convert`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from bowerbird.cli.app import app
from bowerbird.cli.console import print_result, to_page
from bowerbird.errors import RequestError


@app.command()
def info(
    context: typer.Context,
    what: Annotated[str | None, typer.Argument(help="a model, a run or a picture")] = None,
    cache: Annotated[bool, typer.Option("--cache", help="tell of the cache of decoded pictures instead")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="with --cache: empty it")] = False,
) -> None:
    """Tell what a model, a run or a picture is, or what the cache holds."""
    if cache:
        _tell_of_the_cache(context, clear)
        return
    if what is None:
        raise RequestError("info of what? Give a model, a run or a picture, or --cache.")
    path = Path(what)
    if path.is_file() and path.suffix != ".safetensors":
        from bowerbird.picture_metadata import read_metadata

        document: dict[str, Any] = dataclasses.asdict(read_metadata(path))
    else:
        from bowerbird.generate import describe_model

        document = describe_model(what)
    print_result(context, document, f"{to_page(document)}\n(all of it: --json)")


def _tell_of_the_cache(context: typer.Context, clear: bool) -> None:
    from bowerbird.cache import cache_root, clear_cache
    from bowerbird.data.cache import cache_entries

    if clear:
        freed = clear_cache()
        print_result(context, {"freed_bytes": freed}, f"{freed / 1e6:,.1f} MB freed in {cache_root()}")
        return
    entries = cache_entries()
    total = sum(entry.bytes for entry in entries)
    document = {"folder": str(cache_root()), "bytes": total, "entries": [dataclasses.asdict(entry) for entry in entries]}
    print_result(context, document, f"{total / 1e6:,.1f} MB for {len(entries)} folders of pictures in {cache_root()}; --clear empties it")


@app.command()
def convert(
    context: typer.Context,
    old: Annotated[Path, typer.Argument(help="a .ckpt, .pt, .pth or .bin checkpoint")],
    out: Annotated[Path, typer.Option(help="the .safetensors file to write")],
) -> None:
    """Rewrite an old checkpoint as safetensors; nothing in it is executed."""
    from bowerbird.convert import convert as convert_file

    done = convert_file(old, out)
    left = f"; left out, because they are no tensors: {', '.join(done.left_out[:10])}" if done.left_out else ""
    print_result(context, dataclasses.asdict(done), f"{done.file}: {done.tensors:,} tensors, {done.bytes / 1e6:,.1f} MB{left}")
