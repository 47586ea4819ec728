"""Malformed files of every kind that a model of somebody else's brings: a sentence of ours for each, never another error."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from bowerbird.errors import BowerbirdError
from bowerbird.generate import open_model
from tests.pretrained.test_ddpm_folder import unet

COUNT = int(os.environ.get("BOWERBIRD_MALFORMED", "12"))
CPU = torch.device("cpu")
JUNK: list[Any] = [
    None, True, -1, 0, 10**10, 2.5, "x", "", [], {}, [1, "a"], {"a": 1}, [[[]]], float("inf"), float("nan"), "\ud800", [None] * 5, [2, 2],
    ["DownBlock2D"] * 99,
]  # fmt: skip


def spoilt(draw: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    """One or two entries are gone, or something else, or hold something else."""
    document = json.loads(json.dumps(document))
    for _ in range(draw.choice((1, 1, 2))):
        key = draw.choice(list(document))
        value, kind = document[key], draw.random()
        if kind < 0.15 and len(document) > 1:
            del document[key]
        elif kind < 0.3 and isinstance(value, list) and value:
            value[draw.randrange(len(value))] = draw.choice(JUNK)
        else:
            document[key] = draw.choice(JUNK)
    return document


@pytest.mark.parametrize(
    ("kind", "name"),
    [("sd15", f"{part}/config.json") for part in ("unet", "text_encoder")]
    + [("sd15", name) for name in ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json")]
    + [("ddpm", name) for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json")],
)
def test_a_malformed_config_gets_a_sentence(tiny: Any, tmp_path: Path, kind: str, name: str):
    if kind == "sd15":
        shutil.copytree(tiny("sd15").folder, tmp_path, dirs_exist_ok=True)
    else:
        unet().save_pretrained(tmp_path / "unet")
        diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}))
    draw, path = random.Random(name), tmp_path / name
    whole = json.loads(path.read_text())
    refused = 0
    for _ in range(COUNT):
        path.write_text(json.dumps(spoilt(draw, whole)))
        try:
            open_model(tmp_path, CPU)
        except BowerbirdError as error:
            refused += 1
            assert len(str(error)) < 700
    assert refused or name == "model_index.json"  # a DDPM's index is not needed
