"""Write the report: a page that compares the models and a page for each model. They open offline.

    python -m stages.report

Reads data/dataset.json, outputs/{tables,comparison,plots,models,timings}/ and, if it exists,
outputs/parity.csv. Writes outputs/report/: index.html, models/<framework>-<model>.html, resume.md and
cost.csv (parameters, seconds, memory). Each page contains its pictures, so the folder can be copied; only
the links to the page to draw on and to the studies lead out of it. Seconds, memory and machines are those
of the trainings. Because seconds differ from run to run, the report and the timings are the only results
that two runs do not repeat to the bit.
"""

import base64
import math
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from stages.common import dataset, files, results
from stages.common.frameworks import FRAMEWORKS
from stages.console import command
from stages.evaluation.tables import LEVEL, PARITY, load_table, load_tables
from stages.pictures import overall, style

TEMPLATES = Path(__file__).parent / "templates"
PLOTS, REPORT = (results.OUTPUTS / name for name in ("plots", "report"))
SECONDS = ("training_seconds", "prediction_seconds")
SMALL = 10_000
"""Parameters of a network that the report calls small."""
COST = ("parameters", "training_images", "device", *SECONDS, "peak_mebibytes")

OVERALL = {
    "accuracy": "Test accuracy of every model, and its error (share of wrong images) with the 95 % interval",
    "accuracy_by_parameters": "Error against the number of parameters",
    "training_loss": "Loss (cross-entropy) over the epochs, the passes over the training images",
    "training_accuracy": "Accuracy over the epochs",
    "pairs": "Difference in accuracy of each pair of models, and whether it is significant",
    "agreement": "How often two models predict the same class",
    "contributions": "What each model adds to the accuracy of the mean of all models",
    "hardest": "Test images that most models get wrong",
    "embedding": "Test images in two dimensions, by PCA and t-SNE: similar images lie close together",
    "samples": "Training images of each class",
}
SINGLE = {
    "training": "Loss over the steps (batches), loss and accuracy over the epochs (passes over the images)",
    "confusion": "Confusion matrix: test images by true and predicted class",
    "roc": "ROC curves of each class against the rest: true and false positive rate; AUC is the area below",
    "calibration": "Reliability diagram: accuracy against confidence, the largest probability",
    "mistakes": "The worst mistakes: wrong predictions with the highest confidence",
    "predictions": "Random test images with predictions and probabilities",
    "truths": "Random test images: predicted and true class",
    "probabilities": "The test image that the model is least sure about, and its probabilities",
    "first_layer": "The weights of the first layer",
}
"""The pictures in the page's order, with their captions, which are the alternative texts, too."""

TERMS = {
    "accuracy": "The share of the test images that the model classifies correctly.",
    "95 % interval": "Wilson interval: of 100 such intervals, each from other test images, about 95 contain "
    "the model's accuracy on all images of this kind.",
    "validation accuracy": "The accuracy on held-out training images. Use it to choose a model.",
    "log loss (nats)": "The mean cross-entropy, −ln of the probability of the true class. 0 is perfect.",
    "macro F1": "F1 is the harmonic mean of precision (share of the images predicted as a class that belong "
    "to it) and recall (share of the class's images that are found). Macro: the mean over the classes.",
    "macro AUC": "AUC, the area under the ROC curve, is how often an image of a class gets a higher "
    "probability for it than an image of another class. Macro: the mean over the classes.",
    "calibration error": "The mean distance between confidence (the largest probability) and accuracy, over "
    "15 bins of confidence. 0 is perfect.",
    "Brier score": "The squared error of the probabilities, summed over the classes: 0 (perfect) to 2.",
    "sure answers": "The share of the test images with a confidence above the model's threshold: the lowest "
    "above which, as far as held-out images can show, at most the share wrong_answers of params.yaml is "
    "wrong. Models with too few held-out images, or none, have no threshold.",
    "of these wrong": "The share of the sure answers that are wrong.",
    "parameters": "How many numbers are trained. For nearest neighbours: the stored pixels; for forests: the "
    "nodes of their trees.",
    "training images": "How many images the model was trained on.",
    "s to train": "Seconds of training, without importing libraries and loading data.",
    "s to predict": "Seconds to classify all test images.",
}
"""The columns of the table of results, in the page's order, with their meanings."""


