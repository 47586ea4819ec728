"""A module imports only its own or lower layers; diffusers and transformers stay inside models/; --help loads no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "bowerbird"

# The floors of the house, from the ground up; a room is a file or a folder of the package.
FLOORS = (
    "errors faults progress draws formats reading threads",
    "recipe request storage cache",
    "prompts hardware weights pixels pages picture_files picture_folder picture_metadata convert diffusion canvas",
    "repaint",
    "data models",
    "conditions pretrained safety captioning",
    "model_folder describing",
    "run_folder painter enlarge",
    "locate painted_set comparison previews chain",
    "generate",
    "repeat",
    "evaluate",
    "training",
    "jobs",
    "server mcp",
    "studio",
    "cli __main__",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
HEAVY = ("torch", "diffusers", "transformers", "matplotlib", "jinja2")


def modules() -> dict[str, Path]:
    return {path.relative_to(SOURCE).with_suffix("").as_posix(): path for path in SOURCE.rglob("*.py")}


def imports(path: Path, top_level_only: bool = False, types_too: bool = False) -> set[str]:
    """Names of the modules that a file imports; those under TYPE_CHECKING do not run and do not count, unless asked for."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(n) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) for n in ast.walk(node)
    }
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if id(node) in guarded and not types_too:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def imported_files(path: Path) -> set[str]:
    """The files of the package that a file imports, those it only needs for types too."""
    known = modules()
    places = ["/".join(name.split(".")[1:]) for name in imports(path, types_too=True) if name.startswith("bowerbird.")]
    files = {file for place in places for file in (place, f"{place}/__init__") if file in known}
    # `from package import module` needs the module alone
    return {file for file in files if not (file.endswith("/__init__") and any(one.startswith(file[:-8]) for one in files - {file}))}


def test_imports_point_downwards() -> None:
    for name, path in modules().items():
        own = name.split("/")[0]
        if own == "__init__":
            continue
        assert own in FLOOR, f"{name} is not in the table of floors"
        for other in imported_files(path):
            room = other.split("/")[0]
            assert room == "__init__" or FLOOR[room] <= FLOOR[own], f"{name} (floor {FLOOR[own]}) imports {other} (floor {FLOOR[room]})"


def test_no_two_files_need_each_other() -> None:
    """File by file, whatever the floor: a circle is one file that was cut in the wrong place."""
    needs = {name: imported_files(path) - {name} for name, path in modules().items() if name != "__init__"}
    while True:
        free = {name for name, others in needs.items() if not others & needs.keys()}
        if not free:
            break
        needs = {name: others for name, others in needs.items() if name not in free}
    circles = {name: sorted(others & needs.keys()) for name, others in needs.items()}
    assert not circles, f"these need each other, in a circle: {circles}"


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
