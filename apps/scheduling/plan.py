"""The stages that have to run, as DVC determines them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.utils.serialize import modify_yaml

from apps.scheduling.schedule import Stage
from stages.common import params
from stages.console.errors import UserError, one_line

CONTAINER = Path("/sys/fs/cgroup")
"""Where a container sees its limits."""


@dataclass(frozen=True)
class Files:
    """The files and folders that a stage reads, except for the project's code, and that it writes."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def inputs_now(self) -> list[str]:
        """The files among the inputs and in their folders."""
        found = []
        for path in map(Path, self.inputs):
            found += [path] if not path.is_dir() else filter(Path.is_file, path.rglob("*"))
        return list(map(str, found))


@dataclass(frozen=True)
class Plan:
    """The stages to run, and the resources for them.

    stages: in the order in which `dvc repro` runs them. new: for each of DVC's lock files, the stages that it
    does not contain yet, in the same order. processors: how many may be used. mebibytes: of free memory.
    files: of each stage.
    """

    stages: list[Stage]
    new: dict[str, list[str]]
    processors: int
    mebibytes: float
    files: dict[str, Files]


def look(targets: list[str], elsewhere: Callable[[str], bool]) -> Plan | None:
    """The plan of what `dvc repro` would check and run for these targets; None if it would run nothing.

    elsewhere: whether another machine computes the stage of this name, so that only DVC takes memory here.
    Raises UserError if DVC cannot tell.
    """
    try:
        repo = Repo()
        with lock_repo(repo):
            graph = get_active_graph(repo.index.graph)
            order = plan_repro(graph, collect_stages(repo, targets or ["dvc.yaml"]))
            changed = repo.status()
    except DvcException as error:
        raise UserError(one_line(error)) from None
    if not any(stage.addressing in changed for stage in order):
        return None
    from joblib import cpu_count  # imports NumPy, as costs.py does: only if there is something to run

    from apps.scheduling.costs import Costs

    costs = Costs()
    files = {stage.path: stage.dvcfile for stage in order}  # each access to `.dvcfile` reads the file again
    stages: list[Stage] = []
    new: dict[str, list[str]] = {}
    found: dict[str, Files] = {}
    for stage in order:
        name = stage.addressing
        needs = frozenset(needed.addressing for needed in graph.successors(stage))
        memory = costs.own_mebibytes if elsewhere(name) else costs.mebibytes(name)
        stages.append(Stage(name, needs, name in changed, costs.seconds(name), memory))
        inputs = {dep.def_path for dep in stage.deps if not dep.def_path.endswith(".py")}
        inputs |= {str(params.PATH), str(params.ARCHITECTURES)}  # every command checks them
        found[name] = Files(tuple(inputs), tuple(out.def_path for out in stage.outs))
        if stage.name not in files[stage.path].lockfile_contents.get("stages", {}):
            new.setdefault(str(Path(stage.path).with_suffix(".lock")), []).append(stage.name)
    return Plan(stages, new, cpu_count(), free_mebibytes(), found)


def free_mebibytes() -> float:
    """The free memory of this machine or, if that is less, of the container in which this process runs."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int((CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # there is no limit
        return free / 2**20
    return max(0, min(free, limit - used + int(stat["inactive_file"]))) / 2**20  # the system gives that back


def put_in_order(new: dict[str, list[str]]) -> None:
    """Put the new entries of DVC's lock files into the order of `dvc repro`.

    DVC appends them in the order in which the stages end. If another DVC holds the lock, they stay like that.
    """
    repo = Repo()
    with suppress(LockError), lock_repo(repo):
        for path, names in new.items():
            with modify_yaml(path) as content:
                entries = content.get("stages", {})
                for name in names:
                    if name in entries:
                        entries[name] = entries.pop(name)
