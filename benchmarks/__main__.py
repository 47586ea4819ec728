"""Bowerbird and its peers, side by side.

    python -m benchmarks run quality --entrant ours --minutes 20 --pictures FOLDER --splits FILE
    python -m benchmarks run quality --entrant diffusers --variant small --minutes 10 --prerun ...   (and medium, large)
    python -m benchmarks run quality --entrant diffusers --minutes 20 ...                            (the winner of the pre-runs)
    python -m benchmarks run quality --entrant gaussian ...                                          (needs no training)
    python -m benchmarks run trial --variant latent-64 --set train.lr=3e-3 --tag faster --minutes 3 ...      a step of the recipe study
    python -m benchmarks run painting --entrant ours --minutes 20 ...       seconds per picture by steps, with KID
    python -m benchmarks run speed ...                                      training pictures/s, ours and diffusers, same U-Net
    python -m benchmarks run steps --before CHECKOUT ...                    training pictures/s by how an update computes, and before
    python -m benchmarks run startup ...                                    seconds to help, import and a first picture
    python -m benchmarks run judging --count 5000 ...                       seconds of `evaluate`, that many against that many
    python -m benchmarks run copies ...                                     copies found and false alarms, by kind of picture
    python -m benchmarks run upscaling --upscaler ours=upscaler-4x ...      64 to 256 pixels, against plain scaling and other upscalers
    python -m benchmarks table > docs/benchmarks.md
    python -m benchmarks chart docs/pictures/benchmarks.png

SPLITS is a CSV with file_name and split: `bench` is trained on, `held` is judged against.  Every run writes a record.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

from benchmarks import machine, records
from benchmarks.entrants import ENTRANTS, TRIVIAL
from benchmarks.run import BENCHMARKS

RECORDS = Path(__file__).parent / "records"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run one benchmark and write its record")
    run.add_argument("benchmark", choices=BENCHMARKS)
    run.add_argument("--pictures", type=Path, required=True, help="the folder that file_name in SPLITS starts from")
    run.add_argument("--splits", type=Path, required=True)
    run.add_argument("--entrant", choices=[*ENTRANTS, *TRIVIAL], default="ours")
    run.add_argument("--variant", help="a size of the entrant, or a recipe for ours; by default the winner of the pre-runs")
    run.add_argument("--prerun", action="store_true", help="this run only chooses the size")
    run.add_argument("--set", action="append", default=[], help="trial: section.field=value, as for bowerbird train; may be repeated")
    run.add_argument("--tag", default="plain", help="trial, upscaling: a name for what is different")
    run.add_argument("--minutes", type=float, default=20, help="time to train, start-up included")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    run.add_argument("--count", type=int, default=1000, help="pictures to paint and judge")
    run.add_argument("--steps", type=int, help="sampling steps; by default the entrant's own")
    run.add_argument("--network", default="small", help="speed, startup: which U-Net")
    run.add_argument("--before", type=Path, help="steps: a checkout of another Bowerbird to compare with")
    run.add_argument("--threads", type=int, help="steps: of one row alone; by default one thread and then all")
    run.add_argument("--upscaler", action="append", default=[], help="upscaling: NAME=MODEL; may be repeated, ours last")
    run.add_argument("--sheet", type=Path, help="upscaling: where a sheet to look at goes")
    run.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="where models and reports go")
    chart = verbs.add_parser("chart", help="draw KID against minutes")
    chart.add_argument("target", type=Path)
    for verb in (run, chart, verbs.add_parser("table", help="print all records as Markdown")):
        verb.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    if options.verb == "table":
        print(records.page(options.records), end="")
        return
    if options.verb == "chart":
        from benchmarks.chart import draw

        draw(options.records, options.target)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    before = machine.describe()
    found = BENCHMARKS[options.benchmark](options)
    record = {
        "benchmark": options.benchmark,
        **found,
        "command": command(),
        "date": datetime.date.today().isoformat(),
        "machine": before | {"matmul_gflops_after": round(machine.matmul_gflops())},
        "versions": machine.versions(),
    }
    print(records.write(options.records, record))


def command() -> str:
    """The command line as another person would type it: their own pictures, their own folders."""
    words = [part for word in sys.argv[1:] for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for option in ("--work", "--records"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    for option in ("--pictures", "--splits", "--before"):
        if option in words:
            words[words.index(option) + 1] = option.removeprefix("--").upper()
    words = [f"{word.partition('=')[0]}=FOLDER" if "=/" in word else word for word in words]  # an upscaler that lies in a folder
    return " ".join(["python -m benchmarks", *words])


if __name__ == "__main__":
    main()