def main() -> None:
    command.no_arguments(__doc__)
    data = dataset.describe()
    tables = load_tables(data.classes)
    summary = tables["summary"].set_index("model")
    names = [model for model in summary.index if model.split("/")[0] in FRAMEWORKS]
    timings = {model: results.load_timings(*model.split("/")) for model in names}
    for key in (*SECONDS, "device", "precision", "peak_mebibytes"):
        summary[key] = pd.Series({model: getattr(timings[model], key) for model in names})
    summary = summary.sort_values("accuracy", ascending=False, kind="stable")
    added, alike = tables["contributions"], same_architecture(summary.loc[summary.index.isin(names)])
    parity = results.OUTPUTS / "parity.csv"
    content = {
        "data": data,
        "summary": records(summary.reset_index()),
        "best": records(best_of_each_framework(summary)),
        "single": records(summary.loc[summary.index.isin(names)].reset_index()),
        "answers": answers(summary.loc[summary.index.isin(names)]),
        "terms": TERMS,
        "labels": {name: framework.label for name, framework in FRAMEWORKS.items()},
        "level": LEVEL,
        "significance": significance(tables["pairs"], list(summary.index)),
        "contributing": len(added) > 0,
        "adding": adding(added),
        "harming": adding(added.assign(gain=-added.gain)),
        "alike": records(alike),
        "parity": records(load_table(parity, PARITY)) if parity.exists() else [],
        "pictures": pictures(PLOTS / "overall", OVERALL) | speed_picture(summary),
        "root": "",
        "side_by_side": frameworks_picture(alike, tables["history"]),
        "models": models(list(summary.index), tables["per_class"]),
        "environment": environment(timings),
    }
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cost = summary.loc[summary.index.isin(names), list(COST)]
    cost = cost.astype(dict.fromkeys(("parameters", "training_images", "peak_mebibytes"), "Int64"))
    with files.replacing(REPORT) as (folder,):
        files.write_text(folder / "cost.csv", cost.to_csv(lineterminator="\n"))
        for name, template in (("index.html", "report.html"), ("resume.md", "resume.md")):
            files.write_text(folder / name, templates.get_template(template).render(content))
        (folder / "models").mkdir()
        for model, row in zip(content["models"], content["summary"], strict=True):
            page = templates.get_template("model.html").render(content, model=model, row=row, root="../")
            files.write_text(folder / "models" / f"{model['name'].replace('/', '-')}.html", page)
    print(f"{REPORT / 'index.html'}: {len(names)} models")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries, missing values as None."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def best_of_each_framework(summary: pd.DataFrame) -> pd.DataFrame:
    """The first row of every framework, ensembles left out; the best first if `summary` is sorted so."""
    rows = summary.reset_index()
    rows["framework"] = rows.model.str.split("/").str[0]
    return rows[rows.framework.isin(list(FRAMEWORKS))].drop_duplicates("framework")


def answers(summary: pd.DataFrame) -> list[dict[str, str]]:
    """What most readers want to know: the best model, the best small one, the fastest good one.

    summary: of single models, the best first. Good: at least the best accuracy, rounded down to a percent.
    """
    best = summary.iloc[0]
    interval = f"{best.accuracy_low:.2%} to {best.accuracy_high:.2%}"
    said = [
        {
            "before": "The best model is",
            "model": best.name,
            "after": f", with {best.accuracy:.2%} of the test images classified correctly (95 % interval "
            f"{interval}: other test images would give another accuracy).",
        }
    ]
    if len(small := summary[summary.parameters < SMALL]):
        one = small.iloc[0]
        said.append(
            {
                "before": f"The best with fewer than {SMALL:,} parameters (trained numbers) is",
                "model": one.name,
                "after": f" ({one.accuracy:.2%}, {one.parameters:,.0f} parameters).",
            }
        )
    goal = math.floor(100 * best.accuracy) / 100
    good = summary[(summary.accuracy >= goal) & summary.training_seconds.notna()]
    one = good.loc[good.training_seconds.idxmin()]
    said.append(
        {
            "before": f"The fastest to train of those with at least {goal:.0%} is",
            "model": one.name,
            "after": f" ({one.accuracy:.2%} after {one.training_seconds:.1f} s).",
        }
    )
    return said


def significance(pairs: pd.DataFrame, models: list[str]) -> list[dict[str, Any]]:
    """For each model the others that it is significantly better than, worse than, and not distinguished from.

    models: names, the best first, as the rows and the lists are.
    """
    rows = []
    for model in models:
        better, same, worse = [], [], []
        as_first = pairs[pairs.model == model][["other", "difference", "p_holm"]]
        as_second = pairs[pairs.other == model][["model", "difference", "p_holm"]]
        as_second = as_second.rename(columns={"model": "other"}).assign(difference=-as_second.difference)
        for row in pd.concat([as_first, as_second]).itertuples():
            significant = row.p_holm < LEVEL
            (same if not significant else better if row.difference > 0 else worse).append(row.other)
        same.sort(key=models.index)
        rows.append({"model": model, "better": better, "same": same, "worse": worse})
    return rows


