"""Feed one tracker with the lines of runs. `apps.tracking` starts a process of this for each tracker.

    python -m apps.tracking.feed TRACKER follow MODEL RUN PID  # a running training
    python -m apps.tracking.feed TRACKER catch_up MODEL:RUN…   # what it lacks of finished ones

A tracker is a module of this folder, named in TRACKERS, whose class Tracker implements the protocol below.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

from apps.tracking import lines

TRACKERS = "tensorboard", "dvclive", "wandb", "comet", "mlflow"
"""All trackers, those that start fastest first."""
ONLINE = {
    "wandb": os.environ.get("WANDB_MODE") == "online",
    "comet": os.environ.get("TRACKERS_ONLINE") == "1" and "COMET_API_KEY" in os.environ,
}
"""Whether a tracker that has a service sends to it at once. If not, it begins when the training has ended:
there is hardly anything to look at before, and its imports would take time from the training."""
NICE = {"tensorboard": 5}
"""The priority of a tracker that is looked at while a model trains and takes hardly any time, as a niceness.
The others have the lowest one, 19, with which they wait until a processor is free."""
PROJECT = "image-classifiers"
EVERY = 0.25
"""Seconds between two checks for new lines."""
SIDE_BY_SIDE = max(2, os.cpu_count() or 1)
"""Processes that feed a tracker at once, of 100 MB each; with short trainings many would run."""


class Tracker(Protocol):
    """A run in a tracker, which begins when it is created. It raises whatever its library raises."""

    CONTINUES: bool
    """Whether it can add to an existing run. If not, adding something writes the whole run again."""

    def __init__(self, folder: Path, run: lines.Run, begin: lines.Line, again: bool):
        """Begin a run, or continue one. folder: for the tracker's files on this machine.

        begin: the run's first line. again: whether the run exists, and is continued.
        """

    def metrics(self, axis: str, places: Sequence[int], values: Sequence[Mapping[str, float]], when: float):
        """Log figures by name at some places of an axis, `step` or `epoch`. when: seconds since 1970."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Log figures and texts about the whole run, by name."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table: its rows, all with the same columns."""

    def picture(self, name: str, path: Path) -> None:
        """Log a PNG file."""

    def artifact(self, name: str, path: Path) -> None:
        """Store a file or a folder with the run."""

    def close(self, failed: bool) -> None:
        """End the run and save it."""


def load(tracker: str) -> type[Tracker]:
    """The class of a tracker. Before its library is imported, it is set to be quiet and to use tracking/."""
    folder = lines.folder() / tracker
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(lines.folder().parent)  # so that tracking/ is found without DVC_ROOT, too
    for name in [name for name in os.environ if name.startswith("DVC")]:
        del os.environ[name]  # else DVCLive joins DVC's experiment
    variables = {
        "WANDB_ERROR_REPORTING": "false",  # it reports to its makers, even offline
        "WANDB_SILENT": "true",
        **{f"WANDB_{what}_DIR": str(folder / what.lower()) for what in ("CACHE", "CONFIG", "DATA")},
        "WANDB_ARTIFACT_DIR": str(folder / "artifacts"),
        "COMET_DISABLE_AUTO_LOGGING": "1",
        "COMET_LOGGING_CONSOLE": "error",
        "MPLCONFIGDIR": str(folder / "matplotlib"),  # Comet imports it
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "DVC_NO_ANALYTICS": "true",
        "DVC_STUDIO_OFFLINE": "true",
    }
    os.environ.update(variables)
    return import_module(f"apps.tracking.{tracker}").Tracker


def feed(run: Tracker, line: lines.Line) -> None:
    """Pass a line on to a tracker's run."""
    match line["event"]:
        case "steps":
            places = range(line["done"] + 1, line["done"] + len(line["losses"]) + 1)
            run.metrics("step", places, [{"step_loss": loss} for loss in line["losses"]], line["time"])
        case "epoch":
            values = {key: value for key, value in line["values"].items() if value is not None}
            run.metrics("epoch", [values.pop("epoch")], [values], line["time"])
        case "summary":
            run.summary(flat({key: value for key, value in line["values"].items() if value is not None}))
        case "table":
            run.table(line["name"], line["rows"])
        case "picture":
            run.picture(line["name"], lines.folder() / line["path"])
        case "artifact":
            run.artifact(line["name"], lines.folder() / line["path"])


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping, with keys joined by dots."""
    found = {}
    for key, value in values.items():
        inside = isinstance(value, Mapping)
        found |= flat(value, f"{above}{key}.") if inside else {f"{above}{key}": value}
    return found


def follow(tracker: str, name: str, run_id: str, writer: str) -> None:
    """Feed a run whose lines are being written, until it ends or the process `writer` is gone."""
    run = lines.Run(name, run_id)
    with lines.lock(f"{run_id}.{tracker}"):
        if run.fed(tracker):  # by a later stage, because this process had to wait long
            return
        opened, count, state = None, 0, "failed"
        told = _growing(run, int(writer))
        for line in told if ONLINE.get(tracker, True) else list(told):
            if opened is None:
                opened = load(tracker)(lines.folder() / tracker, run, line, again=False)
            feed(opened, line)
            count += 1
            state = line.get("state", state)
        if opened:
            opened.close(failed=state == "failed")
            run.append("fed", tracker=tracker, count=count)


def _growing(run: lines.Run, writer: int) -> Iterator[lines.Line]:
    """The lines of a run as they are written, until it ends or the process `writer` is gone."""
    rest = b""
    with run.path.open("rb") as file:
        while True:
            gone = os.getppid() != writer
            *texts, rest = (rest + file.read()).split(b"\n")
            for text in texts:
                line = lines.parse(text)
                if line and line["run"] == run.id and line["event"] != "fed":
                    yield line
                    if line["event"] == "end":
                        return
            if gone:
                return
            time.sleep(EVERY)


def catch_up(tracker: str, runs: Sequence[lines.Run], overtaken: Callable[[], bool] = lambda: False) -> int:
    """Feed what the tracker lacks of these runs; return how many were fed. Ends early if `overtaken`."""
    kind, changed = None, 0
    for run in runs:
        if overtaken():
            break
        with lines.lock(f"{run.id}.{tracker}"):
            told, count = run.lines(), run.fed(tracker)
            if count == len(told):
                continue
            kind = kind or load(tracker)
            start = count if kind.CONTINUES else 0
            opened = kind(lines.folder() / tracker, run, told[0], again=start > 0)
            for line in _latest(told[start:]):
                feed(opened, line)
            opened.close(failed=all(line.get("state") != "finished" for line in told))
            run.append("fed", tracker=tracker, count=len(told))
            changed += 1
    return changed


def _latest(told: Sequence[lines.Line]) -> list[lines.Line]:
    """The lines without those that a later line of the same event and name replaces."""
    last = {(line["event"], line["name"]): line for line in told if "name" in line}
    return [line for line in told if "name" not in line or last[line["event"], line["name"]] is line]


def _wait_for_turn(tracker: str) -> AbstractContextManager[Any]:
    """Wait for one of the tracker's SIDE_BY_SIDE locks, and return it locked."""
    for place in cycle(range(SIDE_BY_SIDE)):
        lock = lines.lock(f"{tracker}.{place}", timeout=0)
        try:
            return lock.acquire()
        except TimeoutError:
            time.sleep(EVERY / SIDE_BY_SIDE)


