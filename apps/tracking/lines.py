"""The lines about runs, from which all trackers are fed: tracking/runs/<framework>/<model>.jsonl.

A line is a JSON object: the run's id as `run`, the seconds since 1970 as `time`, and as `event` one of these:

| event | content |
| --- | --- |
| begin | parameters: nested. about: commit, experiment, machine, versions. trackers: that follow it |
| steps | losses of the steps after the first `done` |
| epoch | values: a row of history.csv |
| summary | name, values: figures and texts by name |
| table | name, rows: a list of mappings |
| picture | name, path: a PNG file below tracking/ |
| artifact | name, path: a file or a folder below tracking/ |
| end | state: finished or failed. result: identifies its results, see `training.fingerprint` |
| fed | tracker: the one that has the run's first `count` lines, not counting those of this kind |

Files that lines name are kept in tracking/files/, named by their content, as links where possible.
"""

import json
import os
import shutil
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def folder() -> Path:
    """The folder of all that is tracked, also by queued experiments, which run in a copy of the project."""
    return Path(os.environ.get("DVC_ROOT", ""), "tracking").absolute()


@dataclass(frozen=True)
class Run:
    """A run of the model `name`, framework/model."""

    name: str
    id: str

    @property
    def path(self) -> Path:
        """The file with its lines, and those of other runs of the model."""
        return path_of(self.name)

    def append(self, event: str, **content: Any) -> None:
        """Add a line; `time` is now if it is not given."""
        line = {"event": event, "run": self.id, "time": round(time.time(), 3), **content}
        with self.path.open("ab") as file:
            file.write(json.dumps(line, default=str).encode() + b"\n")  # one write: others append, too

    def lines(self) -> list[Line]:
        """Its lines up to now, without those of the event fed."""
        return [line for line in read(self.name) if line["run"] == self.id and line["event"] != "fed"]

    def fed(self, tracker: str) -> int:
        """How many of its lines the tracker already has."""
        counts = [
            line["count"]
            for line in read(self.name)
            if line["run"] == self.id and line["event"] == "fed" and line["tracker"] == tracker
        ]
        return counts[-1] if counts else 0


def promised(tracker: str) -> list[Run]:
    """The runs that have ended and that this tracker was to follow, also those of trials."""
    found = []
    runs = folder() / "runs"
    for path in sorted(runs.rglob("*.jsonl")):
        name = path.relative_to(runs).with_suffix("").as_posix()
        told = read(name)
        ended = {line["run"] for line in told if line["event"] == "end"}
        found += [
            Run(name, line["run"])
            for line in told
            if line["run"] in ended and tracker in line.get("trackers", ())
        ]
    return found


def lock(purpose: str, timeout: float = -1) -> AbstractContextManager[Any]:
    """A lock between the processes of tracking. timeout: in seconds; below 0 it waits for ever."""
    from filelock import FileLock  # it imports much, and a training's companion needs no lock

    place = folder() / "locks"
    place.mkdir(parents=True, exist_ok=True)
    return FileLock(place / purpose.replace("/", "-"), timeout=timeout)


def path_of(name: str) -> Path:
    """The file with the lines of a model's runs. An incomplete line at its end gets a line break."""
    path = folder() / "runs" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n":
            file.write(b"\n")
    return path


def parse(text: bytes) -> Line | None:
    """A line, or None if it is incomplete."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def read(name: str) -> list[Line]:
    """All lines of a model's runs."""
    path = folder() / "runs" / f"{name}.jsonl"
    if not path.exists():
        return []
    return [line for text in path.read_bytes().splitlines() if (line := parse(text))]


def keep(source: Path, digest: str) -> str:
    """Keep a file or a folder whose content has this digest; return its path in tracking/."""
    source = source.resolve()
    kept = Path("files", digest, source.name)
    target = folder() / kept
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = target.with_name(f"{target.name}.{os.getpid()}")
        if source.is_dir():
            shutil.copytree(source, copy, copy_function=_link)
        else:
            _link(source, copy)
        try:
            copy.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(copy)
    return kept.as_posix()


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
