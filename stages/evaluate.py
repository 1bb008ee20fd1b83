"""Compare every model's predictions for the test images with the labels.

    python -m stages.evaluate

Reads data/test_labels.npy, outputs/{predictions,history,cards}/ and, from params.yaml, the names of
the models. Writes outputs/metrics/<framework>/<model>.json, the scalars that `dvc metrics` shows,
and outputs/tables/*.csv, tidy tables with a column `model` that holds framework/model.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.errors import EmptyDataError, ParserError
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score, log_loss

from stages.common import command, dataset, files, params, results

METRICS = results.OUTPUTS / "metrics"
TABLES = results.OUTPUTS / "tables"
FRAMEWORKS = {"pytorch": True, "tensorflow": True, "scratch": True, "sklearn": False}
"""Each framework, and whether its models have epochs and so a history."""


def main() -> None:
    command.no_arguments(__doc__)
    labels = dataset.load_labels("test")
    models = [(framework, name) for framework in FRAMEWORKS for name in params.read(framework, dict)]
    with_epochs = [(framework, name) for framework, name in models if FRAMEWORKS[framework]]

    predictions = {
        model: load_predictions(path, len(labels))
        for model, path in find("predictions", models, "npy").items()
    }
    cards = {model: load_card(path) for model, path in find("cards", models, "json").items()}
    histories = {model: load_history(path) for model, path in find("history", with_epochs, "csv").items()}
    metrics = {model: measure(labels, predictions[model]) | cards[model] for model in predictions}
    tables = {
        "summary": pd.DataFrame([{"model": model, **row} for model, row in metrics.items()]),
        "confusion": pd.concat(
            [confusion(labels, p).assign(model=model) for model, p in predictions.items()]
        ),
        "history": pd.concat([h.assign(model=model) for model, h in histories.items()]),
    }

    with files.replacing(METRICS) as folder:
        for model, scalars in metrics.items():
            files.save_json(folder / f"{model}.json", scalars)
    with files.replacing(TABLES) as folder:
        folder.mkdir()
        for name, table in tables.items():
            columns = ["model", *table.columns.drop("model")]
            table.to_csv(folder / f"{name}.csv", columns=columns, index=False, lineterminator="\n")
    print_summary(tables["summary"])


def find(kind: str, models: list[tuple[str, str]], extension: str) -> dict[str, Path]:
    """The file of each model in outputs/<kind>, by framework/model.

    Raises UserError if one is missing or the folder holds another file: the result would depend
    on what happens to lie there.
    """
    paths = {f"{f}/{name}": results.path(kind, f, name, extension) for f, name in models}
    for model, path in paths.items():
        if not path.is_file():
            raise command.UserError(f"{path} is missing: `dvc repro` trains {model} and makes it")
    present = {path for path in (results.OUTPUTS / kind).rglob("*") if path.is_file()}
    for path in sorted(present - set(paths.values())):
        if ".partial" not in path.name:
            raise command.UserError(f"{path} is of no model in params.yaml; remove it: rm {path}")
    return paths


def load_predictions(path: Path, images: int) -> np.ndarray:
    """Class probabilities, float32 (images, 10), each row finite, within 0 and 1, with sum 1.

    Raises UserError, naming the file, if they are anything else.
    """
    probabilities = files.load_array(path, np.float32, (images, dataset.CLASSES))
    if not ((probabilities >= 0) & (probabilities <= 1)).all():  # false for nan, too
        raise command.UserError(f"{path} holds values that are no probabilities: allowed are 0 to 1")
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        row = int(np.abs(probabilities.sum(axis=1) - 1).argmax())
        raise command.UserError(f"{path}: the probabilities of image {row} do not sum to 1")
    return probabilities


def load_card(path: Path) -> dict[str, int | None]:
    """The model's number of parameters and of training images."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        return {key: card[key] for key in ("parameters", "training_images")}
    except (ValueError, KeyError, TypeError) as error:
        raise command.UserError(f"{path} is damaged: {error!r}; `dvc repro` makes it anew") from None


def load_history(path: Path) -> pd.DataFrame:
    """A row an epoch. Raises UserError, naming the file, if it is no table."""
    try:
        return pd.read_csv(path)
    except (ParserError, EmptyDataError, UnicodeDecodeError) as error:
        raise command.UserError(f"{path} is no CSV table: {' '.join(str(error).split())}") from None


def measure(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The scalars of one model; shares are between 0 and 1.

    labels: uint8 (n,). probabilities: float32 (n, 10).

    accuracy, and the bounds of its 95 % interval (Wilson, 1927). log_loss: the mean cross-entropy
    in nats; a probability of 0 counts as 1.2e-7, what float32 can tell from 0 beside 1. macro_f1:
    the mean of the digits' F1.
    """
    predicted = probabilities.argmax(axis=1)
    correct = np.count_nonzero(predicted == labels)
    interval = binomtest(correct, len(labels)).proportion_ci(0.95, method="wilson")
    digits = np.arange(dataset.CLASSES)
    scalars = {
        "accuracy": correct / len(labels),
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "log_loss": log_loss(labels, probabilities, labels=digits),
        "macro_f1": f1_score(labels, predicted, labels=digits, average="macro", zero_division=0),
    }
    return {name: round(float(value), 6) for name, value in scalars.items()}


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """A row for every truth and prediction: how many images, and their share of the truth's images."""
    digits = range(dataset.CLASSES)
    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=digits)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    table = pd.DataFrame(product(digits, digits), columns=["truth", "prediction"])
    return table.assign(count=counts.ravel(), share=shares.ravel().round(6))


def print_summary(summary: pd.DataFrame) -> None:
    """The accuracies, best first."""
    for row in summary.sort_values("accuracy", ascending=False).itertuples():
        print(f"{row.model:<30} {row.accuracy:.2%}  [{row.accuracy_low:.2%}, {row.accuracy_high:.2%}]")


if __name__ == "__main__":
    command.run(main)
