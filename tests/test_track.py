"""Finished results get into every tracker without training, each thing once."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import command, read_csv
from test_tracking import of_kind, settle
from tracked import TRACKERS, Found, installed, read

from apps.tracking import finished, lines

pytestmark = pytest.mark.xdist_group("track")  # the trackers are fed once
NAME = "scratch/mlp_relu"


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished pipeline, for all tests of this file."""
    folder = tmp_path_factory.mktemp("track") / "project"
    shutil.copytree(finished, folder, symlinks=True, ignore=shutil.ignore_patterns("cache"))
    return folder


def track(project: Path, *arguments: str) -> str:
    run = command(project, "apps.track", *arguments)
    assert run.returncode == 0, run.stderr
    return run.stdout


def sent_to(tracker: str, project: Path) -> Found:
    if not installed(tracker):
        pytest.skip(f"{tracker} is not installed: `make tracking` installs it")
    track(project, tracker, NAME)
    runs = {line["run"] for line in of_kind("begin", project)}
    assert len(runs) == 1, "one run, whichever tracker was first"
    return read(tracker, project / "tracking", *runs)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_gets_all_that_is_in_outputs(project, tracker):
    found = sent_to(tracker, project)
    history = read_csv(project / "outputs/models" / NAME / "history.csv")
    assert found.metrics["train_loss"] == pytest.approx({1: float(history[0]["train_loss"])}, rel=1e-6)
    (summary,) = (row for row in read_csv(project / "outputs/tables/summary.csv") if row["model"] == NAME)
    for key in ("accuracy", "log_loss", "macro_f1", "macro_auc", "calibration_error", "brier_score"):
        assert float(found.summary[f"test_{key}"]) == pytest.approx(float(summary[key]), rel=1e-5), key
    drawn = {path.parts[-3] for path in (project / "outputs/plots").glob(f"*/{NAME}.png")}
    assert {"confusion", "roc", "predictions", "probabilities", "training"} <= drawn == found.pictures
    report = [row for row in read_csv(project / "outputs/tables/per_class.csv") if row["model"] == NAME]
    assert [row["class"] for row in found.tables["per_class"]] == [row["class"] for row in report]
    for shown, row in zip(found.tables["per_class"], report, strict=True):
        assert float(shown["recall"]) == pytest.approx(float(row["recall"]), rel=1e-5)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_what_is_there_is_not_sent_again(project, tracker):
    if not installed(tracker):
        pytest.skip(f"{tracker} is not installed: `make tracking` installs it")
    track(project, tracker, NAME)
    before = kept(project / "tracking")
    assert track(project, tracker, NAME) == f"{tracker}: 0 of 1 runs sent, the others were there already\n"
    assert kept(project / "tracking") == before


def kept(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def own(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, in which the test runs, without anything tracked."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(project, tmp_path, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "tracking", ignore_errors=True)
    return tmp_path


def test_scores_of_an_earlier_training_are_left_out(own):
    (run,) = finished.collect([NAME])
    assert "scores" in [line.get("name") for line in run.lines()]
    predictions, timings = (own / f"outputs/{folder}/{NAME}" for folder in ("predictions", "timings"))
    probabilities = np.load(f"{predictions}.npy")
    Path(f"{predictions}.npy").unlink()  # a link into DVC's cache
    np.save(f"{predictions}.npy", probabilities[::-1])
    content = json.loads(Path(f"{timings}.json").read_text())
    Path(f"{timings}.json").unlink()
    Path(f"{timings}.json").write_text(json.dumps(content | {"training_seconds": 12.5}))
    (later,) = finished.collect([NAME])
    assert later.id != run.id
    assert {line["event"] for line in later.lines()} == {
        "begin",
        "steps",
        "epoch",
        "summary",
        "artifact",
        "end",
    }
    assert "scores" not in [line.get("name") for line in later.lines()]


def test_a_trial_that_a_tracker_did_not_get_is_sent_later(own):
    if not installed("tensorboard"):
        pytest.skip("tensorboard is not installed: `make tracking` installs it")
    run = lines.Run("scratch/a_trial", "0123456789abcdef")
    run.append("begin", parameters={}, about={"group": "a study"}, trackers=["tensorboard"])
    run.append("epoch", values={"epoch": 1, "train_loss": 0.5})
    assert lines.promised("tensorboard") == [], "it still trains"
    run.append("end", state="finished")
    assert lines.promised("tensorboard") == [run] and lines.promised("mlflow") == []
    models = len(finished.names())
    assert f"tensorboard: {models + 1} of {models + 1} runs sent" in track(own, "tensorboard")
    assert read("tensorboard", own / "tracking", run.id).metrics == {"train_loss": {1: 0.5}}
    assert "tensorboard: 0 of" in track(own, "tensorboard")


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])  # writes a run anew; goes on with it
def test_a_new_picture_joins_the_run(project, tracker):
    before = sent_to(tracker, project)
    folder = project / "outputs/plots/another/scratch"
    folder.mkdir(parents=True)
    shutil.copy(project / f"outputs/plots/roc/{NAME}.png", folder)
    try:
        after = sent_to(tracker, project)
    finally:
        shutil.rmtree(folder.parent)
    assert after.pictures == before.pictures | {"another"}
    assert after.metrics == before.metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wandbb"], "error: wandbb is no tracker; there are tensorboard, dvclive, wandb, comet, mlflow\n"),
        (["wandb", "scratch/none"], "error: scratch/none is not trained; there are "),
    ],
)
def test_a_mistake_is_one_line(project, arguments, message):
    run = command(project, "apps.track", *arguments)
    assert run.returncode == 1
    assert run.stderr.startswith(message)
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("stage", ["evaluate", "visualize"])
def test_what_a_stage_finds_joins_the_run_of_the_training(project, tmp_path, stage):
    if not installed("tensorboard"):
        pytest.skip("tensorboard is not installed: `make tracking` installs it")
    copy = shutil.copytree(project, tmp_path / "project")
    shutil.rmtree(copy / "tracking", ignore_errors=True)  # of the other tests
    for module in (("stages.train_scratch", "mlp_relu"), (f"stages.{stage}",)):
        run = command(copy, *module, TRACKERS="tensorboard")
        assert run.returncode == 0, run.stderr
    settle(copy)
    (begun,) = of_kind("begin", copy)
    found = read("tensorboard", copy / "tracking", begun["run"])
    assert found.state == "finished"
    assert len(found.metrics["step_loss"]) == 18
    if stage == "evaluate":
        assert "test_accuracy" in found.summary and not found.pictures
    else:
        assert "confusion" in found.pictures
