"""Put what others report, and how well-known programs train, beside this pipeline.

    make published      (python -m tools.published --measure)
    make readme         writes the page again with the pipeline's present accuracies

Writes docs/published.md from outputs/{metrics,timings}/ and docs/published.csv. `--measure` writes that
first: it trains well-known programs (tools/well_known/) and models of params.yaml one after the other, on
the processor, each in a process of its own, in some twenty minutes.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from stages.common import command, dataset, params, results
from tools import bench, machine

TABLE = Path("docs/published.csv")
PAGE = Path("docs/published.md")


@dataclass(frozen=True)
class Report:
    """An accuracy on MNIST's test images that somebody reports, and the model here to hold against it."""

    whose: str
    what: str
    percent: str  # or a range, whose upper end is held against the model
    model: str


NOTEBOOK = "a notebook with scikit-learn and Keras"
ONE_CNN = "a project with one PyTorch network"
THREE_WAYS = "a project with PyTorch, TensorFlow and NumPy"
THREE_NETWORKS = "a notebook with three PyTorch networks"
SCRIPTS = "scripts for PyTorch and TensorFlow"
REPORTS = (
    Report(NOTEBOOK, "logistic regression", "91.3", "sklearn/logistic_regression"),
    Report(NOTEBOOK, "5 nearest neighbours", "96.8", "sklearn/knn_5"),
    Report(NOTEBOOK, "random forest", "96.2", "sklearn/random_forest"),
    Report(NOTEBOOK, "convolutional network, Keras", "98.7", "tensorflow/cnn"),
    Report(ONE_CNN, "convolutional network, SGD, 7 epochs", "98.56", "pytorch/cnn_sgd"),
    Report(THREE_WAYS, "convolutional network, PyTorch", "98–99", "pytorch/cnn_wide"),
    Report(THREE_WAYS, "convolutional network, Keras", "98–99", "tensorflow/cnn_wide"),
    Report(THREE_WAYS, "multilayer perceptron, NumPy", "92–95", "scratch/mlp_sigmoid"),
    Report(THREE_NETWORKS, "two dense layers", "91.94", "pytorch/linear"),
    Report(THREE_NETWORKS, "the same with a ReLU too many", "73.27", "pytorch/relu_bottleneck"),
    Report(THREE_NETWORKS, "small VGG, 3 epochs", "98.57", "pytorch/tiny_vgg"),
    Report(SCRIPTS, "convolutional network, PyTorch", "97–98", "pytorch/cnn_dropout"),
    Report(SCRIPTS, "convolutional network, Keras", "97–98", "tensorflow/cnn_dropout"),
    Report("scikit-learn's benchmark", "random forest, 100 trees", "96.8", "sklearn/random_forest"),
    Report("scikit-learn's benchmark", "extra trees, 100 trees", "97.1", "sklearn/extra_trees"),
    Report("scikit-learn's default", "logistic regression", "92.0", "sklearn/logistic_regression"),
    Report("exact, by any correct program", "3 nearest neighbours", "97.05", "sklearn/knn_3"),
    Report("exact, by any correct program", "5 nearest neighbours", "96.88", "sklearn/knn_5"),
    Report(
        "Nielsen, *Neural Networks and Deep Learning*",
        "784-100-10, plain Python, 60 epochs, on validation images",
        "98.04",
        "scratch/mlp_relu",
    ),
    Report(
        "cybertronai/schmidhuber-problems",
        "multilayer perceptron, moved images, 79 s on a processor",
        "98.83",
        "pytorch/mlp_augmented",
    ),
    Report("tuomaso/train_mnist_fast", "0.76 s on a laptop's GPU, one epoch", "99.04", "pytorch/sprint"),
    Report(
        "ttdoucet/mnist",
        "single network, mean of 10, five minutes on a P100",
        "99.738",
        "pytorch/champion",
    ),
    Report(
        "arXiv:2008.10400",
        "vote of three networks, epochs chosen on the test images",
        "99.87",
        "ensemble/vote",
    ),
    Report(
        "arXiv:2008.10400",
        "ensemble of two levels, epochs chosen on the test images",
        "99.91",
        "ensemble/mean",
    ),
)


