"""docs/published.md: what others report and how their programs train."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import ROOT, load_params
from torchvision import datasets

from stages.common import results
from tools import published
from tools.well_known import keras, pytorch


def test_the_page_is_what_the_pipeline_and_the_programs_gave(monkeypatch):
    monkeypatch.chdir(ROOT)
    if load_params()["data"]["dataset"] != "mnist":
        pytest.skip("the page is about mnist")
    expected = published.page(results.OUTPUTS, published.read_table())
    assert published.PAGE.read_text(encoding="utf-8") == expected, "run `make readme`"


def test_every_report_is_held_against_a_model_that_there_is():
    models = {f"{kind}/{name}" for kind in results.FRAMEWORKS for name in load_params()[kind]}
    named = {report.model for report in published.REPORTS} | set(published.OURS)
    unknown = named - models - {"ensemble/mean", "ensemble/vote"}
    assert not unknown, f"tools/published.py names {', '.join(unknown)}, which params.yaml lacks"


def test_with_other_images_the_page_stays(workspace, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["published"])
    published.main()
    assert "is about mnist" in capsys.readouterr().out
    assert not (workspace / published.PAGE).exists()


def test_torchvision_reads_the_same_images(workspace, tmp_path_factory):
    folder = pytorch.as_torchvision_keeps_it(tmp_path_factory.mktemp("torchvision"))
    for train, part in ((True, "train"), (False, "test")):
        found = datasets.MNIST(folder, train)
        assert np.array_equal(found.data, np.load(workspace / "data" / f"{part}_images.npy"))
        assert np.array_equal(found.targets, np.load(workspace / "data" / f"{part}_labels.npy"))


@pytest.mark.parametrize(("program", "parameters"), [("example", 1_199_882), ("plain_sgd", 124_670)])
def test_pytorchs_programs_learn(program, parameters, workspace, tmp_path_factory):
    network, *_ = pytorch.PROGRAMS[program]()
    assert sum(weights.numel() for weights in network.parameters()) == parameters
    folder = pytorch.as_torchvision_keeps_it(tmp_path_factory.mktemp("torchvision"))
    epochs = list(pytorch.train(program, 2 if program == "example" else 12, folder))
    assert epochs[-1]["accuracy"] > 0.5
    assert all(epoch["seconds"] > 0 for epoch in epochs)


@pytest.mark.slow
def test_keras_program_learns(workspace):
    epochs = list(keras.train(8))
    assert len(epochs) == 8
    assert epochs[-1]["accuracy"] > 0.5


@pytest.mark.slow
def test_a_program_is_a_process_that_prints_its_epochs(workspace, capsys):
    for folder in ("stages", "tools"):
        (workspace / folder).symlink_to(ROOT / folder)
    program = dataclasses.replace(published.PROGRAMS[0], epochs=1)
    row = published.measure_program(program)
    assert (row.name, row.epochs) == (program.title, 1)
    assert 0 < row.seconds < 60 and 0 <= row.accuracy <= 1
    assert json.loads(capsys.readouterr().out.partition(": ")[2])["accuracy"] == row.accuracy


def test_the_first_epoch_at_the_goal_counts():
    epochs = [{"seconds": 2, "accuracy": a} for a in (0.98, 0.99, 0.989)]
    row = published.sum_up("a program", epochs)
    assert (row.accuracy, row.seconds, row.seconds_to_99) == (0.989, 6, 4)
    assert published.sum_up("a program", epochs[:1]).seconds_to_99 is None


def test_a_program_is_held_against_the_fastest_model_that_is_as_accurate():
    rows = [
        published.Row("a program", 10, 0.9912, 300.0, 200.0, "a machine"),
        published.Row("pytorch/sprint", 1, 0.9911, 4.0, None, "a machine"),
        published.Row("pytorch/champion", 9, 0.996, 100.0, None, "a machine"),
        published.Row("pytorch/pocket", 7, 0.994, 50.0, None, "a machine"),
    ]
    accuracies = {row.name: (row.accuracy, 0.0004) for row in rows}
    assert published.ratios(rows, accuracies).splitlines() == [
        "- a program: 99.12 % after 300 s. `pytorch/pocket`, 99.40 % on average: 50.0 s, 6.0 times as fast.",
        "- a program: 99 % after 200 s. `pytorch/sprint`, 99.11 % on average: 4.0 s, 50.0 times as fast.",
    ]
    for mean, fastest in ((0.9915, "`pytorch/pocket`, 99.40 %"), (0.9917, "`pytorch/sprint`, 99.17 %")):
        better = accuracies | {"pytorch/sprint": (mean, 0.0004)}
        assert fastest in published.ratios(rows, better).splitlines()[0]
    assert "None of these models is as accurate" in published.ratios(rows[:2], accuracies)
    assert [line.split("|")[1].strip() for line in published.programs_table(rows).splitlines()[2:]] == [
        "a program",
        "`pytorch/champion`",
        "`pytorch/pocket`",
        "`pytorch/sprint`",
    ]


def test_a_row_is_kept_as_soon_as_it_is_measured(workspace):
    (workspace / "docs").mkdir()
    assert published.read_table() == []
    second = published.Row("pytorch/sprint", 1, 0.99, 4.0, None, "a machine")
    first = published.Row(published.PROGRAMS[0].title, 14, 0.992, 900.5, 300.25, "a machine")
    for row in (dataclasses.replace(second, seconds=5.0), first, second):
        published.keep(row)
    assert published.read_table() == [first, second]
