"""Trackers follow a training, each of them real and offline, and cannot change it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
import pytest
from conftest import (
    FEW_NAMES,
    ROOT,
    command,
    git,
    read_csv,
    tiny_arrays,
    tiny_params,
    write_data,
    write_params,
)
from tracked import TRACKERS, Found, installed, read

from apps.tracking import lines, training
from stages.console import tracking
from tools import reproduce

pytestmark = pytest.mark.xdist_group("tracking")  # the finished training is made once
NAME = "scratch/mlp_relu"


def prepare(folder: Path, epochs: int = 2) -> Path:
    """A project in which one network trains on the tiny data set for a fraction of a second."""
    folder.mkdir(exist_ok=True)
    content = tiny_params(folder)
    for settings in content["scratch"].values():
        settings["epochs"] = epochs
    write_params(folder, content)
    shutil.copy2(ROOT / "architectures.yaml", folder)
    write_data(folder, tiny_arrays())
    (folder / "home").mkdir()
    return folder


def environment(project: Path, trackers: str, **more: str) -> dict[str, str]:
    left_out = ("WANDB_", "COMET_", "MLFLOW_", "DVC_", "XDG_", "TRACKERS")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    own = {"HOME": str(project / "home"), "TRACKERS": trackers, "PYTHONPATH": str(ROOT)}
    return {**kept, **own, **more}


def begin(project: Path, trackers: str, *module: str, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", *(module or ("stages.train_scratch", "mlp_relu"))],
        cwd=project,
        env=environment(project, trackers, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(project: Path, trackers: str, **more: str) -> list[str]:
    """Train, which must succeed, wait for the trackers, and return the lines about them."""
    process = begin(project, trackers, **more)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    settle(project)
    return [line for line in errors.splitlines() if line.startswith("tracking: ")]


def companions(project: Path) -> list[psutil.Process]:
    """The processes that feed trackers of this project."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if any(word.startswith("apps.tracking") for word in words) and process.info["cwd"] == str(project):
            found.append(process)
    return found


def settle(project: Path, seconds: float = 240) -> None:
    """Wait until the trackers have all they get, at a priority that does not wait for other tests."""
    end = time.monotonic() + seconds
    while found := companions(project):
        assert time.monotonic() < end, [process.cmdline() for process in found]
        for process in found:
            with suppress(OSError, psutil.Error):  # it has just ended, or that is not permitted
                process.nice(0)
                Path(f"/proc/{process.pid}/autogroup").write_text("0")
        time.sleep(0.2)


def told(project: Path, name: str = NAME) -> list[dict]:
    path = project / "tracking/runs" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def of_kind(event: str, project: Path) -> list[dict]:
    return [line for line in told(project) if line["event"] == event]


