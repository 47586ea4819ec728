"""Proof: a file that makes no sense gets a sentence, in time, and leads to no other file.

    make prove-files           writes proof/malformed.json
    python proofs/malformed.py --count 200 --only "a run's run.json"

Each kind of file that Bowerbird reads is broken again and again (seeded), put in its place, and met by the commands that
read it, in this process.  Each must end well or in a sentence with exit code 2; anything else is a traceback.  None may take
ten seconds of the processor, and none may open a file that neither the command names nor an honest file leads to.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import re
import resource
import shutil
import sys
import tarfile
import tempfile
import time
import tomllib
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import diffusers  # noqa: E402
import torch  # noqa: E402
from PIL import Image, PngImagePlugin  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402
from tests.audit import Audit  # noqa: E402
from tests.conftest import tiny_recipe  # noqa: E402
from tests.data.mutants import mutant, seeds  # noqa: E402
from tests.data.small_cub import small_cub  # noqa: E402
from tests.malformed import broken_bytes, broken_safetensors, broken_toml, documents, resealed  # noqa: E402
from tests.pretrained import checkpoints  # noqa: E402
from tests.pretrained.test_autoencoders import KINDS as AUTOENCODERS  # noqa: E402
from tests.pretrained.test_captioner import blip, tokenizer  # noqa: E402
from tests.pretrained.test_ddpm_folder import unet  # noqa: E402
from tests.server.conftest import Served  # noqa: E402

from bowerbird.cli import main as program  # noqa: E402
from bowerbird.data.archives import open_archive  # noqa: E402
from bowerbird.errors import BowerbirdError  # noqa: E402
from bowerbird.generate import open_autoencoder  # noqa: E402
from bowerbird.jobs import Catalogue, Queue  # noqa: E402
from bowerbird.jobs.job import REQUESTS  # noqa: E402
from bowerbird.jobs.requests import read_job_request  # noqa: E402
from bowerbird.pretrained import families  # noqa: E402
from bowerbird.recipe import read_recipe, recipe_text, write_recipe  # noqa: E402

MAX_SECONDS = 10.0  # of the processor, so that a verdict does not depend on what else the machine is doing
SLOW = 0.1  # share of the count for what paints or trains each time
INSTALLATION = tuple(str(Path(place).resolve()) for place in (sys.prefix, sys.base_prefix, ROOT / "src", "/usr", "/lib", "/proc", "/sys"))


@dataclass
class Kind:
    """One kind of file.  put: write broken bytes in its place; commands: what reads it; inside: the places they name."""

    place: Path
    commands: tuple[Callable[[], object], ...]
    inside: tuple[Path, ...]
    broken: Callable[[bytes, int, int], Iterator[bytes]] = broken_bytes
    put: Callable[[bytes], None] | None = None
    share: float = 1.0
    good: bytes = b""


@dataclass
class Tally:
    files: int = 0
    refused: int = 0
    tracebacks: Counter[str] = field(default_factory=Counter)
    hangs: list[str] = field(default_factory=list)
    strangers: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0


def command(*words: object) -> Callable[[], None]:
    """`bowerbird WORDS` in this process; BowerbirdError where it would end with exit code 2, in one sentence."""

    def run() -> None:
        said, before = io.StringIO(), sys.argv
        sys.argv = ["bowerbird", *map(str, words)]
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
                program()
        except SystemExit as ending:
            if ending.code not in (0, None, 2):
                raise RuntimeError(f"exit code {ending.code}: {said.getvalue()[-500:]}") from ending
            if ending.code == 2:
                sentence = said.getvalue().strip()
                if not 0 < len(sentence) < 4_000:
                    raise RuntimeError(f"a sentence of {len(sentence)} letters: {sentence[:300]}") from ending
                raise BowerbirdError(sentence) from ending
        finally:
            sys.argv = before

    return run


def of_json(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    whole = json.loads(data)
    return itertools.islice(documents(whole, count - count // 3, seed), count)


def met(kind: Kind, tally: Tally, data: bytes | None, allowed: set[str]) -> set[str]:
    """Let the commands meet what lies there now, `data` if it is broken; the files they opened outside."""
    outside: set[str] = set()
    refused = False
    for work in kind.commands:
        began = _seconds()
        wrong: Exception | None = None
        with Audit() as audit:
            try:
                work()
            except BowerbirdError:
                if data is None:
                    raise
                refused = True
            except Exception as error:
                if data is None:
                    raise  # the whole file: a fault of this proof
                wrong = error
        took = _seconds() - began
        tally.longest = max(tally.longest, took)
        if data is not None and wrong is not None:
            tally.tracebacks[_told(wrong)] += 1
            _keep_for_study(kind, data, wrong)
        if data is not None and took > MAX_SECONDS:
            tally.hangs.append(f"{took:.0f} s over {data[:200]!r}")
            _keep_for_study(kind, data, None)
        outside |= {path for path in audit.opened if not _is_inside(path, kind.inside)}
    tally.refused += refused
    tally.strangers.update(outside - allowed if data is not None else ())
    return outside


def prove(kind: Kind, count: int, seed: int) -> Tally:
    tally, good = Tally(), kind.good or kind.place.read_bytes()
    put = kind.put or kind.place.write_bytes
    put(good)
    allowed = met(kind, tally, None, set())  # also whatever is imported late, and the system's own files
    tally.refused, tally.longest = 0, 0.0
    for data in kind.broken(good, max(20, round(count * kind.share)), seed):
        put(data)
        tally.files += 1
        met(kind, tally, data, allowed)
    put(good)
    return tally


def _is_inside(path: str, inside: tuple[Path, ...]) -> bool:
    if path.isdigit():  # a descriptor that was open already
        return True
    whole = os.path.realpath(path)
    return whole.startswith(INSTALLATION) or any(whole == str(place) or whole.startswith(f"{place}/") for place in inside)


def _seconds() -> float:
    """Of the processor, in this process and in its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _told(error: Exception) -> str:
    """What it was, and the last line of ours that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    last = [frame for frame in frames if "src/bowerbird" in frame.filename][-1:] or frames[-1:]
    return f"{type(error).__name__}: {str(error)[:150]} ({Path(last[0].filename).name}:{last[0].lineno})"


def _keep_for_study(kind: Kind, data: bytes, error: Exception | None) -> None:
    folder = ROOT / "proof" / "malformed"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{len(list(folder.iterdir())) // 2:04d}"
    if int(stem) < 300:
        (folder / f"{stem}{kind.place.suffix}").write_bytes(data)
        (folder / f"{stem}.txt").write_text(f"{kind.place}\n" + "".join(traceback.format_exception(error)) if error else "too long")


# ------------------------------------------------------------------------------------------------ the kinds


def our_folders(home: Path) -> Iterator[tuple[str, Kind]]:
    """Model folders, runs, recipes, painted sets."""
    pictures, run = home / "pictures", home / "run"
    _write_pictures(pictures)
    recipe = tiny_recipe(
        model={"autoencoder": "autoencoder-8x"}, transformer={"patch": 1}, condition={"label": True, "text": True},
        train={"pictures": 16, "save_every": 8},
    )  # fmt: skip
    recipe_file, out = home / "recipe.toml", home / "out"
    recipe_file.write_text(write_recipe(recipe))
    train = command("train", pictures, "--recipe", recipe_file, "--out", run)
    train()
    model = home / "model"
    shutil.copytree(max((run / "models").iterdir()), model)
    paint, info = command("generate", model, "--steps", 1, "--seed", 0, "--out", out), command("info", model)
    manifest = (model / "bowerbird.json").read_bytes()
    inside = (home, _cache())
    yield "a model's bowerbird.json", Kind(model / "bowerbird.json", (paint, info), inside, of_json)

    def sealed(name: str) -> Callable[[bytes], None]:
        def put(data: bytes) -> None:
            (model / "bowerbird.json").write_bytes(manifest)
            resealed(model, "bowerbird.json", name, data)

        return put

    for name in sorted(json.loads(manifest)["files"]):
        broken = {".json": of_json, ".safetensors": broken_safetensors}.get(Path(name).suffix, broken_bytes)
        share = SLOW if name.startswith("vae/") and broken is broken_safetensors else 1.0  # megabytes hashed each time
        yield f"a model's {name}", Kind(model / name, (paint, info), inside, broken, sealed(name), share)
    large = home / "upscaler"
    shutil.copytree(ROOT / "src/bowerbird/models/bundled/upscaler-4x", large)
    enlarge = command("upscale", large, pictures / "warm/000.png", "--seed", 0, "--out", out)
    above = (large / "bowerbird.json").read_bytes()

    def put_upscaler(data: bytes) -> None:
        (large / "bowerbird.json").write_bytes(above)
        resealed(large, "bowerbird.json", "upscaler/config.json", data)

    yield "an upscaler's bowerbird.json", Kind(large / "bowerbird.json", (enlarge,), inside, of_json, share=SLOW)
    yield "an upscaler's config.json", Kind(large / "upscaler/config.json", (enlarge,), inside, of_json, put_upscaler, SLOW)

    whole = home / "whole"
    shutil.copytree(run, whole)
    paint_run, describe = command("generate", run, "--steps", 1, "--seed", 0, "--out", out), command("info", run)
    checkpoint = max((run / "checkpoints").iterdir()).name

    def anew(name: str) -> Callable[[bytes], None]:
        def put(data: bytes) -> None:
            shutil.rmtree(run)
            shutil.copytree(whole, run)
            (run / name).write_bytes(data)

        return put

    for name, commands in {
        "run.json": (paint_run, describe, train), f"checkpoints/{checkpoint}/checkpoint.json": (train,), "recipe.toml": (train,),
        "metrics.jsonl": (train,), "data.json": (train, command("describe", pictures / "warm/000.png", "--like", run)),
    }.items():  # fmt: skip
        broken = {".json": of_json, ".toml": broken_toml}.get(Path(name).suffix, broken_bytes)
        yield f"a run's {Path(name).name}", Kind(run / name, commands, inside, broken, anew(name), SLOW)
    checkpoint_manifest = (run / "checkpoints" / checkpoint / "checkpoint.json").read_bytes()

    def anew_sealed(name: str) -> Callable[[bytes], None]:
        def put(data: bytes) -> None:
            place = run / "checkpoints" / checkpoint
            anew("run.json")((whole / "run.json").read_bytes().replace(b'"finished": true', b'"finished": false'))
            (place / "checkpoint.json").write_bytes(checkpoint_manifest)
            resealed(place, "checkpoint.json", name, data)

        return put

    for name in ("weights.safetensors", "optimizer.safetensors"):
        place = run / "checkpoints" / checkpoint / name
        yield f"a checkpoint's {name}", Kind(place, (train,), inside, broken_safetensors, anew_sealed(name), SLOW)
    for name in ("latent-64", "pixel-64", "upscale-256"):
        file = home / f"{name}.toml"
        file.write_text(recipe_text(name))
        yield f"a recipe, {name}", Kind(file, (lambda file=file: read_recipe(file),), inside, broken_toml)  # type: ignore[misc]
    shown = home / "set"
    paint_set = command("generate", model, "--per-label", 1, "--steps", 1, "--seed", 1, "--out", shown)
    paint_set()
    for name in ("provenance.json", "metadata.csv"):
        broken = of_json if name.endswith("json") else broken_bytes
        yield f"a painted set's {name}", Kind(shown / name, (paint_set,), inside, broken, share=SLOW)
    for suffix, text in {
        "csv": b'prompt,label,seed,steps,count,size\n"a red bird",warm,1,1,1,\n"a blue one",cold,2,1,1,\n',
        "jsonl": b'{"prompt": "a bird", "label": "warm", "seed": 1, "steps": 1}\n{"prompt": "a disc", "seed": 3, "steps": 1}\n',
        "txt": b"a red bird\n# a (blue:1.2) [[red, green]] disc __colour__\n",
    }.items():
        file = home / f"prompts.{suffix}"
        file.write_bytes(text)
        works = command("generate", model, "--prompts", file, "--steps", 1, "--seed", 1, "--out", home / "prompted")
        yield f"prompts, .{suffix}", Kind(file, (_emptied(home / "prompted", works),), inside, share=SLOW * 3)


def other_peoples(home: Path) -> Iterator[tuple[str, Kind]]:
    """Stable Diffusion, DDPMs, autoencoders, captioners and LoRA files."""
    checkpoints.write_tiny_families(home / "families")
    families._HERE = home / "families"
    out, inside = home / "out", (home, _cache())
    made = checkpoints.networks(home / "families/sd15")
    folder = checkpoints.write_diffusers_folder(home / "sd", made, home / "families/sd15")
    asked = ("a bird", "--steps", 1, "--seed", 0, "--size", "64x64", "--out", out)
    paint = command("generate", folder, *asked)
    for name in (
        "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ):  # fmt: skip
        yield f"Stable Diffusion's {name}", Kind(folder / name, (paint,), inside, of_json, share=0.25)
    for name, broken in {"tokenizer/vocab.json": of_json, "tokenizer/merges.txt": broken_bytes}.items():
        yield f"Stable Diffusion's {name}", Kind(folder / name, (paint,), inside, broken, share=SLOW / 2)
    yield (
        "Stable Diffusion's unet weights",
        Kind(folder / "unet/diffusion_pytorch_model.safetensors", (paint,), inside, broken_safetensors, share=0.25),
    )
    single = home / "single.safetensors"
    save_file(checkpoints.single_file(made, "sd15", half=False), single)
    yield "a single-file checkpoint", Kind(single, (command("generate", single, *asked), command("info", single)), inside,
                                           broken_safetensors, share=0.25)  # fmt: skip
    (home / "loras").mkdir()
    loras, _ = checkpoints.lora_files(home / "loras", made["unet"])
    for naming, file in loras.items():
        yield f"a LoRA as {naming} names it", Kind(file, (command("generate", folder, *asked, "--lora", file),), inside,
                                                   broken_safetensors, share=0.25)  # fmt: skip
    ddpm = home / "ddpm"
    unet().save_pretrained(ddpm / "unet")
    diffusers.DDPMScheduler().save_pretrained(ddpm / "scheduler")
    (ddpm / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}))
    each = tuple(command("generate", ddpm, "--steps", 1, "--seed", 0, "--sampler", name, "--out", out) for name in ("ddim", "ddpm"))
    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        yield f"a DDPM's {name}", Kind(ddpm / name, each, inside, of_json)
    weights_of = ddpm / "unet/diffusion_pytorch_model.safetensors"
    yield "a DDPM's weights", Kind(weights_of, each[:1], inside, broken_safetensors, share=0.25)
    for kind in ("sd", "dc-32", "tiny", "vq"):
        cls, settings = AUTOENCODERS[kind][:2]
        place = home / f"autoencoder-{kind}"
        getattr(diffusers, cls)(**settings).save_pretrained(place)
        yield f"{cls}'s config.json", Kind(place / "config.json", (_reconstruct(place),), inside, of_json, share=0.25)
    captioner = home / "captioner"
    blip().save_pretrained(captioner)
    tokenizer().save_pretrained(captioner)
    look = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (captioner / "preprocessor_config.json").write_text(json.dumps(look))
    Image.radial_gradient("L").convert("RGB").save(home / "look.png")
    told = command("describe", home / "look.png", "--with", captioner)
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        yield f"a captioner's {name}", Kind(captioner / name, (told,), inside, of_json, share=SLOW)


def pictures_and_lists(home: Path) -> Iterator[tuple[str, Kind]]:
    """Pictures, their metadata, archives of them, and what is said about them."""
    out, inside, originals = home / "out", (home, _cache()), seeds()
    model = home / "model"
    _untrained(model)
    again = command("generate", model, "--steps", 1, "--seed", 0, "--out", out)

    def mutants(_: bytes, count: int, seed: int) -> Iterator[bytes]:
        return (mutant(originals, seed * 1_000_000 + number)[1] for number in range(count))

    picture = home / "picture.png"
    again()
    shutil.copy(next(out.iterdir()), picture)
    vary = command("generate", model, "--image", picture, "--steps", 1, "--seed", 0, "--out", out)
    from_it = command("generate", "--from", picture, "starter", "--steps", 1, "--out", out)  # it reads words, as these speak
    yield "a picture", Kind(picture, (command("info", picture), vary), inside, mutants)
    mask = home / "mask.png"
    Image.radial_gradient("L").resize((16, 16)).save(mask)
    masked = command("generate", model, "--image", picture, "--mask", mask, "--steps", 1, "--seed", 0, "--out", out)
    yield "a mask", Kind(mask, (masked,), inside, mutants, share=0.25)
    with Image.open(picture) as painted:
        words = str(painted.info["bowerbird"])  # as it was recorded
    foreign = {
        "bowerbird": json.loads(words),
        "invokeai_metadata": {"positive_prompt": "a bird", "seed": 1, "model": {"name": "x"}, "width": 64, "height": 64},
        "sd-metadata": {"image": {"prompt": [{"prompt": "a", "weight": 1}], "steps": 3, "seed": 1}, "model_weights": "x"},
        "prompt": {
            "3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 2, "positive": ["6", 0], "latent_image": ["5", 0]}},
            "5": {"inputs": {"width": 8, "height": 8}}, "6": {"inputs": {"text": "a bird"}},
        },
        "parameters": {"prompt": "a bird", "resolution": "(64, 64)", "styles": "['anime']", "base_model": "x"},
    }  # fmt: skip
    for key, document in foreign.items():
        spoken = Kind(picture, (command("info", picture), from_it), inside, of_json, _chunk(picture, key), 0.25)
        spoken.good = json.dumps(document).encode()
        yield f"a picture's text {key!r}", spoken
    text = b"a bird\nNegative prompt: rain\nSteps: 2, Sampler: DDIM, CFG scale: 1, Seed: 1, Size: 16x16, Model: x"
    yield "a picture's text of A1111", Kind(picture, (command("info", picture), from_it), inside, put=_chunk(picture, "parameters"),
                                            share=0.25, good=text)  # fmt: skip
    shots = home / "shots"
    _write_pictures(shots, 6)
    for name in ("pictures.zip", "pictures.tar", "pictures.tgz"):
        archive = home / name
        _pack(shots, archive)
        yield f"an archive, {name}", Kind(archive, (lambda archive=archive: open_archive(archive),), inside)  # type: ignore[misc]
    looked = command("inspect", shots, "--size", 16)
    names = sorted(str(path.relative_to(shots)) for path in shots.rglob("*.png"))
    rows = "".join(f'{name},"a disc, warm",warm\n' for name in names)
    lists = {
        "metadata.csv": f"file_name,text,label\n{rows}".encode(),
        "metadata.jsonl": "".join(json.dumps({"file_name": name, "text": ["a disc", "a ring"]}) + "\n" for name in names).encode(),
        "captions_train.json": json.dumps({
            "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
            "annotations": [{"image_id": number, "caption": "a disc"} for number in range(len(names))],
        }).encode(),
        f"{Path(names[0]).with_suffix('.txt')}": "a disc on snow\n".encode("utf-16"),
    }  # fmt: skip
    for name, data in lists.items():
        broken = of_json if name.endswith(".json") else broken_bytes
        yield f"captions, {Path(name).name}", Kind(shots / name, (looked,), inside, broken, _alone(shots, name), 0.25, data)
    elsewhere = home / "captions.csv"
    elsewhere.write_bytes(lists["metadata.csv"])
    chosen = command("train", shots, "--set", f"data.captions={elsewhere}", "--forecast", "--recipe", _untrained_recipe(home))
    yield "captions elsewhere", Kind(elsewhere, (chosen,), inside, share=SLOW)
    cub = small_cub(home / "cub") / "CUB_200_2011"
    boxed = command("inspect", cub, "--size", 16, "--fit", "box")
    for name in ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"):
        yield f"CUB's {name}", Kind(cub / name, (boxed,), inside, share=0.25)
    written = command("caption", cub, "--out", home / "cub.csv")
    for name in ("attributes/image_attribute_labels.txt", "parts/part_locs.txt", "parts/parts.txt"):
        yield f"CUB's {name}", Kind(cub / name, (_without(home / "cub.csv", written),), inside, share=0.25)


def settings_and_requests(home: Path) -> Iterator[tuple[str, Kind]]:
    """Styles, presets, speeds and word lists of the user's; what a queue and a server are asked."""
    model, inside = home / "models/pets", (home, _cache())
    model.parent.mkdir()
    _untrained(model)
    own = home / "config"
    (own / "styles").mkdir(parents=True)
    (own / "wildcards").mkdir()
    os.environ["BOWERBIRD_CONFIG"] = str(own)
    ours = ROOT / "src/bowerbird/prompts"
    styled = command(
        "generate", "starter", "a bird", "--style", "mine", "--preset", "mine", "--speed", "mine", "--steps", 1, "--out", home / "out"
    )
    tables = {
        "styles/mine.toml": b'[mine]\nprompt = "a drawing of {prompt}"\nnegative = "rain"\n',
        "presets.toml": b'[mine]\nabout = "mine"\nguidance = 1.0\nsampler = "ddim"\nstyles = ["mine"]\n',
        "speeds.toml": tomllib_first(ours / "speeds.toml"),
    }
    for name, data in tables.items():
        (own / name).write_bytes(data)
    for name in tables:
        yield f"a user's {name}", Kind(own / name, (command("styles"), styled), inside, broken_toml)
    (own / "wildcards/mine.txt").write_bytes(b"# mine\nred\n{a|b}\n__mine__\n")
    worded = command("generate", "starter", "a __mine__ bird", "--steps", 1, "--out", home / "out")
    yield "a word list", Kind(own / "wildcards/mine.txt", (worded,), inside, share=0.25)

    asked: dict[str, dict[str, Any]] = {
        "paint": {"model": str(model), "prompt": "a bird", "count": 1, "seed": 1, "size": [16, 16], "loras": [{"file": "x", "weight": 1}]},
        "train": {"pictures": str(home / "pictures"), "recipe": "latent-64", "settings": ["train.lr=1"], "count": 16},
        "tune": {"pictures": str(home / "pictures"), "model": "starter", "hours": 0.1, "price": 1.0},
        "evaluate": {"generated": str(model), "against": str(home / "pictures"), "count": 10, "seed": 0},
    }
    file = home / "request.json"
    for name, fields in asked.items():

        def read(name: str = name) -> None:
            try:
                fields = json.loads(file.read_bytes())
            except (ValueError, RecursionError):
                return  # whoever asks sends JSON
            if isinstance(fields, dict):
                read_job_request(REQUESTS[name], fields)  # type: ignore[index]

        yield f"a request to {name}", Kind(file, (read,), inside, of_json, good=json.dumps(fields).encode())
    home_of_queue = home / "queue"
    queue = Queue(home_of_queue)
    queue.submit("paint", [read_job_request(REQUESTS["paint"], {**asked["paint"], "loras": []}) for _ in range(30)])
    queue._db.execute("PRAGMA journal_mode = DELETE")
    shelf = home_of_queue / "queue.sqlite"
    good = shelf.read_bytes()

    def put(data: bytes) -> None:
        for name in ("-wal", "-shm", "-journal"):
            shelf.with_name(shelf.name + name).unlink(missing_ok=True)
        shelf.unlink(missing_ok=True)
        shelf.write_bytes(data)

    def look() -> None:
        opened = Queue(home_of_queue)
        for job in opened.jobs():
            job.asked()
        lease, jobs = opened.claim("x", ("paint",))
        assert not jobs or opened.held(lease)

    yield "a queue's database", Kind(shelf, (look,), inside, put=put, share=0.5, good=good)


