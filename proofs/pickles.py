"""Proof: files that attack are refused and touch nothing; honest old checkpoints are converted bit for bit.

    make prove-pickles         writes proof/pickles.json

Every hostile pickle is read in this process under an audit hook, every fortieth also through `bowerbird convert` and its
child process; every honest checkpoint goes through `bowerbird convert`.  A tiny Stable Diffusion folder is opened with
hostile configs in the same way.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from tests.audit import Audit  # noqa: E402
from tests.pickle_corpus import honest, hostile  # noqa: E402
from tests.pretrained import checkpoints  # noqa: E402
from tests.pretrained.test_hostile_configs import hostile_configs  # noqa: E402
from tests.test_convert import bit_equal  # noqa: E402

from bowerbird import weights  # noqa: E402
from bowerbird.convert import convert, read_checkpoint  # noqa: E402
from bowerbird.errors import ModelError, UnsafeFileError  # noqa: E402
from bowerbird.pretrained import open_pretrained  # noqa: E402


def attack(folder: Path) -> dict[str, Any]:
    canary, path = folder / "canary", folder / "hostile.ckpt"
    count = refused = unsafe = through_convert = 0
    events: list[str] = []
    for number, (name, data) in enumerate(hostile(canary)):
        path.write_bytes(data)
        count += 1
        with Audit() as audit:
            try:
                read_checkpoint(path)
            except ModelError as error:
                refused += 1
                unsafe += isinstance(error, UnsafeFileError)
        events += [f"{name}: {event}" for event in audit.events]
        if number % 40 == 0:
            try:
                convert(path, folder / "out.safetensors")
            except ModelError:
                through_convert += 1
    left = sorted(file.name for file in folder.iterdir() if file != path)
    return {
        "files": count, "refused": refused, "named as unsafe": unsafe, "imports, sockets, processes, written files": len(events),
        "refused through convert": through_convert, "canary touched": canary.exists(), "files left behind": left, "events": events,
    }  # fmt: skip


def keep(folder: Path) -> dict[str, Any]:
    count = converted = equal = 0
    reasons = []
    for path, expected in honest(folder):
        count += 1
        new = path.with_suffix(f".{count}.safetensors")
        try:
            convert(path, new)
        except ModelError as error:
            reasons.append(f"{path.name}: {error}")
            continue
        converted += 1
        tensors = weights.load(new)
        equal += tensors.keys() == expected.keys() and all(bit_equal(tensors[name], expected[name]) for name in expected)
    return {"checkpoints": count, "converted": converted, "bit-equal": equal, "refused": reasons}


def attack_configs(root: Path) -> dict[str, Any]:
    """A tiny Stable Diffusion folder, opened with each hostile config in its place."""
    checkpoints.write_tiny_families(root / "families")
    shapes = root / "families" / "sd15"
    folder = checkpoints.write_diffusers_folder(root / "model", checkpoints.networks(shapes), shapes)
    open_pretrained(folder, torch.device("cpu"))  # whatever the libraries import late is imported now
    count = refused = never_read = 0
    events: list[str] = []
    for words, is_read in hostile_configs(folder):
        count += 1
        never_read += not is_read
        with Audit() as audit:
            try:
                open_pretrained(folder, torch.device("cpu"))
            except ModelError:
                refused += is_read
        events += [f"{words}: {event}" for event in audit.events]
    return {
        "configs": count, "never read": never_read, "refused of the others": refused,
        "imports, sockets, processes, written files": len(events), "events": events,
    }  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, name) for name in ("attack", "keep", "configs")]
        for folder in folders:
            folder.mkdir()
        attacked, kept, configs = attack(folders[0]), keep(folders[1]), attack_configs(folders[2])
    report = {"hostile pickles": attacked, "honest checkpoints": kept, "hostile configs": configs}
    (ROOT / "proof").mkdir(exist_ok=True)
    (ROOT / "proof" / "pickles.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    harmless = attacked["refused"] == attacked["files"] >= 300 and not attacked["events"] and not attacked["canary touched"]
    whole = kept["bit-equal"] == kept["converted"] >= 38
    as_data = configs["refused of the others"] == configs["configs"] - configs["never read"] >= 50 and not configs["events"]
    if not (harmless and whole and as_data):
        raise SystemExit("the promise does not hold")


if __name__ == "__main__":
    main()
