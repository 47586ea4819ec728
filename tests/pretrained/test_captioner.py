"""Captioners open from what `save_pretrained` leaves, say what transformers itself would, and name no code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from bowerbird.captioning import write_captions
from bowerbird.errors import ModelError, UnsafeFileError
from bowerbird.pretrained.captioner import BEAMS, MAX_NEW_TOKENS, open_captioner
from tests.conftest import Bowerbird

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "bird", "sits", "on", "the", "branch", "in", "rain", "[DEC]"]
CPU = torch.device("cpu")


def tokenizer() -> Any:
    import transformers

    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "bos_token": "[DEC]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **marks)


def image_processor() -> Any:
    """Of BLIP, computing with Pillow; transformers 5.3 has it by its older name."""
    import transformers

    return getattr(transformers, "BlipImageProcessorPil", None) or transformers.BlipImageProcessor


def blip() -> Any:
    import transformers

    text = {"vocab_size": len(WORDS), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": len(WORDS) - 1, "sep_token_id": 3, "pad_token_id": 0,
            "eos_token_id": 2}  # fmt: skip
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    return transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(text_config=text, vision_config={**vision, "initializer_range": 0.2})
    )


def git() -> Any:
    import transformers

    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(WORDS)}
    marks = {"bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 64}
    return transformers.GitForCausalLM(transformers.GitConfig(vision_config=vision, **shape, **marks, initializer_range=0.5))


def vit_gpt2() -> Any:
    import transformers

    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    shape = {"vocab_size": len(WORDS), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    text = {**shape, "add_cross_attention": True, "is_decoder": True, "initializer_range": 0.5}
    config = transformers.VisionEncoderDecoderConfig(encoder={"model_type": "vit", **vision}, decoder={"model_type": "gpt2", **text})
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 2, 3, 0
    return transformers.VisionEncoderDecoderModel(config)


def write_captioner(folder: Path, make: Callable[[], Any]) -> Path:
    make().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    processor = image_processor()(size={"height": 32, "width": 32}, image_mean=[0.48, 0.46, 0.41], image_std=[0.27, 0.26, 0.28])
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family, randomly initialised, saved by transformers' own save_pretrained."""

    home = tmp_path_factory.mktemp("captioners")
    for number, make in enumerate((blip, git, vit_gpt2)):
        torch.manual_seed(number)
        write_captioner(home / make.__name__, make)
    return {folder.name: folder for folder in home.iterdir()}


def pictures(count: int, size: int = 32) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["blip", "git", "vit_gpt2"])
def test_it_says_what_transformers_itself_says(name: str, folders: dict[str, Path]) -> None:
    """Weights, scale of the pixels, marks and words: all of it arrives, or the sentences of a random network would differ."""
    import transformers

    cls = {"blip": "BlipForConditionalGeneration", "git": "GitForCausalLM", "vit_gpt2": "VisionEncoderDecoderModel"}[name]
    theirs = getattr(transformers, cls).from_pretrained(folders[name]).eval()
    processor = image_processor().from_pretrained(folders[name])
    pixels = pictures(4)
    x = processor([Image.fromarray(one) for one in pixels], return_tensors="pt")["pixel_values"]
    marks = {"decoder_start_token_id": 2, "eos_token_id": 3, "pad_token_id": 0} if name == "vit_gpt2" else {}
    with torch.inference_mode():
        tokens = theirs.generate(pixel_values=x, max_new_tokens=MAX_NEW_TOKENS, num_beams=BEAMS, do_sample=False, max_length=None, **marks)
    words = transformers.AutoTokenizer.from_pretrained(folders[name]).batch_decode(tokens, skip_special_tokens=True)
    ours = open_captioner(str(folders[name]), CPU)
    assert ours.size == 32
    assert ours(pixels) == [each.strip() for each in words]
    assert any(ours(pixels))


def changed(folder: Path, home: Path, file: str, **settings: object) -> str:
    """A copy of a captioner with other settings in one of its files; None takes one away."""
    copy = shutil.copytree(folder, home / "copy")
    config = json.loads((copy / file).read_text())
    for key, value in settings.items():
        inner, _, last = key.rpartition("__")
        (config[inner] if inner else config)[last] = value
    (copy / file).write_text(json.dumps(config))
    return str(copy)


@pytest.mark.parametrize(
    ("file", "settings", "words"),
    [
        ("config.json", {"architectures": ["LlamaForCausalLM"]}, "no captioner Bowerbird knows"),
        ("config.json", {"architectures": None}, "no captioner Bowerbird knows"),
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "asks to run code"),
        ("config.json", {"vision_config__model_type": "clip_vision_model"}, "where 'blip_vision_model' is expected"),
        ("config.json", {"vision_config": "x"}, "as its vision_config"),
        ("config.json", {"vision_config__image_size": 10**5}, "16 to 1024 are possible"),
        ("config.json", {"vision_config__num_hidden_layers": 10**6}, "beyond any known model"),
        ("config.json", {"text_config__hidden_size": {"a": 1}}, "plain values are expected"),
        ("config.json", {"text_config__hidden_size": 24}, "does not fit its config"),
        ("config.json", {"text_config__num_hidden_layers": 3}, "lacks"),
        ("preprocessor_config.json", {"image_mean": [0.5, "x", 0.5]}, "three numbers are expected"),
        ("tokenizer.json", {"model": {"type": "Strange"}}, "is damaged"),
    ],
)
def test_a_hostile_or_damaged_folder_is_refused_in_a_sentence(
    file: str, settings: dict[str, Any], words: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    where = changed(folders["blip"], tmp_path, file, **settings)
    with pytest.raises(ModelError, match=words) as error:
        open_captioner(where, CPU)
    assert "\n" not in str(error.value)


def test_pickled_weights_are_not_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["blip"], tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match="bowerbird convert"):
        open_captioner(str(copy), CPU)


def test_what_it_sees_is_what_transformers_would_show_it(folders: dict[str, Path], tmp_path: Path) -> None:
    """A wide photograph, through our gate and through transformers' processor, differs by what two resizings differ: a few grey levels."""

    y, x = np.mgrid[0:300, 0:500]
    photo = np.stack([128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 30), 255 * x / 500], axis=-1).astype(np.uint8)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(photo).save(tmp_path / "pictures/wide.png")
    seen: list[Any] = []

    def captioner(pixels: Any) -> list[str]:
        seen.extend(pixels)
        return ["a wave"] * len(pixels)

    write_captions(tmp_path / "pictures", tmp_path / "out.csv", captioner, size=32)
    processor = image_processor()(size={"height": 32, "width": 32}, do_normalize=False, do_rescale=False)
    theirs = np.asarray(processor(Image.fromarray(photo))["pixel_values"][0]).transpose(1, 2, 0)
    assert np.abs(seen[0].astype(int) - theirs.astype(int)).mean() < 2


def test_the_command_writes_a_new_file_outside_the_folder(folders: dict[str, Path], bowerbird: Bowerbird, tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    for number, pixels in enumerate(pictures(3, 40)):
        Image.fromarray(pixels).save(tmp_path / f"birds/{number}.png")
    _, out, _ = bowerbird("caption", "birds", "--with", folders["blip"], "--json")
    document = json.loads(out)
    assert document["file"] == "captions/birds.csv" and document["pictures"] == 3
    assert len(list((tmp_path / "birds").iterdir())) == 3
    lines = (tmp_path / "captions/birds.csv").read_text().splitlines()
    assert lines[0] == "file_name,text,written_by" and lines[1].endswith(str(folders["blip"]))
