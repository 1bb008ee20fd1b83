"""docs/published.md: what others report and how their programs train."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, load_params
from test_pages import PROGRAM, SPEED
from torchvision import datasets

from stages.console.errors import UserError
from tools import bench, pages, published
from tools.well_known import keras, pytorch, sklearn


def test_torchvision_reads_the_same_images(workspace, tmp_path_factory):
    folder = pytorch.as_torchvision_keeps_it(tmp_path_factory.mktemp("torchvision"))
    for train, part in ((True, "train"), (False, "test")):
        found = datasets.MNIST(folder, train)
        assert np.array_equal(found.data, np.load(workspace / "data" / f"{part}_images.npy"))
        assert np.array_equal(found.targets, np.load(workspace / "data" / f"{part}_labels.npy"))


@pytest.mark.parametrize(
    ("program", "parameters", "epochs"), [("example", 1_199_882, 2), ("plain_sgd", 124_670, 12)]
)
def test_pytorchs_programs_learn(program, parameters, epochs, workspace):
    network, *_ = pytorch.PROGRAMS[program]()
    assert sum(weights.numel() for weights in network.parameters()) == parameters
    found = list(pytorch.train(2, program, str(epochs)))
    assert len(found) == epochs
    assert found[-1]["accuracy"] > 0.5


@pytest.mark.parametrize(("program", "classifier"), sklearn.PROGRAMS.items(), ids=sklearn.PROGRAMS)
def test_scikit_learns_programs_are_classifiers_as_they_come_and_learn(program, classifier, workspace):
    (epoch,) = sklearn.train(2, program)
    assert epoch["accuracy"] > 0.9
    assert classifier.get_params() == type(classifier)(random_state=0).get_params()
    assert classifier.get_params().get("n_estimators", 100) == 100


@pytest.mark.slow
def test_keras_program_learns(workspace):
    epochs = list(keras.train(load_params()["threads"], "8"))
    assert len(epochs) == 8
    assert epochs[-1]["accuracy"] > 0.5


def test_a_program_is_a_process_that_prints_its_epochs(workspace, capsys):
    for folder in ("stages", "tools"):
        (workspace / folder).symlink_to(ROOT / folder)
    row = published.measure("`ExtraTreesClassifier()`")
    assert (row.name, row.epochs) == ("`ExtraTreesClassifier()`", 1)
    printed = json.loads(capsys.readouterr().out.partition(": ")[2])
    assert (row.accuracy, row.seconds) == (printed["accuracy"], round(printed["seconds"], 2))


def test_other_images_are_not_held_against_reports_on_mnist(compared, run_main):
    with pytest.raises(UserError, match="is about mnist, and data/ holds tiny"):
        run_main(published)


def test_the_first_epoch_at_the_goal_counts(workspace):
    epochs = [{"seconds": 2, "accuracy": a} for a in (0.98, 0.99, 0.989)]
    row = published.sum_up("a program", epochs)
    assert (row.epochs, row.accuracy, row.seconds, row.seconds_to_99) == (3, 0.989, 6, 4)
    assert published.sum_up("a program", epochs[:1]).seconds_to_99 is None


def speed_of(model: str, accuracy: float, seconds: float) -> bench.Row:
    """A row of docs/speed.csv."""
    return replace(
        SPEED,
        model=model,
        accuracy_mean=accuracy,
        accuracy_sd=0.0004,
        training_seconds=seconds,
        prediction_seconds=0.1,
    )


def test_a_program_is_held_against_the_fastest_model_that_is_as_accurate():
    speed = [
        speed_of("pytorch/sprint", 0.9911, 3.9),
        speed_of("pytorch/champion", 0.996, 100.0),
        speed_of("pytorch/pocket", 0.994, 48.0),
    ]
    assert published.ratios([PROGRAM], speed) == [
        f"- {PROGRAM.name}: 99.12 % after 300 s. `pytorch/pocket`, 99.40 % on average: 48 s, "
        "about 6 times as fast.",
        f"- {PROGRAM.name}: 99 % after 200 s. `pytorch/sprint`, 99.11 % on average: 4.0 s, "
        "about 50 times as fast.",
    ]
    for mean, fastest in ((0.9915, "`pytorch/pocket`, 99.40 %"), (0.9917, "`pytorch/sprint`, 99.17 %")):
        better = [speed_of("pytorch/sprint", mean, 4.0), *speed[1:]]
        assert fastest in published.ratios([PROGRAM], better)[0], "a standard deviation counts"
    neighbors = replace(speed[1], model="sklearn/knn_3", training_seconds=0.1, prediction_seconds=99.0)
    assert "`pytorch/pocket`" in published.ratios([PROGRAM], [*speed, neighbors])[0]
    for none in (speed[:1], [replace(speed[1], machine="another")], [replace(speed[1], accuracy_sd=None)]):
        assert "None of these models" in published.ratios([PROGRAM], none)[0]


def test_a_program_stands_above_its_nearest_model_of_the_same_machine():
    speed = [speed_of("pytorch/cnn_wide", 0.9924, 9.1)]
    example = f"| {PROGRAM.name} | 14 epochs | A | 99.12 | 300 | 200 |"
    both = f"{example}\n| `pytorch/cnn_wide` | linear | A | 99.24 | 9.1 |  |"
    assert published.programs_table([PROGRAM], speed) == both
    elsewhere = [replace(speed[0], machine="another")]
    assert published.programs_table([PROGRAM], elsewhere) == example


def test_every_report_names_its_title_and_what_it_is_held_against():
    reports = pages.read_rows(ROOT / published.REPORTS, published.Report)
    assert all(report.title and report.what for report in reports)
    assert all(report.address.startswith("http") for report in reports if report.address)
    assert all(report.address for report in reports if not report.title.startswith("“") or report.dated)
