"""The request around the pipelines: seeds, sizes, masks, borders, LoRA, cancel.  Laws, on tiny random networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from bowerbird.canvas import border_step, extend
from bowerbird.errors import ModelError, PictureFolderError, RequestError, ResourceError
from bowerbird.picture_files import Painted, save_picture
from bowerbird.picture_metadata import read_metadata
from bowerbird.pretrained import PretrainedPainter, memory, open_pretrained, painter
from bowerbird.pretrained.loading import count_weights
from bowerbird.pretrained.plan import plan
from bowerbird.pretrained.samplers import SAMPLERS
from bowerbird.progress import Cancelled, Progress
from bowerbird.request import Lora, PaintRequest
from tests.pretrained import checkpoints

CPU = torch.device("cpu")


@pytest.fixture
def sd15(tiny: Any) -> PretrainedPainter:
    found: PretrainedPainter = tiny("sd15").painter
    return found


def request(**fields: Any) -> PaintRequest:
    return PaintRequest.model_validate({"model": "m", "prompt": "a bird", "seed": 5, "steps": 3, **fields})


def paint(model: PretrainedPainter, on_progress: Any = None, **fields: Any) -> list[Painted]:
    return list(model.paint(request(**fields), on_progress))


def pixels(picture: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(picture, int)


# Seeds and words


def test_a_picture_does_not_depend_on_how_many_are_painted(sd15: PretrainedPainter):
    """Picture i starts from seed + i, alone or among others."""
    three = paint(sd15, count=3)
    assert [one.seed for one in three] == [5, 6, 7]
    alone = paint(sd15, seed=6)[0]
    assert alone.picture.tobytes() == three[1].picture.tobytes() != three[0].picture.tobytes()


def test_painting_the_resolved_request_again_gives_the_same_bytes(sd15: PretrainedPainter, tmp_path: Path):
    """Through the file: what the metadata holds is enough."""
    (first,) = paint(sd15, seed=None, negative="fog", guidance=4.0)
    save_picture(first, tmp_path / "picture.png")
    again = PaintRequest(**read_metadata(tmp_path / "picture.png").fields)
    (second,) = sd15.paint(again)
    assert second.picture.tobytes() == first.picture.tobytes()


def test_prompt_and_negative_prompt_steer(sd15: PretrainedPainter):
    base = paint(sd15)[0].picture.tobytes()
    assert paint(sd15, prompt="a boat")[0].picture.tobytes() != base
    assert paint(sd15, negative="a boat")[0].picture.tobytes() != base


def test_without_guidance_the_network_is_called_once_a_step(sd15: PretrainedPainter):
    sizes = []
    hook = sd15.unet.register_forward_pre_hook(lambda _module, arguments: sizes.append(len(arguments[0])))
    paint(sd15, guidance=1.0)
    paint(sd15, guidance=3.0)
    hook.remove()
    assert sizes == [1, 1, 1, 2, 2, 2]


def test_the_model_is_read_once(tiny: Any, monkeypatch: pytest.MonkeyPatch, pictures: dict[str, Path]):
    """A second picture, or another task, never touches the disk for weights."""
    model = open_pretrained(tiny("sd15").folder, CPU)
    monkeypatch.setattr("bowerbird.weights.load", lambda _path: pytest.fail("the model was read again"))
    paint(model)
    unet = next(model.unet.parameters()).data_ptr()
    paint(model, image=pictures["small"], mask=pictures["small-mask"])
    assert next(model.unet.parameters()).data_ptr() == unet


def test_what_cannot_be_is_refused_with_the_nearest(sd15: PretrainedPainter, tiny: Any):
    refused: list[tuple[dict[str, object], str]] = [
        ({"sampler": "dpm2m"}, r"Did you mean 'dpm\+\+2m'"),
        ({"speed": "fsat"}, "Did you mean 'fast'"),
        ({"label": "bird"}, "'label'"),
        ({"styles": ["inc-wash"]}, "'ink-wash'"),
    ]
    for fields, words in refused:
        with pytest.raises(RequestError, match=words):
            paint(sd15, **fields)
    with pytest.raises(RequestError, match="give it an image"):
        paint(tiny("x4").painter)
    with pytest.raises(PictureFolderError, match="cannot be read"):
        paint(sd15, image="missing.png")


def test_speeds_change_the_number_of_steps(sd15: PretrainedPainter):
    assert [sd15.resolve(request(steps=None, speed=speed)).steps for speed in ("extreme", "speed", "quality")] == [10, 25, 50]


@pytest.mark.parametrize(
    ("sampler", "steps", "words"),
    [*((sampler, 1001, "ask for 1000 or fewer") for sampler in SAMPLERS), ("lcm", 51, "lcm cannot take 51 steps")],
)
def test_more_steps_than_a_schedule_has_are_refused_before_anything_is_painted(
    sd15: PretrainedPainter, sampler: str, steps: int, words: str
):
    with pytest.raises(RequestError, match=words):
        sd15.resolve(request(sampler=sampler, steps=steps))


def test_models_distilled_to_few_steps_keep_their_sampler(tiny: Any, tmp_path: Path):
    for scheduler, sampler in (("LCMScheduler", "lcm"), ("EulerAncestralDiscreteScheduler", "euler-ancestral")):
        folder = checkpoints.write_diffusers_folder(tmp_path / sampler, tiny("sd15").networks, tiny("sd15").configs)
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(path.read_text().replace("PNDMScheduler", scheduler).replace("leading", "trailing"))
        model = open_pretrained(folder, CPU)
        (painted,) = paint(model, steps=None)
        assert (painted.settings.sampler, painted.settings.steps, painted.settings.guidance) == (sampler, 4, 1.0)


# Progress


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_progress_counts_every_step_and_shows_the_picture(sd15: PretrainedPainter, sampler: str):
    events: list[Progress] = []
    previews = []

    def listen(event: Progress) -> None:
        events.append(event)
        assert event.preview is not None
        previews.append(event.preview())

    paint(sd15, listen, count=2, sampler=sampler)
    assert [event.done for event in events] == list(range(1, events[-1].total + 1))
    assert all(preview.size == (64, 64) for preview in previews)


def test_progress_of_image_to_image_counts_the_steps_it_takes(sd15: PretrainedPainter, pictures: dict[str, Path]):
    """Strength 0.5 enters the schedule half way."""
    totals = []
    paint(sd15, lambda event: totals.append((event.done, event.total)), image=pictures["small"], strength=0.5, steps=10)
    assert totals == [(i, 5) for i in range(1, 6)]


def test_a_preview_of_the_last_step_looks_like_the_picture(sd15: PretrainedPainter):
    """The estimate of the clean picture has converged by then; previews are coarse, so only the colours are compared."""
    last: list[Image.Image] = []
    (painted,) = paint(sd15, lambda event: last.append(event.preview()) if event.done == event.total else None, steps=8, sampler="ddim")
    means = [pixels(picture).reshape(8, 8, 8, 8, 3).mean((1, 3)) for picture in (last[0], painted.picture)]
    assert np.abs(means[0] - means[1]).mean() < 0.25 * means[1].std()


def test_cancel_takes_effect_at_the_next_step(sd15: PretrainedPainter):
    seen = []
    with pytest.raises(Cancelled):
        paint(sd15, lambda event: seen.append(event.done) or event.done < 2)  # type: ignore[func-returns-value]
    assert seen == [1, 2]
    assert paint(sd15)[0].picture.tobytes() == paint(sd15)[0].picture.tobytes()  # and leaves the model fit for use


def test_a_prompt_read_in_parts_is_said(sd15: PretrainedPainter):
    notes = []
    paint(sd15, lambda event: notes.append(event.note), prompt="bird " * 100)
    assert "2 parts" in notes[0]


# Sizes


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (71, 53), (400, 100), (16, 16)])
def test_every_size_is_honoured(sd15: PretrainedPainter, size: tuple[int, int]):
    assert paint(sd15, size=size, steps=1)[0].picture.size == size


def test_a_picture_to_vary_gives_its_size(sd15: PretrainedPainter, pictures: dict[str, Path]):
    assert paint(sd15, image=pictures["large"])[0].picture.size == (120, 72)


def test_strength_says_how_far_to_move(sd15: PretrainedPainter, pictures: dict[str, Path]):
    """The autoencoder alone changes a random-weight picture, so distances are from what it makes of the original."""
    near, middle, far = (
        pixels(paint(sd15, image=pictures["small"], strength=strength, steps=20, sampler="ddim")[0].picture) for strength in (0, 0.4, 0.9)
    )
    assert 0 < np.abs(middle - near).mean() < np.abs(far - near).mean()


def test_strength_is_recorded_where_it_means_something(sd15: PretrainedPainter, tiny: Any, pictures: dict[str, Path]):
    """Left open, a picture to vary is moved from by 0.6 and a masked part is painted anew; without a picture it says nothing."""
    photo, mask = {"image": pictures["small"]}, {"mask": pictures["small-mask"]}
    assert sd15.resolve(request()).strength is None
    assert sd15.resolve(request(**photo)).strength == 0.6
    assert sd15.resolve(request(**photo, strength=0.3)).strength == 0.3
    assert sd15.resolve(request(**photo, **mask)).strength == 1.0
    assert tiny("x4").painter.resolve(request(**photo)).strength is None


# Repainting


@pytest.mark.parametrize("name", ["sd15", "sd15-inpaint", "sdxl"])
@pytest.mark.parametrize("which", ["small", "large"])
def test_what_is_not_masked_keeps_its_pixels(tiny: Any, pictures: dict[str, Path], name: str, which: str):
    (painted,) = paint(tiny(name).painter, image=pictures[which], mask=pictures[f"{which}-mask"])
    with Image.open(pictures[which]) as original, Image.open(pictures[f"{which}-mask"]) as mask:
        kept = np.asarray(mask) < 128
        before, after = pixels(original.convert("RGB")), pixels(painted.picture)
    assert (before[kept] == after[kept]).all()
    assert np.abs(before - after)[~kept].mean() > 2
    assert painted.settings.strength == 1.0


def test_a_small_part_of_a_large_picture_is_painted_at_full_size(tiny: Any, tmp_path: Path):
    """The network sees the masked part with its surroundings, not the whole photo scaled down."""
    Image.radial_gradient("L").resize((640, 480)).convert("RGB").save(tmp_path / "photo.png")
    mask = Image.new("L", (640, 480))
    mask.paste(255, (500, 100, 520, 130))
    mask.save(tmp_path / "mask.png")
    work = plan(request(image=tmp_path / "photo.png", mask=tmp_path / "mask.png", size=(640, 480)), "paint", 64)
    assert work.size == (64, 64) and work.repaint is not None
    left, top, right, bottom = work.repaint.box
    assert (right - left, bottom - top) == (64, 64) and left <= 500 and right >= 520 and top <= 100 and bottom >= 130


def test_detail_paints_a_small_part_at_the_networks_own_size(sd15: PretrainedPainter, tmp_path: Path):
    """A face of 12 pixels is painted on 64: only the masked pixels change, and no step shows at their border."""
    picture, mask = Image.linear_gradient("L").resize((64, 64)).convert("RGB"), Image.new("L", (64, 64))
    ImageDraw.Draw(mask).ellipse((20, 30, 32, 42), fill=255)
    picture.save(tmp_path / "face.png")
    mask.save(tmp_path / "mask.png")
    fields = {"image": tmp_path / "face.png", "mask": tmp_path / "mask.png", "detail": True}
    resolved = sd15.resolve(request(**fields))
    work = plan(resolved, "paint", sd15.native)
    assert resolved.strength == 0.5 and work.repaint is not None
    assert work.repaint.box[2] - work.repaint.box[0] == 26 and work.size == (64, 64)
    painted = paint(sd15, **fields)[0].picture
    kept = np.asarray(mask) < 128
    assert (pixels(painted)[kept] == pixels(picture)[kept]).all()
    inside = np.abs(np.diff(pixels(painted), axis=1))[~kept[:, 1:] & ~kept[:, :-1]].mean()
    assert border_step(painted, mask) < 1.5 * inside
    assert (pixels(painted)[~kept] != pixels(picture)[~kept]).any()


def test_a_point_stands_for_the_region_it_lies_in(sd15: PretrainedPainter, tmp_path: Path):
    picture = Image.new("RGB", (64, 64), "navy")
    ImageDraw.Draw(picture).rectangle((8, 8, 23, 39), fill="orange")
    picture.save(tmp_path / "picture.png")
    painted = pixels(paint(sd15, image=tmp_path / "picture.png", mask_at=(10, 10))[0].picture)
    changed = (painted != pixels(picture)).any(-1)
    assert changed[10:38, 10:22].mean() > 0.9
    changed[7:41, 7:25] = False  # the rectangle and a pixel around it
    assert not changed.any()
    with pytest.raises(RequestError, match="64 x 64"):
        paint(sd15, image=tmp_path / "picture.png", mask_at=(64, 0))


@pytest.mark.parametrize("sides", [{"left": 24}, {"right": 16, "bottom": 32}, {"left": 16, "top": 16, "right": 16, "bottom": 16}])
def test_outpainting_has_no_seam(tiny: Any, pictures: dict[str, Path], sides: dict[str, int]):
    """The step across the border is no larger than between neighbours inside the painted part; the old pixels stay."""
    (painted,) = paint(tiny("sd15").painter, image=pictures["small"], outpaint=sides)
    with Image.open(pictures["small"]) as file:
        picture = file.convert("RGB")
    _, mask = extend(picture, **sides)
    assert painted.picture.size == mask.size
    new = np.asarray(mask) >= 128
    assert (pixels(painted.picture)[~new].reshape(-1) == pixels(picture).reshape(-1)).all()
    inside = np.abs(np.diff(pixels(painted.picture), axis=1))[new[:, 1:] & new[:, :-1]].mean()
    assert border_step(painted.picture, mask) < 1.5 * inside


# The upscaler


def test_upscaling_is_four_times_the_size(tiny: Any, pictures: dict[str, Path]):
    (painted,) = paint(tiny("x4").painter, image=pictures["large"])
    assert painted.picture.size == (480, 288)


@pytest.mark.parametrize("size", [(1, 1), (61, 37), (70, 90)])
def test_every_picture_is_upscaled_without_stretching(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]):
    """Sides that are no multiple of 8 are continued, and what came of that is cut off again; in parts as well."""
    monkeypatch.setattr(painter, "TILE", 64)
    Image.new("RGB", size, "teal").save(tmp_path / "photo.png")
    asked = []
    x4 = tiny("x4").painter
    hook = x4.unet.register_forward_pre_hook(lambda _module, arguments: asked.append(arguments[0].shape[-2:]))
    (painted,) = paint(x4, image=tmp_path / "photo.png", steps=1)
    hook.remove()
    assert painted.picture.size == (4 * size[0], 4 * size[1])
    assert all(side % 8 == 0 for shape in asked for side in shape)


def test_a_large_picture_is_upscaled_in_parts(tiny: Any, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    """Every step of every part is counted, and no part's border shows."""
    monkeypatch.setattr(painter, "TILE", 64)
    monkeypatch.setattr(painter, "OVERLAP", 16)
    seen = []
    (painted,) = paint(tiny("x4").painter, lambda event: seen.append((event.done, event.total)), image=pictures["large"])
    assert painted.picture.size == (480, 288)
    assert [done for done, _ in seen] == list(range(1, 19)) and {total for _, total in seen} == {18}  # 3 x 2 parts of 3 steps
    values = pixels(painted.picture)
    steps = np.abs(np.diff(values, axis=1)).mean((0, 2))
    edges = [4 * 28, 4 * 56, 4 * 64, 4 * 92]
    assert steps[[edge - 1 for edge in edges]].mean() < 1.3 * np.median(steps)


