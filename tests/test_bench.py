"""What `make bench` and `make growth` measure, on tiny data."""

import json
import sys
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from conftest import TEST, TRAIN

from stages.common import results
from stages.console.errors import UserError
from tools import bench, growth, pages, projects

DESCRIPTION = results.Description(
    framework="pytorch",
    name="linear",
    recipe={},
    architecture=[{"dense": 10}, {"dense": "classes"}],
    summary="linear",
    layers="",
    classes=tuple("0123456789"),
    image_size=(28, 28),
    ground=0,
    parameters=7,
    training_images=50_000,
    validation_images=5_000,
)
TIMINGS = results.Timings(
    device="cpu",
    precision="float32",
    training_seconds=10,
    prediction_seconds=1,
    processor="a processor, avx2",
    system="Linux x86_64",
    python="3.11.9",
    threads=2,
    side_by_side=1,
    peak_mebibytes=100,
    packages={},
)
MACHINE = "a processor, avx2, 2 threads, Linux x86_64, Python 3.11"


def made(accuracy: float, seconds: float, history: list[float | None], **others: float) -> bench.Run:
    """A run that trained so long, with these validation accuracies."""
    update = {"training_seconds": seconds, "prediction_seconds": others.get("prediction", 1.0)}
    timings = TIMINGS.model_copy(update=update | {"peak_mebibytes": others.get("peak", 1)})
    epochs = [{"validation_accuracy": one} for one in history]
    return bench.Run(accuracy, timings, DESCRIPTION, others.get("start", 1.0), epochs)


def test_a_run_is_the_stage_itself_with_other_parameters(workspace):
    before = (workspace / "params.yaml").read_bytes()
    run = bench.run("scratch/mlp_relu", {"scratch.mlp_relu.epochs": 2, "data.validation": 100})
    assert run.accuracy > 0.5
    assert (run.description.training_images, run.description.validation_images) == (TRAIN - 100, 100)
    assert run.description.recipe["epochs"] == 2
    assert [epoch["epoch"] for epoch in run.history] == [1, 2]
    assert all(0 <= epoch["validation_accuracy"] <= 1 for epoch in run.history)
    assert run.start_seconds > 0.05, "no interpreter imports NumPy faster"
    assert 30 < run.timings.peak_mebibytes < 500, "of the stage, not of this process"
    assert (workspace / "params.yaml").read_bytes() == before


def test_a_stage_that_fails_is_named_with_its_error(workspace):
    with pytest.raises(UserError, match=r"scratch/mlp_relu failed: .*learning_rate"):
        bench.run("scratch/mlp_relu", {"scratch.mlp_relu.learning_rate": -1})


def test_a_row_sums_up_its_runs(monkeypatch):
    runs = [
        made(0.985, 10, [0.97, 0.99], prediction=1, start=2, peak=100),
        made(0.995, 14, [0.98, 0.995], prediction=3, start=3, peak=300),
        made(0.985, 12, [0.975, 0.995], prediction=2, start=4, peak=200),
    ]
    queue = iter(runs)
    monkeypatch.setattr(bench, "run", lambda model, changes: next(queue))
    monkeypatch.setattr(bench, "matmul_gflops", lambda: 100.0)
    row = bench.measure("pytorch/linear", 3)
    assert row.accuracy_mean == pytest.approx(0.9883, abs=1e-4)
    assert row.accuracy_sd == pytest.approx(0.0058, abs=1e-4)
    assert (row.training_seconds, row.training_seconds_low, row.training_seconds_high) == (12, 10, 14)
    assert (row.prediction_seconds, row.start_seconds, row.peak_mebibytes) == (2, 3, 200)
    assert row.images_per_second == round(2 * 50_000 / 12)
    assert row.seconds_to_98 == 10, "of 10 of 10, 7 of 14 and 12 of 12 seconds"
    assert row.seconds_to_99 is None, "two runs are not there in the test"
    assert row.multiply_adds == 784 * 10 + 10 * 10
    operations = 2 * (2 * 784 * 10 + 3 * 10 * 10) * 50_000 * 2  # the images need no gradient
    assert row.matmul_share == pytest.approx(operations / 12 / 100e9, abs=5e-4)
    assert row.machine == MACHINE, "the runs', not the one that writes"


def test_without_held_out_images_the_test_images_say_when_an_accuracy_is_reached():
    assert bench.seconds_to(0.98, [made(0.985, 10, [None, None])]) == 10
    assert bench.seconds_to(0.99, [made(0.985, 10, [None, None])]) is None
    assert bench.seconds_to(0.98, [made(0.985, 10, [])]) == 10


def test_multiply_adds_count_every_product_of_a_convolution():
    conv = {"filters": 16, "kernel": 3, "padding": "same"}
    layers = [{"conv": conv}, "relu", {"max_pool": 2}, {"dense": 5}, {"dense": "classes"}]
    described = DESCRIPTION.model_copy(update={"architecture": layers, "image_size": (20, 32)})
    assert bench.multiply_adds(described) == [20 * 32 * 16 * 9, 10 * 16 * 16 * 5, 5 * 10]
    assert bench.multiply_adds(DESCRIPTION.model_copy(update={"architecture": None})) == []


ROW = bench.Row(
    model="pytorch/linear",
    seeds=5,
    accuracy_mean=0.925,
    accuracy_sd=0.0012,
    training_seconds=2.0,
    training_seconds_low=1.5,
    training_seconds_high=3.0,
    prediction_seconds=0.25,
    prediction_seconds_low=0.2,
    prediction_seconds_high=0.3,
    start_seconds=1.2,
    images_per_second=12345,
    seconds_to_98=None,
    seconds_to_99=None,
    peak_mebibytes=1234,
    parameters=7960,
    multiply_adds=None,
    matmul_gflops=100.0,
    matmul_share=0.125,
    machine="a machine",
)


