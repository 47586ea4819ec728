"""How pictures and what is said about them may lie in a folder: recognised from the listing, each read by a module of its own.

sidecars   cat.txt beside cat.jpg                       folders    sub-folders are classes; train/ and test/ are the split
tables     metadata.csv, metadata.jsonl                 coco       a COCO captions file
masks      cat.mask.png beside cat.jpg: where it is to be learnt
cub        CUB-200-2011: classes, split, boxes, attributes, parts, the ten sentences of Reed et al.

A new layout is a module with a `find` and a dataclass that is a `Layout`, named here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bowerbird.data.decode import Box
from bowerbird.data.layouts import coco, cub, masks, sidecars, tables
from bowerbird.data.layouts.folders import Folders
from bowerbird.data.layouts.layout import Files, Layout, Said

__all__ = ["Files", "Layout", "Said", "describe", "find_layouts", "read_boxes"]


def find_layouts(files: Files, source: Path | None = None, captions: Path | None = None) -> list[Layout]:
    """The layouts a listing has, the nearest first: whoever comes first wins where two speak of the same thing.

    `captions`: a table that lies elsewhere and comes before all of them.
    """
    chosen = tables.TableElsewhere(captions) if captions is not None else None
    found = (chosen, sidecars.find(files), tables.find(files), coco.find(files), cub.find(files, source), masks.find(files), Folders())
    return [layout for layout in found if layout is not None]


def describe(root: Path, files: Files, layouts: Sequence[Layout], pictures: Sequence[str]) -> Said:
    """What all layouts together say about `pictures`: captions by picture, labels and split whole, from the first that has any."""
    all_said = Said()
    for layout in layouts:
        said = layout.read(root, files, pictures)
        for picture, captions in said.captions.items():
            if picture not in all_said.captions:
                all_said.captions[picture] = captions
                all_said.sources[layout.name] += 1
            elif all_said.captions[picture] != captions:
                all_said.conflicts.add(picture)
        all_said.labels = all_said.labels or said.labels
        all_said.held = all_said.held or said.held
        all_said.masks |= said.masks
        all_said.conflicts |= said.conflicts
        all_said.problems += said.problems
        all_said.orphans += said.orphans
        all_said.writers += said.writers
    return all_said


def read_boxes(root: Path, files: Files) -> dict[str, Box]:
    """Bounding boxes by picture, of the one layout that has them; {} where there are none."""
    found = cub.find(files)
    return found.boxes(root, files) if found is not None else {}
