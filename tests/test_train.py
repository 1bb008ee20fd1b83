"""Every model of params.yaml, trained for one epoch on tiny data by the real stages."""

import csv
import itertools
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from conftest import ROOT, TEST, TRAIN, command, edit_params, load_params, models, tiny_arrays
from pydantic import TypeAdapter
from safetensors.numpy import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages import train_pytorch, train_tensorflow
from stages.common import dataset, environment, params, results, training
from stages.common.architecture import Architecture
from stages.common.command import UserError
from stages.models import lightgbm, pytorch, scratch, sklearn, tensorflow

NETWORKS = [(f, name) for f in ("pytorch", "tensorflow", "scratch") for name in models(f)]
EVERY = [*NETWORKS, *(("sklearn", name) for name in models("sklearn"))]
build = partial(sklearn.build, library=sklearn)
MODULES = {"pytorch": pytorch, "tensorflow": tensorflow, "scratch": scratch}


def outputs(framework: str, model: str) -> dict[str, bytes]:
    """The bytes of everything that training leaves, but the timings."""
    kinds = {"predictions": "npy", "history": "csv", "losses": "npy", "cards": "json"}
    paths = [results.path(kind, framework, model, extension) for kind, extension in kinds.items()]
    paths.append(results.weights(framework, model))
    return {str(path): path.read_bytes() for path in paths if path.exists()}


def predictions(framework: str, model: str) -> np.ndarray:
    return np.load(results.path("predictions", framework, model, "npy"))


def views(pixels: np.ndarray, settings: dict[str, Any]) -> list[np.ndarray]:
    shift, (background, _) = settings.get("prediction_shift", 0), settings["pixel_range"]
    return training.views(pixels, SimpleNamespace(prediction_shift=shift, pixel_range=(background, None)))


@pytest.mark.parametrize(("framework", "model"), EVERY)
def test_a_model_learns_repeats_and_comes_back_from_its_file(run_stage, framework, model):
    run_stage(f"train_{framework}", model)
    probabilities = predictions(framework, model)
    assert probabilities.shape == (TEST, 10)
    assert probabilities.dtype == np.float32
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)

    card = json.loads(results.path("cards", framework, model, "json").read_text())
    settings = params.read(f"{framework}.{model}", dict)
    held_out = 0 if framework == "sklearn" else settings.get("validation_images", 40)
    assert card["training_images"] == TRAIN - held_out
    assert card["parameters"] > 0
    assert card["recipe"] == settings
    assert (card["layers"] is None) == (framework == "sklearn")
    timings = json.loads(results.path("timings", framework, model, "json").read_text())
    assert list(timings) == ["device", "training_seconds", "prediction_seconds"]
    assert not list(results.OUTPUTS.rglob("*.partial*"))

    first = outputs(framework, model)
    assert len(first) == (3 if framework == "sklearn" else 5)
    run_stage(f"train_{framework}", model)
    assert outputs(framework, model) == first, "the same seed gives other bytes"

    path = results.weights(framework, model)
    if framework == "sklearn":
        library = import_module(f"stages.models.{settings['library']}")
        loaded, predict = sklearn.load(path, library), sklearn.predict_proba
    else:
        layers = params.read(f"architectures.{settings['architecture']}", Architecture)
        loaded, predict = MODULES[framework].load(layers, path), MODULES[framework].predict_proba
    pixels = dataset.scale_pixels(tiny_arrays()["test_images"], settings["pixel_range"])
    if levels := settings.get("gray_levels"):
        pixels = np.floor(np.floor(pixels * levels / 256) * 255 / (levels - 1))
    expected = np.mean([predict(loaded, view) for view in views(pixels, settings)], axis=0)
    np.testing.assert_array_equal(expected.astype(np.float32), probabilities)


