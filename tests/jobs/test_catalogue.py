from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bowerbird.errors import RequestError
from bowerbird.jobs.catalogue import Catalogue


def test_models_are_found_by_the_names_of_their_folders(model_folder: Path) -> None:
    catalogue = Catalogue([model_folder.parent])
    assert [entry.name for entry in catalogue.entries()][-1] == "pets"
    assert catalogue.find("pets").where == str(model_folder)
    assert catalogue.find("pets").labels == ["cat", "dog"]
    assert catalogue.find(None).name == "starter"


@pytest.mark.parametrize("name", ["../pets", "..", "/etc/passwd", "~/x", "a\0b", "..\\x", "./pets"])
def test_no_name_is_a_path(name: str, model_folder: Path) -> None:
    """A client's word is looked up among names; one that tries to be a path is refused even where others are forgiven."""
    with pytest.raises(RequestError):
        Catalogue([model_folder.parent]).find(name, forgiving=True)


def test_other_peoples_names_mean_the_default() -> None:
    assert Catalogue().find("dall-e-3", forgiving=True).name == "starter"
    with pytest.raises(RequestError, match="starter"):
        Catalogue().find("startr")


def test_asking_needs_no_torch() -> None:
    """A face starts in a fraction of a second and stays small, because only workers load torch."""
    code = "import sys, bowerbird.jobs; bowerbird.jobs.Catalogue().entries(); assert not {'torch', 'numpy'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
