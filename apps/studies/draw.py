"""Draw the results of the studies and write a page with them.

    python -m apps.studies.draw

Reads studies/params.yaml and studies/results/. Writes studies/plots/<study>.png and studies/index.html.
"""

from functools import partial
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from apps.studies import plan
from stages.common import files
from stages.console import command
from stages.pictures import style

RESULTS, PLOTS, PAGE = Path("studies/results"), Path("studies/plots"), Path("studies/index.html")
MARKERS = "os^Dv<>pP*"
PANELS = {
    "validation_accuracy": (100, "accuracy on held-out images (%)"),
    "accuracy": (100, "accuracy on test images (%)"),
    "training_seconds": (1, "training (s)"),
}
"""Columns of trials.csv, what they are multiplied by, and their axis labels."""


def main() -> None:
    command.no_arguments(__doc__)
    parts = []
    with files.replacing(PLOTS, PAGE) as (folder, page):
        for name, study in plan.read().items():
            table = pd.read_csv(RESULTS / name / "trials.csv")
            tables = [summarize(table)]
            if study.vary == plan.SEED:
                means = pd.read_csv(RESULTS / name / "means.csv")
                tables.append(gains(means))
                draw = partial(draw_seeds, table, means)
            else:
                draw = partial(draw_values, study.vary, table)
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
            f'<img src="plots/{name}.png" alt="{escape(study.question)}">',
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
    return f'<div class="wide">{table.to_html(index=False, border=0, formatters=formats)}</div>'


def gains(means: pd.DataFrame) -> pd.DataFrame:
    """A row for each model: the accuracy of the mean over k seeds, in percent, a column for each k."""
    wide = means.assign(accuracy=100 * means.accuracy).pivot(
        index="model", columns="seeds", values="accuracy"
    )
    wide = wide.loc[list(dict.fromkeys(means.model))]
    return wide.rename(columns=lambda k: f"mean of {k} (%)").rename_axis(columns=None).reset_index()


TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Studies</title>
<style>
body {{ font-family: sans-serif; max-width: 75rem; margin: auto; padding: 1rem; color: #222; }}
img {{ max-width: 100%; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; }}
th, td {{ text-align: right; padding: 0.15rem 0.6rem; }}
</style>
<h1>Studies</h1>
<p>± is the standard deviation over the seeds. Seconds and memory are from the machine that trained.</p>
{}
</html>
"""


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each model and value: means over the seeds, and the standard deviation of the accuracy."""
    by = table.assign(value=table.value if table.groupby("value").seed.nunique().min() > 1 else "all")
    groups = by.groupby(["model", "value"], sort=False)
    return pd.DataFrame(
        {
            "trainings": groups.size(),
            "failed": groups.failure.count(),
            "accuracy (%)": 100 * groups.accuracy.mean(),
            "± (%)": 100 * groups.accuracy.std(),
            "held-out accuracy (%)": 100 * groups.validation_accuracy.mean(),
            "training (s)": groups.training_seconds.mean(),
            "memory (MiB)": groups.peak_mebibytes.max(),
            "parameters": groups.parameters.max(),
            "training images": groups.training_images.max(),
        }
    ).reset_index()


def draw_values(what: str, table: pd.DataFrame) -> Figure:
    """Accuracies and seconds against the values, a line for each model: means, in a band from min to max."""
    panels = {column: panel for column, panel in PANELS.items() if table[column].notna().any()}
    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 5), layout="constrained")
    for axis, (column, (factor, label)) in zip(axes, panels.items(), strict=True):
        for number, (model, rows) in enumerate(table.groupby("model", sort=False)):
            groups = factor * rows.groupby("value")[column].agg(["mean", "min", "max"])
            colour, marker = style.colour_of(model), MARKERS[number % len(MARKERS)]
            axis.plot(groups.index, groups["mean"], color=colour, marker=marker, markersize=5, label=model)
            axis.fill_between(groups.index, groups["min"], groups["max"], color=colour, alpha=0.15)
        axis.set(xlabel=what.replace("_", " "), ylabel=label, title=label.split(" (")[0])
        if pd.api.types.is_numeric_dtype(table.value):
            values = sorted(table.value.unique())
            axis.set_xscale("log" if min(values) > 0 else "linear")
            axis.set_xticks(values, [f"{value:.3g}" for value in values], rotation=30)
            axis.xaxis.set_minor_locator(NullLocator())
        if column == "training_seconds":
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_locator(NullLocator())
    axes[-1].legend(fontsize=8)
    return figure


def draw_seeds(table: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """The accuracy of each seed, and of the mean over the predictions of several seeds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    models = list(dict.fromkeys(table.model))
    for number, model in enumerate(models):
        rows, of_means = table[table.model == model], means[means.model == model]
        colour, marker = style.colour_of(model), MARKERS[number % len(MARKERS)]
        left.scatter(100 * rows.accuracy, [number] * len(rows), color=colour, marker=marker, s=40, alpha=0.6)
        left.scatter(100 * rows.accuracy.mean(), number, color="black", marker="|", s=400)
        line = 100 * of_means[["accuracy", "accuracy_low", "accuracy_high"]]
        right.plot(of_means.seeds, line.accuracy, color=colour, marker=marker, markersize=5, label=model)
        right.fill_between(of_means.seeds, line.accuracy_low, line.accuracy_high, color=colour, alpha=0.12)
    left.set_yticks(range(len(models)), models)
    left.set(title="Each seed; black line: mean", xlabel=PANELS["accuracy"][1], ylabel="model")
    right.set(title="The mean of several seeds", xlabel="seeds", ylabel=PANELS["accuracy"][1])
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    command.run(main)
