"""The one way to train a model with other parameters: what tuning, studies and measurements run.

A trial is a model's entry in params.yaml with some values changed. Its training is the ordinary stage's, in
a folder of its own, and leaves what that stage leaves: the same bits as `dvc repro` with these values.

The processes that train (apps/scheduling/trainer.py), each with one framework, one number of threads and one
profile, are kept for the next trial. They run on this machine, or, where DASK_SCHEDULER_ADDRESS is set, on
Dask's workers.
"""

import atexit
import copy
import csv
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import psutil

from apps.scheduling import trainer
from apps.scheduling.worker import PACKAGES, PATIENCE, SCHEDULER, connect, variables
from stages.common import dataset, params, results
from stages.common.frameworks import FRAMEWORKS
from stages.console import machine
from stages.console.errors import UserError, one_line

ROOT = Path(__file__).parent.parent
ATTEMPTS = 3
"""How often a trial is begun whose process is killed, as the system does if memory is short."""
MEMORY = 2**30
"""Bytes that a training process is expected to take, at least."""
WEIGHTS = "weights.safetensors", "classifier.skops"


@dataclass(frozen=True)
class Trial:
    """A training to be run.

    params, architectures: what the two files hold for it. images: the share of the training images that it
    gets, drawn class by class; those of a smaller share are among those of a larger one. tests: whether it
    predicts the test images; if not, it does not have them. bars: the validation accuracy below which it ends
    after an epoch, by the epoch's number. code, data: checksums of what it is meant to run with. group: the
    study or search under which trackers show it, which decides no result.
    """

    framework: str
    name: str
    params: dict[str, Any]
    architectures: dict[str, Any]
    code: str
    data: str
    images: float = 1.0
    tests: bool = True
    bars: dict[int, float] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class Result:
    """What a trial leaves.

    history: its epochs, rows of history.csv. ended: whether it fell below a bar. failure: why it has no
    results, such as a loss that grew without bounds. files: what the stage wrote but for the weights, by
    path; of a trial that ended or failed none.
    """

    history: list[dict[str, float | None]]
    ended: bool
    failure: str | None
    files: dict[str, bytes] = field(repr=False)
    framework: str
    name: str

    def predictions(self) -> np.ndarray:
        """Class probabilities of the test images, float32 (n, classes)."""
        return np.load(BytesIO(self._content(results.predictions)), allow_pickle=False)

    def validation(self) -> np.ndarray:
        """Class probabilities of the held-out images, float32 (n, classes)."""
        return np.load(BytesIO(self._content(results.validation)), allow_pickle=False)

    def timings(self) -> results.Timings:
        """Seconds, memory, and the machine."""
        return results.Timings.model_validate_json(self._content(results.timings))

    def description(self) -> results.Description:
        """What was trained."""
        folder = results.folder(self.framework, self.name)
        return results.Description.model_validate_json(self.files[str(folder / "model.json")])

    def _content(self, where: Any) -> bytes:
        return self.files[str(where(self.framework, self.name))]


def make(model: str, changes: dict[str, Any], **options: Any) -> Trial:
    """The trial of a model such as pytorch/mlp with other values at some dotted keys.

    changes: by the keys of params.yaml, or of architectures.yaml with that name before them, both as
    `dvc exp run -S` takes them: pytorch.mlp.epochs, architectures.yaml:mlp_relu[0].dense. options: of Trial.
    Raises UserError, naming the key, if there is none, and if there is no such model.
    """
    content, layers = changed(model, changes)
    framework, name = model.split("/")
    return Trial(
        framework=framework,
        name=name,
        params=content,
        architectures=layers,
        code=code(framework, content[framework][name]),
        data=data(options.get("tests", True)),
        **options,
    )


