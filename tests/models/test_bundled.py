"""What comes with the project: it opens by name, paints, and a run may begin with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bowerbird.errors import ModelError
from bowerbird.generate import bundled, find_model_folder, is_model, open_autoencoder, open_model
from bowerbird.model_folder import open_model_folder, read_manifest
from bowerbird.models.build import build_denoiser
from bowerbird.recipe import built_in_recipes, read_recipe
from bowerbird.request import PaintRequest
from bowerbird.training.run import begin_with
from tests.training.runs import CPU


def test_names_lead_to_what_they_are_for() -> None:
    """Those that paint are models, the others are autoencoders, and neither is taken for the other."""
    for name in bundled(autoencoders=False):
        assert is_model(name)
        with pytest.raises(ModelError, match="no autoencoder"):
            open_autoencoder(name, CPU)
    for name in bundled(autoencoders=True):
        assert not is_model(name)
        assert open_autoencoder(name, CPU).factor > 1


def test_the_starter_paints() -> None:
    """Things on a light ground, each seed another."""
    one, other = (
        np.asarray(p.picture, np.float64) for p in open_model("starter", CPU).paint(PaintRequest(model="starter", count=2, steps=8))
    )
    assert one.shape == (64, 64, 3)
    assert np.concatenate([one[:4], other[:4]]).mean() > 170  # most things of its pictures stand on white
    assert np.abs(one - other).mean() > 10


def test_a_recipe_that_begins_with_a_bundled_model_takes_all_its_weights(recwarn: pytest.WarningsRecorder) -> None:
    begun = [recipe for recipe in map(read_recipe, built_in_recipes()) if recipe.train.init]
    assert begun
    for recipe in begun:
        before, manifest = open_model_folder(find_model_folder(recipe.train.init))
        assert manifest.denoiser is not None
        model = build_denoiser(recipe, manifest.denoiser.sample_shape, 0)
        begin_with(model, recipe.train.init)
        assert model.spec == manifest.denoiser
        expected = before.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert not recwarn


@pytest.mark.parametrize("name", [*bundled(True), *bundled(False)])
def test_weights_tell_their_licence(name: str) -> None:
    folder: Path = {**bundled(True), **bundled(False)}[name]
    assert "Apache-2.0" in read_manifest(folder).licence
