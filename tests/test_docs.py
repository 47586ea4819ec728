"""What the documents say can be typed: commands and options exist, the Python runs, the links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

import bowerbird.cli  # noqa: F401 - adds the commands
from bowerbird.cli.app import app
from tests.conftest import tiny_recipe
from tests.test_model_folder import saved

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    everywhere = {name for option in root.params for name in option.opts}
    for block in blocks(page):
        for line in re.sub(r"\n\s+", " ", block).splitlines():
            words = line.split("#")[0].split()
            if "bowerbird" not in words or words[0] not in ("bowerbird", "torchrun", "python"):
                continue
            command, *arguments = words[words.index("bowerbird") + 1 :]
            if command == "COMMAND":
                continue
            assert command in root.commands, f"{page.name}: {line}"
            known = everywhere | {"--help"} | {name for option in root.commands[command].params for name in option.opts}
            used = {word.strip("[]|").partition("=")[0] for word in arguments if word.strip("[]|").startswith("--")}
            assert used <= known, f"{page.name}: {line}: {sorted(used - known)}"


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "runs/birds-latent-64", tiny_recipe())
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "README.md", "python")
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own page
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["1.png", "2.png", "3.png", "4.png"]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