def changed(model: str, changes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What params.yaml and architectures.yaml hold for a model, with other values as `make` takes them."""
    framework, _, name = model.partition("/")
    content = params.content(params.PATH)
    if framework not in FRAMEWORKS or name not in (content.get(framework) or {}):
        raise UserError(f"{model} is unknown; params.yaml has {', '.join(models(content))}")
    other = FRAMEWORKS.keys() - {framework}
    mine = {key: copy.deepcopy(value) for key, value in content.items() if key not in other}
    mine[framework] = {name: mine[framework][name]}
    layers = copy.deepcopy(params.content(params.ARCHITECTURES))
    for key, value in changes.items():
        path, _, rest = key.rpartition(":")
        put(layers if path == str(params.ARCHITECTURES) else mine, rest, value, path or str(params.PATH))
    used = mine[framework][name].get("architecture")
    return mine, {used: layers[used]} if used in layers else {}


def models(content: dict[str, Any]) -> list[str]:
    """All models of params.yaml's content, as framework/name."""
    return [f"{framework}/{name}" for framework in FRAMEWORKS for name in content.get(framework) or {}]


def put(content: Any, key: str, value: Any, path: str) -> None:
    """Set a value at a dotted key, in which a list's places stand in brackets. Its last part may be new.

    path: of the file that the content is of, for messages. Raises UserError if what it is in is missing.
    """
    *parents, last = steps(key)
    for step in parents:
        content = _inner(content, step, f"{path}: {key}")
    if not isinstance(content, dict):
        _inner(content, last, f"{path}: {key}")
    content[last] = value


def _inner(content: Any, step: str | int, where: str) -> Any:
    try:
        return content[step]
    except (LookupError, TypeError):
        raise UserError(f"{where} is missing: there is no {step}") from None


def get(content: Any, key: str) -> Any:
    """The value at a dotted key, None if there is none."""
    for step in steps(key):
        try:
            content = content[step]
        except (LookupError, TypeError):
            return None
    return content


def steps(key: str) -> list[str | int]:
    """The parts of a dotted key, the places of a list, which stand in brackets, as numbers."""
    return [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", key)]


def code(framework: str, entry: dict[str, Any]) -> str:
    """The checksum of the files that decide a model's results, those of dvc.yaml, and of the libraries."""
    stage = params.content(ROOT / "dvc.yaml")["stages"][f"train_{framework}"]["do"]
    listed = [dep for dep in stage["deps"] if dep.startswith("stages/")]
    listed = [re.sub(r"\$\{item\.(\w+)\}", lambda key: str(entry.get(key[1])), dep) for dep in listed]
    digest = hashlib.sha256(_versions().encode())
    for path in (ROOT / name for name in (*listed, "apps/scheduling/trainer.py")):
        if path.is_file():  # a wrong optimizer is for the stage to complain of
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _versions() -> str:
    return json.dumps([machine.packages(PACKAGES), sys.version_info[:2]])


def data(tests: bool) -> str:
    """The checksum of the images and labels that trainings read."""
    names = "dataset.json", "train_images.npy", "train_labels.npy", *["test_images.npy"] * tests
    return hashlib.sha256("".join(map(_checksum, names)).encode()).hexdigest()


def _checksum(name: str) -> str:
    path = dataset.FOLDER / name
    if not path.is_file():
        raise UserError(f"{path} is missing: `dvc repro download_mnist` makes it")
    return _checksum_of(path.resolve(), path.stat().st_mtime_ns)


@cache
def _checksum_of(path: Path, _changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(trial: Trial) -> Result:
    """Run a trial in a process that may have run others.

    Raises UserError if code or data here are not those that it is meant for, and RuntimeError with the last
    lines of what was printed if the program is at fault.
    """
    entry = trial.params[trial.framework][trial.name]
    try:
        mine = {"code or packages": code(trial.framework, entry), "images": data(trial.tests)}
    except UserError as error:
        raise UserError(f"a worker in {Path.cwd()}: {error}") from None
    for (what, here), wanted in zip(mine.items(), (trial.code, trial.data), strict=True):
        if here != wanted:
            raise UserError(f"a worker in {Path.cwd()} has other {what} than where the trials were started")
    key = trial.framework, trial.params.get("threads"), trial.params.get("profile"), trial.code
    for attempt in range(1, ATTEMPTS + 1):
        with tempfile.TemporaryDirectory(dir=_workplace()) as temporary:
            folder, images = Path(temporary), dataset.FOLDER
            if trial.images < 1 or not trial.tests:
                images = trainer.select(folder / "selected", trial.images, trial.tests)
            trainer.lay_out(folder, trial.params, trial.architectures, images)
            try:
                with _leased(key, folder) as worker:
                    answer = worker.train(folder, trial.name, trial.bars, trial.group)
            except Killed as killed:
                if attempt == ATTEMPTS:
                    raise UserError(f"{trial.framework}/{trial.name}: {killed}, {ATTEMPTS} times") from None
                continue
            return Result(**answer, files=left(folder), framework=trial.framework, name=trial.name)
    raise AssertionError("the last attempt returns or raises")


@cache
def _workplace() -> Path:
    """The folder in which this process has its trials. If it is killed, those that train for it remove it."""
    return Path(tempfile.mkdtemp(prefix="trials-"))


def left(folder: Path) -> dict[str, bytes]:
    """What stages wrote into the project `folder` but for the weights, by path."""
    written = [path for path in (folder / results.OUTPUTS).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in written if path.name not in WEIGHTS}


class Killed(Exception):
    """A training process was ended by a signal."""


class Worker:
    """A process that trains models of one framework.

    folder: a project; its `threads` and `profile` hold for all that the process trains. launcher: a command
    that starts it, such as an emulator. workplace: a folder that it removes when this process is gone.
    """

    def __init__(
        self, framework: str, folder: Path, launcher: Sequence[str] = (), workplace: Path | None = None
    ):
        command = [*launcher, sys.executable, "-m", "apps.scheduling.trainer", framework]
        here = os.environ.get("DVC_ROOT", str(Path.cwd()))  # what a stage keeps there outlasts the trial
        with (folder / trainer.LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *filter(None, [workplace])],
                cwd=folder,
                env=variables(DVC_ROOT=here),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )

    def train(
        self, folder: Path, name: str, bars: dict[int, float] | None = None, group: str = ""
    ) -> dict[str, Any]:
        """Train a model in the project `folder`: its history, whether a bar ended it, and why it failed.

        What it prints goes to the folder's log.txt. Raises UserError if it cannot be tried at all, Killed if
        the process was killed, RuntimeError if the program is at fault.
        """
        request = {"folder": str(folder.resolve()), "name": name, "bars": bars or {}, "group": group}
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        if line := self._process.stdout.readline():
            answer = json.loads(line)
            if error := answer.pop("error"):
                raise UserError(error)
            return answer
        self.close()
        if (code := self._process.returncode) < 0:
            raise Killed(f"the training was ended by {signal.Signals(-code).name}; is there enough memory?")
        lines = (folder / trainer.LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        if lines and lines[-1].startswith("error: "):
            raise UserError(lines[-1].removeprefix("error: "))
        raise RuntimeError("\n".join([f"training {name} failed:", *lines[-15:]]))

    @property
    def alive(self) -> bool:
        """Whether the process can be asked again."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process, which leaves the workplace to this one, and wait for it."""
        with suppress(BrokenPipeError):
            self._process.stdin.write("\n")
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()


_idle: dict[tuple[Any, ...], list[Worker]] = {}
_lock = Lock()


@contextmanager
def _leased(key: tuple[Any, ...], folder: Path) -> Iterator[Worker]:
    """An idle process that fits, or a new one in the place of one that does not."""
    with _lock:
        fitting = _idle.get(key)
        worker = fitting.pop() if fitting else None
        other = None if worker else next((waiting.pop() for waiting in _idle.values() if waiting), None)
    if other:
        other.close()
    worker = worker or Worker(key[0], folder, workplace=_workplace())
    try:
        yield worker
    finally:
        with _lock:
            if worker.alive:
                _idle.setdefault(key, []).append(worker)


def close() -> None:
    """End the processes that wait for trials, and remove what trials left."""
    with _lock:
        waiting = [worker for workers in _idle.values() for worker in workers]
        _idle.clear()
    for worker in waiting:
        worker.close()
    shutil.rmtree(_workplace(), ignore_errors=True)
    _workplace.cache_clear()


atexit.register(close)


@contextmanager
def only_one(lock: Path, what: str) -> Iterator[None]:
    """Raise UserError, saying what another process does, if that holds the same lock."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{what} by another process") from None
        yield


def default_jobs() -> int:
    """How many trials run at once on this machine if nobody says: what processors and free memory allow."""
    processors = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count() or 1
    free = psutil.virtual_memory().available // MEMORY
    return max(1, min(processors // params.read("threads", params.Threads), free))


Begin = Callable[[Trial], Future[Result]]


@contextmanager
def executor(jobs: int | None = None) -> Iterator[Begin]:
    """What begins a trial here or, if DASK_SCHEDULER_ADDRESS is set, on the workers of that scheduler.

    jobs: how many run at once; by default what the machine or the workers' threads allow. Raises UserError if
    there is no scheduler or no worker, or Dask is not installed.
    """
    address = os.environ.get(SCHEDULER)
    if not address:
        _workplace()  # made once, before several threads ask for it
        try:
            with ThreadPoolExecutor(jobs or default_jobs()) as pool:
                yield partial(pool.submit, run)
        finally:
            close()
        return
    with connect(address) as client:
        threads = _threads(client, address)
        with ThreadPoolExecutor(jobs or max(1, threads // params.read("threads", params.Threads))) as pool:
            try:
                yield partial(pool.submit, _run_elsewhere, client, address)
            finally:
                client.close()  # whoever still waits for a worker learns it


def _threads(client: Any, address: str) -> int:
    """The threads of all workers. Raises UserError if there is none for some time, or no scheduler."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            found = client.nthreads()
        except (OSError, TimeoutError):
            break
        if found:
            return sum(found.values())
        if client.status != "running":
            break
        time.sleep(0.5)
    else:
        raise UserError(f"{SCHEDULER}: no worker at the scheduler {address} for {PATIENCE} s")
    raise UserError(f"{SCHEDULER}: the scheduler at {address} is gone")


def _run_elsewhere(client: Any, address: str, trial: Trial) -> Result:
    """Run a trial on a worker, another one if it is lost."""
    from distributed.client import FutureCancelledError

    future = client.submit(run, trial, pure=False, retries=ATTEMPTS - 1)
    while True:
        try:
            return future.result(timeout=PATIENCE)
        except TimeoutError:
            _threads(client, address)
        except FutureCancelledError:
            raise UserError(f"{SCHEDULER}: the scheduler at {address} is gone") from None


def run_all(begin: Begin, trials: Sequence[Trial]) -> Iterator[tuple[int, Result]]:
    """The trials' places and results, as they end. Raises what `run` raises."""
    waiting = {begin(trial): place for place, trial in enumerate(trials)}
    try:
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        for future in waiting:
            future.cancel()


def cold(folder: Path, model: str) -> tuple[Result, float]:
    """What the stage itself leaves in the project `folder`, and the seconds of its process.

    Raises UserError with the end of what it printed if it fails.
    """
    framework, name = model.split("/")
    started = time.perf_counter()
    stage = subprocess.run(
        [sys.executable, "-m", f"stages.train_{framework}", name],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if stage.returncode != 0:
        raise UserError(f"{model} failed: {one_line(stage.stdout)[-500:]}")
    seconds, written = time.perf_counter() - started, left(folder)
    history = written.get(str(results.folder(framework, name) / "history.csv"), b"").decode().splitlines()
    rows = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(history)]
    return Result(rows, False, None, written, framework, name), seconds
