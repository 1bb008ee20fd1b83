"""Explain errors in a params file: where they are, which value is there, what is allowed."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

SHOWN = 100
"""A message repeats a wrong value of up to this many characters; longer ones may be whole sections."""


def explain(key: str, error: ValidationError, kind: Any) -> str:
    """A clause for each of pydantic's errors. key: the place of the value, which should be of type `kind`."""
    return "; ".join(_clause(key, each, kind) for each in error.errors())


def _clause(key: str, error: Any, kind: Any) -> str:
    places = [place for place in error["loc"] if place != "[key]"]  # pydantic's mark of a wrong key
    where = ".".join(filter(None, [key, *map(str, places)]))
    value = f" is {shown}" if len(shown := repr(error["input"])) <= SHOWN else ""
    match error["type"]:
        case "missing":
            return f"{where} is missing"
        case "extra_forbidden":
            known = _section_at(kind, error["loc"][:-1]).model_fields.keys() - {"kind"}  # the layer's name
            return f"{where} is unknown; allowed: {', '.join(sorted(known))}"
        case "value_error":
            return f"{where}{value}: {error['ctx']['error']}"
        case "model_type" | "dict_type":
            return f"{where}{value}: it should be a mapping of keys to values"
    message = error["msg"].replace("Input should", "it should")
    message = message.replace("tuple", "list").replace("Tuple", "the list")
    return f"{where}{value}: {message}"


def _section_at(kind: Any, place: tuple[str | int, ...]) -> type[BaseModel]:
    """The section to which the keys `place` lead in the type `kind`; numbers are indices of lists.

    Where several sections are allowed, the key is the value of their field `kind`, which distinguishes them.
    """
    sections = list(_sections_in(kind))
    for key in (key for key in place if isinstance(key, str)):
        if len(sections) > 1:
            sections = [s for s in sections if key in get_args(s.model_fields["kind"].annotation)]
        else:
            sections = list(_sections_in(sections[0].model_fields[key].annotation))
    return sections[0]


def _sections_in(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    else:
        for part in get_args(kind):
            yield from _sections_in(part)
