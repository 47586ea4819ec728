"""Many pictures at once, as folders others can learn from: prompts from a file, and a balanced set by class.

    OUT/heron/0000000042.png    by class: a folder each          OUT/0001-0000000042.png    by prompt: numbered as in the file
    OUT/metadata.csv            file_name, text, label, seed, model
    OUT/provenance.json         of a set by class: what was asked of which model, and how that was trained

Every picture says so itself, too (picture_metadata.py).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bowerbird.captioning import sentence_of
from bowerbird.data.layouts.lists import decoded
from bowerbird.data.layouts.tables import read_records
from bowerbird.errors import RequestError
from bowerbird.painter import BATCH, BatchPainter, Painter
from bowerbird.picture_files import SOFTWARE, SUFFIXES, Painted, save_picture
from bowerbird.progress import OnProgress, Progress, tell
from bowerbird.reading import parse_json
from bowerbird.request import MAX_COUNT, PaintRequest, read_request
from bowerbird.storage import Disk, disk_error, write_file

METADATA, PROVENANCE = "metadata.csv", "provenance.json"
_COLUMNS = ("file_name", "text", "label", "seed", "model")
_MAX_PROMPTS_BYTES = 16 * 2**20
_PROMPT_COLUMNS = ("text", "caption")  # other words for prompt, as tables of captions have them


# ------------------------------------------------------------------------------------------------ prompts from a file


def read_prompts(file: Path, asked: dict[str, Any]) -> list[PaintRequest]:
    """A request for each line of a text, or each row of a .csv or .jsonl, whose columns are fields of a request and win over `asked`.

    RequestError names the row that cannot be.
    """
    try:
        if file.stat().st_size > _MAX_PROMPTS_BYTES:
            raise RequestError(f"{str(file)!r} has {file.stat().st_size / 2**20:,.0f} MiB; prompts are read up to 16. Give a shorter file.")
        text = decoded(file.read_bytes())
    except OSError as error:
        raise RequestError(f"cannot read the prompts {str(file)!r} ({error.strerror}). Name the file they are in.") from error
    problems: list[str] = []
    if file.suffix.lower() in (".csv", ".jsonl"):
        rows = [_fields_of(row) for row in read_records(file.name, text, problems)]
    else:
        rows = [{"prompt": line.strip()} for line in text.splitlines() if line.strip()]
    if problems:
        raise RequestError(f"{'; '.join(problems)}. Mend the file, or give one prompt a line in a .txt.")
    if not rows:
        raise RequestError(f"there is no prompt in {str(file)!r}. Write one a line, or a .csv or .jsonl with a column prompt.")
    requests = []
    for number, row in enumerate(rows, 1):
        try:
            requests.append(read_request({**asked, **row}))
        except RequestError as error:
            raise RequestError(f"{file.name}, row {number}: {error}") from error
    if len({request.model for request in requests}) > 1:
        raise RequestError(f"{str(file)!r} names several models, and one paints at a time. Make a file for each.")
    return requests


def _fields_of(row: dict[str, object]) -> dict[str, object]:
    """What a row says, without its empty cells."""
    named = {"prompt" if column in _PROMPT_COLUMNS else column: value for column, value in row.items()}
    return {column: value for column, value in named.items() if value not in (None, "")}


def paint_prompts(requests: list[PaintRequest], out: Path, painter: Painter, on_progress: OnProgress | None = None) -> list[Path]:
    """Paint each request; pictures are called after its number and their seed, and listed in metadata.csv.  Nothing is overwritten."""
    _make_folder(out)
    write_metadata(out, [])  # another table in the way is better told now
    for number, request in enumerate(requests, 1):
        try:
            painter.resolve(request.model_copy(update={"expand": "off"}))  # whoever expands is asked when it is painted
        except RequestError as error:  # before the first picture, not after the hundredth
            raise RequestError(f"prompt {number}: {error}") from error
    rows = list[_Row]()
    for number, pictures in paint_each(painter, requests, on_progress):
        for painted in pictures:
            asked = painted.settings
            name = free_name(out, f"{number:04d}-{painted.seed:010d}", SUFFIXES[asked.format])
            save_picture(painted, out / name)
            rows.append(_Row(name, asked.prompt or sentence_of(asked.label or ""), asked.label or "", painted.seed, asked.model))
        write_metadata(out, rows)
    return [out / row.file_name for row in rows]


def paint_each(painter: Painter, requests: list[PaintRequest], on_progress: OnProgress | None) -> Iterator[tuple[int, list[Painted]]]:
    """(number from 1, pictures) of each request: of our own models as many in one walk as fit a batch, each alone where exact."""
    total, start = sum(request.count for request in requests), 0
    while start < len(requests):
        stop = start + 1
        while isinstance(painter, BatchPainter) and stop < len(requests) and _fit_together(requests[start : stop + 1]):
            stop += 1
        part = requests[start:stop]
        heard = _as_pictures(on_progress, sum(request.count for request in requests[:start]), sum(request.count for request in part), total)
        if isinstance(painter, BatchPainter) and len(part) > 1:
            yield from ((start + 1 + number, pictures) for number, pictures in painter.paint_together(part, heard))
        else:
            yield start + 1, list(painter.paint(part[0], heard))
        start = stop


def _fit_together(requests: list[PaintRequest]) -> bool:
    return sum(request.count for request in requests) <= BATCH and not any(request.exact for request in requests)


def free_name(folder: Path, stem: str, suffix: str) -> str:
    """stem.png, or stem-2.png ... when that is there already: nothing of the user's is overwritten."""
    names = (f"{stem}{extra}{suffix}" for extra in ("", *(f"-{n}" for n in range(2, MAX_COUNT))))
    return next(name for name in names if not (folder / name).exists())


