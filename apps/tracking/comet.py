"""Comet, offline unless TRACKERS_ONLINE=1 and its key are set; `comet upload` uploads the ZIP files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comet_ml

from apps.tracking import feed, lines

ONLINE = feed.ONLINE["comet"]


class Tracker:
    """See feed.Tracker."""

    CONTINUES = ONLINE

    def __init__(self, folder: Path, run: lines.Run, begin: lines.Line, again: bool):
        if not ONLINE:
            (folder / f"{run.id}.zip").unlink(missing_ok=True)
        about = begin["about"]
        self._name = run.name
        self._experiment = comet_ml.start(
            project_name=os.environ.get("COMET_PROJECT_NAME", feed.PROJECT),
            experiment_key=run.id,
            mode="get" if again else "create",
            online=ONLINE,
            experiment_config=comet_ml.ExperimentConfig(
                name=run.name,
                tags=[
                    tag
                    for tag in (run.name.partition("/")[0], about["experiment"], about.get("group"))
                    if tag
                ],
                offline_directory=str(folder),
                display_summary_level=0,
                log_code=False,
                log_graph=False,
                log_env_details=False,
                log_git_metadata=False,
                log_git_patch=False,
                auto_param_logging=False,
                auto_metric_logging=False,
                auto_output_logging=False,
                parse_args=False,
            ),
        )
        if not again:
            self._experiment.log_parameters(begin["parameters"])
            self._experiment.log_others(about)

    def metrics(self, axis: str, places: Sequence[int], values: Sequence[Mapping[str, float]], when: float):
        for place, of_place in zip(places, values, strict=True):
            epoch = place if axis == "epoch" else None
            self._experiment.log_metrics(of_place, step=place, epoch=epoch)

    def summary(self, values: Mapping[str, Any]) -> None:
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        self._experiment.log_metrics(numbers)
        self._experiment.log_others({key: values[key] for key in values.keys() - numbers})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        content = [list(row.values()) for row in rows]
        self._experiment.log_table(f"{name}.csv", content, headers=list(rows[0]))

    def picture(self, name: str, path: Path) -> None:
        self._experiment.log_image(str(path), name=name)

    def artifact(self, name: str, path: Path) -> None:
        self._experiment.log_model(name, str(path))

    def close(self, failed: bool) -> None:
        self._experiment.log_other("state", "failed" if failed else "finished")
        self._experiment.end()
