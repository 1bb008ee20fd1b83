"""DVCLive, only as files in a folder: by default it would also edit dvc.yaml and Git's index."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dvclive import Live

from apps.tracking import lines


class Tracker:
    """See feed.Tracker. Artifacts are named but not stored: DVC stores the model's folder itself."""

    CONTINUES = False

    def __init__(self, folder: Path, run: lines.Run, begin: lines.Line, again: bool):
        place = folder / (begin["about"].get("group") or "") / run.name / run.id[:8]
        self._live = Live(str(place), dvcyaml=None, save_dvc_exp=False, report=None, cache_images=False)
        parameters = {"parameters": begin["parameters"], "about": begin["about"]}
        self._live.log_params(_without_none(parameters))

    def metrics(self, axis: str, places: Sequence[int], values: Sequence[Mapping[str, float]], when: float):
        for place, of_place in zip(places, values, strict=True):
            self._live.step = place
            for key, value in of_place.items():
                self._live.log_metric(key, value)
        if axis == "epoch":
            self._live.make_summary()

    def summary(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self._live.log_metric(key, value if isinstance(value, int | float) else str(value), plot=False)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        x, *_, y = rows[0]
        self._live.log_plot(name, [dict(row) for row in rows], x, y, template="simple")

    def picture(self, name: str, path: Path) -> None:
        self._live.log_image(f"{name}.png", path)

    def artifact(self, name: str, path: Path) -> None:
        self._live.log_param(f"artifact_{name}", str(path))

    def close(self, failed: bool) -> None:
        self._live.log_param("state", "failed" if failed else "finished")
        self._live.end()


def _without_none(value: Any) -> Any:
    """Parameters as DVCLive takes them: without None."""
    if isinstance(value, Mapping):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_none(part) for part in value]
    return value
