"""Proof: files that attack are refused and touch nothing; honest old checkpoints are converted bit for bit.

    make prove-pickles         writes proof/pickles.json

Every hostile pickle is read in this process under an audit hook, every fortieth also through `bowerbird convert` and its
child process; every honest checkpoint goes through `bowerbird convert`.  The configs of a tiny Stable Diffusion folder
are attacked by the tests in tests/pretrained/test_hostile_configs.py, which this runs and counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.audit import Audit  # noqa: E402
from tests.pickle_corpus import honest, hostile  # noqa: E402
from tests.test_convert import bit_equal  # noqa: E402

from bowerbird import weights  # noqa: E402
from bowerbird.convert import convert, read_checkpoint  # noqa: E402
from bowerbird.errors import ModelError, UnsafeFileError  # noqa: E402


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


def configs() -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/pretrained/test_hostile_configs.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"passed": done.returncode == 0, "last line": done.stdout.strip().splitlines()[-1]}


def main() -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        report = {"hostile pickles": attack(Path(one)), "honest checkpoints": keep(Path(other)), "hostile configs": configs()}
    (ROOT / "proof").mkdir(exist_ok=True)
    (ROOT / "proof" / "pickles.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    attacked, kept = report["hostile pickles"], report["honest checkpoints"]
    harmless = attacked["refused"] == attacked["files"] >= 300 and not attacked["events"] and not attacked["canary touched"]
    if not (harmless and kept["bit-equal"] == kept["converted"] >= 38 and report["hostile configs"]["passed"]):
        raise SystemExit("the promise does not hold")


if __name__ == "__main__":
    main()
