"""Finished results get into every tracker without training, each thing once."""

import shutil
from pathlib import Path

import pytest
from conftest import command, read_csv
from test_tracking import of_kind, settle
from tracked import TRACKERS, Found, installed, read

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
