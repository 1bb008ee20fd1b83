"""What `make bench` and `make growth` measure, on tiny data."""

import csv
from dataclasses import fields
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, TEST, TRAIN, load_params, tiny_arrays
from PIL import Image

from stages.common import results
from stages.common.command import UserError
from stages.pictures import style
from tools import bench, growth


@pytest.fixture
def tiny_data(tmp_path, monkeypatch):
    """A folder with the tiny arrays, of which 40 images are held out; the project is where one stands."""
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "arrays"
    folder.mkdir()
    for name, array in tiny_arrays().items():
        np.save(folder / f"{name}.npy", array)
    return folder


FEW_IMAGES = {"data.validation_images": 40, "scratch.mlp_relu.epochs": 2, "scratch.mlp_relu.batch_size": 20}


def test_a_run_is_the_stage_itself_with_other_parameters(tiny_data):
    before = (ROOT / "params.yaml").read_bytes()
    run = bench.run("scratch/mlp_relu", tiny_data, FEW_IMAGES | {"scratch.mlp_relu.validation_images": 40})
    assert run.accuracy > 0.5
    assert run.training_images == TRAIN - 40
    assert run.parameters == 784 * 128 + 128 + 128 * 10 + 10
    assert [epoch["epoch"] for epoch in run.history] == [1, 2]
    assert 0 < run.training_seconds < 30 and 0 <= run.prediction_seconds < 30
    assert run.start_seconds > 0
    assert 30 < run.peak_mebibytes < 500, "of the stage, not of this process"
    assert (ROOT / "params.yaml").read_bytes() == before


def test_a_stage_that_fails_is_named_with_its_error(tiny_data):
    with pytest.raises(UserError, match=r"scratch/mlp_relu .* failed: .*learning_rate"):
        bench.run("scratch/mlp_relu", tiny_data, {"scratch.mlp_relu.learning_rate": -1})


def test_a_row_sums_up_its_runs(monkeypatch):
    def epochs(*accuracies):
        return [{"validation_accuracy": a} for a in accuracies]

    runs = [
        bench.Run(0.985, 10.0, 1.0, 2.0, 100, 50_000, 7, epochs(0.97, 0.985)),
        bench.Run(0.995, 14.0, 3.0, 3.0, 300, 50_000, 7, epochs(0.98, 0.995)),
        bench.Run(0.985, 12.0, 2.0, 4.0, 200, 50_000, 7, epochs(0.975, 0.995)),
    ]
    queue = iter(runs)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(bench, "run", lambda model, data, changes: next(queue))
    monkeypatch.setattr(bench, "matmul_gflops", lambda: 100.0)
    row = bench.measure("pytorch/linear", 3, ROOT)
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


def test_without_held_out_images_the_test_images_say_when_an_accuracy_is_reached():
    blind = [{"validation_accuracy": None}] * 2
    assert bench.seconds_to(0.98, [bench.Run(0.985, 10.0, 1.0, 1.0, 1, 1, 1, blind)]) == 10
    assert bench.seconds_to(0.99, [bench.Run(0.985, 10.0, 1.0, 1.0, 1, 1, 1, blind)]) is None
    assert bench.seconds_to(0.98, [bench.Run(0.985, 10.0, 1.0, 1.0, 1, 1, 1, [])]) == 10


def test_multiply_adds_count_every_product_of_a_convolution(monkeypatch):
    monkeypatch.chdir(ROOT)
    first, second = 28 * 28 * 16 * 9, 14 * 14 * 32 * 16 * 9
    assert bench.multiply_adds("pytorch/cnn_dropout") == [first, second, 7 * 7 * 32 * 128, 128 * 10]
    assert bench.multiply_adds("sklearn/knn_3") == []


