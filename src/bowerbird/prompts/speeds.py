"""Speeds by name: steps, sampler and guidance together, by what the model is.  The table is speeds.toml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bowerbird.prompts.library import OURS, named, read_table, user_folder
from bowerbird.request import PaintRequest

Kind = Literal["ours", "sd", "sdxl", "few-step", "upscale"]
USUAL = "speed"


class Setting(BaseModel):
    """What a speed means for one kind of model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int | None = Field(None, ge=1, le=10_000)
    times: float | None = Field(None, gt=0, le=100)
    sampler: str | None = None
    guidance: float | None = Field(None, ge=0, le=100)


class Speed(BaseModel):
    """One speed: a setting for each kind of model; a kind that is not named keeps its own settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    about: str = ""
    also: list[str] = Field(default_factory=list)
    ours: Setting = Setting()
    sd: Setting = Setting()
    sdxl: Setting = Setting()
    few_step: Setting = Field(Setting(), alias="few-step")
    upscale: Setting = Setting()


@dataclass(frozen=True)
class Pace:
    """How a model paints."""

    steps: int
    sampler: str
    guidance: float


def speeds() -> dict[str, Speed]:
    """Every speed by name, and by its other names."""
    table = read_table(OURS / "speeds.toml", Speed) | read_table(user_folder() / "speeds.toml", Speed)
    return {name: speed for first, speed in table.items() for name in (first, *speed.also)}


def pace(request: PaintRequest, kind: Kind, usual: Pace) -> Pace:
    """What a request asks for, then what its speed means for this kind of model, then what the model usually does."""
    setting: Setting = getattr(named(request.speed or USUAL, speeds(), "speed"), kind.replace("-", "_"))
    steps = setting.steps or max(1, round(usual.steps * (setting.times or 1)))

    def first(*values: Any) -> Any:
        return next(value for value in values if value is not None)

    return Pace(
        steps=first(request.steps, steps),
        sampler=first(request.sampler, setting.sampler, usual.sampler),
        guidance=first(request.guidance, setting.guidance, usual.guidance),
    )
