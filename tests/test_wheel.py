"""What is installed is what is in the repository: configs, templates, recipes, weights and licences travel with the code."""

from __future__ import annotations

import subprocess
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_every_file_of_the_package() -> None:
    """The build tool leaves out what .gitignore or its own settings name, however useful; so its own list is compared with git's."""
    tracked = subprocess.run(["git", "ls-files", "src/bowerbird"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    shipped = {f"src/{file.distribution_path}" for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {path for path in tracked if path and (ROOT / path).exists()} <= shipped
    assert {Path(path).suffix for path in shipped} >= {".py", ".toml", ".html", ".json", ".txt", ".safetensors"}
