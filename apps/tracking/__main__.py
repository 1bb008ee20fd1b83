"""The companion of a training or of a stage after it: feeds trackers, started by stages/console/tracking.py.

    python -m apps.tracking follow TRACKERS MODEL   # lines of a training on standard input
    python -m apps.tracking join TRACKERS KIND      # what `evaluate` or another stage has found

Each tracker gets a process of its own, at the lowest priority, that is ended if it hangs; this one needs a
tenth of a second. What people should know is a line on standard error while they may see it, and in
tracking/log.txt in any case.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from apps.tracking import feed, lines, training
from stages.console import tracking

MOMENT = 0.5
"""Seconds that the trackers get to end before the training is told not to wait."""
HANGS = 1800
"""Seconds after which a tracker is ended that has still not finished. It may have had to wait for others."""


def main() -> None:
    what, trackers, argument = sys.argv[1:]
    try:
        lines.folder().mkdir(parents=True, exist_ok=True)
        known = [tracker for tracker in feed.TRACKERS if tracker in trackers.split(",")]
        for unknown in sorted(set(trackers.split(",")) - set(known)):
            say(f"{unknown} is no tracker; there are {', '.join(feed.TRACKERS)}")
        (follow if what == "follow" else join)(known, argument)
    except OSError as error:
        say(f"{error.filename or lines.folder()}: {error.strerror}: the trackers miss data")
        let_go()


def follow(trackers: list[str], name: str) -> None:
    """Keep the lines of a training and let the trackers read them."""
    run = lines.Run(name, uuid.uuid4().hex)
    told = (line for text in sys.stdin.buffer if (line := lines.parse(text)))  # the last one may be torn
    run.append(**next(told), about=training.about())
    feeding = start(trackers, "follow", name, run.id, str(os.getpid()))
    end = {"state": "failed"}  # of a training that is killed
    for line in told:
        if line["event"] == "end":
            end = line
            break
        run.append(**line)
    if end["state"] == "finished" and "folder" in end:
        for line in training.of_training(Path(end["folder"]), Path(end["timings"])):
            run.append(**line)
    else:
        run.append("end", state=end["state"])
    wait(feeding, MOMENT)
    if busy := [tracker for tracker, process in feeding.items() if process.poll() is None]:
        say(f"{', '.join(busy)} will finish in the background")
    leave(feeding)


def join(trackers: list[str], kind: str) -> None:
    """Let what a stage has found join the runs of the models that are there."""
    from apps.tracking import finished  # with NumPy, for which no training should wait

    runs = finished.collect(finished.names(), [kind])
    leave(start(trackers, "catch_up", *(f"{run.name}:{run.id}" for run in runs)))


def start(trackers: Iterable[str], *arguments: str) -> dict[str, subprocess.Popen]:
    """A process for each tracker, whose libraries print to the log."""
    with suppress(OSError):  # where Linux weighs sessions, not processes, against each other: this one is low
        Path("/proc/self/autogroup").write_text("19")
    with (lines.folder() / "log.txt").open("ab") as log:
        return {
            tracker: subprocess.Popen(
                [sys.executable, "-m", "apps.tracking.feed", tracker, *arguments],
                cwd=lines.folder().parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
            )
            for tracker in trackers
        }


def leave(feeding: dict[str, subprocess.Popen]) -> None:
    """Let go of the training, and end what hangs."""
    let_go()
    wait(feeding, HANGS)
    for tracker, process in feeding.items():
        if process.poll() is None:
            process.kill()
            say(f"{tracker} has not answered for {HANGS} s: it misses data")


def let_go() -> None:
    """Tell the training that it need not wait."""
    with suppress(OSError):
        os.write(2, tracking.TAKEN + b"\n")


def wait(feeding: dict[str, subprocess.Popen], limit: float) -> None:
    """Wait until all processes have ended, at most `limit` seconds."""
    end = time.monotonic() + limit
    while any(process.poll() is None for process in feeding.values()) and time.monotonic() < end:
        time.sleep(0.05)


def say(text: str) -> None:
    """Tell the person, if that is still possible, and the log."""
    line = f"tracking: {text}\n".encode()
    with suppress(OSError):
        os.write(2, line)
    with suppress(OSError), (lines.folder() / "log.txt").open("ab") as log:
        log.write(line)


if __name__ == "__main__":
    main()
