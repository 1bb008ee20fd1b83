"""Pictures of the data and of all models together. Each function draws one and returns it."""

import math
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from stages.pictures.style import (
    DIGIT_COLOURS,
    UNITS,
    WRONG,
    colour_of,
    draw_sheet,
    ink_on,
    label_points,
    leave_bare,
    plot_epochs,
    width_of,
)


def draw_samples(images: np.ndarray, labels: np.ndarray, columns: int) -> Figure:
    """Images of the data set, uint8 (n, 28, 28), in rows of `columns`, with their labels below."""
    captions, black = [str(label) for label in labels], ["black"] * len(images)
    return draw_sheet(
        images, captions, black, columns, "Training images at random", "label (digit)", cell=0.8
    )


def draw_accuracies(summary: pd.DataFrame) -> Figure:
    """All accuracies as bars from 0, and beside them the errors with their intervals."""
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
        if error.iloc[i] == 0:  # which a logarithmic axis has no place for
            place = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
            errors.annotate("none wrong", (bounds[1].iloc[i], i), **place, color=colour, fontsize=9)
    shares = 100 * (1 - rows[["accuracy", "accuracy_low", "accuracy_high"]].to_numpy())
    _logarithmic(errors, "x", shares[shares > 0].min(), shares.max(), most=100)
    errors.set(xlabel="wrong (%), logarithmic", title="Error and its 95 % interval")
    return figure


def draw_curves(history: pd.DataFrame, quantity: str) -> Figure:
    """A panel a model: the training and the validation curve of `quantity` over the epochs."""
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
        f"{quantity.capitalize()} while training (mean over the epoch, with dropout and smoothed labels "
        "if any) and on the held-out images (at its end)",
        fontsize=10,
    )
    return figure


def draw_cost(cost: pd.Series, errors: pd.Series, what: str) -> Figure:
    """The error of every model, a share, against what it costs. what: name and unit of the cost.

    Models without an error, which a logarithmic axis has no place for, lie at its lower end and say so.
    """
    models = list(cost.index)
    colours = [colour_of(model) for model in models]
    x = np.maximum(cost.to_numpy(float), 0.001)  # seconds have three places, and zero none on this axis
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
    axis.set(xlabel=f"{what}, logarithmic", ylabel="wrong test images (%), logarithmic")
    axis.set_title(f"Error against {what.split(' (')[0]}: better is lower and further left")
    _logarithmic(axis, "x", x.min(), x.max())
    _logarithmic(axis, "y", y.min(), y.max(), most=100)
    figure.canvas.draw()
    label_points(axis, x, y, names, colours)
    return figure


def draw_embedding(embedding: pd.DataFrame) -> Figure:
    """The test images on a plane, by PCA and by t-SNE, coloured by digit."""
    figure, axes = plt.subplots(1, 2, figsize=(10.4, 5.2))
    figure.subplots_adjust(left=0.075, right=0.92, bottom=0.11, top=0.92, wspace=0.2)
    names = {"pca": ("PCA", "principal component"), "tsne": ("t-SNE", "t-SNE axis")}
    for axis, (method, (name, label)) in zip(axes, names.items(), strict=True):
        columns = [f"{method}_1", f"{method}_2"]
        for digit, rows in embedding.groupby("digit"):
            x, y = rows[columns].to_numpy().T
            axis.scatter(x, y, s=7, color=DIGIT_COLOURS[digit], label=str(digit), linewidths=0)
        middles = embedding.groupby("digit")[columns].median()
        size = np.ptp(embedding[columns].to_numpy(), axis=0)
        size = np.where(size > 0, size, 1)  # images on a line
        for digit, (x, y) in zip(middles.index, size * _apart(middles / size, 0.06), strict=True):
            axis.text(
                x,
                y,
                str(digit),
                fontsize=13,
                fontweight="bold",
                ha="center",
                va="center",
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.7, "linewidth": 0},
            )
        axis.set(
            title=f"{name}: {len(embedding):,} test images",
            xlabel=f"{label} 1 (no unit)",
            ylabel=f"{label} 2 (no unit)",
        )
    figure.legend(*axes[0].get_legend_handles_labels(), title="digit", loc="center right", markerscale=2.5)
    return figure


def draw_agreement(pairs: pd.DataFrame, models: list[str]) -> Figure:
    """For every two models the share of test images to which both give the same digit."""
    share = _square(pairs, models, "agreement")
    figure, axis = _matrix(models)
    lowest = min(99, 100 * share.min())
    picture = axis.imshow(100 * share, cmap="viridis", vmin=lowest, vmax=100, aspect="auto")
    for i, j in np.argwhere(~np.eye(len(models), dtype=bool)):
        colour = ink_on(picture.to_rgba(100 * share[i, j]))
        shown = 100.0 if share[i, j] == 1 else min(99.9, 100 * share[i, j])  # not rounded to complete
        axis.text(j, i, f"{shown:.1f}", color=colour, fontsize=7.5, ha="center", va="center")
    axis.set(title="How often two models give the same digit", xlabel="model", ylabel="model")
    _colour_bar(figure, axis, picture, "same digit (% of the test images)")
    return figure


