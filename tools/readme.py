"""Write the results table of README.md from what the pipeline left.

    make readme      (python -m tools.readme)

Reads outputs/{metrics,cards,timings}/.
"""

import json
import sys
from pathlib import Path
from typing import Any

from stages.common import command
from tools import machine

README = Path("README.md")
BEGIN, END = "<!-- results: written by `make readme` -->\n", "<!-- end of results -->\n"
HEAD = (
    "| model | test accuracy | 95 % interval | parameters | training images | s to train | s to predict |\n"
    "| --- | ---: | :---: | ---: | ---: | ---: | ---: |\n"
)


def table(outputs: Path) -> str:
    """The results as Markdown, best accuracy first; ensembles have no card and no timings."""
    rows = []
    for path in (outputs / "metrics").rglob("*.json"):
        name = path.relative_to(outputs / "metrics")
        row = {"model": name.with_suffix("").as_posix()}
        for kind in ("metrics", "cards", "timings"):
            if (outputs / kind / name).is_file():
                row |= json.loads((outputs / kind / name).read_text(encoding="utf-8"))
        rows.append(row)
    rows.sort(key=lambda row: (-row["accuracy"], row["model"]))
    return HEAD + "".join(
        f"| `{row['model']}` | {row['accuracy']:.2%} "
        f"| {row['accuracy_low']:.2%} – {row['accuracy_high']:.2%} "
        f"| {shown(row, 'parameters', ',')} | {shown(row, 'training_images', ',')} "
        f"| {shown(row, 'training_seconds', '.1f')} | {shown(row, 'prediction_seconds', '.2f')} |\n"
        for row in rows
    )


def shown(row: dict[str, Any], key: str, form: str) -> str:
    """A number in the format `form`, or nothing where there is none."""
    return "" if row.get(key) is None else format(row[key], form)


def with_table(text: str, table: str) -> str:
    """The README's text with `table` between its two marks. Raises ValueError without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{README} lacks the line {BEGIN.strip()} or {END.strip()}")
    return before + begin + table + end + after


if __name__ == "__main__":
    command.no_arguments(__doc__)
    try:
        results = table(Path("outputs"))
        results += f"\nMeasured on: {machine.describe()}.\n"
        README.write_text(with_table(README.read_text(encoding="utf-8"), results), encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
