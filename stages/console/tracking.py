"""Report a training to experiment trackers, without running a tracker in the training's process.

Trackers draw from Python's random numbers, replace hooks, phone home and hang. So TRACKERS=wandb,mlflow,…
starts `python -m apps.tracking`, the companion, which gets each event as a JSON line through a pipe. Nothing
here waits for it, except for at most PATIENCE seconds at the end. Problems are lines on standard error.
Without TRACKERS nothing happens.

    with tracking.run("mine/first_try", {"learning_rate": 0.1}):
        tracking.steps(0, [2.3, 2.2])
        tracking.epoch({"epoch": 1, "train_loss": 2.1})
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, SupportsFloat

ROOT = Path(__file__).resolve().parents[2]
WAITING = 1 << 20
"""Bytes of lines that may wait for a companion that does not read; later lines are lost."""
PATIENCE = 4.0
"""Seconds that a process waits at its end for its companion to take over the rest of the work."""
TAKEN = b"taken"
"""The line with which the companion says that it has taken over."""
GROUP = "TRACKERS_GROUP"
"""The environment variable that names the study or search that a training belongs to."""
JOINING = {"stages.evaluate": "scores", "stages.visualize": "pictures", "stages.export": "models"}
"""The stages whose results are added to the runs of the trainings, and the kind of these results."""


def chosen() -> str:
    """The trackers that TRACKERS names, with commas between them."""
    return os.environ.get("TRACKERS", "").replace(" ", "").strip(",")


class Companion:
    """The process that feeds the trackers, as the process that started it sees it."""

    def __init__(self, *arguments: str):
        self._waiting, self._heard, self._taken, self._complained = bytearray(), b"", False, False
        paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "apps.tracking", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._in, self._out = self._process.stdin.fileno(), self._process.stderr.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    def send(self, event: str, **content: Any) -> None:
        """Send a line to the companion; what cannot be written at once waits."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **content}, default=str) + "\n"
        if len(self._waiting) + len(line) > WAITING:
            self._complain("the trackers do not keep up: they miss a part of this training")
        else:
            self._waiting += line.encode()
        self._write()
        self._listen()

    def take_leave(self) -> None:
        """Wait until the companion can go on alone, at most PATIENCE seconds."""
        end = time.monotonic() + PATIENCE
        while not self._taken and self._process.poll() is None and (left := end - time.monotonic()) > 0:
            wanting = [self._in] if self._waiting else []
            select.select([self._out], wanting, [], min(left, 0.05))
            self._write()
            self._listen()
        self._listen()
        self._complain("the trackers may miss data: the process that feeds them does not answer")
        for pipe in (self._process.stdin, self._process.stderr):
            with suppress(OSError):
                pipe.close()
        Thread(target=self._process.wait, daemon=True).start()

    def _write(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: os.write(self._in, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._waiting.clear()
            self._listen()  # it may say why
            self._complain("the trackers miss data: the process that feeds them has ended")

    def _listen(self) -> None:
        """Print what the companion says."""
        with suppress(BlockingIOError):
            self._heard += os.read(self._out, 1 << 16)
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            if line == TAKEN:
                self._taken = True
            else:
                print(line.decode(errors="replace"), file=sys.stderr, flush=True)

    def _complain(self, text: str) -> None:
        """Print what is wrong, but only once, and not if the companion has taken over."""
        if not self._complained and not self._taken:
            print(f"tracking: {text}", file=sys.stderr, flush=True)
        self._complained = True


_companion: Companion | None = None


@contextmanager
def run(name: str, parameters: Mapping[str, Any], **results: Path) -> Iterator[None]:
    """Let the trackers follow the block as a run, which has failed if the block raises.

    name: of the model, framework/model. parameters: of its training. results: the paths `folder` and
    `timings` of its results.
    """
    global _companion
    if not chosen():
        yield
        return
    try:
        _companion = Companion("follow", chosen(), name)
    except OSError as error:
        print(f"tracking: {error.strerror}: this training is not tracked", file=sys.stderr, flush=True)
    send("begin", parameters=parameters)
    state = "failed"
    try:
        yield
        state = "finished"
    finally:
        send("end", state=state, **results)
        if _companion:
            _companion.take_leave()
        _companion = None


def send(event: str, **content: Any) -> None:
    """Report an event, if trackers follow."""
    if _companion:
        _companion.send(event, **content)


def steps(done: int, losses: Sequence[SupportsFloat]) -> None:
    """Report the losses of the steps that follow the first `done`."""
    if losses:
        send("steps", done=done, losses=list(map(float, losses)))


def epoch(values: Mapping[str, float | None]) -> None:
    """Report a finished epoch: its figures by name, with the number of the epoch as `epoch`."""
    send("epoch", values=dict(values))


def join(module: str) -> None:
    """Add a stage's results to the runs of the trainings, if there are trackers. module: the stage's."""
    if chosen() and module in JOINING:
        with suppress(OSError):
            Companion("join", chosen(), JOINING[module]).take_leave()
