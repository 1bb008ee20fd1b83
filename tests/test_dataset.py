"""data/: what describes it, and which of its images are held out."""

import json
import sys

import numpy as np
import pytest
from conftest import edit_params, load_params, models, tiny_arrays, write_data
from pydantic import TypeAdapter

from stages import train_pytorch, train_scratch, train_sklearn, train_tensorflow
from stages.common import dataset, params, results, run
from stages.console.errors import UserError

SIZES = 500, 480, 61, 30, 9, 1
LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(6, dtype=np.uint8), SIZES))


@pytest.mark.parametrize("count", [0, 1, 6, 90, 500, 1000, len(LABELS) - 1])
def test_images_are_held_out_class_by_class(count):
    held_out = np.bincount(LABELS[dataset.held_out(LABELS, count)], minlength=6)
    assert held_out.sum() == count
    assert (np.abs(held_out - np.array(SIZES) * count / len(LABELS)) <= 1).all()


def test_of_sorted_labels_every_class_is_held_out_and_the_images_are_drawn_from_all_over():
    places = np.flatnonzero(dataset.held_out(np.repeat(np.arange(10), 60), 100))
    np.testing.assert_array_equal(np.bincount(places // 60), np.full(10, 10))
    assert np.bincount(places % 60 // 20, minlength=3).min() > 15


def test_fewer_held_out_images_are_among_more_and_one_of_a_kind_is_trained_on():
    smaller = np.zeros(len(LABELS), bool)
    for count in range(0, len(LABELS), 7):
        larger = dataset.held_out(LABELS, count)
        assert not (smaller & ~larger).any()
        smaller = larger
    assert not dataset.held_out(LABELS, len(LABELS) // 12)[LABELS == 5].any()


@pytest.mark.parametrize("seed", [1, 2])
def test_every_model_and_seed_holds_out_the_same_images(workspace, monkeypatch, seed):
    edit_params(workspace, "seed", seed)
    for stage in (train_pytorch, train_tensorflow, train_scratch, train_sklearn):
        model = models(stage.FRAMEWORK)[seed]
        edit_params(workspace, f"{stage.FRAMEWORK}.{model}.validation", "1/16")
        params.content.cache_clear()
        monkeypatch.setattr(sys, "argv", ["", model])
        found = run.read(stage.FRAMEWORK, stage.Settings, None).data.validation_images
        arrays = tiny_arrays()
        expected = arrays["train_images"][dataset.held_out(arrays["train_labels"], 25)]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("validation", "count"), [("1/12", 33), ("0.1", 40), (0.25, 100), (7, 7), ("7", 7), (0, 0), (399, 399)]
)
def test_a_count_or_a_share_is_held_out_and_the_rest_is_trained_on(workspace, validation, count):
    split = dataset.load_training(TypeAdapter(params.Validation).validate_python(validation))
    assert (len(split.train_images), len(split.validation_images)) == (400 - count, count)
    apart = dataset.held_out(tiny_arrays()["train_labels"], count)
    for kind in ("images", "labels"):
        of_all = tiny_arrays()[f"train_{kind}"]
        np.testing.assert_array_equal(getattr(split, f"validation_{kind}"), of_all[apart])
        np.testing.assert_array_equal(getattr(split, f"train_{kind}"), of_all[~apart])


@pytest.mark.parametrize("validation", [400, 401, 0.9999])
def test_too_many_held_out_images_are_refused(run_stage, validation):
    with pytest.raises(
        UserError, match=r"validation .* is 40[01], but there are 400 training images: hold out at most 399"
    ):
        run_stage("train_scratch", "mlp_relu", **{"data.validation": validation})


def test_150_images_work_as_the_project_is(run_stage, workspace):
    write_data(workspace, tiny_arrays(150, 50))
    run_stage("train_scratch", "mlp_relu", **{"data.validation": load_params()["data"]["validation"]})
    description = results.load_description("scratch", "mlp_relu")
    assert (description.training_images, description.validation_images) == (138, 12)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("classes", ["a"], "classes: "),
        ("classes", [str(i) for i in range(101)], "classes: "),
        ("classes", ["a", "b", "a"], "two classes have the same name"),
        ("classes", ["a", " b"], r"classes\.1: "),
        ("image_size", [7, 28], r"image_size\.0: "),
        ("image_size", [28, 65], r"image_size\.1: "),
        ("ground", 256, "ground: "),
        ("ground", True, "ground: "),
        ("counts", {"train": 400}, r"counts\.test: Field required"),
        ("license", "none", "license: Extra inputs"),
    ],
)
def test_a_description_that_cannot_be_is_named(workspace, key, value, complaint):
    path = workspace / "data/dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(
        UserError, match=rf"^data/dataset\.json does not describe a data set: {complaint}[^\n]*; `dvc"
    ):
        dataset.describe()


@pytest.mark.parametrize(
    ("part", "array", "complaint"),
    [
        (
            "train_labels",
            np.full(400, 10, np.uint8),
            r"data/train_labels\.npy holds the label 10; allowed: 0 to 9",
        ),
        (
            "train_labels",
            np.zeros(399, np.uint8),
            "holds 400 images, but train_labels.npy 399 labels: `dvc repro",
        ),
        (
            "train_images",
            np.zeros((400, 28, 29), np.uint8),
            r"holds uint8 \(400, 28, 29\), not uint8 \(n, 28, 28\)",
        ),
        ("train_images", np.zeros((0, 28, 28), np.uint8), r"data/train_images\.npy holds no images"),
    ],
)
def test_arrays_that_do_not_fit_their_description_are_named(workspace, part, array, complaint):
    np.save(f"data/{part}.npy", array)
    with pytest.raises(UserError, match=complaint):
        dataset.load_training(0)
