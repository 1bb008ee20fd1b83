"""DVC's experiments of the last commit as one narrow table, to choose by validation.

    make experiments      (python -m tools.experiments)

A row for each model whose metrics an experiment changed, and one for the same model in the commit; a column
for each parameter that differs. The best validation accuracy comes first. The test accuracy stands last: it
is for the model that was chosen by the others.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from stages.console import command
from stages.console.errors import UserError
from tools import pages

WIDTH = 100
PARAMETERS = 3
"""Columns for parameters; if more differ, they share one."""
FIGURES = {
    ("validation", "accuracy"): ("validation_accuracy", ".2%"),
    ("validation", "log loss"): ("validation_log_loss", ".4f"),
    ("test", "accuracy"): ("accuracy", ".2%"),
}
"""The two lines of a column's head, its metric and its format."""


@dataclass(frozen=True)
class Run:
    """A run of the pipeline: the values of its parameters by dotted key, its metrics by model."""

    name: str
    params: dict[str, Any]
    metrics: dict[str, dict[str, float]]


def main() -> None:
    command.no_arguments(__doc__)
    call = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
    shown = subprocess.run(call, capture_output=True, text=True)
    if shown.returncode:
        raise UserError(f"dvc exp show: {shown.stderr.strip().rpartition('ERROR: ')[2]}")
    print(table(json.loads(shown.stdout)))


def table(shown: list[dict[str, Any]]) -> str:
    """What `dvc exp show --json` says, as a table of at most eight columns and WIDTH characters."""
    workspace, base, *_ = shown
    commit, runs, notes = read(base, base["name"] or base["rev"][:7]), [], []
    for one in base["experiments"] or ():
        last, state = one["revs"][0], (one["executor"] or {}).get("state")
        if last["error"] or state not in (None, "success"):
            notes.append(f"{one['name']}: {state or 'failed'}")
        else:
            runs.append(read(last, one["name"] or last["rev"][:7]))
    rows = [(run, model) for run in runs for model in run.metrics if differ(model, run, commit)]
    now = read(workspace, "workspace")  # it is often as the last experiment left it
    rows += [(now, model) for model in now.metrics if all(differ(model, now, run) for run in (commit, *runs))]
    models = dict.fromkeys(model for _, model in rows)
    rows += [(commit, model) for model in models if model in commit.metrics]
    if not rows:
        return "\n".join(["no experiment has other metrics than the last commit", *notes])
    return "\n".join([*lines(sorted(rows, key=goodness), commit), *notes])


def read(state: dict[str, Any], name: str) -> Run:
    """A commit, an experiment or the workspace."""
    params = {
        (key if path == "params.yaml" else f"{path}:{key}"): value
        for path, content in state["data"]["params"].items()
        for key, value in leaves(content.get("data", {}))
    }
    metrics = {
        "/".join(PurePosixPath(path).with_suffix("").parts[-2:]): content["data"]
        for path, content in state["data"]["metrics"].items()
        if "data" in content
    }
    return Run(name, params, metrics)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings and of lists of them, each with its key, such as cnn[0].conv.filters."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{key}[{place}]")
    else:
        yield key, value


def differ(model: str, run: Run, other: Run) -> bool:
    """Whether two runs have different metrics of a model."""
    return run.metrics.get(model) != other.metrics.get(model)


def goodness(row: tuple[Run, str]) -> tuple[float, float, str, str]:
    """What rows are sorted by: validation accuracy, the best first and none last, then log loss."""
    run, model = row
    accuracy = run.metrics[model].get("validation_accuracy", -1)
    return -accuracy, run.metrics[model].get("validation_log_loss", 0), model, run.name


def lines(rows: list[tuple[Run, str]], commit: Run) -> list[str]:
    """The table's lines, the head's two first."""
    keys = sorted({k for run, _ in rows for k in run.params if run.params[k] != commit.params.get(k)})
    models = {model for run, _ in rows for model in run.metrics}
    values = []
    for run, model in rows:
        named = {name_in(key, run, model, models): run.params[key] for key in keys if key in run.params}
        values.append({name: written(value) for name, value in named.items() if name})
    names = short(list(dict.fromkeys(name for row in values for name in row)))
    values = [{names[name]: value for name, value in row.items()} for row in values]
    heads = list(names.values())
    if len(heads) > PARAMETERS:
        heads = ["parameters"]
        values = [{"parameters": " ".join(map("=".join, row.items()))} for row in values]
    texts = [["", *("" for _ in heads), ""], ["experiment", *heads, "model"]]
    figures = [list(column) for column in zip(*FIGURES, strict=True)]
    for (run, model), row in zip(rows, values, strict=True):
        texts.append([run.name, *(row.get(head, "") for head in heads), model])
        found = ((run.metrics[model].get(metric), form) for metric, form in FIGURES.values())
        figures.append([pages.figure(value, form) for value, form in found])
    return aligned(texts, figures)


def name_in(key: str, run: Run, model: str, models: set[str]) -> str | None:
    """What a parameter is called in a model's row; None if it is another model's."""
    framework, *rest = key.split(".", 2)
    if len(rest) == 2 and f"{framework}/{rest[0]}" in models:
        return rest[1] if f"{framework}/{rest[0]}" == model else None
    if key.startswith("architectures.yaml:"):
        used = run.params.get(f"{model.replace('/', '.')}.architecture")
        return key.partition(":")[2] if key.startswith(f"architectures.yaml:{used}[") else None
    return key


def short(names: list[str]) -> dict[str, str]:
    """The last part of each name, or all of it where the last part is that of several."""
    last = [name.rpartition(".")[2] for name in names]
    return {name: part if last.count(part) == 1 else name for name, part in zip(names, last, strict=True)}


def written(value: Any) -> str:
    """A parameter's value as YAML and JSON write it, in short."""
    return value if isinstance(value, str) else json.dumps(value)


def aligned(texts: list[list[str]], figures: list[list[str]]) -> list[str]:
    """Lines of at most WIDTH characters. Only texts are shortened, the widest columns most."""
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    of_figures = [max(map(len, column)) for column in zip(*figures, strict=True)]
    room = WIDTH - sum(2 + width for width in of_figures) - 2 * (len(widths) - 1)
    while sum(widths) > room:
        widths[widths.index(max(widths))] -= 1
    found = []
    for left, right in zip(texts, figures, strict=True):
        cells = [f"{cut(text, width):<{width}}" for text, width in zip(left, widths, strict=True)]
        cells += [f"{text:>{width}}" for text, width in zip(right, of_figures, strict=True)]
        found.append("  ".join(cells).rstrip())
    return found


def cut(text: str, width: int) -> str:
    """A text of at most `width` characters, the middle of a longer one left out."""
    end = width // 2
    return text if len(text) <= width else f"{text[: width - end - 1]}…{text[len(text) - end :]}"


if __name__ == "__main__":
    command.run(main)
