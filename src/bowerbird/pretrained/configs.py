"""Configs as data: what a model's JSON files may say, and what they may name.

diffusers and transformers resolve names in configs to classes, and some keys to code from the hub.  Here every name is
compared with a fixed table, keys that ask for code are refused, and numbers are capped, because they say how much to build.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelError
from bowerbird.reading import MAX_JSON_BYTES, read_json

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
NETWORKS = ("unet", "vae", *TEXT_ENCODERS)
TOKENIZERS = ("tokenizer", "tokenizer_2")
SCHEDULERS = ("scheduler", "low_res_scheduler")

PIPELINES = {  # what model_index.json may name as its pipeline, and which kind of model that is
    "StableDiffusionPipeline": "sd",
    "StableDiffusionImg2ImgPipeline": "sd",
    "StableDiffusionInpaintPipeline": "sd",
    "LatentConsistencyModelPipeline": "sd",
    "StableDiffusionUpscalePipeline": "x4",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "StableDiffusionXLInpaintPipeline": "sdxl",
}

_SCHEDULER_CLASSES = {
    ("diffusers", f"{kind}Scheduler")
    for kind in (
        "DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LCM", "TCD",
        "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "KDPM2Discrete", "KDPM2AncestralDiscrete",
    )
}  # fmt: skip

# library and class that model_index.json may name for each part
_PART_CLASSES: dict[str, set[tuple[str, str]]] = {
    "unet": {("diffusers", "UNet2DConditionModel")},
    "vae": {("diffusers", "AutoencoderKL")},
    "text_encoder": {("transformers", "CLIPTextModel")},
    "text_encoder_2": {("transformers", "CLIPTextModelWithProjection")},
    **{name: {("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")} for name in TOKENIZERS},
    **dict.fromkeys(SCHEDULERS, _SCHEDULER_CLASSES),
}
_UNUSED_PART_CLASSES = {
    "safety_checker": {("stable_diffusion", "StableDiffusionSafetyChecker")},
    "watermarker": {("diffusers", "StableDiffusionXLWatermarker")},
    "feature_extractor": {("transformers", "CLIPFeatureExtractor"), ("transformers", "CLIPImageProcessor")},
    "image_encoder": {("transformers", "CLIPVisionModelWithProjection")},
}
_NEEDED_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_OPTIONS = {"requires_safety_checker", "force_zeros_for_empty_prompt", "requires_aesthetics_score"}

# Keys by which a config asks its reader to import or fetch something
_CODE_KEYS = {
    "auto_map", "custom_pipeline", "custom_pipelines", "custom_revision", "quantization_config", "trust_remote_code", "attn_processor",
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
}  # fmt: skip

_UNLIMITED = {"lambda_min_clipped": float("-inf")}  # as diffusers writes out a default; left out, it is the same
_MAX_LAYERS = 64
_MAX_NUMBER = 100_000


def read_config(path: Path, limit_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object as plain data.  ModelError when it is missing, too large, damaged, or asks for code."""
    try:
        config = read_json(path, limit_bytes)
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r} ({error.strerror}). Download the folder again.") from error
    except ValueError as error:
        raise ModelError(f"{str(path)!r} is damaged or not JSON. Download the folder again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{str(path)!r} is not a JSON object. Download the folder again.")
    for key in sorted(config.keys() & _CODE_KEYS):
        if config[key]:
            raise ModelError(f"{str(path)!r} sets {key!r}, by which a model asks to run code of its own; it is refused.")
    return config


def read_index(folder: Path) -> dict[str, Any]:
    """The parts and options in model_index.json that we use; ModelError when it names anything outside the tables."""
    path = folder / "model_index.json"
    index: dict[str, Any] = {}
    for name, value in read_config(path).items():
        if name.startswith("_") or value in (None, [None, None]):
            continue
        classes = tuple(map(str, value)) if isinstance(value, list) else None
        if classes in _PART_CLASSES.get(name, ()) or (isinstance(value, bool) and name in _OPTIONS):
            index[name] = value
        elif classes not in _UNUSED_PART_CLASSES.get(name, ()):
            raise ModelError(f"{str(path)!r} names {name!r} = {str(value)[:100]}, which Bowerbird does not know; it is refused.")
    for name in _NEEDED_PARTS:
        if name not in index:
            raise ModelError(f"{str(path)!r} names no {name!r}. Download the folder again.")
    return index


