"""The tables between the stages: CSV files with a header."""

from pathlib import Path

import pandas as pd

from stages.common import files, results

TABLES = results.OUTPUTS / "tables"
"""Where `evaluate` leaves what it finds."""
HISTORY = (
    *("epoch", "learning_rate", "train_loss", "train_accuracy"),
    *("validation_loss", "validation_accuracy"),
)
EMBEDDING = ("image", "digit", "pca_1", "pca_2", "tsne_1", "tsne_2")
PARITY = ("model", "carried_to", "difference", "other_digits", "ties")
COLUMNS = {
    "summary": (
        *("model", "accuracy", "accuracy_low", "accuracy_high", "log_loss", "macro_f1", "macro_auc"),
        *("calibration_error", "brier_score", "parameters", "training_images"),
    ),
    "confusion": ("model", "truth", "prediction", "count", "share"),
    "history": ("model", *HISTORY),
    "per_digit": ("model", "digit", "precision", "recall", "f1", "auc", "support"),
    "roc": ("model", "digit", "false_positive_rate", "true_positive_rate"),
    "calibration": (
        *("model", "low", "high", "images", "confidence"),
        *("accuracy", "accuracy_low", "accuracy_high"),
    ),
    "pairs": (
        *("model", "other", "only_model", "only_other", "agreement"),
        *("difference", "difference_low", "difference_high", "p", "p_holm"),
    ),
    "contributions": ("model", "accuracy_without", "gain", "gained", "lost", "p", "p_holm"),
}
"""The tables that `evaluate` leaves, and what is in them."""
OF_EVERY_MODEL = ("confusion", "per_digit", "calibration")
TEXTS = {"model", "other", "carried_to"}
WHOLE = {
    *("epoch", "image", "digit", "truth", "prediction", "count", "support", "images"),
    *("only_model", "only_other", "gained", "lost", "other_digits", "ties"),
}
"""Columns of whole numbers. Those that are neither are float64, empty cells nan."""
LEVEL = 0.05
"""A difference with a smaller corrected p (`p_holm`) is called real."""


def load_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """These columns of the table in a file.

    Raises UserError, naming the file, if it is missing, lacks one of them or holds anything but numbers
    where they belong.
    """
    types = {name: str if name in TEXTS else int if name in WHOLE else float for name in columns}
    with files.reading(path, "is no CSV table as `dvc repro` writes it"):
        return pd.read_csv(path, usecols=list(columns), dtype=types)


def load_tables() -> dict[str, pd.DataFrame]:
    """All that `evaluate` left, by the tables' names.

    Raises UserError, naming the file, also if one holds other models than the summary.
    """
    tables = {name: load_table(TABLES / f"{name}.csv", columns) for name, columns in COLUMNS.items()}
    summary = tables["summary"]
    with files.reading(TABLES / "summary.csv", "is no table as `dvc repro` writes it"):
        if not (len(summary) and summary.model.is_unique and summary.model.str.fullmatch(r"\w+/\w+").all()):
            raise ValueError("it should name models as framework/model, each once")
        if not summary.accuracy.between(0, 1).all():  # false for nan, too
            raise ValueError("an accuracy should be a share, 0 to 1")
    for name, table in tables.items():
        known, found = set(summary.model), set(table.get("model", ())) | set(table.get("other", ()))
        with files.reading(TABLES / f"{name}.csv", "is no table as `dvc repro` writes it"):
            if found - known or (name in OF_EVERY_MODEL and found != known):
                raise ValueError("it should have the models of summary.csv")
    return tables
