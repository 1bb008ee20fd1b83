"""What must survive: kills, full disks, altered files, two runs at once, a model that diverges."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from conftest import FEW, PATH, ROOT, command, dvc, edit_params, git, load_params, ran

from tools import reproduce

slow = partial(pytest.param, marks=pytest.mark.slow)
MODELS = FEW | {"scratch": ["mlp_relu"]}
STAGES = [
    (pytest.param if stage == "train_scratch" else slow)(
        f"{stage}@{MODELS[stage.removeprefix('train_')][0]}" if stage.startswith("train_") else stage
    )
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
]


def full(size: int) -> partial[None]:
    """Lets a process write no file of so many bytes."""
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size - 1, size - 1))


def lock(project: Path) -> dict[str, str]:
    """The checksum of every output in dvc.lock, but for those that hold seconds."""
    return reproduce.checksums(project / "dvc.lock")


def in_cache(project: Path, checksum: str) -> Path:
    return project / ".dvc/cache/files/md5" / checksum[:2] / checksum[2:]


def start(project: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project,
        env={**os.environ, "PATH": PATH, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell lets what it starts in the background ignore Ctrl-C: the tests, and what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def runs_a_stage(process: psutil.Process) -> bool:
    """Whether a stage is among the processes that this one started."""
    for child in process.children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if any(word.startswith("stages.") for word in child.cmdline()):
                return True
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl_c"])
@pytest.mark.parametrize("stage", STAGES)
def test_after_a_kill_the_next_run_finishes_with_the_same_results(project, stage, how):
    before = lock(project)
    locked = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))["stages"][stage]
    for _ in range(5):  # on a busy machine the stage may end first
        for output in locked["outs"]:  # or DVC would take the results of the undisturbed run from its cache
            in_cache(project, output["md5"]).unlink(missing_ok=True)
        process = start(project, "repro", "--force", "--single-item", stage)
        started = psutil.Process(process.pid)
        while not runs_a_stage(started):
            time.sleep(0.01)
        time.sleep(0.1)  # importing, or training: the fastest stage takes half a second
        os.killpg(process.pid, how)
        process.communicate(timeout=60)
        if process.returncode != 0:
            break
    assert process.returncode != 0
    assert stage in ran(dvc(project, "repro"))
    assert lock(project) == before
    assert not list(project.rglob("*.partial*"))
    assert ran(dvc(project, "repro")) == []


@pytest.mark.parametrize("shell", ["bash", "dash"])  # gives way to the command; stays as its parent
def test_a_stage_ends_with_the_dvc_that_started_it(project, shell, monkeypatch):
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    monkeypatch.setenv("SHELL", shutil.which(shell))
    edit_params(project, "scratch.mlp_relu.epochs", 100_000)
    process = start(project, "repro", "--single-item", "train_scratch@mlp_relu")
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    process.kill()
    process.communicate(timeout=30)  # the stage holds the other end of its standard output, until it ends
    edit_params(project, "scratch.mlp_relu.epochs", 1)
    assert command(project, "stages.train_scratch", "mlp_relu").returncode == 0  # DVC would take its cache
    assert not list((project / "outputs").rglob("*.partial*")), "the next run clears what was half written"
    dvc(project, "repro")
    assert "up to date" in dvc(project, "status")


def test_a_full_disk_is_one_line_and_leaves_the_earlier_results(project):
    weights = project / "outputs/models/scratch/mlp_relu/weights.safetensors"
    size, before = weights.stat().st_size, lock(project)
    results = {path: path.read_bytes() for path in (project / "outputs").rglob("*.*")}
    edit_params(project, "seed", 5)
    stage = "repro", "--single-item", "train_scratch@mlp_relu"
    process = command(project, "dvc", *stage, before=full(size))
    assert process.returncode != 0
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert "File too large" in line
    assert not list(project.rglob("*.partial*"))
    dvc(project, "checkout")  # DVC removes a stage's results before it runs
    assert {path: path.read_bytes() for path in (project / "outputs").rglob("*.*")} == results
    assert lock(project) == before
    edit_params(project, "seed", load_params()["seed"])
    assert ran(dvc(project, "repro")) == []


@pytest.mark.parametrize(
    ("stage", "model", "largest"),
    [
        slow("train_pytorch", "linear", "models/pytorch/linear/weights.safetensors"),
        slow("train_tensorflow", "cnn", "models/tensorflow/cnn/weights.safetensors"),
        ("train_scratch", "mlp_relu", "models/scratch/mlp_relu/weights.safetensors"),
        slow("train_sklearn", "knn_3", "models/sklearn/knn_3/classifier.skops"),
        ("embed_images", None, "embedding.csv"),
    ],
)
def test_a_stage_says_which_file_the_disk_has_no_room_for(project, stage, model, largest):
    path = project / "outputs" / largest
    before, size = path.read_bytes(), path.stat().st_size
    run = command(project, f"stages.{stage}", *filter(None, [model]), before=full(size))
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("error: outputs/")
    assert "File too large" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert path.read_bytes() == before
    assert not list(project.rglob("*.partial*"))


def test_a_terminated_stage_leaves_the_earlier_results_and_the_next_run_clears_the_rest(project):
    before = (project / "outputs/plots/overall/accuracy.png").read_bytes()
    run = subprocess.Popen(
        [sys.executable, "-m", "stages.visualize"], cwd=project, stderr=subprocess.PIPE, text=True
    )
    while not list((project / "outputs").glob("plots.partial/*/*.png")):
        assert run.poll() is None
        time.sleep(0.01)
    run.terminate()
    assert run.wait(1) == -signal.SIGTERM
    run.communicate(timeout=30)  # the processes that draw hold its standard error, until they end
    assert (project / "outputs/plots/overall/accuracy.png").read_bytes() == before
    assert command(project, "stages.visualize").returncode == 0
    assert not list(project.rglob("*.partial*"))


def alter(path: Path) -> bytes:
    """Change the last bit of a file; what it held."""
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    return good


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("data/test_labels.npy", "download_mnist"),
        ("outputs/predictions/scratch/mlp_relu.npy", "train_scratch@mlp_relu"),
        slow("outputs/tables/summary.csv", "evaluate"),
        slow("outputs/metrics/scratch/mlp_relu.json", "evaluate"),
        slow("outputs/plots/overall/accuracy.png", "visualize"),
        slow("outputs/plots_page.html", "plots_page"),
    ],
)
def test_a_result_altered_by_hand_is_noticed_and_made_anew(project, path, stage):
    before, good = lock(project), alter(project / path)
    assert stage in dvc(project, "status")
    dvc(project, "repro")
    assert (project / path).read_bytes() == good
    assert lock(project) == before


def test_a_file_altered_in_the_cache_is_never_used(project):
    before = lock(project)
    path = "outputs/predictions/scratch/mlp_relu.npy"
    good = alter(in_cache(project, before[path]))
    (project / path).unlink()
    dvc(project, "repro")
    assert (project / path).read_bytes() == good
    assert lock(project) == before


@pytest.mark.slow
def test_two_runs_at_once_corrupt_nothing(project):
    before = lock(project)
    edit_params(project, "scratch.mlp_relu.epochs", 40)
    edit_params(project, "scratch.mlp_sigmoid.epochs", 40)
    processes = [start(project, "repro") for _ in range(2)]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    for output, process in zip(outputs, processes, strict=True):
        assert process.returncode == 0 or "lock" in output or "busy" in output, output
    dvc(project, "repro")
    assert ran(dvc(project, "repro")) == []
    changed = {path for path, md5 in lock(project).items() if before[path] != md5}
    assert {"outputs/models/scratch/mlp_relu", "outputs/models/scratch/mlp_sigmoid"} <= changed
    git(project, "checkout", "--quiet", "params.yaml")
    dvc(project, "repro")
    assert lock(project) == before


def test_a_diverging_model_fails_and_the_others_still_run(project):
    metrics = (project / "outputs/metrics/scratch/mlp_relu.json").read_bytes()
    edit_params(project, "scratch.mlp_sigmoid.learning_rate", 1e9)
    edit_params(project, "scratch.mlp_relu.learning_rate", 0.02)
    run = command(project, "dvc", "repro", "--keep-going")
    assert run.returncode != 0
    assert "error: scratch.mlp_sigmoid: the loss became" in run.stderr
    assert "in epoch 1" in run.stderr
    assert "train_scratch@mlp_relu" in ran(run.stdout)
    assert not (project / "outputs/predictions/scratch/mlp_sigmoid.npy").exists()
    assert "evaluate" not in ran(run.stdout), "one model's old predictions beside the others' new ones"
    assert (project / "outputs/metrics/scratch/mlp_relu.json").read_bytes() == metrics


def test_a_prediction_file_that_holds_a_pickle_is_refused_unread(project):
    class Hostile:
        def __reduce__(self):
            return (project / "executed").mkdir, ()

    path = project / "outputs/predictions/scratch/mlp_relu.npy"
    path.chmod(0o644)
    np.save(path, np.array([Hostile()], dtype=object), allow_pickle=True)
    run = command(project, "stages.evaluate")
    assert run.returncode == 1
    assert "outputs/predictions/scratch/mlp_relu.npy is no .npy file of numbers" in run.stderr
    assert not (project / "executed").exists()
