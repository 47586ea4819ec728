"""The bundled starter, on a GPU: recipe `starter` with everything it learns from kept in the GPU's memory.

    python scripts/starter_pictures.py PICTURES FOLDER            # which pictures
    python scripts/train_starter.py pack FOLDER PACK.npz          # on any machine: what the GPU needs, in one file
    python scripts/train_starter.py train PACK.npz OUT SECONDS    # on the GPU: OUT/*.safetensors in half precision, OUT/log.jsonl
    python scripts/train_starter.py model FOLDER MODEL OUT/narrow=0.75 OUT/best=0.25    # a model folder of these shares of the weights

`bowerbird train FOLDER/train --recipe starter` learns the same and adds what users need (kill and resume, reports); it draws every
sample by key on the CPU, which fed the same GPU a fifth as fast.  Here samples come from a generator of the GPU, and pictures are also
turned, scaled and moved; the network is told how, so that it paints none of it (non-leaking augmentation; Karras et al. 2022,
arXiv:2206.00364, appendix F.2).
"""

from __future__ import annotations

import io
import json
import math
import sys
import time
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bowerbird import draws, weights
from bowerbird.conditions import network_parts
from bowerbird.conditions.image_embedding import BANDWIDTH, COMPONENTS, ImageEmbedding
from bowerbird.conditions.text import Text, varied
from bowerbird.data.augment import SIDES
from bowerbird.diffusion.loss import WEIGHTINGS, denoising_loss, normalised
from bowerbird.diffusion.prediction import add_noise
from bowerbird.models.autoencoder import AutoencoderConfig, ConvAutoencoder
from bowerbird.models.conditioning import Cond, Steering
from bowerbird.models.denoiser import Denoiser
from bowerbird.models.text_encoder import LONGEST, PADDING, padded, tokens
from bowerbird.models.transformer import Transformer
from bowerbird.pixels import to_x0
from bowerbird.recipe import Recipe, read_recipe
from bowerbird.training.build import build_denoiser, levels_of, sigma_data_of
from bowerbird.training.optimizer import Ema, learning_rate

SIZE, VERSIONS, WORDINGS = 64, 24, 32  # of each picture: latents of so many versions, the first half as they are; captions worded so often
LOOKS = 30.0  # seconds between two looks at pictures never learnt from
LEVELS = 8  # noise levels of such a look
PART = 15 * 2**20  # bytes: weights leave in files no larger
BUNDLED = Path(__file__).parent.parent / "src/bowerbird/models/bundled"
AUTOENCODER, STARTER = BUNDLED / "autoencoder-8x/vae", BUNDLED / "starter/bowerbird.json"


# ---------------------------------------------------------------- what the GPU needs