# LoRA


def test_a_lora_adds_its_product_to_the_weights(tiny: Any, tmp_path: Path):
    """W + weight * alpha / rank * up @ down (Hu et al. 2021, "LoRA"), in each of the three namings."""
    model = tiny("sd15")
    files, added = checkpoints.lora_files(tmp_path, model.networks["unet"])
    merged = open_pretrained(model.file, CPU)
    with torch.no_grad():
        for name, delta in added.items():
            merged.unet.get_parameter(name).add_(0.5 * delta)
    expected = pixels(paint(merged)[0].picture)
    for file in files.values():
        (painted,) = paint(model.painter, loras=[Lora(file=file, weight=0.5)])
        assert np.abs(pixels(painted.picture) - expected).max() <= 1
        assert np.abs(expected - pixels(paint(model.painter)[0].picture)).mean() > 1  # it acts, and it goes again


def test_a_lora_leaves_no_trace(sd15: PretrainedPainter, tiny: Any, tmp_path: Path):
    files, _ = checkpoints.lora_files(tmp_path, tiny("sd15").networks["unet"])
    before = paint(sd15)[0].picture.tobytes()
    changed = paint(sd15, loras=[Lora(file=files["kohya"])])[0].picture.tobytes()
    assert changed != before
    assert paint(sd15, loras=[Lora(file=files["kohya"], weight=0)])[0].picture.tobytes() == before
    assert paint(sd15)[0].picture.tobytes() == before


