"""The training loop.  `train` is its own table of contents; what one update does is in `train_step`.

The same call starts a run, goes on with one that was stopped or killed, and extends one that was finished.
"""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bowerbird import hardware
from bowerbird.data.picture_set import Pictures
from bowerbird.data.pictures import open_pictures
from bowerbird.draws import generator
from bowerbird.errors import PictureFolderError, RunError, Stopped
from bowerbird.progress import Cancelled, OnProgress, Progress, note, tell
from bowerbird.recipe import Recipe
from bowerbird.run_folder import entries, read_run_state
from bowerbird.storage import TEMPORARY, Disk
from bowerbird.training.adversary import Adversary
from bowerbird.training.batches import Batch
from bowerbird.training.budget import Budget, Forecast, Watch, frozen_length, of_length, promise
from bowerbird.training.budget import forecast as forecast_run
from bowerbird.training.checkpoint import SAVE_SECONDS
from bowerbird.training.memory import no_trace, settled
from bowerbird.training.optimizer import decay_start, learning_rate, set_learning_rate
from bowerbird.training.parallel import World, device_of_process, join_world
from bowerbird.training.report import verdict, write_tensorboard
from bowerbird.training.resume import start_or_resume
from bowerbird.training.run import Run, Setup, keep_checkpoint, locked, seen_of
from bowerbird.training.signals import StopRequested, StopSignals
from bowerbird.training.snapshot import keep_model, snapshot_every, take_snapshot
from bowerbird.training.validation import BATCH as HELD_OUT_BATCH
from bowerbird.training.validation import stops_itself

GIVE_UP_AFTER = 3  # updates in a row that were not finite


def train(
    source: Path,
    out: Path,
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    on_progress: OnProgress | None = None,
    disk: Disk | None = None,
    budget: Budget | None = None,
) -> Path:
    """Train on the pictures in `source`, writing the run `out`; start, resume or extend.  Returns `out`.

    With a budget a new run begins with a forecast, and its hours become a number of pictures, which a resumed run finds again.
    Raises RunError when `out` is locked or belongs to another recipe, Stopped (exit code 75) after a signal.
    """
    device = device_of_process(device or hardware.choose_device(), torch.cuda.device_count())
    disk = disk or Disk()
    with join_world(device) as world, locked(disk, out, world), StopSignals() as stop:
        try:
            with world.main_first():  # it fills the cache of decoded pictures for all
                pictures = _open(source, recipe, on_progress)
            setup = Setup(
                out, recipe, pictures, device, disk, stop, world, compiled=recipe.train.compile == "always", on_progress=on_progress
            )
            _start_to_finish(replace(setup, hours=budget.hours) if budget else setup, budget)
        except StopRequested:
            raise Stopped(f"stopped before the first checkpoint; run the same command again to start {str(out)!r}.") from None
    return out


def _start_to_finish(setup: Setup, budget: Budget | None) -> None:
    """With a function of its own, so that the run, which holds the way to the other processes, is gone before they part."""
    plan = None
    if budget is not None:
        setup, plan = _planned(setup, budget)
    if plan is not None:
        tell(setup.on_progress, Progress("forecast", 1, 1, note=plan.line()))
    with setup.world.main_first():
        run = start_or_resume(setup)
    if run is None:
        pictures = setup.recipe.train.pictures
        tell(setup.on_progress, Progress("finished", pictures, pictures, note=f"{setup.out} is finished"))
        return
    if plan is not None:
        promise(run, plan)
    _run_to_the_end(run)


def forecast(source: Path, recipe: Recipe, budget: Budget, *, device: torch.device, on_progress: OnProgress | None = None) -> Forecast:
    """What training would take on this device; nothing is trained and nothing is kept."""
    with StopSignals() as stop:
        try:
            pictures = _open(source, recipe, on_progress)
            return _trial(Setup(Path(), recipe, pictures, device, Disk(), stop, World(), on_progress=on_progress), budget, None)
        except StopRequested:
            raise Stopped("stopped before the forecast was known; nothing was kept.") from None


