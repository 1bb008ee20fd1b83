"""Pictures of one model. Each function draws one and returns it.

probabilities: float32 (n, 10). Images: uint8 (n, 28, 28), labels and predictions (n,).
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from stages.pictures.style import (
    DIGIT_COLOURS,
    RIGHT,
    UNITS,
    WRONG,
    colour_of,
    draw_sheet,
    ink_on,
    leave_bare,
    plot_epochs,
)

SHARES = PowerNorm(0.4, vmin=0, vmax=1)  # one image in a thousand shows


def draw_confusion(counts: pd.DataFrame, model: str) -> Figure:
    """Images by truth (rows) and prediction (columns): count, share of the row, colour by share."""
    count = counts.pivot(index="truth", columns="prediction", values="count").to_numpy()
    share = counts.pivot(index="truth", columns="prediction", values="share").to_numpy()
    right = np.trace(count) / count.sum()
    figure, axis = plt.subplots(figsize=(7.6, 6.6))
    figure.subplots_adjust(left=0.08, right=0.99, bottom=0.09, top=0.94)
    picture = axis.imshow(share, cmap="Blues", norm=SHARES)
    for truth, prediction in np.argwhere(count):
        axis.text(
            prediction,
            truth,
            f"{count[truth, prediction]:,}\n{share[truth, prediction]:.1%}",
            color=ink_on(picture.to_rgba(share[truth, prediction])),
            fontsize=8.5,
            ha="center",
            va="center",
        )
    axis.set(
        title=f"{model}: {right:.2%} of the test images are right",
        xlabel="predicted digit",
        ylabel="true digit",
        xticks=range(len(count)),
        yticks=range(len(count)),
    )
    axis.grid(visible=False)
    bar = figure.colorbar(picture, ax=axis, pad=0.02, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.set_label("share of the digit's images (%)")
    return figure


def draw_roc(curves: pd.DataFrame, areas: pd.Series, model: str) -> Figure:
    """The ten digits' ROC curves: whole, and the corner that matters. areas: AUC by digit."""
    figure, (whole, corner) = plt.subplots(1, 2, figsize=(9.6, 4.6))
    figure.subplots_adjust(left=0.07, right=0.84, bottom=0.12, top=0.86, wspace=0.22)
    false_positive_rates = curves.false_positive_rate[curves.false_positive_rate > 0]
    smallest = 100 * false_positive_rates.min() if len(false_positive_rates) else 1
    for digit, rows in curves.groupby("digit"):
        x, y = 100 * rows.false_positive_rate.to_numpy(), 100 * rows.true_positive_rate.to_numpy()
        area = areas[digit] if areas[digit] == 1 else min(areas[digit], 0.99999)  # not rounded to perfect
        label = f"{digit}   AUC {area:.5f}"
        whole.plot(x, y, color=DIGIT_COLOURS[digit], linewidth=1.4, label=label)
        corner.plot(np.maximum(x, smallest / 2), y, color=DIGIT_COLOURS[digit], linewidth=1.4)
    whole.plot([0, 100], [0, 100], color="gray", linestyle=":", label="chance")
    whole.set(xlim=(-2, 102), ylim=(-2, 102), title="All of it")
    corner.set(xlim=(smallest / 2, 100), ylim=(79, 101), xscale="log", title="Logarithmic, and only the top")
    ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if t >= smallest]
    corner.set_xticks([smallest / 2, *ticks], ["0", *(f"{t:g}" for t in ticks)])  # where 0 is drawn
    corner.minorticks_off()
    for axis in (whole, corner):
        axis.set(xlabel="false positive rate (%)", ylabel="true positive rate (%)")
    if curves.empty:
        corner.text(0.5, 0.5, "none: all images show one digit", ha="center", transform=corner.transAxes)
    handles, labels = whole.get_legend_handles_labels()
    figure.legend(handles, labels, loc="center right", fontsize=8.5, frameon=False)
    figure.suptitle(f"{model}: each digit against the rest (ROC)", fontsize=11, fontweight="bold")
    return figure


def draw_calibration(bins: pd.DataFrame, error: float, model: str) -> Figure:
    """Reliability diagram: how sure the model is and how often it is right. error: ECE, a share."""
    figure, (points, images) = plt.subplots(
        2, 1, sharex=True, figsize=(5.6, 6.2), height_ratios=(3, 1), gridspec_kw={"hspace": 0.08}
    )
    figure.subplots_adjust(left=0.15, right=0.97, bottom=0.09, top=0.9)
    colour = colour_of(model)
    points.plot([0, 100], [0, 100], color="gray", linestyle=":", label="knows what it knows")
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
    points.set(
        xlim=(0, 101),
        ylim=(-4, 104),
        ylabel="right (%)",
    )
    points.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    figure.suptitle(f"{model}: calibration error {error:.2%}", fontsize=11, fontweight="bold")
    width = 100 * (bins.high - bins.low)
    images.bar(100 * bins.low, bins.images, width, align="edge", color=colour, edgecolor="white")
    images.set(xlabel="confidence: the largest probability (%)", ylabel="images", yscale="log")
    images.set_yticks([1, 10, 100, 1000, 10000], ["1", "10", "100", "1,000", "10,000"])
    images.minorticks_off()
    images.set_ylim(0.7, 2 * bins.images.max())
    return figure