def test_two_loras_act_together(sd15: PretrainedPainter, tiny: Any, tmp_path: Path):
    """Twice the same LoRA at half weight is once at full weight."""
    files, _ = checkpoints.lora_files(tmp_path, tiny("sd15").networks["unet"])
    once = paint(sd15, loras=[Lora(file=files["peft"])])[0].picture
    twice = paint(sd15, loras=[Lora(file=files["peft"], weight=0.5), Lora(file=files["kohya"], weight=0.5)])[0].picture
    assert np.abs(pixels(once) - pixels(twice)).max() <= 1


def test_files_that_are_no_lora_are_refused_and_change_nothing(sd15: PretrainedPainter, tiny: Any, tmp_path: Path):
    before = paint(sd15)[0].picture.tobytes()
    wide = {"unet.x.lora_A.weight": torch.zeros(2000, 3000), "unet.x.lora_B.weight": torch.zeros(3000, 2000)}
    save_file(wide, tmp_path / "wide.safetensors")
    foreign, _ = checkpoints.lora_files(tmp_path, tiny("sdxl").networks["unet"])
    stray = {"text_encoder.x.lora_A.weight": torch.zeros(2, 3), "text_encoder.x.lora_B.weight": torch.zeros(3, 2)}
    save_file(stray, tmp_path / "text_encoder.safetensors")
    (tmp_path / "old.pt").write_bytes(b"\x80\x02.")
    for file, words in [
        (tiny("sd15").file, "no LoRA weights"),
        (tmp_path / "text_encoder.safetensors", "no part for 'text_encoder.x.lora_A.weight'"),
        (tmp_path / "wide.safetensors", "rank 2000"),
        (tmp_path / "old.pt", "pickle"),
        (tmp_path / "missing.safetensors", "cannot read"),
        (foreign["peft"], "does not fit this model.*shape.*made for another"),
        (foreign["kohya"], "does not fit this model.*made for another"),
    ]:
        with pytest.raises(RequestError, match=words):
            paint(sd15, loras=[Lora(file=file)])
    assert paint(sd15)[0].picture.tobytes() == before


