"""Simulate the pipeline on more cores than there are here, from the times that it took.

    make scaling      (python -m tools.scaling)

Writes docs/scaling.csv and docs/cluster.md, and draws docs/scaling.png. Trains nothing: it starts the stages
in the order of apps/scheduling/schedule.py and adds up their seconds. Of several copies of the pipeline, such
as one for each seed, each has stages of its own, but for the download of the data.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import matplotlib.pyplot as plt
import pandas as pd
from dvc.repo import Repo
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from apps.scheduling.costs import Costs
from apps.scheduling.schedule import Schedule, Stage
from stages.common import params, results
from stages.console import command
from stages.console.errors import UserError
from stages.pictures import style
from tools import pages, projects

TABLE, PICTURE, PAGE = Path("docs/scaling.csv"), Path("docs/scaling.png"), Path("docs/cluster.md")
JOBS = (1, 2, 4, 8, 16, 32, 64)
COPIES = (1, 3, 10, 30, 100)


@dataclass(frozen=True)
class Row:
    """A line of docs/scaling.csv.

    jobs: stages at once, with `threads` cores each. work: seconds of all stages. chain: of the longest way
    through the pipeline, in less than which it cannot end. seconds: that it takes.
    """

    copies: int
    jobs: int
    cores: int
    seconds: float
    work: float
    chain: float
    machine: str

    @property
    def speed_up(self) -> float:
        """Times faster than one stage after the other."""
        return self.work / self.seconds

    @property
    def limit(self) -> float:
        """The speed-up with any number of cores."""
        return self.work / self.chain


def main() -> None:
    command.no_arguments(__doc__)
    timings = [results.load_timings(*model.split("/")) for model in projects.models()]
    rows = simulate(stages(), params.read("threads", params.Threads), pages.trained_on(timings))
    pages.write_rows(TABLE, rows)
    style.save(PICTURE, picture)
    PAGE.write_text(page(), encoding="utf-8")


def simulate(graph: Sequence[Stage], threads: int, machine: str) -> list[Row]:
    """How long so many copies take, so many at once. machine: where the seconds were measured."""
    rows = []
    for copies in COPIES:
        several = copied(graph, copies)
        work, chain = sum(stage.seconds for stage in several), end(several, len(several))
        for jobs in JOBS:
            seconds = [round(value, 1) for value in (end(several, jobs), work, chain)]
            rows.append(Row(copies, jobs, jobs * threads, *seconds, machine))
            print(*astuple(rows[-1]), flush=True)
    return rows


def stages() -> list[Stage]:
    """The pipeline as it stands in dvc.yaml, each stage after those that it needs."""
    repo, costs = Repo(), Costs()
    graph = repo.index.graph
    found: dict[str, Stage] = {}
    waiting = list(repo.index.stages)
    while waiting:
        for stage in list(waiting):
            needs = frozenset(needed.addressing for needed in graph.successors(stage))
            if needs <= found.keys():
                name = stage.addressing
                found[name] = Stage(name, needs, True, costs.seconds(name), 0.0)
                waiting.remove(stage)
    return list(found.values())


def copied(graph: Sequence[Stage], copies: int) -> list[Stage]:
    """Several of a pipeline, which share the stages that need nothing but are needed: the data."""
    needed = frozenset().union(*(stage.needs for stage in graph))
    shared = {stage.name for stage in graph if not stage.needs and stage.name in needed}

    def name_of(name: str, copy: int) -> str:
        return name if name in shared else f"{name} {copy}"

    several = [stage for stage in graph if stage.name in shared]
    for copy in range(copies):
        for stage in graph:
            if stage.name not in shared:
                needs = frozenset(name_of(name, copy) for name in stage.needs)
                several.append(replace(stage, name=name_of(stage.name, copy), needs=needs))
    return several


def end(graph: Sequence[Stage], jobs: int) -> float:
    """Seconds until all stages are done, so many at once."""
    schedule = Schedule(graph, jobs, math.inf)
    seconds = {stage.name: stage.seconds for stage in graph}
    now, running = 0.0, []
    while schedule.waiting or running:
        while name := schedule.start():
            heapq.heappush(running, (now + seconds[name], name))
        now, name = heapq.heappop(running)
        schedule.end(name, succeeded=True)
    return now


def picture() -> Figure:
    """The picture of docs/scaling.csv."""
    return draw(pages.read_rows(TABLE, Row))


def draw(rows: Sequence[Row]) -> Figure:
    """The speed-up against the cores, a line for so many copies, each with its limit."""
    table = pd.DataFrame([asdict(row) | {"speed_up": row.speed_up, "limit": row.limit} for row in rows])
    figure, axis = plt.subplots(figsize=(8, 5.5), layout="constrained")
    cores = sorted(table.cores.unique())
    axis.plot(
        cores, [count / cores[0] for count in cores], color=style.SOFT, linestyle=":", label="no wait at all"
    )
    for number, (copies, some) in enumerate(table.groupby("copies")):
        label = f"{copies} {'copy' if copies == 1 else 'copies'}: at most {some.limit.iloc[0]:,.1f}"
        (line,) = axis.plot(some.cores, some.speed_up, marker="os^Dv"[number], markersize=5, label=label)
        if some.limit.iloc[0] < max(cores):
            axis.axhline(some.limit.iloc[0], color=line.get_color(), linestyle="--", linewidth=1)
    axis.set(xscale="log", yscale="log", xlabel="cores", ylabel="times faster than one stage after the other")
    axis.set_xticks(cores, [f"{count}" for count in cores])
    ticks = [2**power for power in range(7) if 2**power <= max(cores)]
    axis.set_yticks(ticks, [f"{tick}" for tick in ticks])
    for one in (axis.xaxis, axis.yaxis):
        one.set_minor_locator(NullLocator())
    axis.set_title("Speed-up, simulated; dashed: the longest chain of stages")
    axis.legend()
    return figure


def page() -> str:
    """The text of docs/cluster.md, of docs/scaling.csv."""
    rows = pages.read_rows(TABLE, Row)
    one = [row for row in rows if row.copies == 1]
    if not one:
        raise UserError(f"{TABLE} has no rows: `make scaling` writes it")
    enough = next((row for row in one if row.speed_up > 0.95 * row.limit), one[-1])
    most = max(rows, key=lambda row: (row.copies, row.cores))
    return pages.fill(
        "cluster.md",
        machine=pages.machines(rows),
        stage=pages.count(one[0].cores // one[0].jobs, "core"),
        work=f"{one[0].work / 60:.0f}",
        chain=f"{one[0].chain / 60:.1f}",
        limit=f"{one[0].limit:.1f}",
        enough=enough.cores,
        copies=most.copies,
        cores=most.cores,
        jobs=most.jobs,
        speed_up=f"{most.speed_up:.1f}",
        hours=f"{most.work / 3600:.0f}",
        minutes=f"{most.seconds / 60:.0f}",
    )


if __name__ == "__main__":
    command.run(main)
