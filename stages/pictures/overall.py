"""Pictures of the data and of all models together. Each function draws a figure and returns it.

images: uint8 (n, rows, columns). classes: their names in the data set's order.
"""

import math
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.pictures.style import (
    UNITS,
    WRONG,
    class_colours,
    colour_of,
    draw_matrix,
    draw_sheet,
    label_points,
    plot_epochs,
    short,
    width_of,
)

MODEL_CELL = (0.36, 0.3)
"""Width and height, in inches, of the cell of two models in a matrix."""


def draw_samples(images: np.ndarray, names: list[str], columns: int) -> Figure:
    """Images of the data set in rows of `columns`. names: of the images' classes, shown below them."""
    captions, black = [short(name) for name in names], ["black"] * len(images)
    return draw_sheet(images, captions, black, columns, "Random training images", "label (class)", 0.8)


def draw_accuracies(summary: pd.DataFrame) -> Figure:
    """All accuracies as bars from 0 and, beside them, the errors with their 95 % intervals."""
    rows = summary.sort_values("accuracy", kind="stable")
    colours = [colour_of(model) for model in rows.model]
    size = 8.2 + width_of(rows.model, 9), 1.4 + 0.3 * len(rows)
    figure, (bars, errors) = plt.subplots(1, 2, sharey=True, figsize=size, layout="constrained")
    patches = bars.barh(rows.model, 100 * rows.accuracy, color=colours)
    bars.bar_label(patches, [f"{a:.2%}" for a in rows.accuracy], padding=4, fontsize=9)
    bars.set(xlim=(0, 118), xticks=range(0, 101, 20), xlabel="accuracy (%)", title="Test accuracy")
    bars.set_ylim(-0.8, len(rows) - 0.2)
    bars.set_ylabel("model")
    bars.grid(axis="y", visible=False)

    error = 100 * (1 - rows.accuracy)
    bounds = [100 * (rows.accuracy_high - rows.accuracy), 100 * (rows.accuracy - rows.accuracy_low)]
    for i, colour in enumerate(colours):
        errors.errorbar(
            error.iloc[i], i, xerr=[[b.iloc[i]] for b in bounds], fmt="o", color=colour, capsize=4
        )
        if error.iloc[i] == 0:  # a logarithmic axis has no 0
            place = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
            errors.annotate("none wrong", (bounds[1].iloc[i], i), **place, color=colour, fontsize=9)
    shares = 100 * (1 - rows[["accuracy", "accuracy_low", "accuracy_high"]].to_numpy())
    _logarithmic(errors, "x", shares[shares > 0].min(), shares.max(), most=100)
    errors.set(xlabel="wrong (%), logarithmic", title="Error and its 95 % interval")
    return figure


def draw_curves(history: pd.DataFrame, quantity: str) -> Figure:
    """A panel for each model: the training and the validation curve of `quantity` over the epochs."""
    models = history.model.unique()
    columns = min(4, len(models))
    rows = math.ceil(len(models) / columns)
    width, height = max(8.5, 2.6 * columns), 2.2 * rows + 0.4  # the heading is long
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    figure.subplots_adjust(
        left=0.8 / width,
        right=0.98,
        bottom=0.6 / height,
        top=1 - 0.75 / height,
        wspace=0.32,
        hspace=0.42,
    )
    for axis in axes.flat[len(models) :]:
        axis.set_visible(False)
    for axis, model in zip(axes.flat, models, strict=False):
        of_model = history[history.model == model]
        plot_epochs(axis, of_model, quantity, model, size=4)
        axis.set_title(model, fontsize=9.5 * min(1, 2.2 / width_of([model], 9.5)))
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel(UNITS[quantity][1], fontsize=10)
    figure.suptitle(
        f"{quantity.capitalize()} in training (epoch mean, with dropout and label smoothing if used) "
        "and on held-out images (epoch end)",
        fontsize=10,
    )
    return figure


