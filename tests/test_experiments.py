"""`make experiments`: DVC's experiments as a narrow table, the best validation accuracy first."""

import copy
import json
import subprocess
import sys

import pytest
from conftest import command, dvc

from stages.console.errors import UserError
from tools import experiments

METRICS = {"accuracy": 0.97, "log_loss": 0.1, "validation_accuracy": 0.96, "validation_log_loss": 0.11}
CONV = {"filters": 8, "kernel": 3, "padding": "same"}
PARAMS = {
    "params.yaml": {
        "seed": 0,
        "pytorch": {
            "mlp": {"architecture": "mlp", "learning_rate": 0.01, "augmentation": {"shift": 1}, "epochs": 5},
            "cnn": {"architecture": "cnn", "learning_rate": 0.02, "pixel_range": [0, 1]},
        },
        "sklearn": {"svm": {"arguments": {"C": 10}}},
    },
    "architectures.yaml": {
        "mlp": [{"dense": 128}, "relu", {"dense": "classes"}],
        "cnn": [{"conv": CONV}, {"conv": CONV}, {"dense": "classes"}],
    },
}


def state(name: str | None, changes: dict | None = None, **metrics: dict) -> dict:
    """A revision as `dvc exp show --json` has it. changes: of PARAMS by path. metrics: what a model's are."""
    parameters = copy.deepcopy(PARAMS)
    for path, value in (changes or {}).items():
        section = parameters
        *parents, last = path
        for parent in parents:
            section = section[parent]
        section[last] = value
    found = {
        "pytorch/mlp": METRICS,
        "pytorch/cnn": METRICS,
        "sklearn/svm": {"accuracy": 0.985, "log_loss": 0.05},
    }
    found |= {model.replace("__", "/"): METRICS | of_model for model, of_model in metrics.items()}
    data = {
        "params": {path: {"data": content} for path, content in parameters.items()},
        "metrics": {f"outputs/metrics/{model}.json": {"data": one} for model, one in found.items()},
    }
    return {"rev": "0123456789abcdef", "name": name, "data": data, "error": None, "experiments": None}


def run(name: str, changes: dict, executor: str | None = None, **metrics: dict) -> dict:
    """An experiment, in the form of the same."""
    return {
        "revs": [state(name, changes, **metrics)],
        "executor": executor and {"state": executor},
        "name": name,
    }


def shown(*runs: dict, workspace: dict | None = None) -> list[dict]:
    """All that DVC shows: the workspace, the commit `main`, and these experiments of it."""
    return [workspace or state(None), state("main") | {"experiments": list(runs) or None}]


def rate(value: float) -> dict:
    return {("params.yaml", "pytorch", "mlp", "learning_rate"): value}


def cells(text: str) -> list[list[str]]:
    """The words of the table's lines below the head."""
    return [line.split() for line in text.splitlines()[2:]]


def test_a_sweep_is_sorted_by_validation_and_shows_the_commit_beside():
    table = experiments.table(
        shown(
            run("low", rate(0.001), pytorch__mlp={"accuracy": 0.99, "validation_accuracy": 0.95}),
            run("high", rate(0.1), "success", pytorch__mlp={"accuracy": 0.90, "validation_accuracy": 0.98}),
        )
    )
    assert table.splitlines()[1].split() == [
        *("experiment", "learning_rate", "model"), *("accuracy", "log", "loss", "accuracy")
    ]  # fmt: skip
    assert table.splitlines()[0].split() == ["validation", "validation", "test"]
    assert cells(table) == [
        ["high", "0.1", "pytorch/mlp", "98.00%", "0.1100", "90.00%"],
        ["main", "0.01", "pytorch/mlp", "96.00%", "0.1100", "97.00%"],
        ["low", "0.001", "pytorch/mlp", "95.00%", "0.1100", "99.00%"],
    ]


def test_only_models_whose_metrics_differ_are_rows():
    seed = {("params.yaml", "seed"): 1}
    table = experiments.table(shown(run("other", seed, pytorch__mlp={"log_loss": 0.2})))
    assert [row[2] for row in cells(table)] == ["pytorch/mlp"] * 2
    assert [row[1] for row in cells(table)] == ["0", "1"], "the commit first: both validate equally well"
    same = experiments.table(shown(run("same", seed)))
    assert same == "no experiment has other metrics than the last commit"
    assert experiments.table(shown()) == same


def test_a_row_names_no_other_models_parameters():
    both = rate(0.1) | {("params.yaml", "pytorch", "cnn", "learning_rate"): 0.2}
    table = experiments.table(
        shown(run("both", both, pytorch__mlp={"validation_accuracy": 0.97}, pytorch__cnn={"accuracy": 0.98}))
    )
    assert {(row[0], row[1], row[2]) for row in cells(table)} == {
        ("both", "0.1", "pytorch/mlp"),
        ("both", "0.2", "pytorch/cnn"),
        ("main", "0.01", "pytorch/mlp"),
        ("main", "0.02", "pytorch/cnn"),
    }


