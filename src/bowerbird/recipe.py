"""The settings of a training run: TOML on disk, `--set section.field=value` on the command line, one model in Python.

Every field's description says when to change it; the same line is the help of the command line.  Every count is in
*pictures seen*, so that a recipe means the same whatever the batch or the number of processes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bowerbird.errors import RecipeError, did_you_mean
from bowerbird.faults import first_fault
from bowerbird.formats import MOVED_SETTINGS, upgrade_recipe
from bowerbird.reading import parse_toml, read_bytes

BUILT_IN = Path(__file__).parent / "recipes"
_MAX_FILE_BYTES = 2**20


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Section):
    """How pictures become squares the network can see."""

    size: int = Field(64, ge=8, le=1024, description="side of the training pictures in pixels; twice the side costs four times the work")
    fit: Literal["crop", "pad", "box", "shape"] = Field(
        "crop",
        description="crop: fill the square and lose the borders; pad: keep everything on white; box: around bounding boxes (CUB); "
        "shape: no square, each picture near its own shape, for Stable Diffusion",
    )
    captions: str = Field(
        "", description="a .csv or .jsonl of captions that does not lie among the pictures, as `bowerbird caption` writes"
    )
    flip: bool = Field(True, description="also show mirror images; turn off when left and right mean something")
    held_out: float = Field(0.1, ge=0, le=0.5, description="share of pictures kept aside to notice memorising; 0 uses all")
    seed: int = Field(0, ge=0, lt=2**63, description="another seed is another run of the same recipe")

    @property
    def captions_file(self) -> Path | None:
        """`captions` as a path, None where there is none."""
        return Path(self.captions).expanduser() if self.captions else None


class Model(Section):
    """Which network learns, and on what."""

    network: Literal["transformer", "unet", "autoencoder", "upscaler", "lora"] = Field(
        "transformer",
        description="transformer: ours; unet: diffusers' UNet2DModel; autoencoder: makes latents to learn on; upscaler: enlarges; "
        "lora: low-rank matrices for the Stable Diffusion model that tune.model names",
    )
    autoencoder: str = Field(
        "rgb", description="what the model learns on: rgb (pixels), a bundled autoencoder, a folder or a hub name (latents)"
    )


class Transformer(Section):
    """Our network (model.network = "transformer"), for pixels and latents."""

    size: Literal["micro", "nano", "tiny", "small", "base", "large"] = Field(
        "nano", description="larger learns more and slower: nano for two cores, small for one GPU"
    )
    patch: int = Field(8, ge=1, le=32, description="pixels or latents a token covers; half of it is four times the work and finer detail")
    stem_channels: int = Field(
        0, ge=0, le=256, description="channels of convolutions around it; for pixels they smooth the borders of patches"
    )


class UNet(Section):
    """diffusers' UNet2DModel (model.network = "unet")."""

    size: Literal["micro", "small", "114m"] = Field("small", description="114m: diffusers' unconditional training example")


class Autoencoder(Section):
    """What an autoencoder (model.network = "autoencoder") keeps of a picture, and what it is taught to care for."""

    size: Literal["micro", "small", "wide", "base"] = Field(
        "small", description="larger restores better and slower; wide: the decoder of base behind the encoder of small"
    )
    factor: Literal[8, 16, 32] = Field(8, description="pixels a latent covers on each side; twice as many are a quarter of the latents")
    channels: int = Field(16, ge=1, le=512, description="numbers a latent holds; more keep finer detail and are harder to learn on")
    kl: float = Field(3e-4, ge=0, description="pull of the latents towards a standard normal; raise when they are hard to learn on")
    perceptual: float = Field(0.25, ge=0, description="weight of looking alike to an ImageNet network, beside error of pixels; 0: none")
    noise: float = Field(0.0, ge=0, le=1, description="noise on latents in training, up to this share of theirs; models learn them easier")
    adversary: float = Field(0.0, ge=0, le=2, description="pull of what looks true against that of the pixels; above 0 edges are crisp")
    keep_latents: bool = Field(
        False, description="train the decoder alone (of train.init or tune.model): latents and models of them stay valid"
    )


class Upscaler(Section):
    """How an upscaler (model.network = "upscaler") enlarges, and what it is taught to care for."""

    size: Literal["micro", "small", "base"] = Field("small", description="larger invents better and slower")
    factor: Literal[2, 4] = Field(4, description="how many times as wide and high a picture becomes")
    crop: int = Field(128, ge=8, le=1024, description="side of the squares it learns from in pixels, cut from pictures of data.size")
    worn: float = Field(0.2, ge=0, le=1, description="share of small pictures that are blurred or compressed too; raise for phone pictures")
    noise: float = Field(0.2, ge=0, le=1, description="most noise in small pictures, which span -1..1; half of them have none")
    perceptual: float = Field(0.25, ge=0, description="weight of looking alike to an ImageNet network, beside error of pixels; 0: none")
    adversary: float = Field(
        0.0, ge=0, le=2, description="pull of what looks true against that of the pixels; above 0 there is more texture, and grain"
    )