def bodies(home: Path) -> Iterator[tuple[str, Kind]]:
    """JSON bodies that a server is sent."""
    model, inside = home / "models/pets", (home, _cache())
    model.parent.mkdir(parents=True)
    _untrained(model)
    with Served(Queue(home / "queue", max_waiting=200), Catalogue([model.parent])) as served:
        for address, body in {
            "/v1/images/generations": {"prompt": "a bird", "model": "pets", "n": 1, "size": "16x16", "steps": 1, "response_format": "url"},
            "/sdapi/v1/txt2img": {
                "prompt": "a bird",
                "steps": 1,
                "width": 16,
                "height": 16,
                "sampler_name": "DDIM",
                "override_settings": {},
            },
            "/api/train": {"pictures": str(home / "pictures"), "recipe": "latent-64", "settings": ["train.lr=1"], "count": 16},
            "/api/evaluate": {"generated": "pets", "against": str(home / "pictures"), "count": 10},
            "/api/jobs": {"requests": [{"model": "pets", "steps": 1, "count": 1}]},
        }.items():
            file = home / "body.json"
            good = json.dumps(body).encode()
            yield f"a body for {address}", Kind(file, (_post(served.client, address, file, served.queue),), inside, of_json, good=good,
                                                share=0.25)  # fmt: skip


