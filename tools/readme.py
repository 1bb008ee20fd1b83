"""Write again what README.md and docs/ show of parameters, measurements and results.

    make readme      (python -m tools.readme)

Measures nothing: reads docs/*.csv, dvc.yaml and what the pipeline left. `make docs-check` compares with this.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np

from stages.common import results
from stages.console import command
from stages.evaluation import tables
from tools import bench, edits, frameworks, growth, pages, processors, published, scaling

README = Path("README.md")
RESULTS = "<!-- results: written by `make readme` -->\n", "<!-- end of results -->\n"
HEAD = """\
| model | test accuracy | 95 % interval | parameters | training images | s to train | s to predict |
| --- | ---: | :---: | ---: | ---: | ---: | ---: |
"""
SPEED = "<!-- speed: written by `make bench` -->\n", "<!-- end of speed -->\n"


@dataclass(frozen=True)
class Document:
    """A generated text.

    part: what of the file is meant. text: what it should be. make: the command that writes it.
    """

    path: Path
    part: str
    text: Callable[[], str]
    make: str = "make readme"

    def write(self) -> None:
        self.path.write_text(self.text(), encoding="utf-8")


def main() -> None:
    command.no_arguments(__doc__)
    for document in DOCUMENTS:
        try:
            document.write()
        except pages.Unavailable as missing:
            print(f"{document.path}: {document.part} stays as it is, for {missing}")


def with_results() -> str:
    """README.md's text with the table of results."""
    pages.need_results()
    models, ensembles = (
        tables.load_table(folder / "summary.csv", tables.SCORES["summary"])
        for folder in (tables.TABLES, tables.COMPARISON)
    )
    timings = {model: results.load_timings(*model.split("/")) for model in models.model}
    rows = [*models.itertuples(), *ensembles.itertuples()]
    cells = [results_row(row, timings.get(row.model)) for row in sorted(rows, key=lambda row: -row.accuracy)]
    return _placed(
        f"{HEAD}{pages.rows(cells)}\n\nMeasured on: {pages.trained_on(timings.values())}.\n", *RESULTS
    )


def results_row(row: Any, timings: results.Timings | None) -> list[str]:
    """The cells of a row of summary.csv. Ensembles have no timings, and no parameters."""
    whole = ("" if np.isnan(number) else f"{number:,.0f}" for number in (row.parameters, row.training_images))
    interval = f"{row.accuracy_low:.2%} – {row.accuracy_high:.2%}"
    seconds = ("", "")
    if timings:
        seconds = f"{timings.training_seconds:.1f}", f"{timings.prediction_seconds:.2f}"
    return [f"`{row.model}`", f"{row.accuracy:.2%}", interval, *whole, *seconds]


def with_speed() -> str:
    """README.md's text with the table of docs/speed.csv."""
    return _placed(
        bench.table(pages.read_rows(bench.TABLE, bench.Row), bench.ONLY_ON_THE_PAGE) + "\n", *SPEED
    )


def _placed(table: str, begin: str, end: str) -> str:
    before, _, after = pages.between(README.read_text(encoding="utf-8"), begin, end)
    return before + table + after


def speed() -> str:
    """The text of docs/speed.md, of docs/speed.csv and docs/growth.csv."""
    rows, points = pages.read_rows(bench.TABLE, bench.Row), pages.read_rows(growth.TABLE, growth.Row)
    return pages.fill(
        "speed.md",
        table=bench.table(rows),
        machine=pages.machines(rows),
        fewest=bench.FEWEST,
        growth_machine=pages.machines(points),
    )


DOCUMENTS = (
    Document(README, "its table of results", with_results),
    Document(README, "its table of speed", with_speed),
    Document(Path("docs/speed.md"), "the page", speed),
    Document(Path("docs/processors.md"), "the page", processors.page),
    Document(Path("docs/frameworks.md"), "the page", frameworks.page),
    Document(Path("docs/published.md"), "the page", published.page),
    Document(scaling.PAGE, "the page", scaling.page),
    Document(edits.PAGE, "the page", edits.page, "make edits"),
)


if __name__ == "__main__":
    command.run(main)
