"""Write again what README.md and docs/ show of parameters, measurements and results.

    make readme      (python -m tools.readme)

Measures nothing: reads docs/*.csv. `make docs-check` compares with this.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

from stages.console import command
from stages.pictures import style
from tools import bench, frameworks, growth, pages, processors, published, scaling, times

README = Path("README.md")
RESULTS = "<!-- results: written by `make readme` -->\n", "<!-- end of results -->\n"
MACHINES = "<!-- machines: written by `make readme` -->\n", "<!-- end of machines -->\n"


@dataclass(frozen=True)
class Document:
    """A generated text. part: what of the file is meant. text: what it should be."""

    path: Path
    part: str
    text: Callable[[], str]


def main() -> None:
    command.no_arguments(__doc__)
    for document in DOCUMENTS:
        document.path.write_text(document.text(), encoding="utf-8")
    for path, draw in PICTURES.items():
        style.save(path, draw)


def with_results() -> str:
    """README.md's text with the table of results, of docs/speed.csv."""
    rows = pages.read_rows(bench.TABLE, bench.Row)
    return _placed(f"{bench.results_table(rows)}\n\n{bench.legend(rows)}\n", *RESULTS)


def with_machines() -> str:
    """README.md's text with the table of docs/times.csv."""
    return _placed(times.table(pages.read_rows(times.TABLE, times.Row)) + "\n", *MACHINES)


def _placed(table: str, begin: str, end: str) -> str:
    before, _, after = pages.between(README.read_text(encoding="utf-8"), begin, end)
    return before + table + after


def speed() -> str:
    """The text of docs/speed.md, of docs/speed.csv and docs/growth.csv."""
    rows, points = pages.read_rows(bench.TABLE, bench.Row), pages.read_rows(growth.TABLE, growth.Row)
    return pages.fill("speed.md", tables=bench.speed_tables(rows), growth_machine=pages.machines(points))


DOCUMENTS = (
    Document(README, "its table of results", with_results),
    Document(README, "its table of machines", with_machines),
    Document(Path("docs/speed.md"), "the page", speed),
    Document(Path("docs/processors.md"), "the page", processors.page),
    Document(Path("docs/frameworks.md"), "the page", frameworks.page),
    Document(Path("docs/published.md"), "the page", published.page),
    Document(scaling.PAGE, "the page", scaling.page),
)
PICTURES = {tool.PICTURE: tool.picture for tool in (bench, growth, scaling)}


if __name__ == "__main__":
    command.run(main)