def draw_training(history: pd.DataFrame, losses: np.ndarray, model: str) -> Figure:
    """Loss of one model after every step, loss and accuracy over its epochs, training and held-out images.

    losses: (steps,), of each step's batch in nats.
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
    figure.suptitle(f"{model}: training", fontsize=11, fontweight="bold")
    return figure


def draw_predictions(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, model: str) -> Figure:
    """A grid of images, each with the predicted digit and its probability."""
    right = probabilities.argmax(axis=1) == labels
    captions = [
        f"{_mark(r)} {row.argmax()} ({row.max():.1%})" for r, row in zip(right, probabilities, strict=True)
    ]
    title, label = f"{model}: test images at random", "prediction (probability in %); ✓ right, ✗ wrong"
    return draw_sheet(images, captions, _colours(right), columns=4, title=title, label=label)


def draw_truths(images: np.ndarray, labels: np.ndarray, predicted: np.ndarray, model: str) -> Figure:
    """A grid of images, each titled 'pred / truth': green when right, red when wrong."""
    right = predicted == labels
    captions = [f"{_mark(r)} {p} / {t}" for r, p, t in zip(right, predicted, labels, strict=True)]
    title, label = f"{model}: test images at random", "pred / truth (digits); green ✓ right, red ✗ wrong"
    return draw_sheet(images, captions, _colours(right), columns=3, title=title, label=label, cell=1.45)


def draw_mistakes(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, model: str) -> Figure:
    """The wrong predictions that the model was surest of, the worst first."""
    predicted = probabilities.argmax(axis=1)
    captions = [
        f"{p} ({row[p]:.1%})\nis {t} ({row[t]:.1%})"
        for p, t, row in zip(predicted, labels, probabilities, strict=True)
    ]
    title, label = f"{model}: its worst mistakes", "prediction (probability in %), then the truth"
    return draw_sheet(images, captions, _colours(predicted == labels), columns=4, title=title, label=label)


def draw_probabilities(image: np.ndarray, label: int, probabilities: np.ndarray, model: str) -> Figure:
    """One image beside the probabilities of its ten digits, float32 (10,)."""
    figure, (picture, bars) = plt.subplots(1, 2, figsize=(7.6, 3.4), width_ratios=(1, 1.35))
    figure.subplots_adjust(left=0.02, right=0.97, bottom=0.16, top=0.84, wspace=0.14)
    picture.imshow(image, cmap="gray", vmin=0, vmax=255)
    predicted = int(probabilities.argmax())
    picture.set(xticks=[], yticks=[], title=f"predicted {predicted}, truth {label}")
    picture.set_xlabel("the test image it is least sure about")
    picture.grid(visible=False)
    digits = np.arange(len(probabilities))
    colours = [RIGHT if d == label else WRONG if d == predicted else "#9aa0a6" for d in digits]
    patches = bars.bar(digits, 100 * probabilities, color=colours)
    bars.bar_label(patches, [f"{100 * p:.1f}" if p >= 0.0005 else "" for p in probabilities], fontsize=8)
    bars.set(
        xticks=digits,
        ylim=(0, 112),
        yticks=range(0, 101, 25),
        xlabel="digit; green: the truth, red: a wrong prediction",
        ylabel="probability (%)",
        title="Its ten probabilities",
    )
    bars.grid(axis="x", visible=False)
    figure.suptitle(model, fontsize=11, fontweight="bold")
    return figure


MOST_UNITS = 128


def draw_first_layer(weights: np.ndarray, model: str) -> Figure:
    """What the first MOST_UNITS of a dense layer look for: weights (units, 28, 28), red + and blue −."""
    units = f"{len(weights)} units"
    if len(weights) > MOST_UNITS:
        units = f"the first {MOST_UNITS} of {units}"
        weights = weights[:MOST_UNITS]
    columns = min(16 if len(weights) > 10 else 5, len(weights))
    rows = -(-len(weights) // columns)
    size = weights.shape[-1]
    canvas = np.full((rows * (size + 2) - 2, columns * (size + 2) - 2), np.nan)
    for place, unit in enumerate(weights):
        top, left = place // columns * (size + 2), place % columns * (size + 2)
        canvas[top : top + size, left : left + size] = unit
    limit = np.percentile(np.abs(weights), 99.5)
    width = 8.0
    height = width * canvas.shape[0] / canvas.shape[1]
    whole = width + 1.4, height + 0.8
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
