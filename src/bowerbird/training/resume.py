"""A run at its beginning, or where it was left: which checkpoint is good, whether it is of this recipe, and what it lacks."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bowerbird import hardware
from bowerbird.data.splits import SMALLEST_SPLIT
from bowerbird.errors import ModelError, RunError
from bowerbird.generate import open_autoencoder
from bowerbird.locate import locate
from bowerbird.model_folder import MANIFEST, About, Model, open_model_folder
from bowerbird.models.autoencoder import Autoencoder, ConvAutoencoder
from bowerbird.progress import OnProgress, note
from bowerbird.recipe import CONDITIONS_READ, FREE_FIELDS, Recipe, differing_fields, write_recipe
from bowerbird.run_folder import CHECKPOINT_MANIFEST, RunState, entries, newest_verified, read_run_state, write_run_state
from bowerbird.storage import remove_temporary, require_free, verify_folder, write_file
from bowerbird.threads import allowed_processors, chosen_by_hand
from bowerbird.training.checkpoint import checkpoint_bytes, load_checkpoint, new_state, read_provenance, read_recipe_of
from bowerbird.training.compiling import compile_blocks
from bowerbird.training.memory import settled
from bowerbird.training.objectives import Objective, choose_objective
from bowerbird.training.optimizer import decay_start
from bowerbird.training.record import Record
from bowerbird.training.run import Run, Setup, keep_checkpoint, seen_of


def start_or_resume(setup: Setup) -> Run | None:
    """A run at its beginning, at its last verified checkpoint, or None when there is nothing left to do."""
    out, recipe, device = setup.out, setup.recipe, setup.device
    left_off = _left_off(setup)
    if left_off is not None:
        setup = replace(setup, recipe=_as_it_began(recipe, read_recipe_of(out / "checkpoints" / left_off)))
        recipe = setup.recipe
    precision = hardware.choose_precision(recipe.train.precision, device)
    objective = choose_objective(recipe, setup.pictures, device, precision, setup.on_progress)
    provenance = _provenance(setup, objective, precision)
    checkpoint, run_state = _checkpoint_to_resume(setup, left_off, provenance)
    if checkpoint is not None and run_state.finished and newest_verified(out / "models", MANIFEST, setup.on_progress) is not None:
        return None  # without a model the last checkpoint makes it again
    model = _network(setup, objective, new=checkpoint is None)
    own = {field.name: getattr(setup, field.name) for field in fields(Setup)}
    record = Record(out / "metrics.jsonl")
    run = Run(
        **own,
        state=new_state(model, recipe, objective.adversary),
        objective=objective,
        precision=precision,
        record=record,
        provenance=provenance,
    )
    compiled = setup.compiled
    if checkpoint is not None:
        load_checkpoint(checkpoint, run.state)
        compiled = bool(read_provenance(checkpoint).get("compiled"))
    if compiled:
        provenance["compiled"] = compile_blocks(run)
    if run.world.is_main:
        if checkpoint is None:
            _begin(run)
        else:
            _clear_up(run, run_state)
    return run


def _provenance(setup: Setup, objective: Objective, precision: str) -> dict[str, Any]:
    """What decides the bits of a run, beside its state; compared on resume."""
    return {
        "recipe": setup.recipe.model_dump(mode="json"),
        "data": objective.fingerprint,
        "hardware": hardware.describe(setup.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": precision,
        "compiled": False,
        "processes": setup.world.size,
        "hours": setup.hours,
    }


def _network(setup: Setup, objective: Objective, new: bool) -> nn.Module:
    """The network to begin or to go on with, on its device."""
    recipe = setup.recipe
    torch.manual_seed(recipe.data.seed)  # decides the initial weights alone; nothing later draws from the global generator unseeded
    # a LoRA's checkpoint is all there is of it; its network is the base's
    same = None if new or recipe.model.network == "lora" else _same_network(setup)
    model = same or objective.new_model()
    model = model.to(setup.device)
    if recipe.train.init and new:
        begin_with(model, recipe.train.init, setup.on_progress)
    if isinstance(model, ConvAutoencoder) and recipe.autoencoder.keep_latents:
        model.keep_encoder()
    # convolutions of our autoencoder are 2.6 times as fast so on a CPU, in float32
    lasting = setup.device.type == "cuda" or isinstance(model, ConvAutoencoder)
    return model.to(memory_format=torch.channels_last) if lasting else model  # type: ignore[call-overload]


def begin_with(model: nn.Module, init: str, on_progress: OnProgress | None = None) -> None:
    """Weights of another model of ours where names and shapes agree: a lower rung, another size, another set of labels."""
    if isinstance(model, Autoencoder):
        other: nn.Module | None = open_autoencoder(init, torch.device("cpu"))
    else:
        place = locate(init)
        other = open_model_folder(place.path, place.manifest).network if place.manifest is not None else None
    if other is None:
        raise ModelError(f"{init!r} is no model of ours to begin with. Give a run or a model folder, or leave it: --init ''.")
    own, found = model.state_dict(), other.state_dict()
    fitting = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise ModelError(
            f"no weights of {init!r} fit this recipe. Choose the same model.network and model.size, or learn from the beginning: --init ''."
        )
    model.load_state_dict({**own, **fitting})
    if len(fitting) < len(own):
        note(on_progress, f"{len(fitting)} of {len(own)} tensors begin as in {init!r}; the others begin anew")


def _same_network(setup: Setup) -> nn.Module | None:
    """The network of the run's newest model, to go on with: a later Bowerbird may build another one from the same recipe."""
    name = newest_verified(setup.out / "models", MANIFEST, setup.on_progress)
    if name is None:
        return None
    model: Model = open_model_folder(setup.out / "models" / name)
    return model.network.requires_grad_(True)


