"""Looking at every training picture once: what it shows, as conditions/image_embedding.py has it, kept in the cache."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from bowerbird.conditions.image_embedding import INPUT_PX, project
from bowerbird.data.pictures import Pictures
from bowerbird.models.features import SECOND_OPINION, extract, extracted, load_network, network_input
from bowerbird.pixels import Pixels
from bowerbird.progress import OnProgress

PART = 4096  # pictures
TIMED = 8  # pictures


def represented(pictures: Pictures, device: torch.device, on_progress: OnProgress | None = None) -> Tensor:
    """What every picture shows, (n, 64), on the CPU."""

    def of(part: Pixels) -> Tensor:
        return project(torch.from_numpy(extract(part, SECOND_OPINION, device, on_progress, INPUT_PX)))

    return torch.cat([of(part) for part in _parts(pictures)])


def seconds_to_represent(pictures: Pictures, device: torch.device) -> float:
    """What `represented` will take, from the time of a few pictures."""
    missing = sum(len(part) for part in _parts(pictures) if not extracted(part, SECOND_OPINION, INPUT_PX))
    if not missing:
        return 0.0
    few, network = pictures.pixels[:TIMED], load_network(SECOND_OPINION, str(device))
    began = time.monotonic()
    with torch.inference_mode():
        network(network_input(few, INPUT_PX).to(device)).cpu()
    return (time.monotonic() - began) / len(few) * missing


def _parts(pictures: Pictures) -> list[Pixels]:
    """The pixels in parts that are looked at, and kept in the cache, one by one: a run that is killed meanwhile loses one part."""
    return [pictures.pixels[start : start + PART] for start in range(0, len(pictures.pixels), PART)]
