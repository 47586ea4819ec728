"""A module imports only its own or lower layers; diffusers and transformers stay inside models/; --help loads no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "bowerbird"

LAYERS = {
    "errors": 0, "progress": 0, "draws": 0, "recipe": 0, "request": 0, "hardware": 0,
    "prompts": 1, "storage": 1, "weights": 1, "cache": 1, "pixels": 1, "pages": 1, "picture_metadata": 1, "diffusion": 1, "convert": 1,
    "data": 2, "models": 2, "conditions": 2, "pretrained": 2, "safety": 2,
    "model_folder": 3, "run_folder": 3,
    "generate": 4, "evaluate": 4, "captioning": 4,
    "training": 5,
    "jobs": 6, "server": 7,
    "cli": 8, "__main__": 8,
}  # fmt: skip
HEAVY = ("torch", "diffusers", "transformers", "matplotlib", "jinja2")


def modules() -> dict[str, Path]:
    return {path.relative_to(SOURCE).with_suffix("").as_posix(): path for path in SOURCE.rglob("*.py")}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Names of the modules that a file imports; those under TYPE_CHECKING do not run and do not count."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(n) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) for n in ast.walk(node)
    }
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def test_imports_point_downwards() -> None:
    for name, path in modules().items():
        own = name.split("/")[0]
        if own == "__init__":
            continue
        assert own in LAYERS, f"{name} is not in the table of layers"
        for imported in imports(path):
            parts = imported.split(".")
            if parts[0] == "bowerbird" and len(parts) > 1 and parts[1] in LAYERS:
                assert LAYERS[parts[1]] <= LAYERS[own], f"{name} (layer {LAYERS[own]}) imports {imported}"


def test_the_worlds_checkpoints_are_opened_in_models_alone() -> None:
    for name, path in modules().items():
        for imported in imports(path):
            if imported.split(".")[0] in ("diffusers", "transformers", "peft", "accelerate"):
                assert name.startswith(("models/", "pretrained/")), f"{name} imports {imported}"
                assert imported.split(".")[0] not in imports(path, top_level_only=True), f"{name} imports {imported} before it is needed"


def test_help_is_cheap() -> None:
    """What --help loads decides how fast it answers, on any machine."""
    code = f"import sys; sys.argv = ['bowerbird', '--help']; import bowerbird.cli; assert not set({HEAVY}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_painting_from_our_own_models_needs_no_diffusers() -> None:
    code = "import sys, bowerbird.generate; assert not {'diffusers', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