@dataclass(frozen=True)
class Program:
    """A well-known program: the module that trains as it does, and its number of epochs."""

    title: str
    module: str
    arguments: tuple[str, ...]
    epochs: int


PROGRAMS = (
    Program("pytorch/examples, `mnist`", "pytorch", ("example",), 14),
    Program("keras.io, “Simple MNIST convnet”", "keras", (), 15),
    Program(f"{ONE_CNN} (`cnn_sgd`)", "pytorch", ("plain_sgd",), 7),
)
OURS = ("pytorch/sprint", "pytorch/cnn_sgd", "tensorflow/sprint", "pytorch/pocket", "pytorch/champion")
GOAL = 0.99


@dataclass(frozen=True)
class Row:
    """A line of docs/published.csv: a program, or a model of params.yaml, trained once with seed 0."""

    name: str
    epochs: int
    accuracy: float  # on the test images, after the last epoch
    seconds: float  # of training, all epochs
    seconds_to_99: float | None  # until the test accuracy is first there; of programs only
    machine: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--measure", action="store_true", help="train the well-known programs first")
    arguments = parser.parse_args()
    if (data := params.read("data.dataset", str)) != "mnist":
        print(f"{PAGE} is about mnist, and params.yaml's data.dataset is {data}: left as it is")
        return
    if arguments.measure:
        if not (dataset.FOLDER / "test_labels.npy").is_file():
            raise command.UserError("data/ is empty: run `dvc repro download_mnist` first")
        for program in PROGRAMS:
            keep(measure_program(program))
        for model in OURS:
            keep(measure_ours(model))
    PAGE.write_text(page(results.OUTPUTS, read_table()), encoding="utf-8")


def keep(row: Row) -> None:
    """Put a row into docs/published.csv, in place of an earlier one of the same name."""
    known = {one.name: one for one in read_table()} | {row.name: row}
    order = [*(program.title for program in PROGRAMS), *OURS]
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(known[name]) for name in order if name in known)


def measure_program(program: Program) -> Row:
    """Train as `program` does, in a process of its own."""
    called = [sys.executable, "-m", f"tools.well_known.{program.module}", *program.arguments]
    epochs = []
    with subprocess.Popen([*called, str(program.epochs)], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            epochs.append(json.loads(line))
            print(f"{program.title}, epoch {len(epochs)}: {line.strip()}", flush=True)
    if process.returncode:
        raise command.UserError(f"{program.title} failed; see above")
    return sum_up(program.title, epochs)


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
        machine=machine.describe(),
    )


def measure_ours(model: str) -> Row:
    """Train a model of params.yaml as `dvc repro` does, in a process of its own."""
    one = bench.run(model, bench.ROOT / "data", {"seed": 0, "device": "cpu"})
    print(f"{model}: {one.accuracy:.2%}, {one.training_seconds:.1f} s", flush=True)
    return Row(model, len(one.history), one.accuracy, one.training_seconds, None, machine.describe())


def read_table() -> list[Row]:
    """The rows of docs/published.csv, none if there is no such file."""
    if not TABLE.is_file():
        return []
    with TABLE.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                row["name"],
                int(row["epochs"]),
                float(row["accuracy"]),
                float(row["seconds"]),
                float(row["seconds_to_99"]) if row["seconds_to_99"] else None,
                row["machine"],
            )
            for row in csv.DictReader(file)
        ]


def reports_table(outputs: Path) -> str:
    """What others report beside what the pipeline measured, as Markdown."""
    lines = [
        "| whose | what | reported (%) | here | accuracy (%) | 95 % interval | difference |",
        "| --- | --- | ---: | --- | ---: | :---: | ---: |",
    ]
    for report in REPORTS:
        path = outputs / "metrics" / f"{report.model}.json"
        if not path.is_file():  # the model has been removed
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        reported = float(report.percent.rpartition("–")[2])
        accuracy, low, high = (100 * found[key] for key in ("accuracy", "accuracy_low", "accuracy_high"))
        lines.append(
            f"| {report.whose} | {report.what} | {report.percent} | `{report.model}` | {accuracy:.2f} "
            f"| {low:.2f} – {high:.2f} | {accuracy - reported:+.2f} |"
        )
    return "\n".join(lines)


