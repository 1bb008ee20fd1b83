"""The pipeline on a cluster: a real Dask scheduler and real workers, each in a folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import psutil
import pytest
import yaml
from conftest import ROOT, command, dvc, edit_params, git
from test_pipeline_app import Stages, commands_of, start, variables, write_stages
from test_trials import cluster, until

from apps.scheduling import cluster as cluster_of_stages
from apps.scheduling import worker
from apps.scheduling.plan import Files
from apps.scheduling.worker import FOLDER, SCHEDULER
from stages.common import results
from stages.console import machine
from tools import reproduce

pytest.importorskip("distributed", reason="Dask comes with `make tuning`")
pytestmark = pytest.mark.slow


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[psutil.Process]]:
    """Two workers, in folders of their own, and a scheduler, which the environment names, before them."""
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    with cluster(folders) as (address, processes):
        monkeypatch.setenv(SCHEDULER, address)
        yield [psutil.Process(process.pid) for process in processes]


def toy(project: Path, stages: Stages) -> Path:
    """A project of small commands, on one thread; those whose names begin with train_ are for workers."""
    (project / ".dvc").mkdir(parents=True)
    git(project, "init", "--quiet")
    shutil.copy(ROOT / ".dvc/config", project / ".dvc/config")
    for file in ("params.yaml", "architectures.yaml"):
        shutil.copy(ROOT / file, project)
    edit_params(project, "threads", 1)
    (project / "source").write_text("source")
    write_stages(project, stages)
    return project


def pipeline(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(project, "apps.pipeline", *arguments, PYTHONPATH=str(ROOT))


def computing(tmp_path: Path, name: str = "sleep") -> list[psutil.Process]:
    """The commands of this name that workers run, each in a folder of its own."""
    folders = [folder for folder in tmp_path.glob(f"*/{FOLDER}/stage-*") if folder.is_dir()]
    return [found for folder in folders for found in commands_of(folder) if found.name() == name]


@pytest.mark.parametrize(
    "models",
    [["scratch/mlp_relu", "scratch/mlp_sigmoid", "sklearn/knn_3"], ["pytorch/linear", "tensorflow/cnn"]],
    ids=["small", "large"],
)
def test_workers_leave_what_this_machine_leaves(project, workers, tmp_path, models):
    edit_params(project, "seed", 5)
    serial = shutil.copytree(project, tmp_path / "serial", symlinks=True)
    stages = [f"train_{model.replace('/', '@')}" for model in models]
    dvc(serial, "repro", *stages)
    run = command(project, "apps.pipeline", *stages)
    assert run.returncode == 0, run.stdout + run.stderr
    assert reproduce.checksums(project / "dvc.lock") == reproduce.checksums(serial / "dvc.lock")
    ours, theirs = (yaml.safe_load((folder / "dvc.lock").read_text()) for folder in (project, serial))
    assert list(ours["stages"]) == list(theirs["stages"])
    sent = {path.name for path in tmp_path.glob(f"*/{FOLDER}/*") if path.suffix != ".lock"}
    assert len(sent) == 6, "four files of data and two of parameters, by checksum; no stage's folder is left"
    os.chdir(project)
    for model in models:
        assert results.load_timings(*model.split("/")).processor == machine.processor()
    assert "up to date" in dvc(project, "status", *stages)


LONG: Stages = {
    "first": ("true", []),
    "train_a": ("echo epoch 1/2; test -e source && sleep 4", ["first", "source"]),
    "train_b": ("sleep 1", ["first"]),
    "last": ("cat train_a train_b", ["train_a", "train_b"]),
}
TRIM = "MALLOC_TRIM_THRESHOLD_"
"""What Dask sets for its workers: with it training takes up to three times as long."""
ENDLESS = LONG | {"train_a": ("sleep 600", ["source"])}


def test_a_worker_that_is_killed_in_mid_stage_costs_only_time(workers, tmp_path):
    project = toy(tmp_path / "project", LONG)
    running = start(project)
    until(lambda: computing(tmp_path))
    (command_of_a, *_) = computing(tmp_path)
    (killed,) = [worker for worker in workers[1:] if worker.cwd() in command_of_a.cwd()]
    for process in (*killed.children(), killed):  # its nanny would make it anew
        if "dask" in " ".join(process.cmdline()) or "spawn_main" in " ".join(process.cmdline()):
            process.kill()
    output = running.communicate(timeout=60)[0]
    assert running.returncode == 0, output
    assert sorted(line.split()[1] for line in output.splitlines()) == sorted(LONG)
    assert (project / "train_a").read_text() == "train_a\n"


def test_a_worker_that_is_killed_and_begins_anew_removes_what_it_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project, folder = toy(tmp_path / "project", LONG), tmp_path / "worker"
    folder.mkdir()
    with cluster([folder]) as (address, (_, nanny)):
        monkeypatch.setenv(SCHEDULER, address)
        running = start(project)
        until(lambda: computing(tmp_path))
        (then,) = (folder / FOLDER).glob("stage-*/")
        for process in psutil.Process(nanny.pid).children():
            process.kill()
        output = running.communicate(timeout=60)[0]
    assert running.returncode == 0, output
    assert sorted(line.split()[1] for line in output.splitlines()) == sorted(LONG)
    assert not then.exists()
    assert not list((folder / FOLDER).glob("stage-*"))


def test_a_lost_scheduler_is_one_line_at_once_and_the_next_run_finishes(workers, tmp_path, monkeypatch):
    project = toy(tmp_path / "project", ENDLESS)
    running = start(project)
    until(lambda: computing(tmp_path))
    until((project / "train_b").exists)  # beside it: there are two workers
    workers[0].kill()
    lost = time.monotonic()
    output = running.communicate(timeout=60)[0]
    assert time.monotonic() - lost < 10
    assert running.returncode == 1
    (line,) = [line for line in output.splitlines() if not line.lstrip()[:1].isdigit()]
    assert line.startswith(f"error: {SCHEDULER}: the scheduler at tcp://127.0.0.1:") and "is gone" in line
    monkeypatch.delenv(SCHEDULER)
    write_stages(project, LONG)
    again = pipeline(project)
    assert again.returncode == 0, again.stderr
    assert sorted(line.split()[1] for line in again.stdout.splitlines()) == ["last", "train_a"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_what_workers_compute_ends_with_the_pipeline(workers, tmp_path, how):
    project = toy(tmp_path / "project", ENDLESS)
    running = start(project)
    until(lambda: computing(tmp_path))
    os.killpg(running.pid, how)
    output = running.communicate(timeout=30)[0]
    assert ("interrupted" in output) == (how == signal.SIGINT)
    assert "Traceback" not in output
    until(lambda: not computing(tmp_path), seconds=15)
    until(lambda: not commands_of(project), seconds=10)


def test_a_stage_that_fails_on_a_worker_is_told_with_its_last_lines(workers, tmp_path):
    stages = {
        "train_bad": ("for i in $(seq 20); do echo line $i; done; exit 7", []),
        "train_good": (f"test -z ${TRIM}", []),
    }
    run = pipeline(toy(tmp_path / "project", stages))
    assert run.returncode == 1
    assert "error: 1 of 2 stages failed: train_bad" in run.stderr
    assert "    line 20" in run.stderr and "    line 2\n" not in run.stderr
    assert "exited with 7" in run.stderr
    assert (tmp_path / "project/train_good").exists()


@pytest.mark.parametrize("edited", ["stages/train_scratch.py", "apps/scheduling/__init__.py"])
def test_a_worker_with_other_code_or_none_is_refused_in_one_line(tmp_path, monkeypatch, edited):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    for name in ("apps", "stages"):
        shutil.copytree(ROOT / name, other / name)
    with (other / edited).open("a") as file:
        file.write("# edited\n" if edited.startswith("stages") else "raise ImportError\n")
    project = toy(tmp_path / "project", LONG)
    with cluster([other]) as (address, _):
        monkeypatch.setenv(SCHEDULER, address)
        run = pipeline(project)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    says = (
        f"the worker in {other} has other versions: code ",
        f"{SCHEDULER}: a worker does not know this project",
    )
    assert line.startswith(f"error: {says[edited.startswith('apps')]}")


def test_no_worker_and_no_scheduler_are_one_line_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project = toy(tmp_path / "project", LONG)
    with cluster([]) as (address, _):
        monkeypatch.setenv(SCHEDULER, address)
        runs = [pipeline(project)]
    runs.append(pipeline(project))
    lines = [line for run in runs for line in run.stderr.splitlines()]
    assert [run.returncode for run in runs] == [1, 1]
    assert lines == [
        f"error: {SCHEDULER}: no worker at the scheduler {address} for 15 s",
        f"error: {SCHEDULER}: no scheduler answers at {address} (OSError)",
    ]


def test_the_commands_for_one_machine_in_the_documentation_do_what_they_say(tmp_path):
    project = toy(tmp_path / "project", LONG)
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    block = text.partition("## On this machine")[2].partition("```sh\n")[2].partition("```")[0]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    install, *servers, run = block.replace("8786", port).splitlines()
    assert install.split("#")[0].split() == ["make", "tuning"]
    options = {"cwd": project, "env": variables(), "stderr": subprocess.STDOUT}
    with ExitStack() as ending:
        for line in servers:
            server = subprocess.Popen(
                ["sh", "-c", f"exec {line}"], **options | {"stdout": subprocess.DEVNULL}
            )
            ending.callback(end, server)
        done = subprocess.run(["sh", "-c", run], stdout=subprocess.PIPE, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stdout
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == sorted(LONG)
    assert list((project / FOLDER).iterdir()), "the worker was sent something"


def test_an_input_that_has_changed_since_a_stage_began_is_not_sent(tmp_path, monkeypatch):
    """Else a worker would keep it as what it was, and compute from it again and again."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("then")
    then = cluster_of_stages._checksum("params.yaml")
    Path("params.yaml").write_text("edited")
    sent = []
    answers = {worker.missing: {"a worker": [then]}}
    service = SimpleNamespace(
        _sending=Lock(),
        _client=SimpleNamespace(run=lambda task, *what, workers: answers.get(task) or sent.append(what)),
    )
    with pytest.raises(cluster_of_stages._Refused, match=r"params\.yaml has changed"):
        cluster_of_stages._Service._send(service, worker.Missing("a worker", [then]), {"params.yaml": then})
    assert not sent


def test_results_of_code_that_was_edited_meanwhile_are_refused(tmp_path, monkeypatch):
    """Else DVC would record the new code beside the results of the old one."""
    monkeypatch.chdir(tmp_path)
    codes = iter(["old", "new"])
    monkeypatch.setattr(worker, "versions", lambda: {"code": next(codes)})
    future = SimpleNamespace(done=lambda: True, result=lambda: worker.Outcome(0, {}), cancel=lambda: None)
    service = SimpleNamespace(
        _needed={"train_it": Files((), ("it",))},
        _topic="",
        _lock=Lock(),
        _shells={},
        _client=SimpleNamespace(submit=lambda *_, **__: future),
    )
    with pytest.raises(cluster_of_stages._Refused, match="the code has changed since the stage began"):
        cluster_of_stages._Service._compute(service, "train_it", "true", None)


def test_a_worker_that_cannot_keep_inputs_is_one_line(workers, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / FOLDER.parent).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / FOLDER).touch()
    run = pipeline(toy(tmp_path / "project", LONG))
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"error: a worker cannot keep inputs in {tmp_path}/")


def end(server: subprocess.Popen) -> None:
    for each in (*psutil.Process(server.pid).children(recursive=True), server):
        each.kill()
    server.wait()
