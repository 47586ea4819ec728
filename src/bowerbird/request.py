"""What every face of Bowerbird (command line, server, studio, jobs) asks of a model, and what it gets back.

A request with None fields means "the model's own default"; `generate` fills them in, and the *resolved* request is
what a picture's metadata records.  Painting a resolved request again gives the same picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bowerbird.errors import RequestError, did_you_mean
from bowerbird.faults import first_fault

MAX_SIDE_PX = 8192
MAX_COUNT = 10_000


class Lora(BaseModel):
    """A LoRA file and how strongly it acts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: Path
    weight: float = Field(1.0, ge=-4, le=4)


Syntax = Literal["weights", "wildcards", "arrays", "loras"]  # of the prompt language


class Asked(BaseModel):
    """The words a finished request was made from; `bowerbird.prompts` says how."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    prompt: str = Field("", max_length=20_000)
    negative: str = Field("", max_length=20_000)
    styles: list[str] = Field(default_factory=list)
    loras: list[Lora] = Field(default_factory=list)
    preset: str | None = None
    expand: Literal["off", "words", "llm"] = "off"
    literal: list[Syntax] = Field(default_factory=list)


class PaintRequest(BaseModel):
    """One painting job: `count` pictures with seeds seed, seed+1, ..."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("starter", description="a run, a model folder, a diffusers folder, a .safetensors checkpoint or a hub name")
    prompt: str = Field("", max_length=20_000, description="what to paint, for models that read text")
    negative: str = Field("", max_length=20_000, description="what to avoid, for models that read text")
    label: str | None = Field(None, description="which class to paint, for models trained on labels")
    count: int = Field(1, ge=1, le=MAX_COUNT, description="how many pictures")
    seed: int | None = Field(None, ge=0, lt=2**63, description="picture i starts from seed + i; none draws one at random")
    size: tuple[Annotated[int, Field(ge=8, le=MAX_SIDE_PX)], Annotated[int, Field(ge=8, le=MAX_SIDE_PX)]] | None = Field(
        None, description="width and height in pixels"
    )
    steps: int | None = Field(None, ge=1, le=10_000, description="sampling steps: more is finer and slower")
    sampler: str | None = Field(None, description="ddpm, ddim, euler, heun or dpm++2m; Stable Diffusion also euler-ancestral, lcm")
    guidance: float | None = Field(None, ge=0, le=100, description="how strongly the condition steers; 1 means no guidance")
    speed: str | None = Field(None, description="quality, speed or extreme: steps, sampler and guidance together")
    preset: str | None = Field(None, description="settings by name, for whatever the request leaves open")
    styles: list[str] = Field(default_factory=list, description="named styles woven into the prompt, such as watercolour; random draws one")
    expand: Literal["off", "words", "llm"] = Field(
        "off", description="complete a short prompt: by words the model knows, or by a local language model (llm)"
    )
    literal: list[Syntax] = Field(default_factory=list, description="parts of the prompt language to read as plain words")
    asked: Asked | None = Field(None, description="what the prompt was made from; given, the prompt is final and used as it stands")
    loras: list[Lora] = Field(default_factory=list, description="small weight files that change the model's style or subject")
    image: Path | None = Field(None, description="a picture to start from")
    mask: Path | None = Field(None, description="white where `image` is painted anew, black where it stays")
    mask_at: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = Field(
        None, description="a point of `image` instead of a mask: what is connected to it and looks alike is painted anew"
    )
    mask_tolerance: int = Field(32, ge=0, le=255, description="how unlike that point, 0 to 255, a connected pixel may be")
    detail: bool = Field(False, description="work on the masked part alone, enlarged: finer faces, hands, eyes")
    outpaint: dict[Literal["left", "top", "right", "bottom"], Annotated[int, Field(ge=8, le=4096)]] = Field(
        default_factory=dict, description="sides on which `image` is continued, and by how many pixels"
    )
    strength: float | None = Field(
        None, ge=0, le=1, description="how far to move from `image`, 0 to 1: 0 keeps it, 1 forgets it; usually 0.6, with a mask 1"
    )
    noise: float | None = Field(
        None, ge=0, le=1, description="how noisy `image` is, of a range of -1 to 1, for upscalers of ours: more is smoother; usually 0"
    )
    consistent: bool = Field(False, description="enlarge `image` so that shrunk again it is the same, for upscalers of ours")
    then: list[str] = Field(default_factory=list, description="models that take the picture further, such as an upscaler")
    format: Literal["png", "jpeg", "webp"] = Field("png", description="file format of the pictures")
    exact: bool = Field(False, description="paint one at a time, so that the bytes do not depend on `count`")

    @field_validator("format", mode="before")
    @classmethod
    def _as_people_write_it(cls, value: object) -> object:
        return "jpeg" if value == "jpg" else value

    @model_validator(mode="after")
    def _what_needs_an_image(self) -> PaintRequest:
        if self.mask is not None and self.image is None:
            raise ValueError("a mask says which part of an image to repaint; give the image too")
        if self.mask_at is not None and (self.image is None or self.mask is not None):
            raise ValueError("mask_at points into an image and stands for a mask; give the image, and no mask")
        if self.detail and self.mask is None and self.mask_at is None:
            raise ValueError("detail works on the masked part of an image; give a mask, or mask_at")
        if self.outpaint and self.image is None:
            raise ValueError("outpaint says where an image is to be continued; give the image too")
        if self.strength is not None and self.image is None:
            raise ValueError("strength says how far to move from an image; give the image too")
        return self


def read_request(fields: dict[str, object]) -> PaintRequest:
    """A request from loose fields (a command line, JSON); RequestError names the first impossible one."""
    for name in fields:
        if name not in PaintRequest.model_fields:
            raise RequestError(f"a painting request has no field {name!r}.{did_you_mean(name, PaintRequest.model_fields)}")
    try:
        return PaintRequest.model_validate(fields)
    except ValidationError as error:
        raise RequestError(f"{first_fault(error)}.") from error
