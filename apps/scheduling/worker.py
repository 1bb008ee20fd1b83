"""What a Dask worker does for a pipeline on another machine: run a stage's command on inputs sent to it.

A worker is started in a checkout: `python -m distributed.cli.dask_worker`. Its code and packages must be
those of the machine where the pipeline runs. It keeps inputs in its folder, by checksum.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from stages.console import machine
from stages.console.errors import UserError

ROOT = Path(__file__).parents[2]
MYSELF = Path(__file__).read_bytes()
"""This file as it was when the process started. The stages' code is read by processes that start later."""
FOLDER = Path(".dvc/tmp/cluster")
SCHEDULER = "DASK_SCHEDULER_ADDRESS"
PACKAGES = "numpy", "scipy", "torch", "tensorflow", "keras", "scikit-learn", "lightgbm"
PATIENCE = 15
"""Seconds for which there may be no worker. A killed worker comes back sooner if it has a nanny."""
GLANCE = 0.2
"""Seconds between two checks whether the command is still needed."""


@dataclass(frozen=True)
class Request:
    """A stage to compute. inputs: checksums by path. outputs: the paths of files and folders.

    topic: of the Dask events that carry what the command prints. versions: of code and packages, required.
    """

    stage: str
    command: str
    inputs: dict[str, str]
    outputs: tuple[str, ...]
    topic: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Missing:
    """The answer of a worker that still lacks inputs: their checksums."""

    worker: str
    checksums: list[str]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command. status: its exit status. files: contents by path, if it succeeded."""

    status: int
    files: dict[str, bytes]


def connect(address: str) -> Any:
    """A dask.distributed.Client. Raises UserError if Dask is not installed, or no scheduler answers."""
    try:
        from dask.distributed import Client
    except ImportError:
        raise UserError(f"{SCHEDULER} is set, but Dask is not installed: `make tuning` installs it") from None
    if not re.fullmatch(r"\w+://.+:\d+", address):
        raise UserError(f"{SCHEDULER} is {address!r}; allowed: an address such as tcp://127.0.0.1:8786")
    try:
        return Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise UserError(f"{SCHEDULER}: no scheduler answers at {address} ({type(error).__name__})") from None


def variables(**others: str) -> dict[str, str]:
    """The environment variables of a process that trains for this one.

    They leave out a variable of Dask's workers that makes them return memory at once: with it, training a
    scratch network takes three times as long.
    """
    mine = {name: value for name, value in os.environ.items() if name != "MALLOC_TRIM_THRESHOLD_"}
    return mine | {"PYTHONPATH": str(ROOT)} | others


def versions() -> dict[str, str]:
    """What results depend on: the checksum of the code, and the versions of Python and libraries."""
    digest = hashlib.sha256(MYSELF)
    for path in sorted((ROOT / "stages").rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    python = ".".join(map(str, sys.version_info[:2]))
    return {"code": digest.hexdigest()[:12], "Python": python, **machine.packages(PACKAGES)}


def check(wanted: dict[str, str]) -> None:
    """Raise UserError, naming the differences, if this worker's code or packages are not the wanted ones."""
    mine = versions()
    differing = [
        f"{name} {mine.get(name)}, here {wanted[name]}" for name in wanted if mine.get(name) != wanted[name]
    ]
    if differing:
        raise UserError(f"the worker in {Path.cwd()} has other versions: {'; '.join(differing)}")


def missing(checksums: Iterable[str]) -> list[str]:
    """The checksums of the inputs that are not here."""
    return [checksum for checksum in sorted(set(checksums)) if not (FOLDER / checksum).exists()]


def store(checksum: str, content: bytes) -> None:
    """Keep an input. It is read-only because the folders of stages link to it.

    Raises UserError if the disk does not take it, unlike the OSError of a connection that is lost.
    """
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
            file = Path(temporary, checksum)
            file.write_bytes(content)
            file.chmod(0o444)
            file.replace(FOLDER / checksum)
    except OSError as error:
        place = (Path.cwd() / FOLDER).as_posix()
        raise UserError(f"a worker cannot keep inputs in {place}: {error.strerror}") from None


def compute(request: Request) -> Missing | Outcome:
    """Run a stage's command in its own folder. Raises UserError as `check` does."""
    from distributed import get_worker
    from distributed.diskutils import WorkSpace

    check(request.versions)
    worker = get_worker()
    if lacking := missing(request.inputs.values()):
        return Missing(worker.address, lacking)
    place = WorkSpace(str(FOLDER)).new_work_dir(prefix="stage-")  # it also removes what killed workers left
    try:
        folder = Path(place.dir_path)
        for path, checksum in request.inputs.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).hardlink_to(FOLDER / checksum)
        status = _run(request, folder, worker)
        return Outcome(status, {} if status else _files(folder, request.outputs))
    finally:
        place.release()


def _run(request: Request, folder: Path, worker: Any) -> int:
    """The exit status of the command. Its output is sent on; it is killed when it is not needed any more."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    key = worker.get_current_task()
    process = subprocess.Popen(
        ["/bin/sh", "-c", request.command],
        cwd=folder,
        env=variables(PATH=path, DVC_STAGE=request.stage, DVC_ROOT=str(Path.cwd())),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with process.stdout as output:
        while True:
            if getattr(worker.state.tasks.get(key), "state", None) != "executing":
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            if wait([output.fileno()], GLANCE):
                printed = os.read(output.fileno(), 2**16)
                if not printed:
                    return process.wait()
                worker.log_event(request.topic, {"key": key, "printed": printed})


def _files(folder: Path, outputs: Iterable[str]) -> dict[str, bytes]:
    found = {}
    for output in outputs:
        inside = [path for path in (folder / output).rglob("*") if path.is_file()]
        for path in inside or filter(Path.is_file, [folder / output]):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found
