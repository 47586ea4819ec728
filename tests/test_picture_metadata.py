"""Pictures carry what is needed to paint them again, and a stranger's picture is read as data, never as code."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from bowerbird.errors import PictureFolderError, RequestError
from bowerbird.picture_files import Painted, check_fits, encode_picture, infotext, request_of, save_picture
from bowerbird.picture_metadata import read_metadata
from bowerbird.request import Lora, PaintRequest

FORMATS = ["png", "jpeg", "webp"]


def painted(**fields: object) -> Painted:
    request = PaintRequest.model_validate(
        {"model": "runs/birds", "seed": 3, "count": 4, "steps": 20, "sampler": "dpm++2m", "guidance": 7.5, "size": (24, 16), **fields}
    )
    return Painted(Image.new("RGB", (24, 16), (200, 30, 60)), 5, request)


def png_with(path: Path, **chunks: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for key, text in chunks.items():
        info.add_text(key, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


@pytest.mark.parametrize("file_format", FORMATS)
@settings(max_examples=15, deadline=None)
@given(prompt=st.text(max_size=300), negative=st.text(max_size=50))
def test_the_request_survives_the_file(tmp_path_factory: pytest.TempPathFactory, file_format: str, prompt: str, negative: str):
    """What was painted can be painted again from the file alone, in any script and with any punctuation."""
    work = painted(prompt=prompt, negative=negative, format=file_format, loras=[Lora(file=Path("a.safetensors"), weight=0.5)])
    path = tmp_path_factory.mktemp("pictures") / "picture"
    save_picture(work, path)
    found = read_metadata(path)
    assert PaintRequest(**found.fields) == request_of(work)
    assert (found.origin, found.size, found.note) == ("bowerbird", (24, 16), "")


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("fields", "source"),
    [({}, "trainedAlgorithmicMedia"), ({"image": "a.png", "mask": "m.png"}, "compositeWithTrainedAlgorithmicMedia")],
)
def test_every_picture_carries_the_mark_of_its_origin(tmp_path: Path, file_format: str, fields: dict[str, str], source: str):
    save_picture(painted(format=file_format, **fields), tmp_path / "picture")
    assert read_metadata(tmp_path / "picture").digital_source == source


def test_an_upscaled_picture_is_marked_as_enhanced(tmp_path: Path):
    save_picture(painted(), tmp_path / "picture.png", source="algorithmicallyEnhanced")
    assert read_metadata(tmp_path / "picture.png").digital_source == "algorithmicallyEnhanced"


@pytest.mark.parametrize("file_format", FORMATS)
def test_equal_pictures_are_equal_files(file_format: str):
    """Nothing in the file depends on the clock or the machine's name."""
    assert encode_picture(painted(format=file_format)) == encode_picture(painted(format=file_format))


