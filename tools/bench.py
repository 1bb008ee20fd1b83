"""Measure every model on this machine: accuracy and calibration over several seeds, seconds, memory.

    make bench                                            what this machine has not measured with five seeds
    make bench MODELS="pytorch/sprint sklearn/knn_3" SEEDS=10      these anew

Writes each model's row into docs/speed.csv as soon as it is measured, so that a run that was stopped goes on
where it was. Rows of other machines stay, unless the model's recipe has changed since. `make bench` then has
tools/readme.py make the README's table and picture, and docs/speed.md.

Each run is the stage itself in a process of its own, in a folder of its own, with another seed in its
params.yaml, so what is measured is what `dvc repro` does. The stage's stopwatches leave out
imports and reading; a short run on a thousand images comes first, to have the libraries read from disk.
"""

import argparse
import hashlib
import json
import math
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
import pandas as pd
from matplotlib.figure import Figure

from apps import trials
from apps.scheduling import trainer
from stages.common import architecture, dataset, results
from stages.console import command
from stages.console.errors import UserError
from stages.evaluation import scores
from stages.pictures import overall
from tools import pages, projects

TABLE, PICTURE = Path("docs/speed.csv"), Path("docs/accuracy_by_seconds.png")
WARM_UP_IMAGES = 1000


@dataclass(frozen=True)
class Run:
    """One training of a model and its prediction of the test images.

    accuracy, calibration_error: of the test images. validation_accuracy: None if no images are held out.
    start_seconds: what the process takes beside these two: imports, reading, writing. history: history.csv.
    """

    accuracy: float
    calibration_error: float
    validation_accuracy: float | None
    test_images: int
    timings: results.Timings
    description: results.Description
    start_seconds: float
    history: list[dict[str, float | None]]


def run(model: str, changes: dict[str, Any], data: Path = projects.DATA) -> Run:
    """Run the stage of `model`, such as pytorch/sprint, on the images in the folder `data`.

    changes: values of params.yaml by dotted key, for this run alone.
    """
    with tempfile.TemporaryDirectory() as temporary:
        project = trainer.lay_out(Path(temporary), *trials.changed(model, changes), data)
        result, whole = trials.cold(project, model)
    timings, description = result.timings(), result.description()
    train, test = (np.load(data / f"{part}_labels.npy") for part in ("train", "test"))
    found, _ = scores.assess(test, result.predictions(), description.classes)
    held_out = train[dataset.held_out(train, description.validation_images)]
    return Run(
        accuracy=found["accuracy"],
        calibration_error=found["calibration_error"],
        validation_accuracy=scores.accuracy(held_out, result.validation()) if len(held_out) else None,
        test_images=len(test),
        timings=timings,
        description=description,
        start_seconds=whole - timings.training_seconds - timings.prediction_seconds,
        history=result.history,
    )


@dataclass(frozen=True)
class Row:
    """A line of docs/speed.csv: a model on a machine.

    Seconds are medians, `_low` and `_high` the least and the most; `_sd` is of one run, from seed to seed.
    What the oldest rows lack was not yet measured then.
    """

    model: str
    machine: str
    side_by_side: int  # how many stages ran at once there, this one included, at the most
    recipe: str | None  # fingerprint of what was asked for, see `recipe`
    summary: str  # what the model is, in a few words
    seeds: int
    test_images: int
    accuracy_mean: float
    accuracy_sd: float | None
    validation_accuracy: float | None  # mean
    calibration_error: float | None  # mean
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
    validated = [one.validation_accuracy for one in runs if one.validation_accuracy is not None]
    return Row(
        model=model,
        machine=pages.described(runs[0].timings) + (f", {device}" if device != "cpu" else ""),
        side_by_side=max(one.timings.side_by_side for one in runs),
        recipe=recipe(model),
        summary=described.summary,
        seeds=seeds,
        test_images=runs[0].test_images,
        accuracy_mean=round(statistics.mean(one.accuracy for one in runs), 6),
        accuracy_sd=round(statistics.stdev(one.accuracy for one in runs), 6) if seeds > 1 else None,
        validation_accuracy=round(statistics.mean(validated), 6) if validated else None,
        calibration_error=round(statistics.mean(one.calibration_error for one in runs), 6),
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
    )


def recipe(model: str) -> str:
    """A fingerprint of the model's entry in params.yaml, its layers, and the images that it trains on."""
    framework, name = model.split("/")
    content, layers = trials.changed(model, {})
    asked = content[framework][name], layers, content["data"]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]


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


LETTERS = "ABCDEFGH"


def machines(rows: list[Any]) -> dict[str, str]:
    """A letter for each machine of these rows, the one with the most rows first."""
    names = [row.machine for row in rows]
    return dict(zip(sorted(set(names), key=lambda name: (-names.count(name), name)), LETTERS, strict=False))


def legend(rows: list[Row]) -> str:
    """What the table of results needs to be read, as sentences."""
    text = "n: seeds; ±: standard deviation from seed to seed. The interval is Wilson's, of the mean: it "
    text += "covers other test images, not other seeds. Seconds are medians of models that trained alone"
    text += r", \* where other stages ran beside. " if any(map(star, rows)) else ". "
    text += "`make` trains several at once, each with the `threads` of params.yaml, which takes longer. "
    return f"{text}{lettered(rows)}."


def lettered(rows: list[Any]) -> str:
    """The machines of these rows, each after its letter."""
    return "; ".join(f"{letter}: {machine}" for machine, letter in machines(rows).items())


def percent(row: Row) -> str:
    """Mean ± standard deviation in %, with no more digits than the deviation allows, and at most two."""
    mean, sd = 100 * row.accuracy_mean, 100 * (row.accuracy_sd or 0)
    digits = min(2, max(0, -math.floor(math.log10(sd)))) if sd else 2
    return f"{mean:.{digits}f} ± {sd:.{digits}f}" if row.accuracy_sd is not None else f"{mean:.{digits}f}"


