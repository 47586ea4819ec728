"""Seconds a step and peak memory of real-size Stable Diffusion networks, ours beside plain diffusers at its defaults.

    python benchmarks/pretrained_speed.py sd15 --side 512 --steps 3
    python benchmarks/pretrained_speed.py sdxl --side 512 --steps 2
    python benchmarks/pretrained_speed.py sd15 --side 256 --in-turn 7

The weights are random, because speed and memory do not depend on them: a diffusers folder in half precision, written once
under the temporary folder.  Each side opens it and paints in a process of its own, in turn (a b, b a, ...), so that a
noisy machine disturbs both alike; CPU seconds are given beside wall seconds, because on a shared machine only they can
be compared.  Both sides run in float32, the default of both on a CPU.  `--in-turn` calls the U-Nets of both sides one after
the other in one process, which two models must fit into: the sharpest comparison where the machine is busy.
Results go to benchmarks/pretrained_speed.json, by family.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FAMILIES = HERE.parent / "src/bowerbird/pretrained/families"
PROMPT = "a photo of a bird on a branch"
CLASSES = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


def write_random_model(family: str, folder: Path) -> None:
    """A diffusers folder with the family's configs, CLIP's vocabulary and random half-precision weights of the real shapes."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from bowerbird.pretrained.clip import clip_vocabulary

    shutil.copytree(FAMILIES / family, folder)
    vocabulary, merges = clip_vocabulary()
    for tokenizer in folder.glob("tokenizer*"):
        (tokenizer / "vocab.json").write_text(json.dumps(vocabulary))
        words = json.loads((tokenizer / "tokenizer_config.json").read_text())
        (tokenizer / "tokenizer_config.json").write_text(json.dumps({**words, "model_max_length": 77}))
        (tokenizer / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    generator = torch.Generator().manual_seed(0)
    encoders = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    for part in ("unet", "vae", *encoders):
        if not (folder / part).exists():
            continue
        config = json.loads((folder / part / "config.json").read_text())
        with torch.device("meta"):
            if part in encoders:
                network = encoders[part](CLIPTextConfig(**config))
            else:
                network = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part].from_config(config)
        tensors = {}
        for name, tensor in network.state_dict().items():
            scale = 1 / max(1, tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0
            values = torch.randn(tensor.shape, generator=generator).mul_(scale) if scale else torch.ones(tensor.shape)
            tensors[name if part not in encoders or "text_model." in name else f"text_model.{name}"] = values.half()
        stem = "model" if part in encoders else "diffusion_pytorch_model"
        save_file(tensors, folder / part / f"{stem}.safetensors")


def measure(side: str, family: str, folder: Path, pixels: int, steps: int) -> dict[str, float]:
    """One process: open the model and paint a picture.  The first step, which reads the prompt too, counts for the picture alone."""
    clock = [(time.perf_counter(), time.process_time())]

    def tick(*_arguments: Any) -> Any:
        clock.append((time.perf_counter(), time.process_time()))
        return {} if side == "diffusers" else None

    if side == "ours":
        import torch

        from bowerbird.pretrained import open_pretrained
        from bowerbird.request import PaintRequest

        painter = open_pretrained(folder, torch.device("cpu"))
        painter.native = pixels  # paint the asked size as it is, however small, as the other side does
        tick()
        request = PaintRequest(model=family, prompt=PROMPT, seed=1, size=(pixels, pixels), steps=steps, sampler="euler", guidance=7.0)
        list(painter.paint(request, tick))
    else:
        import diffusers
        import torch

        extra = {"safety_checker": None, "feature_extractor": None} if family == "sd15" else {}
        # dtype: with transformers 5 the text encoder would stay in the files' half precision, and the U-Net refuse its output
        pipeline = getattr(diffusers, CLASSES[family]).from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32, **extra)
        pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
        tick()
        generator = torch.Generator().manual_seed(1)
        arguments = {"width": pixels, "height": pixels, "num_inference_steps": steps, "guidance_scale": 7.0, "generator": generator}
        pipeline(PROMPT, callback_on_step_end=tick, **arguments)
    tick()
    wall = [later[0] - earlier[0] for earlier, later in itertools.pairwise(clock)]
    cpu = [later[1] - earlier[1] for earlier, later in itertools.pairwise(clock)]
    return {
        "open s": wall[0],
        "step s": statistics.median(wall[2:-1]),
        "step cpu s": statistics.median(cpu[2:-1]),
        "picture s": sum(wall[1:]),
        "picture cpu s": sum(cpu[1:]),
        "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def in_turn(family: str, folder: Path, pixels: int, calls: int) -> dict[str, Any]:
    """CPU seconds of a U-Net call with guidance, both sides alternating, each under the mode in which it paints."""
    import diffusers
    import torch

    from bowerbird.pretrained import open_pretrained

    ours = open_pretrained(folder, torch.device("cpu"))
    pipeline = getattr(diffusers, CLASSES[family]).from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    x = torch.randn(2, 4, pixels // 8, pixels // 8)
    text = torch.randn(2, 77, ours.unet.config.cross_attention_dim)
    seconds: dict[str, list[float]] = {"ours": [], "diffusers": []}
    for _ in range(calls):
        for side, unet, mode in (("ours", ours.unet, torch.inference_mode), ("diffusers", pipeline.unet, torch.no_grad)):
            start = time.process_time()
            with mode():
                unet(x, 500, text)
            seconds[side].append(time.process_time() - start)
    ratios = [mine / theirs for mine, theirs in zip(*seconds.values(), strict=True)]
    return {"side px": pixels, "calls": calls, **{side: statistics.median(each) for side, each in seconds.items()},
            "ours / diffusers": statistics.median(ratios), "all ratios": ratios}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=sorted(CLASSES))
    parser.add_argument("--side", type=int, default=512, help="of the picture, in pixels")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--in-turn", type=int, metavar="CALLS", help="of both U-Nets in one process (sd15 alone)")
    parser.add_argument("--measure", choices=["ours", "diffusers"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / f"bowerbird-random-{options.family}"
    if options.measure:
        print(json.dumps(measure(options.measure, options.family, folder, options.side, options.steps)))
        return
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        write_random_model(options.family, unfinished)
        unfinished.rename(folder)
    if options.in_turn:
        record(f"{options.family}, U-Nets in turn", in_turn(options.family, folder, options.side, options.in_turn))
        return
    runs: dict[str, list[dict[str, float]]] = {"diffusers": [], "ours": []}
    for nth in range(options.rounds):
        for side, found in list(runs.items())[:: -1 if nth % 2 else 1]:
            done = subprocess.run([sys.executable, *sys.argv, "--measure", side], stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(side, {name: round(value, 2) for name, value in found[-1].items()}, flush=True)
    best = {side: {name: min(run[name] for run in found) for name in found[0]} for side, found in runs.items()}
    ratio = {name: best["ours"][name] / best["diffusers"][name] for name in best["ours"]}
    report = {"side px": options.side, "steps": options.steps, "rounds": options.rounds, **best, "ours / diffusers": ratio}
    record(options.family, report)


def record(name: str, report: dict[str, Any]) -> None:
    target = HERE / "pretrained_speed.json"
    results = json.loads(target.read_text()) if target.exists() else {}
    target.write_text(json.dumps({**results, name: report}, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