def test_a_lora_in_pefts_own_naming(sd15: PretrainedPainter, tiny: Any, tmp_path: Path):
    """PEFT saves a network alone: `base_model.model.` before the names, or nothing, and alpha in a config beside them."""
    files, _ = checkpoints.lora_files(tmp_path, tiny("sd15").networks["unet"], rank=4, alpha=2.0)
    plain = {name.removeprefix("unet."): tensor for name, tensor in load_file(files["peft"]).items()}
    expected = paint(sd15, loras=[Lora(file=files["peft"])])[0].picture.tobytes()
    for prefix in ("base_model.model.", ""):
        path = tmp_path / "adapter_model.safetensors"
        save_file({prefix + name: tensor for name, tensor in plain.items()}, path)
        assert paint(sd15, loras=[Lora(file=path)])[0].picture.tobytes() == expected
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2.0}))
    sd15._use_loras([])
    halved = paint(sd15, loras=[Lora(file=path)])[0].picture.tobytes()
    assert halved == paint(sd15, loras=[Lora(file=files["peft"], weight=0.5)])[0].picture.tobytes() != expected


def test_a_lora_of_the_text_encoder_alone(sd15: PretrainedPainter, tiny: Any, tmp_path: Path):
    """As diffusers saves one: it acts through the words, and adds its product to the text encoder's weights."""
    generator = torch.Generator().manual_seed(0)
    stem = "text_model.encoder.layers.1.self_attn.q_proj"
    down, up = torch.randn(2, 32, generator=generator), torch.randn(32, 2, generator=generator)
    for number, (a, b) in enumerate((("lora_linear_layer.down", "lora_linear_layer.up"), ("lora_A", "lora_B"))):
        names = {f"text_encoder.{stem}.{a}.weight": down, f"text_encoder.{stem}.{b}.weight": up}
        save_file(names, tmp_path / f"{number}.safetensors")
    kohya = f"lora_te_{stem.replace('.', '_')}"
    save_file(
        {f"{kohya}.lora_down.weight": down, f"{kohya}.lora_up.weight": up, f"{kohya}.alpha": torch.tensor(2.0)}, tmp_path / "2.safetensors"
    )
    before = paint(sd15)[0].picture.tobytes()
    merged = open_pretrained(tiny("sd15").file, CPU)
    with torch.no_grad():
        own = merged.parts.networks["text_encoder"]
        own.get_parameter(f"{stem.removeprefix('' if hasattr(own, 'text_model') else 'text_model.')}.weight").add_(up @ down)
    expected = pixels(paint(merged)[0].picture)
    for number in range(3):
        picture = paint(sd15, loras=[Lora(file=tmp_path / f"{number}.safetensors")])[0].picture
        assert np.abs(pixels(picture) - expected).max() <= 1 and picture.tobytes() != before