def _begin(run: Run) -> None:
    """The folders of a new run, and a first checkpoint: whatever is wrong with the disk shows now, not after hours."""
    _advise(run)
    for name in ("models", "checkpoints", "samples"):
        (run.out / name).mkdir(exist_ok=True)
    require_free(run.out, disk_bytes(run), "this run (its checkpoints and models)")
    write_file(run.disk, run.out / "recipe.toml", write_recipe(run.recipe).encode())
    write_file(run.disk, run.out / "data.json", run.pictures.report_json(run.pictures.root.absolute()))
    write_run_state(run.disk, run.out, RunState())
    keep_checkpoint(run)


def disk_bytes(run: Run) -> int:
    """The most that a run takes at a time: three checkpoints are kept and two models, and one more of each is written before one goes."""
    autoencoder = run.objective.model(run.state.ema.model, About()).space.autoencoder
    model: int = sum(t.nbytes for module in (run.state.ema.model, autoencoder) for t in module.state_dict().values())
    return 4 * checkpoint_bytes(run.state) + 3 * model


def _clear_up(run: Run, run_state: RunState) -> None:
    """Away with what an interrupted write left, and with the record of what happened after the checkpoint."""
    for folder in (run.out, run.out / "models", run.out / "checkpoints", run.out / "samples"):
        remove_temporary(run.disk, folder)
    run.record.cut_back(run.disk, run.state.seen)
    write_file(run.disk, run.out / "recipe.toml", write_recipe(run.recipe).encode())
    write_run_state(run.disk, run.out, run_state)


def _left_off(setup: Setup) -> str | None:
    """The newest checkpoint that verifies, None in a new folder.  RunError when it is of another recipe: nothing else is worth opening."""
    out, recipe = setup.out, setup.recipe
    run_state = read_run_state(out, setup.on_progress)
    name = _verified(setup, run_state.checkpoint)
    if name is None:
        _refuse_to_begin_anew(setup, run_state)
        return None
    _take_threads_of(setup, read_provenance(out / "checkpoints" / name))
    old = read_recipe_of(out / "checkpoints" / name)
    changed = [field for field in differing_fields(old, _as_it_began(recipe, old)) if field not in FREE_FIELDS]
    if changed:
        raise RunError(
            f"{str(out)!r} was started with another recipe: {', '.join(changed)} differ. Use the same settings, or another --out."
        )
    return name


def _as_it_began(recipe: Recipe, old: Recipe) -> Recipe:
    """With what a LoRA's recipe leaves open as it was decided then: memory is not asked twice."""
    return settled(recipe, old.train.micro_batch, old.lora.recompute) if recipe.model.network == "lora" else recipe


