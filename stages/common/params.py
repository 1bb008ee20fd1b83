"""Reads params.yaml, key by key, and checks every value before it is used.

A stage reads only the keys that its entry in dvc.yaml declares under `params`.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from ruamel.yaml import YAML, YAMLError

from stages.common.command import UserError

PATH = Path("params.yaml")
T = TypeVar("T")


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # Python counts True as 1, a person who writes `epochs: yes` does not
        raise ValueError("a number is wanted, not yes or no")
    return value


Positive = Annotated[int, BeforeValidator(_no_bool), Field(gt=0, lt=2**31)]
Threads = Annotated[int, BeforeValidator(_no_bool), Field(gt=0, le=1024)]
Share = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, lt=1)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]
Rate = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=1e30, allow_inf_nan=False)]
Seed = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, lt=2**32)]


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError("the first number must be smaller than the second")
    return bounds


Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Pixel = Annotated[Number, Field(ge=-1e6, le=1e6)]
PixelRange = Annotated[tuple[Pixel, Pixel], AfterValidator(_rising)]
"""What the darkest (0) and the brightest pixel (255) become before a model sees them."""


class Section(BaseModel):
    """A mapping in params.yaml: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def read(key: str, kind: type[T]) -> T:
    """The value of params.yaml at the dotted `key`, checked against the type `kind`.

    Raises UserError, naming the key and what is allowed, if it is missing or wrong.
    """
    value: Any = _file()
    for depth, part in enumerate(parts := key.split(".")):
        if not isinstance(value, dict) or part not in value:
            parent = ".".join(parts[:depth])
            known = ", ".join(map(str, value)) if isinstance(value, dict) else "no keys"
            raise UserError(f"{PATH}: {key} is missing; {parent or 'the top level'} has {known}")
        value = value[part]
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{PATH}: {'; '.join(_explain(key, e, kind) for e in error.errors())}") from None


def read_model(framework: str, name: str, kind: type[T]) -> T:
    """The section of the model `name`. Raises UserError if that is no name for a model."""
    _check_name(framework, name)
    return read(f"{framework}.{name}", kind)


def model_names(framework: str) -> list[str]:
    """The names of the framework's models, in the file's order. Raises UserError if one is no name."""
    names = list(read(framework, dict))
    for name in names:
        _check_name(framework, name)
    return names


def _check_name(framework: str, name: Any) -> None:
    # DVC makes no stage of a key that YAML takes for a number
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)):
        shown = " ".join(str(name).split())
        raise UserError(
            f"{PATH}: {framework}.{shown}: a model's name is a letter, then letters, digits and _"
        )


def parse(text: str) -> Any:
    """The content of a YAML text, read as DVC does it: YAML 1.2, in which 010 is ten and `no` a word.

    Raises YAMLError, also for a key that occurs twice.
    """
    return YAML(typ="safe").load(text)


@cache
def _file() -> dict[str, Any]:
    try:
        content = parse(PATH.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{PATH} is missing: run from the project's top folder") from None
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a 13th month
        problem, place = getattr(error, "problem", error), getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        raise UserError(f"{PATH} is not YAML{where}: {' '.join(str(problem).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{PATH} must hold a mapping of sections")
    return content


def _explain(key: str, error: Any, kind: Any) -> str:
    """One clause for one of pydantic's errors: where, what is there, what is allowed."""
    where = ".".join([key, *map(str, error["loc"])])
    value = f" is {shown}" if len(shown := repr(error["input"])) <= SHOWN else ""
    match error["type"]:
        case "missing":
            return f"{where} is missing"
        case "extra_forbidden":
            known = _section_at(kind, error["loc"][:-1]).model_fields.keys() - {"kind"}  # a layer's own name
            return f"{where} is unknown; allowed: {', '.join(sorted(known))}"
        case "value_error":
            return f"{where}{value}: {error['ctx']['error']}"
        case "model_type":
            return f"{where}{value}: it should be a mapping of keys to values"
    message = error["msg"].replace("Input should", "it should")
    message = message.replace("tuple", "list").replace("Tuple", "the list")
    return f"{where}{value}: {message}"


SHOWN = 100
"""Characters of a wrong value that a message repeats; of a longer one, such as a whole section, none."""


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
