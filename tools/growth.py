"""Measure how seconds and memory grow with the images, the batch size and the threads.

    make growth      (python -m tools.growth)

Writes docs/growth.csv and draws docs/growth.png from it. Takes some twelve minutes.
"""

import csv
import tempfile
from pathlib import Path

from stages.common import command, environment

if __name__ == "__main__":
    environment.prepare()

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from stages.pictures import style
from tools import bench, machine

PICTURE = Path("docs/growth.png")
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


def main() -> None:
    command.no_arguments(__doc__)
    data = bench.ROOT / "data"
    rows = []
    for model in (*NETWORKS, *CLASSIC, *SLOW):
        for share in SHARES:
            if model in SLOW and share > 1:
                continue
            with tempfile.TemporaryDirectory() as temporary:
                row = measure(model, "images", repeated(data, share, Path(temporary)), {})
            if share > 1:
                row["validation_accuracy"] = None  # among the copies are those of the held-out images
            rows.append(row)
        for threads in THREADS:
            rows.append(measure(model, "threads", data, {"threads": threads}))
    for model in NETWORKS:
        for size in BATCH_SIZES:
            rows.append(measure(model, "batch_size", data, {f"{model.replace('/', '.')}.batch_size": size}))
    with bench.GROWTH.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    style.save(PICTURE, draw, pd.read_csv(bench.GROWTH))
    bench.publish()


def measure(model: str, what: str, data: Path, changes: dict[str, int]) -> dict[str, object]:
    """A row of docs/growth.csv. Networks hold out 5,000 images where there are that many to spare."""
    images = len(np.load(data / "train_labels.npy", mmap_mode="r"))
    changes = changes | {"data.validation_images": min(5000, images // 12)}
    if not model.startswith("sklearn/"):
        changes |= {f"{model.replace('/', '.')}.validation_images": changes["data.validation_images"]}
    run = bench.run(model, data, changes)
    last = run.history[-1]["validation_accuracy"] if run.history else None
    row = {
        "model": model,
        "what": what,
        "value": images if what == "images" else next(iter(changes.values())),
        "training_seconds": run.training_seconds,
        "prediction_seconds": run.prediction_seconds,
        "peak_mebibytes": round(run.peak_mebibytes),
        "validation_accuracy": last,
        "machine": machine.describe(),
    }
    print(*row.values(), flush=True)
    return row


def repeated(data: Path, share: float, folder: Path) -> Path:
    """The arrays of `data` in `folder`, with this share of the training images; above 1 they repeat."""
    for path in data.glob("*.npy"):
        array = np.load(path)
        if path.name.startswith("train"):
            count = round(share * len(array))
            array = np.concatenate([array] * -(-count // len(array)))[:count]
        np.save(folder / path.name, array)
    return folder


def draw(table: pd.DataFrame) -> Figure:
    """Six panels: seconds and memory against images and batch size, accuracy, and threads."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 9), layout="constrained")
    table = table.assign(seconds=table.training_seconds + table.prediction_seconds)
    images, batches, threads = (table[table.what == what] for what in ("images", "batch_size", "threads"))
    panel(axes[0, 0], images, "seconds", "training images", "training and prediction (s)", power=True)
    panel(axes[1, 0], images, "peak_mebibytes", "training images", "peak memory (MiB)")
    panel(axes[0, 1], batches, "training_seconds", "batch size (images)", "training (s)")
    panel(axes[1, 1], batches, "peak_mebibytes", "batch size (images)", "peak memory (MiB)")
    wrong = batches.assign(wrong=100 * (1 - batches.validation_accuracy.astype(float)))
    panel(axes[0, 2], wrong, "wrong", "batch size (images)", "wrong held-out images (%)")
    seconds = threads.pivot(index="model", columns="value", values="seconds")
    gain = (seconds[1] / seconds[2]).sort_values()
    bars = axes[1, 2].barh(gain.index, gain, color=[style.colour_of(m) for m in gain.index])
    axes[1, 2].bar_label(bars, [f"{value:.2f}" for value in gain], padding=4)
    axes[1, 2].set(xlabel="times faster on two threads than on one", ylabel="model", title="Two threads")
    axes[1, 2].margins(x=0.15)
    for axis, title in zip(
        axes.flat[:5],
        (
            "Time by images",
            "Time by batch size",
            "Error by batch size",
            "Memory by images",
            "Memory by batch size",
        ),
        strict=True,
    ):
        axis.set_title(title)
    return figure


def panel(
    axis: plt.Axes, table: pd.DataFrame, column: str, x_label: str, y_label: str, power: bool = False
) -> None:
    """A line a model, both axes logarithmic. power: name the exponent of the growth."""
    for number, (model, rows) in enumerate(table.groupby("model", sort=False)):
        label = model
        if power:
            label += f": n^{exponent(rows.value, rows[column]):.2f}"
        axis.plot(rows.value, rows[column], marker="os^Dv<>p"[number], markersize=5, label=label)
    ticks = sorted(table.value.unique())
    axis.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
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
