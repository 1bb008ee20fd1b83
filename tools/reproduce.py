"""Run the committed pipeline again from nothing and compare every output, bit by bit.

    make reproduce      (python -m tools.reproduce)

Clones HEAD into a temporary folder, runs everything there with an empty DVC cache, and compares
the checksums with those in the committed dvc.lock: a row an output, exit status 1 if one differs.
Timings, and the report that shows them, are left out. On another machine than the one that outputs/timings
names, bits may differ; then the metrics are compared within TOLERANCE.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from stages.common import results
from stages.console import command
from tools import pages

SECONDS = ("outputs/timings/", "outputs/report")
TOLERANCE = 0.005
"""How far accuracies may lie apart on another machine: half a point of a hundred."""


def main() -> None:
    command.no_arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        _run("git", "clone", "--quiet", "--no-local", str(Path.cwd()), str(clone))
        dvc = sys.executable, "-m", "dvc"
        _run(*dvc, "config", "--local", "cache.dir", str(Path(folder) / "cache"), cwd=clone)
        committed, accuracies = checksums(clone / "dvc.lock"), metrics(clone, "accuracy")
        _run(*dvc, "repro", cwd=clone)
        if compare(committed, checksums(clone / "dvc.lock")):
            print("every output is the same to the bit")
            return
        before, here = trained_on(Path()), trained_on(clone)
        if before == here:
            sys.exit(1)
        print(f"trained on {before or 'an unknown machine, for outputs/timings is empty'}; this is {here}")
        sys.exit(0 if compare_accuracies(accuracies, metrics(clone, "accuracy")) else 1)


def checksums(lock: Path) -> dict[str, str]:
    """The checksum of every output in a dvc.lock, but for seconds and the report, which shows them."""
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    outs = [out for stage in stages.values() for out in stage["outs"]]
    return {out["path"]: out["md5"] for out in outs if not out["path"].startswith(SECONDS)}


def metrics(project: Path, name: str) -> dict[str, float]:
    """One of the committed metrics, by model."""
    folder = project / "outputs" / "metrics"
    return {
        path.relative_to(folder).with_suffix("").as_posix(): json.loads(path.read_text())[name]
        for path in sorted(folder.rglob("*.json"))
    }


def trained_on(project: Path) -> str:
    """The machines that trained the models of a project, as their timings say; empty without timings."""
    found = [
        results.Timings.model_validate_json(path.read_bytes())
        for path in (project / results.OUTPUTS / "timings").glob("*/*.json")
    ]
    return "; ".join(sorted({pages.trained_on([one]) for one in found}))


def compare(before: dict[str, str], after: dict[str, str]) -> bool:
    """Print a row for every output and tell whether all are the same."""
    for path in sorted(before | after):
        print(f"{'same     ' if before.get(path) == after.get(path) else 'DIFFERENT'}  {path}")
    return before == after


def compare_accuracies(before: dict[str, float], after: dict[str, float]) -> bool:
    """Print a row for every model and tell whether all accuracies are within TOLERANCE."""
    close = True
    for model in sorted(before | after):
        difference = abs(before.get(model, 0) - after.get(model, 0))
        close &= difference <= TOLERANCE
        print(f"{'close' if difference <= TOLERANCE else 'FAR  '}  {model}  {difference:.4f}")
    print(f"accuracies are {'all' if close else 'not all'} within {TOLERANCE}")
    return close


def _run(*call: str, cwd: Path | None = None) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(call, cwd=cwd, check=True, env={**os.environ, "PATH": path})


if __name__ == "__main__":
    try:
        command.run(main)
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error}")
