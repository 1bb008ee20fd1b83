"""MLflow, in tracking/mlflow/mlflow.db unless MLFLOW_TRACKING_URI names a server."""

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag

from apps.tracking import lines
from apps.tracking.feed import PROJECT, flat

SERVER = os.environ.get("MLFLOW_TRACKING_URI")  # read before MLflow itself sets it
BATCH = 1000
"""The most metrics that `log_batch` takes at once; it takes up to 100 parameters."""
LONGEST = 6000
"""The most characters of a parameter."""


class Tracker:
    """See feed.Tracker."""

    CONTINUES = True

    def __init__(self, folder: Path, run: lines.Run, begin: lines.Line, again: bool):
        with lines.lock("mlflow.database"):  # two clients that create it at once break it
            mlflow.set_tracking_uri(SERVER or f"sqlite:///{folder}/mlflow.db")
            self._client = mlflow.MlflowClient()
            experiment = self._experiment(folder)
        about = begin["about"]
        found = self._client.search_runs([experiment], f"tags.run = '{run.id}'")
        if again and found:
            self._id = found[0].info.run_id
            return
        for incomplete in found:
            self._client.delete_run(incomplete.info.run_id)
        tags = {"run": run.id, "framework": run.name.partition("/")[0], **about}
        tags = {key: str(value) for key, value in tags.items() if value is not None}
        started = int(begin["time"] * 1000)
        self._id = self._client.create_run(experiment, started, tags, run.name).info.run_id
        parameters = iter(Param(k, str(v)[:LONGEST]) for k, v in flat(begin["parameters"]).items())
        while batch := list(islice(parameters, 100)):
            self._client.log_batch(self._id, params=batch)

    def _experiment(self, folder: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        if experiment := self._client.get_experiment_by_name(name):
            return experiment.experiment_id
        return self._client.create_experiment(name, None if SERVER else (folder / "artifacts").as_uri())

    def metrics(self, axis: str, places: Sequence[int], values: Sequence[Mapping[str, float]], when: float):
        self._log(
            Metric(key, value, int(when * 1000), place)
            for place, of_place in zip(places, values, strict=True)
            for key, value in of_place.items()
        )

    def _log(self, metrics: Any) -> None:
        while batch := list(islice(metrics, BATCH)):
            self._client.log_batch(self._id, batch)

    def summary(self, values: Mapping[str, Any]) -> None:
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        self._log(Metric(key, value, 0, 0) for key, value in numbers.items())
        texts = [RunTag(key, str(values[key])) for key in values.keys() - numbers]
        self._client.log_batch(self._id, tags=texts)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        # log_table would append the rows to an existing table
        content = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
        self._client.log_dict(self._id, content, f"{name}.json")

    def picture(self, name: str, path: Path) -> None:
        from PIL import Image

        with Image.open(path) as picture:
            self._client.log_image(self._id, picture, f"pictures/{name}.png")

    def artifact(self, name: str, path: Path) -> None:
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        log(self._id, str(path), name)

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
