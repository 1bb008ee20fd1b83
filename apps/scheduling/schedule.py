"""Decide which stage starts when. This does not depend on how stages are run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline.

    needs: the stages whose results it reads. changed: whether DVC would run it now. seconds, mebibytes: its
    expected time and memory.
    """

    name: str
    needs: frozenset[str]
    changed: bool
    seconds: float
    mebibytes: float


class Schedule:
    """The stages to run, and their state.

    stages: each after those that it needs. Unchanged stages that need no changed stage are dropped. jobs: how
    many run at once. mebibytes: the memory of all that run at once; a stage that needs more runs alone.
    """

    def __init__(self, stages: Iterable[Stage], jobs: int, mebibytes: float):
        self.jobs, self._mebibytes = jobs, mebibytes
        self.waiting: dict[str, Stage] = {}
        for stage in stages:
            needs = stage.needs & self.waiting.keys()
            if stage.changed or needs:
                self.waiting[stage.name] = replace(stage, needs=needs)
        self.total = len(self.waiting)
        self.running: dict[str, Stage] = {}
        self.succeeded: set[str] = set()
        self.failed: set[str] = set()
        self.left_out: list[str] = []
        self._chains: dict[str, float] = {}
        for stage in reversed(self.waiting.values()):
            after = [chain for name, chain in self._chains.items() if stage.name in self.waiting[name].needs]
            self._chains[stage.name] = stage.seconds + max(after, default=0.0)

    def start(self) -> str | None:
        """Choose the stage to start now, mark it as running and return its name; None if none can start.

        Among the stages that are ready and for which there is memory, it is the one with the longest way, in
        seconds, to the end of the pipeline.
        """
        if len(self.running) == self.jobs:
            return None
        free = self._mebibytes - sum(stage.mebibytes for stage in self.running.values())
        ready = [
            name
            for name, stage in self.waiting.items()
            if stage.needs <= self.succeeded and (stage.mebibytes <= free or not self.running)
        ]
        if not ready:
            return None
        name = max(ready, key=self._chains.__getitem__)
        self.running[name] = self.waiting.pop(name)
        return name

    def end(self, name: str, succeeded: bool) -> None:
        """Mark a stage as ended. If it failed, the stages that need its results are left out."""
        del self.running[name]
        (self.succeeded if succeeded else self.failed).add(name)
        for other, stage in list(self.waiting.items()):
            if stage.needs & {*self.failed, *self.left_out}:
                del self.waiting[other]
                self.left_out.append(other)

    def seconds_left(self, spent: Mapping[str, float]) -> float:
        """The estimated time left. spent: the seconds for which each running stage has been running."""
        left = {name: max(0.0, stage.seconds - spent[name]) for name, stage in self.running.items()}
        chains = [self._chains[name] - self.running[name].seconds + seconds for name, seconds in left.items()]
        chains += [self._chains[name] for name in self.waiting]
        work = sum(left.values()) + sum(stage.seconds for stage in self.waiting.values())
        return max([work / self.jobs, *chains])
