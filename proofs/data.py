"""Proof: whatever lies in the folder, nothing breaks, nothing is hidden, nothing of the user's is touched.

    make prove-data            writes proof/data.json
    python proofs/data.py --mutants 1000 --kills 5

1. Damaged files without end (bit flips, truncation, spliced chunks, absurd numbers): each ends in one state, none takes
   longer than two seconds or more than a gibibyte, the counts add up, and the tree's hash is the same after as before.
2. The named corpus of odd files: every one in its expected state.
3. The largest pictures that are accepted fit into the bounds of a decoding process, in every kind of pixel.
4. Scans killed by SIGKILL at random moments, again and again: the result is the unbroken scan's, pixel for pixel.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.data.corpus import SIZE, corpus, tree_hash, write  # noqa: E402
from tests.data.mutants import mutant, seeds  # noqa: E402

from bowerbird.data import Pictures, open_pictures  # noqa: E402
from bowerbird.data.decode import MAX_PIXELS  # noqa: E402
from bowerbird.data.names import printable  # noqa: E402
from bowerbird.progress import Progress  # noqa: E402

MAX_SECONDS, MAX_BYTES = 2.0, 2**30  # for one file
SCAN = """
import sys
from pathlib import Path
from bowerbird.data import cache, open_pictures, pictures

def record_and_say(self, *arguments):
    record(self, *arguments)
    print("recorded", flush=True)

