"""The pictures that the bundled starter learns from and is judged against, as folders: file_name, text and label of each.

    python scripts/starter_pictures.py PICTURES OUT

PICTURES: the project's picture set with its metadata.csv and splits.csv (scripts/rebuild_pictures.py makes it).  OUT/train holds
`parts`, `bench`, `more-parts` and `more-bench`, OUT/held holds `held`, OUT/unseen `more-held`: pictures of a subject lie on one side,
whatever their style.
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

SIDES = {"parts": "train", "bench": "train", "more-parts": "train", "more-bench": "train", "held": "held", "more-held": "unseen"}
FIELDS = ("file_name", "text", "label")


def main(source: Path, out: Path) -> None:
    with (source / "splits.csv").open(encoding="utf-8", newline="") as file:
        side = {row["file_name"]: SIDES[row["split"]] for row in csv.DictReader(file)}
    with (source / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in sorted(set(SIDES.values())):
        chosen = [{field: row[field] for field in FIELDS} for row in rows if side.get(row["file_name"]) == name]
        for row in chosen:
            target = out / name / row["file_name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / row["file_name"], target)
        with (out / name / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(chosen)
        print(f"{len(chosen):,} pictures in {out / name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
