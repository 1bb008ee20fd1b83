"""`make experiments`: DVC's experiments as a narrow table, the best validation accuracy first."""

import copy
import json
import subprocess

import pytest
from conftest import command, dvc, put, ran

from stages.console.errors import UserError
from tools import experiments

MODELS = {"pytorch/mlp": (0.97, 0.96), "pytorch/cnn": (0.97, 0.96), "sklearn/svm": (0.985, None)}
"""Their accuracies on test and on held-out images."""
CONV = {"filters": 8, "kernel": 3, "padding": "same"}
MLP = {"architecture": "mlp", "learning_rate": 0.01, "augmentation": {"shift": 1}, "epochs": 5}
CNN = {"architecture": "cnn", "learning_rate": 0.02, "pixel_range": [0, 1]}
NETWORKS = {
    "mlp": [{"dense": 128}, "relu", {"dense": "classes"}],
    "cnn": [{"conv": CONV}, {"conv": CONV}, {"dense": "classes"}],
}
PARAMS = {"seed": 0, "pytorch": {"mlp": MLP, "cnn": CNN}, "sklearn": {"svm": {"arguments": {"C": 10}}}}


def state(name: str | None, changes: dict | None = None, **accuracies: tuple) -> dict:
    """A revision as `dvc exp show --json` has it. changes: by dotted key. accuracies: other than MODELS."""
    content = copy.deepcopy(PARAMS | {"architectures": NETWORKS})
    for key, value in (changes or {}).items():
        put(content, key, value)
    files = {"architectures.yaml": {"data": content.pop("architectures")}, "params.yaml": {"data": content}}
    metrics = {}
    for model, usual in MODELS.items():
        accuracy, validation, *log_loss = accuracies.get(model[-3:], usual)
        of_model = {"accuracy": accuracy, "log_loss": 0.1 + sum(log_loss)}
        if validation:
            of_model |= {"validation_accuracy": validation, "validation_log_loss": 0.11}
        metrics[f"outputs/metrics/{model}.json"] = {"data": of_model}
    data = {"params": files, "metrics": metrics}
    return {"rev": "0123456789abcdef", "name": name, "data": data, "error": None, "experiments": None}


def run(name: str, changes: dict, executor: str | None = None, **accuracies: tuple) -> dict:
    """An experiment, in the form of the same."""
    state_of_executor = executor and {"state": executor}
    return {"revs": [state(name, changes, **accuracies)], "executor": state_of_executor, "name": name}


def shown(*runs: dict, workspace: dict | None = None) -> list[dict]:
    """All that DVC shows: the workspace, the commit `main`, and these experiments of it."""
    return [workspace or state(None), state("main") | {"experiments": list(runs) or None}]


def rate(value: float) -> dict:
    return {"pytorch.mlp.learning_rate": value}


BOTH = rate(0.1) | {"pytorch.cnn.learning_rate": 0.2}
WIDER = {f"architectures.cnn.{layer}.conv": CONV | {"filters": 16 * (layer + 1)} for layer in (0, 1)}
ONE = run("one", rate(0.1), "success", mlp=(0.98, 0.96))
FAILED, QUEUED = run("bad", rate(0.2), mlp=(0.1, 0.1)), run("next", rate(0.3), "queued")
FAILED["revs"][0]["error"] = {"msg": "Experiment run failed", "type": ""}
QUEUED["revs"][0]["data"]["metrics"] = {"outputs/metrics": {"error": {"type": "FileNotFoundError"}}}


