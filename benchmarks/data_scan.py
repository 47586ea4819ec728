"""Seconds and memory from a folder of many small files to training batches, ours beside Hugging Face `datasets` ImageFolder.

    python benchmarks/data_scan.py                                      100,000 files, ours alone
    python benchmarks/data_scan.py --peer /path/to/venv/bin/python      the peer too, from an environment that has `datasets`
    python benchmarks/data_scan.py --measure step-ours --folder examples/birds     one measurement alone

Each measurement is a process of its own, in turn, on the same folder of JPEGs; the peer does the same work, list, decode,
cut to 64 x 64 and keep, with as many processes, through `load_dataset("imagefolder")` and `map`.  Then 5 % broken files are
added.  CPU seconds, of all processes, stand beside wall seconds because on a shared machine only they compare.
Results go to benchmarks/data_scan.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SIZE, BATCH, BATCHES = 64, 128, 200


def write_pictures(folder: Path, count: int) -> None:
    """JPEGs of about 100 x 80 px in folders of a thousand, no two alike."""
    draw = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        colours = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        colours.resize((100, 80), Image.Resampling.BICUBIC).save(path, quality=85)


def write_broken(folder: Path, count: int) -> None:
    """Cut short, empty, web pages and bombs, in equal parts."""
    whole = io.BytesIO()
    Image.effect_noise((100, 80), 60).save(whole, "JPEG")
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (50_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0" + bytes(100)
    kinds = (whole.getvalue()[:1000], b"", b"<!doctype html><title>404</title>", bomb)
    (folder / "broken").mkdir()
    for number in range(count):
        (folder / "broken" / f"{number:06d}.jpg").write_bytes(kinds[number % 4] + (str(number).encode() if number % 4 > 1 else b""))


# ------------------------------------------------------------------------------------------------ measured in processes of their own


def scan_ours(folder: Path) -> dict[str, Any]:
    from bowerbird.data import open_pictures

    pictures = open_pictures(folder, SIZE)
    return {"pictures": len(pictures.pixels), "rejected": pictures.report["counts"]["rejected"]}


def kill_ours(folder: Path) -> dict[str, Any]:
    """Dies by SIGKILL when half of the files are read."""
    from bowerbird.data import open_pictures
    from bowerbird.progress import Progress

    def on_progress(event: Progress) -> None:
        if event.stage == "read" and event.done >= event.total // 2:
            os.kill(os.getpid(), signal.SIGKILL)

    open_pictures(folder, SIZE, on_progress=on_progress)
    raise AssertionError("the scan was to be killed")


def batches_ours(folder: Path) -> dict[str, Any]:
    """Pixels, mirrored by key, as float tensors."""
    import torch

    from bowerbird import draws
    from bowerbird.data import open_pictures
    from bowerbird.data.augment import flip
    from bowerbird.pixels import to_x0

    torch.set_num_threads(1)
    pictures = open_pictures(folder, SIZE)
    order = draws.order(0, 0, len(pictures.train))
    rates = {}
    for name in ("first pass", "second pass"):
        started = time.perf_counter()
        for start in range(0, BATCH * BATCHES, BATCH):
            samples = np.arange(start, start + BATCH)
            to_x0(flip(pictures.pixels[pictures.train[order[samples % len(order)]]], 0, samples))
        rates[name] = round(BATCH * BATCHES / (time.perf_counter() - started))
    return {"pictures a second, mirrored, as tensors": rates}


def step_ours(folder: Path) -> dict[str, Any]:
    """CPU milliseconds of a training step of `pixel-64`, and of drawing its batch: pixels, mirror images, noise."""
    import torch

    from bowerbird.data import open_pictures
    from bowerbird.recipe import read_recipe
    from bowerbird.storage import Disk
    from bowerbird.training import loop
    from bowerbird.training.objectives.denoising import Denoising
    from bowerbird.training.parallel import World
    from bowerbird.training.resume import start_or_resume
    from bowerbird.training.run import Setup
    from bowerbird.training.signals import StopSignals

    def milliseconds(work: Callable[[], object], times: int) -> float:
        work()
        began = time.process_time()
        for _ in range(times):
            work()
        return round(1000 * (time.process_time() - began) / times, 1)

    torch.set_num_threads(1)
    recipe = read_recipe("pixel-64")
    with tempfile.TemporaryDirectory() as out:
        run = start_or_resume(Setup(Path(out), recipe, open_pictures(folder, SIZE), torch.device("cpu"), Disk(), StopSignals(), World()))
        assert run is not None
        assert isinstance(run.objective, Denoising)
        drawn = run.objective.samples.drawn
        batch = recipe.train.batch
        samples = np.arange(batch)
        chosen = run.pictures.train[samples % len(run.pictures.train)]
        return {
            "batch": batch,
            "pixels, ms": milliseconds(lambda: drawn(chosen, samples), 20),
            "batch with noise, ms": milliseconds(lambda: run.objective.draw(0, batch), 20),
            "training step, ms": milliseconds(lambda: loop._update(run), 3),
        }


def _square(batch: dict[str, Any]) -> dict[str, Any]:
    out = []
    for image in batch["image"]:
        rgb = image.convert("RGB")
        side = min(rgb.size)
        left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
        out.append(rgb.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)).tobytes())
    return {"pixels": out}


def scan_datasets(folder: Path) -> dict[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    cores = len(os.sched_getaffinity(0))
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", num_proc=cores)
    rows = rows.map(_square, batched=True, batch_size=500, remove_columns=rows.column_names, num_proc=cores)
    return {"pictures": len(rows)}


def batches_datasets(folder: Path) -> dict[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    cores = len(os.sched_getaffinity(0))
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", num_proc=cores)
    rows = rows.map(_square, batched=True, batch_size=500, remove_columns=rows.column_names, num_proc=cores)
    order = np.random.default_rng(0).permutation(len(rows))
    rates = {}
    for name in ("first pass", "second pass"):
        started = time.perf_counter()
        for start in range(0, BATCH * BATCHES, BATCH):
            chosen = rows[order[np.arange(start, start + BATCH) % len(order)]]["pixels"]
            pixels = np.stack([np.frombuffer(data, np.uint8).reshape(SIZE, SIZE, 3) for data in chosen])
            np.ascontiguousarray(np.moveaxis(pixels, -1, 1)).astype(np.float32) / 127.5 - 1
        rates[name] = round(BATCH * BATCHES / (time.perf_counter() - started))
    return {"pictures a second, as arrays": rates}


MEASURES = {
    "scan-ours": scan_ours,
    "kill-ours": kill_ours,
    "batches-ours": batches_ours,
    "step-ours": step_ours,
    "scan-datasets": scan_datasets,
    "batches-datasets": batches_datasets,
}


def measure(python: str, name: str, folder: Path, caches: dict[str, str]) -> dict[str, Any]:
    """Run one measurement in a child; its own answer, seconds, CPU seconds and peak memory, or the end of its complaint."""
    command = [python, str(Path(__file__).resolve()), "--measure", name, "--folder", str(folder)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=log, env={**os.environ, **caches})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        log.seek(0)
        if process.returncode:
            answer = {"failed": (log.read().decode(errors="replace").strip().splitlines() or [f"status {process.returncode}"])[-1][:300]}
        else:
            answer = json.loads(out.read().splitlines()[-1])
    cpu = usage.ru_utime + usage.ru_stime  # of the child and of all its children that have ended
    result = {**answer, "seconds": round(seconds, 1), "cpu seconds": round(cpu, 1)}
    print(f"{name:16} {json.dumps(result)}", flush=True)
    return result


def run_one(name: str, folder: Path) -> None:
    answer = MEASURES[name](folder)
    peak = {
        who: resource.getrusage(which).ru_maxrss // 1024
        for who, which in (("main", resource.RUSAGE_SELF), ("workers", resource.RUSAGE_CHILDREN))
    }
    print(json.dumps({**answer, "peak MiB": peak}))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=100_000)
    options.add_argument("--peer", help="a Python that has `datasets`")
    options.add_argument("--measure", choices=MEASURES, help="only this one, on --folder")
    options.add_argument("--folder", type=Path)
    chosen = options.parse_args()
    if chosen.measure:
        run_one(chosen.measure, chosen.folder)
        return
    with tempfile.TemporaryDirectory() as place:
        folder, caches = Path(place) / "pictures", {"BOWERBIRD_CACHE": f"{place}/ours", "HF_HOME": f"{place}/theirs", "HF_HUB_OFFLINE": "1"}
        ours, theirs = sys.executable, chosen.peer
        results: dict[str, Any] = {"machine": describe(), "files": chosen.files}
        tenth = Path(place) / "tenth"  # memory is flat if ten times as many files take as much
        write_pictures(tenth, chosen.files // 10)
        results["a tenth of the files"] = {"ours, first scan": measure(ours, "scan-ours", tenth, caches)}
        write_pictures(folder, chosen.files)
        results["clean folder"] = {"ours, first scan": measure(ours, "scan-ours", folder, caches)}
        if theirs:
            results["clean folder"]["datasets, first time"] = measure(theirs, "scan-datasets", folder, caches)
        results["clean folder"]["ours, again"] = measure(ours, "scan-ours", folder, caches)
        if theirs:
            results["clean folder"]["datasets, again"] = measure(theirs, "scan-datasets", folder, caches)
        results["training step"] = {"ours": measure(ours, "step-ours", folder, caches)}
        results["batches"] = {"ours": measure(ours, "batches-ours", folder, caches)}
        if theirs:
            results["batches"]["datasets"] = measure(theirs, "batches-datasets", folder, caches)
        write_broken(folder, chosen.files // 20)
        results["5 % broken files added"] = {"ours": measure(ours, "scan-ours", folder, caches)}
        if theirs:
            results["5 % broken files added"]["datasets"] = measure(theirs, "scan-datasets", folder, caches)
        shutil.rmtree(caches["BOWERBIRD_CACHE"])
        results["killed at half"] = {"ours": measure(ours, "kill-ours", folder, caches)}
        results["gone on after that"] = {"ours": measure(ours, "scan-ours", folder, caches)}
    (HERE / "data_scan.json").write_text(json.dumps(results, indent=1) + "\n")


def describe() -> dict[str, Any]:
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
