"""Let the workers of a Dask cluster compute stages of the pipeline.

DVC itself stays on this machine, for which its locks and its run cache are made. For a training stage it gets
a shell (shell.py) that sends the stage's command to a process of this module. This process lets a worker
(worker.py) run the command, and puts the stage's outputs into place.
"""

import hashlib
import logging
import os
import shlex
import signal
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from apps.scheduling import shell, worker
from apps.scheduling.job import FORK
from apps.scheduling.plan import Files
from apps.scheduling.worker import PATIENCE, SCHEDULER, connect
from stages.console.errors import UserError, one_line

GLANCE, SHORT = 0.25, 0.02
"""Seconds between two checks of the cluster, and of a stage."""


class Cluster:
    """A process that talks to the cluster.

    threads: of all present workers. shell: what DVC must use for stages that they compute. Create it before a
    Lifeline, which it would otherwise keep open. Only this process imports Dask, which leaves threads behind.
    Raises UserError if there is no scheduler or no worker, or if a worker has other versions.
    """

    def __init__(self, address: str, needed: Mapping[str, Files]):
        path = Path(shell.SOCKET).with_suffix(".sh").absolute()
        command = shlex.join([sys.executable, "-S", "-E", shell.__file__])
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
        self.shell = str(path)
        self.connection, theirs = FORK.Pipe()
        self._process = FORK.Process(
            target=_serve, args=(theirs, self.connection, address, needed), daemon=True
        )
        self._process.start()
        theirs.close()
        self.threads = self.receive()

    def receive(self) -> Any:
        """The next message of the process. Raises the UserError that ends the run."""
        try:
            answer = self.connection.recv()
        except EOFError:
            raise UserError(f"{SCHEDULER}: the process that talks to the scheduler was killed") from None
        if isinstance(answer, UserError):
            self.close()
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def computes(stage: str) -> bool:
    """Whether workers compute a stage: only the training stages.

    The others read the results of all models, which take longer to send than to process.
    """
    return stage.startswith("train_")


def _serve(told: Connection, others: Connection, address: str, needed: Mapping[str, Files]) -> None:
    os.setpgrp()  # Ctrl-C is for the pipeline
    others.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    try:
        service = _Service(address, needed)
        told.send(service.threads)
        while not told.poll(GLANCE):  # until the pipeline is gone
            service.look()
    except UserError as error:
        with suppress(OSError):
            told.send(error)
            told.poll(None)  # until then no stage learns that its command never ends
    os._exit(0)


class _Refused(Exception):
    """A stage fails without its command's fault: its files have changed, or a worker cannot keep them."""


