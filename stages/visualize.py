"""Draw the tables of `evaluate`.

    python -m stages.visualize

Reads outputs/tables/*.csv. Writes outputs/plots/accuracy.png, training_{loss,accuracy}.png and
confusion/<framework>/<model>.png.
"""

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # pictures without a screen

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from stages.common import command, files, results

TABLES = results.OUTPUTS / "tables"
PLOTS = results.OUTPUTS / "plots"
COLOURS = {"pytorch": "#d1495b", "tensorflow": "#e58a00", "scratch": "#00798c", "sklearn": "#5b5f97"}
UNITS = {"loss": (1, "cross-entropy (nats)"), "accuracy": (100, "accuracy (%)")}
"""What a quantity is multiplied by, and its axis label."""


def main() -> None:
    command.no_arguments(__doc__)
    summary, confusion, history = (
        pd.read_csv(TABLES / f"{name}.csv") for name in ("summary", "confusion", "history")
    )
    accuracies = summary.set_index("model").accuracy
    with files.replacing(PLOTS) as folder, ProcessPoolExecutor() as processes:
        jobs = [
            processes.submit(save, folder / "accuracy.png", draw_accuracies, summary),
            processes.submit(save, folder / "training_loss.png", draw_curves, history, "loss"),
            processes.submit(save, folder / "training_accuracy.png", draw_curves, history, "accuracy"),
        ]
        for model, counts in confusion.groupby("model", sort=False):
            title = f"{model}: {accuracies[model]:.2%} of the test images right"
            path = folder / "confusion" / f"{model}.png"
            jobs.append(processes.submit(save, path, draw_confusion, counts, title))
        for job in jobs:
            job.result()


def save(path: Path, draw: Callable[..., Figure], *arguments: object) -> None:
    """Write what `draw` draws as a PNG whose bytes depend on the picture alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sns.set_theme(style="whitegrid", rc={"figure.dpi": 120, "axes.titlesize": 11, "axes.titleweight": "bold"})
    figure = draw(*arguments)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def draw_accuracies(summary: pd.DataFrame) -> Figure:
    """All accuracies as bars from 0, and beside them the errors with their intervals."""
    rows = summary.sort_values("accuracy")
    colours = [COLOURS[model.split("/")[0]] for model in rows.model]
    figure, (bars, errors) = plt.subplots(
        1, 2, sharey=True, figsize=(11, 1.6 + 0.36 * len(rows)), layout="constrained"
    )
    patches = bars.barh(rows.model, 100 * rows.accuracy, color=colours)
    bars.bar_label(patches, [f"{a:.2%}" for a in rows.accuracy], padding=4, fontsize=9)
    bars.set(xlim=(0, 116), xticks=range(0, 101, 20), xlabel="accuracy (%)", title="Test accuracy")
    bars.grid(axis="y", visible=False)

    error = 100 * (1 - rows.accuracy)
    bounds = [100 * (rows.accuracy_high - rows.accuracy), 100 * (rows.accuracy - rows.accuracy_low)]
    for i, colour in enumerate(colours):
        errors.errorbar(
            error.iloc[i], i, xerr=[[b.iloc[i]] for b in bounds], fmt="o", color=colour, capsize=4
        )
    errors.set_xscale("log")
    lowest, highest = 100 * (1 - rows.accuracy_high.max()), 100 * (1 - rows.accuracy_low.min())
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if lowest / 2 <= t <= highest * 2]
    errors.set_xticks(ticks, [f"{t:g}" for t in ticks])
    errors.minorticks_off()
    errors.set(xlabel="wrong (%), logarithmic", title="Error and its 95 % interval")
    return figure


def draw_curves(history: pd.DataFrame, quantity: str) -> Figure:
    """A panel a model: the training and the validation curve of `quantity` over the epochs."""
    scale, label = UNITS[quantity]
    models = history.model.unique()
    columns = min(4, len(models))
    figure, axes = plt.subplots(
        math.ceil(len(models) / columns),
        columns,
        figsize=(3.1 * columns, 2.6 * math.ceil(len(models) / columns)),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(models) :]:
        axis.set_visible(False)
    for axis, model in zip(axes.flat, models, strict=False):
        rows = history[history.model == model]
        colour = COLOURS[model.split("/")[0]]
        for part, style in (("train", "--"), ("validation", "-")):
            values = scale * rows[f"{part}_{quantity}"]
            axis.plot(rows.epoch, values, style, color=colour, marker="o", markersize=4, label=part)
        axis.set(title=model)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(fontsize=8)
    figure.supxlabel("epoch", fontsize=11)
    figure.supylabel(label, fontsize=11)
    figure.suptitle(
        f"{quantity.capitalize()} while training (mean over the epoch, dropout on) "
        "and on the held-out images (at its end)",
        fontsize=11,
    )
    return figure


def draw_confusion(counts: pd.DataFrame, title: str) -> Figure:
    """Images by truth (rows) and prediction (columns): count, share of the row, colour by share."""
    count = counts.pivot(index="truth", columns="prediction", values="count")
    share = counts.pivot(index="truth", columns="prediction", values="share")
    text = [
        [f"{n:,}\n{s:.1%}" if n else "" for n, s in zip(*rows, strict=True)]
        for rows in zip(count.to_numpy(), share.to_numpy(), strict=True)
    ]
    figure, axis = plt.subplots(figsize=(8.4, 7.2))
    figure.subplots_adjust(left=0.07, right=1, bottom=0.08, top=0.95)
    sns.heatmap(
        share,
        annot=text,
        fmt="",
        annot_kws={"fontsize": 8.5},
        cmap="Blues",
        norm=matplotlib.colors.PowerNorm(0.4, vmin=0, vmax=1),  # one image in a thousand shows
        linewidths=0.5,
        square=True,
        cbar_kws={
            "label": "share of the digit's images",
            "ticks": [0, 0.01, 0.05, 0.2, 0.5, 1],
            "format": PercentFormatter(1, decimals=0),
        },
        ax=axis,
    )
    axis.set(title=title, xlabel="predicted digit", ylabel="true digit")
    axis.tick_params(axis="y", rotation=0)
    return figure


if __name__ == "__main__":
    command.run(main)