@pytest.mark.parametrize(
    ("found", "parameters", "rows"),
    [
        pytest.param(
            shown(run("low", rate(0.001), mlp=(0.99, 0.95)), run("high", rate(0.1), mlp=(0.90, 0.98))),
            ["learning_rate"],
            """high 0.1   pytorch/mlp 98.00% 0.1100 90.00%
               main 0.01  pytorch/mlp 96.00% 0.1100 97.00%
               low  0.001 pytorch/mlp 95.00% 0.1100 99.00%""",
            id="a sweep is sorted by validation and has the commit beside",
        ),
        pytest.param(
            shown(run("other", {"seed": 1}, mlp=(0.97, 0.96, 0.1))),
            ["seed"],
            """main  0 pytorch/mlp 96.00% 0.1100 97.00%
               other 1 pytorch/mlp 96.00% 0.1100 97.00%""",
            id="only models whose metrics differ are rows",
        ),
        pytest.param(
            shown(run("both", BOTH, mlp=(0.97, 0.97), cnn=(0.98, 0.96))),
            ["learning_rate"],
            """both 0.1  pytorch/mlp 97.00% 0.1100 97.00%
               both 0.2  pytorch/cnn 96.00% 0.1100 98.00%
               main 0.02 pytorch/cnn 96.00% 0.1100 97.00%
               main 0.01 pytorch/mlp 96.00% 0.1100 97.00%""",
            id="a row names no other model's parameters",
        ),
        pytest.param(
            shown(run("wide", WIDER | {"seed": 3}, cnn=(0.98, 0.96), mlp=(0.98, 0.96))),
            ["cnn[0]", "cnn[1]", "seed"],
            """main 8  8  0 pytorch/cnn 96.00% 0.1100 97.00%
               wide 16 32 3 pytorch/cnn 96.00% 0.1100 98.00%
               main 0       pytorch/mlp 96.00% 0.1100 97.00%
               wide 3       pytorch/mlp 96.00% 0.1100 98.00%""",
            id="a changed layer stands with the models that use it",
        ),
        pytest.param(
            shown(run("soft", {"sklearn.svm.arguments.C": 5} | rate(0.1), mlp=(0.97, 0.5), svm=(0.99, None))),
            ["learning_rate", "C"],
            """main 0.01 pytorch/mlp 96.00% 0.1100 97.00%
               soft 0.1  pytorch/mlp 50.00% 0.1100 97.00%
               main 10   sklearn/svm 98.50%
               soft 5    sklearn/svm 99.00%""",
            id="models without held-out images come last",
        ),
        pytest.param(
            shown(ONE, FAILED, QUEUED, workspace=state(None, rate(0.1), mlp=(0.98, 0.96))),
            ["learning_rate"],
            """main 0.01 pytorch/mlp 96.00% 0.1100 97.00%
               one  0.1  pytorch/mlp 96.00% 0.1100 98.00%
               bad: failed
               next: queued""",
            id="those without results are named below, and the workspace is as an experiment left it",
        ),
        pytest.param(
            shown(ONE, workspace=state(None, rate(0.2), mlp=(0.5, 0.96))),
            ["learning_rate"],
            """main      0.01 pytorch/mlp 96.00% 0.1100 97.00%
               one       0.1  pytorch/mlp 96.00% 0.1100 98.00%
               workspace 0.2  pytorch/mlp 96.00% 0.1100 50.00%""",
            id="the workspace is as no experiment left it",
        ),
    ],
)
def test_a_row_is_a_model_of_an_experiment_and_names_what_differs(found, parameters, rows):
    _, heads, *lines = (line.split() for line in experiments.table(found).splitlines())
    assert all(map(str.startswith, heads, ["experiment", *parameters, "model"]))
    assert lines == [row.split() for row in rows.splitlines()]


def test_without_other_metrics_there_is_no_table():
    same = experiments.table(shown(run("same", {"seed": 1})))
    assert experiments.table(shown()) == same == "no experiment has other metrics than the last commit"
    assert experiments.table(shown(FAILED)) == f"{same}\nbad: failed"


MANY = rate(0.123456789) | {"pytorch.mlp.augmentation.shift": 2.5, "pytorch.mlp.epochs": 10, "seed": 42}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_table_has_at_most_eight_columns_within_a_hundred_characters(count):
    name = "an_experiment_whose_name_somebody_thought_about_for_quite_some_time"
    changes = dict(list(MANY.items())[:count])
    table = experiments.table(shown(run(name, changes, mlp=(1.0, 1.0))))
    assert max(map(len, table.splitlines())) == 100, "all the room is used, and no more"
    first, second = table.splitlines()[2:]
    assert first.split()[-3:] == ["100.00%", "0.1100", "100.00%"], "figures are never shortened"
    assert first.startswith("an_exp") and "…" in first and "pytorch/mlp" in second
    table = experiments.table(shown(run("many", changes, mlp=(0.98, 0.96))))
    assert ("parameters" in table) == (count > 3), "too many share a column"
    assert count <= 3 or ("shift=2.5" in table and "seed=42" in table)


def test_a_dvc_that_fails_is_told_in_one_line(monkeypatch, run_main):
    message = "WARNING: x\nERROR: you are not inside of a DVC repository\n"
    failed = subprocess.CompletedProcess([], 255, "", message)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"^dvc exp show: you are not inside of a DVC repository$"):
        run_main(experiments)


def test_a_real_experiment_trains_one_model_and_is_a_row_beside_the_commits(project):
    change = "-S", "scratch.mlp_relu.learning_rate=0.05"
    output = dvc(project, "exp", "run", "--name", "fast", *change, "evaluate")
    assert ran(output) == ["train_scratch@mlp_relu", "evaluate"]
    found = command(project, "tools.experiments")
    assert found.returncode == 0, found.stderr
    rows = [line.split() for line in found.stdout.splitlines()[2:]]
    assert sorted(row[1:3] for row in rows) == [["0.01", "scratch/mlp_relu"], ["0.05", "scratch/mlp_relu"]]
    metrics = json.loads((project / "outputs/metrics/scratch/mlp_relu.json").read_text())
    assert f"{metrics['validation_accuracy']:.2%}" in next(row for row in rows if row[0] == "fast")