@pytest.mark.parametrize(("framework", "model"), NETWORKS)
def test_the_loss_falls(run_stage, framework, model):
    changes = {"epochs": 3, "validation_images": 40, "label_smoothing": 0}  # plain, to be comparable
    run_stage(f"train_{framework}", model, **{f"{framework}.{model}.{k}": v for k, v in changes.items()})
    with results.path("history", framework, model, "csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    for column in ("train_loss", "validation_loss"):
        losses = [float(row[column]) for row in history]
        assert losses[-1] < losses[0]
    for column in ("train_accuracy", "validation_accuracy"):
        assert all(0 <= float(row[column]) <= 1 for row in history)
    losses = np.load(results.path("losses", framework, model, "npy"))
    assert (losses.dtype, losses.shape) == (np.float32, (3 * 18,)), "360 images in batches of 20"
    for row, of_epoch in zip(history, losses.reshape(3, 18), strict=True):
        assert of_epoch.mean() == pytest.approx(float(row["train_loss"]), rel=1e-4)


@pytest.mark.parametrize(
    ("framework", "model"),
    [
        ("pytorch", "cnn_dropout"),
        ("tensorflow", "cnn"),
        ("scratch", "mlp_relu"),
        ("sklearn", "random_forest"),
    ],
)
def test_another_seed_gives_another_model(run_stage, framework, model):
    run_stage(f"train_{framework}", model)
    first = predictions(framework, model)
    run_stage(f"train_{framework}", model, seed=1)
    assert not np.array_equal(predictions(framework, model), first)


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow", "scratch"])
def test_a_network_trains_on_all_images_when_none_are_held_out(run_stage, framework):
    model = models(framework)[0]
    run_stage(f"train_{framework}", model, **{f"{framework}.{model}.validation_images": 0})
    card = json.loads(results.path("cards", framework, model, "json").read_text())
    assert card["training_images"] == TRAIN
    with results.path("history", framework, model, "csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["validation_loss"] == row["validation_accuracy"] == ""
    assert float(row["train_loss"]) > 0


@pytest.mark.parametrize(
    ("framework", "optimizer"),
    [
        *itertools.product(["pytorch", "tensorflow", "scratch"], ["sgd", "adam"]),
        ("pytorch", "muon"),
    ],
)
def test_a_diverging_network_is_named_with_its_epoch_and_writes_nothing(run_stage, framework, optimizer):
    model = models(framework)[-1]
    entry = f"{framework}.{model}"
    with pytest.raises(UserError, match=rf"{entry}: the loss became \S+ in epoch 1; lower {entry}.learning"):
        run_stage(
            f"train_{framework}",
            model,
            **{
                f"{entry}.momentum": 0,
                f"{entry}.learning_rate": 1e9,
                f"{entry}.optimizer": optimizer,
                f"{entry}.schedule": "constant",
            },
        )
    assert not results.OUTPUTS.exists()


@pytest.mark.parametrize("layers", [[{"dense": 10}], [{"dense": 8}, "batch_norm", "relu", {"dense": 10}]])
def test_muon_moves_every_weight_of_networks_with_hidden_layers_and_without(run_stage, layers):
    run_stage(
        "train_pytorch", "linear", **{"architectures.linear": layers, "pytorch.linear.optimizer": "muon"}
    )
    trained = load_file(results.weights("pytorch", "linear"))
    torch.manual_seed(load_params()["seed"])
    network = pytorch.build(TypeAdapter(Architecture).validate_python(layers))
    for name, first in network.named_parameters():
        assert not np.array_equal(trained[name], first.detach().numpy()), name


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_device_that_is_not_there_is_refused(run_stage, framework):
    with pytest.raises(UserError, match=r"device is 'tpu'; allowed here: auto, .*cpu"):
        run_stage(f"train_{framework}", models(framework)[0], device="tpu")


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow", "scratch"])
def test_weights_of_another_architecture_or_no_weights_are_refused(run_stage, framework):
    model = models(framework)[-1]
    run_stage(f"train_{framework}", model)
    path = results.weights(framework, model)
    other = TypeAdapter(Architecture).validate_python([{"dense": 7}, "relu", {"dense": 10}])
    with pytest.raises(UserError, match=model):
        MODULES[framework].load(other, path)
    layers = params.read(
        f"architectures.{params.read(f'{framework}.{model}.architecture', str)}", Architecture
    )
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=model):
        MODULES[framework].load(layers, path)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match=model):
        MODULES[framework].load(layers, path)


