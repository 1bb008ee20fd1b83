"""What `make bench` and `make growth` measure, on tiny data."""

import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from conftest import TEST, TRAIN, described, timed

from stages.console.errors import UserError
from tools import bench, growth, projects

LAYERS = [{"dense": 10}, {"dense": "classes"}]


def made(
    accuracy: float, seconds: float = 10, history: tuple = (), prediction: float = 1, start: float = 1, peak=1
) -> bench.Run:
    """A run that trained so long, with these validation accuracies."""
    about = described(architecture=LAYERS, training_images=50_000)
    epochs = [{"validation_accuracy": one} for one in history]
    timings = timed(seconds, prediction).model_copy(update={"peak_mebibytes": peak})
    return bench.Run(accuracy, 0.01, history[-1] if history else None, 100, timings, about, start, epochs)


def test_a_run_is_the_stage_itself_with_other_parameters(workspace):
    before = (workspace / "params.yaml").read_bytes()
    run = bench.run("scratch/mlp_relu", {"scratch.mlp_relu.epochs": 2, "data.validation": 100})
    assert run.accuracy > 0.5
    assert run.validation_accuracy == pytest.approx(run.history[-1]["validation_accuracy"], abs=1e-6)
    assert 0 < run.calibration_error < 0.5
    assert run.test_images == TEST
    assert (run.description.training_images, run.description.validation_images) == (TRAIN - 100, 100)
    assert run.description.recipe["epochs"] == 2
    assert [epoch["epoch"] for epoch in run.history] == [1, 2]
    assert all(0 <= epoch["validation_accuracy"] <= 1 for epoch in run.history)
    assert run.start_seconds > 0.05, "no interpreter imports NumPy faster"
    assert 30 < run.timings.peak_mebibytes < 500, "of the stage, not of this process"
    assert (workspace / "params.yaml").read_bytes() == before
    with pytest.raises(UserError, match=r"scratch/mlp_relu failed: .*learning_rate"):
        bench.run("scratch/mlp_relu", {"scratch.mlp_relu.learning_rate": -1})


def test_a_row_sums_up_its_runs(monkeypatch):
    queue = iter(
        (
            made(0.985, 10, (0.97, 0.99), prediction=1, start=2, peak=100),
            made(0.995, 14, (0.98, 0.995), prediction=3, start=3, peak=300),
            made(0.985, 12, (0.975, 0.995), prediction=2, start=4, peak=200),
        )
    )
    monkeypatch.setattr(bench, "run", lambda model, changes: next(queue))
    monkeypatch.setattr(bench, "matmul_gflops", lambda: 100.0)
    monkeypatch.setattr(bench, "recipe", lambda model: "abc")
    row = bench.measure("pytorch/linear", 3)
    assert row.validation_accuracy == pytest.approx((0.99 + 0.995 + 0.995) / 3, abs=1e-6)
    assert (row.accuracy_mean, row.accuracy_sd) == pytest.approx((0.9883, 0.0058), abs=1e-4)
    assert (row.training_seconds, row.training_seconds_low, row.training_seconds_high) == (12, 10, 14)
    assert (row.prediction_seconds, row.start_seconds, row.peak_mebibytes) == (2, 3, 200)
    assert row.images_per_second == round(2 * 50_000 / 12)
    assert row.seconds_to_98 == 10, "of 10 of 10, 7 of 14 and 12 of 12 seconds"
    assert row.seconds_to_99 is None, "two runs are not there in the test"
    assert row.multiply_adds == 784 * 10 + 10 * 10
    operations = 2 * (2 * 784 * 10 + 3 * 10 * 10) * 50_000 * 2  # the images need no gradient
    assert row.matmul_share == pytest.approx(operations / 12 / 100e9, abs=5e-4)
    of_the_runs = "some processor, avx2, 2 threads, Linux x86_64, Python 3.11"
    assert row.machine == of_the_runs, "not the one that writes"


@pytest.mark.parametrize(
    ("goal", "history", "seconds"), [(0.98, (None, None), 10), (0.99, (None, None), None), (0.98, (), 10)]
)
def test_without_held_out_images_the_test_images_say_when_an_accuracy_is_reached(goal, history, seconds):
    assert bench.seconds_to(goal, [made(0.985, history=history)]) == seconds


def test_multiply_adds_count_every_product_of_a_convolution():
    conv = {"filters": 16, "kernel": 3, "padding": "same"}
    layers = [{"conv": conv}, "relu", {"max_pool": 2}, {"dense": 5}, {"dense": "classes"}]
    found = bench.multiply_adds(described(architecture=layers, image_size=(20, 32)))
    assert found == [20 * 32 * 16 * 9, 10 * 16 * 16 * 5, 5 * 10]
    assert bench.multiply_adds(described(architecture=None)) == []


@pytest.mark.parametrize("share", [0.125, 1, 2.5])
def test_more_images_than_there_are_repeat(workspace, share):
    projects.resize(workspace / "some", round(share * TRAIN))
    images, labels = (np.load(workspace / "some" / f"train_{kind}.npy") for kind in ("images", "labels"))
    assert len(images) == len(labels) == share * TRAIN
    original = np.load(workspace / "data" / "train_images.npy")
    np.testing.assert_array_equal(images, original[np.arange(len(images)) % TRAIN])
    about = json.loads((workspace / "some" / "dataset.json").read_text())
    assert about["counts"] == {"train": share * TRAIN, "test": TEST}
    assert len(np.load(workspace / "some" / "test_images.npy")) == TEST


def test_growth_measures_with_the_batch_size_it_names(workspace, monkeypatch):
    seen = {}
    monkeypatch.setattr(bench, "run", lambda _, changes, data: seen.update(changes) or made(0.9, 1, (0.8,)))
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
    time, _, wrong, memory, _, threads = growth.draw(pd.DataFrame(map(asdict, points()))).axes
    assert time.lines[0].get_xydata().tolist() == [[100, 1.5], [200, 2.5], [400, 4.5]]
    assert list(wrong.lines[0].get_ydata()) == pytest.approx([3.2, 6.4])
    assert list(memory.lines[0].get_ydata()) == [100, 200, 400]
    assert [bar.get_width() for bar in threads.patches] == pytest.approx([4 / 2.25])