def test_the_published_tables_are_those_of_the_measurements(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    page, readme = bench.PAGE.read_text(encoding="utf-8"), bench.README.read_text(encoding="utf-8")
    rows = bench.read_table(bench.TABLE)
    assert [row["model"] for row in rows] == bench.models(), "run `make bench`"
    assert bench.markdown(rows, bench.COLUMNS) in page
    for table in (bench.TABLE, bench.GROWTH):
        assert f"Measured on: {bench.machines(bench.read_table(table))}." in page
    short = {head: bench.COLUMNS[head] for head in bench.README_COLUMNS}
    assert bench.BEGIN + bench.markdown(rows, short) + bench.END in readme


def test_naming_models_keeps_the_rows_of_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, text in (("TABLE", ""), ("PAGE", ""), ("README", f"a\n{bench.BEGIN}old\n{bench.END}z\n")):
        path = tmp_path / name
        path.write_text(text)
        monkeypatch.setattr(bench, name, path)
    known = {"model": "scratch/mlp_relu", "seeds": 1, "accuracy_mean": 0.98, "accuracy_sd": None}
    row = bench.Row(**(dict.fromkeys([f.name for f in fields(bench.Row)], 1.0) | known))
    bench.write([row])
    bench.write([bench.Row(**(vars(row) | {"model": "pytorch/linear", "accuracy_mean": 0.9}))])
    bench.write([bench.Row(**(vars(row) | {"accuracy_mean": 0.97}))])
    with bench.TABLE.open() as file:
        rows = [(line["model"], line["accuracy_mean"]) for line in csv.DictReader(file)]
    assert rows == [("pytorch/linear", "0.9"), ("scratch/mlp_relu", "0.97")]
    text = bench.README.read_text()
    assert text.startswith("a\n") and text.endswith("z\n") and "old" not in text
    assert text.index("`scratch/mlp_relu`") < text.index("`pytorch/linear`"), "the most accurate first"
    assert "| 97.00 |" in text, "one seed has no deviation"


@pytest.mark.parametrize("share", [0.125, 1, 2.5])
def test_more_images_than_there_are_repeat(tiny_data, tmp_path, share):
    target = tmp_path / "repeated"
    target.mkdir()
    growth.repeated(tiny_data, share, target)
    images, labels = (np.load(target / f"train_{kind}.npy") for kind in ("images", "labels"))
    assert len(images) == len(labels) == share * TRAIN
    original = np.load(tiny_data / "train_images.npy")
    np.testing.assert_array_equal(images, original[np.arange(len(images)) % TRAIN])
    assert len(np.load(target / "test_images.npy")) == TEST


def test_growth_measures_with_the_batch_size_it_names(tiny_data, monkeypatch):
    seen = {}
    history = [{"validation_accuracy": 0.9}]
    monkeypatch.setattr(
        bench, "run", lambda *a: seen.update(a[2]) or bench.Run(0.9, 1.0, 1.0, 1.0, 1, 1, 1, history)
    )
    row = growth.measure("pytorch/sprint", "batch_size", tiny_data, {"pytorch.sprint.batch_size": 32})
    assert (row["value"], row["validation_accuracy"]) == (32, 0.9)
    assert seen["pytorch.sprint.batch_size"] == 32
    assert seen["pytorch.sprint.validation_images"] == seen["data.validation_images"] == TRAIN // 12


def test_the_exponent_of_a_quadratic_growth_is_two():
    images = pd.Series([7500, 15000, 30000, 60000])
    assert growth.exponent(images, images**2 * 1e-6) == pytest.approx(2)
    assert growth.exponent(images, pd.Series([9, 1, 2, 4])) == pytest.approx(1), "the first is too small"


def test_the_picture_of_growth_is_drawn_of_the_committed_table():
    table = pd.read_csv(ROOT / bench.GROWTH)
    drawn = Image.open(BytesIO(style.png(growth.draw, table))).convert("RGB")
    committed = Image.open(ROOT / growth.PICTURE).convert("RGB")
    assert drawn.size == committed.size
    assert np.abs(np.asarray(drawn, int) - np.asarray(committed, int)).mean() < 0.5, "draw it again"
    figure = growth.draw(table)
    for axis in figure.axes:
        assert axis.get_title() and axis.get_xlabel() and axis.get_ylabel()
    models = {f"{f}/{m}" for f in results.FRAMEWORKS for m in load_params()[f]}
    assert set(table.model) <= models
    assert sorted(table.what.unique()) == ["batch_size", "images", "threads"]
    repeated = table[(table.what == "images") & (table.value > 60_000)]
    assert len(repeated) and repeated.validation_accuracy.isna().all(), (
        "the held-out images are trained on, too"
    )