def draw_pairs(pairs: pd.DataFrame, models: list[str], level: float) -> Figure:
    """Accuracy of the row's model less the column's; gray where p_holm is not below `level`."""
    reverse = pairs.assign(model=pairs.other, other=pairs.model, difference=-pairs.difference)
    both = pd.concat([pairs, reverse])
    difference = 100 * both.pivot(index="model", columns="other", values="difference").loc[models, models]
    p = both.pivot(index="model", columns="other", values="p_holm").loc[models, models].to_numpy()
    difference = difference.to_numpy() + 0.0  # -0.0 becomes 0.0
    shown = np.where(p < level, difference, np.nan)
    limit = max(0.01, np.nanpercentile(np.abs(difference), 80))
    figure, axis = _matrix(models)
    axis.set_facecolor("#e8eaed")
    picture = axis.imshow(shown, cmap="RdYlGn", vmin=-limit, vmax=limit, aspect="auto")
    for i, j in np.argwhere(~np.isnan(difference)):
        colour = "black" if np.isnan(shown[i, j]) else ink_on(picture.to_rgba(shown[i, j]))
        text = f"{difference[i, j]:+.{1 if abs(difference[i, j]) >= 9.95 else 2}f}"
        axis.text(j, i, text, color=colour, fontsize=7, ha="center", va="center")
    axis.set(
        title=f"Accuracy of the row's model less the column's; gray: may be chance (corrected p ≥ {level:g})",
        xlabel="compared with",
        ylabel="model",
    )
    _colour_bar(figure, axis, picture, "difference of accuracy (percentage points)", extend="both")
    return figure


def draw_contributions(contributions: pd.DataFrame, accuracy: float, level: float) -> Figure:
    """What the mean of all probabilities gains or loses by each model. accuracy: of that mean.

    Gains whose p_holm is below `level` are called real.
    """
    rows = contributions.sort_values("gain", kind="stable")
    size = 6.2 + width_of(rows.model, 9), 1.4 + 0.27 * len(rows)
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    colours = [colour_of(model) for model in rows.model]
    real = rows.p_holm.to_numpy() < level
    patches = axis.barh(rows.model, 100 * rows.gain, color=colours)
    for patch, certain in zip(patches, real, strict=True):
        patch.set_alpha(1 if certain else 0.45)
    labels = [f"{100 * g:+.2f}{' *' if c else ''}" for g, c in zip(rows.gain, real, strict=True)]
    axis.bar_label(patches, labels, padding=4, fontsize=9)
    axis.margins(x=0.18)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.grid(axis="y", visible=False)
    axis.set(
        ylim=(-0.8, len(rows) - 0.2),
        xlabel=f"gain of accuracy by the model (percentage points); * real (corrected p < {level:g})",
        ylabel="model",
        title=f"What each model adds to the mean of all ({accuracy:.2%})",
    )
    return figure


def draw_hardest(images: np.ndarray, captions: list[str], models: int) -> Figure:
    """The images that most models get wrong, uint8 (n, 28, 28), with captions."""
    return draw_sheet(
        images,
        captions,
        [WRONG] * len(images),
        columns=5,
        title=f"Test images that {f'most of {models} models get' if models > 1 else 'the model gets'} wrong",
        label="truth: models that are right, and the most frequent wrong digit",
        cell=1.6,
    )


def _apart(places: pd.DataFrame, least: float) -> np.ndarray:
    """Places (n, 2), pushed away from each other until any two are `least` apart, or nearly so."""
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
    """A logarithmic axis up to `most` with plain numbers at 1, 2 and 5, or at 1 alone for want of room."""
    decades = range(math.floor(math.log10(lowest / 2)), math.ceil(math.log10(2 * highest)) + 1)
    ticks = [m * 10.0**k for k in decades for m in (1, 2, 5)]
    ticks = [t for t in ticks if lowest / 2 <= t <= min(most, 2 * highest)]
    if which == "x" and sum(len(f"{t:,.9g}") for t in ticks) > 60:  # letters beside each other
        ticks = [t for t in ticks if f"{t:e}".startswith("1.")]
    getattr(axis, f"set_{which}scale")("log")
    getattr(axis, f"set_{which}ticks")(ticks, [f"{t:,.9g}" for t in ticks])
    getattr(axis, f"{which}axis").minorticks_off()


def _square(pairs: pd.DataFrame, models: list[str], column: str) -> np.ndarray:
    """A column of a table of pairs as a symmetric matrix (models, models) with 1 on its diagonal."""
    place = {model: i for i, model in enumerate(models)}
    matrix = np.eye(len(models))
    rows, columns = pairs.model.map(place), pairs.other.map(place)
    matrix[rows, columns] = matrix[columns, rows] = pairs[column]
    return matrix


def _matrix(models: list[str]) -> tuple[Figure, plt.Axes]:
    names = width_of(models, 9) + 0.6
    width, height = names + 2 + 0.36 * len(models), names + 0.9 + 0.3 * len(models)
    figure, axis = plt.subplots(figsize=(width, height))
    figure.subplots_adjust(
        left=names / width, right=1 - 1.1 / width, bottom=names / height, top=1 - 0.4 / height
    )
    axis.set_xticks(range(len(models)), models, rotation=90)
    axis.set_yticks(range(len(models)), models)
    leave_bare(axis)
    return figure, axis


def _colour_bar(
    figure: Figure, axis: plt.Axes, picture: AxesImage, label: str, extend: str = "neither"
) -> None:
    """A matrix's colour bar. Of few models its label is the longer: it goes on beside their names."""
    bar = figure.colorbar(picture, ax=axis, pad=0.02, fraction=0.04, extend=extend)
    bar.set_label(label, loc="top")
