"""What there is to do, as DVC sees it, and what that is expected to take."""

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

import psutil
from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.utils.serialize import modify_yaml
from joblib import cpu_count

from apps.schedule import Stage
from stages.common import results
from stages.console.errors import UserError, one_line

SPEED = Path(__file__).parent.parent / "docs/speed.csv"


@dataclass(frozen=True)
class Plan:
    """What there is to do, and what to do it with.

    stages: in the order in which `dvc repro` runs them. new: for each of DVC's lock files the stages that it
    does not name yet, in this order. processors: how many may be used. mebibytes: of memory that are free.
    """

    stages: list[Stage]
    new: dict[str, list[str]]
    processors: int
    mebibytes: float


def look(targets: list[str]) -> Plan:
    """What `dvc repro` would look at for these targets. Raises UserError if DVC cannot look."""
    try:
        repo = Repo()
        with lock_repo(repo):
            graph = get_active_graph(repo.index.graph)
            order = plan_repro(graph, collect_stages(repo, targets or ["dvc.yaml"]))
            changed = repo.status()
    except DvcException as error:
        raise UserError(one_line(error)) from None
    costs = Costs()
    stages, new = [], {}
    for stage in order:
        name = stage.addressing
        needs = frozenset(needed.addressing for needed in graph.successors(stage))
        stages.append(Stage(name, needs, name in changed, costs.seconds(name), costs.mebibytes(name)))
        if stage.name not in stage.dvcfile.lockfile_contents.get("stages", {}):
            new.setdefault(str(Path(stage.path).with_suffix(".lock")), []).append(stage.name)
    return Plan(stages, new, cpu_count(), psutil.virtual_memory().available / 2**20)


class Costs:
    """What stages took: the models' seconds of their last run here, else those that `make bench` measured.

    A stage that was not measured is expected to take the median of the others' seconds and the most of their
    memory.
    """

    def __init__(self) -> None:
        with SPEED.open(encoding="utf-8", newline="") as file:
            self._rows = {row["model"]: row for row in csv.DictReader(file)}
        self._own = psutil.Process().memory_info().rss / 2**20  # DVC beside the stage

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
        return self._own + max(float(row["peak_mebibytes"]) for row in measured)


def _model(stage: str) -> str:
    """What tables call the model that a stage trains, such as pytorch/sprint."""
    return stage.removeprefix("train_").replace("@", "/")


def put_in_order(new: dict[str, list[str]]) -> None:
    """Give the entries that are new in DVC's lock files the order that `dvc repro` gives them.

    DVC appends them as the stages end.
    """
    repo = Repo()
    with lock_repo(repo):
        for path, names in new.items():
            with modify_yaml(path) as content:
                entries = content["stages"]
                for name in names:
                    if name in entries:
                        entries[name] = entries.pop(name)
