"""The real `dvc repro` and what people do with it, in a temporary clone with tiny data."""

import json
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import command, dvc, edit_params, git, ran, write_params

FRAMEWORKS = ("pytorch", "tensorflow", "scratch", "sklearn")


def test_one_run_makes_every_result(finished):
    params = yaml.safe_load((finished / "params.yaml").read_text())
    names = sorted(f"{f}/{m}" for f in FRAMEWORKS for m in params[f])
    for kind, suffix in (("predictions", ".npy"), ("cards", ".json"), ("timings", ".json")):
        folder = finished / "outputs" / kind
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert sorted(p.relative_to(folder).as_posix().removesuffix(suffix) for p in files) == names
    assert len(list((finished / "outputs/models").rglob("*.*"))) == len(names)
    everyone = [*names, "ensemble/mean", "ensemble/vote"]
    for folder, suffix in (("metrics", "json"), ("plots/confusion", "png")):
        made = {path for path in (finished / "outputs" / folder).rglob("*.*")}
        assert made == {finished / "outputs" / folder / f"{name}.{suffix}" for name in everyone}
    assert (finished / "outputs/report/index.html").is_file()
    for path in (finished / "outputs/predictions").rglob("*.npy"):
        probabilities = np.load(path)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    summary = pd.read_csv(finished / "outputs/tables/summary.csv")
    assert sorted(summary.model) == sorted(everyone)
    assert not list(finished.rglob("*.partial*"))


def test_git_keeps_the_metrics_and_the_lock_and_nothing_large(finished):
    tracked = git(finished, "ls-files").splitlines()
    assert {name.split("/")[1] for name in tracked if name.startswith("outputs/")} == {"metrics"}
    assert "dvc.lock" in tracked
    assert not [name for name in tracked if name.startswith("data/")]
    assert max((finished / name).stat().st_size for name in tracked) < 2**20
    assert git(finished, "status", "--short") == ""


def test_no_result_holds_a_path_or_a_date(finished, idx_folder):
    year = time.strftime("%Y-")
    for path in (finished / "outputs").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(finished).encode() not in content, path
            assert str(idx_folder).encode() not in content, path
            if path.suffix in (".json", ".csv"):
                assert year not in path.read_text(), path


def test_nothing_to_do_takes_seconds_and_runs_nothing(project):
    dvc(project, "status")
    started = time.monotonic()
    assert ran(dvc(project, "repro")) == []
    assert time.monotonic() - started < 10  # some three seconds on a quiet machine
    assert "up to date" in dvc(project, "status")


def test_a_fresh_clone_without_data_has_nothing_to_do(finished, tmp_path):
    git(tmp_path, "clone", "--quiet", str(finished), "clone")
    output = dvc(tmp_path / "clone", "repro", "--dry", "--allow-missing")
    assert ran(output) == []


def test_changing_one_learning_rate_retrains_one_model_and_going_back_none(project):
    before = (project / "dvc.lock").read_text()
    edit_params(project, "scratch.mlp_relu.learning_rate", 0.0001)
    assert ran(dvc(project, "repro")) == ["train_scratch@mlp_relu", "evaluate", "visualize", "report"]
    diff = json.loads(dvc(project, "metrics", "diff", "--json"))
    assert set(diff) - {f"outputs/metrics/ensemble/{kind}.json" for kind in ("mean", "vote")} == {
        "outputs/metrics/scratch/mlp_relu.json"
    }
    assert "scratch.mlp_relu.learning_rate" in dvc(project, "params", "diff")
    assert (project / "dvc.lock").read_text() != before

    git(project, "checkout", "--quiet", "params.yaml")
    output = dvc(project, "repro")
    assert "epoch" not in output  # restored from the run cache
    assert (project / "dvc.lock").read_text() == before


