"""A model's configs cannot make us import, run, write or fetch anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bowerbird.errors import ModelError
from bowerbird.pretrained import open_pretrained
from tests.audit import Audit

CPU = torch.device("cpu")

_VALUES = """
os subprocess sys builtins posix shutil socket ctypes importlib pickle torch.hub runpy os.system subprocess.Popen builtins.eval __main__
__import__ ../x ../../etc/passwd /etc/passwd /tmp/evil.py evil.py ./evil evil/model evil/model--code.Evil local_module.Evil pipeline
modeling_evil.Evil StableDiffusionPipelineLegacy diffusers.utils.load_image transformers.AutoModel AutoModel AutoTokenizer AutoencoderDC
AutoPipelineForText2Image BitsAndBytesConfig gguf quanto torchao kernels-community/evil flash_attention_2 hub://evil file:///etc/passwd
https://example.invalid/evil.py \\\\evil\\share {{7*7}} ${jndi:ldap://evil} $(touch) `id` %s%n nan <script> a\x00b
UNet2DConditionModelX CLIPTextModel.__init__
"""
VALUES = _VALUES.split()

KEYS: dict[str, Any] = {  # keys that ask for code, wherever they stand
    "auto_map": {"AutoModel": "evil--modeling.Evil"},
    "custom_pipeline": "evil",
    "custom_pipelines": {"text": {"impl": "evil"}},
    "trust_remote_code": True,
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "_attn_implementation_internal": "kernels-community/evil",
    "_attn_implementation": "flash_attention_2",
    "attn_implementation": "evil/kernel",
    "attn_processor": "os.system",
    "custom_revision": "main",
}
NUMBERS: dict[str, Any] = {  # and numbers that ask for more than a machine has, refused before anything is built
    "num_hidden_layers": 10**9,
    "hidden_size": 10**12,
    "block_out_channels": [10**9, 10**9],
    "layers_per_block": 10**6,
    "transformer_layers_per_block": [[10**6]],
    "num_train_timesteps": 10**15,
    "sample_size": float("inf"),
    "norm_num_groups": float("nan"),
    "cross_attention_dim": {"a": 1},
    "vocab_size": -(10**9),
}
FILES = ["model_index.json", *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder")), "scheduler/scheduler_config.json"]
FILES.append("tokenizer/tokenizer_config.json")


def strings(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value its strings are."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from strings(inner, (*path, key))


def with_value(config: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = json.loads(json.dumps(config))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def hostile_configs(folder: Path) -> Iterator[tuple[str, bool]]:
    """Put each hostile config into its place in turn; yields what it says, and whether that is read by us, who must then refuse it.

    Every string of every config gets each twelfth of the hostile values, and every config the keys and numbers it may have.
    """
    for name in FILES:
        file = folder / name
        before = file.read_text()
        config = json.loads(before)
        changes: list[tuple[dict[str, Any], str, bool]] = []
        for number, path in enumerate(strings(config)):
            is_read = path[0] not in ("_name_or_path", "_diffusers_version", "model_type")
            values = VALUES[number % 12 :: 12 if is_read else 40]
            changes += [(with_value(config, path, value), f"{path} = {value}", is_read) for value in values]
        changes += [({**config, key: value}, f"{key} = {value}", True) for key, value in KEYS.items()]
        changes += [({**config, key: value}, f"{key} = {value}", True) for key, value in NUMBERS.items() if key in config]
        for changed, words, is_read in changes:
            file.write_text(json.dumps(changed))
            yield f"{name}: {words}", is_read
        file.write_text(before)


@pytest.fixture
def folder(tiny: Any, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny("sd15").folder, tmp_path / "model"))
    open_pretrained(folder, CPU)  # whatever the libraries import late is imported now
    return folder


def test_there_are_enough_of_them():
    assert len(set(VALUES)) >= 50


def test_no_config_reaches_an_import(folder: Path):
    """Refused, or it was never read and all stays as it was."""
    tried = 0
    for words, is_read in hostile_configs(folder):
        with Audit() as audit:
            try:
                open_pretrained(folder, CPU)
            except ModelError:
                pass
            else:
                assert not is_read, words
        assert not audit.events, words
        tried += 1
    assert tried > 250


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("key", KEYS)
def test_keys_that_ask_for_code_are_refused(folder: Path, name: str, key: str):
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), key: KEYS[key]}))
    with Audit() as audit, pytest.raises(ModelError, match=f"{key}.*refused"):
        open_pretrained(folder, CPU)
    assert not audit.events


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '"x"', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\x00", "{}" + " " * 2**21 + "x"]
)
def test_what_is_no_json_object_is_refused(folder: Path, text: str):
    for name in FILES[:5]:
        file = folder / name
        before = file.read_text()
        file.write_text(text)
        with pytest.raises(ModelError):
            open_pretrained(folder, CPU)
        file.write_text(before)


def test_a_python_file_in_the_folder_is_never_looked_at(folder: Path):
    for place in (folder, folder / "unet", folder / "text_encoder"):
        for name in ("pipeline.py", "modeling.py", "__init__.py", "my_pipeline.py"):
            (place / name).write_text("raise SystemExit('run')")
    with Audit() as audit:
        open_pretrained(folder, CPU)
    assert not audit.events
