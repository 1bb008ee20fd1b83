"""Show the models that are training, with epochs and losses, every second.

    make watch      (python -m apps.watch)

Reads the files that trainers write while they train, with or without trackers. If TensorBoard is installed,
its page is served, too; it shows the runs of TRACKERS=tensorboard. Ctrl-C ends both.
"""

import csv
import importlib.util
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import psutil

from apps.tracking import lines
from stages.common import results
from stages.console import command

EVERY = 1.0
"""Seconds between two updates."""
PORT = 6006
"""TensorBoard's port, or the next free one."""
RECENT = 100
"""The number of steps over which the shown loss is averaged."""
STAGE = "stages.train_"
"""What the modules of training stages begin with; the framework follows."""


def main() -> None:
    command.no_arguments(__doc__)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: sys.exit())  # and with it TensorBoard
    with tensorboard() as note:
        while True:
            clear = "\033[H\033[J" if sys.stdout.isatty() else ""
            print(f"{clear}{note}\n{overview()}", flush=True)
            time.sleep(EVERY)


@contextmanager
def tensorboard() -> Iterator[str]:
    """Serve TensorBoard's page during the block; yield a line that says where."""
    if importlib.util.find_spec("tensorboard") is None:
        yield "TensorBoard is not installed: `make tracking` installs it"
        return
    folder, port = lines.folder() / "tensorboard", str(free_port())
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--logdir", str(folder), "--port", port, "--reload_interval", "1"]
    with (
        (lines.folder() / "log.txt").open("ab") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", *options], stdout=log, stderr=log
        ) as page,
    ):
        try:
            yield f"TensorBoard: http://localhost:{port}/"
        finally:
            page.terminate()


def free_port() -> int:
    """The first free port from PORT on."""
    for port in count(PORT):
        with closing(socket.socket()) as tried:
            if tried.connect_ex(("localhost", port)):
                return port


def overview() -> str:
    """A line for each model that is training at the moment."""
    now = training()
    found = sorted((results.OUTPUTS / "models").glob("*/*.partial"))  # a killed training leaves one, too
    found = [path for path in found if (path.parent.name, path.stem) in now]
    return "\n".join(map(state, found)) or "no model is training"


def training() -> set[tuple[str, str]]:
    """The models, as (framework, name), that processes on this machine train."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        for option, module, name in zip(words, words[1:], words[2:], strict=False):
            if option == "-m" and module.startswith(STAGE):
                found.add((module.removeprefix(STAGE), name))
    return found


def state(folder: Path) -> str:
    """The progress of the model whose results are being written to this folder."""
    name = f"{folder.parent.name}/{folder.stem}"
    losses, epochs = (rows(folder / f"{kind}.csv") for kind in ("losses", "history"))
    if not losses:
        return f"{name:<30} is training"
    recent = [float(row["loss"]) for row in losses[-RECENT:]]
    text = f"{name:<30} step {losses[-1]['step']}  loss {sum(recent) / len(recent):.4f}"
    if epochs:
        text += f"  epoch {epochs[-1]['epoch']}"
        if epochs[-1]["validation_accuracy"]:
            text += f"  validation accuracy {float(epochs[-1]['validation_accuracy']):.2%}"
    return text


def rows(path: Path) -> list[dict[str, str]]:
    """The complete rows of a table that is being written; none if the file is missing, or gone by now."""
    try:
        *whole, _ = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    return list(csv.DictReader(whole))


if __name__ == "__main__":
    command.run(main)