def test_the_pixels_of_a_png_are_untouched(tmp_path: Path):
    save_picture(painted(), tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.tobytes() == painted().picture.tobytes()


@pytest.mark.parametrize("prompt", ["a cat", "two\nlines", 'a "cat", 猫', "Steps: many"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_others_can_read_our_text(tmp_path: Path, prompt: str, file_format: str):
    """A program that knows only A1111's text finds prompt, seed and numbers in it."""
    request = request_of(painted(prompt=prompt, negative="blurry", format=file_format))
    found = read_metadata(png_with(tmp_path / "other.png", parameters=infotext(request)))
    assert found.origin == "a1111"
    expected = {"prompt": prompt, "negative": "blurry", "seed": 5, "steps": 20, "guidance": 7.5, "sampler": "dpm++2m", "size": (24, 16)}
    assert {name: found.fields[name] for name in expected} == expected


def test_the_exif_comment_is_utf16_as_the_standard_says(tmp_path: Path):
    save_picture(painted(prompt="猫", format="jpeg"), tmp_path / "picture.jpg")
    with Image.open(tmp_path / "picture.jpg") as picture:
        comment = picture.getexif().get_ifd(0x8769)[0x9286]
    assert comment.startswith(b"UNICODE\0") and "猫" in comment[8:].decode("utf-16-be")


def test_a_request_too_long_for_jpeg_is_refused_before_painting():
    long = {"prompt": "🐦" * 20_000, "negative": "🐦" * 20_000}
    with pytest.raises(RequestError, match="use png or webp"):
        check_fits(painted(format="jpeg", **long).settings)
    check_fits(painted(format="jpeg", prompt="a" * 20_000).settings)
    check_fits(painted(format="png", **long).settings)
    encode_picture(painted(format="png", **long))


# As the other programs write them

A1111 = """masterpiece, (happy:1.5) bird,
on a branch
Negative prompt: lowres, "bad" anatomy
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, Model hash: 45dee52b, Model: dream_v8, \
Denoising strength: 0.4, Lora hashes: "birds: 1a2b3c, ink: 4d5e", Version: v1.6.0"""

FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "juggernautXL_v8", "base_model_hash": "aeb7e9e689", "clip_skip": 2,
    "full_prompt": ["cinematic still a bird"], "guidance_scale": 4, "loras": [["offset.safetensors", 0.1, "4852686128"]],
    "metadata_scheme": "fooocus", "negative_prompt": "blurry", "performance": "Speed", "prompt": "a bird", "resolution": "(1152, 896)",
    "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "3274895683", "sharpness": 2, "steps": 30,
    "styles": "['Fooocus V2', 'Fooocus Sharp']", "version": "Fooocus v2.5.5",
}  # fmt: skip

COMFYUI = {
    "3": {"class_type": "KSampler", "inputs": {
        "cfg": 8, "denoise": 1, "latent_image": ["5", 0], "model": ["10", 0], "negative": ["7", 0], "positive": ["6", 0],
        "sampler_name": "dpmpp_2m", "scheduler": "normal", "seed": 8566257, "steps": 25}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"batch_size": 1, "height": 768, "width": 512}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "a bird in a tree"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "bad hands"}},
    "10": {"class_type": "LoraLoader", "inputs": {"clip": ["4", 1], "lora_name": "ink.safetensors", "model": ["4", 0]}},
}  # fmt: skip

INVOKEAI = {
    "generation_mode": "txt2img", "positive_prompt": "a bird", "negative_prompt": "fog", "width": 512, "height": 640, "seed": 77,
    "cfg_scale": 7.5, "steps": 30, "scheduler": "k_heun", "model": {"key": "1", "hash": "2", "name": "dreamshaper", "base": "sd-1"},
}  # fmt: skip


def test_a1111_pictures_are_read(tmp_path: Path):
    found = read_metadata(png_with(tmp_path / "a.png", parameters=A1111))
    assert found.origin == "a1111"
    assert found.fields == {
        "prompt": "masterpiece, (happy:1.5) bird,\non a branch", "negative": 'lowres, "bad" anatomy', "steps": 20, "sampler": "dpm++2m",
        "guidance": 7.0, "seed": 965400086, "size": (512, 768), "model": "dream_v8",
    }  # fmt: skip
    assert found.more["strength"] == "0.4"  # moves away from an image that is not named
    assert found.more["Lora hashes"] == "birds: 1a2b3c, ink: 4d5e"


def test_a_last_line_with_fewer_than_three_pairs_is_prompt(tmp_path: Path):
    """The rule that keeps "ratio 1:2, note: blue" a prompt."""
    found = read_metadata(png_with(tmp_path / "a.png", parameters="a bird, note: blue, size: small"))
    assert found.fields == {"prompt": "a bird, note: blue, size: small"}


def test_a1111_jpegs_are_read_in_either_byte_order(tmp_path: Path):
    for encoding in ("utf-16-be", "utf-16-le"):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode(encoding)
        Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif.tobytes())
        assert read_metadata(tmp_path / "a.jpg").fields["seed"] == 965400086


