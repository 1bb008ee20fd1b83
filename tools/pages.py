"""What the generated documents share: templates, tables, marks in a text, and which machine measured."""

import csv
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from stages.common import params, results
from stages.console import machine
from stages.console.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"
Row = TypeVar("Row")


def fill(template: str, **values: Any) -> str:
    """The text of a file in tools/templates with the values in place of their {names}."""
    return (TEMPLATES / template).read_text(encoding="utf-8").format(**values)


def rows(cells: Iterable[Sequence[str]]) -> str:
    """The lines of a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def table(heads: Sequence[str], cells: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table. texts: how many columns, the first ones, hold texts; the others hold figures."""
    marks = ["---" if place < texts else "---:" for place in range(len(heads))]
    return rows((heads, marks, *cells))


def figure(value: float | None, form: str) -> str:
    """A number in a format, or nothing where there is none."""
    return "" if value is None else format(value, form)


def between(text: str, begin: str, end: str) -> tuple[str, str, str]:
    """What stands before, between and after two marks of a text. Raises UserError if one is missing."""
    before, found_begin, rest = text.partition(begin)
    inside, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise UserError(f"the text lacks the line {begin.strip()} or {end.strip()}")
    return before + begin, inside, end + after


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a CSV file as dataclasses, empty cells None; no rows if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]
    return TypeAdapter(list[kind]).validate_python(rows)


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write dataclasses of one kind as a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def keep_rows(path: Path, new: Sequence[Any], order: Iterable[str]) -> None:
    """Put rows into a CSV file in place of those of the same name, the first column.

    order: the names that rows may have, in the order in which they are written.
    """
    name = fields(new[0])[0].name
    rows = {getattr(row, name): row for row in (*read_rows(path, type(new[0])), *new)}
    write_rows(path, [rows[one] for one in order if one in rows])


def machines(rows: Iterable[Any]) -> str:
    """The machines that measured these rows."""
    return "; ".join(sorted({row.machine for row in rows}))


def this_machine(part: str | None = None) -> str:
    """This machine, such as 'AMD EPYC (family 25, model 1), avx2, 2 threads, Linux x86_64, Python 3.11'.

    part: how much of it is used, such as '2 cores'; by default the threads of a stage.
    """
    part = part or count(params.read("threads", params.Threads), "thread")
    return _words(machine.processor(), part, machine.system(), platform.python_version())


def trained_on(timings: Iterable[results.Timings]) -> str:
    """The machine, or machines, that some models were trained on, and how many stages ran at once there."""
    timings = list(timings)
    found = set(map(described, timings))
    at_once = max((one.side_by_side for one in timings), default=1)
    return "; ".join(sorted(found)) + (f"; up to {at_once} stages at once" if at_once > 1 else "")


def described(timings: results.Timings) -> str:
    """The machine that a model was trained on."""
    return _words(timings.processor, count(timings.threads, "thread"), timings.system, timings.python)


def _words(processor: str, part: str, system: str, python: str) -> str:
    return f"{processor}, {part}, {system}, Python {python.rpartition('.')[0]}"


def count(number: int, thing: str) -> str:
    """As '1 core' or '2 cores'."""
    return f"{number} {thing}" + "s" * (number != 1)
