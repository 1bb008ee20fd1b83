"""A stage that DVC runs in a process of its own.

The process is forked from one that has imported DVC, so that each is spared the import.
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
"""Seconds that a stage has to end by itself when it is told to."""
TAIL = 2**16
"""Bytes of a stage's output that are looked at."""
LATE = "dvc.repo.open_repo", "dvc.rwlock", "dvc.utils.strictyaml", "dvc_data.hashfile.status", "dulwich.index"
"""What DVC imports only in the midst of a stage."""
ASKING = 0.4
"""Seconds in which a job asks six times for DVC's lock. With DVC's own 3 it idles half a second each."""
T = TypeVar("T")


class Lifeline:
    """What tells the jobs of this process to end: `cut`, or its own end, however it comes."""

    def __init__(self) -> None:
        self.watched, self._held = os.pipe()

    def cut(self) -> None:
        """End all jobs that hold on to it."""
        os.close(self._held)

    def hold(self) -> None:
        """In a job: end when it is cut."""
        os.close(self._held)
        Thread(target=_end_when_cut, args=(self.watched,), daemon=True).start()


class Job:
    """`dvc repro --single-item` of a stage, running since this was made. started: by time.monotonic.

    shell: what runs the stage's command, the person's own if it is None.
    """

    def __init__(self, stage: str, lifeline: Lifeline, shell: str | None = None):
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 – it is open as long as the job is known
        self.started = time.monotonic()
        told = stage, self._output.fileno(), lifeline, shell
        self._process = FORK.Process(target=_reproduce, args=told)
        self._process.start()
        self.sentinel = self._process.sentinel

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started

    def end(self) -> bool:
        """Wait for the end of a job; whether its stage is up to date now."""
        self._process.join()
        if self._process.exitcode:
            with suppress(ProcessLookupError):  # what is left of it if DVC was killed
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.exitcode == 0

    def lines(self) -> list[str]:
        """The last lines that the stage, and DVC where it complains, have written so far."""
        length = os.fstat(self._output.fileno()).st_size
        tail = os.pread(self._output.fileno(), TAIL, max(0, length - TAIL)).decode("utf-8", "replace")
        return [line for line in tail.splitlines() if line.strip() and not line.startswith("Use `dvc push`")]


def warm_up() -> None:
    """Have DVC import here what it imports late: else every job would, for 0.15 s of processor time each."""
    get_main_parser()
    Repo().close()
    for module in LATE:
        import_module(module)


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns that is called in a process of its own, for DVC leaves threads behind, which a
    process that forks must not have. Raises the UserError that it raises."""
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
    if isinstance(answer, UserError):
        raise answer
    return answer


def _answer(sending: Connection, function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
    os.setpgrp()  # Ctrl-C does not end it in the midst of writing dvc.lock
    try:
        sending.send(function(*arguments))
    except UserError as error:
        sending.send(error)


def _reproduce(stage: str, output: int, lifeline: Lifeline, shell: str | None) -> None:
    os.setpgrp()  # Ctrl-C ends it by way of the lifeline, not in the midst of writing dvc.lock
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    lifeline.hold()
    if shell:
        os.environ["SHELL"] = shell
    dvc.lock.DEFAULT_TIMEOUT = ASKING
    logging.getLogger("dvc").setLevel(logging.WARNING)
    sys.exit(dvc.cli.main(["--wait-for-lock", "repro", "--single-item", stage]))


def _end_when_cut(watched: int) -> None:
    """End the stage's command, and let DVC end: a stage whose command is done is recorded."""
    os.read(watched, 1)
    begun = time.monotonic()
    while True:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.terminate() if time.monotonic() < begun + PATIENCE else process.kill()
        time.sleep(0.1)