@pytest.mark.parametrize("in_jpeg", [False, True])
def test_fooocus_pictures_are_read(tmp_path: Path, in_jpeg: bool):
    path = png_with(tmp_path / "f.png", parameters=json.dumps(FOOOCUS), fooocus_scheme="fooocus")
    if in_jpeg:  # Fooocus writes the comment as plain text into the first directory
        exif = Image.Exif()
        exif[0x9286], exif[0x0131], exif[0x927C] = json.dumps(FOOOCUS), "Fooocus v2.5.5", "fooocus"
        path = tmp_path / "f.jpg"
        Image.new("RGB", (8, 8)).save(path, exif=exif)
    found = read_metadata(path)
    assert found.origin == "fooocus"
    assert found.fields == {
        "prompt": "a bird", "negative": "blurry", "guidance": 4.0, "model": "juggernautXL_v8", "size": (1152, 896), "seed": 3274895683,
        "steps": 30, "styles": ["Fooocus V2", "Fooocus Sharp"],
    }  # fmt: skip
    assert found.more["Sampler"] == "dpmpp_2m_sde_gpu" and "loras" in found.more


def test_comfyui_graphs_are_followed(tmp_path: Path):
    found = read_metadata(png_with(tmp_path / "c.png", prompt=json.dumps(COMFYUI), workflow="{}"))
    assert found.origin == "comfyui"
    assert found.fields == {
        "prompt": "a bird in a tree", "negative": "bad hands", "steps": 25, "sampler": "dpm++2m", "guidance": 8.0, "seed": 8566257,
        "size": (512, 768), "model": "v1-5-pruned-emaonly.safetensors",
    }  # fmt: skip


def test_a_comfyui_graph_with_a_circle_ends(tmp_path: Path):
    graph = {**COMFYUI, "6": {"class_type": "Concat", "inputs": {"a": ["6", 0], "b": ["3", 0]}}}
    found = read_metadata(png_with(tmp_path / "c.png", prompt=json.dumps(graph)))
    assert found.fields["seed"] == 8566257


def test_invokeai_pictures_are_read(tmp_path: Path):
    found = read_metadata(png_with(tmp_path / "i.png", invokeai_metadata=json.dumps(INVOKEAI)))
    assert found.origin == "invokeai"
    assert found.fields == {
        "prompt": "a bird", "negative": "fog", "sampler": "heun", "guidance": 7.5, "size": (512, 640), "model": "dreamshaper", "seed": 77,
        "steps": 30,
    }  # fmt: skip
    old = {"model_weights": "sd-1.4", "image": {"prompt": [{"prompt": "a bird [fog]", "weight": 1}], "steps": 50, "seed": 1,
           "cfg_scale": 7.5, "sampler": "k_euler", "width": 512, "height": 512}}  # fmt: skip
    found = read_metadata(png_with(tmp_path / "old.png", **{"sd-metadata": json.dumps(old)}))
    assert (found.fields["prompt"], found.fields["negative"], found.fields["sampler"]) == ("a bird", "fog", "euler")


def test_a_plain_picture_says_nothing(tmp_path: Path):
    found = read_metadata(png_with(tmp_path / "p.png"))
    assert (found.origin, found.fields, found.more, found.digital_source) == ("unknown", {}, {}, None)


# A stranger's file


def test_no_file_to_open_is_taken_from_a_strangers_metadata(tmp_path: Path):
    """Only our own pictures may name input files; a foreign text could point anywhere."""
    hostile = {**FOOOCUS, "image": "/etc/passwd", "mask": "//evil/share", "loras": [{"file": "/x"}], "then": ["evil/model"], "count": 10000}
    found = read_metadata(png_with(tmp_path / "f.png", parameters=json.dumps(hostile), fooocus_scheme="fooocus"))
    assert not {"image", "mask", "loras", "then", "count"} & found.fields.keys()


