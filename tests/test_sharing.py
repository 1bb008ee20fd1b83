"""Results travel between clones, and experiments run apart from the workspace."""

import csv
import json
import shutil
import subprocess

import pytest
import yaml
from conftest import ROOT, commit, dvc, edit_params, git, ran, read_csv, write_params
from dvc.utils.hydra import apply_overrides

from stages.common import params
from tools import reproduce


@pytest.fixture
def second(project, tmp_path):
    """Another clone of the project, after a push to a folder that both know as the remote."""
    dvc(project, "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    commit(project, "Name a remote")
    dvc(project, "push")
    git(tmp_path, "clone", "--quiet", str(project), "second")
    return tmp_path / "second"


def test_a_second_clone_pulls_everything_and_runs_nothing(project, second):
    dvc(second, "pull")
    assert "up to date" in dvc(second, "status")
    assert ran(dvc(second, "repro")) == []
    for path in (project / "outputs").rglob("*"):
        if path.is_file():
            assert (second / path.relative_to(project)).read_bytes() == path.read_bytes()
    assert git(second, "status", "--short") == ""


@pytest.mark.slow
def test_an_experiment_in_a_folder_of_its_own_leaves_the_workspace_alone(project):
    before = (project / "params.yaml").read_text()
    dvc(project, "exp", "run", "--temp", "-S", "scratch.mlp_relu.learning_rate=0.0001", "--name", "slow")
    assert (project / "params.yaml").read_text() == before
    assert git(project, "status", "--short") == ""
    changes = json.loads(dvc(project, "exp", "diff", "HEAD", "slow", "--json"))
    assert changes["params"]["params.yaml"]["scratch.mlp_relu.learning_rate"]["new"] == 0.0001
    assert "outputs/metrics/scratch/mlp_relu.json" in changes["metrics"]
    dvc(project, "exp", "apply", "slow")
    applied = yaml.safe_load((project / "params.yaml").read_text())
    assert applied["scratch"]["mlp_relu"]["learning_rate"] == 0.0001
    assert ran(dvc(project, "repro")) == []


@pytest.mark.slow
def test_queued_experiments_run_with_two_workers(project):
    dvc(project, "exp", "run", "--queue", "-S", "scratch.mlp_relu.learning_rate=0.0001,0.0005")
    dvc(project, "exp", "run", "--run-all", "--jobs", "2")
    table = dvc(project, "exp", "show", "--csv", "--only-changed")
    assert "0.0001" in table
    assert "0.0005" in table
    column = "outputs/metrics/scratch/mlp_relu.json:validation_accuracy"
    shown = dvc(project, "exp", "show", "--csv", "--sort-by", column, "--sort-order", "desc")
    rows = [row for row in csv.DictReader(shown.splitlines()) if row["Experiment"]]
    accuracies = [float(row[column]) for row in rows]
    assert len(rows) == 2 and accuracies == sorted(accuracies, reverse=True)
    assert "Failed" not in dvc(project, "queue", "status")
    assert git(project, "status", "--short") == ""


@pytest.mark.slow
def test_two_commits_compare(project, tmp_path):
    edit_params(project, "scratch.mlp_relu.learning_rate", 0.0001)
    dvc(project, "repro")
    commit(project, "Learn slowly")
    diff = json.loads(dvc(project, "metrics", "diff", "HEAD~1", "HEAD", "--json"))
    assert "outputs/metrics/scratch/mlp_relu.json" in diff
    assert not [
        path
        for path in diff
        if not path.startswith(("outputs/metrics/scratch/mlp_relu", "outputs/metrics/ensemble"))
    ]
    dvc(project, "plots", "diff", "HEAD~1", "HEAD", "--out", str(tmp_path / "page"))
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert '"rev": "HEAD~1"' in page
    assert '"rev": "HEAD"' in page


def test_a_clone_that_asks_for_windows_line_endings_has_the_same_files(tmp_path):
    git(tmp_path, "clone", "--quiet", "--config", "core.autocrlf=true", str(ROOT), "clone")
    endings = {line.split()[1] for line in git(tmp_path / "clone", "ls-files", "--eol").splitlines()}
    assert endings <= {"w/lf", "w/none", "w/-text"}


def add_models(project, *names):
    """Append these entries to the last section of params.yaml; the models are the same but for the name."""
    content = yaml.safe_load((project / "params.yaml").read_text())
    entry = {"library": "sklearn", "estimator": "sklearn.naive_bayes.GaussianNB", "pixel_range": [0, 1]}
    content["sklearn"] |= {name: entry | {"arguments": {"var_smoothing": 0.1}} for name in names}
    write_params(project, content)


@pytest.mark.slow
def test_two_branches_that_each_add_a_model_merge_with_either_sides_results(project):
    """Keep both entries in params.yaml, take either side of what DVC wrote, run it again."""
    main = git(project, "branch", "--show-current").strip()
    for branch in ("theirs", "ours"):
        git(project, "checkout", "--quiet", "-b", branch, main)
        dvc(project, "checkout")
        add_models(project, branch)
        assert f"train_sklearn@{branch}" in ran(dvc(project, "repro"))
        commit(project, f"Add {branch}")
    with pytest.raises(subprocess.CalledProcessError):
        git(project, "merge", "theirs")
    conflicts = git(project, "diff", "--name-only", "--diff-filter=U").splitlines()
    assert {"dvc.lock", "params.yaml"} <= set(conflicts)
    git(project, "checkout", "--ours", "--", *conflicts)
    add_models(project, "theirs", "ours")

    output = dvc(project, "repro")
    assert "Stage 'train_sklearn@theirs' is cached" in output  # its training is remembered
    commit(project, "Merge theirs")
    assert "<<<<" not in (project / "dvc.lock").read_text()
    rows = {row["model"]: row for row in read_csv(project / "outputs/tables/summary.csv")}
    assert rows["sklearn/ours"]["accuracy"] == rows["sklearn/theirs"]["accuracy"]
    assert ran(dvc(project, "repro")) == []
    assert git(project, "status", "--short") == ""


@pytest.mark.slow
def test_after_gc_earlier_parameters_train_again_and_later_ones_do_not(project):
    before = reproduce.checksums(project / "dvc.lock")
    edit_params(project, "scratch.mlp_relu.learning_rate", 0.0001)
    dvc(project, "repro")
    later = (project / "dvc.lock").read_text(), (project / "params.yaml").read_text()
    dvc(project, "gc", "--workspace", "--force")
    assert ran(dvc(project, "repro")) == []
    git(project, "checkout", "--quiet", "params.yaml")
    assert "train_scratch@mlp_relu" in ran(dvc(project, "repro"))
    assert reproduce.checksums(project / "dvc.lock") == before
    (project / "params.yaml").write_text(later[1])
    assert "train_scratch@mlp_relu" not in ran(dvc(project, "repro"))
    assert (project / "dvc.lock").read_text() == later[0]
    assert ran(dvc(project, "repro")) == []


def test_an_experiment_may_name_a_folder_at_home(tmp_path):
    """In the quotes that `dvc exp run -S` wants around a ~, which a stage turns into the home."""
    shutil.copy2(ROOT / "params.yaml", tmp_path)
    apply_overrides(str(tmp_path / "params.yaml"), ["data.dataset='~/digits'"])
    assert params.parse((tmp_path / "params.yaml").read_text())["data"]["dataset"] == "~/digits"
