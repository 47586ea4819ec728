"""Files of older Bowerbirds in the words of this one.  Nothing else in the project knows how they were.

1   November 2026: model folders, checkpoints and recipes before conditions were objects and networks had sections of their own
2   now
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FORMAT_VERSION = 2

# where a setting of format 1 stands now, for whoever still writes it
MOVED_SETTINGS = {
    "model.size": "transformer.size, unet.size or autoencoder.size",
    "model.patch": "transformer.patch",
    "model.detail": "transformer.stem_channels",
    "autoencoder.features": "autoencoder.perceptual",
    "condition.representation": "condition.image_embedding",
    "condition.drop": "condition.label_drop and condition.image_embedding_drop",
}


def upgrade_recipe(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's sections, as they were read; a new mapping when anything moved."""
    new = {name: dict(section) if isinstance(section, Mapping) else section for name, section in fields.items()}
    if isinstance(model := new.get("model"), dict):
        own = {key: model.pop(key) for key in ("size", "patch", "detail") if key in model}
        network = str(model.get("network", "transformer"))
        if "size" in own:
            _section(new, network).setdefault("size", re.sub("^(ddpm|ae)-", "", str(own["size"])))
        if "patch" in own:
            _section(new, "transformer").setdefault("patch", own["patch"])
        if "detail" in own:
            _section(new, "transformer").setdefault("stem_channels", own["detail"])
    if isinstance(autoencoder := new.get("autoencoder"), dict) and "features" in autoencoder:
        autoencoder["perceptual"] = autoencoder.pop("features")
    if isinstance(condition := new.get("condition"), dict):
        if "representation" in condition:
            condition["image_embedding"] = condition.pop("representation")
        if "drop" in condition:
            condition["label_drop"] = condition["image_embedding_drop"] = condition.pop("drop")
    return new


def _section(fields: dict[str, Any], name: str) -> dict[str, Any]:
    section = fields.setdefault(name, {})
    return section if isinstance(section, dict) else {}


def upgrade_manifest(document: dict[str, Any]) -> dict[str, Any]:
    """A model folder's manifest."""
    if document.get("format_version") != 1:
        return document
    new = dict(document) | {"format_version": FORMAT_VERSION, "kind": document.get("rung")}
    del new["rung"]
    labels = new.pop("labels", [])
    conditions: dict[str, Any] = {"label": {"names": labels}} if labels else {}
    if "representations.safetensors" in document.get("files", {}):
        conditions["image_embedding"] = {"label_names": labels}
    return new | {"conditions": conditions}


def upgrade_transformer(config: dict[str, Any]) -> dict[str, Any]:
    """A transformer's config.json."""
    if "conditions" in config:
        return config
    new = dict(config)
    labels, components = new.pop("label_count", 0), new.pop("representation", 0)
    new["stem_channels"], new["max_frequency"] = new.pop("detail", 0), new.pop("fastest", 1000.0)
    new["conditions"] = ({"label": {"count": labels}} if labels else {}) | (
        {"image_embedding": {"components": components}} if components else {}
    )
    return new


def upgrade_tensor_name(name: str) -> str:
    """The name of a weight."""
    return re.sub(r"(^|\.)representation\.", r"\1image_embedding.", name)


def upgrade_checkpoint(document: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's manifest."""
    if "surroundings" not in document:
        return document
    new = dict(document)
    new["provenance"], new["snapshot_at"] = new.pop("surroundings"), new.pop("looked")
    return new