class Lora(Section):
    """Low-rank matrices beside the weights of a Stable Diffusion model (model.network = "lora")."""

    rank: int = Field(
        16, ge=1, le=256, description="inner width of the matrices; 4 is enough for a style, more hold more and memorise more"
    )
    alpha: float = Field(0.0, ge=0, le=1024, description="their product is multiplied by alpha / rank; 0: as rank, by 1")
    targets: Literal["attention", "transformer", "unet"] = Field(
        "attention",
        description="which weights they stand beside: those of attention, or all of the transformer blocks; unet: no matrices, all weights "
        "of the U-Net learn themselves, which takes much memory and makes a whole model",
    )
    text_encoders: bool = Field(
        False, description="matrices beside the text encoders' weights too: a new word is learnt better, each step reads its words anew"
    )
    trigger: str = Field("", max_length=80, description="a rare word for your pictures, before each caption, or alone where there is none")
    prior: str = Field(
        "", description="a folder of pictures of the class that is to stay as it was (prior preservation); the base can paint them"
    )
    prior_caption: str = Field(
        "", max_length=1000, description="what each of them shows, such as a bird; empty: their own captions, or their classes"
    )
    prior_weight: float = Field(1.0, gt=0, le=100, description="of their loss beside yours; more keeps the class, less learns faster")
    recompute: bool | Literal["auto"] = Field(
        "auto", description="do the forward pass twice: slower, and less memory (gradient checkpointing); auto: where it would not fit else"
    )


class Condition(Section):
    """What steers the picture, and how often each is dropped in training, by itself; guidance needs some dropping."""

    label: bool = Field(False, description="learn the class names of sub-folders or metadata")
    label_drop: float = Field(0.1, ge=0, le=1, description="how often the label is dropped")
    text: bool = Field(False, description="learn the captions, and paint what a prompt says")
    text_drop: float = Field(0.1, ge=0, le=1, description="how often the caption is dropped")
    image_embedding: bool = Field(
        False, description="learn what each picture shows, as an ImageNet network sees it; painting draws from what the pictures show"
    )
    image_embedding_drop: float = Field(0.1, ge=0, le=1, description="how often what the picture shows is dropped")

    def wanted(self) -> list[str]:
        """Names of the conditions to learn."""
        return [name for name in type(self).model_fields if getattr(self, name) is True]

    def drop(self, name: str) -> float:
        return float(getattr(self, f"{name}_drop"))


class Diffusion(Section):
    """What the network learns to predict, and at which noise levels."""

    prediction: Literal["eps", "v", "x0", "flow", "edm"] = Field("x0", description="what the network outputs")
    weighting: Literal["eps", "v", "x0", "flow", "edm", "min-snr", "sigmoid"] = Field(
        "edm", description="how noise levels count in the loss"
    )
    noise_levels: Literal["uniform-t", "log-normal", "logit-normal"] = Field("log-normal", description="how noise levels are drawn")
    location: float = Field(0.0, description="mean of ln sigma (log-normal) or of logit t (logit-normal); raise for larger pictures")
    scale: float = Field(1.4, gt=0, description="standard deviation belonging to location; sampling walks 2.5 of them to each side")
    shift: float = Field(1.0, gt=0, description="logit-normal only: above 1 trains on more noise; raise for larger pictures")
    betas: Literal["linear", "scaled-linear", "cosine"] = Field("linear", description="noise schedule of eps and v networks (1000 steps)")


