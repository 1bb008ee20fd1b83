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

    Of several machines, the median of the seconds and the maximum of the memory count; for a stage that was
    not measured, those of all models.
    """

    def __init__(self) -> None:
        with SPEED.open(encoding="utf-8", newline="") as file:
            self._rows = list(csv.DictReader(file))
        self.own_mebibytes = psutil.Process().memory_info().rss / 2**20  # of DVC, which runs beside the stage

    def _measured(self, model: str) -> list[dict[str, str]]:
        return [row for row in self._rows if row["model"] == model] or self._rows

    def seconds(self, stage: str) -> float:
        model = _model(stage)
        measured = self._measured(model)
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
        measured = self._measured(_model(stage))
        return self.own_mebibytes + max(float(row["peak_mebibytes"]) for row in measured)


def _model(stage: str) -> str:
    """The name of the model that a stage trains, such as pytorch/sprint."""
    return stage.removeprefix("train_").replace("@", "/")
