"""Models that stay open between jobs; the least recently used leave when memory asks."""

from __future__ import annotations

import gc
from collections import OrderedDict
from pathlib import Path

import torch

from bowerbird import hardware
from bowerbird.generate import open_chain
from bowerbird.locate import Opening
from bowerbird.painter import Painter

SPARE_BYTES = 1 << 30  # for the arithmetic, and for everybody else


class LoadedModels:
    """Painters by name, on one device."""

    def __init__(self, device: str | None, precision: str, spare_bytes: int = SPARE_BYTES) -> None:
        self._device = hardware.choose_device(device)
        self._opening = Opening(dtype=hardware.dtype_of(precision), offline=True)  # no request leaves the machine
        self._spare_bytes = spare_bytes
        self._open: OrderedDict[tuple[str, int], Painter] = OrderedDict()  # the most recently used last

    def get(self, name: str) -> Painter:
        """The painter of that name, opened if need be; a run that has learnt on since is opened anew."""
        key = (name, _stamp(name))
        if key not in self._open:
            for old in [other for other in self._open if other[0] == name]:
                del self._open[old]
            self._make_room(_bytes_on_disk(name))
            self._open[key] = open_chain(name, self._device, self._opening)
        self._open.move_to_end(key)
        return self._open[key]

    def forget(self, but: Painter | None = None) -> None:
        """Close every model, or all but one."""
        for key in [key for key, painter in self._open.items() if painter is not but]:
            del self._open[key]
        self._give_back()

    def _make_room(self, needed_bytes: int) -> None:
        """Close models, the least recently used first, until the next one fits."""
        while self._open and hardware.available_memory_bytes(self._device) < needed_bytes + self._spare_bytes:
            self._open.popitem(last=False)
            self._give_back()

    def _give_back(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _stamp(name: str) -> int:
    """Changes when the model behind the name does."""
    for paper in (Path(name.partition("@")[0]) / "run.json", Path(name)):
        if paper.exists():
            return paper.stat().st_mtime_ns
    return 0


def _bytes_on_disk(name: str) -> int:
    path = Path(name.partition("@")[0])
    if path.is_file():
        return path.stat().st_size
    return max((sum(file.stat().st_size for file in folder.rglob("*.safetensors")) for folder in _models_in(path)), default=0)


def _models_in(path: Path) -> list[Path]:
    """The model folders behind a name: the snapshots of a run, or the folder itself."""
    if not path.is_dir():
        return []
    return list((path / "models").iterdir()) if (path / "models").is_dir() else [path]
