"""A whole CLIP opens from what transformers saves or was published with, and scores as transformers itself would."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bowerbird.errors import ModelError, UnsafeFileError
from bowerbird.evaluate.alignment import clip_score
from bowerbird.pixels import Pixels
from bowerbird.pretrained.clip import clip_vocabulary
from bowerbird.pretrained.clip_model import open_clip
from tests.conftest import Bowerbird

CPU = torch.device("cpu")
CAPTIONS = ["a red bird", "", "noto emoji of a smiling face 🙂", "un café, s'il vous plaît", "bird " * 200]
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "projection_dim": 24}
# as openai/clip-vit-base-patch32 writes them, which lists the defaults of its time; the marks' numbers are wrong there, and known to be
PUBLISHED = {"architectures": None, "attention_dropout": 0.0, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "hidden_act": "quick_gelu",
             "layer_norm_eps": 1e-05, "max_length": 20, "torch_dtype": None, "pruned_heads": {}, "return_dict": True, "use_bfloat16": False,
             "transformers_version": "4.16.0.dev0"}  # fmt: skip
TEXT = PUBLISHED | TOWER | {"model_type": "clip_text_model", "vocab_size": 49408, "max_position_embeddings": 77,
                            "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # fmt: skip
SIGHT = PUBLISHED | TOWER | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8}
CONFIG = {"architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592, "model_type": "clip",
          "projection_dim": 24, "text_config": TEXT, "text_config_dict": None, "vision_config": SIGHT, "vision_config_dict": None,
          "torch_dtype": "float32", "transformers_version": None}  # fmt: skip
PROCESSOR = {"crop_size": 32, "do_center_crop": True, "do_normalize": True, "do_resize": True,
             "image_mean": MEAN, "image_std": STD, "resample": 3, "size": 32}  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP with every file of a published folder; position ids are among its tensors, as they were then."""
    import transformers

    folder = tmp_path_factory.mktemp("clip") / "clip-vit-tiny-patch8"
    folder.mkdir()
    torch.manual_seed(0)
    network = transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=SIGHT, projection_dim=24))
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None], "vision_model.embeddings.position_ids": torch.arange(17)[None]}
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()} | ids, folder / "model.safetensors")
    vocabulary, merges = clip_vocabulary()
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    marks = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>") | {"bos_token": "<|startoftext|>"}
    for name, document in {
        "config.json": CONFIG,
        "preprocessor_config.json": PROCESSOR,
        "vocab.json": vocabulary,
        "tokenizer_config.json": {**marks, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True},
    }.items():
        (folder / name).write_text(json.dumps(document))
    return folder


def pictures(count: int, side: int = 32) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def theirs(folder: Path, pixels: Pixels) -> torch.Tensor:
    """Cosines of every picture with every caption, as transformers computes them, (N, captions)."""
    import transformers

    network = transformers.CLIPModel.from_pretrained(folder).eval()
    tokens = transformers.CLIPTokenizer.from_pretrained(folder)(CAPTIONS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    seen = processor([Image.fromarray(one) for one in pixels], return_tensors="pt")
    with torch.inference_mode():
        output = network(**tokens, pixel_values=seen["pixel_values"])
        cosines: torch.Tensor = output.logits_per_image / network.logit_scale.exp()
    return cosines


def ours(folder: Path, pixels: Pixels) -> torch.Tensor:
    clip = open_clip(folder, CPU)
    return clip.look(pixels) @ clip.read(CAPTIONS).T


def test_cosines_are_those_of_transformers(published: Path) -> None:
    """Weights of both towers, projections, words, their end and the scale of pixels: all arrive, or a random network would differ."""
    found, expected = ours(published, pictures(40)), theirs(published, pictures(40))
    assert expected.std(0).max() > 1e-3 and expected.std(1).max() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_other_sizes_are_resized_as_transformers_resizes(published: Path) -> None:
    """Bicubic with antialiasing, rounded to 8 bits: two implementations of it differ by a grey level here and there."""
    torch.testing.assert_close(ours(published, pictures(8, 50)), theirs(published, pictures(8, 50)), atol=2e-3, rtol=0)


def test_what_transformers_saves_today_opens_too(published: Path, tmp_path: Path) -> None:
    import transformers

    transformers.CLIPModel.from_pretrained(published).save_pretrained(tmp_path)
    tokenizer, processor = (cls.from_pretrained(published) for cls in (transformers.CLIPTokenizer, transformers.CLIPImageProcessorPil))
    transformers.CLIPProcessor(processor, tokenizer).save_pretrained(tmp_path)
    torch.testing.assert_close(ours(tmp_path, pictures(4)), ours(published, pictures(4)), atol=1e-6, rtol=0)


def test_settings_that_old_configs_keep_apart_come_first(published: Path, tmp_path: Path) -> None:
    apart = CONFIG | {"text_config": {**TEXT, "hidden_size": 512}, "text_config_dict": {"hidden_size": 32}, "vision_config": None}
    folder = changed(published, tmp_path, "config.json", apart | {"vision_config_dict": SIGHT})
    torch.testing.assert_close(ours(folder, pictures(4)), ours(published, pictures(4)))


def changed(folder: Path, home: Path, file: str, settings: dict[str, Any]) -> Path:
    """A copy of a folder with other settings in one of its files."""
    copy = Path(shutil.copytree(folder, home / "copy"))
    (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | settings))
    return copy