def test_the_table_shows_the_figures_and_nothing_where_there_is_none():
    found = bench.cells(ROW)
    assert found["accuracy, mean ± sd (%)"] == "92.50 ± 0.12"
    assert found["training (s)"] == "2.0 (1.5–3.0)"
    assert found["prediction (s)"] == "0.25 (0.20–0.30)"
    assert (found["images/s"], found["memory (MiB)"], found["parameters"]) == ("12,345", "1,234", "7,960")
    assert (found["s to 98 %"], found["multiply-adds"], found["of matmul"]) == ("", "", "12.5%")
    assert bench.cells(replace(ROW, seeds=4))["accuracy, mean ± sd (%)"] == "92.50", "four say little"


def test_the_most_accurate_model_comes_first_and_columns_can_be_left_out():
    table = bench.table([ROW, replace(ROW, model="pytorch/mlp", accuracy_mean=0.98)], bench.ONLY_ON_THE_PAGE)
    head, _, first, second = table.splitlines()
    assert first.startswith("| `pytorch/mlp` |") and second.startswith("| `pytorch/linear` |")
    assert "memory" in head and "multiply-adds" not in head
    assert head.count("|") == first.count("|") == second.count("|")


def test_naming_models_keeps_the_rows_of_the_others(workspace, monkeypatch):
    (workspace / "docs").mkdir()
    accuracies = iter([0.5, 0.98, 0.5, 0.9, 0.5, 0.97])  # the first of each pair is the warm-up's
    monkeypatch.setattr(bench, "run", lambda *_: made(next(accuracies), 1, []))
    monkeypatch.setattr(bench, "matmul_gflops", lambda: 1.0)
    for model in ("scratch/mlp_relu", "pytorch/linear", "scratch/mlp_relu"):
        monkeypatch.setattr(sys, "argv", ["bench", model, "--seeds", "1"])
        bench.main()
    rows = pages.read_rows(bench.TABLE, bench.Row)
    assert [(row.model, row.accuracy_mean) for row in rows] == [
        ("pytorch/linear", 0.9),
        ("scratch/mlp_relu", 0.97),
    ]


def test_an_unknown_model_is_refused_before_anything_runs(workspace, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "pytorch/lienar"])
    with pytest.raises(UserError, match=r"pytorch/lienar unknown; params\.yaml has pytorch/linear, "):
        bench.main()


def test_rows_are_read_as_they_were_written(tmp_path):
    pages.write_rows(
        path := tmp_path / "speed.csv", rows := [ROW, replace(ROW, model="x/y", accuracy_sd=None)]
    )
    assert pages.read_rows(path, bench.Row) == rows


@pytest.mark.parametrize("share", [0.125, 1, 2.5])
def test_more_images_than_there_are_repeat(workspace, share):
    projects.resize(workspace / "some", round(share * TRAIN))
    images, labels = (np.load(workspace / "some" / f"train_{kind}.npy") for kind in ("images", "labels"))
    assert len(images) == len(labels) == share * TRAIN
    original = np.load(workspace / "data" / "train_images.npy")
    np.testing.assert_array_equal(images, original[np.arange(len(images)) % TRAIN])
    described = json.loads((workspace / "some" / "dataset.json").read_text())
    assert described["counts"] == {"train": share * TRAIN, "test": TEST}
    assert len(np.load(workspace / "some" / "test_images.npy")) == TEST


def test_growth_measures_with_the_batch_size_it_names(workspace, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        bench, "run", lambda model, changes, data: seen.update(changes) or made(0.9, 1, [0.8])
    )
    row = growth.measure("pytorch/sprint", "batch_size", 32, {"pytorch.sprint.batch_size": 32})
    assert (row.value, row.validation_accuracy) == (32, 0.8)
    assert seen == {"pytorch.sprint.batch_size": 32}
    row = growth.measure("pytorch/sprint", "images", 9, {}, copies=True)
    assert row.validation_accuracy is None, "the held-out images are trained on, too"


def test_the_exponent_of_a_quadratic_growth_is_two():
    images = pd.Series([7500, 15000, 30000, 60000])
    assert growth.exponent(images, images**2 * 1e-6) == pytest.approx(2)
    assert growth.exponent(images, pd.Series([9, 1, 2, 4])) == pytest.approx(1), "the first is too small"


def points() -> list[growth.Row]:
    """Rows of docs/growth.csv, made up."""
    row = growth.Row("pytorch/sprint", "images", 100, 1.0, 0.5, 500, 0.9, "a machine")
    images = [replace(row, value=n, training_seconds=n / 100, peak_mebibytes=n) for n in (100, 200, 400)]
    batches = [replace(row, what="batch_size", value=n, validation_accuracy=1 - n / 1000) for n in (32, 64)]
    threads = [replace(row, what="threads", value=n, training_seconds=3.5 / n) for n in (1, 2)]
    return [*images, *batches, *threads]


def test_the_picture_of_growth_shows_the_table():
    figure = growth.draw(pd.DataFrame(map(asdict, points())))
    time, _, wrong, memory, _, threads = figure.axes
    (line,) = time.lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([100, 200, 400], [1.5, 2.5, 4.5])
    assert list(wrong.lines[0].get_ydata()) == pytest.approx([3.2, 6.4])
    assert list(memory.lines[0].get_ydata()) == [100, 200, 400]
    assert [bar.get_width() for bar in threads.patches] == pytest.approx([4 / 2.25])
    for axis in figure.axes:
        assert axis.get_title() and axis.get_xlabel() and axis.get_ylabel()
