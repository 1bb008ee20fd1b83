"""Measure every model: accuracy over several seeds, seconds, memory.

    make bench                                            all models, five seeds
    make bench MODELS="pytorch/sprint sklearn/knn_3" SEEDS=10

Writes docs/speed.csv; `make bench` then has tools/readme.py make docs/speed.md and the README's table of it.
Models that are not named keep their rows.

Each run is the stage itself in a process of its own, in a folder of its own, with another seed in its
params.yaml, so what is measured is what `dvc repro` does. The stage's stopwatches leave out
imports and reading; a short run on a thousand images comes first, to have the libraries read from disk.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()  # the product of matrices, too, is measured with `threads`

import numpy as np

from apps import trials
from stages.common import architecture, results
from stages.console import command
from stages.console.errors import UserError
from tools import pages, projects

TABLE = Path("docs/speed.csv")
WARM_UP_IMAGES = 1000


@dataclass(frozen=True)
class Run:
    """One training of a model and its prediction of the test images.

    start_seconds: what the process takes beside these two: imports, reading, writing. history: history.csv.
    """

    accuracy: float
    timings: results.Timings
    description: results.Description
    start_seconds: float
    history: list[dict[str, float | None]]


def run(model: str, changes: dict[str, Any], data: Path = projects.DATA) -> Run:
    """Run the stage of `model`, such as pytorch/sprint, on the images in the folder `data`.

    changes: values of params.yaml by dotted key, for this run alone.
    """
    with tempfile.TemporaryDirectory() as temporary:
        project = trials.lay_out(Path(temporary), *trials.changed(model, changes), data)
        result, whole = trials.cold(project, model)
    timings, predicted = result.timings(), result.predictions().argmax(axis=1)
    return Run(
        accuracy=float(np.mean(predicted == np.load(data / "test_labels.npy"))),
        timings=timings,
        description=result.description(),
        start_seconds=whole - timings.training_seconds - timings.prediction_seconds,
        history=result.history,
    )


@dataclass(frozen=True)
class Row:
    """A line of docs/speed.csv. Seconds are medians, `_low` and `_high` the least and the most."""

    model: str
    seeds: int
    accuracy_mean: float
    accuracy_sd: float | None  # of one run, from seed to seed
    training_seconds: float
    training_seconds_low: float
    training_seconds_high: float
    prediction_seconds: float
    prediction_seconds_low: float
    prediction_seconds_high: float
    start_seconds: float
    images_per_second: int  # while training; every epoch counts
    seconds_to_98: float | None
    seconds_to_99: float | None
    peak_mebibytes: int
    parameters: int | None
    multiply_adds: int | None  # of one image, forward
    matmul_gflops: float  # what this machine's matrix product reached beside
    matmul_share: float | None  # how much of that training reached
    machine: str  # that measured it


def measure(model: str, seeds: int) -> Row:
    """Run `model` with the seeds 0, 1, …, one after the other, and sum up."""
    runs, rates = [], []
    for seed in range(seeds):
        rates.append(matmul_gflops())
        runs.append(one := run(model, {"seed": seed}))
        print(
            f"{model} seed {seed}: {one.accuracy:.2%}, {one.timings.training_seconds:.1f} s to train, "
            f"{one.timings.prediction_seconds:.1f} s to predict",
            flush=True,
        )
    described, device = runs[0].description, runs[0].timings.device
    seen = described.training_images * max(1, len(runs[0].history))
    training = [one.timings.training_seconds for one in runs]
    prediction = [one.timings.prediction_seconds for one in runs]
    rate, spent = statistics.median(rates), statistics.median(training)
    multiplications = multiply_adds(described)
    forward = sum(multiplications)
    backward = 2 * forward - sum(multiplications[:1])  # the images need no gradient
    return Row(
        model=model,
        seeds=seeds,
        accuracy_mean=round(statistics.mean(one.accuracy for one in runs), 6),
        accuracy_sd=round(statistics.stdev(one.accuracy for one in runs), 6) if seeds > 1 else None,
        training_seconds=round(spent, 3),
        training_seconds_low=min(training),
        training_seconds_high=max(training),
        prediction_seconds=round(statistics.median(prediction), 3),
        prediction_seconds_low=min(prediction),
        prediction_seconds_high=max(prediction),
        start_seconds=round(statistics.median(one.start_seconds for one in runs), 2),
        images_per_second=round(seen / spent),
        seconds_to_98=seconds_to(0.98, runs),
        seconds_to_99=seconds_to(0.99, runs),
        peak_mebibytes=round(statistics.median(one.timings.peak_mebibytes for one in runs)),
        parameters=described.parameters,
        multiply_adds=forward or None,
        matmul_gflops=round(rate, 1),
        matmul_share=round(2 * (forward + backward) * seen / spent / rate / 1e9, 3) if forward else None,
        machine=pages.trained_on([runs[0].timings]) + (f", {device}" if device != "cpu" else ""),
    )


def seconds_to(accuracy: float, runs: list[Run]) -> float | None:
    """Median seconds of training until the validation accuracy is reached, None if a run never does.

    Known to the epoch. The test accuracy at the end must be there, too; of models without validation
    images, or without epochs, it alone decides.
    """
    if min(one.accuracy for one in runs) < accuracy:
        return None
    seconds = []
    for one in runs:
        reached = [epoch["validation_accuracy"] for epoch in one.history]
        if not reached or reached[-1] is None:
            reached = [*[0.0] * (len(reached) - 1), one.accuracy]
        number = next((i for i, value in enumerate(reached, start=1) if value >= accuracy), None)
        if number is None:
            return None
        seconds.append(one.timings.training_seconds * number / len(reached))
    return round(statistics.median(seconds), 2)


def multiply_adds(description: results.Description) -> list[int]:
    """Multiplications of each layer of a network for one image, forward; none of a model that is no network.

    Layers that do not multiply by weights are left out.
    """
    if description.architecture is None:
        return []
    layers = architecture.parse(description.architecture)
    layers = architecture.fit(layers, description.image_size, len(description.classes))
    counts = []
    shapes = zip(layers.layers, architecture.input_shapes(layers), architecture.shapes(layers), strict=True)
    for layer, shape, output_shape in shapes:
        match layer:
            case architecture.Conv():
                counts.append(int(np.prod(output_shape)) * shape[0] * layer.kernel**2)
            case architecture.Dense():
                counts.append(int(np.prod(shape)) * layer.units)
    return counts


def matmul_gflops(size: int = 2048) -> float:
    """10⁹ operations a second in NumPy's float32 matrix product: the best of five."""
    a = np.random.default_rng(0).random((size, size), np.float32)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


