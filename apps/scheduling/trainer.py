"""A process that trains models of one framework, one after another, as the stage's command trains one.

    python -m apps.scheduling.trainer FRAMEWORK [FOLDER]

It is asked on standard input and answers on standard output, a line of JSON each. Importing PyTorch or
TensorFlow takes longer than a short training; here it is done once. FOLDER is removed when
nobody is left to ask.
"""

import gc
import json
import os
import queue
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
import yaml

from stages.common import dataset, files, params
from stages.console import parameters, progress, tracking
from stages.console.errors import UserError

ROOT = Path(__file__).parents[2]
LOG = "log.txt"
"""What the trainings of a project print."""


def lay_out(folder: Path, content: dict[str, Any], layers: dict[str, Any], images: Path) -> Path:
    """Make `folder` a project with these parameters and architectures, and `images` its data."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, part in ((params.PATH, content), (params.ARCHITECTURES, layers)):
        files.write_text(folder / path, yaml.safe_dump(part, sort_keys=False))
    (folder / dataset.FOLDER).symlink_to(images.resolve())
    return folder


def select(folder: Path, share: float, tests: bool) -> Path:
    """Put into `folder` what a trial sees of data/: `share` of the training images, and no test labels.

    Without `tests` one blank image stands for the test images.
    """
    folder.mkdir(parents=True)
    source, described = dataset.FOLDER.resolve(), dataset.describe().model_dump()
    names = [f"train_{kind}.npy" for kind in ("images", "labels")]
    if share < 1:
        labels = dataset.load_labels("train")
        chosen = dataset.held_out(labels, max(1, round(share * len(labels))))
        for name in names:
            files.write_array(folder / name, np.load(source / name, mmap_mode="r")[chosen])
        described["counts"]["train"] = int(chosen.sum())
        names = []
    if tests:
        names.append("test_images.npy")
    else:
        blank = np.full((1, *described["image_size"]), described["ground"], np.uint8)
        files.write_array(folder / "test_images.npy", blank)
        described["counts"]["test"] = 1
    for name in names:
        (folder / name).symlink_to(source / name)
    files.write_json(folder / "dataset.json", described)
    return folder


class _Ended(Exception):
    """A trial fell below its bar."""


def serve(framework: str, *workplaces: str) -> None:
    """Train what standard input asks for, a line a model, and answer on standard output, a line each."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the process that asks, and that this one
        requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        Thread(target=_listen, args=(requests, workplaces)).start()  # the process ends when this does
        try:
            stage = import_module(f"stages.train_{framework}")
            _prepare(framework)
            gc.collect()
            gc.freeze()  # what is loaded now stays: the collections between trials leave it out
            while True:
                answer = _train(stage, framework, requests.get())
                os.chdir(ROOT)  # the folder is going to be removed
                print(json.dumps(answer), file=answers, flush=True)
        except BaseException:
            traceback.print_exc()  # before the end of the answers has `_listen` end the process
            sys.stderr.flush()
            raise SystemExit(1) from None


def _listen(requests: queue.SimpleQueue, workplaces: Sequence[str]) -> None:
    """Hand on what is asked; after an empty line, or when nobody is left to ask, end the process."""
    for line in sys.stdin:
        if not line.strip():
            os._exit(0)
        requests.put(json.loads(line))
    for folder in workplaces:
        remove(Path(folder))  # of a killed process nobody else would
    os._exit(0)


def remove(folder: Path) -> None:
    """Remove a folder in which a training may still write, which it cannot once its own folder is gone."""
    for _ in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break


def _train(stage: Any, framework: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run the stage as its command does, in a process that has run others."""
    os.chdir(request["folder"])
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    params.content.cache_clear()
    _renew(framework, stage)
    bars = {int(epoch): bar for epoch, bar in request["bars"].items()}
    answer: dict[str, Any] = {"history": [], "ended": False, "failure": None, "error": None}

    def watch(row: dict[str, float | None]) -> None:
        answer["history"].append(row)
        accuracy = row["validation_accuracy"]
        if accuracy is not None and accuracy < bars.get(row["epoch"], 0):
            raise _Ended

    os.environ[tracking.GROUP] = request["group"]
    progress.watchers[:] = [watch]
    sys.argv = [stage.__name__, request["name"]]
    try:
        parameters.check()
        stage.main()
    except _Ended:
        answer["ended"] = True
    except UserError as error:
        answer["failure"] = str(error)
    except OSError as error:  # as command.run has it: a full disk, which is no result of the trial
        answer["error"] = f"{error.filename or 'input or output'}: {error.strerror or error}"
    finally:
        sys.stdout.flush()
        gc.collect()
    return answer


def _prepare(framework: str) -> None:
    """What the stage's command does before its `main`."""
    if framework == "pytorch":
        from stages.models import allocator, without_compiler

        allocator.keep_freed_memory()
        without_compiler.install()


def _renew(framework: str, stage: Any) -> None:
    """Let the process forget what earlier trials left that a later one could see."""
    if framework == "tensorflow":
        stage.keras.backend.clear_session()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak of memory begins anew


if __name__ == "__main__":
    serve(*sys.argv[1:])
