"""docs/published.md: what others report and how their programs train."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import test_bench
from conftest import ROOT
from torchvision import datasets

from stages.common import params
from stages.console.errors import UserError
from tools import pages, published
from tools.well_known import keras, pytorch, sklearn


def test_torchvision_reads_the_same_images(workspace, tmp_path_factory):
    folder = pytorch.as_torchvision_keeps_it(tmp_path_factory.mktemp("torchvision"))
    for train, part in ((True, "train"), (False, "test")):
        found = datasets.MNIST(folder, train)
        assert np.array_equal(found.data, np.load(workspace / "data" / f"{part}_images.npy"))
        assert np.array_equal(found.targets, np.load(workspace / "data" / f"{part}_labels.npy"))


@pytest.mark.parametrize(("program", "parameters"), [("example", 1_199_882), ("plain_sgd", 124_670)])
def test_pytorchs_programs_learn(program, parameters, workspace):
    network, *_ = pytorch.PROGRAMS[program]()
    assert sum(weights.numel() for weights in network.parameters()) == parameters
    epochs = list(pytorch.train(2, program, "2" if program == "example" else "12"))
    assert len(epochs) == (2 if program == "example" else 12)
    assert epochs[-1]["accuracy"] > 0.5


@pytest.mark.parametrize("program", sklearn.PROGRAMS)
def test_scikit_learns_programs_learn(program, workspace):
    (epoch,) = sklearn.train(2, program)
    assert epoch["accuracy"] > 0.9


def test_scikit_learns_programs_are_what_they_are_called():
    arguments = {name: classifier.get_params() for name, classifier in sklearn.PROGRAMS.items()}
    for name, classifier in sklearn.PROGRAMS.items():
        assert arguments[name] == type(classifier)(random_state=0).get_params(), "as it comes"
    assert arguments["forest"]["n_estimators"] == arguments["trees"]["n_estimators"] == 100


@pytest.mark.slow
def test_keras_program_learns(workspace):
    epochs = list(keras.train(2, "8"))
    assert len(epochs) == 8
    assert epochs[-1]["accuracy"] > 0.5


def test_a_program_is_a_process_that_prints_its_epochs(workspace, capsys):
    for folder in ("stages", "tools"):
        (workspace / folder).symlink_to(ROOT / folder)
    row = published.measure("`ExtraTreesClassifier()`")
    assert (row.name, row.epochs) == ("`ExtraTreesClassifier()`", 1)
    printed = json.loads(capsys.readouterr().out.partition(": ")[2])
    assert (row.accuracy, row.seconds) == (printed["accuracy"], round(printed["seconds"], 2))


def test_the_programs_that_are_named_are_measured_and_the_others_keep_their_rows(workspace, monkeypatch):
    (workspace / "docs").mkdir()
    described = json.loads((workspace / "data" / "dataset.json").read_text())
    (workspace / "data" / "dataset.json").write_text(json.dumps(described | {"name": "mnist"}))
    seconds = iter(range(1, 99))
    monkeypatch.setattr(published, "measure", lambda name: replace(PROGRAM, name=name, seconds=next(seconds)))
    for argument in ([], ["pytorch"]):
        monkeypatch.setattr(sys, "argv", ["published", *argument])
        published.main()
    rows = {row.name: row.seconds for row in pages.read_rows(published.TABLE, published.Row)}
    assert list(rows) == list(published.PROGRAMS)
    assert list(rows.values()) == [7, 2, 8, 4, 5, 6]


def test_other_images_are_not_held_against_reports_on_mnist(trained, run_stage, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["published"])
    with pytest.raises(UserError, match="is about mnist, and data/ holds tiny"):
        published.main()
    params.content.cache_clear()
    run_stage("evaluate")
    run_stage("compare_models")
    with pytest.raises(pages.Unavailable, match="is about mnist, and data/ holds tiny"):
        published.page()


def test_the_first_epoch_at_the_goal_counts(workspace):
    epochs = [{"seconds": 2, "accuracy": a} for a in (0.98, 0.99, 0.989)]
    row = published.sum_up("a program", epochs)
    assert (row.epochs, row.accuracy, row.seconds, row.seconds_to_99) == (3, 0.989, 6, 4)
    assert published.sum_up("a program", epochs[:1]).seconds_to_99 is None


EXAMPLE = "pytorch/examples, `mnist`"
PROGRAM = published.Row(EXAMPLE, 10, 0.9912, 300.0, 200.0, "a machine")


def timed(model: str, accuracy: float, seconds: float) -> object:
    """A row of docs/speed.csv."""
    return replace(
        test_bench.ROW, model=model, accuracy_mean=accuracy, accuracy_sd=0.0004, training_seconds=seconds
    )


def test_a_program_is_held_against_the_fastest_model_that_is_as_accurate():
    speed = [
        timed("pytorch/sprint", 0.9911, 3.9),
        timed("pytorch/champion", 0.996, 100.0),
        timed("pytorch/pocket", 0.994, 48.0),
    ]
    assert published.ratios([PROGRAM], speed) == [
        f"- {EXAMPLE}: 99.12 % after 300 s. `pytorch/pocket`, 99.40 % on average: 48.0 s, "
        "about 6 times as fast.",
        f"- {EXAMPLE}: 99 % after 200 s. `pytorch/sprint`, 99.11 % on average: 3.9 s, "
        "about 50 times as fast.",
    ]
    for mean, fastest in ((0.9915, "`pytorch/pocket`, 99.40 %"), (0.9917, "`pytorch/sprint`, 99.17 %")):
        better = [timed("pytorch/sprint", mean, 4.0), *speed[1:]]
        assert fastest in published.ratios([PROGRAM], better)[0], "a standard deviation counts"
    for none in (speed[:1], [replace(speed[1], machine="another")], [replace(speed[1], accuracy_sd=None)]):
        assert "None of these models" in published.ratios([PROGRAM], none)[0]


SUMMARY = pd.DataFrame(
    {
        "accuracy": [0.9925, 0.9709],
        "accuracy_low": [0.9907, 0.9674],
        "accuracy_high": [0.994, 0.974],
        "summary": ["cnn_wide", "RandomForestClassifier, 4 gray levels"],
    },
    index=["pytorch/cnn_wide", "sklearn/random_forest"],
)


def test_a_program_stands_above_its_nearest_model_of_the_same_machine():
    speed = [timed("pytorch/cnn_wide", 0.9924, 9.1)]
    first, second = published.programs_table([PROGRAM], speed, SUMMARY).splitlines()
    assert first == f"| {EXAMPLE} | 14 epochs | 99.12 | 300.0 | 200.0 |"
    assert second == "| `pytorch/cnn_wide` | cnn_wide | 99.24 | 9.1 |  |"
    elsewhere = [replace(speed[0], machine="another")]
    assert published.programs_table([PROGRAM], elsewhere, SUMMARY) == first


def test_a_report_is_held_against_models_and_plain_programs_by_what_they_are():
    reports = [
        published.Report("somebody", "a network", "98–99", "pytorch/cnn_wide"),
        published.Report("somebody", "a forest", "96.8", "sklearn/random_forest"),
        published.Report("somebody", "a forest", "96.8", "`RandomForestClassifier()`"),
        published.Report("somebody", "a tree", "88", "sklearn/removed"),
    ]
    plain = replace(PROGRAM, name="`RandomForestClassifier()`", accuracy=0.9705)
    assert published.reports_table(reports, SUMMARY, [plain], 10_000).splitlines() == [
        "| somebody | a network | `pytorch/cnn_wide` | cnn_wide | 98–99 | 99.25 | 99.07 – 99.40 | +0.25 |",
        "| somebody | a forest | `sklearn/random_forest` | RandomForestClassifier, 4 gray levels | 96.8 "
        "| 97.09 | 96.74 – 97.40 | +0.29 |",
        "| somebody | a forest | `RandomForestClassifier()` | scikit-learn, as it comes | 96.8 | 97.05 "
        "| 96.70 – 97.36 | +0.25 |",
    ]