def draw_cost(cost: pd.Series, errors: pd.Series, what: str, intervals: pd.DataFrame | None = None) -> Figure:
    """The error of every model, a share, against its cost. what: name and unit of the cost.

    intervals: bounds of the errors, low and high, in two columns indexed by model, drawn as bars.
    A logarithmic axis has no 0: models without an error lie at its lower end and say so.
    """
    models = list(cost.index)
    colours = [colour_of(model) for model in models]
    x = np.maximum(cost.to_numpy(float), 0.001)  # seconds have three places; the axis has no 0
    y = 100 * errors[models].to_numpy(float)
    names = [model if error else f"{model}: none wrong" for model, error in zip(models, y, strict=True)]
    y = np.where(y > 0, y, y[y > 0].min(initial=1) / 2)
    room = width_of(names, 9) + 0.5
    width, height = 6.3 + room, max(5.2, 1.2 + 0.15 * len(models))
    figure, axis = plt.subplots(figsize=(width, height))
    figure.subplots_adjust(
        left=0.7 / width, right=1 - room / width, bottom=0.57 / height, top=1 - 0.42 / height
    )
    axis.scatter(x, y, c=colours, s=45, zorder=3)
    if intervals is not None:
        low, high = 100 * intervals.loc[models].to_numpy(float).T
        axis.vlines(x, np.maximum(low, y.min() / 2), high, colors=colours, alpha=0.5)
        y_ends = max(low[low > 0].min(initial=y.min()), y.min() / 2), high.max()
    else:
        y_ends = y.min(), y.max()
    axis.set(xlabel=f"{what}, logarithmic", ylabel="wrong test images (%), logarithmic")
    axis.set_title(f"Error against {what.split(' (')[0]}: better is lower and further left")
    _logarithmic(axis, "x", x.min(), x.max())
    _logarithmic(axis, "y", *y_ends, most=100)
    figure.canvas.draw()
    label_points(axis, x, y, names, colours)
    return figure