@pytest.mark.parametrize(
    ("file", "settings", "words"),
    [
        ("config.json", {"architectures": ["SiglipModel"]}, "where CLIPModel is expected"),
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "asks to run code"),
        ("config.json", {"text_config": "x"}, "is no table of settings"),
        ("config.json", {"vision_config": {**SIGHT, "image_size": 10**5}}, "16 to 1024 are possible"),
        ("config.json", {"vision_config": {**SIGHT, "num_hidden_layers": 10**6}}, "beyond any known model"),
        ("config.json", {"vision_config": {**SIGHT, "num_channels": 1}}, "does not see three channels"),
        ("config.json", {"text_config": {**TEXT, "max_position_embeddings": 5}}, "read 77 tokens"),
        ("config.json", {"text_config": {**TEXT, "hidden_act": "eval"}}, "describes no network"),
        ("config.json", {"text_config": {**TEXT, "num_hidden_layers": 3}}, "does not fit its config"),
        ("config.json", {"projection_dim": 12}, "does not fit its config"),
        ("config.json", {"text_config": {**TEXT, "vocab_size": 100}}, "reads 100 words"),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5]}, "three numbers are expected"),
    ],
)
def test_a_hostile_or_damaged_folder_is_refused_in_a_sentence(
    file: str, settings: dict[str, Any], words: str, published: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words) as error:
        open_clip(changed(published, tmp_path, file, settings), CPU)
    assert "\n" not in str(error.value)


def test_pickled_weights_are_not_loaded(published: Path, tmp_path: Path) -> None:
    """As some published folders have them: the way to convert is named."""
    copy = Path(shutil.copytree(published, tmp_path / "copy"))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match="bowerbird convert"):
        open_clip(copy, CPU)


def test_the_score_is_a_weighted_cosine() -> None:
    """2.5 where caption and picture point one way, 0 where they are at right angles or more."""
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    assert clip_score(torch.stack([one, one, one]), torch.stack([one, other, -other])).tolist() == pytest.approx([2.5, 1.5, 0])


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """24 pictures with a caption each."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, pixels in enumerate(pictures(24)):
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"picture number {number}")
    return folder


def test_the_report_has_the_score(published: Path, captioned: Path, bowerbird: Bowerbird, tmp_path: Path) -> None:
    """The mean over pictures and their captions, beside that with others' captions; in the table, the page and the JSON."""
    ask = ("evaluate", captioned, "--against", captioned, "--clip", published)
    code, out, err = bowerbird(*ask, "--out", "judged", "--json")
    assert code == 0, err
    clip = open_clip(published, CPU)
    cosines = clip.look(pictures(24)) @ clip.read([f"picture number {number}" for number in range(24)]).T
    scores = json.loads(out)["scores"]
    assert scores["clip_score"]["value"] == scores["clip_score"]["floor"] == pytest.approx(2.5 * float(cosines.diag().clamp(min=0).mean()))
    others = torch.roll(cosines, -1, 1).diag().clamp(min=0).mean()
    assert scores["clip_score_shuffled"]["value"] == pytest.approx(2.5 * float(others))
    assert scores["clip_score"]["network"] == published.name and scores["clip_score"]["margin"] > 0
    assert "CLIP score, shuffled" in (tmp_path / "judged/report.html").read_text()
    assert published.name in bowerbird(*ask)[1]


def test_what_cannot_be_compared_is_said(
    published: Path, captioned: Path, model_folder: Path, bowerbird: Bowerbird, tmp_path: Path
) -> None:
    """Before anything is painted: a model that reads nothing, pictures without captions, a folder that is no CLIP."""
    silent = tmp_path / "silent"
    silent.mkdir()
    for path in captioned.glob("*.png"):
        shutil.copy(path, silent)
    for asked, words in (
        ((model_folder, "--against", captioned, "--clip", published), "does not read text"),
        ((captioned, "--against", silent, "--clip", published), "'silent' has 0 different captions"),
        ((captioned, "--against", captioned, "--clip", tmp_path / "none"), "there is no CLIP"),
        ((captioned, "--against", captioned, "--clip", silent), "cannot read"),
    ):
        code, _, err = bowerbird("evaluate", *asked)
        assert code == 2 and words in err and len(err.strip().splitlines()) == 1
