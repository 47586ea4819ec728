"""The benchmarks.  Each takes the options of the command line and returns what it found, for the record."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from benchmarks import machine, records
from benchmarks.copies import copies
from benchmarks.entrants import ENTRANTS, TRIVIAL, Entrant, our_command
from benchmarks.pictures import BenchPictures, prepare
from benchmarks.steps import pictures_a_second
from benchmarks.upscaling import upscaling
from bowerbird.errors import Stopped
from bowerbird.evaluate import evaluate, metrics
from bowerbird.models.features import extract
from bowerbird.pages import contact_sheet
from bowerbird.pixels import Pixels
from bowerbird.progress import Progress
from bowerbird.training.record import Record

SAMPLES = 64
STEPS_TRIED = (5, 10, 20, 50, 100)
Found = dict[str, Any]


def quality(options: argparse.Namespace) -> Found:
    """Train for so many minutes, paint, and be judged against pictures nobody trained on."""
    bench = prepare(options.pictures, options.splits, options.size, options.work)
    found: Found = {"entrant": options.entrant, "size": options.size, "seed": options.seed}
    if options.entrant in TRIVIAL:
        pixels = TRIVIAL[options.entrant](bench.train, options.count, options.seed)
        found["name"] = f"quality-{options.entrant}-{options.size}px-seed{options.seed}"
    else:
        entrant, variant = ENTRANTS[options.entrant], _variant(options)
        found |= {"variant": variant, "minutes": options.minutes, "prerun": options.prerun}
        found["name"] = _name("quality", options, variant) + "-prerun" * options.prerun
        found["trained"], out = _train(entrant, variant, bench, options)
        paint = entrant.open(out)
        started = time.monotonic()
        pixels = paint(options.count, options.seed + 1, options.steps)
        found["painting"] = {
            "steps": options.steps or entrant.default_steps,
            "seconds_per_picture": (time.monotonic() - started) / options.count,
        }
    scores = _judged(pixels, bench, found["name"], options)
    if not options.prerun:
        options.records.mkdir(parents=True, exist_ok=True)
        _sheet(pixels[:SAMPLES]).save(options.records / f"{found['name']}.webp", quality=80)
    return found | {"scores": scores}


def trial(options: argparse.Namespace) -> Found:
    """One recipe with some settings changed, trained for so many minutes and judged: a step of the recipe study."""
    bench = prepare(options.pictures, options.splits, options.size, options.work)
    recipe = _variant(options)
    found: Found = {"name": f"trial-{options.tag}", "tag": options.tag, "recipe": recipe, "settings": options.set, "size": options.size}
    out = options.work / found["name"]
    shutil.rmtree(out, ignore_errors=True)
    command = our_command(bench.folder, out, options.minutes, options.seed, recipe, options.set)
    child = machine.run_child(command, options.work / f"{found['name']}.log")
    paint = ENTRANTS["ours"].open(Path(f"{out}@latest"))  # not the best by held-out error: two trials would stop at different times
    started = time.monotonic()
    pixels = paint(options.count, options.seed + 1, options.steps)
    found["seconds_per_picture"] = (time.monotonic() - started) / options.count
    looks = [line for line in Record(out / "metrics.jsonl").lines() if "losses" in line]
    return found | {
        "seed": options.seed,
        "minutes": options.minutes,
        "cpu_seconds": child.cpu_seconds,
        "pictures_seen": looks[-1]["seen"],
        "held_out_errors": looks[-1]["losses"],
        "scores": _judged(pixels, bench, found["name"], options),
    }


def painting(options: argparse.Namespace) -> Found:
    """Seconds per picture against KID, by number of steps, of one trained model."""
    bench = prepare(options.pictures, options.splits, options.size, options.work)
    entrant, variant = ENTRANTS[options.entrant], _variant(options)
    _, out = _train(entrant, variant, bench, options)
    paint, held, sweep = entrant.open(out), extract(bench.held), []
    paint(1, 0, STEPS_TRIED[0])  # warms up
    for steps in STEPS_TRIED:
        started = time.monotonic()
        pixels = paint(options.count, options.seed + 1, steps)
        seconds = (time.monotonic() - started) / options.count
        (kid,) = metrics.compare(metrics.kid, extract(pixels), held)
        sweep.append({"steps": steps, "seconds_per_picture": seconds, "kid": {"value": 1000 * kid.value, "margin": 1000 * kid.margin}})
    name = _name("painting", options, variant)
    return {"name": name, "entrant": options.entrant, "variant": variant, "minutes": options.minutes, "seed": options.seed, "sweep": sweep}


def speed(options: argparse.Namespace) -> Found:
    """Training pictures a second of our loop and of diffusers' recipe on the same U-Net, in turns, median of the rounds."""
    from benchmarks.train_diffusers import BATCH, Recipe, batches
    from bowerbird.models.unet import unet_class, unet_config
    from bowerbird.recipe import read_recipe
    from bowerbird.training import train

    bench = prepare(options.pictures, options.splits, options.size, options.work)
    steps, rounds = 4, 3
    ours, theirs = [], []
    theirs_recipe = Recipe(unet_class()(**unet_config(options.network, options.size, 3, 0, 0.0)))
    draw = batches(bench.folder)
    recipe = read_recipe("pixel-64-ddpm", [f"unet.size={options.network}", f"data.size={options.size}", f"train.batch={BATCH}"])
    for number in range(rounds):
        stamps: list[float] = []

        def listen(event: Progress, stamps: list[float] = stamps) -> bool:
            if event.stage == "train":
                stamps.append(time.monotonic())
            return len(stamps) <= steps

        out = options.work / f"speed-{number}"
        try:
            train(bench.folder, out, recipe, device=torch.device("cpu"), on_progress=listen)
        except Stopped:
            shutil.rmtree(out)
        ours += np.diff(stamps).tolist()
        for _ in range(steps):
            started = time.monotonic()
            theirs_recipe.step(draw())
            theirs.append(time.monotonic() - started)
    return {
        "name": f"speed-{options.network}",
        "network": options.network,
        "batch": BATCH,
        "ours": BATCH / statistics.median(ours),
        "diffusers": BATCH / statistics.median(theirs),
    }


