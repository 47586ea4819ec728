"""Running small trainings in this process and in children that can be killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from bowerbird.data.picture_set import Pictures
from bowerbird.progress import OnProgress, Progress
from bowerbird.recipe import Recipe, write_recipe
from bowerbird.run_folder import CHECKPOINT_MANIFEST, newest_verified, read_run_state
from bowerbird.storage import Disk
from bowerbird.training import train
from bowerbird.training.parallel import World
from bowerbird.training.record import Record
from bowerbird.training.run import Setup
from bowerbird.training.signals import StopSignals
from bowerbird.weights import load

CPU = torch.device("cpu")


def new_setup(out: Path, recipe: Recipe, pictures: Pictures, on_progress: OnProgress | None = None) -> Setup:
    """What a trainer begins with."""
    return Setup(out, recipe, pictures, CPU, Disk(), StopSignals(), World(), on_progress=on_progress)


class Notes(list[str]):
    """A listener that keeps what is said to people."""

    def __call__(self, event: Progress) -> None:
        if event.stage == "note":
            self.append(event.note)


def run_here(pictures: Path, out: Path, recipe: Recipe, disk: Disk | None = None, **options: object) -> Path:
    return train(pictures, out, recipe, device=CPU, disk=disk, **options)  # type: ignore[arg-type]


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Weights, average and moments of the run's checkpoint, by file and name."""
    folder = run / "checkpoints" / str(read_run_state(run).checkpoint)
    return {f"{file.name}:{name}": tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load(file).items()}


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line["seen"], line["loss"]) for line in Record(run / "metrics.jsonl").lines() if "loss" in line]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit-identical: every tensor of the last checkpoint, and the loss of every step."""
    first, second = final_tensors(one), final_tensors(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, f"{len(different)} of {len(first)} tensors differ, the first is {different[0]}"
    assert losses(one) == losses(other)


# A server that imports once and forks a trainer for each line it reads: a child starts in milliseconds, not seconds.
FORK_SERVER = """
import os, sys, logging
from pathlib import Path
import torch
from bowerbird.errors import Stopped
from bowerbird.recipe import read_recipe
from bowerbird.training import train
pictures, out, recipe = map(Path, sys.argv[1:4])
logging.disable()
torch.set_num_threads(1)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        try:
            train(pictures, out, read_recipe(recipe), device=torch.device("cpu"))
        except Stopped:
            os._exit(75)
        except BaseException as error:
            print("child failed:", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Trainers:
    """Starts one trainer after the other on the same run; each can be killed while it works."""

    def __init__(self, pictures: Path, out: Path, recipe_file: Path) -> None:
        command = [sys.executable, "-c", FORK_SERVER, str(pictures), str(out), str(recipe_file)]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self) -> int:
        """Begin one more trainer; its process number."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write("go\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def wait(self) -> int:
        """How that trainer ended: its exit code, or minus the signal."""
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()


def torchrun(
    pictures: Path, out: Path, recipe: Recipe, *options: str, processes: int = 2, program: str = "bowerbird"
) -> subprocess.Popen[bytes]:
    """Start `bowerbird train` on so many processes; what they say goes to a file beside `out`, named like it, .log."""
    recipe_file = out.parent / f"{out.name}.toml"
    recipe_file.write_text(write_recipe(recipe))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", program]
    command += ["--device", "cpu", "train", str(pictures), "--recipe", str(recipe_file), "--out", str(out), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with recipe_file.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def workers_of(parent: int) -> list[int]:
    """The processes that torchrun started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except FileNotFoundError:
        return []


@dataclass
class Tally:
    """What a chain of kills did; damaged: how often the newest verified checkpoint was older than before."""

    kills: int = 0
    inside_a_save: int = 0
    damaged: int = 0


def kill_again_and_again(pictures: Path, out: Path, recipe: Recipe, kills: int, seed: int = 0) -> Tally:
    """Train `out` to its end through `kills` SIGKILLs at random moments, every fourth of them aimed inside a save.

    After each kill the run must still name a checkpoint that verifies, never an older one than before.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    recipe_file = out.parent / f"{out.name}.toml"
    recipe_file.write_text(write_recipe(recipe))
    trainers, moments, tally = Trainers(pictures, out, recipe_file), random.Random(seed), Tally()
    _seconds_to_next_step(trainers, out)  # the first start also imports everything
    started = _seconds_to_next_step(trainers, out)
    tally.kills += 2
    newest = ""
    while not read_run_state(out).finished:
        left_behind, pid = unfinished(out), trainers.start()
        if tally.kills < kills:
            with contextlib.suppress(ProcessLookupError):  # it may have come to its end
                if tally.kills % 4 == 0:
                    stop_inside_a_save(pid, out, left_behind, 3 * started + 3)
                else:
                    _let_live(moments.uniform(0, 1.5 * started + 0.05), out, recipe.train.pictures // recipe.train.batch // kills)
                tally.inside_a_save += bool(unfinished(out) - left_behind)
                os.kill(pid, signal.SIGKILL)
        code = trainers.wait()
        assert code in (0, -signal.SIGKILL), f"a trainer ended with {code}"
        tally.kills += code == -signal.SIGKILL
        name = newest_verified(out / "checkpoints", CHECKPOINT_MANIFEST) or ""
        tally.damaged += name < newest
        newest = name
    trainers.close()
    return tally


def _let_live(seconds: float, out: Path, steps: int) -> None:
    """Wait so long, or until so many steps are done: where a machine is suddenly less busy, there would be no run left to kill."""
    end, before = time.monotonic() + seconds, len(losses(out))
    while time.monotonic() < end and len(losses(out)) - before < steps:
        time.sleep(0.01)


def _seconds_to_next_step(trainers: Trainers, out: Path) -> float:
    """Kill a trainer right after its first step; how long that took is the scale for the random moments."""
    before, begun, pid = len(losses(out)), time.monotonic(), trainers.start()
    while len(losses(out)) <= before:
        time.sleep(0.002)
    seconds = time.monotonic() - begun
    os.kill(pid, signal.SIGKILL)
    assert trainers.wait() == -signal.SIGKILL
    return seconds


def unfinished(out: Path) -> set[Path]:
    """What is being written beside its target, or was when a trainer was killed."""
    return set(out.glob("*/.tmp-*"))


def stop_inside_a_save(pid: int, out: Path, left_behind: set[Path], patience: float) -> None:
    """Halt the trainer while something is half written, however busy the machine is: what was finished by then is let pass."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if unfinished(out) - left_behind:
            os.kill(pid, signal.SIGSTOP)
            if unfinished(out) - left_behind:
                return
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.0002)


def wait_for_a_save(out: Path) -> None:
    """Until a folder is being written beside its target, or the trainer has had time enough to finish."""
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline and not any(out.glob("*/.tmp-*")):
        time.sleep(0.0002)
