"""The companion of a training or of a stage after it: feeds trackers. stages/console/tracking.py starts it.

    python -m apps.tracking follow TRACKERS MODEL   # lines of a training on standard input
    python -m apps.tracking join TRACKERS KIND      # results of `evaluate` or another stage

Each tracker gets its own process, at a low priority, which is killed if it hangs; this process takes a
tenth of a second. Messages for the user go to standard error while the user may see it, and always to
tracking/log.txt.
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
"""Seconds that the trackers have to finish before the training is told not to wait."""
HANGS = 1800
"""Seconds after which an unfinished tracker is killed. It may have had to wait for others."""


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
    """Store the lines of a training and let the trackers read them. name: of the model."""
    run = lines.Run(name, uuid.uuid4().hex)
    told = (line for text in sys.stdin.buffer if (line := lines.parse(text)))  # the last may be cut off
    run.append(**next(told), about=training.about(), trackers=trackers)
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
    """Add a stage's results to the runs of the trained models. kind: of the results, see `finished.KINDS`."""
    from apps.tracking import finished  # imports NumPy; no training should wait for that

    runs = finished.collect(finished.names(), [kind])
    leave(start(trackers, "catch_up", *(f"{run.name}:{run.id}" for run in runs)))


def start(trackers: Iterable[str], *arguments: str) -> dict[str, subprocess.Popen]:
    """Start a process for each tracker, by name; their libraries print to the log."""
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
    """Let the training go on alone, and kill processes that hang."""
    let_go()
    wait(feeding, HANGS)
    for tracker, process in feeding.items():
        if process.poll() is None:
            process.kill()
            say(f"{tracker} has not answered for {HANGS} s: it misses data")


def let_go() -> None:
    """Tell the training that it need not wait any more."""
    with suppress(OSError):
        os.write(2, tracking.TAKEN + b"\n")


def wait(feeding: dict[str, subprocess.Popen], limit: float) -> None:
    """Wait until all processes have ended, at most `limit` seconds."""
    end = time.monotonic() + limit
    while any(process.poll() is None for process in feeding.values()) and time.monotonic() < end:
        time.sleep(0.05)


def say(text: str) -> None:
    """Write a message to the user, if that is still possible, and to the log."""
    line = f"tracking: {text}\n".encode()
    with suppress(OSError):
        os.write(2, line)
    with suppress(OSError), (lines.folder() / "log.txt").open("ab") as log:
        log.write(line)


if __name__ == "__main__":
    main()
