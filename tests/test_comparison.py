"""Sheets: every picture in its place under its labels, all asked for by one request."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird.comparison import MAX_SHEET_PX, Comparison, compare, compare_arrays, comparison_of
from bowerbird.errors import RequestError
from bowerbird.request import PaintRequest, read_request


def asks(**fields: object) -> PaintRequest:
    return read_request({"model": "m", "seed": 3, **fields})


def test_each_place_has_its_settings_and_the_same_seed() -> None:
    comparison = compare(asks(prompt="a bird"), "steps=5,10,20", "guidance=1,4")
    assert [(one.guidance, one.steps) for one in comparison.requests] == list(product([1, 4], [5, 10, 20]))
    assert comparison.columns == ("steps 5", "steps 10", "steps 20") and comparison.rows == ("guidance 1", "guidance 4")
    assert {(one.seed, one.prompt) for one in comparison.requests} == {(3, "a bird")}


def test_a_third_axis_is_the_first_two_over_again() -> None:
    """Section by section stands the sheet that x and y alone make of the request with z's value."""
    comparison = compare(asks(prompt="a bird"), "steps=5,10,20", "guidance=1,4", "speed=quality,extreme")
    alone = [compare(asks(prompt="a bird", speed=speed), "steps=5,10,20", "guidance=1,4") for speed in ("quality", "extreme")]
    assert comparison.requests == alone[0].requests + alone[1].requests
    assert (comparison.columns, comparison.rows) == (alone[0].columns, alone[0].rows)
    assert comparison.sections == ("speed quality", "speed extreme")


def test_the_axes_are_given_in_their_order() -> None:
    with pytest.raises(RequestError, match="the first, x"):
        comparison_of(asks(), None, "steps=1")
    with pytest.raises(RequestError, match="first two, x and y"):
        comparison_of(asks(), "steps=1", None, "seed=1")


def test_values_of_every_form() -> None:
    assert [one.prompt for one in compare(asks(), "prompt=a cat, sitting|a dog").requests] == ["a cat, sitting", "a dog"]
    assert [one.styles for one in compare(asks(), "style=oil+night,,anime").requests] == [["oil", "night"], [], ["anime"]]
    assert [one.size for one in compare(asks(), "size=64x32, 32X64").requests] == [(64, 32), (32, 64)]
    assert [one.speed for one in compare(asks(), "speed=quality,extreme").requests] == ["quality", "extreme"]


def test_the_arrays_of_a_prompt_are_axes() -> None:
    one = compare_arrays(asks(prompt="[[red, (dark blue:1.2)]] bird"))
    assert one.columns == ("red", "dark blue") and one.rows == ("",)
    two = compare_arrays(asks(prompt="[[red, blue]] bird in [[snow, ]]"))
    assert (two.rows, two.columns) == (("red", "blue"), ("snow", "nothing"))
    assert [each.prompt for each in two.requests] == ["red bird in snow", "red bird in ", "blue bird in snow", "blue bird in "]
    three = compare_arrays(asks(prompt="[[old, new]] [[red, blue]] [[bird]]"))
    assert (three.sections, three.rows, three.columns) == (("old", "new"), ("red", "blue"), ("bird",))
    assert [each.prompt for each in three.requests] == ["old red bird", "old blue bird", "new red bird", "new blue bird"]


@pytest.mark.parametrize(
    ("fields", "x", "y", "said"),
    [
        ({}, "step=1,2", None, "'steps'"),
        ({}, "steps", None, "steps=5,10,20"),
        ({}, "steps=1,x", None, "steps = 'x'"),
        ({}, "steps=0", None, "steps"),
        ({}, "steps=1,2", "steps=3", "two directions"),
        ({}, "model=a,b", None, "no axis"),
        ({"count": 2}, "steps=1,2", None, "Leave the count out"),
        ({}, "steps=" + ",".join(map(str, range(1, 30))), "guidance=" + ",".join(map(str, range(30))), "400"),
        ({}, "size=64", None, "size"),
        ({"prompt": "bird"}, None, None, "one array, two or three"),
        ({"prompt": "[[a, b]] [[a, b]] [[a, b]] [[a, b]]"}, None, None, "one array, two or three"),
        ({"prompt": "([[a, b]] bird:1.2)"}, None, None, "one array, two or three"),
    ],
)
def test_what_cannot_be_compared_is_said(fields: dict[str, object], x: str | None, y: str | None, said: str) -> None:
    with pytest.raises(RequestError) as error:
        compare(asks(**fields), x, y) if x else compare_arrays(asks(**fields))
    assert said in str(error.value) and "\n" not in str(error.value)


COLOURS = [(n * 10 % 256, 255 - n * 30 % 256, n * 90 % 256) for n in range(24)]


@settings(max_examples=30, deadline=None)
@given(*(st.integers(1, n) for n in (4, 3, 2, 200, 200)), *(st.text(max_size=80) for _ in range(3)))
def test_every_picture_is_whole_and_in_its_place(
    columns: int, rows: int, sections: int, width: int, height: int, label: str, other: str, third: str
) -> None:
    """Whatever the labels and sizes: the colours appear in reading order, each as many times as its picture has pixels."""
    places = columns * rows * sections
    pictures = [Image.new("RGB", (width, height), COLOURS[n]) for n in range(places)]
    comparison = Comparison((asks(),) * places, (label,) * columns, (other,) * rows, (third,) * sections)
    sheet = np.asarray(comparison.sheet(pictures)).astype(int)
    corners = []
    for n in range(places):
        where = np.argwhere((sheet == COLOURS[n]).all(-1))
        assert len(where) == width * height
        corners.append(tuple(where[0]))
    assert corners == sorted(corners)
    assert len({row for row, _ in corners}) == rows * sections and len({column for _, column in corners}) == columns


def test_huge_sheets_are_shrunk() -> None:
    pictures = [Image.new("RGB", (3000, 10), "red")] * 12
    sheet = Comparison((asks(),) * 12, tuple(f"steps {n}" for n in range(12))).sheet(pictures)
    assert max(sheet.size) <= MAX_SHEET_PX + 12 * 6