@pytest.mark.parametrize("value", ["__import__('os').system('x')", "NaN", "1e999", "-1", "[1", "9" * 5000, '{"a": 1}', "true"])
def test_impossible_values_are_words_not_settings(tmp_path: Path, value: str):
    text = f"a bird\nSteps: {value}, Sampler: {value}, CFG scale: {value}, Seed: {value}, Size: {value}"
    found = read_metadata(png_with(tmp_path / "a.png", parameters=text))
    assert not {"steps", "sampler", "guidance", "seed", "size"} & found.fields.keys()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("bowerbird", "[" * 100_000),
        ("bowerbird", '{"format": 99, "software": "Bowerbird 9"}'),
        ("bowerbird", '{"format": 1, "request": {"model": "x", "surprise": 1}}'),
        ("prompt", json.dumps({str(i): {"inputs": {}} for i in range(6000)})),
        ("prompt", '{"1": 5}'),
        ("invokeai_metadata", "null"),
        ("sd-metadata", "[]"),
        ("parameters", "{not json"),
    ],
)
def test_damaged_text_is_said_and_ignored(tmp_path: Path, key: str, text: str):
    found = read_metadata(png_with(tmp_path / "d.png", **{key: text}))
    assert found.fields == {} and found.note


def test_files_that_are_no_pictures_get_one_sentence(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    (tmp_path / "b.png").write_text("hello")
    for name in ("a.png", "b.png", "missing.png"):
        with pytest.raises(PictureFolderError, match="cannot be read as a PNG, JPEG or WebP"):
            read_metadata(tmp_path / name)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow's remarks on broken EXIF
@pytest.mark.parametrize("file_format", FORMATS)
def test_broken_bytes_never_escape_as_other_errors(tmp_path: Path, file_format: str):
    """600 mutants of our own files: each is read, or refused with our error, and imports nothing."""
    whole = encode_picture(painted(prompt="a bird", format=file_format))
    dice = random.Random(0)
    before = set(sys.modules)
    for _ in range(200):
        mutant = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            mutant[dice.randrange(len(mutant))] = dice.randrange(256)
        path = tmp_path / "mutant"
        path.write_bytes(mutant[: dice.randrange(len(mutant)) if dice.random() < 0.3 else None])
        with contextlib.suppress(PictureFolderError):
            read_metadata(path)
    assert not {name for name in set(sys.modules) - before if not name.startswith(("PIL", "xml", "email"))}


def test_text_that_is_too_long_to_be_read_is_named(tmp_path: Path):
    found = read_metadata(png_with(tmp_path / "long.png", parameters="a" * (2**20 + 1)))
    assert (found.origin, found.fields) == ("unknown", {}) and "'parameters'" in repr(found.note.split()[-1])


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_path_that_is_no_utf8_survives_the_file(tmp_path: Path, file_format: str):
    """Python names such bytes by half letters, which no encoding of a picture's text can hold as they are."""
    work = painted(model=b"runs/b\xffrd".decode("utf-8", "surrogateescape"), format=file_format)
    save_picture(work, tmp_path / "picture")
    assert read_metadata(tmp_path / "picture").fields["model"] == work.settings.model


@pytest.mark.parametrize(("suffix", "file_format"), [(".png", "PNG"), (".jpg", "JPEG"), (".JPEG", "JPEG"), (".webp", "WEBP")])
def test_a_picture_saved_from_python_carries_its_request(tmp_path: Path, suffix: str, file_format: str):
    work = painted(prompt="a bird")
    work.save(tmp_path / f"bird{suffix}")
    found = read_metadata(tmp_path / f"bird{suffix}")
    assert Image.open(tmp_path / f"bird{suffix}").format == file_format
    assert (found.fields["prompt"], found.fields["seed"], found.fields["count"]) == ("a bird", work.seed, 1)
    with pytest.raises(RequestError, match="does not end in a format"):
        work.save(tmp_path / "bird.bmp")
