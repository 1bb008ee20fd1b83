"""Exported models answer as the models themselves do, and say what they are."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import (
    ROOT,
    few_names,
    frameworks,
    load_architectures,
    load_params,
    models,
    tiny_arrays,
    tiny_params,
    write_data,
    write_params,
)

from stages import export
from stages.common import architecture, exported, params, results, saved, training
from stages.console.errors import UserError
from stages.exporters import classifiers, networks
from stages.exporters.graph import Graph
from stages.models import lightgbm, neighbors, scratch, sklearn

LAYERS = {
    "even kernels and strides": [
        {"conv": {"filters": 3, "kernel": 4, "padding": "same", "stride": 3}},
        "tanh",
        {"conv": {"filters": 5, "kernel": 2, "padding": "valid"}},
        "sigmoid",
        {"dense": "classes"},
    ],
    "all kinds of layers": [
        {"conv": {"filters": 4, "kernel": 3, "padding": "same"}},
        "batch_norm",
        "relu",
        {"max_pool": 2},
        {"conv": {"filters": 6, "kernel": 3, "padding": "valid"}},
        {"max_pool": 3},
        "tanh",
        {"dense": 7},
        "batch_norm",
        "sigmoid",
        {"dropout": 0.5},
        {"dense": "classes"},
        "relu",
    ],
}
"""Lists that have what those of architectures.yaml lack."""


def described(layers, size, classes, ground, recipe) -> results.Description:
    return results.Description(
        framework="scratch",
        name="some",
        recipe={"pixel_range": [-0.4, 2.8], **recipe},
        architecture=layers,
        summary="a network",
        layers="",
        classes=tuple(f"class {chr(97 + place)}" for place in range(classes)),
        image_size=size,
        ground=ground,
        parameters=1,
        training_images=2,
        validation_images=3,
    )


@pytest.mark.parametrize(
    ("size", "classes", "ground", "shift"), [((28, 28), 10, 0, 0), ((25, 31), 3, 255, 2), ((64, 22), 2, 90, 1)]
)
@pytest.mark.parametrize("name", [*LAYERS, *load_architectures()])
def test_a_network_of_any_layers_predicts_what_numpy_predicts(name, size, classes, ground, shift):
    layers = LAYERS.get(name) or load_architectures()[name]
    if classes != 10 and not any("classes" in str(layer) for layer in layers):
        pytest.fail("the last layer has a fixed number of units")
    generator = np.random.default_rng(5)
    about = described(layers, size, classes, ground, {"prediction_shift": shift})
    network = architecture.fit(architecture.parse(layers), size, classes)
    weights = {
        key: (np.abs(values) + 0.5 if key.endswith("variance") else values).astype(np.float32)
        for key, shape in architecture.weight_shapes(network).items()
        for values in [generator.normal(size=shape) / np.sqrt(np.prod(shape[:-1]) or 1)]
    }
    images = generator.integers(0, 256, (7, *size), np.uint8)
    loaded = scratch.load(network, weights)
    expected = training.predictor(lambda pixels: scratch.predict_proba(loaded, pixels), about.recipe, ground)(images)
    graph = Graph()
    output = networks.build(graph, exported.IMAGES, saved.Network(about, network, weights))
    content = graph.model(output, size, classes, exported.metadata(about, 0.75))
    found = exported.ask(content, name)
    np.testing.assert_allclose(found.predict_proba(images), expected, atol=2e-6)
    assert (found.name, found.classes, found.ground) == ("scratch/some", about.classes, ground)
    assert (found.image_size, found.sure_above, found.provenance["recipe"]) == (size, 0.75, about.recipe)


CLASSIFIERS = {name: entry for name, entry in load_params()["sklearn"].items()} | {
    "deep leaves of several classes": {
        "library": "sklearn",
        "estimator": "sklearn.ensemble.RandomForestClassifier",
        "pixel_range": [0, 1],
        "arguments": {"n_estimators": 7, "max_depth": 3},
    },
    "trees of one leaf": {
        "library": "sklearn",
        "estimator": "sklearn.ensemble.ExtraTreesClassifier",
        "pixel_range": [0, 1],
        "arguments": {"n_estimators": 3, "min_samples_split": 1000},
    },
    "two folds": {
        "library": "sklearn",
        "estimator": "sklearn.calibration.CalibratedClassifierCV",
        "pixel_range": [0, 1],
        "arguments": {"method": "temperature", "cv": 2, "estimator": {"estimator": "sklearn.svm.SVC"}},
    },
}
LIBRARIES = {"sklearn": sklearn, "lightgbm": lightgbm, "neighbors": neighbors}


def fitted(entry, arrays):
    """The classifier of an entry of params.yaml, fitted, and its library."""
    arguments = dict(entry["arguments"])
    if "n_estimators" in arguments:
        arguments["n_estimators"] = min(arguments["n_estimators"], 7)
    library = LIBRARIES[entry["library"]]
    classifier = sklearn.build(entry["estimator"], arguments, 0, library)
    sklearn.fit(classifier, sklearn.prepare(arrays["train_images"], entry), arrays["train_labels"])
    return classifier


@pytest.mark.parametrize("classes", [10, 2])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_predicts_what_its_library_predicts(name, classes):
    entry, size = CLASSIFIERS[name], (10, 12)
    arrays = tiny_arrays(classes=classes, size=size)
    classifier = fitted(entry, arrays)
    images = np.concatenate([arrays["test_images"], 255 - arrays["test_images"]])
    expected = sklearn.predict_proba(classifier, sklearn.prepare(images, entry), classes)
    graph = Graph()
    output = classifiers.build(graph, exported.IMAGES, classifier, entry, classes)
    about = described(None, size, classes, 0, entry)
    found = exported.ask(graph.model(output, size, classes, exported.metadata(about, None)), name)
    np.testing.assert_allclose(found.predict_proba(images), expected, atol=1e-5)
    assert found.sure_above is None


def test_a_class_that_no_training_image_shows_has_no_probability():
    arrays = tiny_arrays(classes=4, size=(10, 12))
    entry = CLASSIFIERS["random_forest"]
    arrays["train_labels"] = arrays["train_labels"] + (arrays["train_labels"] > 1)  # none is 2
    classifier, graph = fitted(entry, arrays), Graph()
    output = classifiers.build(graph, exported.IMAGES, classifier, entry, 5)
    about = described(None, (10, 12), 5, 0, entry)
    found = exported.ask(graph.model(output, (10, 12), 5, exported.metadata(about, None)), "forest")
    probabilities = found.predict_proba(arrays["test_images"])
    expected = sklearn.predict_proba(classifier, sklearn.prepare(arrays["test_images"], entry), 5)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert (probabilities[:, 2] == 0).all() and (probabilities[:, 3] > 0).any()


@pytest.fixture
def trained_for_real(run_stage, workspace):
    """A network and a classifier, trained and evaluated by the real stages."""
    content = tiny_params(workspace, {"scratch": ["mlp_relu"], "sklearn": ["knn_3", "svm"]})
    for framework in ("pytorch", "tensorflow"):
        del content[framework]
    bayes = {"library": "sklearn", "estimator": "sklearn.naive_bayes.GaussianNB", "pixel_range": [0, 1]}
    content["sklearn"]["bayes"] = bayes | {"arguments": {"var_smoothing": 0.1}}
    content["data"]["dataset"] = "tiny"
    write_params(workspace, content)
    for model in ("knn_3", "bayes"):
        run_stage("train_sklearn", model)
    run_stage("train_scratch", "mlp_relu")
    run_stage("evaluate")
    return workspace


def exported_files() -> dict[str, bytes]:
    return {name: exported.path_of(name).read_bytes() for name in exported.names()}


def test_what_is_trained_and_can_be_built_is_exported_and_the_rest_is_named(trained_for_real, run_stage, capsys):
    run_stage("export")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if line.endswith("MB")][:-1] == ["scratch/mlp_relu", "sklearn/knn_3"]
    assert printed[-1] == "not exported: sklearn/bayes: GaussianNB has no builder"
    assert exported.names() == ["scratch/mlp_relu", "sklearn/knn_3"]
    images = np.load("data/test_images.npy")
    for name in exported.names():
        found = exported.load(exported.path_of(name))
        stored = np.load(results.predictions(*name.split("/")))
        np.testing.assert_allclose(found.predict_proba(images), stored, atol=1e-5)
        assert found.name == name


def test_the_files_repeat_to_the_byte_and_name_no_place(trained_for_real, run_stage):
    run_stage("export")
    first = exported_files()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "5"}
    subprocess.run([sys.executable, "-m", "stages.export"], env=environment, check=True, capture_output=True)
    assert exported_files() == first
    for content in first.values():
        assert str(trained_for_real).encode() not in content
        assert os.uname().nodename.encode() not in content


def test_a_file_that_predicts_something_else_is_not_written(trained_for_real, run_stage):
    run_stage("export")
    before = exported_files()
    path = results.predictions("scratch", "mlp_relu")
    altered = np.load(path)
    altered[7] = np.roll(altered[7], 1)
    np.save(path, altered)
    with pytest.raises(UserError, match=r"^scratch/mlp_relu: the exported file gives test image 7 probabilities"):
        run_stage("export")
    assert exported_files() == before


def test_a_tie_that_the_file_decides_otherwise_is_listed(trained_for_real, run_stage, capsys):
    path = results.predictions("scratch", "mlp_relu")
    stored = np.load(path)
    found = exported.ask(export.to_onnx("scratch/mlp_relu", None), "").predict_proba(np.load("data/test_images.npy"))
    margins = np.sort(found, axis=1)[:, -1] - np.sort(found, axis=1)[:, -2]
    near = int(margins.argmin())
    first, second = np.argsort(-found[near])[:2]
    middle = found[near, [first, second]].mean()
    stored[near, first], stored[near, second] = middle - 1e-5, middle + 1e-5
    np.save(path, stored)
    if margins[near] > export.TOLERANCE:  # no tie: it is an error
        with pytest.raises(UserError, match=f"test image {near}"):
            run_stage("export")
        return
    run_stage("export")
    assert f"ties, decided otherwise: test images {near}" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a" * 50])
def test_a_damaged_file_is_named_with_its_remedy(tmp_path, content):
    path = tmp_path / "a.onnx"
    with pytest.raises(UserError, match=r"a\.onnx is missing: `dvc repro export` makes it$"):
        exported.load(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^[^\n]*a\.onnx is no exported model: [^\n]*`dvc repro export` makes it anew$"):
        exported.load(path)


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "model"), [(f, m) for f in frameworks() for m in models(f)])
def test_every_model_of_params_yaml_is_exported_and_predicts_all_test_images(run_stage, workspace, framework, model):
    run_stage(f"train_{framework}", model)
    found = exported.ask(export.to_onnx(f"{framework}/{model}", None), model)
    stored = np.load(results.predictions(framework, model))
    np.testing.assert_allclose(found.predict_proba(np.load("data/test_images.npy")), stored, atol=1e-4)