def test_a_changed_layer_stands_with_the_models_that_use_it():
    wider = {("architectures.yaml", "cnn", 0, "conv"): CONV | {"filters": 16}}
    wider |= {("architectures.yaml", "cnn", 1, "conv"): CONV | {"filters": 32}}
    seed = {("params.yaml", "seed"): 3}
    table = experiments.table(
        shown(run("wide", wider | seed, pytorch__cnn={"accuracy": 0.98}, pytorch__mlp={"accuracy": 0.98}))
    )
    head = table.splitlines()[1].split()
    assert [name[:6] for name in head[1:3]] == ["cnn[0]", "cnn[1]"], "filters alone says too little"
    assert head[3] == "seed"
    assert ["wide", "16", "32", "3", "pytorch/cnn", "96.00%", "0.1100", "98.00%"] in cells(table)
    assert ["wide", "3", "pytorch/mlp", "96.00%", "0.1100", "98.00%"] in cells(table)
    assert ["main", "8", "8", "0", "pytorch/cnn", "96.00%", "0.1100", "97.00%"] in cells(table)


def test_models_without_held_out_images_come_last_with_empty_cells():
    arguments = {("params.yaml", "sklearn", "svm", "arguments", "C"): 5}
    one = run("soft", arguments | rate(0.1), pytorch__mlp={"validation_accuracy": 0.5})
    one["revs"][0]["data"]["metrics"]["outputs/metrics/sklearn/svm.json"]["data"] = {"accuracy": 0.99}
    rows = cells(experiments.table(shown(one)))
    assert [row[-4] if "%" in row[-3] else row[-2] for row in rows] == ["pytorch/mlp"] * 2 + [
        "sklearn/svm"
    ] * 2
    assert rows[-1] == ["soft", "5", "sklearn/svm", "99.00%"]


def test_the_workspace_is_a_row_only_if_no_experiment_left_it():
    one = run("one", rate(0.1), pytorch__mlp={"accuracy": 0.98})
    left = state(None, rate(0.1), pytorch__mlp={"accuracy": 0.98})
    assert "workspace" not in experiments.table(shown(one, workspace=left))
    edited = state(None, rate(0.2), pytorch__mlp={"accuracy": 0.5})
    assert ["workspace", "0.2", "pytorch/mlp", "96.00%", "0.1100", "50.00%"] in cells(
        experiments.table(shown(one, workspace=edited))
    )


def test_experiments_without_results_are_named_below():
    good = run("good", rate(0.1), "success", pytorch__mlp={"accuracy": 0.98})
    failed = run("bad", rate(0.2), pytorch__mlp={"accuracy": 0.1})
    failed["revs"][0]["error"] = {"msg": "Experiment run failed", "type": ""}
    queued = run("next", rate(0.3), "queued")
    queued["revs"][0]["data"]["metrics"] = {
        "outputs/metrics": {"error": {"type": "FileNotFoundError", "msg": ""}}
    }
    *table, first, second = experiments.table(shown(good, failed, queued)).splitlines()
    assert (first, second) == ("bad: failed", "next: queued")
    assert len(table) == 4
    assert experiments.table(shown(failed)).splitlines()[1:] == ["bad: failed"]


MLP = "params.yaml", "pytorch", "mlp"
MANY = {
    (*MLP, "learning_rate"): 0.123456789,
    (*MLP, "augmentation", "shift"): 2.5,
    (*MLP, "epochs"): 10,
    ("params.yaml", "seed"): 42,
}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_table_has_at_most_eight_columns_within_a_hundred_characters(count):
    name = "an_experiment_whose_name_somebody_thought_about_for_quite_some_time"
    changes = dict(list(MANY.items())[:count])
    one = run(name, changes, pytorch__mlp={"accuracy": 1.0, "validation_accuracy": 1.0})
    table = experiments.table(shown(one))
    assert max(map(len, table.splitlines())) == 100, "all the room is used, and no more"
    first, second = table.splitlines()[2:]
    figures = ["100.00%", "0.1100", "100.00%"]
    assert first.split()[-3:] == figures, "figures are never shortened"
    assert first.startswith("an_exp") and "…" in first
    assert len(second.split()) - 3 <= 5 + 3 * (count == 4), (
        "four words for the parameters that share a column"
    )
    assert "pytorch/mlp" in second


def test_parameters_that_are_too_many_for_columns_share_one():
    one = run("many", MANY, pytorch__mlp={"accuracy": 0.98})
    table = experiments.table(shown(one))
    assert table.splitlines()[1].split()[:3] == ["experiment", "parameters", "model"]
    many = next(line for line in table.splitlines() if line.startswith("many"))
    assert "shift=2.5" in many and "seed=42" in many


def test_a_dvc_that_fails_is_told_in_one_line(monkeypatch):
    failed = subprocess.CompletedProcess(
        [], 255, "", "WARNING: x\nERROR: you are not inside of a DVC repository\n"
    )
    monkeypatch.setattr(sys, "argv", ["experiments"])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"^dvc exp show: you are not inside of a DVC repository$"):
        experiments.main()


@pytest.mark.slow
def test_a_real_experiment_is_a_row_beside_the_commits(project):
    dvc(project, "exp", "run", "--name", "fast", "-S", "scratch.mlp_relu.learning_rate=0.05", "evaluate")
    found = command(project, "tools.experiments")
    assert found.returncode == 0, found.stderr
    assert max(map(len, found.stdout.splitlines())) <= 100
    rows = cells(found.stdout)
    assert {(row[0], row[1], row[2]) for row in rows} == {
        ("fast", "0.05", "scratch/mlp_relu"),
        (rows[1 - [row[0] for row in rows].index("fast")][0], "0.01", "scratch/mlp_relu"),
    }
    metrics = json.loads((project / "outputs/metrics/scratch/mlp_relu.json").read_text())
    assert f"{metrics['validation_accuracy']:.2%}" in next(row for row in rows if row[0] == "fast")