def _refuse_to_begin_anew(setup: Setup, run_state: RunState) -> None:
    """RunError where a run has been, and no checkpoint of it is intact: to begin anew would delete its models and its record."""
    out = setup.out
    if run_state.checkpoint is None and not entries(out / "models") and not entries(out / "checkpoints"):
        return
    model = newest_verified(out / "models", MANIFEST, setup.on_progress)
    from_it = f"Its model is intact: paint with it, or begin a new run from it with --init {shlex.quote(str(out))} --out NEW."
    way_out = "Begin a new run with another --out." if model is None else from_it
    raise RunError(f"no checkpoint of {str(out)!r} is intact, so the run cannot go on. {way_out}")


def _take_threads_of(setup: Setup, provenance: dict[str, Any]) -> None:
    """As many threads as the run began with, unless somebody said how many: with others it would not be bit-identical."""
    threads = provenance.get("threads")
    if setup.device.type == "cpu" and not chosen_by_hand() and isinstance(threads, int) and 0 < threads <= allowed_processors():
        torch.set_num_threads(threads)


def _checkpoint_to_resume(setup: Setup, name: str | None, provenance: dict[str, Any]) -> tuple[Path | None, RunState]:
    """Which checkpoint to go on from, and the run state to begin with.  RunError when the run is of other data."""
    if name is None:
        return None, RunState()
    out = setup.out
    run_state, before = read_run_state(out), read_provenance(out / "checkpoints" / name)
    if before.get("data") != provenance["data"]:
        raise RunError(
            f"the pictures of {str(out)!r}, its autoencoder or the model it tunes, have changed since it was started. "
            "Bring them back, or use another --out for a new run."
        )
    differs = [key for key in ("hardware", "threads", "torch", "precision", "processes") if before.get(key) != provenance[key]]
    if differs:
        note(setup.on_progress, f"resuming on other {', '.join(differs)} than before: the result is as good, but not bit-identical")
    return _extended(setup, name, run_state, read_recipe_of(out / "checkpoints" / name))


def _extended(setup: Setup, name: str, run_state: RunState, old: Recipe) -> tuple[Path, RunState]:
    """The same length: go on.  A longer one: go on from before the learning rate fell.  A shorter one is refused once it is too late."""
    out, new, folder = setup.out, setup.recipe, setup.out / "checkpoints"
    if new.train.pictures == old.train.pictures:
        return folder / name, run_state
    seen = seen_of(name)
    if seen > decay_start(old.train):
        earlier = _verified(setup, run_state.before_decay, fall_back=False)
        if earlier is None:
            raise RunError(f"{str(out)!r} cannot change its length: the one from before the decay is gone. Use another --out.")
        name, seen = earlier, seen_of(earlier)
    if seen > decay_start(new.train):
        raise RunError(
            f"{str(out)!r} has seen {seen:,} pictures, too many to end at {new.train.pictures:,}. Ask for more, or use another --out."
        )
    note = {"from": seen, "pictures_before": old.train.pictures, "pictures": new.train.pictures}
    return folder / name, run_state.model_copy(
        update={"checkpoint": name, "finished": False, "promised_hours": None, "extensions": (*run_state.extensions, note)}
    )


def _verified(setup: Setup, name: str | None, fall_back: bool = True) -> str | None:
    """`name` if that checkpoint is intact, else the newest one that is, said aloud."""
    folder = setup.out / "checkpoints"
    if name is not None:
        try:
            verify_folder(folder / name, CHECKPOINT_MANIFEST)
        except ModelError as error:
            note(setup.on_progress, f"the checkpoint {name} is damaged ({error})")
        else:
            return name
    return newest_verified(folder, CHECKPOINT_MANIFEST, setup.on_progress) if fall_back else None


def _advise(run: Run) -> None:
    """A small folder is allowed; what to expect of it is said."""
    count, condition = len(run.pictures.pixels), run.recipe.condition
    if any(run.pictures.captions) and not condition.text and "text" in CONDITIONS_READ[run.recipe.model.network]:
        note(run.on_progress, "the pictures have captions, which this recipe does not read: --recipe text-64 does")
    if count < SMALLEST_SPLIT:
        few = f"{count} pictures are few: none is held out, and the model may learn them by heart. A few hundred are a start."
        note(run.on_progress, few)