def draw_frameworks(alike: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """A row for each architecture: training loss and validation accuracy over the epochs, training time and
    test accuracy. alike: a row for each network, grouped by architecture, see `report.same_architecture`."""
    groups = list(alike.groupby("architecture", sort=False))
    room = width_of(alike.model, 8)
    heights = [max(4, len(rows)) for _, rows in groups]
    width, height = 14 + 2 * room, 0.6 + 0.55 * sum(heights)
    figure, axes = plt.subplots(
        len(groups), 4, figsize=(width, height), squeeze=False, layout="constrained", height_ratios=heights
    )
    for (loss, accuracy, seconds, tested), (architecture, rows) in zip(axes, groups, strict=True):
        kind = rows.kind.iloc[0]
        for number, row in enumerate(rows.itertuples()):
            of_model = history[history.model == row.model]
            look = {"color": colour_of(row.model), "marker": "osD^v"[number % 5], "markersize": 4}
            loss.plot(of_model.epoch, of_model.train_loss, **look)
            accuracy.plot(of_model.epoch, 100 * of_model.validation_accuracy, **look)
            bar = seconds.barh(number, row.training_seconds, color=look["color"])
            seconds.bar_label(bar, [f"{row.training_seconds:.1f}"], padding=3, fontsize=8)
            ends = [[row.accuracy - row.accuracy_low], [row.accuracy_high - row.accuracy]]
            tested.errorbar(100 * row.accuracy, number, xerr=100 * np.array(ends), capsize=3, **look)
        loss.set(title=f"{architecture} ({kind})", ylabel="training loss (nats)")
        accuracy.set(title="on held-out images", ylabel=UNITS["accuracy"][1])
        for axis, label in ((seconds, "training (s)"), (tested, "test accuracy (%) and its 95 % interval")):
            axis.set_yticks(range(len(rows)), rows.model, fontsize=8)
            axis.set(ylim=(len(rows) - 0.5, -0.5), xlabel=label)
        seconds.margins(x=0.15)
        for axis in (loss, accuracy):
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def draw_embedding(embedding: pd.DataFrame, classes: tuple[str, ...]) -> Figure:
    """The test images in two dimensions, by PCA and t-SNE, coloured by class; legend for up to 20 classes."""
    legend, labels = len(classes) <= 20, [short(name) for name in classes]
    size = 6 if len(classes) > 30 else 13 if max(map(len, labels)) <= 2 else 9
    room = width_of(labels, 9) + 0.6 if legend else width_of(labels, size) / 2 + 0.15
    width, height = (9.6 + room, 5.2) if legend else (11.7 + room, 6.6)
    figure, axes = plt.subplots(1, 2, figsize=(width, height))
    figure.subplots_adjust(left=0.78 / width, right=1 - room / width, bottom=0.11, top=0.92, wspace=0.2)
    colours = dict(zip(classes, class_colours(len(classes)), strict=True))
    names = {"pca": ("PCA", "principal component"), "tsne": ("t-SNE", "t-SNE axis")}
    for axis, (method, (name, label)) in zip(axes, names.items(), strict=True):
        columns = [f"{method}_1", f"{method}_2"]
        by_class = dict(list(embedding.groupby("class")))
        for each in [each for each in classes if each in by_class]:
            x, y = by_class[each][columns].to_numpy().T
            axis.scatter(x, y, s=7, color=colours[each], label=short(each), linewidths=0)
        middles = embedding.groupby("class")[columns].median()
        extent = np.ptp(embedding[columns].to_numpy(), axis=0)
        extent = np.where(extent > 0, extent, 1)  # images on a line
        for each, (x, y) in zip(middles.index, extent * _apart(middles / extent, 0.06), strict=True):
            axis.text(
                x,
                y,
                short(each),
                fontsize=size,
                fontweight="bold",
                ha="center",
                va="center",
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.6, "linewidth": 0},
            )
        axis.set(
            title=f"{name}: {len(embedding):,} test images",
            xlabel=f"{label} 1 (no unit)",
            ylabel=f"{label} 2 (no unit)",
        )
    if legend:
        shown = axes[0].get_legend_handles_labels()
        figure.legend(*shown, title="class", loc="center right", markerscale=2.5)
    return figure


def draw_agreement(pairs: pd.DataFrame, models: list[str]) -> Figure:
    """For each pair of models, the share of the test images for which both predict the same class."""
    share = 100 * _square(pairs, models, "agreement", 1)
    shown = np.where(share == 100, 100, np.minimum(99.9, share))  # only 100 % is shown as 100
    texts = np.array([[f"{value:.1f}" for value in row] for row in shown], object)
    texts[np.eye(len(models), dtype=bool)] = ""
    return draw_matrix(
        share,
        texts,
        models,
        MODEL_CELL,
        7.5,
        "same class (% of the test images)",
        {"title": "How often two models predict the same class", "xlabel": "model", "ylabel": "model"},
        cmap="viridis",
        vmin=min(99, share.min()),
        vmax=100,
    )


def draw_pairs(pairs: pd.DataFrame, models: list[str], level: float) -> Figure:
    """Accuracy of the row's model minus the column's; gray where p_holm is not below `level`."""
    half = _square(pairs, models, "difference", 0)
    rows = pairs.model.map(models.index), pairs.other.map(models.index)
    half[rows[::-1]] *= -1
    difference = 100 * half + 0.0  # -0.0 becomes 0.0
    significant = _square(pairs, models, "p_holm", 1) < level
    texts = np.array([[f"{d:+.{1 if abs(d) >= 9.95 else 2}f}" for d in row] for row in difference], object)
    texts[np.eye(len(models), dtype=bool)] = ""
    limit = max(0.01, np.percentile(np.abs(difference[texts != ""]), 80))
    figure = draw_matrix(
        np.where(significant, difference, np.nan),
        texts,
        models,
        MODEL_CELL,
        7,
        "difference in accuracy (percentage points)",
        {
            "title": f"Accuracy of the row's model minus the column's; gray: not significant (p ≥ {level:g})",
            "xlabel": "compared with",
            "ylabel": "model",
        },
        {"extend": "both"},
        cmap="RdYlGn",
        vmin=-limit,
        vmax=limit,
    )
    figure.axes[0].set_facecolor("#e8eaed")
    return figure