def test_numbers_of_another_type_are_no_weights(run_stage):
    import h5py
    import torch
    from safetensors.torch import load_file, save_file

    layers = TypeAdapter(Architecture).validate_python([{"dense": 10}])
    path = Path("weights.safetensors")
    pytorch.save(pytorch.build(layers), path)
    save_file({name: tensor.to(torch.int64) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(UserError, match=r"weights.safetensors .* torch.int64, not torch.float32"):
        pytorch.load(layers, path)

    path = Path("network.weights.h5")
    tensorflow.save(tensorflow.build(layers), path)
    secret = Path("secret")
    secret.write_bytes(b"s" * 40)
    for replacement, complaint in [
        ({"data": np.arange(10)}, "int64, not float32"),
        ({"data": [b"abc"] * 10}, "object, not float32"),
        ({"data": np.zeros(9, np.float32)}, "shape"),
        ({"shape": (10,), "dtype": "f4", "external": [(str(secret), 0, 40)]}, "Not allowed"),
    ]:
        with h5py.File(path, "r+") as file:
            del file["layers/dense/vars/1"]
            file.create_dataset("layers/dense/vars/1", **replacement)
        with pytest.raises(UserError, match=rf"network.weights.h5 .*{complaint}"):
            tensorflow.load(layers, path)


@pytest.mark.parametrize(
    ("edits", "complaint"),
    [
        (
            {"estimator": "os.system"},
            "'os.system' is unknown; allowed with library: neighbors is the dotted path of a class in sk",
        ),
        ({"estimator": "sklearn.neighbors.KNN"}, "'sklearn.neighbors.KNN' is unknown; allowed"),
        ({"estimator": "sklearn.linear_model.LinearRegression", "arguments": {}}, "is no classifier"),
        (
            {"library": "xgboost"},
            r"sklearn\.knn_3\.library is 'xgboost': .*'sklearn', 'lightgbm' or 'neighbors'",
        ),
        (
            {"estimator": "lightgbm.LGBMClassifier"},
            "'lightgbm.LGBMClassifier' is unknown; allowed with library: neighbors is the dotted path",
        ),
        ({"estimator": "stages.models.neighbors.KNN"}, "'stages.models.neighbors.KNN' is unknown; allowed"),
        ({"arguments": {"n_neighbors": {"estimator": "os.system"}}}, "'os.system' is unknown; allowed"),
        (
            {"arguments": {"n_neighbors": {"estimator": "sklearn.svm.SVC", "argument": {}}}},
            "sklearn.svm.SVC: 'argument' is unknown; allowed: estimator, arguments",
        ),
        (
            {"arguments": {"n_neighbors": {"estimator": "sklearn.svm.SVC", "arguments": {"c": 1}}}},
            "sklearn.svm.SVC has no argument 'c'; allowed: C, break_ties",
        ),
        (
            {
                "estimator": "sklearn.ensemble.BaggingClassifier",
                "arguments": {"estimator": "sklearn.svm.SVC"},
            },
            r"BaggingClassifier: its estimator is 'sklearn.svm.SVC'; allowed: \{estimator: a dotted path",
        ),
        ({"arguments": {"n_neighbours": 3}}, "no argument 'n_neighbours'; allowed: n_neighbors"),
        ({"arguments": {"n_neighbors": 0}}, r"params\.yaml: sklearn\.knn_3: .*'n_neighbors'.*Got 0"),
        ({"pixel_range": [0, 1]}, "whole numbers from 0 to 255: let pixel_range be"),
        ({"estimator": "sklearn.svm.LinearSVC", "arguments": {}}, "gives no probabilities"),
        (
            {"estimator": "sklearn.pipeline.Pipeline", "arguments": {}},
            "Pipeline: .*missing 1 required .*'steps'",
        ),
        (
            {"library": "lightgbm", "estimator": "lightgbm.LGBMClassifier", "arguments": {"n_estimater": 3}},
            "LGBMClassifier has no argument 'n_estimater'; allowed: boosting_type, .* and lightgbm's own",
        ),
        (
            {
                "library": "lightgbm",
                "estimator": "lightgbm.LGBMClassifier",
                "arguments": {"learning_rate": -1, "verbose": -1},
            },
            r"params\.yaml: sklearn\.knn_3: LightGBMError: .*learning_rate",
        ),
        (
            {"library": "lightgbm", "estimator": "lightgbm.LGBMClassifier", "arguments": {"nthread": 3}},
            "LGBMClassifier has no argument 'nthread'",
        ),
        ({"arguments": {"n_neighbors": True}}, "'n_neighbors' must be a whole number from 1"),
        (
            {"estimator": "sklearn.naive_bayes.CategoricalNB", "arguments": {}},
            r"params\.yaml: sklearn\.knn_3: IndexError: index",
        ),
        (
            {"estimator": "sklearn.pipeline.Pipeline", "arguments": {"steps": "abc"}},
            r"params\.yaml: sklearn\.knn_3: ",
        ),
        (
            {"estimator": "sklearn.pipeline.Pipeline", "arguments": {"steps": [], "memory": "cache"}},
            r"sklearn\.knn_3: sklearn\.pipeline\.Pipeline: memory would keep results where DVC does not see",
        ),
        (
            {"estimator": "sklearn.ensemble.RandomForestClassifier", "arguments": {"n_jobs": 2}},
            r"sklearn\.knn_3: sklearn\.ensemble\.RandomForestClassifier: n_jobs is what `threads` decides",
        ),
        *(
            (
                {
                    "estimator": "sklearn.ensemble.BaggingClassifier",
                    "arguments": {
                        "estimator": {
                            "estimator": "sklearn.tree.DecisionTreeClassifier",
                            "arguments": arguments,
                        }
                    },
                },
                r"sklearn\.knn_3: sklearn\.tree\.DecisionTreeClassifier: its arguments are .*; allowed: \{",
            )
            for arguments in (["max_depth"], 5)
        ),
    ],
)
def test_an_impossible_estimator_is_refused(run_stage, edits, complaint):
    with pytest.raises(UserError, match=complaint):
        run_stage("train_sklearn", "knn_3", **{f"sklearn.knn_3.{key}": value for key, value in edits.items()})
    assert not results.OUTPUTS.exists()


def test_without_a_random_state_of_its_own_a_classifier_gets_the_pipelines_seed():
    for arguments, expected in (({}, 3), ({"random_state": None}, 3), ({"random_state": 0}, 0)):
        classifier = build("sklearn.ensemble.RandomForestClassifier", arguments, seed=3)
        assert classifier.random_state == expected


def test_a_classifier_that_cannot_learn_one_class_alone_says_so(run_stage):
    np.save("data/train_labels.npy", np.full(400, 7, np.uint8))
    with pytest.raises(UserError, match="it predicts 2 classes, but the training images show 1"):
        run_stage("train_sklearn", "boosted_trees")


def test_a_classifier_that_could_not_be_loaded_again_is_not_saved(run_stage):
    entry = {"estimator": "sklearn.gaussian_process.GaussianProcessClassifier", "arguments": {}}
    complaint = r"params\.yaml: sklearn\.knn_3: it would be saved with sklearn\.gaussian_process\..*choose"
    with pytest.raises(UserError, match=complaint):
        run_stage("train_sklearn", "knn_3", **{f"sklearn.knn_3.{key}": value for key, value in entry.items()})
    assert not any(path.is_file() for path in results.OUTPUTS.rglob("*"))


TREE = {"estimator": "sklearn.tree.DecisionTreeClassifier"}
FOREST = {"estimator": "sklearn.ensemble.RandomForestClassifier", "arguments": {"max_depth": 4}}
LINEAR_MACHINE = {"estimator": "sklearn.svm.LinearSVC", "arguments": {"loss": "hinge"}}


@pytest.mark.parametrize(
    ("estimator", "arguments"),
    [
        ("sklearn.calibration.CalibratedClassifierCV", {"cv": 2, "estimator": LINEAR_MACHINE}),
        (
            "sklearn.model_selection.GridSearchCV",
            {"cv": 2, "estimator": TREE, "param_grid": {"max_depth": [2, 3]}},
        ),
        ("sklearn.ensemble.GradientBoostingClassifier", {"init": FOREST, "n_estimators": 1, "max_depth": 1}),
        ("sklearn.ensemble.BaggingClassifier", {"estimator": FOREST, "n_estimators": 2, "oob_score": True}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # some machines do not converge
def test_parts_fitted_side_by_side_repeat_to_the_bit(run_stage, estimator, arguments):
    entry = {"library": "sklearn", "estimator": estimator, "pixel_range": [0, 1], "arguments": arguments}
    edits = {"sklearn.random_forest": entry}
    run_stage("train_sklearn", "random_forest", **edits)
    first = outputs("sklearn", "random_forest")
    for _ in range(3):
        run_stage("train_sklearn", "random_forest", **edits)
        assert outputs("sklearn", "random_forest") == first


def test_a_card_holds_what_yaml_knows_and_json_does_not(run_stage):
    entry = {"library": "sklearn", "estimator": "sklearn.linear_model.LogisticRegression"}
    entry |= {"pixel_range": [0, 1], "arguments": {"C": float("inf"), "tol": 10.0}}
    run_stage("train_sklearn", "knn_3", **{"sklearn.knn_3": entry})
    assert results.load_card("sklearn", "knn_3")["recipe"]["arguments"] == {"C": "Infinity", "tol": 10.0}


def test_lightgbm_takes_the_threads_of_all_models_and_repeats():
    classifier = build("lightgbm.LGBMClassifier", {}, seed=0, library=lightgbm)
    assert (classifier.n_jobs, classifier.get_params()["deterministic"]) == (0, True)


def test_probabilities_that_do_not_sum_to_one_are_refused(run_stage):
    entry = {"library": "lightgbm", "estimator": "lightgbm.LGBMClassifier", "pixel_range": [0, 255]}
    entry["arguments"] = {"objective": "multiclassova", "n_estimators": 2, "verbose": -1}
    with pytest.raises(UserError, match=r"^params\.yaml: sklearn\.knn_3: its probabilities do not sum to 1"):
        run_stage("train_sklearn", "knn_3", **{"sklearn.knn_3": entry})
    assert not any(path.is_file() for path in results.OUTPUTS.rglob("*"))


def test_parameters_are_counted_in_every_part_of_a_classifier():
    generator = np.random.default_rng(0)
    rows, labels = generator.random((60, 9)), np.arange(60) % 3
    regression = {"estimator": "sklearn.linear_model.LogisticRegression"}
    components = {"estimator": "sklearn.decomposition.PCA", "arguments": {"n_components": 4}}
    pipeline = {"estimator": "sklearn.pipeline.Pipeline"}
    pipeline["arguments"] = {"steps": [["components", components], ["regression", regression]]}
    boosting = {"n_estimators": 2, "num_leaves": 3, "min_child_samples": 1, "verbose": -1}
    cases = [
        ("sklearn.linear_model.LogisticRegression", {}, 3 * 9 + 3),
        ("sklearn.pipeline.Pipeline", pipeline["arguments"], (4 * 9 + 9) + (3 * 4 + 3)),
        ("lightgbm.LGBMClassifier", boosting, 2 * 3 * 5),
        ("sklearn.naive_bayes.GaussianNB", {}, None),
    ]
    for estimator, arguments, expected in cases:
        library = lightgbm if estimator.startswith("lightgbm") else sklearn
        classifier = build(estimator, arguments, seed=0, library=library).fit(rows, labels)
        assert sklearn.parameter_count(classifier) == expected, estimator
    calibrated = build(
        "sklearn.calibration.CalibratedClassifierCV",
        {"estimator": pipeline, "ensemble": False, "cv": 2},
        seed=0,
    )
    assert sklearn.parameter_count(calibrated.fit(rows, labels)) == (4 * 9 + 9) + (3 * 4 + 3)
    machine = build("sklearn.svm.SVC", {"probability": True, "kernel": "linear"}, seed=0)
    vectors = len(machine.fit(rows, labels).support_)
    assert sklearn.parameter_count(machine) == vectors * 9 + 2 * vectors + 3
    stump = {"estimator": "sklearn.tree.DecisionTreeClassifier", "arguments": {"max_depth": 1}}
    stack = {"estimators": [["stump", stump]], "final_estimator": regression, "cv": 2}
    stacked = build("sklearn.ensemble.StackingClassifier", stack, seed=0).fit(rows, labels)
    assert sklearn.parameter_count(stacked) == 3 + (3 * 3 + 3)
    search = {"estimator": stump, "param_grid": {"max_depth": [1]}, "cv": 2}
    best = build("sklearn.model_selection.GridSearchCV", search, seed=0).fit(rows, labels)
    assert sklearn.parameter_count(best) == 3
    boosting = {"n_estimators": 4, "max_depth": 1}
    boosted = build("sklearn.ensemble.GradientBoostingClassifier", boosting, seed=0)
    assert sklearn.parameter_count(boosted.fit(rows, labels)) == 4 * 3 * 3
    steps = {"steps": [["nothing", "passthrough"], ["regression", regression]]}
    assert sklearn.parameter_count(build("sklearn.pipeline.Pipeline", steps, 0).fit(rows, labels)) is None


def test_a_class_that_no_training_image_shows_has_probability_zero(run_stage, workspace):
    arrays = tiny_arrays()
    kept = arrays["train_labels"] != 4
    for part in ("train_images", "train_labels"):
        np.save(workspace / "data" / f"{part}.npy", arrays[part][kept])
    run_stage("train_sklearn", "knn_3")
    probabilities = predictions("sklearn", "knn_3")
    assert (probabilities[:, 4] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


FEW_COMPONENTS = {
    "estimator": "sklearn.pipeline.Pipeline",
    "arguments": {
        "steps": [
            ["components", {"estimator": "sklearn.decomposition.PCA", "arguments": {"n_components": 20}}],
            ["regression", {"estimator": "sklearn.linear_model.LogisticRegression"}],
        ]
    },
}


@pytest.mark.parametrize(
    ("estimator", "arguments"),
    [
        ("sklearn.neighbors.KNeighborsClassifier", {"algorithm": "ball_tree", "metric": "manhattan"}),
        ("sklearn.neural_network.MLPClassifier", {"solver": "sgd", "max_iter": 2}),
        (
            "sklearn.semi_supervised.SelfTrainingClassifier",
            {"estimator": {"estimator": "sklearn.naive_bayes.GaussianNB"}},
        ),
        (
            "sklearn.ensemble.VotingClassifier",
            {"voting": "soft", "estimators": [["bayes", {"estimator": "sklearn.naive_bayes.GaussianNB"}]]},
        ),
        ("sklearn.ensemble.VotingClassifier", {"voting": "soft", "estimators": [["few", FEW_COMPONENTS]]}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # two epochs do not converge, no image is without a label
def test_what_is_saved_loads_again(tmp_path, estimator, arguments):
    arrays = tiny_arrays()
    classifier = build(estimator, arguments, seed=0)
    sklearn.fit(classifier, arrays["train_images"].astype(np.float32) / 255, arrays["train_labels"])
    sklearn.save(classifier, path := tmp_path / "classifier.skops", sklearn)
    pixels = arrays["test_images"].astype(np.float32) / 255
    again = sklearn.predict_proba(sklearn.load(path, sklearn), pixels)
    np.testing.assert_array_equal(again, sklearn.predict_proba(classifier, pixels))


@pytest.mark.parametrize(
    "framework",
    ["pytorch", pytest.param("tensorflow", marks=pytest.mark.slow), "scratch"],  # it tries for ten seconds
)
def test_a_network_larger_than_the_memory_is_one_line(run_stage, framework):
    model = models(framework)[0]
    architecture = load_params()[framework][model]["architecture"]
    layers = [{"dense": 2_000_000_000}, {"dense": 10}]
    with pytest.raises(
        UserError, match=rf"params\.yaml: {framework}\.{model} needs more memory than there is"
    ):
        run_stage(f"train_{framework}", model, **{f"architectures.{architecture}": layers})
    assert not results.OUTPUTS.exists()


def test_a_skops_file_that_wants_other_code_is_refused(tmp_path):
    import skops.io

    class Hostile:
        def __reduce__(self):
            return (tmp_path / "executed").mkdir, ()

    skops.io.dump(Hostile(), tmp_path / "a.skops")
    skops.io.dump({"a": 1}, tmp_path / "b.skops")
    (tmp_path / "c.skops").write_bytes(b"PK")
    for name in "abc":
        with pytest.raises(UserError, match=rf"{name}\.skops"):
            sklearn.load(tmp_path / f"{name}.skops", sklearn)
    assert not (tmp_path / "executed").exists()


def test_one_cycle_starts_low_peaks_once_and_ends_low():
    from stages.common.training import NetworkSettings, learning_rates

    settings = NetworkSettings(
        architecture="x", pixel_range=(0, 1), optimizer="sgd", learning_rate=0.1,
        schedule="one_cycle", batch_size=10, epochs=4,
    )  # fmt: skip
    rates = learning_rates(settings, 101)
    assert rates.shape == (4, 11)
    peak = int(rates.argmax())
    assert peak == pytest.approx(44 / 4, abs=1)
    assert (np.diff(rates.ravel()[: peak + 1]) > 0).all()
    assert (np.diff(rates.ravel()[peak:]) < 0).all()
    assert rates.max() == pytest.approx(0.1, rel=0.1)
    assert rates[-1, -1] < 0.002
    constant = learning_rates(settings.model_copy(update={"schedule": "constant"}), 101)
    assert (constant == np.float32(0.1)).all()
    assert math.prod(constant.shape) == 44


def test_too_many_held_out_images_are_refused(run_stage):
    with pytest.raises(UserError, match=r"validation_images .* is 400, but there are 400 training images"):
        run_stage("train_scratch", "mlp_relu", **{"data.validation_images": 400})


def test_a_batch_of_one_image_is_refused_where_its_mean_is_the_image(run_stage):
    with pytest.raises(UserError, match=r"pytorch\.sprint\.batch_size is 57, .* one of the 400 images"):
        run_stage(
            "train_pytorch",
            "sprint",
            **{"pytorch.sprint.batch_size": 57, "pytorch.sprint.validation_images": 0},
        )
    one_pixel = {"conv": {"filters": 2, "kernel": 3, "padding": "same", "stride": 28}}
    layers = [one_pixel, "batch_norm", "relu", {"dense": 10}]
    with pytest.raises(UserError, match=r"pytorch\.linear\.batch_size is 1, .* channels of one pixel"):
        run_stage(
            "train_pytorch", "linear", **{"architectures.linear": layers, "pytorch.linear.batch_size": 1}
        )
    run_stage("train_pytorch", "linear", **{"pytorch.linear.batch_size": 57})


FILES = {"pytorch": "network.safetensors", "tensorflow": "network.weights.h5", "scratch": "network.npz"}


@pytest.mark.parametrize("framework", FILES)
def test_damaged_weights_are_read_or_refused_but_nothing_else_happens(tmp_path, framework):
    layers = TypeAdapter(Architecture).validate_python([{"dense": 10}])
    library = {"pytorch": pytorch, "tensorflow": tensorflow, "scratch": scratch}[framework]
    path = tmp_path / FILES[framework]
    build = (
        partial(scratch.build, generator=np.random.default_rng(0))
        if framework == "scratch"
        else library.build
    )
    library.save(build(layers), path)
    refused = damage(path, lambda: library.load(layers, path), times=30 if framework == "tensorflow" else 300)
    assert refused > 10


def test_a_damaged_classifier_is_read_or_refused_but_nothing_else_happens(tmp_path):
    classifier = build("sklearn.linear_model.LogisticRegression", {}, seed=0)
    classifier.fit(np.eye(10, dtype=np.float32), np.arange(10))
    sklearn.save(classifier, path := tmp_path / "classifier.skops", sklearn)
    assert damage(path, lambda: sklearn.load(path, sklearn), times=200) > 50


def damage(path: Path, load: Callable[[], object], times: int) -> int:
    """Load a file many times, each time with a few other bytes or cut short; how often it is refused."""
    good, generator, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(times):
        content = bytearray(good)
        for place in generator.integers(0, min(len(good), 2000), generator.integers(1, 4)):
            content[place] = generator.integers(256)
        path.write_bytes(content[: len(good) if generator.random() < 0.8 else generator.integers(len(good))])
        try:
            load()
        except UserError as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
            refused += 1
    return refused


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow", "scratch"])
def test_momentum_speeds_sgd_up_and_is_refused_elsewhere(run_stage, framework):
    model = models(framework)[0]
    entry = f"{framework}.{model}"
    sgd = {f"{entry}.optimizer": "sgd", f"{entry}.learning_rate": 0.003, f"{entry}.schedule": "constant"}
    losses = []
    for momentum in (0, 0.9):
        run_stage(f"train_{framework}", model, **sgd, **{f"{entry}.momentum": momentum})
        with results.path("history", framework, model, "csv").open() as file:
            losses.append(float(list(csv.DictReader(file))[-1]["validation_loss"]))
    assert losses[1] < losses[0]
    with pytest.raises(UserError, match=rf"{entry}: momentum is an option of optimizer: sgd"):
        run_stage(f"train_{framework}", model, **{f"{entry}.momentum": 0.9, f"{entry}.optimizer": "adam"})


def test_label_smoothing_is_refused_without_one_hot_labels(run_stage):
    with pytest.raises(UserError, match=r"tensorflow\.cnn_wide: label_smoothing needs labels: one_hot"):
        run_stage("train_tensorflow", "cnn_wide", **{"tensorflow.cnn_wide.label_smoothing": 0.1})


@pytest.mark.parametrize(
    ("framework", "model"), [("pytorch", "mlp"), ("tensorflow", "cnn"), ("scratch", "mlp_relu")]
)
def test_labels_are_smoothed_in_training_alone(run_stage, framework, model):
    changes = {"label_smoothing": 0.3, "learning_rate": 1e-12, "validation_images": 40}
    run_stage(f"train_{framework}", model, **{f"{framework}.{model}.{k}": v for k, v in changes.items()})
    settings = params.read(f"{framework}.{model}", dict)
    layers = params.read(f"architectures.{settings['architecture']}", Architecture)
    module = MODULES[framework]
    network = module.load(layers, results.weights(framework, model))
    arrays = tiny_arrays()
    pixels = dataset.scale_pixels(arrays["train_images"], settings["pixel_range"])
    logarithms = np.log(module.predict_proba(network, pixels))
    labels = np.eye(10)[arrays["train_labels"]]
    with results.path("history", framework, model, "csv").open() as file:
        (row,) = csv.DictReader(file)
    smoothed = -((0.7 * labels + 0.03) * logarithms).sum(axis=1)[:-40].mean()
    plain = -(labels * logarithms).sum(axis=1)[-40:].mean()
    assert float(row["train_loss"]) == pytest.approx(smoothed, rel=1e-4)
    assert float(row["validation_loss"]) == pytest.approx(plain, rel=1e-4)


def moved(images: np.ndarray, monkeypatch, **limits: float) -> np.ndarray:
    """The images after an augmentation that goes to its limits, all to the same side."""
    monkeypatch.setattr(torch, "rand", torch.ones)
    limits = {"rotation": 0, "scale": 0, "shear": 0, "shift": 0} | limits
    tensor = pytorch.to_tensor(images, torch.device("cpu"))
    result = train_pytorch.augment(tensor, train_pytorch.Augmentation(**limits), float(images[0, 0, 0]))
    assert result.shape == tensor.shape and result.stride() == tensor.stride()
    return result.numpy()[:, 0]


@pytest.fixture
def blob() -> np.ndarray:
    """Three images, -1 but for a lopsided patch in the middle."""
    images = np.full((3, 28, 28), -1, np.float32)
    images[:, 10:16, 9:20] = np.random.default_rng(0).random((3, 6, 11), np.float32)
    return images


def test_augmentation_shifts_by_pixels_rotates_by_degrees_and_scales_by_shares(blob, monkeypatch):
    def close(**limits: float) -> np.ndarray:
        return moved(blob, monkeypatch, **limits)

    np.testing.assert_allclose(close(), blob, atol=1e-5)
    np.testing.assert_allclose(close(shift=2), np.roll(blob, (-2, -2), axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(close(rotation=90), np.rot90(blob, axes=(1, 2)), atol=1e-5)
    inked = [np.count_nonzero(close(scale=scale) > -0.5) for scale in (0, 0.5)]
    assert 2 < inked[1] / inked[0] < 2.9, "half as large again is 2.25 times the area"
    rows = (close(shear=0.5) > -0.99).any(axis=2)
    np.testing.assert_array_equal(rows, (blob > -0.99).any(axis=2), "a shear keeps every row's place")
    assert close(rotation=45, shift=8).min() >= -1 - 1e-5, "what comes in is background"


def test_augmentation_differs_from_image_to_image(blob):
    images = pytorch.to_tensor(np.repeat(blob[:1], 3, axis=0), torch.device("cpu"))
    limits = train_pytorch.Augmentation(rotation=10, scale=0.1, shear=0.1, shift=2)
    first, second, third = train_pytorch.augment(images, limits, -1.0)
    assert not torch.allclose(first, second) and not torch.allclose(second, third)


BOTH = pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])


@BOTH
def test_bfloat16_trains_other_weights_of_the_same_kind_that_predict_as_saved(run_stage, framework):
    path, losses = results.weights(framework, "cnn_dropout"), []
    weights, entry = {}, f"{framework}.cnn_dropout"
    for precision in ("float32", "bfloat16", "bfloat16"):
        # slowly, so that the two stay close to each other
        edits = {f"{entry}.precision": precision, f"{entry}.learning_rate": 0.001}
        run_stage(f"train_{framework}", "cnn_dropout", **edits)
        weights.setdefault(precision, path.read_bytes())
        with results.path("history", framework, "cnn_dropout", "csv").open() as file:
            losses.append(float(list(csv.DictReader(file))[-1]["train_loss"]))
    assert path.read_bytes() == weights["bfloat16"] != weights["float32"]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)
    layers = params.read("architectures.cnn_dropout", Architecture)
    pixels = dataset.scale_pixels(
        tiny_arrays()["test_images"], params.read(f"{framework}.cnn_dropout.pixel_range", list)
    )
    of_saved = MODULES[framework].predict_proba(MODULES[framework].load(layers, path), pixels)
    np.testing.assert_array_equal(of_saved, predictions(framework, "cnn_dropout"))


def test_keras_computes_in_bfloat16_in_the_block_alone_and_normalizes_in_float32(workspace):
    network = tensorflow.build(params.read("architectures.sprint", Architecture))
    images = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
    exact = network(images)
    with tensorflow.computing_in("bfloat16", network):
        assert network(images).dtype == "bfloat16"
        kinds = {layer.__class__.__name__: layer.compute_dtype for layer in network.layers}
    assert kinds.pop("BatchNormalization") == "float32"
    assert set(kinds.values()) == {"bfloat16"}
    np.testing.assert_array_equal(network(images), exact)
    assert {weights.dtype for weights in network.weights} == {"float32"}


@BOTH
def test_bfloat16_is_refused_where_the_bits_must_be_the_same_everywhere(run_stage, framework):
    edits = {f"{framework}.cnn_wide.precision": "bfloat16", "profile": "portable"}
    with pytest.raises(UserError, match=r"\.cnn_wide\.precision is 'bfloat16', .*: float32, auto$"):
        run_stage(f"train_{framework}", "cnn_wide", **edits)


@pytest.mark.parametrize(
    ("device", "has_units", "profile", "chosen"),
    [
        ("cpu", True, "fast", "bfloat16"),
        ("cpu", False, "fast", "float32"),
        ("cpu", True, "portable", "float32"),
        ("cuda", True, "fast", "bfloat16"),
        ("cuda", False, "fast", "float32"),
        ("mps", True, "fast", "float32"),
    ],
)
def test_precision_auto_goes_by_the_units_of_the_device(
    workspace, monkeypatch, device, has_units, profile, chosen
):
    edit_params(workspace, "profile", profile)
    monkeypatch.setattr(environment, "multiplies_bfloat16", lambda: has_units)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_units)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    details = {"compute_capability": (8, 0) if has_units else (7, 5)}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    of_pytorch = train_pytorch.multiplies_bfloat16(torch.device(device))
    assert of_pytorch == train_tensorflow.multiplies_bfloat16(device)
    assert training.choose_precision("auto", of_pytorch, "pytorch.mlp") == chosen


@BOTH
def test_precision_auto_trains_what_the_chosen_one_trains_and_the_timings_say_which(run_stage, framework):
    weights, places = {}, {}
    for precision in ("float32", "bfloat16", "auto"):
        edits = {f"{framework}.cnn_wide.precision": precision, "device": "cpu"}
        run_stage(f"train_{framework}", "cnn_wide", **edits)
        weights[precision] = results.weights(framework, "cnn_wide").read_bytes()
        timings = json.loads(results.path("timings", framework, "cnn_wide", "json").read_text())
        places[precision] = timings["device"]
    chosen = "bfloat16" if environment.multiplies_bfloat16() else "float32"
    assert weights["auto"] == weights[chosen]
    assert places == {"float32": "cpu", "bfloat16": "cpu, bfloat16", "auto": places[chosen]}


def test_shifted_views_are_the_image_and_its_four_neighbours(blob):
    rolled = [np.roll(blob, move, axis=(1, 2)) for move in ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2))]
    np.testing.assert_array_equal(views(blob, {"prediction_shift": 2, "pixel_range": (-1, 1)}), rolled)
    np.testing.assert_array_equal(views(blob, {"pixel_range": (-1, 1)}), [blob])


class Mixtures(TorchDispatchMode):
    """Notes the operations that mix tensors of several devices, copying apart."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        copies = "copy" in operation.__name__
        if len({tensor.device for tensor in tensors}) > 1 and not copies:
            self.found.add(operation.__name__)
        return operation(*args, **kwargs or {})


def test_training_keeps_every_tensor_on_its_device(monkeypatch):
    """On the device `meta`, which computes nothing but shapes: so a graphics card needs no other code."""
    adam = torch.optim.Adam
    monkeypatch.setattr(
        torch.optim, "Adam", lambda weights, fused: adam(weights)
    )  # fused wants a real device
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: 1.0)
    arrays = tiny_arrays()
    data = dataset.Split(
        *(arrays[f"train_{kind}"][:80] for kind in ("images", "labels")),
        *(arrays[f"train_{kind}"][80:120] for kind in ("images", "labels")),
    )
    content = load_params()
    settings = TypeAdapter(train_pytorch.Settings).validate_python(
        content["pytorch"]["champion"] | {"batch_size": 40, "epochs": 1}
    )
    layers = TypeAdapter(Architecture).validate_python(content["architectures"][settings.architecture])
    network = pytorch.build(layers).to("meta")
    with Mixtures() as mixtures:
        (epoch,), losses = train_pytorch.train(network, data, settings, "champion")
    assert not mixtures.found
    assert epoch.epoch == 1
    assert losses.shape == (2,)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}


def output_of(code: str, cwd: Path = ROOT, **environment: str) -> str:
    """What a Python program prints that runs in the project, or in another folder."""
    options = {"env": {**os.environ, **environment}, "capture_output": True, "text": True}
    run = subprocess.run([sys.executable, "-c", code], cwd=cwd, **options)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("name", ["pytorch/linear", "tensorflow/cnn", "scratch/mlp_relu"])
def test_variables_of_the_shell_change_no_result(project, name):
    """Each of these alone changed weights: fewer threads than asked for, other instructions, a compiler."""
    framework, model = name.split("/")
    weights = project / results.weights(framework, model)
    before = weights.read_bytes()
    weights.unlink()
    others = {
        "OMP_THREAD_LIMIT": "1",
        "OMP_MAX_ACTIVE_LEVELS": "0",
        "OMP_NUM_THREADS": "1",
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
        "OPENBLAS_CORETYPE": "Nehalem",
        "MKL_CBWR": "COMPATIBLE",
        "ATEN_CPU_CAPABILITY": "default",
    }
    run = command(project, f"stages.train_{framework}", model, **others)
    assert run.returncode == 0, run.stderr
    assert weights.read_bytes() == before


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the variables name instructions of x86-64")
@pytest.mark.parametrize("profile", ["fast", "portable"])
def test_variables_of_the_shell_change_no_operation(workspace, profile):
    """Each of these changed the last bits of one of these operations, or stopped an import."""
    code = """
import hashlib
from stages.common import environment
environment.prepare()
environment.import_quietly("stages.models.tensorflow")
import numpy as np, tensorflow as tf, torch
environment.use_all_threads()
images, filters = (np.random.default_rng(0).random(s, np.float32) for s in ((8, 16, 16, 16), (3, 3, 16, 16)))
rows = images.reshape(128, -1)
as_torch = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(filters).permute(3, 2, 0, 1)
for array in (
    torch.nn.functional.conv2d(*as_torch),
    torch.from_numpy(rows) @ torch.from_numpy(rows).T,
    tf.nn.conv2d(images, filters, 1, "SAME"),
    rows @ rows.T,
    np.exp(images), images.sum(), np.tanh(images),
):
    print(hashlib.md5(np.ascontiguousarray(array)).hexdigest())
"""
    edit_params(workspace, "profile", profile)
    others = {
        "DNNL_MAX_CPU_ISA": "SSE41",
        "DNNL_DEFAULT_FPMATH_MODE": "BF16",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
        "TF_SET_ONEDNN_FPMATH_MODE": "BF16",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "NPY_ENABLE_CPU_FEATURES": "AVX2",
        "OPENBLAS_CORETYPE": "Nehalem",
    }
    project = {"cwd": workspace, "PYTHONPATH": str(ROOT)}
    assert output_of(code, **project, **others) == output_of(code, **project)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems pin no processes to processors")
def test_products_use_the_threads_of_params_on_one_processor_too():
    code = """
import os
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
from stages.common import environment
environment.prepare()
import numpy, threadpoolctl
environment.use_all_threads()
print({library["num_threads"] for library in threadpoolctl.threadpool_info()})
"""
    assert output_of(code).strip() == str({load_params()["threads"]})


@pytest.mark.slow
def test_the_user_s_own_keras_configuration_changes_nothing(tmp_path):
    configuration = {
        "floatx": "float16",
        "epsilon": 0.1,
        "backend": "jax",
        "image_data_format": "channels_first",
    }
    (tmp_path / "keras.json").write_text(json.dumps(configuration))
    code = """
from stages.models.tensorflow import keras
print(keras.config.floatx(), keras.config.epsilon(), keras.config.backend(), keras.config.image_data_format())
"""
    assert output_of(code, KERAS_HOME=str(tmp_path)) == "float32 1e-07 tensorflow channels_last\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere LightGBM brings or asks for its own")
def test_lightgbm_gets_a_libgomp_where_the_system_has_none():
    hiding = """
import ctypes
real = ctypes.CDLL
def without_system(name, *arguments, **options):
    if name == "libgomp.so.1":
        raise OSError("hidden")
    return real(name, *arguments, **options)
ctypes.CDLL = without_system
from stages.models import lightgbm
print(open("/proc/self/maps").read())
"""
    assert "torch/lib/libgomp.so.1" in output_of(hiding)
