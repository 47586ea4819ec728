"""From a model to pictures: `generate` and `upscale`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli.app import app
from bowerbird.cli.console import asker, print_result, progress_bar
from bowerbird.errors import RequestError, ResourceError
from bowerbird.progress import OnProgress
from bowerbird.request import PaintRequest, read_request

if TYPE_CHECKING:
    from bowerbird.painter import Painter


def words_of(field: str, form: str = "") -> str:
    """What the request itself says of its field, and how it is written here; every face says the same."""
    return "; ".join(filter(None, (PaintRequest.model_fields[field].description, form)))


def of_request(field: str, *names: str, form: str = "") -> Any:
    """An option for a field of the request."""
    return typer.Option(*names, help=words_of(field, form))


@app.command()
def generate(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="a run, RUN@latest, a model or diffusers folder, a checkpoint, a hub name")] = None,
    prompt: Annotated[str | None, typer.Argument(help=words_of("prompt"))] = None,
    negative: Annotated[str | None, of_request("negative")] = None,
    label: Annotated[str | None, of_request("label")] = None,
    count: Annotated[int | None, of_request("count")] = None,
    seed: Annotated[int | None, of_request("seed")] = None,
    size: Annotated[str | None, of_request("size", form="WIDTHxHEIGHT")] = None,
    steps: Annotated[int | None, of_request("steps")] = None,
    sampler: Annotated[str | None, of_request("sampler")] = None,
    guidance: Annotated[float | None, of_request("guidance")] = None,
    speed: Annotated[str | None, of_request("speed")] = None,
    lora: Annotated[list[str] | None, of_request("loras", form="FILE or FILE:WEIGHT, may be repeated")] = None,
    image: Annotated[Path | None, of_request("image")] = None,
    mask: Annotated[Path | None, of_request("mask")] = None,
    outpaint: Annotated[str | None, of_request("outpaint", form="such as left=128,right=64")] = None,
    strength: Annotated[float | None, of_request("strength")] = None,
    again: Annotated[
        Path | None, typer.Option("--from", help="repeat the request this picture was painted with; other options change it")
    ] = None,
    exact: Annotated[bool | None, of_request("exact", "--exact")] = None,
    image_format: Annotated[str | None, of_request("format", "--format", form="png, jpeg or webp")] = None,
    family: Annotated[str | None, typer.Option(help="family of a Stable Diffusion checkpoint, where the guess is wrong")] = None,
    prediction: Annotated[str | None, typer.Option(help="eps or v, where the guess is wrong")] = None,
    autoencoder: Annotated[str | None, typer.Option(help="for somebody's latent model that comes without one")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="a file of prompts: one a line, or a .csv or .jsonl with columns such as prompt, label, seed")
    ] = None,
    per_label: Annotated[
        int | None, typer.Option(min=1, help="a balanced set: so many pictures of each class, in folders, with captions and provenance")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("pictures"),
) -> None:
    """Paint pictures."""
    if per_label is not None and (prompts is not None or count is not None):
        raise RequestError("--per-label says how many pictures there are of each class. Leave --count and --prompts out.")
    asked = {
        "model": model,
        "prompt": prompt,
        "negative": negative,
        "label": label,
        "count": count,
        "seed": seed,
        "size": _read_size(size),
        "steps": steps,
        "sampler": sampler,
        "guidance": guidance,
        "speed": speed,
        "loras": [_read_lora(each) for each in lora] if lora else None,
        "image": image,
        "mask": mask,
        "outpaint": _read_sides(outpaint),
        "strength": strength,
        "exact": exact,
        "format": image_format,
    }
    given: dict[str, object] = {name: value for name, value in asked.items() if value is not None}
    if again:
        from bowerbird.repeat import request_again

        given = request_again(again, given).model_dump(exclude_unset=True)
    elif model is None:
        raise RequestError("which model should paint? Give a run, a model folder, a checkpoint or a hub name, or --from PICTURE.")
    requests, as_set = [], None
    if prompts is not None:
        from bowerbird.painted_set import paint_prompts, read_prompts

        requests = read_prompts(prompts, given)
        as_set = partial(paint_prompts, requests, out)
    else:
        requests = [read_request(given)]
    if per_label is not None:
        from bowerbird.painted_set import paint_per_label

        as_set = partial(paint_per_label, requests[0], per_label, out)
    _paint(context, requests, out, family, prediction, autoencoder, as_set=as_set)


@app.command()
def upscale(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="a model that enlarges, such as Stable Diffusion's x4 upscaler")],
    pictures: Annotated[list[Path], typer.Argument(help="the pictures to enlarge")],
    prompt: Annotated[str, typer.Option(help="what is in them, for models that read text")] = "",
    seed: Annotated[int | None, typer.Option(help="the same seed gives the same details")] = None,
    steps: Annotated[int | None, typer.Option(help="sampling steps: more is finer and slower")] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("pictures"),
) -> None:
    """Enlarge pictures: the same request as generate, with an image."""
    asked = [read_request({"model": model, "image": picture, "prompt": prompt, "seed": seed, "steps": steps}) for picture in pictures]
    _paint(context, asked, out, enlarged=True)


def _paint(
    context: typer.Context,
    requests: list[PaintRequest],
    out: Path,
    family: str | None = None,
    prediction: str | None = None,
    autoencoder: str | None = None,
    enlarged: bool = False,
    as_set: Callable[[Painter, OnProgress], list[Path]] | None = None,
) -> None:
    """Paint the requests, all of one model, and save the pictures; enlarged ones are named and marked after what they were.

    `as_set` paints and saves them itself, as a set with a table.
    """
    from bowerbird import hardware
    from bowerbird.generate import open_model
    from bowerbird.locate import Opening
    from bowerbird.painted_set import free_name
    from bowerbird.picture_files import SUFFIXES, check_fits, save_picture

    for request in requests:
        check_fits(request)
    options = context.obj
    opening = Opening(hardware.dtype_of(options.precision), family, prediction, autoencoder, options.offline, asker(options))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"pictures cannot be kept in {str(out)!r} ({error.strerror}). Name another --out.") from error
    paths: list[str] = []
    with progress_bar() as on_progress:
        painter = open_model(requests[0].model, hardware.choose_device(options.device), opening, on_progress)
        if as_set is not None:
            paths, requests = [str(path) for path in as_set(painter, on_progress)], []
        for request in requests:
            for painted in painter.paint(request, on_progress):
                name = request.image.stem if enlarged and request.image else f"{painted.seed:010d}"
                path = out / free_name(out, name, SUFFIXES[painted.settings.format])
                save_picture(painted, path, "algorithmicallyEnhanced" if enlarged else None)
                paths.append(str(path))
    print_result(context, {"pictures": paths}, "\n".join(paths))


def _read_size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}[xX][0-9]{1,9}", size):
        raise RequestError(f"--size {size!r} is not WIDTHxHEIGHT, for example --size 512x512.")
    width, height = map(int, size.lower().split("x"))
    return width, height


def _read_lora(text: str) -> dict[str, Any]:
    file, colon, weight = text.rpartition(":")
    try:
        return {"file": file, "weight": float(weight)} if colon else {"file": text}
    except ValueError:  # the colon belongs to the path
        return {"file": text}


def _read_sides(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    sides = {side: pixels for side, _, pixels in (each.partition("=") for each in text.split(","))}
    if not all(re.fullmatch(r"[0-9]{1,9}", pixels) for pixels in sides.values()):
        raise RequestError(f"--outpaint {text!r} is not a list of sides with pixels, for example --outpaint left=128,right=64.")
    return {side: int(pixels) for side, pixels in sides.items()}