def test_a_lora_scaled_in_its_metadata(sd15: PretrainedPainter, tiny: Any, tmp_path: Path):
    """diffusers' newer files say alpha there, in PEFT's words."""
    files, _ = checkpoints.lora_files(tmp_path, tiny("sd15").networks["unet"], rank=4)
    told = {"unet.r": 4, "unet.lora_alpha": 2}
    save_file(load_file(files["peft"]), tmp_path / "told.safetensors", {"lora_adapter_metadata": json.dumps(told)})
    picture = paint(sd15, loras=[Lora(file=tmp_path / "told.safetensors")])[0].picture
    assert picture.tobytes() == paint(sd15, loras=[Lora(file=files["peft"], weight=0.5)])[0].picture.tobytes()


def test_what_is_wrong_with_a_lora_is_said_of_the_lora(sd15: PretrainedPainter, tiny: Any, tmp_path: Path):
    """One sentence naming the file and the tensor; and the model paints on as if nothing had been."""
    files, _ = checkpoints.lora_files(tmp_path, tiny("sd15").networks["unet"])
    good, kohya = load_file(files["peft"]), load_file(files["kohya"])
    name = next(iter(good))
    wrong: list[tuple[dict[str, torch.Tensor], str]] = [
        ({**good, name: good[name] * float("nan")}, f"tensor '{name}' of the LoRA .* holds NaN"),
        ({**good, name: torch.zeros(4, 99)}, f"'{name}' has the shape \\[4, 99\\]"),
        ({**good, name: torch.zeros(5, good[name].shape[1])}, "'.*' has no partner of its rank"),
        ({**good, name: torch.tensor(1.0)}, f"'{name}' .*shape \\[\\], which is no matrix"),
        ({key: tensor for key, tensor in good.items() if key != name}, "has no partner"),
        ({**good, "unet.nothing.lora_A.weight": torch.zeros(4, 4)}, "no part for 'unet.nothing"),
        ({**good, "text_encoder.x.dora_scale": torch.zeros(4)}, "of another kind, DoRA"),
        ({"a.lokr_w1": torch.zeros(2, 2)}, "of another kind, LoKr"),
        ({**kohya, next(key for key in kohya if key.endswith(".alpha")): torch.zeros(3)}, "alpha that is not one number"),
        ({**kohya, "lora_unet_x.lora_A.weight": torch.zeros(2, 2)}, "fit no Stable Diffusion|no part for"),
    ]
    before = paint(sd15)[0].picture.tobytes()
    for number, (tensors, words) in enumerate(wrong):
        path = tmp_path / f"bad{number}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        for loras in ([Lora(file=path)], [Lora(file=files["kohya"]), Lora(file=path)]):
            paint(sd15, loras=[Lora(file=files["peft"])])
            with pytest.raises(RequestError, match=words) as refusal:
                paint(sd15, loras=loras)
            assert str(path) in str(refusal.value)
            assert paint(sd15)[0].picture.tobytes() == before