# ------------------------------------------------------------------------------------------------ a balanced set


def paint_per_label(request: PaintRequest, count: int, out: Path, painter: Painter, on_progress: OnProgress | None = None) -> list[Path]:
    """Paint `count` pictures of every class (or of the one asked for) into a folder each below `out`; returns all of them.

    The same call goes on with a set that was broken off, and a larger `count` with a finished one.  Picture i of class k starts from
    seed + 10,000 k + i, so no two share their noise.
    """
    if not 1 <= count <= MAX_COUNT:
        raise RequestError(f"--per-label {count:,} is not possible: 1 to {MAX_COUNT:,} pictures a class are.")
    known = _labels_of(painter)
    labels = [request.label] if request.label is not None else known
    request = _begin(painter, request, count, out)
    assert request.seed is not None
    rows, folders = list[_Row](), _folders(known)
    for done, label in enumerate(labels):
        first = request.seed + MAX_COUNT * known.index(label)
        names = [f"{folders[label]}/{first + i:010d}{SUFFIXES[request.format]}" for i in range(count)]
        there = next((i for i, name in enumerate(names) if not (out / name).exists()), count)
        if there < count:
            _make_folder(out / folders[label])
            share = request.model_copy(update={"label": label, "seed": first + there, "count": count - there})
            heard = _as_pictures(on_progress, done * count + there, count - there, len(labels) * count)
            for name, painted in zip(names[there:], painter.paint(share, heard), strict=False):
                save_picture(painted, out / name)
        text = request.prompt or sentence_of(label)
        rows += [_Row(name, text, label, first + i, request.model) for i, name in enumerate(names)]
        write_metadata(out, rows)
    return [out / row.file_name for row in rows]


@dataclass(frozen=True)
class _Row:
    file_name: str
    text: str
    label: str
    seed: int
    model: str


