"""Draw the tables of `evaluate`.

    python -m stages.visualize

Reads outputs/tables/*.csv. Writes outputs/plots/accuracy.png, training_{loss,accuracy}.png and
confusion/<framework>/<model>.png.
"""

import math
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
CONTEXT = {"figure.dpi": 120, "savefig.bbox": "tight", "axes.titlesize": 11, "axes.titleweight": "bold"}


def main() -> None:
    summary, confusion, history = (
        pd.read_csv(TABLES / f"{name}.csv") for name in ("summary", "confusion", "history")
    )
    sns.set_theme(style="whitegrid", context="notebook", rc=CONTEXT)
    with files.replacing(PLOTS) as folder:
        save(draw_accuracies(summary), folder / "accuracy.png")
        save(draw_curves(history, "loss", "cross-entropy (nats)"), folder / "training_loss.png")
        save(draw_curves(history, "accuracy", "accuracy (%)"), folder / "training_accuracy.png")
        for model, counts in confusion.groupby("model", sort=False):
            accuracy = summary.set_index("model").accuracy[model]
            title = f"{model}: {accuracy:.2%} of the test images right"
            save(draw_confusion(counts, title), folder / "confusion" / f"{model}.png")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG whose bytes depend on the picture alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
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


def draw_curves(history: pd.DataFrame, figure_name: str, label: str) -> Figure:
    """A panel a model: the training and the validation curve of `figure_name` over the epochs."""
    percent = 100 if figure_name == "accuracy" else 1
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
            values = percent * rows[f"{part}_{figure_name}"]
            axis.plot(rows.epoch, values, style, color=colour, marker="o", markersize=4, label=part)
        axis.set(title=model, xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(fontsize=8)
    figure.suptitle(
        f"{figure_name.capitalize()} while training (mean over the epoch, dropout on) "
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
    figure, axis = plt.subplots(figsize=(8.4, 7.2), layout="constrained")
    sns.heatmap(
        share,
        annot=text,
        fmt="",
        annot_kws={"fontsize": 8.5},
        cmap="Blues",
        norm=matplotlib.colors.PowerNorm(0.4, vmin=0, vmax=1),  # one image in a thousand shows
        linewidths=0.5,
        square=True,
        cbar_kws={"label": "share of the digit's images", "format": PercentFormatter(1)},
        ax=axis,
    )
    axis.set(title=title, xlabel="predicted digit", ylabel="true digit")
    axis.tick_params(axis="y", rotation=0)
    return figure


if __name__ == "__main__":
    command.run(main)
