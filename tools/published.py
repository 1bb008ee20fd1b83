"""Put what others report, and how well-known programs train, beside this pipeline.

    make published                      all programs
    make published PROGRAMS=sklearn     those of tools/well_known/sklearn.py; the others keep their rows

Trains well-known programs one after the other on the processor, each in a process of its
own, in some twenty minutes, and writes docs/published.csv; `make published` then has tools/readme.py write
docs/published.md, of this, of docs/reports.csv and of docs/speed.csv.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from stages.common import dataset
from stages.console import command
from stages.console.errors import UserError
from tools import bench, pages, projects

TABLE, REPORTS = Path("docs/published.csv"), Path("docs/reports.csv")
GOAL = 0.99


@dataclass(frozen=True)
class Program:
    """A well-known program, trained as it is published. arguments: of tools/well_known/__main__.py.

    beside: the model of params.yaml that is nearest to it.
    """

    arguments: str
    what: str
    beside: str


DEFAULT = "scikit-learn, as it comes"
PROGRAMS = {
    "pytorch/examples, `mnist`": Program("pytorch example 14", "14 epochs", "pytorch/cnn_wide"),
    "keras.io, “Simple MNIST convnet”": Program("keras 15", "15 epochs", "tensorflow/cnn_wide"),
    "“MNIST Digit Classification with CNN”": Program("pytorch plain_sgd 7", "7 epochs", "pytorch/cnn_sgd"),
    "`LogisticRegression()`": Program("sklearn regression", DEFAULT, "sklearn/logistic_regression"),
    "`RandomForestClassifier()`": Program("sklearn forest", DEFAULT, "sklearn/random_forest"),
    "`ExtraTreesClassifier()`": Program("sklearn trees", DEFAULT, "sklearn/extra_trees"),
}


@dataclass(frozen=True)
class Report:
    """A line of docs/reports.csv: what somebody reports.

    address, dated: None where not known. percent: an accuracy, or a range of them. here: the model or program
    that is held against it.
    """

    title: str
    address: str | None
    dated: str | None
    what: str
    percent: str
    here: str


@dataclass(frozen=True)
class Row:
    """A line of docs/published.csv: a program, trained once with seed 0."""

    name: str
    epochs: int
    accuracy: float  # on the test images, after the last epoch
    seconds: float  # of training, all epochs
    seconds_to_99: float | None  # until the test accuracy is first there
    machine: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "programs", nargs="?", default="", help="how tools/well_known names them; all if left out"
    )
    begin = parser.parse_args().programs
    projects.chosen([])  # are there images?
    if (data := dataset.describe().name) != "mnist":
        raise UserError(f"what others report is about mnist, and data/ holds {data}")
    for name, program in PROGRAMS.items():
        if program.arguments.startswith(begin):
            pages.keep_rows(TABLE, [measure(name)], PROGRAMS)


def measure(name: str) -> Row:
    """Train as a program does, in a process of its own."""
    call = [sys.executable, "-m", "tools.well_known", *PROGRAMS[name].arguments.split()]
    epochs = []
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            epochs.append(json.loads(line))
            print(f"{name}, {len(epochs)}: {line.strip()}", flush=True)
    if process.returncode:
        raise UserError(f"{name} failed; see above")
    return sum_up(name, epochs)


def sum_up(name: str, epochs: list[dict[str, float]]) -> Row:
    """The row of a program from its epochs, each with seconds of training and accuracy after it."""
    reached = next((i for i, epoch in enumerate(epochs, start=1) if epoch["accuracy"] >= GOAL), None)
    seconds = [epoch["seconds"] for epoch in epochs]
    return Row(
        name=name,
        epochs=len(epochs),
        accuracy=round(epochs[-1]["accuracy"], 6),
        seconds=round(sum(seconds), 2),
        seconds_to_99=round(sum(seconds[:reached]), 2) if reached else None,
        machine=pages.this_machine(),
    )


def page() -> str:
    """The text of docs/published.md, of the tables in docs/ alone."""
    rows = [row for row in pages.read_rows(TABLE, Row) if row.name in PROGRAMS]
    speed = pages.read_rows(bench.TABLE, bench.Row)
    compared = reports_cells(pages.read_rows(REPORTS, Report), rows, speed)
    return pages.fill(
        "published.md",
        reports=pages.rows(compared),
        reached=sum(not cells[-1].startswith("-") for cells in compared),
        compared=len(compared),
        programs=programs_table(rows, speed),
        ratios="\n".join(ratios(rows, speed)),
        machines=bench.lettered(rows),
    )


def reports_cells(reports: list[Report], rows: list[Row], speed: list[bench.Row]) -> list[list[str]]:
    """What others report beside what the programs reached and the models reach on average, as cells."""
    programs = {row.name: row for row in rows}
    models = {row.model: row for row in bench.of_models(speed)}
    cells = []
    for report in reports:
        if report.here in programs:
            name, what, mean = report.here, PROGRAMS[report.here].what, programs[report.here].accuracy
            shown = f"{100 * mean:.2f}"
        elif report.here in models:
            found = models[report.here]
            name, what, mean = f"`{found.model}`", found.summary, found.accuracy_mean
            shown = bench.percent(found)
        else:  # not measured, or removed from params.yaml
            continue
        difference = 100 * mean - float(report.percent.rpartition("–")[2])
        source = f"[{report.title}]({report.address})" if report.address else report.title
        source += f", {report.dated}" if report.dated else ""
        cells.append([source, report.what, report.percent, name, what, shown, f"{difference:+.1f}"])
    return cells


def programs_table(rows: list[Row], speed: list[bench.Row]) -> str:
    """Each program and the model that is nearest to it, timed on the same machine, as Markdown."""
    ours, letters = {(row.model, row.machine): row for row in speed}, bench.machines(rows)
    cells = []
    for row in rows:
        program = PROGRAMS[row.name]
        compared = [(row.name, program.what, row.accuracy, row.seconds, row.seconds_to_99)]
        if model := ours.get((program.beside, row.machine)):
            times = model.training_seconds, model.seconds_to_99
            compared.append((f"`{model.model}`", model.summary, model.accuracy_mean, *times))
        for name, what, accuracy, spent, to_99 in compared:
            took = bench.seconds(spent), bench.seconds(to_99)
            cells.append([name, what, letters[row.machine], f"{100 * accuracy:.2f}", *took])
    return pages.rows(cells)


def ratios(rows: list[Row], speed: list[bench.Row]) -> list[str]:
    """For each program, the fastest models that are as accurate, and that reach GOAL, as a Markdown list.

    Of several seeds on the same machine: a model is as accurate if its mean, less a standard deviation, is.
    """
    lines = []
    for program in rows:
        for accuracy, seconds in ((program.accuracy, program.seconds), (GOAL, program.seconds_to_99)):
            if seconds is None:
                continue
            line = f"- {program.name}: {100 * accuracy:.4g} % after {bench.seconds(seconds)} s. "
            equal = [
                row
                for row in speed
                if row.machine == program.machine
                and row.accuracy_sd is not None
                and row.accuracy_mean - row.accuracy_sd >= accuracy
            ]
            if equal:
                best = min(equal, key=both)
                times = float(f"{seconds / both(best):.1g}")  # one digit
                line += f"`{best.model}`, {100 * best.accuracy_mean:.2f} % on average: "
                line += f"{bench.seconds(both(best))} s, about {times:g} times as fast."
            else:
                line += "None of these models is as accurate, or none was timed on this machine."
            lines.append(line)
    return lines


def both(row: bench.Row) -> float:
    """Seconds to train and to predict the test images, which is where nearest neighbours spend them."""
    return row.training_seconds + row.prediction_seconds


if __name__ == "__main__":
    command.run(main)