def _open(source: Path, recipe: Recipe, on_progress: OnProgress | None) -> Pictures:
    data = recipe.data
    return open_pictures(source, data.size, data.fit, data.held_out, data.seed, on_progress, captions=data.captions_file)


def _planned(setup: Setup, budget: Budget) -> tuple[Setup, Forecast | None]:
    """With the length that the budget buys, and the forecast of a new run.  What was decided once is not decided anew."""
    frozen = frozen_length(setup.out, budget.hours)
    if frozen is not None:
        return replace(setup, recipe=of_length(setup.recipe, frozen)), None
    if budget.hours is None and read_run_state(setup.out).checkpoint is not None:
        return setup, None
    plan = _trial(setup, budget, setup.out)
    recipe = of_length(setup.recipe, plan.pictures)
    if read_run_state(setup.out).checkpoint is None and recipe.model.network == "lora":
        recipe = settled(recipe, plan.micro_batch, plan.recompute)
    return replace(setup, recipe=recipe, compiled=plan.compiled), plan


def _trial(setup: Setup, budget: Budget, beside: Path | None) -> Forecast:
    """The forecast, from a short run in a folder of its own (inside `beside`, on the disk it will use) that is thrown away.

    On few of the pictures: to encode them all for a model that learns on latents may be the larger part of the work.
    """
    pictures, batch = setup.pictures, setup.recipe.train.batch
    few = replace(pictures, train=pictures.train[: 2 * batch], held=pictures.held[:HELD_OUT_BATCH])
    with no_trace(setup.device), tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=beside) as folder:
        silent = replace(setup, out=Path(folder), pictures=few, disk=Disk(), hours=None, compiled=False, on_progress=lambda event: None)
        run = start_or_resume(silent)
        assert run is not None, "the folder is new"
        plan = forecast_run(run, lambda: _update(run), budget, pictures, setup.on_progress)
    setup.world.wait()  # until all have cleared away theirs, for what goes on may clear up, too
    return plan


def _run_to_the_end(run: Run) -> None:
    state, settings, saved_at, watch = run.state, run.recipe.train, time.monotonic(), Watch(run)
    try:
        if state.seen == 0 and run.recipe.begins_as:
            take_snapshot(run)  # what it is before: the unit of its scores, and the first grid
        while state.seen < settings.pictures:
            if run.world.agree(run.stop.requested):
                raise StopRequested
            if _crossed(state.snapshot_at, state.seen, snapshot_every(run.recipe, len(run.pictures.train))):
                take_snapshot(run)
                if run.world.agree(run.world.is_main and stops_itself(run.recipe, run.record.lines())):
                    break
            started, before = time.monotonic(), state.seen
            loss = _update(run)
            state.seconds += time.monotonic() - started
            if before < decay_start(settings) <= state.seen:
                keep_checkpoint(run, before_decay=True)
            elif _crossed(before, state.seen, settings.save_every) or time.monotonic() - saved_at > SAVE_SECONDS:
                keep_checkpoint(run)
                saved_at = time.monotonic()
            _report(run, loss)
            watch.check()
        else:
            take_snapshot(run)
        keep_checkpoint(run, finished=True)
        if run.world.is_main:
            write_tensorboard(run.record, run.out / "tensorboard")
            note(run.on_progress, verdict(run.record.lines(), run.recipe))
    except (StopRequested, PictureFolderError) as reason:
        if seen_of(read_run_state(run.out).checkpoint or "0") < state.seen:
            keep_checkpoint(run)
        if isinstance(reason, PictureFolderError):
            raise
        if state.seen and not entries(run.out / "models"):
            keep_model(run)
        raise Stopped(f"stopped at {state.seen:,} of {settings.pictures:,} pictures; run the same command again to go on.") from None


def _update(run: Run) -> float:
    """Draw this process's share of the next batch and learn from it; the mean loss."""
    share = run.world.share(run.state.seen, run.state.seen + run.recipe.train.batch)
    batch = run.objective.draw(*share)
    run.pictures.verify_unchanged(batch.pictures)
    return train_step(run, batch)


