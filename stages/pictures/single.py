"""Pictures of one model. Each function draws a figure and returns it.

classes: their names in the data set's order. probabilities: float32 (n, classes). images: uint8 (n, rows,
columns). labels and predictions: (n,), indices of `classes`.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from stages.pictures.style import (
    RIGHT,
    SOFT,
    UNITS,
    WRONG,
    class_colours,
    colour_of,
    draw_matrix,
    draw_sheet,
    leave_bare,
    plot_epochs,
    short,
    width_of,
)

SHARES = PowerNorm(0.4, vmin=0, vmax=1)  # one image in a thousand shows
NAMED = 10
"""How many classes a picture names if there is no room for all."""


def draw_confusion(cells: pd.DataFrame, classes: tuple[str, ...], model: str) -> Figure:
    """Images by true (rows) and predicted class (columns), coloured by their share of the true class.

    cells: rows of the table `confusion`. Depending on the room, the cells show count and share, the count
    alone, or nothing.
    """
    size = len(classes)
    place = {name: i for i, name in enumerate(classes)}
    count, share = np.zeros((size, size), int), np.zeros((size, size))
    at = cells.truth.map(place), cells.prediction.map(place)
    count[at], share[at] = cells["count"], cells["share"]
    texts, cell, text_size = None, max(0.105, 8 / size), 8.5
    if size <= 30:
        texts = np.array([[f"{n:,}" if n else "" for n in row] for row in count], object)
        cell, text_size = 0.34, 7
    if size <= 12:
        cell, text_size = 0.58, 8.5
        for i, j in np.argwhere(count):
            texts[i, j] += f"\n{share[i, j]:.1%}"
    return draw_matrix(
        share,
        texts,
        [short(name) for name in classes],
        (cell, cell),
        text_size,
        "share of the class's images (%)",
        {
            "title": f"{model}: {np.trace(count) / count.sum():.2%} of the test images are right",
            "xlabel": "predicted class",
            "ylabel": "true class",
        },
        {"ticks": [0, 0.01, 0.05, 0.2, 0.5, 1], "format": PercentFormatter(1, decimals=0)},
        cmap="Blues",
        norm=SHARES,
    )


def draw_roc(curves: pd.DataFrame, areas: pd.Series, model: str) -> Figure:
    """The classes' ROC curves: complete, and the corner that matters.

    areas: AUC by class, in the data set's order. With more than 20 classes, the NAMED with the smallest areas
    are coloured and the others gray.
    """
    few = len(areas) <= 20
    shown = areas if few else areas.sort_values(kind="stable")[:NAMED]
    colours = dict(zip(shown.index, class_colours(len(shown)), strict=True))
    names = [f"{short(name)}   AUC {_area(area)}" for name, area in shown.items() if not np.isnan(area)]
    room, height = width_of([*names, "the 90 other classes"], 8.5) + 0.75, max(4.6, 1.1 + 0.2 * len(names))
    width = 8.2 + room
    figure, (whole, corner) = plt.subplots(1, 2, figsize=(width, height))
    figure.subplots_adjust(
        left=0.65 / width, right=1 - room / width, bottom=0.55 / height, top=1 - 0.65 / height, wspace=0.28
    )
    positive = curves.false_positive_rate[curves.false_positive_rate > 0]
    smallest = 100 * positive.min() if len(positive) else 1
    by_class = dict(list(curves.groupby("class", sort=False)))
    for name in sorted(by_class, key=lambda name: (name in colours, list(areas.index).index(name))):
        x, y = (100 * by_class[name][f"{kind}_positive_rate"].to_numpy() for kind in ("false", "true"))
        look = {"color": colours.get(name, "#c4c7cc"), "linewidth": 1.4 if name in colours else 0.7}
        label = f"{short(name)}   AUC {_area(areas[name])}" if name in colours else None
        whole.plot(x, y, label=label, **look)
        corner.plot(np.maximum(x, smallest / 2), y, **look)
    if not few:
        whole.plot([], [], color="#c4c7cc", label=f"the {len(areas) - NAMED} other classes")
    whole.plot([0, 100], [0, 100], color="gray", linestyle=":", label="chance")
    whole.set(xlim=(-2, 102), ylim=(-2, 102), title="Complete")
    corner.set(xlim=(smallest / 2, 100), ylim=(79, 101), xscale="log", title="Top part, logarithmic")
    ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if t >= smallest]
    corner.set_xticks([smallest / 2, *ticks], ["0", *(f"{t:g}" for t in ticks)])  # where 0 is drawn
    corner.minorticks_off()
    for axis in (whole, corner):
        axis.set(xlabel="false positive rate (%)", ylabel="true positive rate (%)")
    if curves.empty:
        corner.text(0.5, 0.5, "none: all images show one class", ha="center", transform=corner.transAxes)
    figure.legend(loc="center right", fontsize=8.5, frameon=False)
    figure.suptitle(f"{model}: each class against the rest (ROC)")
    return figure


def _area(area: float) -> str:
    """An AUC with five places; one below 1 is not rounded to 1."""
    return f"{area if area == 1 else min(area, 0.99999):.5f}"


def draw_calibration(bins: pd.DataFrame, error: float, model: str) -> Figure:
    """Reliability diagram: accuracy against confidence. error: expected calibration error, a share."""
    figure, (points, images) = plt.subplots(
        2, 1, sharex=True, figsize=(5.6, 6.2), height_ratios=(3, 1), gridspec_kw={"hspace": 0.08}
    )
    figure.subplots_adjust(left=0.15, right=0.97, bottom=0.09, top=0.9)
    colour = colour_of(model)
    points.plot([0, 100], [0, 100], color="gray", linestyle=":", label="perfectly calibrated")
    bounds = [bins.accuracy - bins.accuracy_low, bins.accuracy_high - bins.accuracy]
    points.errorbar(
        100 * bins.confidence,
        100 * bins.accuracy,
        yerr=[100 * bound for bound in bounds],
        fmt="o",
        color=colour,
        capsize=3,
        label="measured, with its 95 % interval",
    )
    points.set(xlim=(0, 101), ylim=(-4, 104), ylabel="accuracy (%)")
    points.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    figure.suptitle(f"{model}: calibration error {error:.2%}")
    width = 100 * (bins.high - bins.low)
    images.bar(100 * bins.low, bins.images, width, align="edge", color=colour, edgecolor="white")
    images.set(xlabel="confidence: the largest probability (%)", ylabel="images", yscale="log")
    images.set_ylim(0.7, 2 * bins.images.max())
    images.yaxis.set_major_locator(LogLocator(numticks=5))
    images.yaxis.set_major_formatter("{x:,.0f}")
    images.minorticks_off()
    return figure


def draw_training(history: pd.DataFrame, losses: np.ndarray, model: str) -> Figure:
    """Loss over the steps; loss and accuracy over the epochs, on training and held-out images.

    losses: of each step's batch, in nats, (steps,).
    """
    figure, (first, *axes) = plt.subplots(1, 3, figsize=(11, 3.2))
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.16, top=0.84, wspace=0.3)
    steps = np.arange(1, len(losses) + 1)
    width = max(1, len(losses) // 50)
    means = np.convolve(losses, np.ones(width) / width, mode="valid")
    dot = "o" if len(steps) == 1 else None
    first.plot(steps, losses, color=colour_of(model), linewidth=0.5, alpha=0.35, marker=dot, label="a batch")
    first.plot(steps[width - 1 :], means, color=colour_of(model), label=f"mean of the last {width}")
    if losses.max() > 0:
        first.set_yscale("log")
        decades = np.log10(losses.max() / max(losses.min(), 1e-10))
        first.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 4 else (1,)))
        first.yaxis.set_major_formatter("{x:g}")
        first.yaxis.set_minor_locator(NullLocator())
    first.set(xlabel="step (batches)", ylabel=UNITS["loss"][1], title="Loss over the steps")
    first.legend(fontsize=8)
    for axis, (quantity, (_, label)) in zip(axes, UNITS.items(), strict=True):
        plot_epochs(axis, history, quantity, model, size=6)
        axis.set(xlabel="epoch", ylabel=label, title=f"{quantity.capitalize()} over the epochs")
    figure.suptitle(f"{model}: training")
    return figure


def draw_predictions(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], model: str
) -> Figure:
    """A grid of images, each with the predicted class and its probability."""
    predicted = probabilities.argmax(axis=1)
    right = predicted == labels
    captions = [
        f"{_mark(r)} {short(classes[p])} ({row[p]:.1%})"
        for r, p, row in zip(right, predicted, probabilities, strict=True)
    ]
    title, label = f"{model}: random test images", "prediction (probability in %); ✓ right, ✗ wrong"
    return draw_sheet(images, captions, _colours(right), columns=4, title=title, label=label)


def draw_truths(
    images: np.ndarray, labels: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...], model: str
) -> Figure:
    """A grid of images, each with 'prediction / truth' below it: green if right, red if wrong."""
    right = predicted == labels
    captions = [
        f"{_mark(r)} {short(classes[p])} / {short(classes[t])}"
        for r, p, t in zip(right, predicted, labels, strict=True)
    ]
    if max(map(len, captions)) > 20:
        captions = [caption.replace(" / ", "\n/ ") for caption in captions]
    title, label = f"{model}: random test images", "prediction / truth (classes); ✓ right, ✗ wrong"
    return draw_sheet(images, captions, _colours(right), columns=3, title=title, label=label, cell=1.45)


def draw_mistakes(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], model: str
) -> Figure:
    """The wrong predictions with the highest confidence, the worst first."""
    predicted = probabilities.argmax(axis=1)
    captions = [
        f"{short(classes[p])} ({row[p]:.1%})\nis {short(classes[t])} ({row[t]:.1%})"
        for p, t, row in zip(predicted, labels, probabilities, strict=True)
    ]
    title, label = f"{model}: its worst mistakes", "prediction (probability in %), then the truth"
    return draw_sheet(images, captions, _colours(predicted == labels), columns=4, title=title, label=label)


def draw_probabilities(
    image: np.ndarray, label: int, probabilities: np.ndarray, classes: tuple[str, ...], model: str
) -> Figure:
    """An image and its probabilities, float32 (classes,); only the NAMED highest if there are more."""
    predicted = int(probabilities.argmax())
    shown = np.argsort(-probabilities, kind="stable")[:NAMED]
    if label not in shown:
        shown[-1] = label
    shown.sort()
    names = [short(classes[i]) for i in shown]
    room, height = width_of(names, 9) + 0.6, max(2.6, 1.3 + 0.24 * len(names))
    width = 3.2 + room + 4
    figure, (picture, bars) = plt.subplots(1, 2, figsize=(width, height), width_ratios=(2.6, 4))
    apart = 2 * room / (width - room)
    figure.subplots_adjust(
        left=0.1 / width, right=0.97, bottom=0.5 / height, top=1 - 0.65 / height, wspace=apart
    )
    picture.imshow(image, cmap="gray", vmin=0, vmax=255)
    picture.set(
        xticks=[],
        yticks=[],
        title=f"predicted {short(classes[predicted])}, truth {short(classes[label])}",
        xlabel="the test image it is least sure about",
    )
    picture.grid(visible=False)
    colours = [RIGHT if i == label else WRONG if i == predicted else SOFT for i in shown]
    patches = bars.barh(names, 100 * probabilities[shown], color=colours)
    bars.bar_label(patches, [f"{100 * p:.1f}" for p in probabilities[shown]], fontsize=8, padding=3)
    bars.invert_yaxis()
    bars.set(
        xlim=(0, 112),
        xticks=range(0, 101, 25),
        xlabel="probability (%); green: the truth, red: a wrong prediction",
        ylabel="class",
        title=f"Its {'' if len(shown) == len(classes) else f'{NAMED} highest '}probabilities",
    )
    bars.grid(axis="y", visible=False)
    figure.suptitle(model)
    return figure


MOST_UNITS = 128


def draw_first_layer(weights: np.ndarray, model: str) -> Figure:
    """The weights (units, rows, columns) of a dense layer's first MOST_UNITS; positive red, negative blue."""
    units = f"{len(weights)} units"
    if len(weights) > MOST_UNITS:
        units = f"the first {MOST_UNITS} of {units}"
        weights = weights[:MOST_UNITS]
    columns = min(16 if len(weights) > 10 else 5, len(weights))
    rows = -(-len(weights) // columns)
    high, wide = np.array(weights.shape[1:]) + 2
    canvas = np.full((rows * high - 2, columns * wide - 2), np.nan)
    for place, unit in enumerate(weights):
        top, left = place // columns * high, place % columns * wide
        canvas[top : top + high - 2, left : left + wide - 2] = unit
    limit = np.percentile(np.abs(weights), 99.5)
    scale = min(8 / canvas.shape[1], 9 / canvas.shape[0])  # inches a pixel
    height, width = scale * np.array(canvas.shape)
    whole = max(width, 5) + 1.4, height + 0.8
    figure = plt.figure(figsize=whole)
    axis = figure.add_axes((0.4 / whole[0], 0.4 / whole[1], width / whole[0], height / whole[1]))
    picture = axis.imshow(
        canvas, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto"
    )
    axis.set(
        xticks=[],
        yticks=[],
        title=f"{model}: the weights of its first layer",
        xlabel=f"{units}: the weight of each pixel (per unit of pixel value)",
    )
    leave_bare(axis)
    bar = figure.add_axes(((width + 0.5) / whole[0], 0.4 / whole[1], 0.15 / whole[0], height / whole[1]))
    figure.colorbar(picture, cax=bar)
    return figure


def _colours(right: np.ndarray) -> list[str]:
    return [RIGHT if r else WRONG for r in right]


def _mark(right: bool) -> str:
    return "✓" if right else "✗"
