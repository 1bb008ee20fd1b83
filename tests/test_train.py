"""Every model of params.yaml, trained for one epoch on tiny data by the real stages."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import TEST, TRAIN, models, tiny_arrays
from pydantic import TypeAdapter

from stages.common import dataset, params, results
from stages.common.architecture import Architecture
from stages.common.command import UserError
from stages.models import pytorch, scratch, sklearn, tensorflow

NETWORKS = [(f, name) for f in ("pytorch", "tensorflow", "scratch") for name in models(f)]
EVERY = [*NETWORKS, *(("sklearn", name) for name in models("sklearn"))]
EXTENSIONS = {"pytorch": "safetensors", "tensorflow": "weights.h5", "scratch": "npz", "sklearn": "skops"}
MODULES = {"pytorch": pytorch, "tensorflow": tensorflow, "scratch": scratch}


def outputs(framework: str, model: str) -> dict[str, bytes]:
    """The bytes of everything that training leaves, but the timings."""
    kinds = {"models": EXTENSIONS[framework], "predictions": "npy", "history": "csv", "cards": "json"}
    paths = [results.path(kind, framework, model, extension) for kind, extension in kinds.items()]
    return {str(path): path.read_bytes() for path in paths if path.exists()}


def predictions(framework: str, model: str) -> np.ndarray:
    return np.load(results.path("predictions", framework, model, "npy"))


@pytest.mark.parametrize(("framework", "model"), EVERY)
def test_a_model_learns_repeats_and_comes_back_from_its_file(run_stage, framework, model):
    run_stage(f"train_{framework}", model)
    probabilities = predictions(framework, model)
    assert probabilities.shape == (TEST, 10)
    assert probabilities.dtype == np.float32
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)

    card = json.loads(results.path("cards", framework, model, "json").read_text())
    assert card["training_images"] == (TRAIN if framework == "sklearn" else TRAIN - 40)
    assert card["parameters"] > 0
    timings = json.loads(results.path("timings", framework, model, "json").read_text())
    assert list(timings) == ["device", "training_seconds", "prediction_seconds"]
    assert not list(results.OUTPUTS.rglob("*.partial*"))

    first = outputs(framework, model)
    assert len(first) == (3 if framework == "sklearn" else 4)
    run_stage(f"train_{framework}", model)
    assert outputs(framework, model) == first, "the same seed gives other bytes"

    path = results.path("models", framework, model, EXTENSIONS[framework])
    if framework == "sklearn":
        settings = params.read(f"sklearn.{model}", dict)
        loaded, predict = sklearn.load(path), sklearn.predict_proba
    else:
        settings = params.read(f"{framework}.{model}", dict)
        layers = params.read(f"architectures.{settings['architecture']}", Architecture)
        loaded, predict = MODULES[framework].load(layers, path), MODULES[framework].predict_proba
    pixels = dataset.scale_pixels(tiny_arrays()["test_images"], settings["pixel_range"])
    if levels := settings.get("gray_levels"):
        pixels = np.floor(np.floor(pixels * levels / 256) * 255 / (levels - 1))
    np.testing.assert_array_equal(predict(loaded, pixels).astype(np.float32), probabilities)


@pytest.mark.parametrize(("framework", "model"), NETWORKS)
def test_the_loss_falls(run_stage, framework, model):
    run_stage(f"train_{framework}", model, **{f"{framework}.{model}.epochs": 3})
    with results.path("history", framework, model, "csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    for column in ("train_loss", "validation_loss"):
        losses = [float(row[column]) for row in history]
        assert losses[-1] < losses[0]
    for column in ("train_accuracy", "validation_accuracy"):
        assert all(0 <= float(row[column]) <= 1 for row in history)


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


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("framework", ["pytorch", "tensorflow", "scratch"])
def test_a_diverging_network_is_named_with_its_epoch_and_writes_nothing(run_stage, framework, optimizer):
    model = models(framework)[-1]
    entry = f"{framework}.{model}"
    options = {f"{entry}.momentum": None} if framework == "scratch" else {}  # it is of sgd alone
    with pytest.raises(UserError, match=rf"{entry}: the loss became \S+ in epoch 1; lower {entry}.learning"):
        run_stage(
            f"train_{framework}",
            model,
            **options,
            **{
                f"{entry}.learning_rate": 1e9,
                f"{entry}.optimizer": optimizer,
                f"{entry}.schedule": "constant",
            },
        )
    assert not results.OUTPUTS.exists()


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_device_that_is_not_there_is_refused(run_stage, framework):
    with pytest.raises(UserError, match=r"device is 'tpu'; allowed here: auto, .*cpu"):
        run_stage(f"train_{framework}", models(framework)[0], device="tpu")


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow", "scratch"])
def test_weights_of_another_architecture_or_no_weights_are_refused(run_stage, framework):
    model = models(framework)[-1]
    run_stage(f"train_{framework}", model)
    path = results.path("models", framework, model, EXTENSIONS[framework])
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
        ({"estimator": "os.system"}, "'os.system' is no classifier; allowed"),
        ({"estimator": "sklearn.neighbors.KNN"}, "'sklearn.neighbors.KNN' is no classifier"),
        ({"estimator": "sklearn.linear_model.LinearRegression"}, "is no classifier"),
        ({"estimator": "stages.models.neighbors.KNN"}, "'stages.models.neighbors.KNN' is no classifier"),
        ({"arguments": {"n_neighbours": 3}}, "no argument 'n_neighbours'; allowed: n_neighbors"),
        ({"arguments": {"n_neighbors": 0}}, "params.yaml: sklearn.knn_3.arguments: .*'n_neighbors'.*Got 0"),
        ({"pixel_range": [0, 1]}, "whole numbers from 0 to 255: let pixel_range be"),
        ({"estimator": "sklearn.svm.LinearSVC", "arguments": {}}, "gives no probabilities"),
    ],
)
def test_an_impossible_estimator_is_refused(run_stage, edits, complaint):
    with pytest.raises(UserError, match=complaint):
        run_stage("train_sklearn", "knn_3", **{f"sklearn.knn_3.{key}": value for key, value in edits.items()})
    assert not results.OUTPUTS.exists()


def test_a_class_that_no_training_image_shows_has_probability_zero(run_stage, workspace):
    arrays = tiny_arrays()
    kept = arrays["train_labels"] != 4
    for part in ("train_images", "train_labels"):
        np.save(workspace / "data" / f"{part}.npy", arrays[part][kept])
    run_stage("train_sklearn", "knn_3")
    probabilities = predictions("sklearn", "knn_3")
    assert (probabilities[:, 4] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


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
            sklearn.load(tmp_path / f"{name}.skops")
    assert not (tmp_path / "executed").exists()


def test_the_same_schedule_starts_low_peaks_once_and_ends_low():
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
    with pytest.raises(UserError, match="validation_images is 400, but there are 400 training images"):
        run_stage("train_scratch", "mlp_relu", **{"data.validation_images": 400})


def test_momentum_is_refused_where_it_does_nothing(run_stage):
    with pytest.raises(UserError, match=r"scratch\.mlp_relu is .*: momentum is an option of optimizer: sgd"):
        run_stage("train_scratch", "mlp_relu", **{"scratch.mlp_relu.momentum": 0.9})