def _report(run: Run, loss: float) -> None:
    """Tell the listener; one who cancels is a signal like any other."""
    if run.world.is_main:
        try:
            tell(run.on_progress, Progress("train", min(run.state.seen, run.recipe.train.pictures), run.recipe.train.pictures, loss))
        except Cancelled:
            run.stop.requested = True


def train_step(run: Run, batch: Batch) -> float:
    """One update: gradients of the whole batch, checked, then applied to weights and average.  Returns the mean loss.

    `batch` is this process's share; gradients and loss are those of the whole, on every process.  A signal is
    answered before the update or not at all, so a dropped step leaves no trace.
    """
    state, settings = run.state, run.recipe.train
    state.model.train()
    loss = torch.zeros((), device=run.device)
    size = settings.micro_batch or len(batch)
    for start in range(0, len(batch), size):
        run.check()
        _seed_dropout(run.recipe.data.seed, batch.first + start)
        with _synchronised(run, last=start + size >= len(batch)):
            part = run.objective.losses(run.parallel, batch, slice(start, start + size)).sum() / settings.batch
            # DistributedDataParallel divides gradients by the number of processes
            (part * run.world.size).backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    loss = run.world.all_reduce(loss)
    grad_norm = clip_gradients(state.model, settings.clip)
    more = {} if state.adversary is None else _adversary_gradient(run, state.adversary)
    run.check()

    lr, first = learning_rate(settings, state.seen), state.seen
    state.step += 1
    state.seen += settings.batch
    finite = bool(torch.isfinite(loss) & torch.isfinite(grad_norm)) and all(map(math.isfinite, more.values()))
    if finite:
        set_learning_rate(state.optimizers, lr)
        for optimizer in state.optimizers:
            optimizer.step()
        if state.adversary is not None:
            state.adversary.critic.measure()
        state.ema.update(state.model, state.step)
        state.skipped = 0
    else:
        state.skipped += 1
    state.model.zero_grad()
    if state.adversary is not None:
        state.adversary.critic.zero_grad()
    if run.world.is_main:
        skipped = {} if finite else {"skipped": _names(run, first)}
        run.record.append(seen=state.seen, loss=float(loss), grad_norm=float(grad_norm), lr=lr, **more, **skipped)
    if state.skipped >= GIVE_UP_AFTER:
        raise RunError(
            f"{GIVE_UP_AFTER} updates in a row were not finite near {_names(run, first)[0]!r}; stopped, and the last checkpoint is good. "
            f"Lower train.lr (now {settings.lr}) or look at the pictures named in metrics.jsonl."
        )
    return float(loss)


def _adversary_gradient(run: Run, adversary: Adversary) -> dict[str, float]:
    """The critic's gradient of the whole batch, as the network's; what the record says of it."""
    for parameter in adversary.critic.parameters():
        if parameter.grad is not None:  # the loss was multiplied by their number, for the network's sake
            parameter.grad = run.world.all_reduce(parameter.grad) / run.world.size
    norm = clip_gradients(adversary.critic, run.recipe.train.clip)
    return {"adversary_loss": float(adversary.loss), "adversary_grad_norm": float(norm)}


def clip_gradients(module: nn.Module, longest: float) -> Tensor:
    """Shorten the gradient of all parameters together to `longest`; its norm before.  One that is short enough is not touched."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if norm > longest:
        torch.nn.utils.clip_grads_with_norm_(parameters, longest, norm)
    return norm


def _synchronised(run: Run, last: bool) -> AbstractContextManager[None]:
    """Gradients travel between processes once an update, with the last micro-batch."""
    if last or not isinstance(run.parallel, DistributedDataParallel):
        return nullcontext()
    return run.parallel.no_sync()


def _names(run: Run, seen: int) -> list[str]:
    """The pictures of the whole batch that begins at sample number `seen`."""
    return [run.pictures.names[i] for i in run.objective.chosen(seen, seen + run.recipe.train.batch)]


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every


def _seed_dropout(seed: int, first_sample: int) -> None:
    """What the network draws inside (dropout) is keyed like everything else, by the first sample of the micro-batch."""
    torch.manual_seed(int(generator(seed, "inside the network", first_sample).integers(2**63)))
