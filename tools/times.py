"""Measure how long the project's own commands take on this machine, from a fresh clone.

    make times      (python -m tools.times)

Clones HEAD into a temporary folder and runs STEPS there one after the other; nothing else should run
meanwhile. Writes this machine's row into docs/times.csv, from which tools/readme.py writes README.md's table.
Installing and downloading depend on the network, too.
"""

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

from joblib import cpu_count
from threadpoolctl import threadpool_limits

from stages.console import command
from stages.console.errors import UserError
from tools import bench, pages

TABLE = Path("docs/times.csv")
STEPS = {"install": ".venv/installed", "quick": "quick", "everything": "all", "test": "test"}
"""Make's targets, by the fields of Row. `everything` goes on from what `quick` has trained."""


@dataclass(frozen=True)
class Row:
    """A line of docs/times.csv: the seconds of each of STEPS. matmul_gflops: of all cores, as in bench."""

    machine: str
    matmul_gflops: float
    install: float
    quick: float
    everything: float
    test: float


def main() -> None:
    command.no_arguments(__doc__)
    with threadpool_limits(cpu_count(), "blas"):
        rate = bench.matmul_gflops()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        run("git", "clone", "--quiet", "--no-local", str(Path.cwd()), str(clone))
        found = {name: round(run("make", target, folder=clone), 1) for name, target in STEPS.items()}
    row = Row(pages.this_machine(pages.count(cpu_count(), "core")), round(rate, 1), **found)
    others = [other for other in pages.read_rows(TABLE, Row) if other.machine != row.machine]
    pages.write_rows(TABLE, sorted([*others, row], key=lambda one: one.machine))


def run(*call: str, folder: Path = Path()) -> float:
    """The seconds that a command takes. Raises UserError if it fails."""
    print(*call, flush=True)
    outside = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MAKEFLAGS")}
    started = time.perf_counter()
    if subprocess.run(call, cwd=folder, env=outside).returncode:
        raise UserError(f"{' '.join(call)} failed; see above")
    return time.perf_counter() - started


def table(rows: list[Row]) -> str:
    """The rows as README.md's table, the fastest machine first."""
    heads = ["machine", "GFLOP/s", "installing", "then `make quick`", "then `make`", "`make test`"]
    cells = []
    for row in sorted(rows, key=lambda row: row.everything):
        seconds = (getattr(row, field.name) for field in fields(Row)[2:])
        cells.append([row.machine, two_digits(row.matmul_gflops), *map(duration, seconds)])
    return pages.table(heads, cells)


def duration(seconds: float) -> str:
    """As 61 s or 12 min."""
    return f"{two_digits(seconds)} s" if seconds < 100 else f"{two_digits(seconds / 60)} min"


def two_digits(value: float) -> str:
    """As 0.95, 61 or 120."""
    return f"{float(f'{value:.2g}'):g}"


if __name__ == "__main__":
    command.run(main)
