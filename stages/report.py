"""Write the report: one page that holds every result and picture and needs no network.

    python -m stages.report

Reads outputs/{tables,plots,cards,timings}/, outputs/parity.csv and, from params.yaml, data.dataset, seed,
threads, profile and device.
Writes outputs/report/: index.html, resume.md and cost.csv (parameters and seconds). Seconds differ
from run to run: this is, beside the timings, the one result that two runs do not repeat to the bit.
"""

import base64
import json
import platform
import struct
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.common import command, files, params, results
from stages.evaluation.tables import LEVEL, PARITY, load_table, load_tables
from stages.pictures import overall, style

TEMPLATES = Path(__file__).parent / "templates"
PLOTS, REPORT = (results.OUTPUTS / name for name in ("plots", "report"))
PACKAGES = (
    *("torch", "tensorflow", "keras", "numpy", "scikit-learn", "lightgbm"),
    *("scipy", "pandas", "matplotlib", "dvc"),
)
TIMINGS = {"device": str, "training_seconds": float, "prediction_seconds": float}

OVERALL = {
    "accuracy": "Test accuracy of every model, and its error with the 95 % interval",
    "accuracy_by_parameters": "Error against the number of parameters",
    "training_loss": "Loss over the epochs",
    "training_accuracy": "Accuracy over the epochs",
    "pairs": "How much better each model is than each other, and whether that may be chance",
    "agreement": "How often two models give the same digit",
    "contributions": "What each model adds to the mean of all",
    "hardest": "Test images that most models get wrong",
    "embedding": "Test images on a plane, by PCA and t-SNE",
    "samples": "Training images of each digit",
}
SINGLE = {
    "training": "Loss over the steps, loss and accuracy over the epochs",
    "confusion": "Confusion matrix: test images by digit and prediction",
    "roc": "ROC curves of the ten digits with their AUCs",
    "calibration": "Reliability diagram: how sure it is and how often it is right",
    "mistakes": "Its worst mistakes: wrong and sure of it",
    "predictions": "Test images at random with predictions and probabilities",
    "truths": "Test images at random: prediction and truth",
    "probabilities": "The test image that it is least sure about, and its ten probabilities",
    "first_layer": "What the units of its first layer look for",
}
"""The pictures, in the order of the page, and what they show: their captions and alternative texts."""


def main() -> None:
    command.no_arguments(__doc__)
    tables = load_tables()
    summary = tables["summary"].set_index("model")
    seconds = load_seconds(summary.index)
    summary = summary.join(seconds)
    summary = summary.sort_values("accuracy", ascending=False, kind="stable")
    content = {
        "dataset": Path(params.read("data.dataset", str)).name,  # of a folder of one's own no more
        "conditions": {name: params.read(name, object) for name in ("seed", "threads", "profile", "device")},
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "test_images": int(tables["confusion"].groupby("model")["count"].sum().iloc[0]),
        "summary": records(summary.reset_index()),
        "best": records(best_of_each_framework(summary)),
        "single": records(summary[~summary.index.str.startswith("ensemble/")].reset_index()),
        "level": LEVEL,
        "significance": significance(tables["pairs"], list(summary.index)),
        "contributing": len(tables["contributions"]) > 0,
        "adding": adding(tables["contributions"]),
        "harming": adding(tables["contributions"].assign(gain=-tables["contributions"].gain)),
        "parity": records(load_table(results.OUTPUTS / "parity.csv", PARITY)),
        "pictures": pictures(PLOTS / "overall", OVERALL) | speed_picture(summary),
        "models": models(list(summary.index), tables),
    }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cost = summary[["parameters", "training_images", *seconds.columns]].dropna(subset="training_seconds")
    with files.replacing(REPORT) as folder:
        folder.mkdir()
        counts = {"parameters": "Int64", "training_images": "Int64"}
        cost.astype(counts).to_csv(folder / "cost.csv", index_label="model", lineterminator="\n")
        for name, template in (("index.html", "report.html"), ("resume.md", "resume.md")):
            (folder / name).write_text(environment.get_template(template).render(content), encoding="utf-8")
    print(f"{REPORT / 'index.html'}: {len(content['models'])} models")


