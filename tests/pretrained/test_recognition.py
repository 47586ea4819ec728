"""A file's family is told from names and shapes alone, as the real checkpoints have them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bowerbird.errors import ModelError
from bowerbird.pretrained import families, open_pretrained, recognise
from bowerbird.pretrained.families import FAMILIES, recognise_keys
from bowerbird.pretrained.loading import ask_network
from tests.pretrained import checkpoints

SHIPPED = Path(families.__file__).parent / "families"
CPU = torch.device("cpu")

# Published parameter counts
UNETS = {"sd15": 859_520_964, "sd21": 865_910_724, "sd21-base": 865_910_724, "sdxl": 2_567_463_684, "x4": 473_398_020}
TEXT_ENCODERS = {"sd15": 123_060_480, "sd21": 340_387_840, "sdxl": 123_060_480, "x4": 340_387_840}


@pytest.fixture(scope="module")
def full_size() -> Any:
    """Networks of the real sizes without memory for their weights."""
    made: dict[str, dict[str, torch.nn.Module]] = {}

    def networks(name: str) -> dict[str, torch.nn.Module]:
        if name not in made:
            with torch.device("meta"):
                made[name] = checkpoints.networks(SHIPPED / name)
        return made[name]

    return networks


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_shipped_configs_have_the_published_sizes(full_size: Any):
    for name, parameters in UNETS.items():
        assert count(full_size(name)["unet"]) == parameters
    for name, parameters in TEXT_ENCODERS.items():
        assert count(full_size(name)["text_encoder"]) == parameters
    assert count(full_size("sd15")["vae"]) == count(full_size("sdxl")["vae"]) == 83_653_863
    assert count(full_size("sdxl")["text_encoder_2"]) == 694_659_840
    assert count(full_size("sd15-inpaint")["unet"]) == UNETS["sd15"] + 5 * 9 * 320  # five more channels into the first convolution


@pytest.mark.parametrize("name", FAMILIES)
def test_real_single_files_are_recognised(full_size: Any, name: str):
    """Full shapes under the published names.  2.x at 512 px cannot be told from 768 px here: that is asked of the network."""
    tensors = checkpoints.single_file(full_size(name), name, ema=name in ("sd15", "sd15-inpaint"))
    found = recognise_keys({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    assert found is not None and found.family.name == ("sd21" if name == "sd21-base" else name)


def test_the_names_are_those_of_the_published_files(full_size: Any):
    """Spot checks against keys that conversion tools look for in the real files."""
    sd15 = checkpoints.single_file(full_size("sd15"), "sd15", ema=True)
    assert sd15["model.diffusion_model.input_blocks.0.0.weight"].shape == (320, 4, 3, 3)
    assert sd15["model.diffusion_model.output_blocks.11.0.skip_connection.weight"].shape == (320, 640, 1, 1)
    assert sd15["model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"].shape == (320, 768)
    assert sd15["model.diffusion_model.output_blocks.5.2.conv.weight"].shape == (1280, 1280, 3, 3)
    assert sd15["model.diffusion_model.output_blocks.2.1.conv.weight"].shape == (1280, 1280, 3, 3)
    assert sd15["model_ema.diffusion_modelinput_blocks00weight"].shape == (320, 4, 3, 3)
    assert sd15["cond_stage_model.transformer.text_model.embeddings.position_ids"].shape == (1, 77)
    assert sd15["cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc2.weight"].shape == (768, 3072)
    assert sd15["first_stage_model.decoder.up.0.block.0.nin_shortcut.weight"].shape == (128, 256, 1, 1)
    assert sd15["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    xl = checkpoints.single_file(full_size("sdxl"), "sdxl")
    assert xl["conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"].shape == (1280,)
    assert xl["conditioner.embedders.1.model.text_projection"].shape == (1280, 1280)
    assert xl["conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight"].shape == (77, 768)
    assert xl["model.diffusion_model.label_emb.0.0.weight"].shape == (1280, 2816)
    x4 = checkpoints.single_file(full_size("x4"), "x4")
    assert x4["model.diffusion_model.input_blocks.10.0.skip_connection.bias"].shape == (1024,)
    assert x4["model.diffusion_model.label_emb.weight"].shape == (1000, 256 * 4)
    sd21 = checkpoints.single_file(full_size("sd21"), "sd21")
    assert sd21["cond_stage_model.model.transformer.resblocks.23.attn.in_proj_weight"].shape == (3072, 1024)


def test_recognition_reads_the_header_only(full_size: Any, tmp_path: Path):
    """A file that says 4 GB of SD 1.5 and holds none of it is recognised all the same."""
    tensors = checkpoints.single_file(full_size("sd15"), "sd15")
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [offset, offset := offset + tensor.numel() * 2]}
    data = json.dumps(header).encode()
    path = tmp_path / "v1-5-pruned-emaonly.safetensors"
    path.write_bytes(struct.pack("<Q", len(data)) + data)
    found = recognise(path)
    assert found is not None and found.family.name == "sd15" and "4 channels" in found.ground


@pytest.mark.parametrize("name", FAMILIES)
def test_folders_are_recognised(tiny: Any, name: str):
    found = recognise(tiny(name).folder)
    assert found is not None and found.family.name == name


def test_relatives_are_refused_by_name():
    first = "model.diffusion_model.input_blocks.0.0.weight"
    clip = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
    with pytest.raises(ModelError, match="InstructPix2Pix"):
        recognise_keys({first: (320, 8, 3, 3), clip: (768,)})
    with pytest.raises(ModelError, match="refiner"):
        recognise_keys({first: (384, 4, 3, 3), "conditioner.embedders.0.model.ln_final.weight": (1280,)})
    with pytest.raises(ModelError, match="without its text encoder"):
        recognise_keys({first: (320, 4, 3, 3)})
    with pytest.raises(ModelError, match="reads 5 channels"):
        recognise_keys({first: (320, 5, 3, 3), clip: (768,)})


def test_what_is_no_relative_is_nobody(tmp_path: Path):
    assert recognise_keys({"transformer.blocks.0.weight": (4, 4)}) is None
    assert recognise(tmp_path) is None
    (tmp_path / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "model_index.json") is None


def test_what_the_file_says_of_its_prediction_is_believed():
    shapes = {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3), "conditioner.embedders.1.model.ln_final.weight": (1280,)}
    assert recognise_keys(shapes).prediction is None  # type: ignore[union-attr]
    assert recognise_keys({**shapes, "v_pred": (0,)}).prediction == "v_prediction"  # type: ignore[union-attr]
    assert recognise_keys(shapes, {"modelspec.prediction_type": "epsilon"}).prediction == "epsilon"  # type: ignore[union-attr]


class Answer(torch.nn.Module):
    """A U-Net that at the last timestep answers as an eps or a v model must."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor, _t: torch.Tensor, _text: torch.Tensor) -> Any:
        x0 = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        answer = x + 0.1 * x0 if self.kind == "epsilon" else 0.068 * x - 0.998 * x0  # alpha is 0.068 at t = 999
        return type("Output", (), {"sample": answer})


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_network_is_asked_what_it_predicts(tiny: Any, kind: str):
    """At the last timestep x_t is almost pure noise, so an eps model must answer its input and a v model must not."""
    parts = tiny("sd21").painter.parts
    asked = type(parts)(**{**parts.__dict__, "networks": {**parts.networks, "unet": Answer(kind)}})
    assert ask_network(asked)[0] == kind