def programs_table(rows: Iterable[Row]) -> str:
    """The programs and models, timed, as Markdown, the fastest last."""
    lines = [
        "| program or model | epochs | test accuracy (%) | training (s) | s an epoch | s to 99 % |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in sorted(rows, key=lambda row: -row.seconds):
        name = row.name if " " in row.name else f"`{row.name}`"
        first = "" if row.seconds_to_99 is None else f"{row.seconds_to_99:.1f}"
        lines.append(
            f"| {name} | {row.epochs} | {100 * row.accuracy:.2f} | {row.seconds:.1f} "
            f"| {row.seconds / row.epochs:.1f} | {first} |"
        )
    return "\n".join(lines)


def ratios(rows: Iterable[Row], accuracies: dict[str, tuple[float, float]]) -> str:
    """For each program, the fastest models that are as accurate, and that reach GOAL, as Markdown.

    accuracies: the models' means and standard deviations over several seeds; one run's is a matter of
    chance, so the mean must be above by a standard deviation.
    """
    ours = [row for row in rows if row.name in OURS]
    lines = []
    for program in (row for row in rows if row.name not in OURS):
        for accuracy, seconds in ((program.accuracy, program.seconds), (GOAL, program.seconds_to_99)):
            if seconds is None:
                continue
            line = f"- {program.name}: {100 * accuracy:.4g} % after {seconds:.0f} s. "
            equal = [row for row in ours if accuracies[row.name][0] - accuracies[row.name][1] >= accuracy]
            if equal:
                best = min(equal, key=lambda row: row.seconds)
                mean, _ = accuracies[best.name]
                line += (
                    f"`{best.name}`, {100 * mean:.2f} % on average: {best.seconds:.1f} s, "
                    f"{seconds / best.seconds:.1f} times as fast."
                )
            else:
                line += "None of these models is as accurate."
            lines.append(line)
    return "\n".join(lines)


def page(outputs: Path, rows: list[Row]) -> str:
    """The text of docs/published.md."""
    accuracies = {
        row["model"]: (float(row["accuracy_mean"]), float(row["accuracy_sd"] or 0))
        for row in bench.read_table(bench.TABLE)
    }
    return TEXT.format(
        reports=reports_table(outputs),
        programs=programs_table(rows),
        ratios=ratios(rows, accuracies),
        machines="; ".join(sorted({row.machine for row in rows})),
    )


TEXT = """\
# What others report, and how long their programs train

Written by `make published`, and again by `make readme`.

## Accuracies

{reports}

On MNIST's 10,000 test images, but where another thing is said; the difference is in percentage points, to
the upper end of a range. Ours are of one run, with seed 0; [speed.md](speed.md) has means over several. The
flaw of the network with a ReLU too many is kept on purpose, and its accuracy is a matter of the first
weights. The interval tells how far an accuracy would move with other test images: a difference of less than
half its width means little.

## Seconds

Two programs that many learn from, and one of the projects above, their recipes written anew in
[tools/well_known/](../tools/well_known) and trained here beside models of params.yaml, each alone on the
processor, with the same threads and environment variables. The programs compute in float32, as they are
published; of ours, those whose entry says `precision: auto` take bfloat16 where the processor has units for
it (AMX), which is part of why they are fast.

{programs}

{ratios}

Measured on: {machines}.

One run each, with seed 0; seconds of training from images in memory, without
imports and tests. *s to 99 %* is the training until the end of the first epoch after which the program is
right about 99 % of the test images: to look there for the epoch is to the program's advantage, so it is not
done with ours, which are tested once, at the end. The list names, for each program at its end and at 99 %,
the fastest of these models whose mean accuracy in speed.md, less its standard deviation, is not below.

Where the time of `pytorch/examples` goes: `torchvision`'s data set turns every image into a picture and back
in Python, and the convolutions, of 32 and 64 channels, see images that are not pooled yet.
"""

if __name__ == "__main__":
    command.run(main)