class Train(Section):
    """How long and how the weights move."""

    init: str = Field("", description="a model whose weights a new run begins with, where they fit; nothing: learn from the beginning")
    pictures: int = Field(200_000, ge=1, description="how many pictures are seen in all; the budget")
    batch: int = Field(64, ge=1, description="pictures per update")
    micro_batch: int = Field(
        0, ge=0, description="pictures per forward pass; 0: the whole batch, of a LoRA as many as fit; lower it when memory runs out"
    )
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: orthogonalised momentum for matrices, AdamW for the rest")
    lr: float = Field(1e-3, gt=0, description="learning rate at full speed; halve it when the loss jumps")
    betas: tuple[float, float] = Field((0.9, 0.99), description="momentum and second-moment decay of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="pull of the weights towards zero")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    warmup: int = Field(5_000, ge=0, description="pictures over which the learning rate rises from 0")
    decay: float = Field(0.2, ge=0, le=1, description="last share of the run in which the learning rate falls to 0")
    ema: float = Field(0.10, gt=0, lt=0.28, description="relative width of the weight average (EDM2); narrower for very long runs")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the processor multiplies it, fp32 elsewhere")
    compile: Literal["auto", "always", "never"] = Field(
        "auto", description="kernels made for the network; auto: where the forecast says that the run repays the minute it takes"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="raise towards 0.2 when the held-out loss rises while the loss falls")
    save_every: int = Field(20_000, ge=1, description="pictures between checkpoints")


class Tune(Section):
    """What `bowerbird tune` adapts."""

    model: str = Field("", description="the model a run adapts to its pictures; nothing: it learns from the beginning")


class Sample(Section):
    """The grid of progress pictures, and what `generate` uses by default."""

    every_epochs: int = Field(10, ge=1, description="epochs between grids")
    count: int = Field(16, ge=1, le=256, description="pictures in a grid")
    sampler: Literal["ddpm", "ddim", "euler", "heun", "dpm++2m"] = Field("dpm++2m", description="how noise becomes a picture")
    steps: int = Field(20, ge=1, description="network calls for one picture")
    guidance: float = Field(1.0, ge=0, description="how strongly what is to be seen steers; 1 is none")


class Recipe(Section):
    """Everything that decides what a run becomes."""

    name: str = Field("custom", description="what the run is called in reports")
    data: Data = Data()
    model: Model = Model()
    transformer: Transformer = Transformer()
    unet: UNet = UNet()
    autoencoder: Autoencoder = Autoencoder()
    upscaler: Upscaler = Upscaler()
    lora: Lora = Lora()
    condition: Condition = Condition()
    diffusion: Diffusion = Diffusion()
    train: Train = Train()
    tune: Tune = Tune()
    sample: Sample = Sample()

    @property
    def begins_as(self) -> str:
        """The model whose weights a new run begins with; '' where it learns from the beginning."""
        return self.tune.model or self.train.init

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        patch = self.transformer.patch
        if self.model.network == "transformer" and self.model.autoencoder == "rgb" and self.data.size % patch:
            fits = max(p for p in range(1, patch + 1) if self.data.size % p == 0)
            raise ValueError(
                f"transformer.patch = {patch} does not divide data.size = {self.data.size}; the nearest smaller that does is {fits}"
            )
        unread = [name for name in self.condition.wanted() if name not in CONDITIONS_READ[self.model.network]]
        if unread:
            raise ValueError(f"condition.{unread[0]} is for network = 'transformer', not for {self.model.network!r}")
        if self.model.network == "autoencoder" and self.data.size % self.autoencoder.factor:
            raise ValueError(f"autoencoder.factor = {self.autoencoder.factor} does not divide data.size = {self.data.size}")
        if self.model.network == "upscaler" and (self.upscaler.crop % self.upscaler.factor or self.data.size % self.upscaler.factor):
            raise ValueError(f"upscaler.factor = {self.upscaler.factor} divides upscaler.crop and data.size; choose such ones")
        if self.model.network == "upscaler" and self.upscaler.perceptual and self.upscaler.crop < 32:
            raise ValueError(
                f"upscaler.crop = {self.upscaler.crop} is too small for the ImageNet network; 32 is the least, or perceptual = 0"
            )
        if self.model.network == "upscaler" and self.upscaler.crop > self.data.size:
            raise ValueError(f"upscaler.crop = {self.upscaler.crop} is larger than data.size = {self.data.size}, from which it is cut")
        if self.model.network == "lora" and not self.tune.model:
            raise ValueError("a LoRA is made for a model that paints: `bowerbird tune MODEL PICTURES`, or tune.model = its name")
        if self.data.fit == "shape" and self.model.network != "lora":
            raise ValueError(f"data.fit = 'shape' is for Stable Diffusion; {self.model.network!r} learns squares: 'crop' or 'pad'")
        if self.lora.targets == "unet" and self.lora.text_encoders:
            raise ValueError("lora.text_encoders adds to a LoRA, and with lora.targets = 'unet' none is made; leave one of them out")
        if self.lora.prior_caption and not self.lora.prior:
            raise ValueError("lora.prior_caption says what the pictures in lora.prior show, and no such folder is named")
        if self.diffusion.noise_levels == "uniform-t" and self.diffusion.prediction not in ("eps", "v"):
            raise ValueError("diffusion.noise_levels = 'uniform-t' is for prediction 'eps' or 'v'; use 'log-normal' or 'logit-normal'")
        if self.train.micro_batch and self.train.batch % self.train.micro_batch:
            raise ValueError(f"train.micro_batch = {self.train.micro_batch} does not divide train.batch = {self.train.batch}")
        return self


# The conditions that each kind of network reads
CONDITIONS_READ: dict[str, Collection[str]] = {
    "transformer": Condition.model_fields,
    "unet": ("label",),
    "autoencoder": (),
    "upscaler": (),
    "lora": ("text",),
}

# What may differ between a run and the command that goes on with it: none of these moves a weight.
FREE_FIELDS = frozenset(
    {"name", "train.pictures", "train.save_every", "sample.every_epochs", "sample.sampler", "sample.steps", "sample.guidance"}
)


def built_in_recipes() -> list[str]:
    return sorted(path.stem for path in BUILT_IN.glob("*.toml"))


def recipe_text(name: str) -> str:
    """The TOML of a built-in recipe, with the comment that tells hardware, time and expected result."""
    path = BUILT_IN / f"{name}.toml"
    if name not in built_in_recipes():
        raise RecipeError(f"there is no recipe {name!r}.{did_you_mean(name, built_in_recipes())}")
    return path.read_text()


def read_recipe(name_or_file: str | Path, settings: Iterable[str] = ()) -> Recipe:
    """A built-in recipe by name, or one from a TOML file, changed by `section.field=value` settings."""
    path = Path(name_or_file)
    try:
        fields = parse_toml(read_bytes(path, _MAX_FILE_BYTES).decode() if path.suffix == ".toml" else recipe_text(str(name_or_file)))
    except OSError as error:
        raise RecipeError(
            f"cannot read the recipe {str(path)!r}: {error.strerror}. Give a .toml file or a name from `bowerbird recipes`."
        ) from error
    except ValueError as error:
        raise RecipeError(f"{str(path)!r} is not TOML: {error}. See `bowerbird recipes pixel-64` for one that is.") from error
    fields.setdefault("name", path.stem)
    return change_recipe(fields, settings)


def change_recipe(fields: dict[str, Any], settings: Iterable[str]) -> Recipe:
    """Loose fields, changed by `section.field=value` settings."""
    for setting in settings:
        _apply(fields, setting)
    return check_recipe(fields)


def check_recipe(fields: Mapping[str, Any]) -> Recipe:
    """Loose fields, of this format or an older one -> Recipe; RecipeError names the first that cannot be and the nearest that can."""
    fields = upgrade_recipe(fields)
    _refuse_unknown(fields)
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise RecipeError(f"{first_fault(error)}.") from error


def check_data(**fields: Any) -> Data:
    """The [data] section alone, for those who read pictures without a recipe; RecipeError as from `check_recipe`."""
    try:
        return Data.model_validate(fields)
    except ValidationError as error:
        raise RecipeError(f"{first_fault(error, 'data')}.") from error


def write_recipe(recipe: Recipe) -> str:
    return tomli_w.dumps(recipe.model_dump(mode="json"))


def differing_fields(one: Recipe, other: Recipe) -> list[str]:
    """Names (section.field) in which two recipes differ."""
    flat_one, flat_other = flatten(one), flatten(other)
    return [name for name in flat_one if flat_one[name] != flat_other[name]]


def flatten(recipe: Recipe) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in recipe.model_dump(mode="json").items():
        flat |= {f"{name}.{field}": v for field, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _apply(fields: dict[str, Any], setting: str) -> None:
    name, equals, value = setting.partition("=")
    section, dot, field = name.strip().partition(".")
    if not (equals and dot and field):
        raise RecipeError(f"--set {setting!r} is not section.field=value, for example --set train.lr=0.0005.")
    _refuse_unknown({section: {field: None}})
    try:
        parsed = parse_toml(f"value = {value}")["value"]
    except ValueError:
        parsed = value.strip()  # a bare word is a string
    fields.setdefault(section, {})[field] = parsed


def _refuse_unknown(fields: Mapping[str, Any]) -> None:
    for section, values in fields.items():
        if section not in Recipe.model_fields:
            raise RecipeError(f"a recipe has no section [{section}].{did_you_mean(section, Recipe.model_fields)}")
        kind = Recipe.model_fields[section].annotation
        if isinstance(values, Mapping) and isinstance(kind, type) and issubclass(kind, Section):
            for field in values:
                if field not in kind.model_fields:
                    if f"{section}.{field}" in MOVED_SETTINGS:
                        raise RecipeError(f"{section}.{field} is now {MOVED_SETTINGS[f'{section}.{field}']}.")
                    raise RecipeError(f"[{section}] has no field {field!r}.{did_you_mean(field, kind.model_fields)}")
