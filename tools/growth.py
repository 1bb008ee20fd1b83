"""Measure how seconds and memory grow with the images, the batch size and the threads.

    make growth      (python -m tools.growth)

Writes docs/growth.csv and draws docs/growth.png from it. Takes some twelve minutes.
"""

import tempfile
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from stages.console import command
from stages.pictures import style
from tools import bench, pages, projects

TABLE, PICTURE = Path("docs/growth.csv"), Path("docs/growth.png")
SHARES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
"""Of the training images; more than all are the same images again."""
BATCH_SIZES = (32, 64, 128, 256, 512, 1024)
THREADS = (1, 2)
FIT_FROM, FIT_TO = 15_000, 60_000
"""Images from which a time is more than its beginning, and to which none is a copy."""
NETWORKS = ("pytorch/sprint", "tensorflow/sprint", "scratch/mlp_relu")
CLASSIC = ("sklearn/logistic_regression", "sklearn/knn_3", "sklearn/extra_trees", "sklearn/boosted_trees")
SLOW = ("sklearn/svm",)
"""Not tried with more images than there are: its cost grows faster than they do."""


@dataclass(frozen=True)
class Row:
    """A line of docs/growth.csv: one run. what: what varies, and its value."""

    model: str
    what: str
    value: int
    training_seconds: float
    prediction_seconds: float
    peak_mebibytes: int
    validation_accuracy: float | None
    machine: str


def main() -> None:
    command.no_arguments(__doc__)
    projects.chosen([])  # are there images?
    images = len(np.load(projects.DATA / "train_labels.npy"))
    rows = []
    for model in (*NETWORKS, *CLASSIC, *SLOW):
        for share in SHARES:
            if model not in SLOW or share <= 1:
                with tempfile.TemporaryDirectory() as folder:
                    data = projects.resize(Path(folder), round(share * images))
                    rows.append(measure(model, "images", round(share * images), {}, data, copies=share > 1))
        rows += [measure(model, "threads", threads, {"threads": threads}) for threads in THREADS]
    for model in NETWORKS:
        key = f"{model.replace('/', '.')}.batch_size"
        rows += [measure(model, "batch_size", size, {key: size}) for size in BATCH_SIZES]
    pages.write_rows(TABLE, rows)
    style.save(PICTURE, picture)


def measure(
    model: str,
    what: str,
    value: int,
    changes: dict[str, Any],
    data: Path = projects.DATA,
    copies: bool = False,
) -> Row:
    """Run a model with changes of params.yaml. copies: whether held-out images are trained on, too."""
    run = bench.run(model, changes, data)
    last = run.history[-1]["validation_accuracy"] if run.history else None
    row = Row(
        model=model,
        what=what,
        value=value,
        training_seconds=run.timings.training_seconds,
        prediction_seconds=run.timings.prediction_seconds,
        peak_mebibytes=run.timings.peak_mebibytes,
        validation_accuracy=None if copies else last,
        machine=pages.this_machine(),
    )
    print(*astuple(row), flush=True)
    return row


def picture() -> Figure:
    """The picture of docs/growth.csv."""
    return draw(pd.DataFrame(map(asdict, pages.read_rows(TABLE, Row))))


def draw(table: pd.DataFrame) -> Figure:
    """Six panels: seconds and memory against images and batch size, accuracy, and threads."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 9), layout="constrained")
    table = table.assign(
        seconds=table.training_seconds + table.prediction_seconds,
        wrong=100 * (1 - table.validation_accuracy.astype(float)),
    )
    images, batches, threads = (table[table.what == what] for what in ("images", "batch_size", "threads"))
    by_images, by_batch, memory = "training images", "batch size (images)", "peak memory (MiB)"
    for axis, rows, column, title, x_label, y_label in (
        (axes[0, 0], images, "seconds", "Time by images", by_images, "training and prediction (s)"),
        (axes[0, 1], batches, "training_seconds", "Time by batch size", by_batch, "training (s)"),
        (axes[0, 2], batches, "wrong", "Error by batch size", by_batch, "wrong held-out images (%)"),
        (axes[1, 0], images, "peak_mebibytes", "Memory by images", by_images, memory),
        (axes[1, 1], batches, "peak_mebibytes", "Memory by batch size", by_batch, memory),
    ):
        plot(axis, rows, column, power=column == "seconds")
        axis.set(title=title, xlabel=x_label, ylabel=y_label)
    times = threads.pivot(index="model", columns="value", values="seconds")
    gain = (times[1] / times[2]).sort_values()
    bars = axes[1, 2].barh(gain.index, gain, color=[style.colour_of(m) for m in gain.index])
    axes[1, 2].bar_label(bars, [f"{value:.2f}" for value in gain], padding=4)
    axes[1, 2].set(xlabel="times faster on two threads than on one", ylabel="model", title="Two threads")
    axes[1, 2].margins(x=0.15)
    return figure


def plot(axis: plt.Axes, table: pd.DataFrame, column: str, power: bool) -> None:
    """A line a model, both axes logarithmic. power: name the exponent of the growth."""
    for number, (model, rows) in enumerate(table.groupby("model", sort=False)):
        label = model
        if power:
            label += f": n^{exponent(rows.value, rows[column]):.2f}"
        axis.plot(rows.value, rows[column], marker="os^Dv<>p"[number], markersize=5, label=label)
    ticks = sorted(table.value.unique())
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:,g}")
    low, high = table[column].min(), table[column].max()
    axis.set_ylim(low * 0.8, high * (high / low) ** 0.6 * 1.3)  # room for the legend
    axis.legend(fontsize=8, loc="upper left")


def exponent(images: pd.Series, seconds: pd.Series) -> float:
    """p of the line seconds = c · images^p through the points from FIT_FROM to FIT_TO images."""
    enough = images.between(min(FIT_FROM, images.max() / 2), FIT_TO)
    return float(np.polyfit(np.log(images[enough]), np.log(seconds[enough].clip(lower=1e-3)), 1)[0])


if __name__ == "__main__":
    command.run(main)
