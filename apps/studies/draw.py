"""Draw what the studies found, and put it on a page.

    python -m apps.studies.draw

Reads studies/results/. Writes studies/plots/<study>.png and studies/index.html.
"""

from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

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
    found = {path.parent.name: pd.read_csv(path) for path in sorted(RESULTS.glob("*/trials.csv"))}
    parts = []
    with files.replacing(PLOTS, PAGE) as (folder, page):
        for name, table in found.items():
            means = RESULTS / name / "means.csv"
            draw = (
                partial(draw_seeds, table, pd.read_csv(means))
                if means.is_file()
                else partial(draw_values, name, table)
            )
            style.save(folder / f"{name}.png", draw)
            summary = summarize(table).to_html(index=False, border=0, float_format="{:.4g}".format)
            parts.append(f'<h2>{name}</h2>\n<img src="plots/{name}.png" alt="{name}">\n{summary}')
        files.write_text(page, TEMPLATE.format("\n".join(parts)))


TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Studies</title>
<style>
body {{ font-family: sans-serif; max-width: 75rem; margin: auto; padding: 1rem; color: #222; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; font-size: 0.85rem; }}
th, td {{ text-align: right; padding: 0.15rem 0.6rem; }}
</style>
<h1>Studies</h1>
<p>± is the standard deviation from seed to seed. Seconds and memory are of the machine that trained.</p>
{}
</html>
"""


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each model and value, seeds together: means, and the standard deviation of the accuracy."""
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
    """Accuracies and seconds against the values, a line a model: means, with a band from least to most."""
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
    """The accuracy of each seed, and of the mean over several of them."""
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
    left.set(title="Each seed, and their mean", xlabel=PANELS["accuracy"][1], ylabel="model")
    right.set(title="The mean of several seeds", xlabel="seeds", ylabel=PANELS["accuracy"][1])
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    command.run(main)
