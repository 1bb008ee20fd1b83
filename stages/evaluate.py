"""Score each model: compare its predictions with the labels.

    python -m stages.evaluate

Reads data/dataset.json, data/{train,test}_labels.npy, outputs/{models,predictions,validation}/ and, from
params.yaml, the names of the models. Scores the trained models, names the others, and removes the results of
models that are no longer in params.yaml. Writes outputs/metrics/<framework>/<model>.json, the scalars that
`dvc metrics` shows, and outputs/tables/*.csv, tidy tables with a column `model` that holds framework/model.
Takes about 1.5 s for 25 models and 10,000 images.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.common import dataset, files, params, results
from stages.common.frameworks import FRAMEWORKS
from stages.console import command
from stages.console.errors import UserError, reading
from stages.evaluation import scores, tables

METRICS = results.OUTPUTS / "metrics"
SCALARS = ("accuracy", "log_loss", "validation_accuracy", "validation_log_loss")
LEFT = {"model.json", "weights.safetensors", "classifier.skops", "history.csv", "losses.csv"}
"""The files that a trainer may write into a model's folder."""

Model = tuple[str, str]
"""Framework and name."""


def main() -> None:
    command.no_arguments(__doc__)
    data, labels, train_labels = dataset.describe(), dataset.load_labels("test"), dataset.load_labels("train")
    held_out = cache(lambda count: train_labels[dataset.held_out(train_labels, count)])
    wrong_answers = params.read("wrong_answers", params.Share)
    wanted = [
        (framework, name)
        for framework in FRAMEWORKS
        if framework in params.content(params.PATH)
        for name in params.read(framework, dict[params.Name, Any])
    ]
    remove_leftovers(wanted)
    missing = {model: reason for model in wanted if (reason := why_not(*model, data))}
    trained = [model for model in wanted if model not in missing]
    if not trained:
        raise UserError(in_words(missing) if missing else "params.yaml names no models")

    assessed, histories = {}, {}
    for framework, name in trained:
        description = results.load_description(framework, name)
        probabilities = results.load_probabilities(
            results.predictions(framework, name), len(labels), len(data.classes)
        )
        scalars, found = scores.assess(labels, probabilities, data.classes)
        labels_held_out = held_out(description.validation_images)
        scalars |= assess_validation(framework, name, labels_held_out, data.classes, wrong_answers)
        scalars |= scores.rounded(scores.answered(labels, probabilities, scalars["sure_above"]))
        for key in ("parameters", "training_images", "validation_images", "summary"):
            scalars[key] = getattr(description, key)
        assessed[f"{framework}/{name}"] = scalars, found
        if description.architecture is not None:
            path = results.folder(framework, name) / "history.csv"
            histories[f"{framework}/{name}"] = tables.load_table(path, tables.HISTORY)
    collected = tables.collect(assessed)
    summary = collected["summary"] = collected["summary"].astype({"parameters": "Int64"})
    collected["history"] = tables.by_model(histories or {"": pd.DataFrame(columns=tables.HISTORY)})

    with files.replacing(METRICS, tables.TABLES) as (metrics_folder, tables_folder):
        for model, (scalars, _) in assessed.items():
            files.write_json(metrics_folder / f"{model}.json", {key: scalars[key] for key in SCALARS})
        tables.write(tables_folder, collected)
    print_summary(summary)
    if missing:
        print(in_words(missing))


def why_not(framework: str, name: str, data: dataset.Dataset) -> str | None:
    """Why a model cannot be scored: it is not trained, or trained on other data. None if it can be."""
    if not all(path.exists() for path in results.all_of(framework, name)):
        return "not trained"
    described = results.load_description(framework, name)
    path = results.predictions(framework, name)
    with reading(path, "is no .npy file of numbers", remedy=results.remedy(framework, name)):
        predicted = len(np.load(path, mmap_mode="r"))
    training = described.training_images + described.validation_images
    for what, same in (
        ("other classes", described.classes == data.classes),
        ("another image size", described.image_size == data.image_size),
        ("another number of test images", predicted == data.counts.test),
        ("other held-out images", not described.validation_images or training == data.counts.train),
    ):
        if not same:
            return f"trained on data with {what}"
    return None


def in_words(missing: dict[Model, str]) -> str:
    """A message: which models are not scored, why, and how to train them."""
    reasons: dict[str, list[str]] = {}
    for (framework, name), reason in missing.items():
        reasons.setdefault(reason, []).append(f"{framework}/{name}")
    stages = [f"train_{framework}@{name}" for framework, name in missing]
    clauses = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
    them = " ".join(["dvc repro", *(stages if len(stages) <= 3 else [])])
    return f"not scored: {'; '.join(clauses)}; `{them}` trains {'it' if len(stages) == 1 else 'them'}"


def assess_validation(
    framework: str, name: str, labels: np.ndarray, classes: tuple[str, ...], wrong_answers: float
) -> scores.Scalars:
    """The scores of a model's predictions for its held-out images, whose labels are `labels`; None if there
    are none."""
    path = results.validation(framework, name)
    probabilities = results.load_probabilities(path, len(labels), len(classes))
    if not len(labels):
        return dict.fromkeys(("validation_accuracy", "validation_log_loss", "sure_above"))
    found = {
        "validation_accuracy": scores.accuracy(labels, probabilities),
        "validation_log_loss": scores.log_loss(labels, probabilities),
        "sure_above": scores.sure_above(labels, probabilities, wrong_answers),
    }
    return scores.rounded(found)


def remove_leftovers(wanted: list[Model]) -> None:
    """Remove the results of models that are no longer in params.yaml, if nothing but a trainer wrote them."""
    for folder in sorted((results.OUTPUTS / "models").glob("*/*/")):
        framework, name = folder.parts[-2:]
        if framework in FRAMEWORKS and (framework, name) not in wanted and is_result(folder, framework, name):
            for path in results.all_of(framework, name):
                files.remove(path)
            print(f"{framework}/{name} is not in params.yaml: results removed; DVC's cache keeps them")


def is_result(folder: Path, framework: str, name: str) -> bool:
    """Whether the folder, and the model's other results, are exactly what a trainer writes."""
    inside = {path.name for path in folder.iterdir()}
    beside = results.all_of(framework, name)[1:]
    if folder.is_symlink() or inside - LEFT or not all(path.is_file() for path in beside):
        return False
    try:
        description = results.load_description(framework, name)
    except UserError:
        return False
    return (description.framework, description.name) == (framework, name)


def print_summary(summary: pd.DataFrame) -> None:
    """Print the accuracies with their intervals, and the losses, the best accuracy first."""
    for row in summary.sort_values("accuracy", ascending=False, kind="stable").itertuples():
        interval = f"[{row.accuracy_low:.2%}, {row.accuracy_high:.2%}]"
        validation = "" if pd.isna(row.validation_accuracy) else f"  validation {row.validation_accuracy:.2%}"
        sure = "" if pd.isna(row.answered) else f"  sure {row.answered:.1%}"
        sure += "" if pd.isna(row.wrong_answers) else f", wrong {row.wrong_answers:.2%}"
        print(
            f"{row.model:<30} {row.accuracy:.2%}  {interval}  log loss {row.log_loss:.4f}{validation}{sure}"
        )


if __name__ == "__main__":
    command.run(main)