def _post(client: TestClient, address: str, file: Path, queue: Queue) -> Callable[[], None]:
    def post() -> None:
        answer = client.post(address, content=file.read_bytes(), headers={"Content-Type": "application/json"})
        for job in queue.jobs(kinds=("train", "tune", "evaluate")):
            queue.cancel(job.id)
            queue.forget(job.id)
        if answer.status_code >= 500:
            raise RuntimeError(f"{answer.status_code}: {answer.text[:300]}")
        if answer.status_code >= 400:
            raise BowerbirdError(answer.text[:500])

    return post


# ------------------------------------------------------------------------------------------------ what they are made of


def tomllib_first(path: Path) -> bytes:
    """The first table of a TOML file, called `mine`."""
    import tomli_w

    return tomli_w.dumps({"mine": {**next(iter(tomllib.loads(path.read_text()).values())), "also": []}}).encode()


def _cache() -> Path:
    return Path(os.environ["BOWERBIRD_CACHE"]).resolve()


def _write_pictures(folder: Path, count: int = 60) -> None:
    """Discs of two colours, a class each, with captions beside them."""
    for number in range(count):
        label = ("cold", "warm")[number % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        ground = Image.new("RGB", (16, 16), (200 + number % 50, 220, 240 - number % 40))
        ground.paste((200, 40, number * 4) if label == "warm" else (20, number * 4, 200), (2, 3, 8 + number % 7, 9 + number % 5))
        ground.save(folder / label / f"{number // 2:03d}.png")
        (folder / label / f"{number // 2:03d}.txt").write_text(f"a {label} square")


def _untrained(folder: Path) -> None:
    from tests.test_model_folder import saved

    saved(folder, tiny_recipe(), ("cat", "dog"))


def _untrained_recipe(home: Path) -> Path:
    file = home / "tiny.toml"
    file.write_text(write_recipe(tiny_recipe(condition={"text": True})))
    return file


def _emptied(folder: Path, work: Callable[[], object]) -> Callable[[], object]:
    return lambda: (shutil.rmtree(folder, ignore_errors=True), work())


def _without(file: Path, work: Callable[[], object]) -> Callable[[], object]:
    return lambda: (file.unlink(missing_ok=True), work())


def _alone(folder: Path, name: str) -> Callable[[bytes], None]:
    """No other list lies beside it."""

    def put(data: bytes) -> None:
        for path in [*folder.glob("*.*"), *folder.rglob("*.txt")]:
            path.unlink(missing_ok=True)
        (folder / name).write_bytes(data)

    return put


def _chunk(picture: Path, key: str) -> Callable[[bytes], None]:
    def put(data: bytes) -> None:
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt(key, data.decode("utf-8", "replace").replace("\0", "?"))
        Image.new("RGB", (16, 16)).save(picture, pnginfo=chunks)

    return put


def _pack(folder: Path, archive: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in files:
                packed.write(file, file.relative_to(folder))
        return
    with tarfile.open(archive, "w:gz" if archive.suffix == ".tgz" else "w") as tar:
        for file in files:
            tar.add(file, file.relative_to(folder))


def _reconstruct(folder: Path) -> Callable[[], object]:
    @torch.inference_mode()
    def work() -> None:
        autoencoder = open_autoencoder(folder, torch.device("cpu"))
        autoencoder.published_scale()
        autoencoder.decode(autoencoder.encode(torch.zeros(1, 3, 64, 64))[0])

    return work


GROUPS = (our_folders, other_peoples, pictures_and_lists, settings_and_requests, bodies)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--count", type=int, default=2000, help="broken files of each kind; a tenth of those that paint or train each time"
    )
    options.add_argument("--only", default="", help="a regular expression: kinds whose name it finds")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    proof = ROOT / "proof"
    proof.mkdir(exist_ok=True)
    kinds: dict[str, Any] = {}
    for group in GROUPS:
        tempfile.tempdir = None
        with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
            home = Path(temporary).resolve()
            os.environ["BOWERBIRD_CACHE"] = str(home / "cache")
            tempfile.tempdir = str(home)  # what the commands make for themselves is told from what they are led to
            os.environ["BOWERBIRD_CONFIG"] = str(home / "no-config")
            for number, (name, kind) in enumerate(group(home)):
                if not re.search(chosen.only, name):
                    continue
                tally = prove(kind, chosen.count, number)
                kinds[name] = {
                    "files": tally.files, "refused": tally.refused, "tracebacks": dict(tally.tracebacks), "hangs": tally.hangs,
                    "strangers": dict(tally.strangers), "longest, processor seconds": round(tally.longest, 2),
                }  # fmt: skip
                print(name, json.dumps(kinds[name]), flush=True)
                (proof / "malformed.json").write_text(json.dumps(kinds, indent=1) + "\n")
    wrong = [name for name, each in kinds.items() if each["tracebacks"] or each["hangs"] or each["strangers"]]
    print(f"{len(kinds)} kinds, {sum(each['files'] for each in kinds.values()):,} files, wrong: {wrong or 'none'}")
    if wrong:
        raise SystemExit("the promise does not hold")


if __name__ == "__main__":
    main()