def _join(tracker: str, runs: Sequence[lines.Run]) -> None:
    """Feed a stage's results, unless a later stage has more to feed: then that stage feeds all."""
    newest, this = lines.folder() / "locks" / f"{tracker}.newest", str(os.getpid())
    newest.write_text(this)
    with lines.lock(f"{tracker}.catch_up"):
        catch_up(tracker, runs, overtaken=lambda: newest.read_text() != this)


def _give_way(niceness: int) -> None:
    """Lower this process's priority."""
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    with suppress(OSError):  # if Linux schedules sessions, not processes: that of a session of its own, too
        os.setsid()
        Path("/proc/self/autogroup").write_text(str(niceness))


def _main() -> None:
    said = os.dup(2)  # where the user may see it; what libraries print goes to the log, standard output
    os.dup2(1, 2)
    tracker, what, *arguments = sys.argv[1:]
    _give_way(NICE.get(tracker, 19))
    try:
        with _wait_for_turn(tracker):
            if what == "follow":
                follow(tracker, *arguments)
            else:
                _join(tracker, [lines.Run(*argument.split(":")) for argument in arguments])
    except BaseException as error:  # whatever a library raises, it ends only this tracker
        text = f"tracking: {tracker}: {explain(tracker, error)}\n"
        for place in (said, 2):
            try:
                os.write(place, text.encode())
            except OSError:  # the training has ended
                continue
        os._exit(1)  # without its threads, which may hang


def explain(tracker: str, error: BaseException) -> str:
    """Why a tracker does not work, in one line."""
    if isinstance(error, ImportError):
        return f"{' '.join(str(error).split())}: `make tracking` installs it"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


if __name__ == "__main__":
    _main()
