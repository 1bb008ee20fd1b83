"""data/: what describes it, and which of its images are held out."""

import sys

import numpy as np
import pytest
from conftest import MODELS, edit_json, edit_params, load_params, tiny_arrays, write_data
from pydantic import TypeAdapter

from stages import train_pytorch, train_scratch, train_sklearn, train_tensorflow
from stages.common import dataset, params, results, run
from stages.console.errors import UserError

SIZES = np.array([500, 480, 61, 30, 9, 1])
LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(6, dtype=np.uint8), SIZES))


def test_images_are_held_out_class_by_class_and_fewer_are_among_more():
    smaller = np.zeros(len(LABELS), bool)
    for count in range(len(LABELS)):
        larger = dataset.held_out(LABELS, count)
        of_classes = np.bincount(LABELS[larger], minlength=6)
        assert of_classes.sum() == count
        assert (np.abs(of_classes - SIZES * count / len(LABELS)) <= 1.5).all()
        assert not (smaller & ~larger).any()
        assert of_classes[5] == 0 or count > len(LABELS) / 3, "one of a kind is trained on"
        smaller = larger


def test_of_sorted_labels_images_of_every_class_are_drawn_from_all_over():
    places = np.flatnonzero(dataset.held_out(np.repeat(np.arange(10), 60), 100))
    np.testing.assert_array_equal(np.bincount(places // 60), np.full(10, 10))
    assert np.bincount(places % 60 // 20, minlength=3).min() > 15


@pytest.mark.parametrize("seed", [1, 2])
def test_every_model_and_seed_holds_out_the_same_images(workspace, monkeypatch, seed):
    edit_params(workspace, "seed", seed)
    for stage in (train_pytorch, train_tensorflow, train_scratch, train_sklearn):
        model = MODELS[stage.FRAMEWORK][seed]
        edit_params(workspace, f"{stage.FRAMEWORK}.{model}.validation", "1/16")
        monkeypatch.setattr(sys, "argv", ["", model])
        found = run.read(stage.FRAMEWORK, stage.Settings, None).data.validation_images
        np.testing.assert_array_equal(found, dataset.load_training(25).validation_images)


@pytest.mark.parametrize(
    ("validation", "count"),
    [("1/12", 33), ("0.1", 40), (0.25, 100), (7, 7), ("7", 7), (0, 0), (399, 399), (400, 400), (0.999, 400)],
)
def test_a_count_or_a_share_is_held_out_and_the_rest_is_trained_on(workspace, validation, count):
    wanted = TypeAdapter(params.Validation).validate_python(validation)
    if count == 400:
        with pytest.raises(UserError, match=r"validation .* is 400, but there are 400 .*: .* at most 399"):
            dataset.load_training(wanted)
        return
    split, arrays = dataset.load_training(wanted), tiny_arrays()
    apart = dataset.held_out(arrays["train_labels"], count)
    assert apart.sum() == count
    for kind in ("images", "labels"):
        np.testing.assert_array_equal(getattr(split, f"validation_{kind}"), arrays[f"train_{kind}"][apart])
        np.testing.assert_array_equal(getattr(split, f"train_{kind}"), arrays[f"train_{kind}"][~apart])


def test_150_images_work_as_the_project_is(run_stage, workspace):
    write_data(workspace, tiny_arrays(150, 50))
    run_stage("train_scratch", "mlp_relu", **{"data.validation": load_params()["data"]["validation"]})
    description = results.load_description("scratch", "mlp_relu")
    assert (description.training_images, description.validation_images) == (138, 12)


NOT_DESCRIBED = r"dataset\.json does not describe a data set: "


@pytest.mark.parametrize(
    ("part", "change", "complaint"),
    [
        ("dataset", {"classes": ["a"]}, f"{NOT_DESCRIBED}classes(: | is )"),
        ("dataset", {"classes": list(map(str, range(101)))}, f"{NOT_DESCRIBED}classes(: | is )"),
        ("dataset", {"classes": ["a", "b", "a"]}, f"{NOT_DESCRIBED}classes is .*: two have the same name"),
        ("dataset", {"classes": ["a", " b"]}, rf"{NOT_DESCRIBED}classes\.1 is "),
        ("dataset", {"image_size": [28, 65]}, rf"{NOT_DESCRIBED}image_size\.1 is "),
        ("dataset", {"ground": 256}, f"{NOT_DESCRIBED}ground is "),
        ("dataset", {"counts": {"train": 400}}, rf"{NOT_DESCRIBED}counts\.test is missing"),
        ("dataset", {"license": "none"}, f"{NOT_DESCRIBED}license is unknown; allowed: "),
        ("train_labels", np.full(400, 10, "u1"), r"train_labels\.npy holds the label 10; allowed: 0 to 9"),
        ("train_labels", np.zeros(399, "u1"), "holds 400 images, but train_labels.npy 399 labels: `dvc"),
        ("train_images", np.zeros((400, 28, 29), "u1"), r"uint8 \(400, 28, 29\), not uint8 \(n, 28, 28\)"),
        ("train_images", np.zeros((0, 28, 28), "u1"), r"train_images\.npy holds no images"),
    ],
)
def test_what_does_not_fit_in_the_data_is_named(workspace, part, change, complaint):
    if part == "dataset":
        edit_json(workspace / "data/dataset.json", **change)
    else:
        np.save(f"data/{part}.npy", change)
    with pytest.raises(UserError, match=f"^data/[^\n]*{complaint}[^\n]*$"):
        dataset.load_training(0)