record, cache.PictureCache.record = cache.PictureCache.record, record_and_say
pictures._RECORD_SECONDS = 0.05  # a small folder takes a second or two, and a kill should find some of it recorded
open_pictures(Path(sys.argv[1]), int(sys.argv[2]))
"""


def write_mutants(folder: Path, count: int) -> None:
    originals = seeds()
    for number in range(count):
        name, data = mutant(originals, number)
        (folder / name).write_bytes(data)


def mutants(folder: Path, count: int) -> dict[str, Any]:
    """One worker, so that the time between two answers is the time of one file."""
    write_mutants(folder, count)
    before = tree_hash(folder)
    answers = [time.monotonic()]

    def on_progress(event: Progress) -> None:
        if event.stage == "read":
            answers.append(time.monotonic())

    started = time.monotonic()
    pictures = open_pictures(folder, SIZE, on_progress=on_progress, workers=1)
    seconds = time.monotonic() - started
    report = pictures.report
    return {
        "files": count,
        "in the report": len({file.name for file in pictures.files}),
        "counts add up": sum(report["counts"].values()) == report["files"] == count,
        "counts": report["counts"],
        "rejections": report["rejections"],
        "seconds": round(seconds, 1),
        "longest file, seconds": round(float(np.diff(answers[1:]).max()), 3),  # the first answer waits for the child to start
        "peak memory of a decoding process, MiB": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "peak memory of the scan, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "tree untouched": tree_hash(folder) == before,
    }


def named_corpus(folder: Path) -> dict[str, Any]:
    cases = [case for case in corpus() if case.state != "inside"]
    write(folder / "corpus", corpus())
    before = tree_hash(folder / "corpus")
    states = {file.name: file for file in open_pictures(folder / "corpus", SIZE).files}
    wrong = []
    for case in cases:
        file = states[printable(case.name)]
        if (file.state, file.code or printable(file.same_as) or " ".join(file.changes)) != (case.state, case.why):
            wrong.append(f"{printable(case.name)}: {file}")
    return {
        "files": len(cases),
        "in their state": len(cases) - len(wrong),
        "wrong": wrong,
        "tree untouched": tree_hash(folder / "corpus") == before,
    }


def largest(folder: Path) -> dict[str, Any]:
    """The largest pictures that are accepted, in every kind of pixel, fit into the bounds of a decoding process."""
    side = int(MAX_PIXELS**0.5)
    rows = np.linspace(0, 255, side, dtype=np.uint8)
    grey = Image.fromarray(rows[:, None] ^ rows[None, :])
    colour = Image.merge("RGB", [grey, grey.transpose(Image.Transpose.ROTATE_90), grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    colour.save(folder / "rgb.jpg", progressive=True)
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    colour.save(folder / "rgb.png", compress_level=1)
    colour.save(folder / "rgb.webp", method=0)
    colour.save(folder / "rgb.tif", compression="tiff_lzw")
    grey.save(folder / "palette.gif")
    colour.putalpha(grey)
    colour.save(folder / "alpha.png", compress_level=1)
    del colour
    Image.fromarray(np.asarray(grey).astype(np.uint16) << 8).save(folder / "deep.png", compress_level=1)
    Image.fromarray(np.asarray(grey, np.float32)).save(folder / "float.tif", compression="tiff_deflate")
    pictures = open_pictures(folder, 512, workers=1)
    return {
        "side, px": side,
        "files": len(pictures.files),
        "rejected": {file.name: f"{file.code} {file.reason}" for file in pictures.files if file.state == "rejected"},
    }


def kills(folder: Path, count: int) -> dict[str, Any]:
    """Scans killed in the middle, each on what the killed one before it left, until one comes to its end; then anew, until `count` were."""
    write_mutants(folder, 3000)
    unbroken = open_pictures(folder, SIZE)
    draw, place = random.Random(0), os.environ["BOWERBIRD_CACHE"]
    killed, finished, same = 0, 0, 0
    while killed < count:
        os.environ["BOWERBIRD_CACHE"] = f"{place}-{finished}"
        while killed_in_the_middle(folder, draw.uniform(0, 0.5)):
            killed += 1
        finished += 1
        same += equal(open_pictures(folder, SIZE), unbroken)
    return {"killed": killed, "scans finished after kills": finished, "equal to the unbroken scan": same}


def killed_in_the_middle(folder: Path, seconds: float) -> bool:
    """Whether a scan was killed so many seconds after it had first recorded something, or had ended before."""
    with subprocess.Popen([sys.executable, "-c", SCAN, folder, str(SIZE)], stdout=subprocess.PIPE) as scan:
        assert scan.stdout is not None
        scan.stdout.readline()
        try:
            if scan.wait(seconds):
                raise RuntimeError(f"a scan ended with status {scan.returncode}")
        except subprocess.TimeoutExpired:
            scan.kill()
            return True
    return False


def equal(one: Pictures, other: Pictures) -> bool:
    return one.fingerprint == other.fingerprint and one.report == other.report and np.array_equal(one.pixels, other.pixels)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mutants", type=int, default=10_000)
    options.add_argument("--kills", type=int, default=20)
    chosen = options.parse_args()
    report: dict[str, Any] = {"python": sys.version.split()[0], "pillow": PIL.__version__}
    for name, prove in (
        ("mutants", lambda folder: mutants(folder, chosen.mutants)),
        ("corpus", named_corpus),
        ("largest", largest),
        ("kills", lambda folder: kills(folder, chosen.kills)),
    ):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
            os.environ["BOWERBIRD_CACHE"] = f"{cache}/cache"
            report[name] = prove(Path(folder))
    (ROOT / "proof").mkdir(exist_ok=True)
    (ROOT / "proof" / "data.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    hurt, named = report["mutants"], report["corpus"]
    whole = hurt["counts add up"] and hurt["in the report"] == hurt["files"] and hurt["tree untouched"] and named["tree untouched"]
    bounded = hurt["longest file, seconds"] <= MAX_SECONDS and hurt["peak memory of a decoding process, MiB"] * 2**20 <= MAX_BYTES
    crashes = sum(hurt["rejections"].get(code, 0) for code in ("E_CRASH", "E_TIMEOUT", "E_MEMORY"))
    read = not named["wrong"] and not report["largest"]["rejected"]
    survived = report["kills"]["equal to the unbroken scan"] == report["kills"]["scans finished after kills"]
    if not (whole and bounded and not crashes and read and survived):
        raise SystemExit("the promise does not hold")


if __name__ == "__main__":
    main()
