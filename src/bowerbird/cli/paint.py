"""From a model to pictures: `generate` and `upscale`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from bowerbird.cli.app import app
from bowerbird.cli.console import asker, print_result, progress_bar
from bowerbird.errors import PictureFolderError, RequestError, ResourceError
from bowerbird.picture_folder import for_each_picture, pictures_of, refuse_broken
from bowerbird.progress import OnProgress
from bowerbird.request import PaintRequest, Syntax, read_request

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
    preset: Annotated[str | None, of_request("preset", form="`bowerbird styles` lists them")] = None,
    style: Annotated[list[str] | None, of_request("styles", form="may be repeated")] = None,
    expand: Annotated[str | None, of_request("expand")] = None,
    expander: Annotated[str | None, typer.Option(help="address of a local language model, such as http://127.0.0.1:8080/v1")] = None,
    literal: Annotated[str | None, of_request("literal", form="all, or some of weights,wildcards,arrays,loras")] = None,
    lock: Annotated[bool, typer.Option("--lock", help="the prompt is final: use it as it stands")] = False,
    lora: Annotated[list[str] | None, of_request("loras", form="FILE or FILE:WEIGHT, may be repeated")] = None,
    image: Annotated[Path | None, of_request("image", form="or a folder of them")] = None,
    mask: Annotated[Path | None, of_request("mask", form="for a folder, a folder of the same names")] = None,
    mask_at: Annotated[str | None, of_request("mask_at", form="X,Y")] = None,
    mask_tolerance: Annotated[int | None, of_request("mask_tolerance")] = None,
    detail: Annotated[bool | None, of_request("detail", "--detail")] = None,
    outpaint: Annotated[str | None, of_request("outpaint", form="such as left=128,right=64")] = None,
    strength: Annotated[float | None, of_request("strength")] = None,
    again: Annotated[
        Path | None, typer.Option("--from", help="repeat the request this picture was painted with; other options change it")
    ] = None,
    then: Annotated[list[str] | None, of_request("then", form="such as upscaler-4x; may be repeated")] = None,
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
    x: Annotated[str | None, typer.Option("--x", help="a labelled sheet with a column for each value, such as steps=5,10,20")] = None,
    y: Annotated[str | None, typer.Option("--y", help="with --x: a row for each value, such as guidance=1,4")] = None,
    z: Annotated[str | None, typer.Option("--z", help="with --x and --y: a section for each value, such as seed=1,2")] = None,
    sheet: Annotated[bool, typer.Option("--sheet", help="a labelled sheet of the prompt's arrays, [[red, blue]]")] = False,
    previews: Annotated[
        bool, typer.Option("--previews", help="a small picture of every --style, or of each that has none yet, kept for who chooses styles")
    ] = False,
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
        "preset": preset,
        "styles": style,
        "expand": expand or ("llm" if expander else None),
        "literal": _read_syntax(literal),
        "loras": [_read_lora(each) for each in lora] if lora else None,
        "image": image,
        "mask": mask,
        "mask_at": _read_point(mask_at),
        "mask_tolerance": mask_tolerance,
        "detail": detail,
        "outpaint": _read_sides(outpaint),
        "strength": strength,
        "then": then or None,
        "exact": exact,
        "format": image_format,
    }
    given: dict[str, object] = {name: value for name, value in asked.items() if value is not None}
    if again:
        from bowerbird.repeat import request_again

        given = request_again(again, given).model_dump(exclude_unset=True)
    elif model is None:
        raise RequestError("which model should paint? Give a run, a model folder, a checkpoint or a hub name, or --from PICTURE.")
    if expander is not None:
        from bowerbird.prompts.expander import ADDRESS, checked_address

        os.environ[ADDRESS] = checked_address(expander)  # of the process: a request cannot name it
    requests, as_set = [], None
    if prompts is not None:
        from bowerbird.painted_set import read_prompts

        requests = read_prompts(prompts, given)
    else:
        requests = for_each_picture(read_request(given))
    if lock:
        from bowerbird.prompts import lock as locked

        requests = [locked(request) for request in requests]
    if prompts is not None:
        from bowerbird.painted_set import paint_prompts

        as_set = partial(paint_prompts, requests, out)
    if sheet or any(axis is not None for axis in (x, y, z)):
        from bowerbird.comparison import comparison_of, paint_sheet

        if prompts is not None or len(requests) > 1:
            raise RequestError("a sheet compares settings for one request; leave out --prompts, and give --image a picture, no folder.")
        comparison = comparison_of(requests[0], x, y, z)
        requests, as_set = list(comparison.requests), partial(paint_sheet, comparison, out)
    if per_label is not None:
        from bowerbird.painted_set import paint_per_label

        as_set = partial(paint_per_label, requests[0], per_label, out)
    if previews:
        from bowerbird.previews import paint_previews
        from bowerbird.prompts.library import preview_folder

        if as_set is not None or len(requests) > 1:
            raise RequestError("--previews paints one request in many styles; leave out --prompts, sheets, --per-label and folders.")
        out, as_set = preview_folder(), partial(paint_previews, requests[0])
    _paint(context, requests, out, family, prediction, autoencoder, as_set=as_set)


@app.command()
def upscale(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="a model that enlarges: upscaler-4x, one of yours, Stable Diffusion's x4 upscaler")],
    pictures: Annotated[list[Path], typer.Argument(help="the pictures to enlarge, or folders of them")],
    prompt: Annotated[str, typer.Option(help="what is in them, for models that read text")] = "",
    seed: Annotated[int | None, typer.Option(help="the same seed gives the same details")] = None,
    steps: Annotated[int | None, typer.Option(help="sampling steps: more is finer and slower")] = None,
    noise: Annotated[float | None, of_request("noise")] = None,
    consistent: Annotated[bool, of_request("consistent", "--consistent")] = False,
    size: Annotated[str | None, of_request("size", form="WIDTHxHEIGHT")] = None,
    image_format: Annotated[str, of_request("format", "--format", form="png, jpeg or webp")] = "png",
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("pictures"),
) -> None:
    """Enlarge pictures: the same request as generate, with an image."""
    settings: dict[str, Any] = {"prompt": prompt, "seed": seed, "steps": steps, "noise": noise, "consistent": consistent}
    settings |= {"model": model, "size": _read_size(size), "format": image_format}
    asked = [read_request({**settings, "image": picture}) for picture in pictures_of(pictures)]
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
    from bowerbird.generate import open_chain
    from bowerbird.locate import Opening
    from bowerbird.painted_set import free_name
    from bowerbird.picture_files import SUFFIXES, check_fits, save_picture
    from bowerbird.prompts import in_words
    from bowerbird.repaint import check_enlarges

    for request in requests:
        check_fits(request)
    options = context.obj
    opening = Opening(hardware.dtype_of(options.precision), family, prediction, autoencoder, options.offline, asker(options))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"pictures cannot be kept in {str(out)!r} ({error.strerror}). Name another folder.") from error
    paths: list[str] = []
    finals: list[dict[str, str]] = []
    broken: list[str] = []
    with progress_bar() as on_progress:
        painter = open_chain(requests[0].model, hardware.choose_device(options.device), opening, on_progress)
        if as_set is not None:
            paths, requests = [str(path) for path in as_set(painter, on_progress)], []
        for request in requests:
            try:
                if enlarged:
                    check_enlarges(painter.resolve(request))
                for painted in painter.paint(request, on_progress):
                    name = request.image.stem if request.image and (enlarged or len(requests) > 1) else f"{painted.seed:010d}"
                    path = out / free_name(out, name, SUFFIXES[painted.settings.format])
                    save_picture(painted, path, "algorithmicallyEnhanced" if enlarged else None)
                    paths.append(str(path))
                    finals.append({"picture": str(path), "prompt": in_words(painted.settings), "negative": painted.settings.negative})
            except PictureFolderError as error:
                if len(requests) == 1:
                    raise
                broken.append(str(error))
    print_result(context, {"pictures": paths, "final": finals}, "\n".join(paths))
    if len(finals) > 1:
        typer.echo(f"look at {_write_sheet(out, finals)}", err=True)
    refuse_broken(broken, len(requests))


def _write_sheet(out: Path, finals: list[dict[str, str]]) -> Path:
    """A page of all pictures that were painted, in `out`: it is no picture itself, so the folder can still be judged or learnt from."""
    from bowerbird.pages import render
    from bowerbird.painted_set import free_name
    from bowerbird.storage import Disk, write_file

    page = out / free_name(out, "sheet", ".html")
    pictures = [{"file": Path(each["picture"]).name, "prompt": each["prompt"]} for each in finals]
    write_file(Disk(), page, render("sheet.html", title=f"{len(pictures)} pictures", pictures=pictures).encode("utf-8", "replace"))
    return page


def _read_size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}[xX][0-9]{1,9}", size):
        raise RequestError(f"--size {size!r} is not WIDTHxHEIGHT, for example --size 512x512.")
    width, height = map(int, size.lower().split("x"))
    return width, height


def _read_point(point: str | None) -> tuple[int, int] | None:
    if point is None:
        return None
    x, _, y = point.partition(",")
    if not (x.strip().isdigit() and y.strip().isdigit()):
        raise RequestError(f"--mask-at {point!r} is not X,Y in pixels from the upper left, for example --mask-at 120,80.")
    return int(x), int(y)


def _read_syntax(names: str | None) -> list[str] | None:
    if names is None:
        return None
    return list(get_args(Syntax)) if names == "all" else [name.strip() for name in names.split(",")]


def _read_lora(text: str) -> dict[str, Any]:
    file, colon, weight = text.rpartition(":")
    try:
        asked: dict[str, Any] = {"file": file, "weight": float(weight)} if colon else {"file": text}
    except ValueError:  # the colon belongs to the path
        asked = {"file": text}
    if Path(asked["file"]).is_dir():  # a run of `tune`, or a model folder of one
        from bowerbird.locate import locate
        from bowerbird.model_folder import LORA

        place = locate(asked["file"])
        if place.manifest is None or place.manifest.kind != "lora":
            raise RequestError(
                f"--lora {asked['file']!r} is a model, no LoRA. Give a .safetensors file, or a run of `bowerbird tune` that made one."
            )
        asked["file"] = place.path / LORA
    return asked


def _read_sides(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    sides = {side: pixels for side, _, pixels in (each.partition("=") for each in text.split(","))}
    if not all(re.fullmatch(r"[0-9]{1,9}", pixels) for pixels in sides.values()):
        raise RequestError(f"--outpaint {text!r} is not a list of sides with pixels, for example --outpaint left=128,right=64.")
    return {side: int(pixels) for side, pixels in sides.items()}
