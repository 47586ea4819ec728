"""What a run will cost, known before its first step: hours into pictures, peak memory, money.

The real update, snapshot and save are timed on a throw-away run of the same recipe in a folder of its own, so the run
itself is not touched.  What the hours buy is frozen into train.pictures: the clock never decides anything later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bowerbird import hardware
from bowerbird.data.picture_set import Pictures
from bowerbird.progress import OnProgress, note
from bowerbird.recipe import Recipe
from bowerbird.run_folder import read_run_state, write_run_state
from bowerbird.training.checkpoint import SAVE_SECONDS, read_provenance, read_recipe_of, save_checkpoint
from bowerbird.training.compiling import WORTHWHILE, compile_blocks, gain, worth_trying
from bowerbird.training.memory import no_trace, require_memory
from bowerbird.training.report import write_tensorboard
from bowerbird.training.run import Run
from bowerbird.training.snapshot import snapshot_every, take_snapshot
from bowerbird.training.validation import MOST, looked_at, validate

CALIBRATION_SECONDS = 3.0  # of updates at least, or this share of the hours, if that is more
CALIBRATION_SHARE = 0.02
SLOW_SECONDS = 20.0  # an update that takes so long is timed once
OVERRUN = 1.15  # a run that takes this much longer than forecast says so


@dataclass(frozen=True)
class Budget:
    """What the user can spend.  hours: in all, start-up and finish included; None where a number of pictures was asked for.

    price_per_hour: of the machine, in whatever currency; started: the `time.monotonic()` from which the hours count.
    """

    hours: float | None = None
    price_per_hour: float | None = None
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Pace:
    """Seconds that each part of a run takes on this machine."""

    update: float
    snapshot: float  # but for the look at held-out pictures
    look: float  # for each of them
    save: float
    log: float  # the TensorBoard log at the end, for each update

    def seconds(self, recipe: Recipe, whole: Pictures, terms: int) -> float:
        """From the first update to the end; `terms`: losses of a held-out picture."""
        train = recipe.train
        updates = math.ceil(train.pictures / train.batch)
        snapshots = 1 + bool(recipe.begins_as) + (updates - 1) * train.batch // snapshot_every(recipe, len(whole.train))
        look = self.look * len(looked_at(whole.held, recipe, terms))
        training = updates * (self.update + self.log) + snapshots * (self.snapshot + look)
        saves = 3 + max(train.pictures / train.save_every, training / SAVE_SECONDS)
        return training + saves * self.save

    def pictures(self, seconds: float, recipe: Recipe, whole: Pictures, terms: int) -> int:
        """How many pictures, in whole batches and at least one of them, can be seen in that time."""
        low, high = 1, 2 + int(seconds / self.update)
        while high - low > 1:  # the most updates that are not too long lie in low..high-1
            middle = (low + high) // 2
            enough = self.seconds(of_length(recipe, middle * recipe.train.batch), whole, terms) <= seconds
            low, high = (middle, high) if enough else (low, middle)
        return low * recipe.train.batch


@dataclass(frozen=True)
class Forecast:
    """What a run will take.  hours: in all, training_hours: from the first update on; cost: in the currency of the price.

    micro_batch, recompute: as in the recipe, or chosen where it left them open.
    peak_memory_bytes: of this process, or on the GPU, without the pages of the picture cache, which the system can take back.
    """

    pictures: int
    pictures_per_second: float
    flops_per_picture: int
    hours: float
    training_hours: float
    peak_memory_bytes: int
    device: str
    precision: str
    compiled: bool
    cost: float | None
    micro_batch: int = 0
    recompute: bool = False

    def line(self) -> str:
        money = f", cost {self.cost:.2f}" if self.cost is not None else ""
        how = f"{self.precision}{', compiled,' * self.compiled}"
        return (
            f"{self.pictures_per_second:.1f} pictures/s in {how} on {self.device}: {self.pictures:,} pictures take {self.hours:.2f} h, "
            f"peak memory {self.peak_memory_bytes / 1e9:.2f} GB, {self.flops_per_picture / 1e9:,.1f} GFLOP a picture{money}"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def forecast(run: Run, update: Callable[[], float], budget: Budget, whole: Pictures, on_progress: OnProgress | None = None) -> Forecast:
    """What `run`, which is thrown away afterwards, tells of the one to come on the `whole` set; `update` is one step of it.

    ResourceError when it would not fit into memory, with what to change.
    """
    if fit := require_memory(run):
        note(on_progress, fit)
    flops = flops_per_picture(run)
    pace, recipe, terms = calibrate(run, update, budget), run.recipe, run.objective.held_out_terms
    preparation = run.world.broadcast(run.objective.preparation_seconds(whole))
    spent = time.monotonic() - budget.started + preparation
    planned = pace.seconds(recipe, whole, terms) if budget.hours is None else budget.hours * 3600 - spent
    compiled = worth_trying(run, run.world.broadcast(planned)) and compile_blocks(replace(run, on_progress=on_progress))
    if compiled:
        times = run.world.broadcast(gain(run, update, pace.update))
        compiled = recipe.train.compile == "always" or times > WORTHWHILE
        pace = replace(pace, update=pace.update / times) if compiled else pace
        spent = time.monotonic() - budget.started + preparation
    if budget.hours is not None:
        affordable = pace.pictures(budget.hours * 3600 - spent, recipe, whole, terms)
        recipe = of_length(recipe, int(run.world.broadcast(affordable)))
    training_hours = pace.seconds(recipe, whole, terms) / 3600
    hours = spent / 3600 + training_hours
    if budget.hours is not None and hours > OVERRUN * budget.hours:
        note(
            on_progress,
            f"{budget.hours:g} h are too few here: even one update, a grid and a save end after {hours:.2f} h. Give more --hours.",
        )
    return Forecast(
        pictures=recipe.train.pictures,
        micro_batch=recipe.train.micro_batch,
        recompute=recipe.lora.recompute is True,
        pictures_per_second=recipe.train.batch / pace.update,
        flops_per_picture=flops,
        hours=hours,
        training_hours=training_hours,
        peak_memory_bytes=hardware.peak_memory_bytes(run.device),  # the calibration did all that the run will do
        device=hardware.describe(run.device),
        precision=run.precision,
        compiled=compiled,
        cost=None if budget.price_per_hour is None else hours * budget.price_per_hour,
    )


def of_length(recipe: Recipe, pictures: int) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"pictures": pictures})})


def frozen_length(out: Path, hours: float | None) -> int | None:
    """The pictures that these hours were turned into when the run was started, or None when they were not."""
    checkpoint = read_run_state(out).checkpoint
    if hours is None or checkpoint is None:
        return None
    place = out / "checkpoints" / checkpoint
    return read_recipe_of(place).train.pictures if read_provenance(place).get("hours") == hours else None


def flops_per_picture(run: Run) -> int:
    """Floating-point operations of one picture in training, forward and backward; those of matrix products, which are nearly all."""
    batch = run.objective.draw(0, 1)
    # counted in plain attention: the counter does not know every fused kernel
    with no_trace(run.device), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run.objective.losses(run.state.model, batch, slice(None)).sum().backward()  # type: ignore[no-untyped-call]
    run.state.model.zero_grad()
    return int(counter.get_total_flops())


def calibrate(run: Run, update: Callable[[], float], budget: Budget) -> Pace:
    """Time the parts of a run by doing them.  What would take long by itself is measured on a part and scaled."""
    step = _seconds_of_update(run, update, budget)
    forward = step / run.recipe.train.batch / 3  # of one picture; backward is about twice as much
    affordable = max(1, int(CALIBRATION_SECONDS / forward))  # pictures through the network, for each of the next two
    snapshot, look = _seconds_of_grid(run, affordable) + _seconds_of_keeping(run), _seconds_of_look(run, affordable)
    provenance = run.provenance
    save = _timed(lambda: save_checkpoint(run.disk, run.out / "checkpoint", run.state, provenance)) if run.world.is_main else 0.0
    write_tensorboard(run.record, run.out / "tensorboard")  # the first one also imports it, which is then paid for
    log = _timed(lambda: write_tensorboard(run.record, run.out / "tensorboard")) / run.state.step
    return Pace(step, snapshot, look, save, log)


def _seconds_of_update(run: Run, update: Callable[[], float], budget: Budget) -> float:
    first = _timed(update)  # it also makes the moments, and on a GPU chooses kernels
    if run.world.agree(first > SLOW_SECONDS):
        return run.world.broadcast(first)
    wanted = max(CALIBRATION_SECONDS, CALIBRATION_SHARE * 3600 * (budget.hours or 0))
    updates, began = 0, time.monotonic()
    while updates < 3 or not run.world.agree(time.monotonic() - began > wanted):
        update()
        updates += 1
    # the main process' clock for all: what follows is as large as this affords, and must be as large on every process
    return run.world.broadcast((time.monotonic() - began) / updates)


def _seconds_of_grid(run: Run, affordable: int) -> float:
    """From a grid of one sampling step and one of three, perhaps of fewer pictures than the real one."""
    sample = run.recipe.sample
    count = min(sample.count, max(1, affordable // 5))

    def paint(steps: int) -> None:
        run.objective.grid(run.state.ema.model, count, steps, run.check, run.world)

    paint(1)
    short, long = _timed(lambda: paint(1)), _timed(lambda: paint(3))
    return (short + (sample.steps - 1) * (long - short) / 2) * sample.count / count


def _seconds_of_look(run: Run, affordable: int) -> float:
    """At each held-out picture."""
    held = run.pictures.held
    count = min(len(held), MOST, max(1, affordable // 8))
    if not count:
        return 0.0
    return _timed(lambda: validate(run.objective, run.state.ema.model, held[:count], (), run.world, run.check)) / count


def _seconds_of_keeping(run: Run) -> float:
    """Saving the model, the animation and the report: a snapshot with hardly anything to score or paint."""
    sample = run.recipe.sample.model_copy(update={"count": 1, "steps": 1})
    nothing_held = replace(run.pictures, held=run.pictures.held[:0])
    small = replace(run, recipe=run.recipe.model_copy(update={"sample": sample}), pictures=nothing_held)
    take_snapshot(small)  # the first one also imports what draws the curves
    return _timed(lambda: take_snapshot(small))


def _timed(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def promise(run: Run, plan: Forecast) -> None:
    """Write down what was forecast, so that whoever goes on with the run can tell whether it holds."""
    if run.world.is_main:
        write_run_state(run.disk, run.out, read_run_state(run.out).model_copy(update={"promised_hours": plan.training_hours}))


class Watch:
    """Says once in each session when the run, at the pace it shows there, takes longer than it was promised."""

    def __init__(self, run: Run) -> None:
        self.run, self.first, self.began = run, run.state.seen, time.monotonic()
        self.promised_hours = read_run_state(run.out).promised_hours if run.world.is_main else None

    def check(self) -> None:
        """To be called after each update; a twentieth of the run must be done before it speaks."""
        done = (self.run.state.seen - self.first) / self.run.recipe.train.pictures
        if self.promised_hours is None or done < 0.05:
            return
        hours = (time.monotonic() - self.began) / 3600 / done
        if hours > OVERRUN * self.promised_hours:
            promised_hours, self.promised_hours = self.promised_hours, None
            note(
                self.run.on_progress,
                f"slower than forecast: at this pace the run takes {60 * hours:.1f} minutes, not {60 * promised_hours:.1f}. "
                "It goes on; stop it and resume when the machine is free, or ask for fewer pictures.",
            )
