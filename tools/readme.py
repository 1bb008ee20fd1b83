"""Write the results table of README.md from what the pipeline left.

    make readme      (python -m tools.readme)

Reads outputs/{metrics,cards,timings}/.
"""

import json
from pathlib import Path
from typing import Any

from stages.common import command, files, params, results
from tools import machine

README = Path("README.md")
BEGIN, END = "<!-- results: written by `make readme` -->\n", "<!-- end of results -->\n"
HEAD = (
    "| model | test accuracy | 95 % interval | parameters | training images | s to train | s to predict |\n"
    "| --- | ---: | :---: | ---: | ---: | ---: | ---: |\n"
)


def main() -> None:
    command.no_arguments(__doc__)
    for framework in results.FRAMEWORKS:
        for name in params.read(framework, dict):
            for kind in ("metrics", "cards", "timings"):
                path = results.path(kind, framework, name, "json")
                if not path.is_file():
                    raise command.UserError(f"{path} is missing: `dvc repro` makes it")
    measured = f"{table(results.OUTPUTS)}\nMeasured on: {machine.describe()}.\n"
    README.write_text(with_table(README.read_text(encoding="utf-8"), measured), encoding="utf-8")


def table(outputs: Path) -> str:
    """The results as Markdown, best accuracy first; ensembles have no card and no timings."""
    rows = []
    for path in (outputs / "metrics").rglob("*.json"):
        name = path.relative_to(outputs / "metrics")
        row = {"model": name.with_suffix("").as_posix()}
        for kind in ("metrics", "cards", "timings"):
            if (found := outputs / kind / name).is_file():
                with files.reading(found, "holds no results of a model"):
                    row |= json.loads(found.read_text(encoding="utf-8"))
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


def with_table(text: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """The README's text with `table` between its two marks. Raises UserError without marks."""
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise command.UserError(f"{README} lacks the line {begin.strip()} or {end.strip()}")
    return before + begin + table + end + after


if __name__ == "__main__":
    command.run(main)
