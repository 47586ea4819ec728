"""What is wrong is said in our words, whatever pydantic calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bowerbird.faults import first_fault


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    depth: int = Field(1, ge=1, le=8)
    rate: float = Field(0.5, gt=0, lt=0.75, allow_inf_nan=False)


class Everything(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["a", "b"] = "a"
    name: str = Field("x", min_length=1, max_length=3)
    size: tuple[int, int] = (1, 1)
    sides: list[int] = Field([8], min_length=1, max_length=2)
    by_eight: int = Field(8, multiple_of=8)
    on: bool = True
    place: Path = Path()
    inner: Inner = Inner()
    needed: int


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kind": "c"}, "kind = 'c': it must be 'a' or 'b'"),
        ({"name": ""}, "name = '': it must be at least 1 long"),
        ({"name": "long"}, "name = 'long': it must be at most 3 letters long"),
        ({"name": 3}, "name = 3: it must be text"),
        ({"size": (1, "wide")}, "size = 'wide': it must be a whole number"),
        ({"size": 5}, "size = 5: it must be a list"),
        ({"sides": [1, 2, 3]}, "sides = [1, 2, 3]: it must be at most 2 of them"),
        ({"by_eight": 12}, "by_eight = 12: it must be a multiple of 8"),
        ({"on": "perhaps"}, "on = 'perhaps': it must be true or false"),
        ({"place": 3}, "place = 3: it must be a path"),
        ({"inner": 3}, "inner = 3: it must be a table of fields"),
        ({"inner": {"depth": 0}}, "inner.depth = 0: it must be at least 1"),
        ({"inner": {"depth": 9}}, "inner.depth = 9: it must be at most 8"),
        ({"inner": {"depth": 1.5}}, "inner.depth = 1.5: it must be a whole number"),
        ({"inner": {"rate": 0}}, "inner.rate = 0: it must be more than 0"),
        ({"inner": {"rate": 1}}, "inner.rate = 1: it must be less than 0.75"),
        ({"inner": {"rate": float("nan")}}, "inner.rate = nan: it must be a finite number"),
        ({"inner": {"deep": 1}}, "inner.deep = 1: there is no such field"),
        ({"needed": None}, "needed = None: it must be a whole number"),
    ],
)
def test_the_field_what_was_found_and_what_it_must_be(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate({"needed": 1, **fields})
    assert str(first_fault(caught.value)) == sentence
    assert str(first_fault(caught.value, "all")) == f"all.{sentence}"


def test_what_is_missing_has_no_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate({})
    assert str(first_fault(caught.value.errors())) == "needed: it is missing"