def write_metadata(out: Path, rows: Iterable[_Row]) -> None:
    """metadata.csv as Hugging Face's ImageFolder reads it; rows of pictures that are not named anew stay."""
    table = {row.file_name: row for row in [*_read_metadata(out / METADATA), *rows]}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((row.file_name, row.text, row.label, row.seed, row.model) for row in table.values())
    write_file(Disk(), out / METADATA, text.getvalue().encode("utf-8", "surrogateescape"))


def _read_metadata(path: Path) -> list[_Row]:
    """The rows of a table we wrote; RequestError when another one lies there."""
    if not path.exists():
        return []
    reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8", "surrogateescape")))
    try:
        columns, *rows = map(tuple, reader)
        if columns == _COLUMNS:
            return [_Row(name, text, label, int(seed), model) for name, text, label, seed, model in rows]
    except (csv.Error, ValueError):
        pass
    raise RequestError(f"{str(path)!r} is a table of somebody else's pictures, or damaged. Name another --out.")


def _begin(painter: Painter, request: PaintRequest, count: int, out: Path) -> PaintRequest:
    """The resolved request of the set in `out`, which is new, or was begun with the same one: then its seed is taken up."""
    file = out / PROVENANCE
    before = _read_provenance(file)
    if before is None and out.exists() and any(out.iterdir()):
        raise RequestError(f"{str(out)!r} holds other files, and a set has a folder of its own. Name another --out.")
    if before is not None and request.seed is None:
        request = request.model_copy(update={"seed": before["request"]["seed"]})
    painter.resolve(request)  # a class there is none of is told here
    resolved = painter.resolve(request.model_copy(update={"label": None, "count": 1}))
    asked = resolved.model_dump(mode="json")
    differing = [name for name in asked if before is not None and asked[name] != before["request"].get(name)]
    if differing:
        raise RequestError(f"{str(out)!r} was begun with another {differing[0]}. Ask for the same, or name another --out.")
    ours = {
        "made_by": SOFTWARE,
        "what": "pictures painted by a model, not photographs of anything",
        "per_label": max(count, before["per_label"] if before else 0),
        "request": asked,
        "model": painter.describe(),
    }
    _make_folder(out)
    write_file(Disk(), file, json.dumps(ours, indent=1, ensure_ascii=False, default=str).encode())
    return resolved


def _read_provenance(file: Path) -> dict[str, Any] | None:
    """What a set was begun with; None where none was."""
    if not file.exists():
        return None
    try:
        document = parse_json(file.read_bytes())
        if (
            isinstance(document["request"], dict)
            and isinstance(document["request"].get("seed"), int)
            and isinstance(document["per_label"], int)
        ):
            return dict(document)
    except (ValueError, KeyError, TypeError):
        pass
    raise RequestError(f"{str(file)!r} is damaged, so it is not known how this set was begun. Name another --out.")


def _labels_of(painter: Painter) -> list[str]:
    conditions = painter.describe().get("conditions")
    names = conditions.get("label", {}).get("names") if isinstance(conditions, dict) else None
    if not names:
        raise RequestError("this model knows no classes, so there is nothing to paint --per-label of. Train with condition.label = true.")
    return [str(name) for name in names]


def _folders(labels: list[str]) -> dict[str, str]:
    """A folder name for each label: the label, without what no folder can be called, each name once whatever the case."""
    names: dict[str, str] = {}
    for label in labels:
        plain = "".join(c if c.isalnum() or c in " -_()" else "_" for c in label).strip()[:100] or "_"
        taken = {name.casefold() for name in names.values()}
        names[label] = next(
            name for n in range(1, len(labels) + 2) if (name := plain if n == 1 else f"{plain}-{n}").casefold() not in taken
        )
    return names


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


def _as_pictures(on_progress: OnProgress | None, behind: int, count: int, total: int) -> OnProgress:
    """Progress of `count` pictures, `behind` others, told in pictures of all."""

    def heard(event: Progress) -> None:
        done = behind + count * event.done // max(1, event.total)
        tell(on_progress, replace(event, done=done, total=total) if event.stage == "paint" else event)

    return heard
