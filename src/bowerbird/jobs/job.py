"""One job as everybody sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bowerbird.jobs.requests import AnyRequest, CompareRequest, DescribeRequest, EvaluateRequest, TrainRequest, TuneRequest
from bowerbird.request import PaintRequest

Kind = Literal["paint", "upscale", "compare", "train", "tune", "evaluate", "describe"]
State = Literal["queued", "running", "done", "failed", "cancelled"]
OVER: tuple[State, ...] = ("done", "failed", "cancelled")

REQUESTS: dict[Kind, type[AnyRequest]] = {
    "paint": PaintRequest,
    "upscale": PaintRequest,
    "compare": CompareRequest,
    "train": TrainRequest,
    "tune": TuneRequest,
    "evaluate": EvaluateRequest,
    "describe": DescribeRequest,
}


class JobProgress(BaseModel):
    """How far a job is."""

    model_config = ConfigDict(frozen=True)

    phase: str = Field(description="what is being done: paint, train, scan, ...")
    done: int = Field(0, description="units behind us")
    total: int = Field(0, description="units in all; 0 while that is not known")
    unit: str = Field("", description="what is counted: steps, pictures")
    seconds_left: float | None = Field(None, description="of this phase, at the pace so far")
    preview_path: Path | None = Field(None, description="a picture of how it looks now")
    message: str = Field("", description="words for people")


class JobError(BaseModel):
    """Why a job failed.  kind: the name of the error's class, such as RequestError; message: one sentence for people."""

    model_config = ConfigDict(frozen=True)
    kind: str
    message: str


class Job(BaseModel):
    """A job and all that is known of it; a new object each time it is read."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: Kind
    request: dict[str, Any] = Field(description="what was asked for, as JSON")
    state: State
    origin: str = Field("", description="which face asked")
    previews: int = Field(0, description="how many previews are wanted on the way")
    created: float = Field(description="unix seconds, as all times here")
    started: float | None = None
    finished: float | None = None
    attempts: int = Field(0, description="how often a worker died over it")
    progress: JobProgress | None = None
    paths: list[Path] = Field(default_factory=list, description="pictures, a run folder, a report")
    result: dict[str, Any] = Field(default_factory=dict, description="what else there is to say of the result")
    notes: list[str] = Field(default_factory=list, description="what the work had to say on its way")
    error: JobError | None = None

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def seconds(self) -> float | None:
        """How long the work took, or has taken so far as it was last read."""
        return None if self.started is None or self.finished is None else self.finished - self.started

    def asked(self) -> AnyRequest:
        """The request as an object."""
        return REQUESTS[self.kind].model_validate(self.request)

    def preview_paths(self) -> list[Path]:
        """The previews so far, in their order."""
        if self.progress is None or self.progress.preview_path is None:
            return []
        newest = self.progress.preview_path
        return sorted(path for path in newest.parent.glob("preview-*.png") if path.name <= newest.name)
