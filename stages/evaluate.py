"""Compare every model's predictions for the test images with the labels, and with each other.

    python -m stages.evaluate

Reads data/test_labels.npy, outputs/{predictions,history,cards}/ and, from params.yaml, the names of
the models. Writes outputs/metrics/<framework>/<model>.json, the scalars that `dvc metrics` shows;
outputs/ensembles/{mean,vote}.npy, what all models predict together, in the form of predictions;
and outputs/tables/*.csv, tidy tables with a column `model` that holds framework/model.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from stages.common import command, dataset, files, params, results
from stages.evaluation import comparison, scores
from stages.evaluation.tables import HISTORY, TABLES, load_table

COUNTS = ("parameters", "training_images")
METRICS = results.OUTPUTS / "metrics"
ENSEMBLES = results.OUTPUTS / "ensembles"


def main() -> None:
    command.no_arguments(__doc__)
    labels = dataset.load_labels("test")
    models = [(framework, name) for framework in results.FRAMEWORKS for name in params.model_names(framework)]
    with_epochs = [(framework, name) for framework, name in models if framework in results.WITH_EPOCHS]

    predictions = {
        model: load_predictions(path, len(labels))
        for model, path in find("predictions", models, "npy").items()
    }
    cards = {model: results.load_card(*model.split("/")) for model in find("cards", models, "json")}
    histories = {
        model: load_table(path, HISTORY) for model, path in find("history", with_epochs, "csv").items()
    }
    ensembles = comparison.ensembles(predictions)
    everyone = predictions | ensembles
    assessed = {model: scores.assess(labels, p) for model, p in everyone.items()}
    metrics = {model: scalars for model, (scalars, _) in assessed.items()}
    tables = {
        "summary": pd.DataFrame(
            [
                {"model": model, **metrics[model]} | {key: cards.get(model, {}).get(key) for key in COUNTS}
                for model in everyone
            ]
        ).astype(dict.fromkeys(COUNTS, "Int64")),
        "history": by_model(histories or {"": pd.DataFrame(columns=HISTORY)}),
        "pairs": comparison.pairs(labels, everyone),
        "contributions": comparison.contributions(labels, predictions),
    }
    for name in ("confusion", "per_digit", "roc", "calibration"):
        tables[name] = by_model({model: of_model[name] for model, (_, of_model) in assessed.items()})

    with files.replacing_all() as partial:
        folder = partial(METRICS)
        for model, scalars in metrics.items():
            files.write_json(folder / f"{model}.json", scalars)
        folder = partial(ENSEMBLES)
        folder.mkdir()
        for kind, probabilities in ensembles.items():
            files.write_array(folder / f"{Path(kind).name}.npy", probabilities)
        folder = partial(TABLES)
        folder.mkdir()
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n", float_format="%.6g")
    print_summary(tables["summary"])


def by_model(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The models' tables below each other, the model's name as the first column."""
    together = pd.concat([table.assign(model=model) for model, table in tables.items()])
    return together[["model", *together.columns.drop("model")]]


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
    left = sorted(path for path in present - set(paths.values()) if ".partial" not in path.name)
    if left:
        models_left = [
            f"{results.OUTPUTS}/*/{path.parent.name}/{path.name.split('.')[0]}.*"
            for path in left
            if path.parent.name in results.FRAMEWORKS and re.fullmatch(r"\w+\.\w+", path.name)
        ]
        raise command.UserError(
            f"{', '.join(map(str, left))}: of no model in params.yaml; to remove all that such models left: "
            f"rm -f {' '.join([*(shlex.quote(str(path)) for path in left), *models_left])}"
        )
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


def print_summary(summary: pd.DataFrame) -> None:
    """The accuracies with their intervals, and the losses, best accuracy first."""
    for row in summary.sort_values("accuracy", ascending=False, kind="stable").itertuples():
        interval = f"[{row.accuracy_low:.2%}, {row.accuracy_high:.2%}]"
        print(f"{row.model:<30} {row.accuracy:.2%}  {interval}  log loss {row.log_loss:.4f}")


if __name__ == "__main__":
    command.run(main)
