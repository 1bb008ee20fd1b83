"""Write the results table of README.md from the metrics and timings that the pipeline left.

    make readme      (python -m tools.readme)

Reads outputs/metrics/ and outputs/timings/.
"""

import json
import sys
from pathlib import Path

from tools import machine

README = Path("README.md")
BEGIN, END = "<!-- results: written by `make readme` -->\n", "<!-- end of results -->\n"
HEAD = (
    "| model | test accuracy | 95 % interval | parameters | training images | s to train | s to predict |\n"
    "| --- | ---: | :---: | ---: | ---: | ---: | ---: |\n"
)


def table(metrics: Path, timings: Path) -> str:
    """The results as Markdown, best accuracy first."""
    rows = []
    for path in metrics.rglob("*.json"):
        model = path.relative_to(metrics).with_suffix("")
        row = json.loads(path.read_text(encoding="utf-8"))
        seconds = json.loads((timings / f"{model}.json").read_text(encoding="utf-8"))
        parameters = "" if row["parameters"] is None else f"{row['parameters']:,}"
        rows.append(
            (
                -row["accuracy"],
                model.as_posix(),
                f"| `{model.as_posix()}` | {row['accuracy']:.2%} "
                f"| {row['accuracy_low']:.2%} – {row['accuracy_high']:.2%} "
                f"| {parameters} | {row['training_images']:,} "
                f"| {seconds['training_seconds']:.1f} | {seconds['prediction_seconds']:.1f} |\n",
            )
        )
    return HEAD + "".join(line for _, _, line in sorted(rows))


def with_table(text: str, table: str) -> str:
    """The README's text with `table` between its two marks. Raises ValueError without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{README} lacks the line {BEGIN.strip()} or {END.strip()}")
    return before + begin + table + end + after


if __name__ == "__main__":
    try:
        results = table(Path("outputs/metrics"), Path("outputs/timings"))
        results += f"\nMeasured on: {machine.describe()}.\n"
        README.write_text(with_table(README.read_text(encoding="utf-8"), results), encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