FEWEST = 5
"""Seeds from which on a standard deviation is shown."""


def cells(row: Row) -> dict[str, str]:
    """A row of docs/speed.csv as a row of the tables, by the columns' heads."""
    percent = f"{100 * row.accuracy_mean:.2f}"
    if row.seeds >= FEWEST:
        percent += f" ± {100 * row.accuracy_sd:.2f}"
    training = f"{row.training_seconds:.1f} ({row.training_seconds_low:.1f}–{row.training_seconds_high:.1f})"
    low, high = row.prediction_seconds_low, row.prediction_seconds_high
    return {
        "model": f"`{row.model}`",
        "seeds": f"{row.seeds}",
        "accuracy, mean ± sd (%)": percent,
        "training (s)": training,
        "prediction (s)": f"{row.prediction_seconds:.2f} ({low:.2f}–{high:.2f})",
        "start (s)": f"{row.start_seconds:.1f}",
        "images/s": f"{row.images_per_second:,.0f}",
        "s to 98 %": pages.figure(row.seconds_to_98, ".1f"),
        "s to 99 %": pages.figure(row.seconds_to_99, ".1f"),
        "memory (MiB)": f"{row.peak_mebibytes:,.0f}",
        "parameters": pages.figure(row.parameters, ","),
        "multiply-adds": pages.figure(row.multiply_adds, ","),
        "of matmul": pages.figure(row.matmul_share, ".1%"),
    }


ONLY_ON_THE_PAGE = ("start (s)", "s to 98 %", "s to 99 %", "parameters", "multiply-adds", "of matmul")


def table(rows: list[Row], leave_out: tuple[str, ...] = ()) -> str:
    """The rows as a Markdown table without some columns, the most accurate model first."""
    shown = [cells(row) for row in sorted(rows, key=lambda row: -row.accuracy_mean)]
    heads = [head for head in shown[0] if head not in leave_out]
    return pages.table(heads, [[row[head] for head in heads] for row in shown])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="framework/model", help="all, if none is named")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each model (5)")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        raise UserError(f"--seeds is {arguments.seeds}; allowed: 1 and more")
    chosen = projects.chosen(arguments.models)
    with tempfile.TemporaryDirectory() as folder:
        few = projects.resize(Path(folder), WARM_UP_IMAGES, WARM_UP_IMAGES)
        for model in chosen:
            run(model, {}, few)
            pages.keep_rows(TABLE, [measure(model, arguments.seeds)], projects.models())


if __name__ == "__main__":
    command.run(main)