def startup(options: argparse.Namespace) -> Found:
    """Seconds from pressing return: help, import, and the first picture from the same U-Net, ours and through diffusers."""
    bench = prepare(options.pictures, options.splits, options.size, options.work)
    run = options.work / f"startup-{options.network}"
    if not run.exists():
        train = [sys.executable, "-m", "bowerbird", "train", str(bench.folder), "--out", str(run), "--recipe", "pixel-64-ddpm"]
        settings = (f"unet.size={options.network}", "train.batch=1", "data.held_out=0", "sample.count=1", "sample.steps=1")
        sets = [word for setting in settings for word in ("--set", setting)]
        machine.run_child([*train, "--pictures", "1", *sets], options.work / "startup.log")
    from bowerbird.locate import locate

    theirs = (
        "from diffusers import DDIMScheduler, DDPMPipeline; "
        f"p = DDPMPipeline.from_pretrained({str(locate(run).path)!r}); p.scheduler = DDIMScheduler.from_config(p.scheduler.config); "
        "p(num_inference_steps=20).images[0].save('/dev/null', 'PNG')"
    )
    python, ours = [sys.executable, "-c"], [sys.executable, "-m", "bowerbird"]
    commands = {
        "python -c pass": [*python, "pass"],
        "bowerbird --help": [*ours, "--help"],
        "import bowerbird": [*python, "import bowerbird"],
        "first picture, bowerbird generate, 20 steps": [*ours, "generate", str(run), "--steps", "20", "--out", str(options.work / "first")],
        "first picture, diffusers' DDPMPipeline, 20 DDIM steps": [*python, theirs],
    }
    log = options.work / "startup.log"
    return {
        "name": f"startup-{options.network}",
        "seconds": {what: min(machine.run_child(command, log).seconds for _ in range(3)) for what, command in commands.items()},
    }


def judging(options: argparse.Namespace) -> Found:
    """Seconds of `bowerbird evaluate` for `count` small files against as many full-sized ones: decoding included, nothing cached."""
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        painted, real = Path(folder) / "painted", Path(folder) / "real"
        sources = sorted(path for path in options.pictures.glob("**/*") if path.suffix in (".webp", ".png", ".jpg"))
        for number in range(2 * options.count):
            with Image.open(sources[number % len(sources)]) as source:
                picture = source.convert("RGB")
            if number >= len(sources):  # another round, mirrored: other pictures to the machine
                picture = ImageOps.mirror(picture)
            target = (painted, real)[number % 2] / f"{number:06d}.webp"
            target.parent.mkdir(exist_ok=True)
            (picture.resize((options.size, options.size)) if number % 2 == 0 else picture).save(target, lossless=number % 2 == 0)
        command = [sys.executable, "-m", "bowerbird", "evaluate", str(painted), "--against", str(real), "--out", f"{folder}/report"]
        child = machine.run_child(command, options.work / "judging.log", cache=Path(folder) / "cache")
    return {"name": f"judging-{options.count}", "count": options.count, **asdict(child)}


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "quality": quality,
    "trial": trial,
    "painting": painting,
    "speed": speed,
    "steps": pictures_a_second,
    "startup": startup,
    "judging": judging,
    "copies": copies,
    "upscaling": upscaling,
}


def _judged(pixels: Pixels, bench: BenchPictures, name: str, options: argparse.Namespace) -> Found:
    """The scores against `held`, as `evaluate` tells them, with its report among the work."""
    scores = evaluate(pixels, bench.held, train=bench.train, out=options.work / "reports" / name, count=options.count).to_json()
    for which in ("copied", "originals"):  # each one by its number: for the report, not for a table
        del scores["copies"][which]
    return scores


def _name(benchmark: str, options: argparse.Namespace, variant: str) -> str:
    return f"{benchmark}-{options.entrant}-{variant}-{options.size}px-{options.minutes:g}min-seed{options.seed}"


def _variant(options: argparse.Namespace) -> str:
    """The variant asked for, else the winner of the pre-runs."""
    variants = ENTRANTS[options.entrant].variants
    chosen = options.variant or records.best_variant(options.records, options.entrant, options.size)
    if chosen is None and len(variants) == 1:
        return variants[0]
    if chosen is None:
        raise SystemExit(f"first choose a size of {options.entrant}: run quality --prerun --variant with each of {', '.join(variants)}.")
    return str(chosen)


def _train(entrant: Entrant, variant: str, bench: BenchPictures, options: argparse.Namespace) -> tuple[Found, Path]:
    """Train in a process of its own, or take what an equal run left; what it took, and where the model is."""
    out = options.work / _name("trained", options, variant)
    marker = out / "benchmark.json"
    if marker.exists():
        return json.loads(marker.read_text()), out
    shutil.rmtree(out, ignore_errors=True)
    command = entrant.command(bench.folder, out, options.minutes, options.seed, variant)
    child = machine.run_child(command, options.work / f"{out.name}.log")
    found = {**asdict(child), **entrant.training(out)}
    marker.write_text(json.dumps(found))
    return found, out


def _sheet(pixels: Pixels) -> Image.Image:
    return contact_sheet([Image.fromarray(picture) for picture in pixels], columns=8)