def test_family_and_prediction_can_be_overridden(tiny: Any):
    model = tiny("sd21")
    assert (model.painter.parts.family.name, model.painter.parts.prediction) == ("sd21", "v_prediction")
    assert "correlates" in model.painter.parts.ground
    eps = open_pretrained(model.file, CPU, prediction="eps")
    assert (eps.parts.family.name, eps.parts.prediction) == ("sd21-base", "epsilon")
    assert eps.parts.schedulers["scheduler"]["prediction_type"] == "epsilon"
    base = open_pretrained(model.file, CPU, family="sd21-base")
    assert (base.parts.family.name, base.parts.prediction) == ("sd21-base", "epsilon")
    with pytest.raises(ModelError, match="Did you mean 'sdxl'"):
        open_pretrained(model.file, CPU, family="sdx")
    with pytest.raises(ModelError, match="Known: eps, v"):
        open_pretrained(model.file, CPU, prediction="x0")


def test_the_wrong_family_is_refused_in_one_sentence(tiny: Any):
    with pytest.raises(ModelError, match="Name another --family"):
        open_pretrained(tiny("sd15").file, CPU, family="sdxl")
    for family in ("sdxl", "x4", "sd15-inpaint"):
        with pytest.raises(ModelError, match="Leave --family out"):
            open_pretrained(tiny("sd15").folder, CPU, family=family)


