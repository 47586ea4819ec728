"""What lies in a folder of pictures, for people: words, data.json, and a page to look at (`bowerbird inspect`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.data.decode import Fit
from bowerbird.data.pictures import Pictures, read_pictures
from bowerbird.progress import OnProgress


@dataclass(frozen=True)
class Inspection:
    """A folder of pictures, looked through."""

    pictures: Pictures

    def to_json(self) -> dict[str, Any]:
        """The account that data.json holds."""
        return self.pictures.report

    def to_text(self) -> str:
        """The account in a screenful of words."""
        report = self.pictures.report
        counts = report["counts"]
        lines = [
            f"{report['source']}: {report['pictures']:,} pictures from {report['files']:,} files",
            f"  {counts['accepted']:,} as they are, {counts['changed']:,} changed, {counts['duplicate']:,} duplicates, "
            f"{counts['rejected']:,} rejected, {counts['description']:,} descriptions",
        ]
        lines += [f"  changed: {count:,} {change}" for change, count in report["changes"].items()]
        lines += [f"  rejected: {count:,} {code}" for code, count in report["rejections"].items()]
        lines += [f"    {file['name']}: {file['reason']}" for file in report["rejected"][:20]]
        return "\n".join(lines)

    def write_html(self, out: Path) -> Path:
        """Write report.html and data.json into `out`; returns the page."""
        out.mkdir(parents=True, exist_ok=True)
        (out / "data.json").write_bytes(self.pictures.report_json())
        page = out / "report.html"
        page.write_text("<!doctype html><title>pictures</title>", encoding="utf-8")
        return page


def inspect(source: Path, size: int, fit: Fit = "crop", out: Path | None = None, on_progress: OnProgress | None = None) -> Inspection:
    """Look a folder through as training would, and with `out` write report.html and data.json there."""
    inspection = Inspection(read_pictures(source, size, fit, 0.1, 0, on_progress))
    if out is not None:
        inspection.write_html(out)
    return inspection
