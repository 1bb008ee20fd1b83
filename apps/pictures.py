"""Pictures of a search for parameters. Each function draws a figure and returns it.

model: framework/name. rows: of trials.csv, as `tune.Row`. space: what is tried for each key.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.pictures import style

HELD_OUT = "accuracy on the held-out images (%)"


def draw_course(model: str, rows: Sequence[Any]) -> Figure:
    """The accuracy of each trial, as crosses the last one of trials that ended early, and the best so far."""
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    complete = [row for row in rows if row.validation_accuracy is not None]
    numbers = [row.trial for row in complete]
    accuracies = [100 * row.validation_accuracy for row in complete]
    axis.scatter(numbers, accuracies, s=28, color=style.colour_of(model), label="complete", zorder=3)
    ended = [(row.trial, 100 * row.accuracies[-1]) for row in rows if row.state == "pruned"]
    if ended:
        axis.scatter(
            *zip(*ended, strict=True), s=28, marker="x", color=style.WRONG, label="ended early", zorder=3
        )
    if complete:
        axis.step(
            numbers, np.maximum.accumulate(accuracies), where="post", color=style.SOFT, label="best so far"
        )
        low = np.percentile(accuracies, 10)
        axis.set_ylim(bottom=max(0, low - 2 * (max(accuracies) - low) - 0.1))  # a few bad ones hide no others
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(title=f"{model}: course of the search", xlabel="trial (0: params.yaml)", ylabel=HELD_OUT)
    axis.legend(loc="lower right")
    return figure


def draw_importance(model: str, importances: Mapping[str, float]) -> Figure:
    """The importance of each key: its share in the differences between the trials' accuracies."""
    keys = list(importances)[::-1]
    width = style.width_of(keys, 9)
    figure, axis = plt.subplots(figsize=(5 + width, 1.2 + 0.35 * len(keys)), layout="constrained")
    shares = [100 * importances[key] for key in keys]
    axis.bar_label(axis.barh(keys, shares, color=style.colour_of(model)), fmt="%.0f %%", padding=4)
    axis.set(title=f"{model}: importance of parameters", xlabel="importance (%), PED-ANOVA, complete trials")
    axis.set_xlim(0, 1.15 * max(shares))
    axis.grid(visible=False, axis="y")
    return figure


def draw_pair(model: str, rows: Sequence[Any], space: Mapping[str, Any], across: str, up: str) -> Figure:
    """One key against another: a point for each complete trial, coloured by accuracy."""
    figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
    complete = [row for row in rows if row.validation_accuracy is not None]
    x, y = (_places([row.values[key] for row in complete], space[key]) for key in (across, up))
    for name, key in (("x", across), ("y", up)):
        _scale(axis, name, space[key])
    accuracies = np.array([100 * row.validation_accuracy for row in complete])
    low = max(accuracies.min(), np.percentile(accuracies, 10))
    points = axis.scatter(
        x, y, c=accuracies, s=60, cmap="viridis", vmin=low, edgecolor="black", linewidth=0.5
    )
    winner = accuracies.argmax()
    axis.scatter(x[winner], y[winner], s=240, facecolor="none", edgecolor=style.WRONG, linewidth=2)
    figure.colorbar(points, extend="min").set_label(HELD_OUT)
    axis.set(title=f"{model}: two most important parameters; red ring: best trial", xlabel=across, ylabel=up)
    return figure


def _places(values: list[Any], choice: Any) -> list[float]:
    """The positions of values on an axis; for values from a list, their indices in it."""
    if not isinstance(choice, tuple):
        return [np.nan if value is None else value for value in values]
    return [choice.index(value) if value in choice else np.nan for value in values]


def _scale(axis: Axes, name: str, choice: Any) -> None:
    if isinstance(choice, tuple):
        labels = [style.short(json.dumps(value)) for value in choice]
        getattr(axis, f"set_{name}ticks")(range(len(choice)), labels)
    elif choice.log:
        getattr(axis, f"set_{name}scale")("log")