def test_one_entry_adds_a_model(project):
    text = (project / "README.md").read_text(encoding="utf-8")
    entry = yaml.safe_load(text.split("## Add a model")[1].split("```yaml\n")[1].split("```")[0])
    params = yaml.safe_load((project / "params.yaml").read_text())
    entry["pytorch"]["my_network"].update(batch_size=20, epochs=1)
    for section, content in entry.items():
        params[section] |= content
    write_params(project, params)
    assert set(ran(dvc(project, "repro"))) == {
        "train_pytorch@my_network", "train_sklearn@naive_bayes", "evaluate", "visualize", "report",
    }  # fmt: skip
    models = set(pd.read_csv(project / "outputs/tables/confusion.csv").model)
    assert {"pytorch/my_network", "sklearn/naive_bayes"} <= models
    assert (project / "outputs/plots/confusion/pytorch/my_network.png").is_file()
    git(project, "checkout", "--quiet", "params.yaml")
    run = command(project, "dvc", "repro")
    assert run.returncode != 0
    (error,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "my_network.npy, outputs/predictions/sklearn/naive_bayes.npy: of no model in params" in error
    subprocess.run(error[error.index("rm -f ") :], shell=True, check=True, cwd=project)
    dvc(project, "repro")
    assert not [*project.glob("outputs/**/my_network*"), *project.glob("outputs/**/naive_bayes*")]


def test_metrics_plots_and_the_graph_can_be_shown(project, tmp_path):
    params = yaml.safe_load((project / "params.yaml").read_text())
    table = dvc(project, "metrics", "show")
    for framework in FRAMEWORKS:
        for model in params[framework]:
            assert f"outputs/metrics/{framework}/{model}.json" in table
    assert "train_pytorch@linear" in dvc(project, "dag")
    dvc(project, "plots", "show", "--out", str(tmp_path / "page"))
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    for plot in yaml.safe_load((project / "dvc.yaml").read_text())["plots"]:
        if isinstance(plot, dict):
            assert next(iter(plot.values()))["title"] in page
    assert "tensorflow/cnn" in page


@pytest.mark.slow
def test_plots_compare_two_revisions(project, tmp_path):
    edit_params(project, "scratch.mlp_relu.epochs", 2)
    dvc(project, "repro")
    dvc(project, "plots", "diff", "--out", str(tmp_path / "page"))
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert '"rev": "workspace"' in page
    assert '"rev": "HEAD"' in page


def test_an_experiment_changes_a_parameter_and_is_listed(project):
    change = ("-S", "scratch.mlp_relu.learning_rate=0.003")
    output = dvc(project, "exp", "run", *change, "--name", "faster", "evaluate")
    assert ran(output) == ["train_scratch@mlp_relu", "evaluate"]
    table = dvc(project, "exp", "show", "--csv", "--only-changed")
    assert "faster" in table
    assert "0.003" in table


@pytest.mark.parametrize(
    ("key", "value", "stage", "complaint"),
    [
        ("scratch.mlp_relu.epoch", 3, "train_scratch@mlp_relu", "scratch.mlp_relu.epoch is unknown; allowed"),
        ("data.dataset", "mnits", "download_mnist", "data.dataset is 'mnits', which is no folder"),
    ],
)
def test_a_mistake_in_params_ends_the_stage_and_loses_nothing(project, key, value, stage, complaint):
    results = {path: path.read_bytes() for path in (project / "outputs").rglob("*.*")}
    edit_params(project, key, value)
    run = command(project, "dvc", "repro", "--single-item", stage)
    assert run.returncode != 0
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert complaint in line
    git(project, "checkout", "--quiet", "params.yaml")
    dvc(project, "checkout")
    assert {path: path.read_bytes() for path in (project / "outputs").rglob("*.*")} == results
    assert ran(dvc(project, "repro")) == []
    assert git(project, "status", "--short") == ""


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("scratch.mlp_relu.learning_rate", -1, "scratch.mlp_relu.learning_rate is -1"),
        ("architectures.mlp_relu", ["rleu", {"dense": 10}], "architectures.mlp_relu.0"),
        ("threads", 0, "threads is 0"),
    ],
)
def test_a_mistake_in_params_is_one_line_of_the_stage(project, key, value, complaint):
    edit_params(project, key, value)
    run = command(project, "stages.train_scratch", "mlp_relu")
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: params.yaml: ")
    assert complaint in line