class _Service:
    def __init__(self, address: str, needed: Mapping[str, Files]):
        logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
        warnings.simplefilter("ignore")
        self._address, self._needed = address, needed
        self._client = connect(address)
        self._topic = uuid.uuid4().hex
        self._client.subscribe_topic(self._topic, self._print)
        self._shells: dict[str, Connection] = {}
        self._lock, self._sending = Lock(), Lock()
        self._failure: UserError | None = None
        self._seen = time.monotonic()
        while not (threads := self._client.nthreads()):
            self.look()
            time.sleep(GLANCE)
        self._check()
        self.threads = sum(threads.values())
        Path(shell.SOCKET).unlink(missing_ok=True)
        shells = Listener(shell.SOCKET, "AF_UNIX", backlog=128)
        Thread(target=self._accept, args=(shells,), daemon=True).start()

    def look(self) -> None:
        """Raise UserError if the cluster is lost, or if anything else ends all stages."""
        if self._failure:
            raise self._failure
        try:
            workers = self._client.status == "running" and self._client.nthreads()
        except OSError:
            workers = None
        if self._client.status != "running":
            raise UserError(f"{SCHEDULER}: the scheduler at {self._address} is gone; the next run continues")
        if workers:
            self._seen = time.monotonic()
        elif time.monotonic() > self._seen + PATIENCE:
            raise UserError(f"{SCHEDULER}: no worker at the scheduler {self._address} for {PATIENCE} s")

    def _check(self) -> None:
        try:
            self._client.run(worker.check, worker.versions())
        except UserError:
            raise
        except Exception as error:  # this code is missing there, or much older
            raise UserError(
                f"{SCHEDULER}: a worker does not know this project ({one_line(error)}): start scheduler and "
                "workers in its folder"
            ) from None

    def _print(self, event: tuple[float, dict[str, Any]]) -> None:
        with self._lock, suppress(OSError):
            if to := self._shells.get(event[1]["key"]):
                to.send(event[1]["printed"])

    def _accept(self, listener: Listener) -> None:
        while True:
            Thread(target=self._answer, args=(listener.accept(),), daemon=True).start()

    def _answer(self, asking: Connection) -> None:
        """Have a stage computed, and send its shell the output and the exit status."""
        from distributed import KilledWorker

        try:
            stage, command = asking.recv()
            outcome = self._compute(stage, command, asking)
            self._put_into_place(stage, outcome)
            status, told = outcome.status, ""
        except (EOFError, ConnectionError):  # the shell was killed
            return
        except UserError as error:
            self._failure = error
            Event().wait()  # until the pipeline ends, as the shell does
        except KilledWorker:
            status, told = 1, "each worker that computed this stage was killed; is there enough memory?"
        except _Refused as error:
            status, told = 1, f"error: {error}"
        except Exception as error:
            status, told = 1, f"{type(error).__name__}: {one_line(error)}"
        with suppress(OSError):
            if told:
                asking.send(f"{told}\n".encode())
            asking.send(status)

    def _compute(self, stage: str, command: str, asking: Connection) -> worker.Outcome:
        from distributed.client import FutureCancelledError

        contents = {path: _checksum(path) for path in self._needed[stage].inputs_now()}
        request = worker.Request(
            stage=stage,
            command=command,
            inputs=contents,
            outputs=self._needed[stage].outputs,
            topic=self._topic,
            versions=worker.versions(),
        )
        while True:
            key = f"{stage}-{uuid.uuid4().hex}"
            with self._lock:
                self._shells[key] = asking
            future = self._client.submit(worker.compute, request, key=key, pure=False)
            try:
                while not future.done():
                    if asking.poll(SHORT):
                        raise EOFError
                answer = future.result()
            except FutureCancelledError:  # the connection is lost: `look` ends the pipeline
                time.sleep(PATIENCE)
                continue
            finally:
                future.cancel()
                with self._lock:
                    del self._shells[key]
            if isinstance(answer, worker.Outcome):
                if worker.versions() != request.versions:  # DVC would record the new code
                    raise _Refused("the code has changed since the stage began; the next run runs it again")
                return answer
            self._send(answer, contents)

    def _send(self, asked: worker.Missing, contents: dict[str, str]) -> None:
        """Send a worker the inputs that it lacks; each once, even if several stages wait for it."""
        paths = {checksum: path for path, checksum in contents.items()}
        there = {"workers": [asked.worker]}
        with self._sending:
            try:
                lacking = self._client.run(worker.missing, asked.checksums, **there)[asked.worker]
            except OSError:  # it is gone: another one computes the stage
                return
            for checksum in lacking:
                content = Path(paths[checksum]).read_bytes()
                if hashlib.sha256(content).hexdigest() != checksum:
                    raise _Refused(f"{paths[checksum]} has changed since the stage began")
                try:
                    self._client.run(worker.store, checksum, content, **there)
                except OSError:
                    return

    def _put_into_place(self, stage: str, outcome: worker.Outcome) -> None:
        with tempfile.TemporaryDirectory(dir=Path(shell.SOCKET).parent) as temporary:
            for path, content in outcome.files.items():
                Path(temporary, path).parent.mkdir(parents=True, exist_ok=True)
                Path(temporary, path).write_bytes(content)
            for output in self._needed[stage].outputs:
                if (made := Path(temporary, output)).exists():
                    Path(output).parent.mkdir(parents=True, exist_ok=True)
                    made.replace(output)


def _checksum(path: str) -> str:
    state = Path(path).stat()
    return _checksum_of(path, state.st_mtime_ns, state.st_size)


@cache
def _checksum_of(path: str, _changed: int, _size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