def results_in(project: Path) -> dict[str, bytes]:
    """All that the training left, but for its timings."""
    paths = (path for path in (project / "outputs").rglob("*.*") if path.is_file())
    return {
        str(path.relative_to(project)): path.read_bytes() for path in paths if "timings" not in path.parts
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after a training without trackers."""
    project = prepare(tmp_path_factory.mktemp("plain"))
    assert train(project, "") == []
    return project


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after a training that all installed trackers followed."""
    project = prepare(tmp_path_factory.mktemp("tracked"))
    train(project, ",".join(filter(installed, TRACKERS)) or "nothing")
    return project


def test_without_trackers_nothing_is_started_or_written(plain):
    assert not (plain / "tracking").exists()
    watching = (
        "import runpy, sys\nstarted = []\n"
        "sys.addaudithook(lambda event, _: started.append(event) if event == 'subprocess.Popen' else None)\n"
        "sys.argv[1:] = ['mlp_relu']\nrunpy.run_module('stages.train_scratch', run_name='__main__')\n"
        "assert not started, started\n"
        "assert not sys.modules.keys() & {'wandb', 'comet_ml', 'mlflow', 'dvclive', 'tensorboard', 'apps'}\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", watching], cwd=plain, env=environment(plain, ""), capture_output=True
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_has_every_loss_and_epoch_and_the_recipe(tracked, tracker):
    found = found_in(tracked, tracker)
    model = tracked / "outputs/models" / NAME
    losses = {int(row["step"]): float(row["loss"]) for row in read_csv(model / "losses.csv")}
    assert found.metrics["step_loss"] == pytest.approx(losses, rel=1e-6)
    epochs = read_csv(model / "history.csv")
    for key in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate"):
        expected = {int(row["epoch"]): float(row[key]) for row in epochs}
        assert found.metrics[key] == pytest.approx(expected, rel=1e-6), key
    recipe = json.loads((model / "model.json").read_text())["recipe"]
    assert float(found.parameters["recipe.learning_rate"]) == recipe["learning_rate"]
    assert found.parameters["recipe.optimizer"] == recipe["optimizer"]
    assert found.state == "finished"


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_knows_the_machine_and_the_versions(tracked, tracker):
    found = found_in(tracked, tracker)
    timings = json.loads((tracked / f"outputs/timings/{NAME}.json").read_text())
    assert float(found.summary["training_seconds"]) == pytest.approx(timings["training_seconds"])
    assert found.summary["packages.numpy"] == timings["packages"]["numpy"]
    assert found.about["processor"] == timings["processor"]


@pytest.mark.parametrize("tracker", ["wandb", "comet", "mlflow"])
def test_a_tracker_keeps_the_model(tracked, tracker):
    found = found_in(tracked, tracker)
    assert found.artifacts["model"] == {path.name for path in (tracked / "outputs/models" / NAME).iterdir()}


@cache
def found_in(project: Path, tracker: str) -> Found:
    """What a tracker has of the project's only run."""
    if not installed(tracker):
        pytest.skip(f"{tracker} is not installed: `make tracking` installs it")
    (begun,) = of_kind("begin", project)
    return read(tracker, project / "tracking", begun["run"])


def test_results_are_the_same_bytes_with_trackers_and_without(plain, tracked):
    assert results_in(tracked) == results_in(plain) != {}


def test_nothing_is_left_in_the_home_directory(tracked):
    assert list((tracked / "home").rglob("*")) == []


def test_without_git_a_run_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    about = training.about()
    assert about["git_commit"] is None and about["processor"]


SEARCH = f"apps.tune {NAME} --trials 2 --jobs 1"


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize(
    ("trainer", "group"), [("apps.studies.run seeds", "seeds"), (SEARCH, "tuning-scratch-mlp_relu")]
)
def test_each_trial_is_a_run_in_the_group_of_its_study(tmp_path, tracker, trainer, group):
    if not installed(tracker):
        pytest.skip(f"{tracker} comes with `make tracking`")
    if trainer == SEARCH:
        pytest.importorskip("optuna", reason="Optuna comes with `make tuning`")
    project = prepare(tmp_path / "project", epochs=1)
    study = {"question": "?", "limits": ".", "models": [NAME], "vary": "seed", "values": [0, 1]}
    space = {"networks": {"learning_rate": {"low": 0.0001, "high": 0.01}}}
    for path, content in (("studies/params.yaml", {"studies": {"seeds": study}}), ("tuning.yaml", space)):
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).write_text(json.dumps(content))
    process = begin(project, tracker, *trainer.split())
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    settle(project)
    begun = of_kind("begin", project)
    assert len(begun) == 2
    assert {read(tracker, project / "tracking", line["run"]).about["group"] for line in begun} == {group}


def test_a_killed_training_is_a_failed_run_with_all_its_epochs(tmp_path):
    epochs = following_a_killed_training(tmp_path, "tensorboard" if installed("tensorboard") else "nothing")
    assert [line["state"] for line in of_kind("end", tmp_path)] == ["failed"]
    if installed("tensorboard"):
        found = found_in(tmp_path, "tensorboard")
        assert found.metrics["train_loss"] == pytest.approx(epochs, rel=1e-6)
        assert found.state == "failed"


def following_a_killed_training(project: Path, trackers: str) -> dict[int, float]:
    """Kill a training while trackers follow it; the losses of the epochs that it had told of."""
    process = begin(prepare(project, epochs=100_000), trackers)
    for line in process.stdout:
        if line.startswith("epoch 5/"):
            break
    process.kill()
    process.communicate(timeout=60)
    settle(project)
    return {line["values"]["epoch"]: line["values"]["train_loss"] for line in of_kind("epoch", project)}


def test_a_killed_companion_costs_the_training_a_line(plain, tmp_path):
    process = begin(prepare(tmp_path, epochs=40), "nothing")
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    for companion in companions(tmp_path):
        companion.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "tracking: the trackers miss data: the process that feeds them has ended" in errors