def options_of(index: Mapping[str, Any]) -> dict[str, bool]:
    """The index's entries that are arguments of a pipeline, not parts."""
    return {name: index[name] for name in ("force_zeros_for_empty_prompt",) if name in index}


def class_arguments(cls: Any, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The entries of a config that a class takes."""
    return checked_arguments(config, set(inspect.signature(cls).parameters), path)


def checked_arguments(config: Mapping[str, Any], known: Collection[str], path: Path) -> dict[str, Any]:
    """The entries of a config that are named in `known`: words, numbers and lists of them, none beyond any real model."""
    arguments = {key: value for key, value in config.items() if key in known}
    for key, value in arguments.items():
        limit = _MAX_LAYERS if "layers" in key else _MAX_NUMBER
        items = [inner for item in _listed(value) for inner in _listed(item)]
        if len(items) > _MAX_LAYERS or any(isinstance(item, int | float) and not abs(item) <= limit for item in items):
            raise ModelError(f"{str(path)!r} sets {key} = {str(value)[:80]}, beyond any known model; it is refused.")
        if any(isinstance(item, dict | list) for item in items):
            raise ModelError(f"{str(path)!r} sets {key} to a table, where plain values are expected; it is refused.")
    return arguments


def read_scheduler_config(path: Path) -> dict[str, Any]:
    """A scheduler's settings with its _class_name, which is one of the table; what the class fills in itself is left open."""
    config = read_config(path)
    name = config.get("_class_name")
    if not isinstance(name, str) or ("diffusers", name) not in _SCHEDULER_CLASSES:
        raise ModelError(f"{str(path)!r} asks for {str(name)[:80]!r}, which is not a scheduler Bowerbird knows; it is refused.")
    config = {key: value for key, value in config.items() if key not in _UNLIMITED or value != _UNLIMITED[key]}
    # what another scheduler than the named one needs is kept too: PNDM's config says `clip_sample: false` for DDIM's sake
    settings = checked_arguments(
        config, {word for kind in _scheduler_classes().values() for word in inspect.signature(kind).parameters}, path
    )
    steps = settings.get("num_train_timesteps", 1000)
    if type(steps) is not int or steps < 4:
        raise ModelError(f"{str(path)!r} sets num_train_timesteps = {str(steps)[:80]}, where a whole number of steps is expected.")
    cls = _scheduler_classes()[name]
    try:
        cls(**class_arguments(cls, settings, path)).set_timesteps(4)
    except Exception as error:  # diffusers raises many kinds for one cause: a value no scheduler can have
        raise ModelError(f"{str(path)!r} describes no scheduler: {first_line(error)}. Use another copy.") from error
    return {"_class_name": name, **settings}


def scheduler_defaults(name: str) -> dict[str, Any]:
    """What a scheduler of the table does where its config is silent."""
    parameters = inspect.signature(_scheduler_classes()[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def _scheduler_classes() -> dict[str, Any]:
    import diffusers

    return {kind: getattr(diffusers, kind) for _, kind in _SCHEDULER_CLASSES}


def read_pixel_scale(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, by colour, of the pixels in 0..1 that a network was taught on.

    From preprocessor_config.json, or what newer versions save of a whole processor, processor_config.json.
    """
    path, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    if whole.exists() and not path.exists():
        path, settings = whole, read_config(whole).get("image_processor")
    else:
        settings = read_config(path)
    values: list[list[float]] = []
    for key in ("image_mean", "image_std"):
        value = settings.get(key) if isinstance(settings, dict) else None
        if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, int | float) and 0 < v < 2 for v in value):
            raise ModelError(f"{str(path)!r} has {str(value)[:60]} as its {key}, where three numbers are expected. Use another copy.")
        values.append(value)
    return values[0], values[1]


def first_line(error: Exception) -> str:
    """What another library says of its error, as the end of a sentence; assertions say nothing but their name."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