def draw_contributions(contributions: pd.DataFrame, accuracy: float, level: float) -> Figure:
    """How much accuracy each model adds to the mean of all models' probabilities. accuracy: of that mean.

    Gains whose p_holm is below `level` are marked as significant.
    """
    rows = contributions.sort_values("gain", kind="stable")
    size = 6.2 + width_of(rows.model, 9), 1.4 + 0.27 * len(rows)
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    colours = [colour_of(model) for model in rows.model]
    significant = rows.p_holm.to_numpy() < level
    patches = axis.barh(rows.model, 100 * rows.gain, color=colours)
    for patch, certain in zip(patches, significant, strict=True):
        patch.set_alpha(1 if certain else 0.45)
    labels = [f"{100 * g:+.2f}{' *' if c else ''}" for g, c in zip(rows.gain, significant, strict=True)]
    axis.bar_label(patches, labels, padding=4, fontsize=9)
    axis.margins(x=0.18)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.grid(axis="y", visible=False)
    axis.set(
        ylim=(-0.8, len(rows) - 0.2),
        xlabel=f"gain in accuracy with the model (percentage points); * significant (p < {level:g})",
        ylabel="model",
        title=f"What each model adds to the mean of all ({accuracy:.2%})",
    )
    return figure


def draw_hardest(images: np.ndarray, captions: list[str], models: int) -> Figure:
    """The images that most models get wrong, with captions. models: how many there are."""
    return draw_sheet(
        images,
        captions,
        [WRONG] * len(images),
        columns=5,
        title=f"Test images that {f'most of {models} models get' if models > 1 else 'the model gets'} wrong",
        label="truth: models that are right, and the most frequent wrong class",
        cell=1.6,
    )


def _apart(places: pd.DataFrame, least: float) -> np.ndarray:
    """Places (n, 2), pushed apart until any two are `least` apart, or nearly so."""
    places = places.to_numpy(copy=True)
    for _ in range(20):
        for i, j in combinations(range(len(places)), 2):
            way = places[j] - places[i]
            distance = np.hypot(*way)
            if distance < least:
                push = (way / distance if distance else np.array([1.0, 0.0])) * (least - distance) / 2
                places[i] -= push
                places[j] += push
    return places


def _logarithmic(axis: plt.Axes, which: str, lowest: float, highest: float, most: float = np.inf) -> None:
    """Make an axis logarithmic, up to `most`, with plain numbers at 1, 2 and 5, or at 1 if room is short."""
    decades = range(math.floor(math.log10(lowest / 2)), math.ceil(math.log10(2 * highest)) + 1)
    ticks = [m * 10.0**k for k in decades for m in (1, 2, 5)]
    ticks = [t for t in ticks if lowest / 2 <= t <= min(most, 2 * highest)]
    if which == "x" and sum(len(f"{t:,.9g}") for t in ticks) > 60:  # characters side by side
        ticks = [t for t in ticks if f"{t:e}".startswith("1.")]
    getattr(axis, f"set_{which}scale")("log")
    getattr(axis, f"set_{which}ticks")(ticks, [f"{t:,.9g}" for t in ticks])
    getattr(axis, f"{which}axis").minorticks_off()


def _square(pairs: pd.DataFrame, models: list[str], column: str, diagonal: float) -> np.ndarray:
    """A column of a table of pairs as a symmetric matrix (models, models)."""
    matrix = np.diag(np.full(len(models), float(diagonal)))
    rows, columns = pairs.model.map(models.index), pairs.other.map(models.index)
    matrix[rows, columns] = matrix[columns, rows] = pairs[column]
    return matrix
