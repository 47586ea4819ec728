"""Records: one JSON file for every run of a benchmark, and the page of tables made from them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def write(folder: Path, record: Record) -> Path:
    """Save a record under a name made of what was run; running the same again replaces it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['name']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def read_all(folder: Path, benchmark: str | None = None) -> list[Record]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [record for record in found if benchmark in (None, record["benchmark"])]


def best_variant(folder: Path, entrant: str, size: int) -> str | None:
    """The variant of an entrant with the lowest KID in its pre-runs, None without any."""
    tried = [r for r in read_all(folder, "quality") if r["entrant"] == entrant and r["size"] == size and r.get("prerun")]
    return min(tried, key=_kid)["variant"] if tried else None


def _kid(record: Record) -> float:
    return float(record["scores"]["scores"]["kid"]["value"])


# ------------------------------------------------------------------------------------------------ tables


def page(folder: Path) -> str:
    """All tables as Markdown."""
    parts = [
        "# Bowerbird and its peers, side by side",
        "",
        "Made by `python -m benchmarks table` from the records in `benchmarks/records`. Scores are of the feature networks that come",
        "with Bowerbird, so they compare only with scores made here. Margins are 95 %. *Minutes* were allowed and *taken* by the clock;",
        "*processor minutes* are what a run got of a machine that had other work too.",
        *_quality(read_all(folder, "quality")),
        *_trials(read_all(folder, "trial")),
        *_painting(read_all(folder, "painting")),
        *_speed(read_all(folder, "speed")),
        *_steps(read_all(folder, "steps")),
        *_startup(read_all(folder, "startup")),
        *_judging(read_all(folder, "judging")),
        *_upscaling(read_all(folder, "upscaling")),
        *_copies(read_all(folder, "copies")),
        *_sheets(folder),
        *_made(read_all(folder)),
    ]
    return "\n".join(parts) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return ["", *("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)]


def _quality(records: list[Record]) -> list[str]:
    runs = sorted((r for r in records if not r.get("prerun")), key=lambda r: (r["size"], r.get("minutes") or 0, _kid(r)))
    head = ["", "minutes", "taken", "processor minutes", "seed", "pictures", "steps", "KID x1000", "second opinion"]
    head += ["precision", "recall", "coverage", "SWD, finest", "copies", "pictures/s", "memory"]
    rows = [_quality_row(r) for r in runs]
    out = ["", "## Quality at equal time"] + (table(head, rows) if rows else ["", "No record yet."])
    out += ["", "![KID against minutes of training](pictures/benchmarks.png)"] if rows else []
    tried = sorted((r for r in records if r.get("prerun")), key=lambda r: (r["entrant"], _kid(r)))
    if not tried:
        return [*out, "", "The peers' sizes were named by hand: no pre-run has chosen among them yet."]
    trials = [(r["entrant"], r["variant"], r["minutes"], _score(r, "kid"), f"{r['trained']['parameters'] / 1e6:.1f} M") for r in tried]
    return [*out, "", "Pre-runs choose each peer's size:", *table(("entrant", "size", "minutes", "KID x1000", "parameters"), trials)]


def _quality_row(r: Record) -> tuple[object, ...]:
    finest = max((key for key in r["scores"]["scores"] if key.startswith("swd_")), key=lambda key: int(key.removeprefix("swd_")))
    trained = r.get("trained")
    return (
        f"{r['entrant']} {r.get('variant', '')}".strip(),
        f"{r['minutes']:g}" if trained else "-",
        f"{trained['seconds'] / 60:.1f}" if trained else "-",
        f"{trained['cpu_seconds'] / 60:.1f}" if trained else "-",
        r["seed"],
        r["scores"]["generated"]["pictures"],
        r["painting"]["steps"] if trained else "-",
        _score(r, "kid"),
        _score(r, "kid_second_opinion"),
        *(_score(r, key) for key in ("precision", "recall", "coverage", finest)),
        f"{r['scores']['copies']['rate']:.1%}",
        f"{trained['pictures_seen'] / trained['seconds']:.1f}" if trained else "-",
        f"{trained['peak_bytes'] / 2**20:,.0f} MB" if trained else "-",
    )


def _trials(records: list[Record]) -> list[str]:
    """Held-out error: mean over eight noise levels, of use only between trials on the same latents and the same levels."""
    rows: list[tuple[object, ...]] = [
        (
            *(r["tag"], f"{r['recipe']} {' '.join(r['settings'])}", f"{r['minutes']:g}", r["seed"], f"{r['pictures_seen']:,}"),
            f"{sum(r['held_out_errors']) / len(r['held_out_errors']):.4f}",
            *(_score(r, key) for key in ("kid", "kid_second_opinion", "precision", "coverage")),
            f"{r['scores']['copies']['rate']:.1%}",
        )
        for r in sorted(records, key=lambda r: (r["size"], r["minutes"], _kid(r)))
    ]
    head = ("trial", "recipe", "minutes", "seed", "pictures seen", "held-out error", "KID x1000", "second opinion", "precision", "coverage")
    return _section("The recipe study", (*head, "copies"), rows)


def _called(r: Record) -> str:
    words = [r["entrant"], r.get("variant"), f"{r['minutes']:g} minutes" if r.get("trained") else None, f"seed {r['seed']}"]
    return ", ".join(word for word in words if word)


def _score(record: Record, key: str) -> str:
    return _margin(record["scores"]["scores"][key])


def _margin(score: Record) -> str:
    digits = 0 if score["margin"] >= 2 else 1 if score["margin"] >= 0.2 else 2
    return f"{score['value']:,.{digits}f} ± {score['margin']:.{digits}f}"


def _painting(records: list[Record]) -> list[str]:
    rows: list[tuple[object, ...]] = [
        (r["entrant"], r["minutes"], step["steps"], f"{step['seconds_per_picture']:.2f}", _margin(step["kid"]))
        for r in records
        for step in r["sweep"]
    ]
    return _section("Seconds per picture, and what they buy", ("", "minutes trained", "steps", "s/picture", "KID x1000"), rows)


def _speed(records: list[Record]) -> list[str]:
    rows: list[tuple[object, ...]] = [
        (r["network"], r["batch"], f"{r['ours']:.2f}", f"{r['diffusers']:.2f}", f"{r['ours'] / r['diffusers']:.2f}") for r in records
    ]
    return _section("Training pictures a second, same network", ("U-Net", "batch", "ours", "diffusers", "ratio"), rows)


def _steps(records: list[Record]) -> list[str]:
    """Ratios are to `before` where it ran, else to fp32; shares are of what a core multiplies in that precision."""
    rows: list[tuple[object, ...]] = []
    for r in records:
        for row in r["rows"]:
            first = next(each for each in r["rows"] if each["threads"] == row["threads"])
            ratios = (row[key] / first[key] for key in ("pictures_per_second", "per_cpu_second"))
            gflops = row["per_cpu_second"] * r["flops_per_picture"] / 1e9
            share = gflops / r["multiplied"]["bf16" if "bf16" in row["way"] else "fp32"]
            rates = (row["pictures_per_second"], row["per_cpu_second"], gflops)
            cells = (*(f"{rate:.0f}" for rate in rates), f"{share:.0%}", *(f"{ratio:.2f}" for ratio in ratios))
            way = f"before ({r['before']})" if row["way"] == "before" else row["way"]
            rows.append((r["recipe"], row["batch"], row["threads"], way, *cells))
    head = ("recipe", "batch", "threads", "", "pictures/s", "a second of one core", "GFLOP/s of one core", "of what it multiplies")
    return _section("Training pictures a second, by how an update computes", (*head, "ratio by the clock", "of one core"), rows)


def _startup(records: list[Record]) -> list[str]:
    rows: list[tuple[object, ...]] = [(what, f"{seconds:.2f}") for r in records for what, seconds in r["seconds"].items()]
    return _section("Start-up", ("", "seconds"), rows)


def _judging(records: list[Record]) -> list[str]:
    rows: list[tuple[object, ...]] = [
        (f"{r['count']:,} against {r['count']:,}", r["machine"]["cores_used"], f"{r['seconds']:.0f}", f"{r['peak_bytes'] / 2**20:,.0f} MB")
        for r in records
    ]
    return _section("Judging, from files to report", ("pictures", "cores", "seconds", "memory"), rows)


def _upscaling(records: list[Record]) -> list[str]:
    """A section for each run; those whose upscalers were also compared picture by picture have a second table."""
    head = ("", "of", "pictures", "KID x1000", "SWD at 256 px", "SWD at 128 px", "PSNR", "SSIM", "consistency", "core seconds")
    less = ("", "less", "of", "pictures", "PSNR", "SSIM x1000", "consistency", "features x1000", "KID x1000", "KID of patches")
    how = "One less the other, picture by picture, or on the same draws of pictures:"
    out: list[str] = []
    for r in records:
        rows = [
            (
                *(row["upscaler"], row["of"], row["pictures"], *(_margin(row[key]) for key in ("kid", "swd_256", "swd_128"))),
                *(f"{row['psnr']:.1f} dB", f"{row['ssim']:.3f}", f"{row['consistency']:.1f} dB", f"{row['cpu_seconds']:.2f}"),
            )
            for row in r["rows"]
        ]
        differences = [
            (
                *(row["upscaler"], row["than"], row["of"], row["pictures"], _margin(row["psnr"]), _margin(_times(row["ssim"], 1000))),
                *(_margin(row[key]) if key in row else "" for key in ("consistency", "features", "kid", "kid_patches")),
            )
            for row in r.get("differences", ())
        ]
        tag = r["name"].removeprefix("upscaling").replace("-", ", ", 1)
        out += [*_section(f"Upscalers, 64 to 256 pixels{tag}", head, rows), *(["", how, *table(less, differences)] if differences else [])]
    return out


def _times(score: Record, factor: float) -> Record:
    return {name: factor * value for name, value in score.items()}


def _copies(records: list[Record]) -> list[str]:
    head = ("kind", "trained on", "altered copies", "found", "unseen pictures", "flagged", "in the worst training set")
    rows: list[tuple[object, ...]] = [
        (
            *(k["kind"], f"{k['trained_on']:,}", k["copies"], f"{k['copies_found']:.1%}"),
            *(f"{k['unseen']:,}", f"{k['unseen_flagged']:.1%}", f"{k['unseen_flagged_in_the_worst_set']:.1%}" if k["sets"] > 1 else ""),
        )
        for r in records
        for k in r["kinds"]
    ]
    if not rows:
        return []
    shown = "The pictures of `held` that are flagged, each beside the training picture it is said to copy:"
    picture = "![unseen pictures called copies](../benchmarks/records/copies.webp)"
    return [*_section("The search for copies", head, rows), "", shown, "", picture]


def _sheets(folder: Path) -> list[str]:
    """64 pictures as they came, of every run that was judged."""
    out = ["", "## Uncurated samples"]
    for record in read_all(folder, "quality"):
        if not record.get("prerun"):
            out += ["", f"{_called(record)}:", "", f"![64 pictures of {_called(record)}](../benchmarks/records/{record['name']}.webp)"]
    return out if len(out) > 2 else []


def _made(records: list[Record]) -> list[str]:
    """What was typed, where, and how fast the machine was then."""
    rows: list[tuple[object, ...]] = []
    for r in sorted(records, key=lambda r: str(r["name"])):
        where, rates = r["machine"], (r["machine"]["matmul_gflops"], r["machine"]["matmul_gflops_after"])
        used = f"{where['cores_used']} of {where['cores']}"
        rows.append((f"`{r['command']}`", r["date"], where["processor"], used, "-".join(str(rate) for rate in sorted(rates))))
    return _section("How each was made", ("command", "date", "machine", "cores", "GFLOP/s then"), rows)


def _section(title: str, head: Iterable[str], rows: list[tuple[object, ...]]) -> list[str]:
    return ["", f"## {title}", *table(head, rows)] if rows else []
