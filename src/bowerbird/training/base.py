"""The model that a tuning run begins as, and the recipe by which it goes on: its own, with lower steps; or that of a LoRA."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bowerbird.data.picture_set import Pictures
from bowerbird.errors import ModelError
from bowerbird.locate import Place, locate
from bowerbird.model_folder import Model, open_model_folder
from bowerbird.pretrained import recognise
from bowerbird.pretrained.loading import native_side
from bowerbird.recipe import Recipe, change_recipe, check_recipe

SLOWER = 0.2  # of the learning rate it was trained with (docs/tuning.md has others)
BATCH = 32  # at most: what a model learnt on a GPU, hundreds of pictures at a time, is tuned on a laptop
WARMUP_BATCHES = 20
PICTURES = {"autoencoder": 4_000, "upscaler": 4_000}  # minutes on two cores; a picture of theirs takes longer than a painter's
PAINTER_PICTURES = 10_000
WHOLE_UNET_LR = 1e-5  # a tenth of a LoRA's: that of diffusers' own script for all weights


def base_model(recipe: Recipe, pictures: Pictures) -> tuple[Model | None, str]:
    """The model that the recipe tunes, None for one that learns from the beginning; and of what a run is made, to compare on resume."""
    if not recipe.tune.model:
        return None, pictures.fingerprint
    place = locate(recipe.tune.model)
    if place.manifest is None:
        raise _not_ours(place)
    files = hashlib.sha256(json.dumps(place.manifest.files, sort_keys=True).encode()).hexdigest()
    return open_model_folder(place.path, place.manifest), f"{pictures.fingerprint} from {files[:16]}"


def tuning_recipe(place: Place, settings: Sequence[str]) -> Recipe:
    """How what was located is tuned, changed by `section.field=value`.

    A model of ours: as it was trained, at a fraction of the rate, for minutes.  A Stable Diffusion: by a LoRA beside it.
    """
    if place.what == "pretrained":
        fields = _of_a_lora(place)
        if change_recipe(fields, settings).lora.targets == "unet":
            fields["name"] = f"{fields['name'].removesuffix('-lora')}-tuned"
            fields["train"]["lr"] = WHOLE_UNET_LR
        return change_recipe(fields, settings)
    if place.manifest is None:
        raise _not_ours(place)
    if place.manifest.kind == "lora":
        raise ModelError(
            f"{place.where!r} is a LoRA. Tune the model it is for, {place.manifest.base!r}, or go on with its run: the same --out, longer."
        )
    told = place.manifest.training.get("recipe")
    if not isinstance(told, dict):
        raise ModelError(
            f"{place.where!r} does not say by which recipe it was trained. Name one: "
            f"bowerbird train PICTURES --recipe NAME --init {place.where}"
        )
    own = check_recipe(told)
    train, batch = own.train, min(own.train.batch, BATCH)
    rate = SLOWER * train.lr * (batch / train.batch) ** 0.5  # the square root keeps Adam's noise alike (arXiv:2205.10287)
    fields = own.model_dump(mode="json")
    fields |= {"name": f"{own.name.removesuffix('-tuned')}-tuned", "tune": {"model": place.where}}
    fields["data"] |= {"captions": "", "held_out": 0.1}
    fields["train"] |= {
        "init": "",
        "batch": batch,
        "lr": float(f"{rate:.3g}"),
        "pictures": PICTURES.get(own.model.network, PAINTER_PICTURES),
        "warmup": WARMUP_BATCHES * batch,
    }
    fields["autoencoder"]["keep_latents"] = True  # read by autoencoders alone: models of its latents stay valid
    return change_recipe(fields, settings)


def _of_a_lora(place: Place) -> dict[str, Any]:
    """The recipe of a LoRA for a Stable Diffusion, as fields."""
    found = recognise(place.path)
    if found is None or found.family.kind == "inpaint":
        what = found.family.words if found else "no Stable Diffusion"
        raise ModelError(
            f"{place.where!r} is {what}; LoRAs are made for Stable Diffusion 1.x, 2.x and XL that paint from words alone, and x4."
        )
    return {
        "name": f"{Path(place.where).stem}-lora",
        "tune": {"model": place.where},
        "model": {"network": "lora"},
        "data": {"size": native_side(place.path, found.family), "fit": "shape", "flip": False},
        "condition": {"text": True},
        "diffusion": {"prediction": "eps", "noise_levels": "uniform-t", "weighting": "min-snr", "betas": "scaled-linear"},
        "train": {"pictures": 4000, "batch": 4, "lr": 1e-4, "weight_decay": 0.01, "betas": (0.9, 0.999), "warmup": 80, "save_every": 400},
        "sample": {"count": 4, "steps": 15, "guidance": found.family.guidance, "every_epochs": 25},
    }


def _not_ours(place: Place) -> ModelError:
    return ModelError(f"{place.where!r} cannot be tuned: it is no model of ours, and no Stable Diffusion 1.x, 2.x or XL.")
