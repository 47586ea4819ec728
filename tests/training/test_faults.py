"""Faults that are planted: damaged files, a full disk, numbers that are not finite, changed settings, signals, old formats."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bowerbird.data.pictures import open_pictures
from bowerbird.errors import ModelError, ResourceError, RunError, Stopped
from bowerbird.model_folder import open_model_folder
from bowerbird.progress import Progress
from bowerbird.recipe import FREE_FIELDS, Train, check_recipe, flatten
from bowerbird.run_folder import CHECKPOINT_MANIFEST, model_of_run, read_run_state
from bowerbird.storage import seal, verify_folder
from bowerbird.training.checkpoint import checkpoint_bytes, state_tensors
from bowerbird.training.optimizer import load_optimizer_tensors, make_optimizers, optimizer_tensors
from bowerbird.training.resume import start_or_resume
from bowerbird.training.validation import Best, Validation, takes_the_title
from bowerbird.weights import load
from tests.conftest import tiny_recipe
from tests.disks import FullDisk
from tests.training.faults import KINDS, damage, plant, writes_of
from tests.training.runs import Notes, losses, new_setup, run_here

RECIPE = tiny_recipe(sample={"every_epochs": 1, "count": 1, "steps": 1})


@pytest.fixture(scope="module")
def stopped(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped in its middle, with two checkpoints and a model."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stopped):
        run_here(picture_folder, run, RECIPE, on_progress=lambda event: not (event.stage == "train" and event.done >= 64))
    return run


@pytest.mark.parametrize("seed", range(12))
def test_damage_is_noticed_before_use(stopped: Path, picture_folder: Path, tmp_path: Path, seed: int) -> None:
    """One flipped bit, a cut or a missing file in the newest checkpoint: said aloud, and the one before it goes on."""
    run = shutil.copytree(stopped, tmp_path / "run")
    newest = run / "checkpoints" / str(read_run_state(run).checkpoint)
    damage(newest, random.Random(seed))
    with pytest.raises(ModelError):
        verify_folder(newest, CHECKPOINT_MANIFEST)
    pictures = open_pictures(picture_folder, 16, "crop", 0.1, 0)
    notes = Notes()
    resumed = start_or_resume(new_setup(run, RECIPE, pictures, notes))
    assert any("damaged" in note or "passing over" in note for note in notes)
    assert resumed is not None and 0 < resumed.state.seen < int(newest.name[:10])


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_model_is_never_opened(stopped: Path, tmp_path: Path, seed: int) -> None:
    run = shutil.copytree(stopped, tmp_path / "run")
    damage(model_of_run(run)[0], random.Random(seed))
    with pytest.raises(ModelError):
        open_model_folder(*model_of_run(run))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_a_full_disk_keeps_what_was_saved(stopped: Path, picture_folder: Path, tmp_path: Path, share: float) -> None:
    """Space ends at some write of resuming, saving or pruning: one sentence, exit code 2, and the run goes on when there is space again."""
    writes = writes_of(picture_folder, shutil.copytree(stopped, tmp_path / "counted"), RECIPE)
    run = shutil.copytree(stopped, tmp_path / "run")
    with pytest.raises(ResourceError, match=r"no space left to write '.*': it takes at least [\d,]+ bytes, and [\d,]+ are free") as error:
        run_here(picture_folder, run, RECIPE, disk=FullDisk(int(share * writes)))
    assert error.value.exit_code == 2
    notes = Notes()  # nothing that run.json names may be damaged
    verify_folder(run / "checkpoints" / str(read_run_state(run, notes).checkpoint), CHECKPOINT_MANIFEST)
    model_of_run(run, on_progress=notes)
    assert not notes
    run_here(picture_folder, run, RECIPE)
    assert read_run_state(run).finished


def test_a_disk_that_is_full_while_recording_a_step(picture_folder: Path, tmp_path: Path) -> None:
    """The line of a step is appended, not written like the rest: one sentence too, and the run goes on from its last save."""
    record = tmp_path / "run" / "metrics.jsonl"

    def fill_the_disk(event: Progress) -> None:
        if event.stage == "train" and event.done == 40:
            record.rename(tmp_path / "aside")
            record.symlink_to("/dev/full")

    with pytest.raises(ResourceError, match=r"no space left to write .*metrics"):
        run_here(picture_folder, tmp_path / "run", RECIPE, on_progress=fill_the_disk)
    (tmp_path / "aside").replace(record)
    run_here(picture_folder, tmp_path / "run", RECIPE)
    assert [seen for seen, _ in losses(tmp_path / "run")] == list(range(8, 97, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_is_not_finite_reaches_no_weight(picture_folder: Path, tmp_path: Path, kind: str) -> None:
    """Planted once: that update is skipped and its pictures named.  Planted for good: the run stops.  No checkpoint holds it."""
    once = plant(picture_folder, tmp_path / "once", kind, first=5, times=1)
    assert once.finished and once.skipped == 1 and once.finite
    ever = plant(picture_folder, tmp_path / "ever", kind, first=5, times=99)
    assert ever.error == RunError and ever.finite


def _changed(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 8, value * 2, 0, 1]
    if isinstance(value, float):
        return [value / 2 + 0.01, 0.05]
    if isinstance(value, list):
        return [[0.8, 0.95]]
    return ["pad", "edm", "eps", "v", "flow", "min-snr", "logit-normal", "muon", "fp32", "bf16", "euler", "nano", "cosine", "another"]


@pytest.mark.parametrize("field", sorted(flatten(RECIPE)))
def test_a_changed_setting_is_free_or_refused_by_name(stopped: Path, picture_folder: Path, tmp_path: Path, field: str) -> None:
    """Every field of a recipe, changed once: free ones go on, any other is named.  None changes the run in silence."""
    fields = RECIPE.model_dump(mode="json")
    section, _, name = field.rpartition(".")
    for value in _changed(flatten(RECIPE)[field]):
        where = fields[section] if section else fields
        before, where[name] = where[name], value
        try:
            other = check_recipe(fields)
        except Exception:
            where[name] = before
            continue
        if flatten(other)[field] != before:
            break
    else:
        pytest.skip("this field has one possible value beside these settings")
    run = shutil.copytree(stopped, tmp_path / "run")
    pictures = open_pictures(picture_folder, 16, "crop", 0.1, 0)
    if field in FREE_FIELDS:
        assert start_or_resume(new_setup(run, other, pictures)) is not None
    else:
        with pytest.raises(RunError, match=field.replace(".", r"\.")):
            start_or_resume(new_setup(run, other, pictures))


@pytest.mark.parametrize(
    ("key", "words"),
    [("seen", "wrong: seen"), ("best", "wrong: best"), ("recipe", "names a recipe that cannot be"), ("data", "have changed")],
)
def test_a_checkpoint_that_lacks_something_is_refused_in_a_sentence(
    stopped: Path, picture_folder: Path, tmp_path: Path, key: str, words: str
) -> None:
    """Whoever knows the format can seal anything."""
    shutil.copytree(stopped, tmp_path / "run")
    for manifest in (tmp_path / "run/checkpoints").glob("*/checkpoint.json"):
        document = json.loads(manifest.read_bytes())
        for table in (document, document["provenance"]):
            table.pop(key, None)
        document.pop("seal")
        manifest.write_bytes(seal(document))
    with pytest.raises((ModelError, RunError), match=words):
        run_here(picture_folder, tmp_path / "run", RECIPE)


def test_moments_of_another_network_are_refused() -> None:
    network = nn.Linear(3, 2)
    optimizers = make_optimizers(Train(), network)
    network(torch.ones(1, 3)).sum().backward()
    optimizers[0].step()
    whole = optimizer_tensors(optimizers)
    load_optimizer_tensors(optimizers, whole)
    for name in whole:
        for others in (
            {key: tensor for key, tensor in whole.items() if key != name},
            {**whole, name: torch.zeros(7)},
            {**{key: tensor for key, tensor in whole.items() if key != name}, f"x{name}": whole[name]},
        ):
            with pytest.raises(ModelError, match="Restore the checkpoint"):
                load_optimizer_tensors(optimizers, others)


def test_without_an_intact_checkpoint_nothing_begins_anew(stopped: Path, picture_folder: Path, tmp_path: Path) -> None:
    """It would delete the model and the record of hours; the way on is named."""
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "weights.safetensors").write_bytes(b"")
    before = (run / "metrics.jsonl").read_bytes(), sorted(path.name for path in (run / "models").iterdir())
    with pytest.raises(RunError, match=r"no checkpoint of .* is intact.*--init"):
        run_here(picture_folder, run, RECIPE)
    assert before == ((run / "metrics.jsonl").read_bytes(), sorted(path.name for path in (run / "models").iterdir()))
    model_of_run(run)


def test_a_finished_run_whose_model_is_gone_makes_it_again(picture_folder: Path, tmp_path: Path) -> None:
    run = run_here(picture_folder, tmp_path / "run", tiny_recipe(train={"pictures": 16}))
    tensors = load(model_of_run(run)[0] / "transformer/model.safetensors")
    shutil.rmtree(run / "models")
    run_here(picture_folder, run, tiny_recipe(train={"pictures": 16}))
    again = load(model_of_run(run)[0] / "transformer/model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_the_room_asked_for_holds_what_a_checkpoint_becomes(picture_folder: Path, tmp_path: Path) -> None:
    """A new optimizer has no moments yet, and those of AdamW are two more numbers a weight."""
    run = start_or_resume(new_setup(tmp_path, RECIPE, open_pictures(picture_folder, RECIPE.data.size)))
    assert run is not None
    foreseen = checkpoint_bytes(run.state)
    loss = run.objective.losses(run.state.model, run.objective.draw(0, 8), slice(None)).sum()
    loss.backward()
    run.state.optimizers[0].step()
    real = sum(tensor.nbytes for file in state_tensors(run.state).values() for tensor in file.values() if tensor.ndim)
    assert real <= foreseen <= 1.1 * real


def test_the_best_is_compared_with_the_best_there_was() -> None:
    """Snapshots that are each a little worse than the last, within the margin of it, do not lead away step by step."""
    draw, losses = np.random.default_rng(0), np.ones(1)
    first = draw.normal(1.0, 0.2, 200)
    best, taken = Best().with_(Validation(float(first.mean()), first, losses)), []
    for step in range(1, 21):
        scores = first + 0.002 * step + draw.normal(0, 0.05, 200)
        taken.append(takes_the_title(scores, best.scores, seed=0))
        best = best.with_(Validation(float(scores.mean()), scores, losses))
    assert taken[0] and not any(taken[10:]) and np.mean(best.scores) <= first.mean()
