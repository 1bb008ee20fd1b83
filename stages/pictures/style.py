"""How all pictures look, and how one becomes a file whose bytes depend on the picture alone."""

from collections.abc import Callable, Iterable
from functools import cache
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # pictures without a screen

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ft2font import LoadFlags
from matplotlib.ticker import MaxNLocator
from PIL import Image

from stages.common.frameworks import FRAMEWORKS

ENSEMBLES = "#3d3d3d"
RIGHT, WRONG = "#1a7f37", "#c62828"
SOFT = "#9aa0a6"
FONT = "DejaVu Sans"  # it comes with Matplotlib; others may be missing elsewhere
THEME = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "font.family": FONT,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.title_fontsize": 9,
}
UNITS = {"loss": (1, "cross-entropy (nats)"), "accuracy": (100, "accuracy (%)")}
"""For each quantity of the history: the factor that it is multiplied by, and its axis label."""
LETTERS = 16
"""Characters of a class name that pictures show."""


def colour_of(model: str) -> str:
    """The colour of a model's framework."""
    framework = FRAMEWORKS.get(model.split("/")[0])
    return framework.colour if framework else ENSEMBLES


def class_colours(count: int) -> list[tuple[float, float, float]]:
    """A colour, RGB from 0 to 1, for each of `count` classes; up to ten are easy to tell apart."""
    return sns.color_palette("tab10", count) if count <= 10 else sns.husl_palette(count, s=0.85, l=0.55)


def short(name: str) -> str:
    """A class name, without the middle if it is long: names often begin alike and seldom end alike."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 8]}…{name[-7:]}"


def ink_on(ground: tuple[float, float, float, float]) -> str:
    """Black or white, whichever has more contrast (WCAG 2) with the ground, RGBA from 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in ground[:3]]
    luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"


def plot_epochs(axis: Axes, history: pd.DataFrame, quantity: str, model: str, size: float) -> None:
    """Plot the training curve of `quantity`, with hollow dots, and the validation curve if there is one."""
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