def adding(contributions: pd.DataFrame) -> list[str]:
    """The models that significantly improve the mean of all; with negated gains, those that worsen it."""
    return list(contributions.model[(contributions.gain > 0) & (contributions.p_holm < LEVEL)])


def pictures(folder: Path, captions: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Existing pictures, with captions."""
    found = [name for name in captions if (folder / f"{name}.png").is_file()]
    return {name: picture((folder / f"{name}.png").read_bytes(), captions[name]) for name in found}


def picture(png: bytes, caption: str) -> dict[str, Any]:
    """A PNG file as the page embeds it. Its size is given so that the page does not move while it loads."""
    with Image.open(BytesIO(png)) as image:
        width, height = image.size
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    return {"source": source, "width": width, "height": height, "caption": caption}


def speed_picture(summary: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The picture of errors against seconds. It is drawn here because seconds differ from run to run."""
    seconds = summary.training_seconds.dropna()
    intervals = 1 - summary[["accuracy_high", "accuracy_low"]]
    draw = partial(overall.draw_cost, seconds, 1 - summary.accuracy, "training time (seconds)", intervals)
    caption = "Error (share of wrong test images) with its 95 % interval, against training time"
    return {"accuracy_by_seconds": picture(style.png(draw), caption)}


def same_architecture(summary: pd.DataFrame) -> pd.DataFrame:
    """The networks whose architecture several frameworks share, grouped by architecture.

    summary: of all models, indexed by model. Adds the columns architecture, kind (CNN or dense), batch_size
    and epochs. Architectures are in order of their best accuracy, their models in order of the frameworks.
    """
    described = [results.load_description(*model.split("/")) for model in summary.index]
    table = summary.reset_index().assign(
        framework=[list(FRAMEWORKS).index(one.framework) for one in described],
        kind=["CNN" if "conv" in str(one.architecture) else "dense" for one in described],
        **{
            key: [one.recipe.get(key) for one in described]
            for key in ("architecture", "batch_size", "epochs")
        },
    )
    groups = [of_one for _, of_one in table.groupby("architecture", sort=False)]  # no name: no network
    alike = [of_one for of_one in groups if of_one.framework.nunique() > 1]
    return pd.concat([of_one.sort_values("framework", kind="stable") for of_one in alike] or [table[:0]])


def frameworks_picture(alike: pd.DataFrame, history: pd.DataFrame) -> dict[str, Any] | None:
    """The picture of architectures that several frameworks share, None if there are none. It is drawn here
    because seconds differ from run to run."""
    if alike.empty:
        return None
    draw = partial(overall.draw_frameworks, alike, history)
    return picture(style.png(draw), "The same architecture in several frameworks: loss, accuracy and seconds")


def models(names: list[str], per_class: pd.DataFrame) -> list[dict[str, Any]]:
    """What the pages show of each model: recipe, layers, scores of each class, pictures."""
    content = []
    for model in names:
        framework, name = model.split("/")
        described = results.load_description(framework, name) if framework in FRAMEWORKS else None
        shown = {
            kind: pictures(PLOTS / kind / framework, {name: caption}) for kind, caption in SINGLE.items()
        }
        content.append(
            {
                "name": model,
                "recipe": described and described.recipe,
                "layers": described and described.layers,
                "classes": records(per_class[per_class.model == model]),
                "pictures": {kind: found[name] for kind, found in shown.items() if found},
            }
        )
    return content


def environment(timings: dict[str, results.Timings]) -> list[dict[str, Any]]:
    """What the models were trained with: a row for each property and value, and the models that have it.

    `models` is empty where all models that record a property agree, such as on a package that only some use.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for model, of_model in timings.items():
        facts = {
            "processor": of_model.processor,
            "system": of_model.system,
            "threads": of_model.threads,
            "stages at the same time": of_model.side_by_side,
            "device": of_model.device,
            "precision": of_model.precision,
            "Python": of_model.python,
            **of_model.packages,
        }
        for name, value in facts.items():
            found.setdefault(name, {}).setdefault(str(value), []).append(model)
    return [
        {"name": name, "value": value, "models": having if len(values) > 1 else []}
        for name, values in found.items()
        for value, having in values.items()
    ]


if __name__ == "__main__":
    command.run(main)