def test_a_failure_half_way_leaves_nothing_behind(sd15: PretrainedPainter, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first of two LoRA is in the networks when the second fails inside the library."""
    files, _ = checkpoints.lora_files(tmp_path, tiny("sd15").networks["unet"])
    before = paint(sd15)[0].picture.tobytes()
    pipeline = sd15._pipeline("text")
    load = pipeline.load_lora_weights

    def fail(tensors: Any, adapter_name: str) -> None:
        load(tensors, adapter_name=adapter_name)
        if adapter_name == "lora1":
            raise AssertionError

    monkeypatch.setattr(pipeline, "load_lora_weights", fail)
    with pytest.raises(RequestError, match="AssertionError"):
        paint(sd15, loras=[Lora(file=files["peft"]), Lora(file=files["kohya"])])
    assert paint(sd15)[0].picture.tobytes() == before


# What is said of the model


def test_describe_says_what_it_is_and_why(tiny: Any):
    told = tiny("sdxl").painter.describe()
    assert told["family"] == "sdxl" and "two text encoders" in told["ground"]
    assert told["parameters"].keys() == {"unet", "vae", "text_encoder", "text_encoder_2"}
    assert told["conditions"].keys() == {"text"}  # so `evaluate` paints by captions
    assert told["size"] == [64, 64] and told["precision"] == "float32" and "GiB" in told["needs"]


def test_values_that_are_no_numbers_are_said(tiny: Any):
    model = open_pretrained(tiny("sd15").file, CPU)
    with torch.no_grad():
        model.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="not numbers"):
        paint(model)


# Memory


def test_precision_follows_the_memory_there_is(tiny: Any, monkeypatch: pytest.MonkeyPatch):
    """Whole precision if it fits, half if only that does, and a forecast in words if nothing does."""
    numbers = count_weights(tiny("sdxl").folder)
    assert numbers == sum(p.numel() for network in tiny("sdxl").networks.values() for p in network.parameters()) + 2 * 77  # position ids
    for room, dtype in ((4 * numbers + 1, torch.float32), (4 * numbers, torch.bfloat16)):
        monkeypatch.setattr(memory, "available_memory_bytes", lambda _device, room=room: room)
        assert open_pretrained(tiny("sdxl").folder, CPU).unet.dtype == dtype
    monkeypatch.setattr(memory, "available_memory_bytes", lambda _device: 2 * numbers)
    with pytest.raises(ResourceError, match="even in half precision"):
        open_pretrained(tiny("sdxl").folder, CPU)


def test_pictures_are_decoded_in_tiles_that_fit_when_memory_is_short(sd15: PretrainedPainter, monkeypatch: pytest.MonkeyPatch):
    """A tile of n times the side takes n squared times the memory."""
    for room, side in ((1, 128), (199 * 199 * 5600, 192), (256 * 256 * 5600, 256)):
        monkeypatch.setattr(memory, "available_memory_bytes", lambda _device, room=room: room)
        memory.fit_decoder(sd15.vae, (512, 512), CPU)
        assert sd15.vae.use_tiling and (sd15.vae.tile_sample_min_size, sd15.vae.tile_latent_min_size) == (side, side // 8)
    monkeypatch.undo()
    memory.fit_decoder(sd15.vae, (512, 512), CPU)
    assert not sd15.vae.use_tiling


def test_a_picture_that_will_not_fit_is_forecast(sd15: PretrainedPainter, monkeypatch: pytest.MonkeyPatch):
    notes: list[str] = []
    paint(sd15, lambda event: notes.append(event.note))
    assert not any(notes)
    monkeypatch.setattr(memory, "available_memory_bytes", lambda _device: 1_000_000)
    paint(sd15, lambda event: notes.append(event.note))
    assert "painting 64x64 takes about" in " ".join(notes)


class Gpu(PretrainedPainter):
    """A painter that believes its networks do not fit on the GPU together."""

    def __init__(self, painter: PretrainedPainter) -> None:
        self.__dict__ = {**painter.__dict__, "placement": "offload"}


def test_networks_that_do_not_fit_travel_for_the_pipeline_in_use(sd15: PretrainedPainter, pictures: dict[str, Path]):
    """Hooks belong to one pipeline; the next task's pipeline asks for its own, and only then."""
    calls = []

    class Pipeline:
        def enable_model_cpu_offload(self, device: torch.device) -> None:
            calls.append(self)

    model, one, other = Gpu(sd15), Pipeline(), Pipeline()
    for pipeline in (one, one, other, other, one):
        model._make_ready(pipeline)
    assert calls == [one, other, one]
