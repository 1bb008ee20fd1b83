"""The expected time and memory of stages."""

import csv
import statistics
from pathlib import Path

import psutil

from stages.common import results
from stages.console.errors import UserError

SPEED = Path(__file__).parents[2] / "docs/speed.csv"


class Costs:
    """Seconds of a model's last run here, else those that `make bench` measured; memory as measured.

    A stage that was not measured is expected to take the median of the others' seconds and the maximum of
    their memory.
    """

    def __init__(self) -> None:
        with SPEED.open(encoding="utf-8", newline="") as file:
            self._rows = {row["model"]: row for row in csv.DictReader(file)}
        self.own_mebibytes = psutil.Process().memory_info().rss / 2**20  # of DVC, which runs beside the stage

    def seconds(self, stage: str) -> float:
        model = _model(stage)
        measured = [self._rows[model]] if model in self._rows else self._rows.values()
        start = statistics.median(float(row["start_seconds"]) for row in measured)
        if "/" in model:
            try:
                timings = results.load_timings(*model.split("/", 1))
            except UserError:  # it has not run yet
                pass
            else:
                return start + timings.training_seconds + timings.prediction_seconds
        return start + statistics.median(
            float(row["training_seconds"]) + float(row["prediction_seconds"]) for row in measured
        )

    def mebibytes(self, stage: str) -> float:
        model = _model(stage)
        measured = [self._rows[model]] if model in self._rows else self._rows.values()
        return self.own_mebibytes + max(float(row["peak_mebibytes"]) for row in measured)


def _model(stage: str) -> str:
    """The name of the model that a stage trains, such as pytorch/sprint."""
    return stage.removeprefix("train_").replace("@", "/")
