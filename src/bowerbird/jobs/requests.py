"""What can be asked of a worker beside painting: the command line's sheets, train, tune, evaluate and describe as one object each."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bowerbird.comparison import Comparison, comparison_of
from bowerbird.errors import RequestError, did_you_mean
from bowerbird.faults import first_fault
from bowerbird.request import PaintRequest

DEFAULT_RECIPE = "latent-64"
CAPTIONERS = ("blip",)  # those that have a short name


class CompareRequest(PaintRequest):
    """The same picture under changed settings, on one labelled sheet (an X/Y plot)."""

    x: str | None = Field(None, description="a labelled sheet with a column for each value, such as steps=5,10,20")
    y: str | None = Field(None, description="with x: a row for each value, such as guidance=1,4")
    z: str | None = Field(None, description="with x and y: a section for each value, such as seed=1,2")

    @model_validator(mode="after")
    def _is_a_sheet(self) -> CompareRequest:
        self.comparison()
        return self

    def comparison(self) -> Comparison:
        """What is to be painted; RequestError where it makes no sheet."""
        request = PaintRequest(**{name: getattr(self, name) for name in PaintRequest.model_fields})
        return comparison_of(request, self.x, self.y, self.z)


class RunRequest(BaseModel):
    """A run over pictures.  Asking for the same `out` again goes on with it, or extends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: Path = Field(description="a folder of pictures, or a .zip, .tar or .tgz of one")
    out: Path | None = Field(None, description="the run folder; by default a new one among the runs of the queue")
    settings: list[str] = Field(default_factory=list, description="section.field=value, overrides the recipe, or what the model suggests")
    hours: float | None = Field(None, ge=0.001, description="how long it may take, start-up and finish included")
    count: int | None = Field(None, ge=1, description="how many pictures the run sees in all")
    price: float | None = Field(None, ge=0, description="of this machine an hour, to forecast the cost")

    @model_validator(mode="after")
    def _one_length(self) -> RunRequest:
        if self.hours is not None and self.count is not None:
            raise ValueError("hours and count are both given, and each alone decides the length; leave one out")
        return self


class TrainRequest(RunRequest):
    """One training."""

    recipe: str = Field(DEFAULT_RECIPE, description="a built-in recipe or a .toml file; see `bowerbird recipes`")
    init: str | None = Field(None, description="whose weights a new run begins with, where they fit")


class TuneRequest(RunRequest):
    """Adapt a model to pictures."""

    model: str = Field(description="the model to adapt")


class EvaluateRequest(BaseModel):
    """Judge a model or a folder of pictures against real ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generated: str = Field(description="a model, which then paints, an autoencoder, which reconstructs, or a folder of pictures")
    against: Path = Field(description="real pictures that were not trained on, or the training folder for its held-out ones")
    train: Path | None = Field(None, description="the pictures that were trained on, to look for copies of them")
    captions: Path | None = Field(None, description="captions of `against`, a .csv or .jsonl elsewhere; none: those that were learnt")
    clip: Path | None = Field(None, description="a CLIPModel folder of transformers, for its score of pictures and captions too")
    count: int = Field(1000, ge=10, le=100_000, description="how many pictures a model paints")
    seed: int = Field(0, ge=0, lt=2**63, description="picture i starts from seed + i")


class DescribeRequest(BaseModel):
    """Put pictures into words to paint from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: list[Path] = Field(min_length=1, max_length=1000, description="the pictures to put into words")
    like: Path | None = Field(None, description="a run, or a folder of captioned pictures: answer in the words of the nearest ones")
    captioner: str | None = Field(None, description="blip, a hub name or a folder of a captioner that looks")
    count: int = Field(3, ge=1, le=100, description="with `like`: how many different captions for each")

    @model_validator(mode="after")
    def _whose_words(self) -> DescribeRequest:
        if (self.like is None) == (self.captioner is None):
            raise ValueError("describe in whose words? Give a run or folder of captioned pictures they are like, or a captioner")
        return self


R = TypeVar("R", bound=BaseModel)
AnyRequest = PaintRequest | CompareRequest | TrainRequest | TuneRequest | EvaluateRequest | DescribeRequest


def read_job_request(kind: type[R], fields: dict[str, object]) -> R:
    """A request of that kind from loose fields; RequestError names the first impossible one."""
    for name in fields:
        if name not in kind.model_fields:
            raise RequestError(f"a {kind.__name__} has no field {name!r:.80}.{did_you_mean(name, kind.model_fields)}")
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise RequestError(f"{first_fault(error)}.") from error
