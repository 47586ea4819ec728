"""The command line: one function a command.  Words for people go to standard error, results to standard output.

Exit codes: 0 done, 1 our bug, 2 the user can mend it (one sentence, no traceback), 75 stopped and resumable.
Heavy imports stay inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python

from bowerbird.errors import BowerbirdError, RequestError, ResourceError
from bowerbird.progress import OnProgress, Progress
from bowerbird.recipe import built_in_recipes, read_recipe, recipe_text
from bowerbird.request import PaintRequest, read_request

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.splitlines()[0] if __doc__ else None
)


# Options of every command may stand anywhere on the line; `main` moves them to the front, where typer looks for them.
_EVERYWHERE = {"--json": False, "--offline": False, "--yes": False, "--device": True, "--precision": True}  # name: takes a value


@dataclass
class Everywhere:
    """The options every command takes."""

    json: bool = False
    device: str | None = None
    precision: str = "auto"
    offline: bool = False
    yes: bool = False


@app.callback(help="Train image generators on your own pictures, and paint with them.")
def _everywhere(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the best there is by default")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16")] = "auto",
    offline: Annotated[bool, typer.Option("--offline", help="never download anything")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="answer yes to every question")] = False,
) -> None:
    context.obj = Everywhere(as_json, device, precision, offline, yes)


@app.command()
def inspect(
    context: typer.Context,
    pictures: Annotated[Path, typer.Argument(help="a folder of pictures, or a .zip, .tar or .tgz of one")],
    size: Annotated[int, typer.Option(help="side of the training pictures in pixels, to show what training would see")] = 64,
    fit: Annotated[str, typer.Option(help="crop or pad")] = "crop",
    out: Annotated[Path | None, typer.Option(help="folder for report.html and data.json")] = None,
) -> None:
    """Tell what lies in a folder: counts, sizes, captions, rejected files and why, and what training would see."""
    from bowerbird.data.report import inspect as look_through

    if fit not in ("crop", "pad"):
        raise RequestError(f"--fit {fit!r} is not possible. Choose crop or pad.")
    with _progress_bar() as on_progress:
        inspection = look_through(pictures, size, "pad" if fit == "pad" else "crop", out, on_progress)
    page = f"\nlook at {out / 'report.html'}" if out else ""
    _print(context, inspection.to_json(), inspection.to_text() + page)


@app.command()
def recipes(context: typer.Context, name: Annotated[str | None, typer.Argument(help="show this recipe")] = None) -> None:
    """List the built-in recipes, or show one."""
    if name is not None:
        typer.echo(recipe_text(name))
        return
    first_lines = {each: recipe_text(each).splitlines()[0].removeprefix("# ") for each in built_in_recipes()}
    _print(context, first_lines, "\n".join(f"{each:16} {line}" for each, line in first_lines.items()))


@app.command()
def train(
    context: typer.Context,
    pictures: Annotated[Path, typer.Argument(help="a folder of pictures")],
    out: Annotated[Path | None, typer.Option(help="the run folder; default runs/<folder>-<recipe>")] = None,
    recipe: Annotated[str, typer.Option(help="a built-in recipe or a .toml file; see `bowerbird recipes`")] = "latent-64",
    hours: Annotated[float | None, typer.Option(min=0.001, help="how long it may take, start-up and finish included")] = None,
    count: Annotated[int | None, typer.Option("--pictures", min=1, help="how many pictures the training sees in all")] = None,
    only_forecast: Annotated[bool, typer.Option("--forecast", help="say what it would take, and train nothing")] = False,
    price: Annotated[float | None, typer.Option("--price-per-hour", min=0, help="of this machine, to forecast the cost")] = None,
    init: Annotated[
        str | None, typer.Option(help="whose weights a new run begins with, where they fit: starter, a lower rung; '' for none")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.field=value, overrides the recipe")] = None,
) -> None:
    """Train a model on your pictures.  The same command goes on with a stopped run; more --hours or --pictures extend a finished one."""
    started = time.monotonic()
    if hours is not None and count is not None:
        raise RequestError("--hours and --pictures are both given, and each alone decides the length. Leave one out.")
    changes = [*(settings or []), *([f"train.pictures={count}"] if count else []), *([f"train.init={init}"] if init is not None else [])]
    plan = read_recipe(recipe, changes)
    run = out or Path("runs") / f"{pictures.resolve().name}-{plan.name}"
    from bowerbird import hardware
    from bowerbird.pretrained import fetched
    from bowerbird.training import Budget, forecast
    from bowerbird.training import train as train_model

    budget, device = Budget(hours, price, started), hardware.choose_device(context.obj.device)
    fetched(plan.model.autoencoder, context.obj.offline, _asker(context.obj), only_autoencoder=True)  # asked about before anything begins
    with _progress_bar() as on_progress:
        if only_forecast:
            plan_of_run = forecast(pictures, plan, budget, device=device, on_progress=on_progress)
        else:
            train_model(pictures, run, plan, device=device, on_progress=on_progress, budget=budget)
    if only_forecast:
        _print(context, plan_of_run.to_json(), plan_of_run.line())
        return
    _print(context, {"run": str(run)}, f"{run}: look at {run / 'report.html'}, paint with: bowerbird generate {run}")


@app.command()
def generate(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="a run, RUN@latest, a model or diffusers folder, a checkpoint, a hub name")] = None,
    prompt: Annotated[str | None, typer.Argument(help="what to paint, for models that read text")] = None,
    negative: Annotated[str | None, typer.Option(help="what to avoid, for models that read text")] = None,
    label: Annotated[str | None, typer.Option(help="which class to paint")] = None,
    count: Annotated[int | None, typer.Option(help="how many pictures")] = None,
    seed: Annotated[int | None, typer.Option(help="picture i starts from seed + i")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels")] = None,
    steps: Annotated[int | None, typer.Option(help="sampling steps: more is finer and slower")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddpm, ddim, euler, heun or dpm++2m; Stable Diffusion: euler-ancestral, lcm")] = None,
    guidance: Annotated[float | None, typer.Option(help="how strongly the condition steers; 1 means no guidance")] = None,
    speed: Annotated[str | None, typer.Option(help="fast, normal or fine: half, once or twice the usual steps (Stable Diffusion)")] = None,
    lora: Annotated[list[str] | None, typer.Option(help="FILE or FILE:WEIGHT, may be repeated")] = None,
    image: Annotated[Path | None, typer.Option(help="a picture to start from")] = None,
    mask: Annotated[Path | None, typer.Option(help="white where the picture is painted anew")] = None,
    outpaint: Annotated[str | None, typer.Option(help="sides to continue, such as left=128,right=64")] = None,
    strength: Annotated[float | None, typer.Option(help="how far to move from the picture, 0 to 1; usually 0.6, with a mask 1")] = None,
    again: Annotated[
        Path | None, typer.Option("--from", help="repeat the request this picture was painted with; other options change it")
    ] = None,
    exact: Annotated[bool | None, typer.Option("--exact", help="paint one at a time: the same bytes whatever the count")] = None,
    image_format: Annotated[str | None, typer.Option("--format", help="png, jpeg or webp")] = None,
    family: Annotated[str | None, typer.Option(help="family of a Stable Diffusion checkpoint, where the guess is wrong")] = None,
    prediction: Annotated[str | None, typer.Option(help="eps or v, where the guess is wrong")] = None,
    autoencoder: Annotated[str | None, typer.Option(help="for somebody's latent model that comes without one")] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("pictures"),
) -> None:
    """Paint pictures."""
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
    fields = _request_of(again) if again else {}
    fields |= {name: value for name, value in asked.items() if value is not None}
    if "model" not in fields:
        raise RequestError("which model should paint? Give a run, a model folder, a checkpoint or a hub name, or --from PICTURE.")
    _paint(context, [read_request(fields)], out, family, prediction, autoencoder)


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
) -> None:
    """Paint the requests, all of one model, and save the pictures; enlarged ones are named and marked after what they were."""
    from bowerbird import hardware
    from bowerbird.generate import Opening, open_model
    from bowerbird.picture_metadata import SUFFIXES, check_fits, save_picture

    for request in requests:
        check_fits(request)
    options = context.obj
    opening = Opening(hardware.dtype_of(options.precision), family, prediction, autoencoder, options.offline, _asker(options))
    painter = open_model(requests[0].model, hardware.choose_device(options.device), opening)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"pictures cannot be kept in {str(out)!r} ({error.strerror}). Name another --out.") from error
    paths = []
    with _progress_bar() as on_progress:
        for request in requests:
            for painted in painter.paint(request, on_progress):
                name = request.image.stem if enlarged and request.image else f"{painted.seed:010d}"
                path = _free_name(out, name, SUFFIXES[painted.settings.format])
                save_picture(painted, path, "algorithmicallyEnhanced" if enlarged else None)
                paths.append(str(path))
    _print(context, {"pictures": paths}, "\n".join(paths))


@app.command()
def evaluate(
    context: typer.Context,
    generated: Annotated[str, typer.Argument(help="a model, which then paints, an autoencoder, which restores, or a folder of pictures")],
    against: Annotated[Path, typer.Option(help="real pictures that were not trained on, or the training folder for its held-out ones")],
    train: Annotated[Path | None, typer.Option(help="the pictures that were trained on, to look for copies of them")] = None,
    count: Annotated[int, typer.Option(help="how many pictures a model paints")] = 1000,
    seed: Annotated[int, typer.Option(help="picture i starts from seed + i")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for report.html and report.json")] = None,
) -> None:
    """Judge pictures: how near to real ones, how varied, and whether they copy."""
    from bowerbird import hardware
    from bowerbird.evaluate import evaluate as judge
    from bowerbird.evaluate import open_restorer
    from bowerbird.generate import is_autoencoder, is_model, open_model

    device = hardware.choose_device(context.obj.device)
    if is_autoencoder(generated):
        subject: Any = open_restorer(generated, device)
    else:
        subject = open_model(generated, device) if is_model(generated) else Path(generated)
    with _progress_bar() as on_progress:
        report = judge(subject, against, train, out, on_progress, count=count, seed=seed, device=device)
    page = f"\nlook at {out / 'report.html'}" if out else ""
    _print(context, report.to_json(), report.to_text() + page)


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
    _print(context, dataclasses.asdict(done), f"{done.file}: {done.tensors:,} tensors, {done.bytes / 1e6:,.1f} MB{left}")


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
    _print(context, document, _to_json(document, indent=1))


def _tell_of_the_cache(context: typer.Context, clear: bool) -> None:
    from bowerbird.data.cache import cache_entries, cache_root, clear_cache

    if clear:
        freed = clear_cache()
        _print(context, {"freed_bytes": freed}, f"{freed / 1e6:,.1f} MB freed in {cache_root()}")
        return
    entries = cache_entries()
    total = sum(entry.bytes for entry in entries)
    document = {"folder": str(cache_root()), "bytes": total, "entries": [dataclasses.asdict(entry) for entry in entries]}
    _print(context, document, f"{total / 1e6:,.1f} MB for {len(entries)} folders of pictures in {cache_root()}; --clear empties it")


def main() -> None:
    """Run a command; BowerbirdError becomes its sentence and its exit code."""
    warnings.showwarning = _show_warning
    try:
        app(_everywhere_first(sys.argv[1:]), standalone_mode=False)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(75)
    except BowerbirdError as error:
        sys.exit(_say(str(error), error.exit_code))
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a wrong option or argument, found by typer
            sys.exit(_say(error.format_message(), 2))
        raise


def _everywhere_first(arguments: list[str]) -> list[str]:
    """Move the options of every command to the front of the line."""
    front, rest, words = [], [], iter(arguments)
    for word in words:
        name = word.partition("=")[0]
        if name not in _EVERYWHERE:
            rest.append(word)
            continue
        front.append(word)
        if _EVERYWHERE[name] and "=" not in word:
            front += [value for value in [next(words, None)] if value is not None]
    return front + rest


def _say(sentence: str, code: int) -> int:
    typer.echo(sentence, err=True)
    return code


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
) -> None:
    if issubclass(category, UserWarning):
        typer.echo(f"note: {message}", err=True)


def _print(context: typer.Context, document: Any, words: str) -> None:
    typer.echo(_to_json(document) if context.obj.json else words)


def _to_json(document: Any, indent: int | None = None) -> str:
    """JSON of plain values, paths and pydantic models."""
    return json.dumps(document, indent=indent, ensure_ascii=False, default=to_jsonable_python)


def _read_size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    width, _, height = size.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise RequestError(f"--size {size!r} is not WIDTHxHEIGHT, for example --size 512x512.")
    return int(width), int(height)


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
    if not all(pixels.isdigit() for pixels in sides.values()):
        raise RequestError(f"--outpaint {text!r} is not a list of sides with pixels, for example --outpaint left=128,right=64.")
    return {side: int(pixels) for side, pixels in sides.items()}


def _request_of(picture: Path) -> dict[str, Any]:
    from bowerbird.picture_metadata import read_metadata

    metadata = read_metadata(picture)
    if not metadata.fields:
        raise RequestError(f"{str(picture)!r} does not say how it was painted. {metadata.note}".rstrip())
    return dict(metadata.fields)


def _asker(options: Everywhere) -> Any:
    """The question before a download: answered by --yes, or by a person at a terminal; otherwise it is no."""
    if options.yes:
        return lambda download: True
    return (lambda download: typer.confirm(f"download {download}?", err=True)) if sys.stdin.isatty() else None


def _free_name(folder: Path, name: str, suffix: str) -> Path:
    """<name>.png, or <name>-2.png ... when that picture is there already: nothing of the user's is overwritten."""
    names = (f"{name}{extra}{suffix}" for extra in ("", *(f"-{n}" for n in range(2, 10_000))))
    return next(folder / name for name in names if not (folder / name).exists())


@contextmanager
def _progress_bar() -> Iterator[OnProgress]:
    """A bar on standard error for people; where that is not a terminal, a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}
        said = {"at": 0.0}

        def on_progress(event: Progress) -> None:
            if event.stage == "forecast":  # to be read before the first step, and to stay
                console.print(event.note, highlight=False, soft_wrap=True)
                return
            note = event.note or (f"loss {event.loss:.4f}" if event.loss is not None else "")
            if event.stage not in tasks:
                tasks[event.stage] = bars.add_task(event.stage, total=event.total, note=note)
            bars.update(tasks[event.stage], completed=event.done, total=event.total, note=note)
            if not console.is_terminal and _worth_a_line(event, said):
                typer.echo(f"{event.stage} {event.done:,}/{event.total:,} {note}".rstrip(), err=True)

        yield on_progress


def _worth_a_line(event: Progress, said: dict[str, float]) -> bool:
    """Each tenth of the work, for logs."""
    if not event.total:  # a count whose end is not known yet
        return False
    share = event.done / event.total
    if said.get(event.stage, -1.0) + 0.1 > share and event.done < event.total:
        return False
    said[event.stage] = share
    return True
