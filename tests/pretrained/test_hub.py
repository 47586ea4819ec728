"""A hub name: asked before anything is fetched, safetensors only, nothing at all when offline.  The hub here is a stand-in."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from bowerbird.errors import ModelError
from bowerbird.pretrained import open_pretrained
from bowerbird.pretrained.hub import Download, is_hub_name, plan_download

CPU = torch.device("cpu")
FILES = {
    "README.md": 10, "model_index.json": 1, "v1-5-pruned.ckpt": 7_000, "v1-5-pruned.safetensors": 7_000, "pipeline.py": 3,
    "unet/config.json": 1, "unet/diffusion_pytorch_model.bin": 3_400, "unet/diffusion_pytorch_model.safetensors": 3_400,
    "unet/diffusion_pytorch_model.fp16.safetensors": 1_700, "unet/diffusion_pytorch_model.non_ema.safetensors": 3_400,
    "vae/config.json": 1, "vae/diffusion_pytorch_model.fp16.safetensors": 160, "text_encoder/config.json": 1,
    "text_encoder/model.safetensors": 490, "tokenizer/merges.txt": 1, "safety_checker/model.safetensors": 1_200,
}  # fmt: skip


def info(files: dict[str, int], licence: str | None = "creativeml-openrail-m") -> Any:
    siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files.items()]
    return SimpleNamespace(siblings=siblings, card_data=SimpleNamespace(license=licence), sha="abc")


def test_each_weight_is_wanted_once_and_pickles_never():
    plan = plan_download("maker/model", info(FILES), Path("/cache"))
    assert set(plan.files) == {
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/merges.txt",
    }  # fmt: skip
    assert plan.size_bytes == sum(FILES[name] for name in plan.files)
    assert "creativeml-openrail-m" in str(plan) and "/cache" in str(plan)


def test_models_of_pickles_alone_are_refused():
    with pytest.raises(ModelError, match="could run code"):
        plan_download("maker/model", info({"model_index.json": 1, "unet/diffusion_pytorch_model.bin": 3}), Path("/cache"))
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        plan_download("maker/model", info({"model.ckpt": 1}), Path("/cache"))


def test_names_of_the_hub_have_one_form():
    assert is_hub_name("stabilityai/stable-diffusion-xl-base-1.0")
    for name in ("model", "a/b/c", "../x", "/etc/passwd", "a b/c", "a/..", "https://x/y", "-a/b"):
        assert not is_hub_name(name)


class Hub:
    """What huggingface_hub does, as far as it is asked here."""

    def __init__(self, source: Path, cache: Path) -> None:
        self.source, self.cache, self.asked = source, cache, list[Any]()

    def snapshot_download(self, name: str, local_files_only: bool = False, revision: str = "", allow_patterns: Any = None) -> str:
        folder = self.cache / name.replace("/", "--")
        if local_files_only and not folder.exists():
            raise LocalEntryNotFoundError(name)
        if not folder.exists():
            self.asked.append((revision, sorted(allow_patterns)))
            for file in allow_patterns:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.source / file, folder / file)
        return str(folder)

    def model_info(self, _name: str, files_metadata: bool) -> Any:
        assert files_metadata
        return info({str(path.relative_to(self.source)): path.stat().st_size for path in self.source.rglob("*") if path.is_file()})


def install(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    return hub


@pytest.fixture
def hub(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return install(Hub(tiny("sd15").folder, tmp_path / "cache"), monkeypatch)


def test_nothing_is_fetched_before_somebody_agreed(hub: Hub):
    questions: list[Download] = []
    with pytest.raises(ModelError, match="Not downloaded"):
        open_pretrained("maker/model", CPU)
    with pytest.raises(ModelError, match="Not downloaded"):
        open_pretrained("maker/model", CPU, ask=lambda plan: questions.append(plan) or False)  # type: ignore[func-returns-value]
    assert not hub.asked and questions[0].licence == "creativeml-openrail-m"
    painter = open_pretrained("maker/model", CPU, ask=lambda plan: True)
    assert painter.parts.family.name == "sd15" and len(hub.asked) == 1
    assert hub.asked[0][0] == "abc"  # the very revision that was asked about


def test_what_is_here_is_not_fetched_again(hub: Hub):
    open_pretrained("maker/model", CPU, ask=lambda plan: True)
    open_pretrained("maker/model", CPU, offline=True)
    assert len(hub.asked) == 1


def test_offline_forbids_even_the_question(hub: Hub):
    with pytest.raises(ModelError, match="--offline forbids"):
        open_pretrained("maker/model", CPU, offline=True, ask=lambda plan: pytest.fail("asked"))


def test_an_unreachable_hub_is_said_in_one_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_arguments: object, **_named: object) -> None:
        raise Exception("Name or service not known")  # whatever the HTTP client of the day raises

    monkeypatch.setattr(hub, "model_info", refuse)
    with pytest.raises(ModelError, match="no path here, and the hub does not give it"):
        open_pretrained("maker/model", CPU, ask=lambda plan: True)
