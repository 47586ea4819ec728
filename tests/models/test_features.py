from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from bowerbird import weights
from bowerbird.errors import RequestError
from bowerbird.models import features
from bowerbird.models.features import ARCHITECTURES, INPUT_PX, JUDGE, WEIGHTS, extract, load_network, network_input
from bowerbird.pixels import Pixels


@pytest.fixture
def ramp() -> Pixels:
    """A picture that needs no file: each channel a ramp of its own."""
    y, x = np.mgrid[:INPUT_PX, :INPUT_PX]
    return np.stack([x, y, (x + y) // 2], -1)[None].astype(np.uint8)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_are_those_of_the_published_networks(name: str, ramp: Pixels) -> None:
    """The numbers come from the original float32 checkpoints, batch normalisation unfolded (as in scripts/convert_feature_weights.py)."""
    mean, std, largest, where = {
        "mobilenet_v2": (0.2487, 0.3964, 2.896, 388),
        "efficientnet_lite0": (0.0697, 0.3451, 4.829, 113),
    }[name]
    found = extract(ramp, name)[0]
    assert [found.mean(), found.std(), found.max()] == pytest.approx([mean, std, largest], rel=0.005)
    assert found.argmax() == where


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weight_files_say_what_they_are(name: str) -> None:
    about = json.loads(weights.read_header(WEIGHTS / f"{name}.safetensors").metadata["about"])
    assert about["network"] == name
    assert about["licence"] and about["origin"]
    assert about["sha256_of_the_original"] in (WEIGHTS / "README.md").read_text()


def test_a_picture_has_its_features_whatever_comes_with_it(animals: Pixels) -> None:
    together = extract(animals[:9])
    alone = extract(animals[4:5])
    assert together[4] == pytest.approx(alone[0], rel=1e-3, abs=1e-4)


def test_features_are_computed_once(animals: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    first = extract(animals[10:12])

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(features, "load_network", refuse)
    assert np.array_equal(extract(animals[10:12]), first)
    changed = animals[10:12].copy()
    changed[0, 0, 0, 0] ^= 1  # one bit makes another set
    with pytest.raises(AssertionError, match="computed again"):
        extract(changed)


def test_enlarging_is_pillows_bicubic(animals: Pixels) -> None:
    """Scores of other tools rest on Pillow's filter; both round to 8 bits, so they may differ by one level here and there."""
    theirs = np.asarray(Image.fromarray(animals[0]).resize((INPUT_PX, INPUT_PX), Image.Resampling.BICUBIC)).astype(int)
    ours = ((network_input(animals[:1])[0] + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 1
    assert (ours == theirs).mean() > 0.95


def test_maps_halve_and_end_at_the_pooled_features(animals: Pixels) -> None:
    network = load_network(JUDGE)
    x = network_input(animals[:1])
    sides = [found.shape[2] for found in network.maps(x)]
    assert sides == [112, 56, 28, 14, 14, 7, 7]
    assert network.head(network.maps(x)[-1]).mean((2, 3)).equal(network(x))


def test_an_unknown_network_is_refused_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="Did you mean 'mobilenet_v2'"):
        load_network("mobilenet")