def load_seconds(models: pd.Index) -> pd.DataFrame:
    """The seconds that each model took, by framework/model; those of no framework, ensembles, left out."""
    rows = {}
    for model in models:
        framework, name = model.split("/")
        if framework in results.FRAMEWORKS:
            path = results.path("timings", framework, name, "json")
            with files.reading(path, "holds no seconds of a model"):
                timings = json.loads(path.read_text(encoding="utf-8"))
                rows[model] = {key: kind(timings[key]) for key, kind in TIMINGS.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries, missing values as None."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def best_of_each_framework(summary: pd.DataFrame) -> pd.DataFrame:
    """The first row of every framework, ensembles left out; the best first if `summary` is sorted so."""
    rows = summary[~summary.index.str.startswith("ensemble/")].reset_index()
    return rows.assign(framework=rows.model.str.split("/").str[0]).drop_duplicates("framework")


def significance(pairs: pd.DataFrame, models: list[str]) -> list[dict[str, Any]]:
    """For each model those that it really beats, that really beat it, and the rest, all in this order."""
    rows = []
    for model in models:
        beats, equals, loses = [], [], []
        as_first = pairs[pairs.model == model][["other", "difference", "p_holm"]]
        as_second = pairs[pairs.other == model][["model", "difference", "p_holm"]]
        as_second = as_second.rename(columns={"model": "other"}).assign(difference=-as_second.difference)
        for row in pd.concat([as_first, as_second]).itertuples():
            real = row.p_holm < LEVEL
            (beats if real and row.difference > 0 else loses if real else equals).append(row.other)
        equals.sort(key=models.index)
        rows.append({"model": model, "beats": beats, "equals": equals, "loses": loses})
    return rows


def adding(contributions: pd.DataFrame) -> list[str]:
    """The models without which the mean of all would really be worse; with gains negated, better."""
    return list(contributions.model[(contributions.gain > 0) & (contributions.p_holm < LEVEL)])


def pictures(folder: Path, captions: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Those of the pictures that there are, with their captions."""
    found = {}
    for name, caption in captions.items():
        path = folder / f"{name}.png"
        if path.is_file():
            found[name] = picture(path.read_bytes(), caption)
    return found


def picture(png: bytes, caption: str) -> dict[str, Any]:
    """What the page shows of a PNG file. Its size keeps the page from moving while it loads."""
    width, height = struct.unpack(">II", png[16:24])  # of the header, the first chunk
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    return {"source": source, "width": width, "height": height, "caption": caption}


def speed_picture(summary: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The picture of errors against seconds; drawn here, for seconds differ from run to run."""
    trained = summary.training_seconds.dropna() + summary.prediction_seconds.dropna()
    png = style.png(overall.draw_cost, trained, 1 - summary.accuracy, "time to train and predict (seconds)")
    caption = "Error against the seconds to train and to predict the test images"
    return {"accuracy_by_seconds": picture(png, caption)}


def models(names: list[str], tables: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """What the page says of each model: its recipe, its layers, its digits, its pictures."""
    content = []
    for model in names:
        framework, name = model.split("/")
        card = results.load_card(framework, name) if framework in results.FRAMEWORKS else {}
        content.append(
            {
                "name": model,
                "recipe": card.get("recipe"),
                "layers": card.get("layers"),
                "digits": records(tables["per_digit"][tables["per_digit"].model == model]),
                "pictures": {
                    kind: shown
                    for kind, caption in SINGLE.items()
                    for shown in pictures(PLOTS / kind / framework, {name: caption}).values()
                },
            }
        )
    return content


if __name__ == "__main__":
    command.run(main)