def save(path: Path, draw: Callable[[], Figure]) -> None:
    """Write the figure that `draw` returns as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(draw))


def png(draw: Callable[[], Figure]) -> bytes:
    """The PNG file of the figure that `draw` returns. 256 colours are enough, and take a third of the bytes
    and half of the time."""
    set_theme()
    figure = draw()
    fit_titles(figure)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    plt.close(figure)
    content = BytesIO()
    picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(content, "PNG")
    return content.getvalue()


@cache
def set_theme() -> None:
    """Set this project's style, whatever the user's matplotlibrc says; once per process."""
    plt.rcdefaults()
    sns.set_theme(style="whitegrid", rc=THEME)


def fit_titles(figure: Figure) -> None:
    """Shrink titles that are wider than the picture, such as those of models with long names."""
    titles = [*figure.texts, *(axis.title for axis in figure.axes)]
    for title in 3 * titles:  # small letters have whole pixels and do not shrink evenly
        if (place := title.get_window_extent()).width > 0:
            middle = (place.x0 + place.x1) / 2
            room = 0.97 * 2 * min(middle, figure.bbox.width - middle)
            if place.width > room:
                title.set_fontsize(title.get_fontsize() * room / place.width)


def width_of(texts: Iterable[str], size: float) -> float:
    """The width in inches of the widest of the texts in letters of `size` points, rather too large."""
    font, widest = get_font(findfont(FONT)), 0
    font.set_size(size, 72)
    for line in {line for text in texts for line in text.splitlines()}:
        font.set_text(line, flags=LoadFlags.NO_HINTING)
        widest = max(widest, font.get_width_height()[0])
    return 1.05 * widest / 64 / 72  # from 64ths of a point


def leave_bare(axis: Axes) -> None:
    """Remove grid and frame from an axis that shows images or a matrix."""
    axis.grid(visible=False)
    sns.despine(ax=axis, left=True, bottom=True)


def draw_matrix(
    values: np.ndarray,
    texts: np.ndarray | None,
    names: list[str],
    cell: tuple[float, float],
    text_size: float,
    bar_label: str,
    labels: dict[str, str],
    bar: dict | None = None,
    **colours: object,
) -> Figure:
    """A square matrix, values (n, n), as coloured cells with `texts` (n, n), and names to the left and below.

    cell: width and height in inches; a small matrix has larger cells. labels: the axis's title and labels.
    bar: options of the colour bar. colours: options of imshow.
    """
    across, down = (max(inches, 3.2 / len(names)) for inches in cell)
    size = min(9, 0.8 * 72 * down)
    longest = width_of(names, size)
    turned = longest > 0.9 * across
    left, below = longest + 0.45, (longest if turned else 0.15) + 0.45
    width, height = left + across * len(names) + 1.25, below + down * len(names) + 0.4
    figure, axis = plt.subplots(figsize=(width, height))
    figure.subplots_adjust(
        left=left / width, right=1 - 1.25 / width, bottom=below / height, top=1 - 0.4 / height
    )
    picture = axis.imshow(values, aspect="auto", interpolation="nearest", **colours)
    for i, j in np.argwhere(texts != "") if texts is not None else ():
        ink = "black" if np.isnan(values[i, j]) else ink_on(picture.to_rgba(values[i, j]))
        axis.text(j, i, texts[i, j], color=ink, fontsize=text_size, ha="center", va="center")
    axis.set_xticks(range(len(names)), names, rotation=90 if turned else 0, fontsize=size)
    axis.set_yticks(range(len(names)), names, fontsize=size)
    axis.tick_params(pad=2)
    axis.set(**labels)
    leave_bare(axis)
    place = figure.add_axes((1 - 1.1 / width, below / height, 0.16 / width, down * len(names) / height))
    figure.colorbar(picture, cax=place, **(bar or {})).set_label(bar_label)
    return figure


def draw_sheet(
    images: np.ndarray,
    captions: list[str],
    colours: list[str],
    columns: int,
    title: str,
    label: str,
    cell: float = 1.15,
) -> Figure:
    """Images, uint8 (n, rows, columns), in rows of `columns`, each with a coloured caption below it.

    label: explains the captions. cell: the longer side of an image with its margin, in inches; wide captions
    get more room. One axis for all images is many times faster than one for each.
    """
    high, wide = images.shape[1:]
    scale = cell / (1.36 * max(high, wide))  # inches a pixel
    step = round(max(cell, width_of(captions, 8.5) + 0.12) / scale)
    lines = max((c.count("\n") + 1 for c in captions), default=1)
    drop = high + round((0.08 + 0.16 * lines) / scale)
    rows = max(1, -(-len(images) // columns))
    canvas = np.full((rows * drop, columns * step), np.nan)
    head, foot = 0.35, 0.3
    width, height = scale * canvas.shape[1], scale * canvas.shape[0] + head + foot
    figure, axis = plt.subplots(figsize=(width, height))
    figure.subplots_adjust(left=0, right=1, bottom=foot / height, top=1 - head / height)
    for place, (image, caption, colour) in enumerate(zip(images, captions, colours, strict=True)):
        top, left = place // columns * drop, place % columns * step + (step - wide) // 2
        canvas[top : top + high, left : left + wide] = image
        x, y = left + wide / 2 - 0.5, top + high - 0.5 + 0.02 / scale
        axis.text(x, y, caption, color=colour, fontsize=8.5, ha="center", va="top")
    axis.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    if len(images) == 0:
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center")
    axis.set(xticks=[], yticks=[], title=title, xlabel=label)
    leave_bare(axis)
    return figure


def label_points(axis: Axes, x: np.ndarray, y: np.ndarray, names: list[str], colours: list[str]) -> None:
    """Write the names of points at the right edge of an axis, evenly spaced, each with a line to its point.

    x, y, colours: of the points. Call it last: it depends on the axis's scales and limits.
    """
    place = axis.transAxes.inverted().transform(axis.transData.transform(np.column_stack([x, y])))
    heights = np.linspace(0.02, 0.98, len(names)) if len(names) > 1 else [0.5]
    for height, i in zip(heights, np.lexsort((place[:, 0], place[:, 1])), strict=True):
        line = {"arrowstyle": "-", "color": colours[i], "alpha": 0.45, "lw": 0.8, "relpos": (0, 0.5)}
        line |= {"patchA": None, "shrinkA": 2}  # else the text's box cuts off steep lines
        axis.annotate(
            names[i],
            (x[i], y[i]),
            xytext=(1.06, height),
            textcoords="axes fraction",
            color=colours[i],
            fontsize=9,
            va="center",
            arrowprops=line,
        )