def test_a_folder_of_pickles_is_refused_with_the_way_out(tiny: Any, tmp_path: Path):
    folder = shutil.copytree(tiny("sd15").folder, tmp_path / "old")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match="bowerbird convert"):
        open_pretrained(folder, CPU)


def test_damaged_and_incomplete_models_get_one_sentence(tiny: Any, tmp_path: Path):
    folder = shutil.copytree(tiny("sd15").folder, tmp_path / "model")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="damaged"):
        open_pretrained(folder, CPU)
    weights.unlink()
    with pytest.raises(ModelError, match="no weights"):
        open_pretrained(folder, CPU)
    with pytest.raises(ModelError, match="is no Stable Diffusion model"):
        open_pretrained(tmp_path / "nothing.safetensors.txt", CPU)


def test_weights_that_are_not_numbers_are_refused_by_name(tiny: Any, tmp_path: Path):
    """Unet, autoencoder or words: they would paint black.  A copy that nothing reads (`model_ema`) may hold what it likes."""
    folder = Path(shutil.copytree(tiny("sd15").folder, tmp_path / "model"))
    file = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    name = "text_model.final_layer_norm.weight"
    save_file({**tensors, name: tensors[name] * float("nan")}, file)
    with pytest.raises(ModelError, match=r"final_layer_norm.weight' of the text_encoder .* NaN"):
        open_pretrained(folder, CPU)
    whole = load_file(tiny("sd15").file)
    first = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({**whole, first: whole[first] / 0}, tmp_path / "whole.safetensors")
    with pytest.raises(ModelError, match=r"'conv_in.weight' of the unet .* NaN"):
        open_pretrained(tmp_path / "whole.safetensors", CPU)
    ema = "model_ema.diffusion_modelinput_blocks00weight"
    save_file({**whole, ema: whole[ema] * float("nan")}, tmp_path / "ema.safetensors")
    open_pretrained(tmp_path / "ema.safetensors", CPU)


def test_clip_text_becomes_the_published_numbers(tiny: Any):
    """Token ids of CLIP's published tokenizer."""
    tokenizer = tiny("sd15").painter.parts.tokenizers["tokenizer"]
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("").input_ids == [49406, 49407]
    assert len(tokenizer.get_vocab()) == 49408
    assert tokenizer("a", padding="max_length").input_ids == [49406, 320, *[49407] * 75]
    second = tiny("sdxl").painter.parts.tokenizers["tokenizer_2"]
    assert second("a", padding="max_length").input_ids == [49406, 320, 49407, *[0] * 74]  # pads with "!"


# A tokenizer of its own


@pytest.fixture
def worded(tiny: Any, tmp_path: Path) -> Path:
    """The tiny model with a text encoder of three words more."""
    folder = Path(shutil.copytree(tiny("sd15").folder, tmp_path / "worded"))
    config = folder / "text_encoder/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": 49411}))
    file, name = folder / "text_encoder/model.safetensors", "text_model.embeddings.token_embedding.weight"
    tensors = load_file(file)
    more = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    save_file({**tensors, name: torch.cat([tensors[name], more])}, file)
    return folder


def tokenizers(folder: Path) -> tuple[Any, Any]:
    """Ours and the one of transformers, which reads the folder by itself."""
    from transformers import CLIPTokenizer

    return open_pretrained(folder, CPU).parts.tokenizers["tokenizer"], CLIPTokenizer.from_pretrained(folder / "tokenizer")


