"""Say which committed documents are not what they would be if they were written now.

    make docs-check      (python -m tools.docs_check)

Prints a line for each, with the command that writes it, and ends with status 1 if there is one.
"""

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
from PIL import Image

from stages.console import command
from stages.pictures import style
from tools import bench, pages, processors, projects, published, readme

LAYOUT = Path("docs/layout.md")


def main() -> None:
    command.no_arguments(__doc__)
    complaints = [complaint for check in CHECKS for complaint in check()]
    print("\n".join(complaints) or "all documents are as they would be written now")
    sys.exit(1 if complaints else 0)


def texts() -> Iterator[str]:
    """Complaints about texts that tools/readme.py would write otherwise."""
    for document in readme.DOCUMENTS:
        if document.path.read_text(encoding="utf-8") != document.text():
            yield f"{document.path}: {document.part} is not up to date: run `make readme`"


def models() -> Iterator[str]:
    """Complaints about tables of measurements that lack a model of params.yaml, or have one that it lacks."""
    wanted = projects.models()
    for table, kind, make in (
        (bench.TABLE, bench.Row, "make bench"),
        (processors.TABLE, processors.Row, "make processors"),
    ):
        measured = [row.model for row in pages.read_rows(table, kind)]
        if missing := [model for model in wanted if model not in measured]:
            yield f"{table}: {', '.join(missing)} missing: run `{make} MODELS='{' '.join(missing)}'`"
        if unknown := [model for model in measured if model not in wanted]:
            yield f"{table}: {', '.join(unknown)} not in params.yaml: run `{make} MODELS={wanted[0]}`"


def reports() -> Iterator[str]:
    """Complaints about programs that are not measured, and reports that no model is held against."""
    measured = {row.name for row in pages.read_rows(published.TABLE, published.Row)}
    if missing := [name for name in published.PROGRAMS if name not in measured]:
        yield f"{published.TABLE}: {', '.join(missing)} missing: run `make published`"
    known = {*projects.models(), *published.PROGRAMS}
    for report in pages.read_rows(published.REPORTS, published.Report):
        if report.here not in known:
            yield f"{published.REPORTS}: params.yaml has no {report.here}: take it out, run `make readme`"


def recipes() -> Iterator[str]:
    """Complaints about models that were measured with other parameters than params.yaml has now."""
    wanted = projects.models()
    rows = [row for row in pages.read_rows(bench.TABLE, bench.Row) if row.model in wanted]
    if other := sorted({row.model for row in rows if row.recipe != bench.recipe(row.model)}):
        yield f"{bench.TABLE}: measured with other parameters: run `make bench MODELS='{' '.join(other)}'`"


def pictures() -> Iterator[str]:
    """Complaints about pictures, pixel by pixel."""
    for path, draw in readme.PICTURES.items():
        both = (io.BytesIO(style.png(draw)), path)
        if not np.array_equal(*(np.asarray(Image.open(source).convert("RGB")) for source in both)):
            yield f"{path} is not up to date: run `make readme`"


def tree() -> Iterator[str]:
    """Complaints about docs/layout.md if a stage or a folder is not in it."""
    listed = LAYOUT.read_text(encoding="utf-8").partition("## Files and folders")[2]
    for path in (*Path("stages").glob("*.py"), *Path().glob("[a-z]*/")):
        name = rf"(?<![\w/]){re.escape(path.name)}([/ ,]|$)"
        if path.name != "dvc_plots" and not re.search(name, listed, flags=re.MULTILINE):
            yield f"{LAYOUT} does not name {path}: add it"


CHECKS = texts, models, recipes, reports, pictures, tree

if __name__ == "__main__":
    command.run(main)