FAULTS = {
    "missing": ("raise ModuleNotFoundError(\"No module named 'wandb'\")", "`make tracking` installs it"),
    "raises": ("raise RuntimeError('the server says\\nno')", "wandb: RuntimeError: the server says no"),
    "exits": ("import sys; sys.exit(3)", "wandb: SystemExit: 3"),
    "hangs": ("import time; time.sleep(600)", IN_BACKGROUND := "wandb will finish in the background"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tracker_that_fails_costs_a_line_and_little_time(plain, tmp_path, fault):
    code, message = FAULTS[fault]
    project = prepare(tmp_path)
    (project / "fakes").mkdir()
    (project / "fakes/wandb.py").write_text(code)
    started = time.monotonic()
    process = begin(project, "wandb", PYTHONPATH=f"{ROOT}{os.pathsep}{project / 'fakes'}")
    _, errors = process.communicate(timeout=60)
    seconds = time.monotonic() - started
    if fault == "hangs":
        for companion in companions(project):
            companion.kill()
    settle(project)
    assert process.returncode == 0
    (line,) = errors.splitlines()
    assert message in line or IN_BACKGROUND in line, "on a busy machine it may be found out later"
    assert message in (project / "tracking/log.txt").read_text()
    assert seconds < 10, "of which the training takes one, and more on a busy machine"
    assert results_in(project) == results_in(plain)


def test_a_companion_that_says_nothing_costs_less_than_five_seconds(tmp_path, monkeypatch, capsys):
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(silent))
    companion = tracking.Companion("follow", "wandb", "scratch/mlp_relu")
    companion.send("begin", parameters={})
    started = time.monotonic()
    companion.take_leave()
    assert 1 < time.monotonic() - started < 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "tracking: the trackers may miss data: the process that feeds them does not answer"
    companion._process.kill()


def test_an_unknown_tracker_costs_a_line(plain, tmp_path):
    (line,) = train(prepare(tmp_path), "wandbb")
    assert line == f"tracking: wandbb is no tracker; there are {', '.join(TRACKERS)}"
    assert results_in(tmp_path) == results_in(plain)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_a_line(plain, tmp_path):
    runs = prepare(tmp_path) / "tracking/runs/scratch"
    runs.mkdir(parents=True)
    (runs / "mlp_relu.jsonl").symlink_to("/dev/full")
    (line,) = train(tmp_path, "tensorboard")
    assert "No space left on device: the trackers miss data" in line
    assert results_in(tmp_path) == results_in(plain)


def test_a_torn_line_neither_hides_those_before_nor_those_after_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = lines.Run("a/b", "1")
    run.append("begin")
    with run.path.open("ab") as file:
        file.write(b'{"event": "ste')
    run.append("end")
    assert [line["event"] for line in run.lines()] == ["begin", "end"]


def trackers() -> str:
    """All five; the test is skipped if one is not installed."""
    if missing := [tracker for tracker in TRACKERS if not installed(tracker)]:
        pytest.skip(f"{', '.join(missing)} not installed: `make tracking` installs them")
    return ",".join(TRACKERS)


@pytest.mark.slow
def test_every_tracker_has_all_epochs_of_a_killed_training(tmp_path):
    epochs = following_a_killed_training(tmp_path, trackers())
    for tracker in TRACKERS:
        found = found_in(tmp_path, tracker)
        assert found.metrics["train_loss"] == pytest.approx(epochs, rel=1e-6), tracker
        assert found.state == "failed", tracker


@pytest.mark.slow
def test_two_trainings_may_create_the_database_of_mlflow_at_once(tmp_path):
    trackers()
    models = ["mlp_relu", "mlp_sigmoid"]
    prepare(tmp_path)
    both = [begin(tmp_path, "mlflow", "stages.train_scratch", model) for model in models]
    for process in both:
        process.communicate(timeout=60)
    settle(tmp_path)
    for model in models:
        (begun,) = (line for line in told(tmp_path, f"scratch/{model}") if line["event"] == "begin")
        assert len(read("mlflow", tmp_path / "tracking", begun["run"]).metrics["step_loss"]) == 36


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "model"),
    [("pytorch", "cnn_dropout"), ("tensorflow", "cnn_dropout"), ("sklearn", "random_forest")],
)
def test_no_framework_is_changed_by_any_tracker(tmp_path, framework, model):
    found = []
    for name in ("", trackers()):
        project = prepare(tmp_path / ((name and "tracked") or "plain"))
        process = begin(project, name, f"stages.train_{framework}", model)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        settle(project)
        found.append(results_in(project))
    assert found[0] == found[1] != {}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_without_a_network_every_tracker_has_all(tmp_path):
    if subprocess.run(["unshare", "-rn", "true"]).returncode:
        pytest.skip("unshare -n is not permitted here")
    run = subprocess.run(
        ["unshare", "-rn", sys.executable, "-m", "stages.train_scratch", "mlp_relu"],
        cwd=prepare(tmp_path),
        env=environment(tmp_path, trackers()),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    settle(tmp_path)
    for tracker in TRACKERS:
        assert len(found_in(tmp_path, tracker).metrics["step_loss"]) == 36, tracker


@pytest.mark.slow
@pytest.mark.parametrize("answers", [False, True], ids=["refuses", "hangs"])
def test_a_server_that_cannot_be_reached_costs_a_line_each(plain, tmp_path, answers):
    """A port of this machine at which nobody listens, or somebody who never says anything."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if answers:
            silent.listen(100)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        process = begin(
            prepare(tmp_path),
            trackers(),
            HTTPS_PROXY=address,
            HTTP_PROXY=address,
            NO_PROXY="",
            WANDB_MODE="online",
            WANDB_API_KEY="0" * 40,
            COMET_API_KEY="0" * 25,
            TRACKERS_ONLINE="1",
            MLFLOW_TRACKING_URI=address,
        )
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - started < 12, "of which the training takes one, and more on a busy machine"
        assert process.returncode == 0, errors
        settle(tmp_path, 240)
    assert results_in(tmp_path) == results_in(plain)
    log = (tmp_path / "tracking/log.txt").read_text()
    for tracker in ("wandb", "comet", "mlflow"):
        assert log.count(f"tracking: {tracker}: ") == 1, log
    assert len(found_in(tmp_path, "tensorboard").metrics["step_loss"]) == 36, "the others have all"


@pytest.mark.slow
def test_a_queued_experiment_is_tracked_in_the_project_itself(project):
    if not installed("tensorboard"):
        pytest.skip("tensorboard is not installed: `make tracking` installs it")
    run = command(
        project,
        *("dvc", "exp", "run", "--temp", "--name", "faster", "-S", "scratch.mlp_relu.learning_rate=0.02"),
        "train_scratch@mlp_relu",
        TRACKERS="tensorboard",
    )
    assert run.returncode == 0, run.stdout + run.stderr
    settle(project)
    (begun,) = of_kind("begin", project)
    assert begun["about"]["experiment"] == "faster"
    found = read("tensorboard", project / "tracking", begun["run"])
    assert found.state == "finished"
    assert found.parameters["recipe.learning_rate"] == 0.02
    assert not git(project, "status", "--porcelain")


@pytest.mark.slow
def test_a_whole_pipeline_is_in_every_tracker_and_has_the_same_results(project):
    before = reproduce.checksums(project / "dvc.lock")
    run = command(project, "dvc", "repro", "--force", TRACKERS=trackers())
    assert run.returncode == 0, run.stdout + run.stderr
    settle(project, 600)
    assert reproduce.checksums(project / "dvc.lock") == before
    assert not git(project, "status", "--porcelain", "--", "dvc.yaml", "apps", "stages")
    for name in FEW_NAMES:
        drawn = {path.parts[-3] for path in (project / "outputs/plots").glob(f"*/{name}.png")}
        of_model = told(project, name)
        assert {line["name"] for line in of_model if line["event"] == "picture"} == drawn != set(), name
        fed = {line["tracker"]: line["count"] for line in of_model if line["event"] == "fed"}
        whole = sum(line["event"] != "fed" for line in of_model)
        assert fed == dict.fromkeys(TRACKERS, whole), name
    for tracker in TRACKERS:  # to read one back takes seconds
        found = found_in(project, tracker)
        assert found.state == "finished", tracker
        assert "test_accuracy" in found.summary, tracker
        assert "confusion" in found.pictures, tracker


EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tracking.md").read_text(encoding="utf-8"), re.S)


@pytest.mark.slow
@pytest.mark.parametrize(("code", "name"), list(zip(EXAMPLES, ("mine/keras", "mine/pytorch"), strict=True)))
def test_an_example_of_the_page_is_tracked(tmp_path, code, name):
    (prepare(tmp_path) / "example.py").write_text(code)
    run = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env=environment(tmp_path, "tensorboard"),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    settle(tmp_path)
    lines_told = told(tmp_path, name)
    epochs = [line["values"] for line in lines_told if line["event"] == "epoch"]
    assert [values["epoch"] for values in epochs] == [1, 2, 3]
    figures = [next(value for key, value in values.items() if key.endswith("loss")) for values in epochs]
    assert figures == sorted(figures, reverse=True), "it learns"
    assert lines_told[-1 - installed("tensorboard")]["state"] == "finished"
