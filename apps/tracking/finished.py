"""The results in outputs/ as lines: of finished trainings, and of the stages after them."""

import csv
import hashlib
import math
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from apps.tracking import lines
from apps.tracking.training import about, fingerprint, of_training
from stages.common import results
from stages.evaluation import scores

TABLES, PLOTS, ONNX = (results.OUTPUTS / name for name in ("tables", "plots", "onnx"))
KINDS = ("scores", "pictures", "models")
"""The kinds of results of the stages after a training."""
REPORT = "per_class", "confusion"
"""The tables of outputs/tables that are sent."""
NAMES = "class", "truth", "prediction"
"""Columns with names of classes, which may look like numbers."""


def names() -> list[str]:
    """The models that are trained, as framework/model."""
    found = (path.parent for path in (results.OUTPUTS / "models").glob("*/*/model.json"))
    trained = (path.parts[-2:] for path in sorted(found))
    return ["/".join(name) for name in trained if all(path.exists() for path in results.all_of(*name))]


def collect(wanted: Iterable[str], kinds: Iterable[str] = KINDS) -> list[lines.Run]:
    """The runs of the current results of these models, after adding missing lines of these kinds.

    A training that was not tracked gets the run that it would have had.
    """
    found = []
    for name in wanted:
        with lines.lock(f"{name}.collect"):
            run = _run_of(name)
            known = {(line["event"], line.get("name")): line for line in run.lines()}
            for line in _after(name, kinds):
                before = known.get((line["event"], line["name"]), {})
                if any(before.get(key) != value for key, value in line.items()):
                    run.append(**line)
        found.append(run)
    return found


def _run_of(name: str) -> lines.Run:
    framework, model = name.split("/")
    folder, timings = results.folder(framework, model), results.timings(framework, model)
    result = fingerprint(folder, timings)
    for line in reversed(lines.read(name)):
        if line.get("result") == result:
            return lines.Run(name, line["run"])
    run = lines.Run(name, uuid.uuid4().hex)
    description = results.load_description(framework, model)
    parameters = {"recipe": description.recipe, "architecture": description.architecture}
    run.append("begin", parameters=parameters, about=about())
    ended = timings.stat().st_mtime  # seconds of the epochs are not known
    if description.architecture is not None:
        losses = [float(row["loss"]) for row in _rows(folder / "losses.csv")]
        run.append("steps", time=ended, done=0, losses=losses)
        for row in _rows(folder / "history.csv"):
            run.append("epoch", time=ended, values={key: _value(cell) for key, cell in row.items()})
    for line in of_training(folder, timings):
        run.append(**line)
    return run


def _after(name: str, kinds: Iterable[str]) -> Iterator[lines.Line]:
    """The lines about a model's results of `evaluate`, `visualize` and `export`.

    None if the scores are of an earlier training, because these stages have not run since.
    """
    if not _scores_are_of(name):
        return
    if "scores" in kinds:
        for row in _rows(TABLES / "summary.csv"):
            if row.pop("model") == name:
                values = {_score(key): _value(cell) for key, cell in row.items() if cell}
                yield {"event": "summary", "name": "scores", "values": values}
        for table in REPORT:
            rows = [row for row in _rows(TABLES / f"{table}.csv") if row.pop("model") == name]
            rows = [
                {key: cell if key in NAMES else _value(cell) for key, cell in row.items()} for row in rows
            ]
            if rows:
                yield {"event": "table", "name": table, "rows": rows}
    if "pictures" in kinds:
        for path in sorted(PLOTS.glob(f"*/{name}.png")):
            kind = path.relative_to(PLOTS).parts[0]
            yield {"event": "picture", "name": kind, "path": lines.keep(path, _digest(path))}
    if "models" in kinds and (path := ONNX / f"{name}.onnx").exists():
        yield {"event": "artifact", "name": "onnx", "path": lines.keep(path, _digest(path))}


def _scores_are_of(name: str) -> bool:
    """Whether summary.csv has the model's row, with the log loss that its predictions give."""
    labels = Path("data/test_labels.npy")
    if not (TABLES / "summary.csv").exists():
        return False
    losses = [float(row["log_loss"]) for row in _rows(TABLES / "summary.csv") if row["model"] == name]
    if not losses or not labels.exists():
        return bool(losses)
    probabilities = np.load(results.predictions(*name.split("/")))
    return math.isclose(scores.log_loss(np.load(labels), probabilities), losses[0], abs_tol=1e-5)


def _score(key: str) -> str:
    """A tracker's name of a column of summary.csv. Epochs already use the names of validation figures."""
    if key.startswith("validation_") and key != "validation_images":
        return f"final_{key}"
    return key if key in ("parameters", "training_images", "validation_images", "summary") else f"test_{key}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _value(cell: str) -> Any:
    """A cell of a table: a number where it is one, None where it is empty."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None
