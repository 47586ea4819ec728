"""What comes with the project: it opens by name, paints, and a run may begin with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bowerbird.errors import ModelError
from bowerbird.generate import open_autoencoder, open_model
from bowerbird.locate import bundled, locate
from bowerbird.model_folder import open_model_folder, read_manifest
from bowerbird.recipe import built_in_recipes, read_recipe
from bowerbird.request import PaintRequest
from bowerbird.training.build import build_denoiser, build_upscaler
from bowerbird.training.resume import begin_with
from tests.training.runs import CPU, Notes


def test_names_lead_to_what_they_are_for() -> None:
    """Those that paint are models, the others are autoencoders, and neither is taken for the other."""
    assert {"starter", "autoencoder-8x"} <= bundled().keys()
    for name in bundled():
        if locate(name).paints:
            with pytest.raises(ModelError, match="no autoencoder"):
                open_autoencoder(name, CPU)
        else:
            with pytest.raises(ModelError, match="paints nothing"):
                open_model(name, CPU)
            assert open_autoencoder(name, CPU).factor > 1


def test_the_starter_paints() -> None:
    """Things on a light ground, each seed another."""
    one, other = (
        np.asarray(p.picture, np.float64) for p in open_model("starter", CPU).paint(PaintRequest(model="starter", count=2, steps=8))
    )
    assert one.shape == (64, 64, 3)
    assert np.concatenate([one[:4], other[:4]]).mean() > 170  # most things of its pictures stand on white
    assert np.abs(one - other).mean() > 10


def test_a_recipe_that_begins_with_a_bundled_model_takes_all_its_weights(tmp_path: Path) -> None:
    begun = [recipe for recipe in map(read_recipe, built_in_recipes()) if recipe.train.init]
    assert begun
    for recipe in begun:
        before = open_model_folder(locate(recipe.train.init).path)
        notes = Notes()
        if before.denoiser is None:
            model: nn.Module = build_upscaler(recipe)
        else:
            conditions = {name: before.conditions[name] for name in recipe.condition.wanted() if name in before.conditions}
            model = build_denoiser(recipe, before.denoiser.spec.sample_shape, conditions)
            assert model.spec == before.denoiser.spec
        begin_with(model, recipe.train.init, notes)
        expected = before.network.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
        assert not notes


@pytest.mark.parametrize("name", bundled())
def test_weights_tell_their_licence(name: str) -> None:
    assert "Apache-2.0" in read_manifest(bundled()[name]).licence
