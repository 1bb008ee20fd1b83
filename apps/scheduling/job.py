"""A stage that DVC runs in its own process.

The process is forked from one that has already imported DVC, which saves the import.
"""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, TypeVar

import dvc.cli
import dvc.lock
import psutil
from dvc.cli.parser import get_main_parser
from dvc.repo import Repo

from stages.console.errors import UserError

FORK = multiprocessing.get_context("fork")
PATIENCE = 5
"""Seconds that a stage has to end by itself before it is killed."""
TAIL = 2**16
"""Bytes at the end of a stage's output that are read."""
LATE = "dvc.repo.open_repo", "dvc.rwlock", "dvc.utils.strictyaml", "dvc_data.hashfile.status", "dulwich.index"
"""Modules that DVC imports only while it runs a stage."""
ASKING = 0.4
"""Seconds in which a job tries six times to get DVC's lock. With DVC's own 3 it idles 0.5 s each time."""
T = TypeVar("T")


class Lifeline:
    """A pipe whose closing ends the jobs of this process: by `cut`, or when this process ends in any way."""

    def __init__(self) -> None:
        self.watched, self._held = os.pipe()

    def cut(self) -> None:
        """End all jobs that hold it."""
        os.close(self._held)

    def hold(self) -> None:
        """In a job: end this process when the lifeline is cut."""
        os.close(self._held)
        Thread(target=_end_when_cut, args=(self.watched,), daemon=True).start()


class Job:
    """`dvc repro --single-item` of a stage, which starts at once. started: by time.monotonic, in seconds.

    shell: what runs the stage's command; None: the user's own.
    """

    def __init__(self, stage: str, lifeline: Lifeline, shell: str | None = None):
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 – it stays open as long as the job exists
        self.started = time.monotonic()
        told = stage, self._output.fileno(), lifeline, shell
        self._process = FORK.Process(target=_reproduce, args=told)
        self._process.start()
        self.sentinel = self._process.sentinel

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def end(self) -> bool:
        """Wait until the job ends; return whether its stage is now up to date."""
        self._process.join()
        if self._process.exitcode:
            with suppress(ProcessLookupError):  # what is left of it if DVC was killed
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.exitcode == 0

    def lines(self) -> list[str]:
        """The last lines that the stage, and DVC in its warnings, have written so far."""
        length = os.fstat(self._output.fileno()).st_size
        tail = os.pread(self._output.fileno(), TAIL, max(0, length - TAIL)).decode("utf-8", "replace")
        return [line for line in tail.splitlines() if line.strip() and not line.startswith("Use `dvc push`")]


def warm_up() -> None:
    """Import here what DVC imports late: otherwise each job would, which takes 0.15 s of processor time."""
    get_main_parser()
    Repo().close()
    for module in LATE:
        import_module(module)


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a process of its own and return its result, or raise its UserError or OSError.

    DVC leaves threads behind, which a process that forks must not have.
    """
    receiving, sending = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_answer, args=(sending, function, arguments))
    process.start()
    sending.close()
    try:
        answer = receiving.recv()
    except EOFError:
        sys.exit(1)  # it has printed why
    finally:
        process.join()
    if isinstance(answer, UserError | OSError):
        raise answer
    return answer


def _answer(sending: Connection, function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
    os.setpgrp()  # so that Ctrl-C does not end it while it writes dvc.lock
    try:
        sending.send(function(*arguments))
    except (UserError, OSError) as error:
        sending.send(error)


def _reproduce(stage: str, output: int, lifeline: Lifeline, shell: str | None) -> None:
    os.setpgrp()  # Ctrl-C ends it through the lifeline, not while it writes dvc.lock
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    lifeline.hold()
    if shell:
        os.environ["SHELL"] = shell
    dvc.lock.DEFAULT_TIMEOUT = ASKING
    dvc.lock.Lock._do_lock = _locking(dvc.lock.Lock._do_lock)
    logging.getLogger("dvc").setLevel(logging.WARNING)
    sys.exit(dvc.cli.main(["--wait-for-lock", "repro", "--single-item", stage]))


_cut: float | None = None
"""In a job: when the lifeline was cut, by time.monotonic."""


def _locking(attempt: Callable[[Any], None]) -> Callable[[Any], None]:
    """DVC's attempt to get its lock, which ends a cut job if another DVC holds the lock for long."""

    def attempted(lock: Any) -> None:
        try:
            attempt(lock)
        except dvc.lock.LockError:
            if _cut and time.monotonic() > _cut + PATIENCE:
                sys.exit(1)
            raise

    return attempted


def _end_when_cut(watched: int) -> None:
    """End the stage's command, but let DVC end itself, so that it records a stage whose command is done.

    The processes that feed trackers, in sessions of their own, go on: they record how the training ended.
    """
    global _cut
    os.read(watched, 1)
    _cut = time.monotonic()
    while True:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(process.pid) == os.getsid(0):
                    process.terminate() if time.monotonic() < _cut + PATIENCE else process.kill()
        time.sleep(0.1)
