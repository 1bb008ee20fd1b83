"""Say which committed documents are not what they would be if they were written now.

    make docs-check      (python -m tools.docs_check)

Prints a line for each, with the command that writes it, and ends with status 1 if there is one. What is
made of the pipeline's results is compared where they are; where they are not, a line says so.
"""

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
from PIL import Image

from stages.common import results
from stages.console import command
from stages.evaluation import tables
from stages.pictures import style
from tools import bench, growth, pages, processors, projects, published, readme, scaling

METRICS = results.OUTPUTS / "metrics"
LAYOUT = Path("docs/layout.md")


def main() -> None:
    command.no_arguments(__doc__)
    complaints = [complaint for check in CHECKS for complaint in check()]
    print("\n".join(complaints) or "all documents are as they would be written now")
    sys.exit(1 if complaints else 0)


def texts() -> Iterator[str]:
    """Complaints about texts that tools/readme.py would write otherwise."""
    for document in readme.DOCUMENTS:
        try:
            expected = document.text()
        except pages.Unavailable as missing:
            print(f"skipped: {document.path}: {document.part}: {missing}")
            continue
        if document.path.read_text(encoding="utf-8") != expected:
            yield f"{document.path}: {document.part} is not up to date: run `{document.make}`"


def accuracies() -> Iterator[str]:
    """Complaints about accuracies in README.md that are not those of outputs/metrics, which is in Git."""
    _, table, _ = pages.between(readme.README.read_text(encoding="utf-8"), *readme.RESULTS)
    shown = dict(re.findall(r"^\| `(\S+)` \| ([0-9.]+%) \|", table, flags=re.MULTILINE))
    for path in sorted(METRICS.glob("*/*.json")):
        model = path.relative_to(METRICS).with_suffix("").as_posix()
        measured = f"{json.loads(path.read_text(encoding='utf-8'))['accuracy']:.2%}"
        if shown.get(model) != measured:
            found = f"says {shown[model]}" if model in shown else "has no row"
            yield f"README.md: its table of results {found} for {model}, {path} {measured}: run `make readme`"


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
    known = {*projects.models(), *published.PROGRAMS, tables.MEAN, tables.VOTE}
    for report in pages.read_rows(published.REPORTS, published.Report):
        if report.here not in known:
            yield f"{published.REPORTS}: params.yaml has no {report.here}: take it out, run `make readme`"


def pictures() -> Iterator[str]:
    """Complaints about docs/growth.png and docs/scaling.png, pixel by pixel."""
    for tool, make in ((growth, "growth"), (scaling, "scaling")):
        sources = io.BytesIO(style.png(tool.picture)), tool.PICTURE
        if not np.array_equal(*(np.asarray(Image.open(source).convert("RGB")) for source in sources)):
            yield f"{tool.PICTURE}: it is not the picture of {tool.TABLE}: run `make {make}`"


def tree() -> Iterator[str]:
    """Complaints about docs/layout.md if a stage or a folder is not in it."""
    listed = LAYOUT.read_text(encoding="utf-8").partition("## Files and folders")[2]
    for path in (*Path("stages").glob("*.py"), *Path().glob("[a-z]*/")):
        name = rf"(?<![\w/]){re.escape(path.name)}([/ ,]|$)"
        if path.name != "dvc_plots" and not re.search(name, listed, flags=re.MULTILINE):
            yield f"{LAYOUT} does not name {path}: add it"


CHECKS = texts, accuracies, models, reports, pictures, tree

if __name__ == "__main__":
    command.run(main)
