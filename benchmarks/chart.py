"""One picture of the records: KID against minutes of training, every painter of 64x64."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.records import Record, read_all

SIZE = 64


def draw(folder: Path, target: Path) -> None:
    """Points with their 95 % margins, joined by painter; those who need no training are lines across."""
    series: dict[str, list[Record]] = defaultdict(list)
    for record in [*read_all(folder, "quality"), *read_all(folder, "trial")]:
        if record["size"] == SIZE:
            series[_name(record)].append(record)
    figure = Figure(figsize=(8, 5), layout="tight")
    axes = figure.add_subplot()
    for name, found in sorted(series.items()):
        found.sort(key=lambda record: record.get("minutes") or 0)
        kid = [record["scores"]["scores"]["kid"] for record in found]
        if found[0].get("minutes") is None:
            axes.axhline(kid[0]["value"], linestyle=":", color="grey")
            axes.text(1.02, kid[0]["value"], name, transform=axes.get_yaxis_transform(), va="center", color="grey", fontsize=8)
        else:
            minutes = [record["minutes"] for record in found]
            axes.errorbar(minutes, [k["value"] for k in kid], [k["margin"] for k in kid], marker="o", capsize=3, label=name)
    axes.set(xlabel="minutes of one core", ylabel="KID x1000 (lower is better)", xscale="log", ylim=(0, None))
    axes.set_xticks([3, 6, 10, 20, 60], ["3", "6", "10", "20", "60"])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(target)


def _name(record: Record) -> str:
    if record["benchmark"] == "trial":
        return f"ours, trial {record['tag']}"
    return " ".join(word for word in (record["entrant"], record.get("variant")) if word)