def pack(folder: Path, target: Path) -> None:
    """Pictures as lossless WebP, captions, and what each picture shows."""
    from bowerbird.conditions.image_embedding import embed
    from bowerbird.data.pictures import open_pictures

    arrays: dict[str, Any] = {}
    for name in ("train", "held"):
        pictures = open_pictures(folder / name, SIZE, held_out=0.0)
        files = [_webp(one) for one in pictures.pixels]
        arrays[f"{name}_webp"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{name}_sizes"] = np.array([len(file) for file in files], np.int64)
        arrays[f"{name}_captions"] = np.array([said[0] for said in pictures.captions])
        arrays[f"{name}_shows"] = embed(pictures.pixels, torch.device("cpu")).half().numpy()
    np.savez_compressed(target, **arrays)
    print(f"{target}: {target.stat().st_size:,} bytes")


def _webp(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "webp", lossless=True, method=6)
    return file.getvalue()


@dataclass(frozen=True)
class Side:
    """Pictures on one side of the split, on the GPU, V versions of each.

    mean, std (N, V, C, h, w) float16 of their latents, scaled; words (N, W, LONGEST) int16; shows (N, COMPONENTS); turned (N, V, 6).
    """

    mean: Tensor
    std: Tensor
    words: Tensor
    shows: Tensor
    turned: Tensor

    def __len__(self) -> int:
        return len(self.mean)


def unpacked(file: Path, name: str, versions: int, wordings: int, device: torch.device) -> Side:
    arrays = np.load(file)
    data, stops = arrays[f"{name}_webp"].tobytes(), np.cumsum(arrays[f"{name}_sizes"]).tolist()
    captions = [str(caption) for caption in arrays[f"{name}_captions"]]
    with Pool() as pool:
        files = [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
        pixels = np.stack(pool.map(_decoded, files, chunksize=256))
        words = torch.stack(pool.map(_worded, [(caption, row, wordings) for row, caption in enumerate(captions)], chunksize=256))
    sided = torch.tensor([bool(SIDES.search(caption)) for caption in captions], device=device)
    space_mean, space_std = (
        torch.tensor(json.loads(STARTER.read_text())["latents"][key], device=device)[:, None, None] for key in ("mean", "std")
    )
    config = json.loads((AUTOENCODER / "config.json").read_text())
    autoencoder = ConvAutoencoder(AutoencoderConfig(**{name: config[name] for name in config if not name.startswith("_")})).to(device)
    autoencoder.load_state_dict(weights.load(AUTOENCODER / "model.safetensors"))
    generator = torch.Generator(device).manual_seed(0)
    means, stds, turns = [], [], []
    for version in range(versions):
        plain = version < (versions + 1) // 2
        turned = torch.zeros(len(pixels), 6, device=device) if plain else _drawn_turns(len(pixels), generator, device)
        mirror = (
            (torch.arange(len(pixels), device=device) + version) % 2 * ~sided if versions > 1 else torch.zeros(len(pixels), device=device)
        )
        encoded = []
        for start in range(0, len(pixels), 1024):
            rows = slice(start, start + 1024)
            pictures = to_x0(pixels[rows]).to(device)
            pictures = torch.where(mirror[rows, None, None, None] > 0, pictures.flip(-1), pictures)
            with torch.inference_mode():
                encoded.append(autoencoder.encode(pictures if plain else _turn(pictures, turned[rows])))
        mean, std = (torch.cat(each) for each in zip(*encoded, strict=True))
        means.append(((mean - space_mean) / space_std).half())
        stds.append((std / space_std).half())
        turns.append(turned)
    shows = torch.from_numpy(arrays[f"{name}_shows"]).float().to(device)
    return Side(torch.stack(means, 1), torch.stack(stds, 1), words.to(device), shows, torch.stack(turns, 1))


def _decoded(file: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def _worded(task: tuple[str, int, int]) -> Tensor:
    """(wordings, LONGEST) int16; the first is the caption itself."""
    caption, row, wordings = task
    said = [caption, *(varied(caption, draws.generator(0, "caption", row * WORDINGS + number)) for number in range(1, wordings))]
    return padded([tokens(one) for one in said], LONGEST).to(torch.int16)


def _drawn_turns(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(N, 6): logarithm of the scale and of the aspect, sine and cosine - 1 of the angle, x and y, in about units of their spread."""
    z = torch.randn(count, 5, generator=generator, device=device).clamp(-2, 2)
    angle = 0.25 * z[:, 2]
    return torch.stack([0.2 * z[:, 0], 0.1 * z[:, 1], angle.sin(), angle.cos() - 1, 0.12 * z[:, 3], 0.12 * z[:, 4]], 1)


def _turn(pictures: Tensor, turned: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) scaled, turned and moved; beyond their borders the border goes on."""
    scale, aspect, sin, cos, x, y = turned.unbind(1)
    cos, wide, high = cos + 1, (-scale - aspect).exp(), (-scale + aspect).exp()
    matrix = torch.stack([torch.stack([wide * cos, -wide * sin, x], 1), torch.stack([high * sin, high * cos, y], 1)], 1)
    grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(-1, 1)


class TurnedPart(nn.Linear):
    """How the picture was turned, added to the noise level's vector; nothing for one that was not, so it is left out of the model."""

    def __init__(self, width: int) -> None:
        super().__init__(6, width, bias=False)

    def initialise(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, cond: Cond, batch: int, device: torch.device) -> Steering:  # type: ignore[override]
        return Steering(super().forward(cond["turned"])) if "turned" in cond else Steering()


# ---------------------------------------------------------------- training


def network_of(recipe: Recipe, latents: tuple[int, int, int]) -> Denoiser:
    """As `bowerbird train` builds it, with a part more that goes with the training."""
    denoiser = build_denoiser(
        recipe, latents, {"text": Text(torch.zeros(0)), "image_embedding": ImageEmbedding(torch.zeros(0), torch.zeros(0))}
    )
    network = denoiser.network
    assert isinstance(network, Transformer)
    width = network.config.width
    parts = {**network_parts(network.config.conditions, width), "turned": TurnedPart(width)}
    return Denoiser(Transformer(network.config, parts), denoiser.spec)


def train(file: Path, out: Path, seconds: float) -> None:
    began = time.monotonic()
    device, recipe = torch.device("cuda" if torch.cuda.is_available() else "cpu"), read_recipe("starter")
    settings = recipe.train
    hardware_name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    torch.set_float32_matmul_precision("high")
    learnt, held = unpacked(file, "train", VERSIONS, WORDINGS, device), unpacked(file, "held", 1, 1, device)
    log = (out / "log.jsonl").open("a")

    def say(**what: Any) -> None:
        line = json.dumps({"seconds": round(time.monotonic() - began, 1), **what})
        print(line, flush=True)
        print(line, file=log, flush=True)

    say(hardware=hardware_name, torch=torch.__version__, pictures=len(learnt), held=len(held))
    torch.manual_seed(0)
    latents = (learnt.mean.shape[2], learnt.mean.shape[3], learnt.mean.shape[4])
    denoiser = network_of(recipe, latents).to(device).train()
    say(parameters=sum(p.numel() for p in denoiser.parameters()))
    averages = {"narrow": Ema(denoiser, settings.ema), "wide": Ema(denoiser, 0.1)}
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    weight, levels = normalised(WEIGHTINGS[recipe.diffusion.weighting], levels_of(recipe), sigma_data_of(recipe)), levels_of(recipe)

    def loss_of(x0: Tensor, eps: Tensor, sigma: Tensor, words: Tensor, shows: Tensor, turned: Tensor) -> Tensor:
        cond = {"text": words, "image_embedding": shows, "turned": turned}
        with torch.autocast(device.type, torch.bfloat16):
            model_x0 = denoiser(add_noise(x0, eps, sigma), sigma, cond)
        return denoising_loss(model_x0, x0, weight(sigma))

    compiled = torch.compile(loss_of) if device.type == "cuda" else loss_of
    batch, order = settings.batch, torch.randperm(len(learnt), device=device)
    step, place, next_look, best, seconds_a_step = 0, 0, 0.0, math.inf, 0.0
    total, losses = settings.pictures, []
    while step * batch < total:
        elapsed = time.monotonic() - began
        if elapsed > seconds:  # too slow a machine: what there is, is kept
            break
        if step == 200:
            torch.cuda.synchronize() if device.type == "cuda" else None
            timed = time.monotonic()
        if step == 600:
            torch.cuda.synchronize() if device.type == "cuda" else None
            seconds_a_step = (time.monotonic() - timed) / 400
            left = max(0.0, seconds - (time.monotonic() - began) - 15)
            total = step * batch + int(left / (seconds_a_step * 1.03)) * batch  # as many as the time allows: the rate falls to 0 at its end
            settings = settings.model_copy(update={"pictures": total})
            say(
                pictures_a_second=round(batch / seconds_a_step),
                pictures_in_all=total,
                memory=torch.cuda.max_memory_allocated() >> 20 if device.type == "cuda" else 0,
            )
        if place + batch > len(order):
            order, place = torch.randperm(len(learnt), device=device), 0
        rows = order[place : place + batch]
        place += batch
        version = torch.randint(VERSIONS, (batch,), device=device)
        x0 = torch.addcmul(
            learnt.mean[rows, version].float(), learnt.std[rows, version].float(), torch.randn(batch, *latents, device=device)
        )
        u = (torch.rand((), device=device, dtype=torch.float64) + torch.arange(batch, device=device) / batch) % 1
        sigma = levels(u.clamp(1e-6, 1 - 1e-6)).float()
        words = learnt.words[rows, torch.randint(WORDINGS, (batch,), device=device)].long()
        words = torch.where(torch.rand(batch, 1, device=device) < recipe.condition.text_drop, PADDING, words)
        shows = learnt.shows[rows] + BANDWIDTH * torch.randn(batch, COMPONENTS, device=device)
        shows = shows * (torch.rand(batch, 1, device=device) >= recipe.condition.image_embedding_drop)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step * batch)
        loss = compiled(x0, torch.randn_like(x0), sigma, words, shows, learnt.turned[rows, version]).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(denoiser.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        for average in averages.values():
            average.update(denoiser, step)
        losses.append(loss.detach())
        if time.monotonic() - began > next_look:
            next_look = time.monotonic() - began + LOOKS
            looks = {name: look(average.model, held, levels) for name, average in averages.items()}
            own = look(averages["narrow"].model, learnt, levels, len(held))
            say(
                step=step,
                seen=step * batch,
                lr=learning_rate(settings, step * batch),
                norm=float(norm),
                loss=float(torch.stack(losses).mean()),
                held=looks,
                learnt=own,
            )
            losses = []
            if step * batch > 0.3 * total and looks["wide"] < best:
                best = looks["wide"]
                save(averages["wide"].model, out, "best")
    looks = {name: look(average.model, held, levels) for name, average in averages.items()}
    for name, average in averages.items():
        save(average.model, out, name)
    worse = "best" if looks["wide"] < best else "wide"  # more than two sets of weights would not leave some machines
    for path in out.glob(f"{worse}-*.safetensors"):
        path.unlink()
    say(
        finished=step,
        seen=step * batch,
        held=looks,
        learnt=look(averages["narrow"].model, learnt, levels, len(held)),
        best=best,
    )


@torch.inference_mode()
def look(model: Denoiser, side: Side, levels: Any, count: int | None = None) -> float:
    """The error of the first version of `count` pictures by their captions, at fixed levels with fixed noise."""
    chosen = torch.arange(count or len(side), device=side.mean.device)
    x0 = side.mean[chosen, 0].float()
    eps = torch.randn(x0.shape, generator=torch.Generator(x0.device).manual_seed(1), device=x0.device)
    errors = []
    for u in (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS:
        sigma = levels(u).float().to(x0.device).expand(len(x0))
        cond = {"text": side.words[chosen, 0].long()}
        with torch.autocast(x0.device.type, torch.bfloat16):
            errors.append(float((model(add_noise(x0, eps, sigma), sigma, cond) - x0).square().mean()))
    return sum(errors) / len(errors)


def save(model: Denoiser, out: Path, name: str) -> None:
    """The network's weights in half precision, in files of at most PART bytes: name-0.safetensors, ..."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in model.network.state_dict().items():
        if key.startswith("turned."):
            continue
        if size + 2 * tensor.numel() > PART:
            parts.append({})
            size = 0
        parts[-1][key] = tensor.half().cpu()
        size += 2 * tensor.numel()
    for number, part in enumerate(parts):
        (out / f"{name}-{number}.safetensors").write_bytes(weights.to_bytes(part))


# ---------------------------------------------------------------- what comes of it


def model(folder: Path, target: Path, shares: list[str]) -> None:
    """A model folder of OUT/NAME-*.safetensors, blended as `OUT/NAME=share` say, with what the conditions learn of the same pictures."""
    from bowerbird.data.pictures import open_pictures
    from bowerbird.generate import open_autoencoder
    from bowerbird.model_folder import About, Model, SamplingDefaults, save_model
    from bowerbird.models.autoencoder import LatentSpace
    from bowerbird.pages import contact_sheet, png_bytes
    from bowerbird.painter import OwnPainter
    from bowerbird.request import PaintRequest
    from bowerbird.storage import Disk

    recipe, cpu = read_recipe("starter"), torch.device("cpu")
    pictures = open_pictures(folder / "train", SIZE, held_out=0.0)
    conditions = {each.name: each.learn(recipe, pictures, cpu, None) for each in (Text, ImageEmbedding)}
    scale = json.loads(STARTER.read_text())["latents"]
    space = LatentSpace(open_autoencoder("autoencoder-8x", cpu), scale["mean"], scale["std"])
    denoiser = build_denoiser(recipe, (len(scale["mean"]), SIZE // 8, SIZE // 8), conditions)
    blend: dict[str, Tensor] = {}
    for named in shares:
        name, share = named.split("=")
        out = Path(name)
        for part in sorted(out.parent.glob(f"{out.name}-*.safetensors")):
            for key, tensor in weights.load(part).items():
                blend[key] = blend.get(key, torch.zeros(tensor.shape)) + float(share) * tensor.float()
    denoiser.network.load_state_dict(blend)
    lines = [json.loads(line) for line in (out.parent / "log.jsonl").read_text().splitlines()]
    training = {
        "recipe": recipe.model_dump(mode="json"),
        "pictures_seen": lines[-1]["seen"],
        "pictures": len(pictures.train),
        "hardware": lines[0]["hardware"],
        "hours": round(lines[-1]["seconds"] / 3600, 3),
    }
    sampling = SamplingDefaults(sampler=recipe.sample.sampler, steps=recipe.sample.steps, guidance=recipe.sample.guidance)
    made = Model(denoiser.eval(), space, conditions, sampling, About(training=training))
    request = PaintRequest(model="starter", seed=0, count=recipe.sample.count)
    painted = [one.picture for one in OwnPainter("starter", made).paint(request)]
    save_model(Disk(), target, made, png_bytes(contact_sheet(painted, columns=4)))
    print(target)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pack", folder, target]:
            pack(Path(folder), Path(target))
        case ["train", file, out, seconds]:
            train(Path(file), Path(out), float(seconds))
        case ["model", folder, target, *shares]:
            model(Path(folder), Path(target), shares)
        case _:
            sys.exit(__doc__)
