"""What the first thing wrong with fields is, in our words: pydantic finds it, every sentence about it begins here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

# by pydantic's names of what can be wrong (docs.pydantic.dev, "Validation Errors"); {} of its context
_MUST_BE = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "finite_number": "a finite number",
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "text",
    "string_too_short": "at least {min_length} long",
    "string_too_long": "at most {max_length} letters long",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "dataclass_type"), "a table of fields"),
    "path_type": "a path",
    "literal_error": "{expected}",
}


@dataclass(frozen=True)
class Fault:
    """where: the field, "section.field", or empty where fields do not go together; kind: pydantic's name of what is wrong."""

    where: str
    found: Any
    words: str
    kind: str

    def __str__(self) -> str:
        """field = value: it must be so, without a full stop."""
        if self.kind == "missing" or not self.where:
            return f"{self.where}: {self.words}".removeprefix(": ")
        return f"{self.where} = {self.found!r:.80}: {self.words}"


def first_fault(found: ValidationError | Sequence[Any], *within: str) -> Fault:
    """The first thing wrong.  found: the error, or its details; within: what the fields are part of."""
    first = (found if isinstance(found, Sequence) else found.errors())[0]
    kind = first["type"]
    where = [*within, *(part for part in map(str, first["loc"]) if part != "[key]" and not part.isdigit())]  # "size", not "size.0"
    if kind in _MUST_BE:
        bounds = {name: f"{value:g}" if isinstance(value, float) else value for name, value in first.get("ctx", {}).items()}
        words = f"it must be {_MUST_BE[kind].format(**bounds)}"
    else:
        others = {"missing": "it is missing", "extra_forbidden": "there is no such field"}
        words = others.get(kind, first["msg"].removeprefix("Value error, "))
    return Fault(".".join(where), first["input"], words, kind)