SAYINGS = ("a photo of <bower>", "a <bower>, blurry", "A Bird's nest!", "")


@pytest.mark.parametrize("kept_as", ["tokenizer.json", "vocab.json"])
def test_words_that_a_model_added_are_read(worded: Path, kept_as: str):
    """As textual inversion leaves them: `<bower>` is one word, with a number of its own."""
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(worded / "tokenizer")
    theirs.add_tokens(["<bower>", "<nest>", *(["nest"] if kept_as == "tokenizer.json" else [])])  # the last is a piece already
    if kept_as == "tokenizer.json":
        theirs.save_pretrained(worded / "tokenizer")
        (worded / "tokenizer/vocab.json").unlink(missing_ok=True)
    else:
        (worded / "tokenizer/added_tokens.json").write_text(json.dumps({"<bower>": 49408, "<nest>": 49409}))
    own, _ = tokenizers(worded)
    for saying in SAYINGS:
        assert own(saying).input_ids == theirs(saying).input_ids
    assert 49408 in own(SAYINGS[0]).input_ids


def test_other_words_give_other_numbers(worded: Path):
    """Two words of the vocabulary change places."""
    path = worded / "tokenizer/vocab.json"
    vocabulary = json.loads(path.read_text())
    vocabulary["bird</w>"], vocabulary["cat</w>"] = vocabulary["cat</w>"], vocabulary["bird</w>"]
    path.write_text(json.dumps(vocabulary))
    own, theirs = tokenizers(worded)
    assert own("a bird").input_ids == theirs("a bird").input_ids == [49406, 320, 2368, 49407]  # which usually is a cat


def _mark(folder: Path, **settings: Any) -> None:
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))


UNFIT_WORDS: dict[str, tuple[Any, str]] = {
    "beyond the text encoder": (
        lambda f: (f / "added_tokens.json").write_text(json.dumps({f"<{i}>": 49408 + i for i in range(4)})),
        "up to number 49411, and its text encoder reads 49411 words",
    ),
    "a gap": (lambda f: (f / "added_tokens.json").write_text('{"<a>": 49410}'), "do not follow its own"),
    "two numbers": (lambda f: (f / "added_tokens.json").write_text('{"a</w>": 49408}'), "two numbers"),
    "no number": (lambda f: (f / "added_tokens.json").write_text('{"<a>": "x"}'), "without its number"),
    "no merges": (lambda f: (f / "merges.txt").unlink(), "merges.txt.* cannot be read"),
    "merges of nothing": (lambda f: (f / "merges.txt").write_text("a b c\n"), "not all pairs"),
    "merges of strangers": (lambda f: (f / "merges.txt").write_text("qqq zzz\n"), "does not fit together"),
    "no end": (lambda f: (f / "vocab.json").write_text(json.dumps({"a": 0, "<|startoftext|>": 1})), "lacks its eos_token"),
    "no numbers": (lambda f: (f / "vocab.json").write_text('{"a": "b"}'), "does not number its words"),
    "numbers from 7": (lambda f: (f / "vocab.json").write_text('{"a": 7}'), "does not number its words"),
    "not JSON": (lambda f: (f / "tokenizer.json").write_text("{"), "damaged or not JSON"),
    "another kind": (
        lambda f: (f / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": []}}'),
        "no vocabulary of CLIP's kind",
    ),
    "no table": (lambda f: (f / "tokenizer.json").write_text('{"model": {"vocab": 3, "merges": 4}}'), "does not number its words"),
    "another padding": (lambda f: _mark(f, pad_token="<pad>"), "lacks its pad_token, '<pad>'"),
    "a start that is no word": (lambda f: _mark(f, bos_token={"content": 5}), "lacks its bos_token"),
}


@pytest.mark.parametrize("what", UNFIT_WORDS)
def test_words_that_do_not_fit_are_refused_in_a_sentence(worded: Path, what: str):
    spoil, words = UNFIT_WORDS[what]
    spoil(worded / "tokenizer")
    with pytest.raises(ModelError, match=words):
        open_pretrained(worded, CPU)
