"""Draw the results of the studies and write a page with them.

    python -m apps.studies.draw

Reads studies/params.yaml and studies/results/. Writes studies/plots/<study>.png and studies/index.html.
"""

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from html import escape
from numbers import Real
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from apps.studies import plan
from stages.common import files
from stages.console import command
from stages.pictures import style

RESULTS, PLOTS, PAGE = Path("studies/results"), Path("studies/plots"), Path("studies/index.html")
MARKERS = "os^Dv<>pP*"
LINES = "-", "--", ":", "-."
"""Of the models of one framework, which share a colour."""
TEST, HELD_OUT = "accuracy on test images (%)", "accuracy on held-out images (%)"
ACCURACIES = 10, 20, 40, 60, 70, 80, 85, 90, 93, 95, 97, 98, 98.5, 99, 99.3, 99.5, 99.7, 99.8, 99.9
"""Where an axis of accuracies in percent may have a tick."""
LEAST_ERROR = 0.01
"""Percent below which errors are not told apart."""


def main() -> None:
    command.no_arguments(__doc__)
    parts = []
    with files.replacing(PLOTS, PAGE) as (folder, page):
        for name, study in plan.read().items():
            table = pd.read_csv(RESULTS / name / "trials.csv")
            tables = [summarize(study, table)]
            if study.vary == plan.SEED:
                means = pd.read_csv(RESULTS / name / "means.csv")
                tables.append(gains(means))
                draw = partial(draw_seeds, table, means)
            else:
                draw = partial(draw_values, study, table)
            style.save(folder / f"{name}.png", draw)
            parts.append(describe(name, study, tables))
        files.write_text(page, TEMPLATE.format("\n".join(parts)))


def describe(name: str, study: plan.Study, tables: list[pd.DataFrame]) -> str:
    """The part of the page about a study, as HTML."""
    title = name.replace("_", " ").capitalize()
    shown = [show(table) for table in tables]
    return "\n".join(
        [
            f'<h2 id="{name}">{title}</h2>',
            f"<p><b>{escape(study.question)}</b></p>",
            f'<a href="plots/{name}.png"><img src="plots/{name}.png" alt="{escape(study.question)}"></a>',
            *shown,
            f"<p>Limits: {escape(study.limits)}</p>",
            f'<p>All trainings: <a href="results/{name}/trials.csv">trials.csv</a></p>',
        ]
    )


def show(table: pd.DataFrame) -> str:
    """A table as HTML: accuracies with two decimals, seconds with one, a dash where there is nothing."""
    formats = {
        column: (
            lambda value, places=2 if "%" in column else 1: "–" if pd.isna(value) else f"{value:,.{places}f}"
        )
        for column in table
        if "(%)" in column or "(s)" in column or str(column).startswith("mean of")
    }
    whole = {"memory (MiB)", "parameters", "training images"} & set(table)
    formats |= {column: lambda value: "–" if pd.isna(value) else f"{value:,.0f}" for column in whole}
    return (
        f'<div class="wide">{table.to_html(index=False, border=0, justify="unset", formatters=formats)}</div>'
    )


def gains(means: pd.DataFrame) -> pd.DataFrame:
    """A row for each model: the accuracy of the mean over k seeds, in percent, a column for each k."""
    wide = means.assign(accuracy=100 * means.accuracy).pivot(
        index="model", columns="seeds", values="accuracy"
    )
    wide = wide.loc[list(dict.fromkeys(means.model))]
    return wide.rename(columns=lambda k: f"mean of {k} (%)").rename_axis(columns=None).reset_index()


TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Studies</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font-family: sans-serif; line-height: 1.5; max-width: 75rem; margin: auto; padding: 1rem; }}
p {{ max-width: 45rem; }}
img {{ max-width: 100%; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; }}
th, td {{ text-align: right; padding: 0.15rem 0.6rem; }}
th:first-child, td:first-child {{ text-align: left; }}
tbody tr:nth-child(even) {{ background: #8882; }}
</style>
<h1>Studies</h1>
<p>± is the standard deviation over the seeds; bands in the pictures reach from the lowest value to the
highest.
Axes of accuracies are logarithmic in the errors. Seconds and memory are from the machine that trained.</p>
{}
</html>
"""


def summarize(study: plan.Study, table: pd.DataFrame) -> pd.DataFrame:
    """A row for each model and value: means over the seeds, and the standard deviation of the accuracy."""
    seeds = study.vary == plan.SEED
    values = ["all"] * len(table) if seeds else [write(study, value) for value in table.value]
    varied = "seeds" if seeds else study.vary.replace("_", " ")
    table = table.assign(**{varied: values}, quiet=seconds(table))
    groups = table.groupby(["model", varied], sort=False)
    summary = pd.DataFrame(
        {
            "trainings": groups.size(),
            "failed": groups.failure.count(),
            "accuracy (%)": 100 * groups.accuracy.mean(),
            "± (%)": 100 * groups.accuracy.std(),
            "held-out accuracy (%)": 100 * groups.validation_accuracy.mean(),
            **({"training (s)": groups.quiet.mean()} if study.alone else {}),
            "memory (MiB)": groups.peak_mebibytes.max(),
            "parameters": groups.parameters.max(),
            "training images": groups.training_images.max(),
        }
    ).reset_index()
    return summary if summary.failed.any() else summary.drop(columns="failed")


def seconds(table: pd.DataFrame) -> pd.Series:
    """Of each training, unless another one ran beside it."""
    return table.training_seconds.where(table.side_by_side == 1)


def styles(models: list[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """Each model, and how its line looks: a colour for each framework, a marker and a line of its own."""
    for number, model in enumerate(models):
        alike = [other for other in models[:number] if style.colour_of(other) == style.colour_of(model)]
        yield (
            model,
            {
                "color": style.colour_of(model),
                "marker": MARKERS[number % len(MARKERS)],
                "linestyle": LINES[len(alike) % len(LINES)],
                "markersize": 5,
                "label": model,
            },
        )


def set_accuracies(axis: Axes) -> None:
    """Let the vertical axis, accuracies in percent, be logarithmic in the errors."""
    low, high = axis.dataLim.intervaly
    functions = (
        lambda accuracy: -np.log10(np.maximum(100 - accuracy, LEAST_ERROR)),
        lambda place: 100 - 10**-place,
    )
    axis.set_yscale("function", functions=functions)
    low, high = low - max((100 - low) / 5, 5 * LEAST_ERROR), high + (100 - high) / 5
    shown = [tick for tick in ACCURACIES if low <= tick <= high] or [(low + high) / 2]
    axis.set_yticks(shown, [f"{tick:.4g}" for tick in shown])
    axis.set_ylim(low, high)
    axis.yaxis.set_minor_locator(NullLocator())


def draw_values(study: plan.Study, table: pd.DataFrame) -> Figure:
    """Accuracies, and seconds if they count, against the values: means, with a band from least to most."""
    table = table.assign(training_seconds=seconds(table))
    panels = {"validation_accuracy": (100, HELD_OUT), "accuracy": (100, TEST)}
    if study.alone:
        panels["training_seconds"] = (1, "training (s)")
    panels = {column: panel for column, panel in panels.items() if table[column].notna().any()}
    figure, axes = plt.subplots(1, len(panels), figsize=(4.8 * len(panels) + 2, 5), layout="constrained")
    for axis, (column, (factor, label)) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        for model, line in styles(list(dict.fromkeys(table.model))):
            groups = table[table.model == model].groupby("value")[column].agg(["mean", "min", "max"])
            groups = factor * groups.dropna()
            axis.plot(groups.index, groups["mean"], **line)
            axis.fill_between(groups.index, groups["min"], groups["max"], color=line["color"], alpha=0.15)
        axis.set(xlabel=study.vary.replace("_", " "), ylabel=label, title=label.split(" (")[0])
        if pd.api.types.is_numeric_dtype(table.value):
            values = sorted(table.value.unique())
            axis.set_xscale("log" if min(values) > 0 else "linear")
            axis.set_xticks(values, [write(study, value) for value in values])
            axis.xaxis.set_minor_locator(NullLocator())
        if column == "training_seconds":
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_locator(NullLocator())
        else:
            set_accuracies(axis)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def write(study: plan.Study, value: Any) -> str:
    """A value as pictures and tables show it: a share of the images as a fraction."""
    if study.vary == plan.IMAGES:
        return str(Fraction(value).limit_denominator(1000))
    return f"{value:g}" if isinstance(value, Real) else str(value)


def draw_seeds(table: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """The accuracy of each seed, and of the mean over the predictions of several seeds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    models = list(dict.fromkeys(table.model))
    for number, (model, line) in enumerate(styles(models)):
        colour, found = line["color"], 100 * table[table.model == model].accuracy
        of_means = means[means.model == model].set_index("seeds")
        left.scatter(found, [number] * len(found), color=colour, marker=line["marker"], s=40, alpha=0.6)
        left.scatter(found.mean(), number, color="black", marker="|", s=400)
        right.plot(of_means.index, 100 * of_means.accuracy, **line)
        band = 100 * of_means.accuracy_low, 100 * of_means.accuracy_high
        right.fill_between(of_means.index, *band, color=colour, alpha=0.12)
    left.set_yticks(range(len(models)), models)
    left.set(title="Each seed, and their mean", xlabel=TEST, ylabel="model", ylim=(len(models) - 0.5, -0.5))
    right.set(title="The mean of several seeds", xlabel="seeds", ylabel=TEST)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    command.run(main)
