"""Read params.yaml and architectures.yaml by key, and check each value before it is used.

A stage reads only the keys that its entry in dvc.yaml declares under `params`.
"""

import re
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

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

from stages.console.errors import UserError, one_line, reading
from stages.console.explain import explain

PATH, ARCHITECTURES = Path("params.yaml"), Path("architectures.yaml")
T = TypeVar("T")


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # Python counts True as 1
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
"""The values that gray levels 0 and 255 become before a model sees them."""


def _fraction(value: Any) -> Any:
    """Convert text such as 1/12 to a number."""
    value = _no_bool(value)
    if isinstance(value, str):
        try:
            value = float(Fraction(value))
        except (ValueError, ZeroDivisionError):
            raise ValueError("allowed: a count such as 5000, or a share such as 0.1 or 1/12") from None
    known = isinstance(value, int | float) and 0 <= value < float("inf")
    if not known or (value >= 1 and value != int(value)):
        raise ValueError("allowed: a count such as 5000, or a share such as 0.1 or 1/12")
    return value


Validation = Annotated[float, BeforeValidator(_fraction)]
"""How many training images are held out: a count, or a share below 1."""


def _is_name(name: Any) -> str:
    # DVC makes no stage of a numeric key, and splits keys at dots
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)):
        raise ValueError("a name is a letter, then letters, digits and _")
    return name


Name = Annotated[str, BeforeValidator(_is_name)]
"""The name of a model or an architecture."""


class Section(BaseModel):
    """An immutable mapping in a params file. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def read(key: str, kind: type[T], path: Path = PATH) -> T:
    """The value at the dotted `key` in the file `path`, checked against the type `kind`.

    Raises UserError, naming the key and what is allowed, if it is missing or wrong.
    """
    value: Any = content(path)
    for depth, part in enumerate(parts := key.split(".")):
        if not isinstance(value, dict) or part not in value:
            parent = ".".join(parts[:depth])
            known = ", ".join(map(str, value)) if isinstance(value, dict) else "no keys"
            raise UserError(f"{path}: {key} is missing; {parent or 'the top level'} has {known}")
        value = value[part]
    return check(key, value, kind, path)


def check(key: str, value: Any, kind: type[T], path: Path = PATH) -> T:
    """Return `value`, found at `key`, as the type `kind`. Raises UserError if it is of another type."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(key, error, kind)}") from None


def load_json(path: Path, kind: type[T], what: str, remedy: str = "dvc repro") -> T:
    """The content of a JSON file, checked against the type `kind`.

    what: the message for other content. remedy: the command that recreates the file. Raises UserError,
    naming the file, if it is missing or has other content.
    """
    with reading(path, what, remedy=remedy):
        try:
            return TypeAdapter(kind).validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(explain("", error, kind)) from None


def read_model(framework: str, name: str, kind: type[T]) -> T:
    """The section of the model `name`. Raises UserError if the name is invalid or the section is wrong."""
    check(f"{framework}.{one_line(name)}", name, Name)
    return read(f"{framework}.{name}", kind)


def parse(text: str) -> Any:
    """The content of a YAML text, parsed like DVC: as YAML 1.2, where 010 is ten and `no` is text.

    Raises YAMLError, also for a key that occurs twice.
    """
    return YAML(typ="safe").load(text)


@cache
def content(path: Path) -> dict[str, Any]:
    """The content of a params file. Raises UserError if it is not a mapping."""
    try:
        parsed = parse(path.read_text(encoding="utf-8"))
        repr(parsed)  # fails here if it is nested too deep for later checks
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the project's top folder") from None
    except RecursionError:
        raise UserError(f"{path} nests its mappings or lists too deep") from None
    except (LookupError, TypeError, AttributeError):  # of `!!bool 3`, `!!int ""`
        raise UserError(f"{path} is not YAML: a value does not fit its tag, such as !!int") from None
    except (YAMLError, ValueError) as error:  # of a date such as 2024-13-45
        problem, place = getattr(error, "problem", error), getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        raise UserError(f"{path} is not YAML{where}: {' '.join(str(problem).split())}") from None
    if not isinstance(parsed, dict):
        raise UserError(f"{path} must hold a mapping of sections")
    return parsed
