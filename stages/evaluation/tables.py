"""The tables that stages pass on: CSV files with a header, with classes and models by name."""

from pathlib import Path

import pandas as pd

from stages.common import files, results
from stages.console.errors import reading

TABLES = results.OUTPUTS / "tables"
"""Where `evaluate` writes each model's scores."""
COMPARISON = results.OUTPUTS / "comparison"
"""Where `compare_models` writes the ensembles' scores and the tables that compare models."""
ENSEMBLES = results.OUTPUTS / "ensembles"
"""Where it writes the ensembles' predictions: mean.npy and vote.npy."""
MEAN, VOTE = "ensemble/mean", "ensemble/vote"


def _columns(names: str) -> tuple[str, ...]:
    return tuple(names.split())


HISTORY = _columns("epoch learning_rate train_loss train_accuracy validation_loss validation_accuracy")
LOSSES = _columns("step loss")
EMBEDDING = _columns("image class pca_1 pca_2 tsne_1 tsne_2")
PARITY = _columns("model target difference other_classes ties")
SCORES = {
    "summary": _columns(
        "model accuracy accuracy_low accuracy_high log_loss validation_accuracy validation_log_loss macro_f1 "
        "macro_auc calibration_error brier_score sure_above answered wrong_answers parameters "
        "training_images validation_images summary"
    ),
    "confusion": _columns("model truth prediction count share"),
    "per_class": _columns("model class precision recall f1 auc support"),
    "roc": _columns("model class false_positive_rate true_positive_rate"),
    "calibration": _columns("model low high images confidence accuracy accuracy_low accuracy_high"),
}
"""The tables that both folders have, and their columns."""
PAIRS = _columns(
    "model other only_model only_other agreement difference difference_low difference_high p p_holm"
)
CONTRIBUTIONS = _columns("model accuracy_without gain gained lost p p_holm")
TEXTS = {"model", "other", "target", "summary", "class", "truth", "prediction"}
WHOLE = {"epoch", "step", "image", "count", "support", "images", "only_model", "only_other", "gained", "lost"}
"""Columns of integers. All other columns are float64, with nan for empty cells."""
OF_EVERY_MODEL = ("confusion", "per_class", "pairs")
LEVEL = 0.05
"""A difference with a smaller corrected p (`p_holm`) is significant."""
UNFIT = "is no table as `dvc repro` writes it"


def collect(assessed: dict[str, tuple[dict, dict[str, pd.DataFrame]]]) -> dict[str, pd.DataFrame]:
    """The tables of SCORES, made of the scalars and the tables of each model from `scores.assess`."""
    tables = {"summary": pd.DataFrame([{"model": model, **row} for model, (row, _) in assessed.items()])}
    for name in SCORES.keys() - {"summary"}:
        tables[name] = by_model({m: found[name] for m, (_, found) in assessed.items() if name in found})
    return {name: tables[name].reindex(columns=columns) for name, columns in SCORES.items()}


def by_model(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One table of all models' tables; its first column is the model's name."""
    return pd.concat(tables, names=["model"]).reset_index("model")


def write(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Write the tables as CSV files into a folder, numbers with six significant digits."""
    for name, table in tables.items():
        text = table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        files.write_text(folder / f"{name}.csv", text)


def load_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """These columns of the table in a CSV file.

    Raises UserError, naming the file, if it is missing, lacks one of the columns or has something else in a
    column of numbers.
    """
    types = {name: str if name in TEXTS else int if name in WHOLE else float for name in columns}
    with reading(path, UNFIT):  # a class may be called NA
        return pd.read_csv(path, usecols=list(columns), dtype=types, keep_default_na=False, na_values=[""])


def load_tables(classes: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """All tables of `evaluate` and `compare_models` by name; the ensembles' rows come last.

    Raises UserError, naming the file, also if its models are not those of the summaries, or its classes not
    the data set's.
    """
    found: dict[str, list[pd.DataFrame]] = {}
    models: set[str] = set()
    for folder, columns in (
        (TABLES, SCORES | {"history": ("model", *HISTORY)}),
        (COMPARISON, SCORES | {"pairs": PAIRS, "contributions": CONTRIBUTIONS}),
    ):
        tables = {name: load_table(folder / f"{name}.csv", columns[name]) for name in columns}
        summary = tables["summary"]
        with reading(folder / "summary.csv", UNFIT):
            names = summary.model.str
            if not (len(summary) and summary.model.is_unique and names.fullmatch(r"\w+/\w+").all()):
                raise ValueError("it should name models as framework/model, each once")
            if not summary.accuracy.between(0, 1).all():  # false for nan, too
                raise ValueError("an accuracy should be a share, 0 to 1")
        models |= set(summary.model)
        for name, table in tables.items():
            known = models if name in ("pairs", "contributions") else set(summary.model)
            of_table = set(table.model) | set(table.get("other", ()))
            with reading(folder / f"{name}.csv", UNFIT):
                if of_table - known or (name in OF_EVERY_MODEL and of_table != known):
                    raise ValueError("it should have the models of summary.csv")
                if {*table.get("class", ()), *table.get("truth", ())} - set(classes):
                    raise ValueError("it should have the classes of data/dataset.json")
            found.setdefault(name, []).append(table)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}
