"""What is wrong with a value of a params file, in words: where, what is there, what is allowed."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

SHOWN = 100
"""Characters of a wrong value that a message repeats; of a longer one, such as a whole section, none."""


def explain(key: str, error: ValidationError, kind: Any) -> str:
    """One clause for each of pydantic's errors. key: where the value of the type `kind` stands."""
    return "; ".join(_clause(key, each, kind) for each in error.errors())


def _clause(key: str, error: Any, kind: Any) -> str:
    places = [place for place in error["loc"] if place != "[key]"]  # stands after a wrong key
    where = ".".join(filter(None, [key, *map(str, places)]))
    value = f" is {shown}" if len(shown := repr(error["input"])) <= SHOWN else ""
    match error["type"]:
        case "missing":
            return f"{where} is missing"
        case "extra_forbidden":
            known = _section_at(kind, error["loc"][:-1]).model_fields.keys() - {"kind"}  # a layer's own name
            return f"{where} is unknown; allowed: {', '.join(sorted(known))}"
        case "value_error":
            return f"{where}{value}: {error['ctx']['error']}"
        case "model_type" | "dict_type":
            return f"{where}{value}: it should be a mapping of keys to values"
    message = error["msg"].replace("Input should", "it should")
    message = message.replace("tuple", "list").replace("Tuple", "the list")
    return f"{where}{value}: {message}"


def _section_at(kind: Any, place: tuple[str | int, ...]) -> type[BaseModel]:
    """The section that the keys `place` lead to in the type `kind`; numbers count the items of lists.

    Where sections of several kinds are allowed, the key is the value of `kind` that tells them apart.
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
