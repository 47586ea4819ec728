"""From pictures to a model: `train`, `tune`, and the `recipes` it follows."""

from __future__ import annotations

import itertools
import json
import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli.app import app
from bowerbird.cli.console import asker, print_result, progress_bar
from bowerbird.errors import RequestError
from bowerbird.recipe import Recipe, built_in_recipes, read_recipe, recipe_text


@app.command()
def recipes(context: typer.Context, name: Annotated[str | None, typer.Argument(help="show this recipe")] = None) -> None:
    """List the built-in recipes, or show one."""
    if name is not None:
        typer.echo(recipe_text(name))
        return
    what = {each: _first_sentence(recipe_text(each)) for each in built_in_recipes()}
    print_result(context, what, "\n".join(f"{each:16} {sentence}" for each, sentence in what.items()))


@app.command()
def train(
    context: typer.Context,
    pictures: Annotated[Path, typer.Argument(help="a folder of pictures")],
    out: Annotated[Path | None, typer.Option(help="the run folder; default runs/<folder>-<recipe>")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="a built-in recipe or a .toml file; see `bowerbird recipes`; by default what the pictures suggest")
    ] = None,
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
    _one_length(hours, count)
    changes = [*(settings or []), *([f"train.pictures={count}"] if count else []), *([f"train.init={init}"] if init is not None else [])]
    if recipe is None:
        recipe, changes = _chosen(context, pictures, changes)
    plan = read_recipe(recipe, changes)
    from bowerbird.pretrained import fetched

    fetched(plan.model.autoencoder, context.obj.offline, asker(context.obj), only_autoencoder=True)  # asked about before anything begins
    _train(context, pictures, out, plan, (hours, price, started), only_forecast)


@app.command()
def tune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="the model to adapt: starter, a run, a model folder; a Stable Diffusion, by a LoRA")],
    pictures: Annotated[Path, typer.Argument(help="a folder of pictures")],
    out: Annotated[Path | None, typer.Option(help="the run folder; default runs/<folder>-<model>-tuned")] = None,
    hours: Annotated[float | None, typer.Option(min=0.001, help="how long it may take, start-up and finish included")] = None,
    count: Annotated[int | None, typer.Option("--pictures", min=1, help="how many pictures the tuning sees in all")] = None,
    trigger: Annotated[str | None, typer.Option(help="for a LoRA: a rare word that is to stand for your pictures")] = None,
    only_forecast: Annotated[bool, typer.Option("--forecast", help="say what it would take, and tune nothing")] = False,
    price: Annotated[float | None, typer.Option("--price-per-hour", min=0, help="of this machine, to forecast the cost")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.field=value, overrides what the model suggests")] = None,
) -> None:
    """Adapt a model to your pictures: a painter, an autoencoder or an upscaler.  The same command goes on with a stopped run."""
    started = time.monotonic()
    _one_length(hours, count)
    from bowerbird.locate import Opening, locate
    from bowerbird.training.base import tuning_recipe

    place = locate(model, Opening(offline=context.obj.offline, ask=asker(context.obj)))
    more = [f"{name}={json.dumps(value)}" for name, value in (("train.pictures", count), ("lora.trigger", trigger)) if value is not None]
    plan = tuning_recipe(place, [*(settings or []), *more])
    if trigger is not None and plan.model.network != "lora":
        raise RequestError(f"--trigger is for Stable Diffusion models; {model!r} is one of ours, which learns your captions. Leave it out.")
    _train(context, pictures, out, plan, (hours, price, started), only_forecast)


def _first_sentence(recipe: str) -> str:
    """What the comment at the head of a recipe begins with, however its lines are broken."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), recipe.splitlines())
    return " ".join(line.removeprefix("#").strip() for line in comment).partition(". ")[0].removesuffix(".") + "."


def _one_length(hours: float | None, count: int | None) -> None:
    if hours is not None and count is not None:
        raise RequestError("--hours and --pictures are both given, and each alone decides the length. Leave one out.")


def _train(
    context: typer.Context,
    pictures: Path,
    out: Path | None,
    plan: Recipe,
    spending: tuple[float | None, float | None, float],
    only_forecast: bool,
) -> None:
    """Train by the recipe, or only say what it would take; spending: a Budget's hours, price and start."""
    from bowerbird import hardware
    from bowerbird.training import Budget, forecast
    from bowerbird.training import train as train_model

    run = out or Path("runs") / f"{pictures.resolve().name}-{plan.name}"
    budget, device = Budget(*spending), hardware.choose_device(context.obj.device)
    with progress_bar() as on_progress:
        if only_forecast:
            plan_of_run = forecast(pictures, plan, budget, device=device, on_progress=on_progress)
        else:
            train_model(pictures, run, plan, device=device, on_progress=on_progress, budget=budget)
    if only_forecast:
        print_result(context, plan_of_run.to_json(), plan_of_run.line())
        return
    page, command = run / "report.html", f"bowerbird generate {shlex.quote(str(run))}"
    print_result(context, {"run": str(run)}, f"{run}: look at {page}, paint with: {command}")


def _chosen(context: typer.Context, pictures: Path, changes: list[str]) -> tuple[str, list[str]]:
    """The recipe that the pictures and the device suggest, said in one line; what was set by hand is set after it."""
    from bowerbird import hardware
    from bowerbird.data.pictures import survey
    from bowerbird.training.choice import choose

    found = survey(pictures, read_recipe("latent-64", changes).data.captions_file)
    choice = choose(found, hardware.choose_device(context.obj.device).type, built_in_recipes())
    if found.pictures:  # else what is wrong with the folder is the only thing to say
        typer.echo(choice.line(), err=True)
    return choice.recipe, [*choice.settings, *changes]
