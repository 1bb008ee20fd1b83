"""The tables between the stages: CSV files with a header."""

from pathlib import Path

import pandas as pd

from stages.common import files, results

TABLES = results.OUTPUTS / "tables"
"""Where `evaluate` leaves what it finds."""
NAMES = ("summary", "confusion", "history", "per_digit", "roc", "calibration", "pairs", "contributions")
LEVEL = 0.05
"""A difference with a smaller corrected p (`p_holm`) is called real."""


def load_table(path: Path) -> pd.DataFrame:
    """The table in a file. Raises UserError, naming the file, if it is missing or holds none."""
    with files.reading(path, "is no CSV table"):
        return pd.read_csv(path)


def load_tables() -> dict[str, pd.DataFrame]:
    """All that `evaluate` left, by the tables' names."""
    return {name: load_table(TABLES / f"{name}.csv") for name in NAMES}
