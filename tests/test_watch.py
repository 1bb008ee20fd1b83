"""`make watch` shows a training while it goes on."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from test_tracking import begin, environment, prepare, settle
from tracked import installed

from apps import watch


@contextmanager
def watching(project: Path, trackers: str) -> Iterator[subprocess.Popen]:
    """`apps.watch` beside a training that goes on and on."""
    arguments = {"cwd": project, "env": environment(project, ""), "stdout": subprocess.PIPE, "text": True}
    with (
        going_on(project, trackers),
        subprocess.Popen([sys.executable, "-m", "apps.watch"], **arguments) as shown,
    ):
        try:
            yield shown
        finally:
            shown.terminate()


@contextmanager
def going_on(project: Path, trackers: str) -> Iterator[None]:
    """A training during the block, which trackers follow."""
    with begin(prepare(project, epochs=100_000), trackers) as training:
        reader = Thread(target=training.stdout.read)  # it would wait for somebody who reads what it prints
        reader.start()
        try:
            yield
        finally:
            training.terminate()
            reader.join()
            settle(project)


@contextmanager
def busy() -> Iterator[None]:
    """As many processes that work as this machine has cores, as beside `make`."""
    working = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        yield
    finally:
        for process in working:
            process.kill()
            process.wait()


def test_the_loss_of_a_running_model_moves_at_least_every_two_seconds(tmp_path):
    with watching(tmp_path, "") as shown:
        steps, started = [], None
        for line in shown.stdout:
            if found := re.match(r"scratch/mlp_relu +step (\d+)  loss \d", line):
                started = started or time.monotonic()
                steps.append(int(found[1]))
                if len(steps) == 5:
                    break
        seconds = time.monotonic() - started
    assert len(set(steps)) >= seconds / 2 and steps == sorted(steps)


@pytest.mark.slow
@pytest.mark.skipif(not installed("tensorboard"), reason="needs TensorBoard: `make tracking` installs it")
def test_the_page_of_tensorboard_has_the_losses_of_a_running_model(tmp_path):
    with watching(tmp_path, "tensorboard") as shown:
        address = re.search(r"http://\S+/", shown.stdout.readline())[0]
        counts: set[int] = set()
        end = time.monotonic() + 180
        while len(counts) < 3 and time.monotonic() < end:
            time.sleep(2)
            try:
                runs = shown_at(f"{address}data/plugin/scalars/tags")
                for run in (name for name, tags in runs.items() if "step_loss" in tags):
                    query = f"{address}data/plugin/scalars/scalars?run={run}&tag=step_loss"
                    counts.add(shown_at(query)[-1][1])
            except OSError:  # it has not started
                continue
    assert len(counts) == 3, "it shows more steps every time"


def shown_at(address: str) -> Any:
    with urllib.request.urlopen(address) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.skipif(not installed("tensorboard"), reason="needs TensorBoard: `make tracking` installs it")
def test_tensorboard_gets_the_steps_at_once_though_all_cores_are_busy(tmp_path):
    with going_on(tmp_path, "tensorboard"), busy():
        sizes, end = {0}, time.monotonic() + 30
        while len(sizes) < 5 and time.monotonic() < end:
            time.sleep(1)
            sizes |= {path.stat().st_size for path in tmp_path.glob("tracking/tensorboard/*/*/*/events*")}
    assert len(sizes) == 5


def test_a_row_that_is_being_written_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert watch.overview() == "no model is training"
    folder = tmp_path / "outputs/models/pytorch/cnn.partial"
    folder.mkdir(parents=True)
    assert watch.overview() == "no model is training", "a training that was killed left it"
    monkeypatch.setattr(watch, "training", lambda: {("pytorch", "cnn")})
    assert watch.overview().split() == ["pytorch/cnn", "is", "training"]
    (folder / "losses.csv").write_text("step,loss\n1,3.0\n2,1.0\n3,0.")
    (folder / "history.csv").write_text("epoch,validation_accuracy\n1,0.5\n")
    assert watch.overview().split(maxsplit=1) == [
        "pytorch/cnn",
        "step 2  loss 2.0000  epoch 1  validation accuracy 50.00%",
    ]
