"""How every picture looks, and how it becomes a file whose bytes depend on the picture alone."""

from collections.abc import Callable, Iterable
from functools import cache
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # pictures without a screen

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from PIL import Image

from stages.common.environment import without

with without("scipy"):  # seaborn offers its statistics, which nobody here draws, for half the imports' time
    import seaborn as sns

COLOURS = {  # each dark enough to be read as text on white
    "pytorch": "#c8404f",
    "tensorflow": "#a86400",
    "scratch": "#00798c",
    "sklearn": "#5b5f97",
    "ensemble": "#3d3d3d",
}
RIGHT, WRONG = "#1a7f37", "#c62828"
DIGIT_COLOURS = sns.color_palette("tab10")
THEME = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # it comes with Matplotlib; others may be missing elsewhere
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titley": 1.0,  # else Matplotlib looks for ticks above the axis, which takes a tenth of the time
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.title_fontsize": 9,
}
UNITS = {"loss": (1, "cross-entropy (nats)"), "accuracy": (100, "accuracy (%)")}
"""What a quantity of the history is multiplied by, and its axis label."""
SHADES = 256
"""Colours of a PNG: enough for smooth lines and maps, and a third of the bytes."""


def colour_of(model: str) -> str:
    """The colour of a model's framework."""
    return COLOURS[model.split("/")[0]]


def ink_on(ground: tuple[float, float, float, float]) -> str:
    """Black or white, whichever has more contrast (WCAG 2) on a colour, RGBA from 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in ground[:3]]
    luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"


def plot_epochs(axis: Axes, history: pd.DataFrame, quantity: str, model: str, size: float) -> None:
    """The training curve of `quantity`, hollow, and the validation curve if images were held out."""
    colour = colour_of(model)
    for part, style, filling in (("train", "--", "white"), ("validation", "-", colour)):
        values = UNITS[quantity][0] * history[f"{part}_{quantity}"]
        if values.notna().any():
            axis.plot(
                history.epoch,
                values,
                style,
                color=colour,
                marker="o",
                markersize=size,
                markerfacecolor=filling,
                label=part,
            )
    if len(history) == 1:
        axis.set_xlim(0, 2)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.legend(fontsize=8)


def save(path: Path, draw: Callable[..., Figure], *arguments: object) -> None:
    """Write what `draw` draws as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(draw, *arguments))


def png(draw: Callable[..., Figure], *arguments: object) -> bytes:
    """The PNG file of what `draw` draws."""
    set_theme()
    figure = draw(*arguments)
    fit_titles(figure)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    plt.close(figure)
    content = BytesIO()
    picture.quantize(SHADES, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(content, "PNG")
    return content.getvalue()


@cache
def set_theme() -> None:
    """Let Matplotlib draw as this project does, whatever the user's own matplotlibrc says; once a process."""
    plt.rcdefaults()
    sns.set_theme(style="whitegrid", rc=THEME)


def fit_titles(figure: Figure) -> None:
    """Shrink titles that reach beyond the picture, as those of models with long names may."""
    titles = [figure._suptitle, *(axis.title for axis in figure.axes)]
    for title in 3 * titles:  # the width of small letters is whole pixels and does not shrink evenly
        if title and (place := title.get_window_extent()).width > 0:
            middle = (place.x0 + place.x1) / 2
            room = 0.97 * 2 * min(middle, figure.bbox.width - middle)
            if place.width > room:
                title.set_fontsize(title.get_fontsize() * room / place.width)


def width_of(texts: Iterable[str], size: float) -> float:
    """The inches that the widest of the texts takes in letters of `size` points, rather too many."""
    return 1.05 * max(TextPath((0, 0), text, size=size).get_extents().width for text in texts) / 72


def leave_bare(axis: Axes) -> None:
    """Take the grid and the frame away from an axis that shows images or a matrix."""
    axis.grid(visible=False)
    sns.despine(ax=axis, left=True, bottom=True)


def draw_sheet(
    images: np.ndarray,
    captions: list[str],
    colours: list[str],
    columns: int,
    title: str,
    label: str,
    cell: float = 1.15,
) -> Figure:
    """Images, uint8 (n, 28, 28), in rows of `columns`, each with a coloured caption below it.

    label: what the captions say. cell: the width of an image and its margin, in inches. One
    picture of all is drawn many times faster than an axis for each.
    """
    size, side = images.shape[-1], 10
    scale = cell / (size + side)  # inches a pixel
    below = round((0.08 + 0.16 * max((c.count("\n") + 1 for c in captions), default=1)) / scale)
    rows = max(1, -(-len(images) // columns))
    canvas = np.full((rows * (size + below), columns * (size + side)), np.nan)
    head, foot = 0.35, 0.3
    width, height = scale * canvas.shape[1], scale * canvas.shape[0] + head + foot
    figure, axis = plt.subplots(figsize=(width, height))
    figure.subplots_adjust(left=0, right=1, bottom=foot / height, top=1 - head / height)
    for place, (image, caption, colour) in enumerate(zip(images, captions, colours, strict=True)):
        top, left = place // columns * (size + below), place % columns * (size + side) + side // 2
        canvas[top : top + size, left : left + size] = image
        x, y = left + size / 2 - 0.5, top + size + 0.5
        axis.text(x, y, caption, color=colour, fontsize=8.5, ha="center", va="top")
    axis.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    if len(images) == 0:
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center")
    axis.set(xticks=[], yticks=[], title=title, xlabel=label)
    leave_bare(axis)
    return figure


def label_points(axis: Axes, x: np.ndarray, y: np.ndarray, names: list[str], colours: list[str]) -> None:
    """Name the points of an axis at its right edge, evenly spaced, each with a line to its point.

    Call it last: it depends on the scales and limits.
    """
    place = axis.transAxes.inverted().transform(axis.transData.transform(np.column_stack([x, y])))
    heights = np.linspace(0.02, 0.98, len(names)) if len(names) > 1 else [0.5]
    for height, i in zip(heights, np.lexsort((place[:, 0], place[:, 1])), strict=True):
        axis.annotate(
            names[i],
            (x[i], y[i]),
            xytext=(1.06, height),
            textcoords="axes fraction",
            color=colours[i],
            fontsize=9,
            va="center",
            arrowprops={
                **{"arrowstyle": "-", "color": colours[i], "alpha": 0.45, "lw": 0.8, "relpos": (0, 0.5)},
                **{"patchA": None, "shrinkA": 2},  # else the text's box cuts steep lines off
            },
        )
