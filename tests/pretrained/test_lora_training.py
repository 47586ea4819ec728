"""A LoRA for a Stable Diffusion model, from pictures to the file that other tools read."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from bowerbird.cli.paint import _read_lora
from bowerbird.data.pictures import open_pictures
from bowerbird.errors import BowerbirdError, ModelError, PictureFolderError, RecipeError, RequestError, RunError, Stopped
from bowerbird.generate import open_model
from bowerbird.locate import locate
from bowerbird.model_folder import LORA, About, Model, save_model
from bowerbird.pretrained import open_pretrained, recognise
from bowerbird.pretrained.adapters import AdaptedUNet, adapted
from bowerbird.pretrained.loading import load_parts
from bowerbird.recipe import Recipe
from bowerbird.request import Lora, PaintRequest
from bowerbird.run_folder import model_of_run
from bowerbird.storage import Disk
from bowerbird.training import train
from bowerbird.training.base import tuning_recipe
from bowerbird.training.objectives import choose_objective
from bowerbird.training.objectives.adapting import Adapting, PairedBatch
from bowerbird.training.objectives.denoising import Denoising
from bowerbird.weights import load, read_header
from tests.training.runs import CPU, Notes, assert_same_run, run_here

FEW = ("data.size=64", "lora.rank=4", "train.pictures=32", "train.batch=4", "train.save_every=8", "train.lr=0.01", "train.warmup=0",
       "sample.count=1", "sample.steps=2", "sample.every_epochs=99")  # fmt: skip
FAMILIES = ("sd15", "sd21", "sdxl")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def plan(base: Path, *settings: str) -> Recipe:
    return tuning_recipe(locate(base), [*FEW, *settings])


@pytest.fixture(scope="module")
def run(tiny: Any, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(picture_folder, tmp_path_factory.mktemp("lora") / "run", plan(tiny("sd15").folder, "lora.trigger=sks"))


def objective_of(base: Path, pictures: Path, *settings: str, **options: Any) -> Adapting:
    objective = choose_objective(plan(base, *settings), open_pictures(pictures, 64), CPU, "fp32", **options)
    assert isinstance(objective, Adapting)
    return objective


@pytest.mark.parametrize("family", FAMILIES)
def test_it_begins_as_the_base_and_the_base_never_moves(tiny: Any, picture_folder: Path, family: str) -> None:
    """One of each pair of matrices is 0, so nothing is added; and what learns is the matrices alone."""
    objective = objective_of(tiny(family).folder, picture_folder)
    before = {name: tensor.clone() for name, tensor in objective.unet.state_dict().items()}
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    cond = objective._cond(objective.pictures.train[:2], objective.pictures.train[:2], drop=False)
    time = torch.tensor([500.0, 20.0])
    bare = unadapted(objective.unet, x, time, cond)
    model = objective.new_model()
    with torch.no_grad():
        assert torch.allclose(model.network(x, time, cond), bare, atol=1e-5)  # sums in another order
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):  # at the first step only the zeros have a gradient
        objective.losses(model, objective.draw(0, 4), slice(None)).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    assert not torch.allclose(model.network(x, time, cond), bare, atol=1e-3)
    after = {name.replace(".base_layer", ""): tensor for name, tensor in objective.unet.state_dict().items()}
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def unadapted(unet: Any, x: Tensor, time: Tensor, cond: Any) -> Tensor:
    """A U-Net as it is, called as AdaptedUNet calls it."""
    with torch.no_grad():
        answer: Tensor = AdaptedUNet(unet, {}, 1.0, {})(x, time, cond)
        return answer


def test_min_snr_in_our_words_is_that_of_the_paper(tiny: Any, picture_folder: Path) -> None:
    """min(snr, 5)/snr |eps_hat - eps|^2, arXiv:2303.09556, as diffusers' scripts compute it, but for one factor for all."""
    objective = objective_of(tiny("sd15").folder, picture_folder)
    model, batch = objective.new_model(), objective.draw(0, 8)
    ours = objective.losses(model, batch, slice(None)).detach()
    time, alpha_bar = model.time(batch.sigma), 1 / (1 + batch.sigma**2)
    scaled = (1 / (1 + batch.sigma**2).sqrt()).view(-1, 1, 1, 1)
    eps_hat = model.network((batch.x0 + batch.sigma.view(-1, 1, 1, 1) * batch.eps) * scaled, time, batch.cond).detach()
    snr = alpha_bar / (1 - alpha_bar)
    theirs = snr.clamp(max=5) / snr * (eps_hat - batch.eps).square().flatten(1).mean(1)
    ratio = ours / theirs
    assert torch.allclose(ratio, ratio.mean().expand(8), rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_diffusers_paints_the_same_with_it(tiny: Any, picture_folder: Path, tmp_path: Path, family: str) -> None:
    """The file through `load_lora_weights`, and the matrices as they were learnt: one prediction."""
    import diffusers

    objective = objective_of(tiny(family).folder, picture_folder, "lora.targets=transformer", "lora.alpha=2")
    model = objective.new_model()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    (tmp_path / "mine.safetensors").write_bytes(objective.model(model, About()).lora or b"")
    cls = diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline
    less = {} if family == "sdxl" else {"safety_checker": None, "feature_extractor": None}
    pipeline = cls.from_pretrained(tiny(family).folder, local_files_only=True, **less)
    x, time = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([300.0])
    cond = objective._cond(objective.pictures.train[:1], objective.pictures.train[:1], drop=False)
    before = unadapted(pipeline.unet, x, time, cond)
    pipeline.load_lora_weights(tmp_path, weight_name="mine.safetensors")
    theirs = unadapted(pipeline.unet, x, time, cond)
    ours = model.network(x, time, cond).detach()
    assert (theirs - before).abs().max() > 1e-2
    assert torch.allclose(theirs, ours, atol=1e-4)


def test_what_other_tools_read_of_the_file(run: Path, tiny: Any) -> None:
    folder, _ = model_of_run(run)
    told, data = read_header(folder / LORA).metadata, (folder / LORA).read_bytes()
    assert told["ss_base_model_version"] == "sd_v1" and told["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert told["ss_network_dim"] == "4" and told["ss_network_alpha"] == "4" and told["modelspec.trigger_phrase"] == "sks"
    assert json.loads(told["ss_tag_frequency"])["pictures"]["sks"] > 8
    body = data[8 + int.from_bytes(data[:8], "little") :]
    assert told["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    names = load(folder / LORA)
    assert all(name.startswith("lora_unet_") and name.endswith((".lora_down.weight", ".lora_up.weight", ".alpha")) for name in names)
    assert any(float(tensor.abs().max()) > 0 for name, tensor in names.items() if "lora_up" in name)


def test_the_run_paints_as_its_base_with_the_file(run: Path, tiny: Any) -> None:
    """`generate RUN` is `generate BASE --lora FILE`; without the file the base paints as ever."""
    request = PaintRequest(model="x", prompt="sks", seed=4, steps=2, size=(64, 64))
    folder, _ = model_of_run(run)
    (own,) = open_model(run, CPU).paint(request)
    base = open_pretrained(tiny("sd15").folder, CPU)
    (without,) = base.paint(request)
    (with_file,) = base.paint(request.model_copy(update={"loras": [Lora(file=folder / LORA)]}))
    assert own.picture.tobytes() == with_file.picture.tobytes() != without.picture.tobytes()
    assert own.settings.loras == []


def test_stopped_and_resumed_equals_unbroken(tiny: Any, picture_folder: Path, tmp_path: Path) -> None:
    recipe = plan(tiny("sd15").folder)
    whole = run_here(picture_folder, tmp_path / "whole", recipe)
    with pytest.raises(Stopped):
        run_here(picture_folder, tmp_path / "run", recipe, on_progress=lambda event: not (event.stage == "train" and event.done >= 16))
    assert_same_run(whole, run_here(picture_folder, tmp_path / "run", recipe))
    files = [(model_of_run(each, "latest")[0] / LORA).read_bytes() for each in (whole, tmp_path / "run")]
    assert files[0] == files[1]


def test_the_average_and_the_learner_share_a_unet_and_nothing_else(tiny: Any, picture_folder: Path) -> None:
    """Copies take turns in one U-Net; neither sees the other's matrices, in a forward or in a recomputed pass."""
    import copy

    parts = load_parts(tiny("sd15").folder, recognise(tiny("sd15").folder), torch.float32)  # type: ignore[arg-type]
    torch.manual_seed(0)
    one = adapted(parts.networks["unet"], 4, 4.0, "attention", recompute=True)
    other = copy.deepcopy(one)
    assert other.unet is one.unet
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.3)
    x, time = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([300.0])
    cond = {"text": torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(2))}
    bare = other(x, time, cond).detach()
    first = one(x, time, cond)
    assert not torch.equal(first, bare) and torch.equal(other(x, time, cond), bare) and torch.equal(one(x, time, cond), first)


def test_words_before_pictures(tiny: Any, picture_folder: Path, tmp_path: Path) -> None:
    """A trigger stands before each caption, or alone; a word that means something already is said to."""
    shutil.copytree(picture_folder / "warm", tmp_path / "mine")
    notes = Notes()
    alone = objective_of(tiny("sd15").folder, tmp_path / "mine", "lora.trigger=bird", on_progress=notes)
    assert set(alone.captions.texts) == {("bird",)} and any("'bird' is a word the model knows" in each for each in notes)
    (tmp_path / "mine" / "metadata.csv").write_text(
        "file_name,text\n" + "".join(f"{path.name},a warm thing\n" for path in sorted((tmp_path / "mine").glob("*.*")))
    )
    silent = Notes()
    both = objective_of(tiny("sd15").folder, tmp_path / "mine", "lora.trigger=sks", on_progress=silent)
    assert set(both.captions.texts) == {("sks, a warm thing",)} and not any("knows" in each for each in silent)


@pytest.fixture
def warm(picture_folder: Path, tmp_path: Path) -> Path:
    """Pictures without their class; those of the other, in `picture_folder / "cold"`, are what is to stay."""
    return Path(shutil.copytree(picture_folder / "warm", tmp_path / "mine"))


def kept(picture_folder: Path, *more: str) -> tuple[str, ...]:
    return ("lora.trigger=sks", f"lora.prior={picture_folder / 'cold'}", "lora.prior_caption=a cold disc", "condition.text_drop=0", *more)


def test_the_loss_with_a_prior_is_the_sum_of_both(tiny: Any, picture_folder: Path, warm: Path) -> None:
    """DreamBooth, arXiv:2208.12242: one's own loss and, weighted, that of pictures of the class under its own words.

    One's own part is drawn as without; a sample is the same whatever the batch it comes in.
    """
    base = tiny("sd15").folder
    objective = objective_of(base, warm, *kept(picture_folder, "lora.prior_weight=0.5"))
    model, batch = objective.new_model(), objective.draw(0, 8)
    assert isinstance(batch, PairedBatch) and len(batch) == 8
    both = objective.losses(model, batch, slice(2, 6))
    own, prior = (Denoising.losses(objective, model, part, slice(2, 6)) for part in (batch, batch.prior))
    assert torch.allclose(both, own + 0.5 * prior, rtol=1e-4) and bool((prior > 0).all())

    assert torch.equal(batch.prior.cond["text"], objective.words(["a cold disc"] * 8)["text"])
    later = objective.draw(3, 5)
    assert isinstance(later, PairedBatch)
    for name in ("x0", "eps", "sigma"):
        assert torch.equal(getattr(later.prior, name), getattr(batch.prior, name)[3:5])
        assert not torch.equal(getattr(batch.prior, name), getattr(batch, name))

    without = objective_of(base, warm, "lora.trigger=sks", "condition.text_drop=0")
    plain = without.draw(0, 8)
    assert not isinstance(plain, PairedBatch) and objective.fingerprint.startswith(without.fingerprint)
    assert all(torch.equal(getattr(plain, name), getattr(batch, name)) for name in ("x0", "eps", "sigma"))
    assert torch.equal(plain.cond["text"], batch.cond["text"])
    torch.testing.assert_close(without.losses(without.new_model(), plain, slice(2, 6)), own)


def test_with_a_prior_stopped_and_resumed_equals_unbroken(tiny: Any, picture_folder: Path, warm: Path, tmp_path: Path) -> None:
    discs = Path(shutil.copytree(picture_folder, tmp_path / "discs"))  # their words come from its two class folders
    recipe = plan(tiny("sd15").folder, "lora.trigger=sks", f"lora.prior={discs}", "train.micro_batch=2")
    whole = run_here(warm, tmp_path / "whole", recipe)
    with pytest.raises(Stopped):
        run_here(warm, tmp_path / "run", recipe, on_progress=lambda event: not (event.stage == "train" and event.done >= 16))
    assert_same_run(whole, run_here(warm, tmp_path / "run", recipe))
    next(discs.glob("cold/*.png")).unlink()
    with pytest.raises(RunError, match="have changed since it was started"):
        train(warm, tmp_path / "run", recipe, device=CPU)


def test_what_no_prior_can_be_is_one_sentence(tiny: Any, picture_folder: Path, warm: Path, tmp_path: Path) -> None:
    base = tiny("sd15").folder
    (tmp_path / "empty").mkdir()
    shutil.copytree(picture_folder / "cold", warm / "class")
    for prior, words in (
        (tmp_path / "none", "there is no folder .*none"),
        (tmp_path / "empty", "no picture in .*empty"),
        (picture_folder / "cold", "neither captions nor class folders. Say what they are: --set lora.prior_caption="),
        (warm / "class", "lies among the pictures to learn"),
    ):
        with pytest.raises(PictureFolderError, match=words):
            objective_of(base, warm, "lora.trigger=sks", f"lora.prior={prior}")
    with pytest.raises(RecipeError, match="no such folder is named"):
        plan(base, "lora.prior_caption=a disc")


def test_what_cannot_be_is_one_sentence(tiny: Any, run: Path, picture_folder: Path, tmp_path: Path) -> None:
    def refused(kind: type[BowerbirdError], words: str, source: Path, out: Path, recipe: Recipe) -> None:
        with pytest.raises(kind, match=words):
            train(source, out, recipe, device=CPU)

    base = tiny("sd15").folder
    shutil.copytree(picture_folder / "warm", tmp_path / "mine")
    refused(PictureFolderError, "neither captions nor class folders.*--trigger sks", tmp_path / "mine", tmp_path / "a", plan(base))
    refused(RecipeError, "no multiple of 64.*nearest is 64", picture_folder, tmp_path / "a", plan(base, "data.size=72"))
    refused(RunError, "another recipe: tune.model differ", picture_folder, run, plan(tiny("sd21").folder, "lora.trigger=sks"))
    for name in ("sdxl-inpaint", "sd15-inpaint"):
        with pytest.raises(ModelError, match="paint from words alone"):
            tuning_recipe(locate(tiny(name).folder), [])
    with pytest.raises(ModelError, match=r"is a LoRA. Tune the model it is for"):
        tuning_recipe(locate(run), [])


def test_the_same_name_with_other_weights_is_another_base(tiny: Any, warm: Path, tmp_path: Path) -> None:
    """The U-Net's bytes are part of what a run is made from; the matrices that one learnt beside mean nothing beside another."""
    base = Path(shutil.copytree(tiny("sd15").folder, tmp_path / "base"))
    recipe = plan(base, "lora.trigger=sks", "train.pictures=8")
    out = run_here(warm, tmp_path / "run", recipe)
    (file,) = (base / "unet").glob("*.safetensors")
    tensors = safetensors.torch.load_file(file)
    tensors["conv_in.bias"] += 1
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(RunError, match="the model it tunes, have changed since it was started"):
        train(warm, out, recipe, device=CPU)


def test_the_command_line_takes_a_run_for_its_lora(run: Path, tiny: Any) -> None:
    assert _read_lora(f"{run}:0.5") == {"file": model_of_run(run)[0] / LORA, "weight": 0.5}
    with pytest.raises(RequestError, match="is a model, no LoRA"):
        _read_lora(str(tiny("sd15").folder))


@pytest.mark.parametrize("base", ["starter", "itself"])
def test_a_lora_folder_that_names_no_stable_diffusion(run: Path, tmp_path: Path, base: str) -> None:
    """A folder from somebody else may name anything as its base."""
    folder, manifest = model_of_run(run)
    out = tmp_path / "theirs"
    recipe = {**manifest.training["recipe"], "tune": {"model": str(out) if base == "itself" else base}}
    about = About(training={**manifest.training, "recipe": recipe})
    save_model(Disk(), out, Model(None, about=about, lora=(folder / LORA).read_bytes()), (folder / "samples.png").read_bytes())
    with pytest.raises(ModelError, match="is no Stable Diffusion"):
        open_model(out, CPU)


def test_three_pictures_are_enough_to_begin(tiny: Any, picture_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for path in sorted((picture_folder / "warm").glob("*.*"))[:3]:
        shutil.copy(path, tmp_path / "mine")
    notes = Notes()
    out = run_here(tmp_path / "mine", tmp_path / "run", plan(tiny("sd15").folder, "lora.trigger=sks"), on_progress=notes)
    assert any("3 pictures are few" in each for each in notes)
    assert (model_of_run(out)[0] / LORA).is_file()
