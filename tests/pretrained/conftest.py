"""Tiny models of every family, made once; and no way out to the network for any test here."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from bowerbird.pretrained import PretrainedPainter, families, open_pretrained
from tests.pretrained import checkpoints

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_named: object) -> None:
        raise AssertionError("a test of the pretrained family reached for the network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@dataclass(frozen=True)
class Tiny:
    """One tiny model in both published layouts, and painters opened from them."""

    name: str
    root: Path

    @property
    def configs(self) -> Path:
        return self.root / "families" / self.name

    @cached_property
    def networks(self) -> dict[str, torch.nn.Module]:
        return checkpoints.networks(self.configs)

    @cached_property
    def file(self) -> Path:
        path = self.root / f"{self.name}.safetensors"
        save_file(checkpoints.single_file(self.networks, self.name, ema=self.name == "sd15", half=False), path)
        return path

    @cached_property
    def folder(self) -> Path:
        return checkpoints.write_diffusers_folder(self.root / self.name, self.networks, self.configs)

    @cached_property
    def painter(self) -> PretrainedPainter:
        return open_pretrained(self.file, CPU)

    @cached_property
    def folder_painter(self) -> PretrainedPainter:
        return open_pretrained(self.folder, CPU)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("tiny")
    checkpoints.write_tiny_families(root / "families")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "_HERE", root / "families")
        yield root


@pytest.fixture(scope="session")
def tiny(tiny_root: Path) -> Any:
    """tiny("sd15") -> the tiny model of that family."""
    made: dict[str, Tiny] = {}
    return lambda name: made.setdefault(name, Tiny(name, tiny_root))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A picture of 64x64, a larger one, and masks for both."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in (("small", (64, 64)), ("large", (120, 72))):
        picture = Image.radial_gradient("L").resize(size)
        Image.merge(
            "RGB", (picture, picture.transpose(Image.Transpose.ROTATE_90).resize(size), Image.linear_gradient("L").resize(size))
        ).save(folder / f"{name}.png")
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).ellipse((size[0] // 4, size[1] // 4, size[0] // 2, size[1] * 3 // 4), fill=255)
        mask.save(folder / f"{name}-mask.png")
    return {path.stem: path for path in folder.iterdir()}