def star(row: Row) -> str:
    """A mark for times that are too long, because other stages ran beside."""
    return r"\*" if row.side_by_side > 1 else ""


def seconds(value: float | None) -> str:
    """Seconds with two digits, for equal runs differ by some per cent, and two places at the most."""
    rounded = float(f"{value or 0:.2g}")
    return f"{rounded:.{min(2, max(0, 1 - math.floor(math.log10(rounded))))}f}" if rounded else ""


def of_models(rows: list[Row]) -> list[Row]:
    """For each model the row that says most of its accuracy, the most accurate model first."""
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row.calibration_error is not None, row.seeds)):
        best[row.model] = row
    return sorted(best.values(), key=lambda row: -row.accuracy_mean)


def results_table(rows: list[Row]) -> str:
    """README.md's table: a model a line, its seconds on each machine in a column; no empty columns."""
    lettered, times = machines(rows), {(row.model, row.machine): row for row in rows}
    heads = ["model", "n", "test accuracy (%)", "95 % interval", "validation (%)", "calibration error (%)"]
    heads += ["parameters", *(f"s to train, {letter}" for letter in lettered.values())]
    cells = []
    for row in of_models(rows):
        images = row.test_images
        low, high = scores.wilson_interval(round(row.accuracy_mean * images), images)
        validation, error = (
            pages.figure(value and 100 * value, form)
            for value, form in ((row.validation_accuracy, ".1f"), (row.calibration_error, ".1f"))
        )
        taken = [times.get((row.model, machine)) for machine in lettered]
        cells.append(
            [f"`{row.model}`", f"{row.seeds}", percent(row), f"{100 * low:.1f} – {100 * high:.1f}"]
            + [validation, error, pages.figure(row.parameters, ",")]
            + ["" if one is None else seconds(one.training_seconds) + star(one) for one in taken]
        )
    shown = [place for place in range(len(heads)) if any(line[place] for line in cells)]
    return pages.table([heads[i] for i in shown], [[line[i] for i in shown] for line in cells])


def cells(row: Row) -> dict[str, str]:
    """A row of docs/speed.csv as a row of docs/speed.md, by the columns' heads."""
    low, high = seconds(row.training_seconds_low), seconds(row.training_seconds_high)
    return {
        "model": f"`{row.model}`" + star(row),
        "training (s)": f"{seconds(row.training_seconds)} ({low} – {high})",
        "prediction (s)": seconds(row.prediction_seconds),
        "start (s)": seconds(row.start_seconds),
        "images/s": f"{float(f'{row.images_per_second:.2g}'):,.0f}",
        "s to 98 %": seconds(row.seconds_to_98),
        "s to 99 %": seconds(row.seconds_to_99),
        "memory (MiB)": f"{row.peak_mebibytes:,.0f}",
        "multiply-adds": pages.figure(row.multiply_adds, ","),
        "of matmul": pages.figure(row.matmul_share, ".0%"),
    }


def speed_tables(rows: list[Row]) -> str:
    """A Markdown table a machine, the fastest model first."""
    parts = []
    for machine, letter in machines(rows).items():
        here = [row for row in rows if row.machine == machine]
        gflops = statistics.median(row.matmul_gflops for row in here)
        shown = [cells(row) for row in sorted(here, key=lambda row: row.training_seconds)]
        table = pages.table(list(shown[0]), [list(row.values()) for row in shown])
        parts.append(f"{letter}: {machine}; product of matrices {gflops:.0f} GFLOP/s.\n\n{table}")
    return "\n\n".join(parts)


def picture() -> Figure:
    """Error against training time, on the machine that has measured the most models."""
    rows = pages.read_rows(TABLE, Row)
    machine = next(iter(machines(rows)))
    here = {row.model: row for row in rows if row.machine == machine}
    errors = pd.Series({model: 1 - row.accuracy_mean for model, row in here.items()})
    times = pd.Series({model: row.training_seconds for model, row in here.items()})
    return overall.draw_cost(times, errors, "training time (s)")


def keep(row: Row) -> None:
    """Put a row into docs/speed.csv in place of the machine's earlier one, and of those of other recipes."""
    rows = [
        old
        for old in pages.read_rows(TABLE, Row)
        if old.model != row.model or (old.recipe == row.recipe and old.machine != row.machine)
    ]
    order = {model: place for place, model in enumerate(projects.models())}
    rows = [one for one in (*rows, row) if one.model in order]
    pages.write_rows(TABLE, sorted(rows, key=lambda one: (order[one.model], one.machine)))


def missing(models: list[str], seeds: int) -> list[str]:
    """The models that this machine has not measured with so many seeds and today's recipe."""
    here = pages.this_machine()
    done = {
        row.model
        for row in pages.read_rows(TABLE, Row)
        if row.machine.startswith(here) and row.seeds >= seeds and row.calibration_error is not None
        if row.recipe == recipe(row.model)
    }
    return [model for model in models if model not in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "models", nargs="*", metavar="framework/model", help="what is missing, if none is named"
    )
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each model (5)")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        raise UserError(f"--seeds is {arguments.seeds}; allowed: 1 and more")
    chosen = projects.chosen(arguments.models)
    if not arguments.models:
        chosen = missing(chosen, arguments.seeds)
    with tempfile.TemporaryDirectory() as folder:
        few = projects.resize(Path(folder), WARM_UP_IMAGES, WARM_UP_IMAGES)
        for model in chosen:
            run(model, {}, few)
            keep(measure(model, arguments.seeds))


if __name__ == "__main__":
    command.run(main)
