"""Exported models answer as the models themselves do, and say what they are."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    MODELS,
    described,
    leave_trained,
    load_architectures,
    load_params,
    python,
    tiny_arrays,
    tiny_params,
    write_params,
)
from safetensors.numpy import load_file, save_file
from sklearn.naive_bayes import GaussianNB

from stages import export
from stages.common import architecture, exported, results, saved, training
from stages.console.errors import UserError
from stages.exporters import classifiers, networks, trees
from stages.exporters.graph import Graph, look_up
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


def names_of(classes: int) -> tuple[str, ...]:
    return tuple(f"class {chr(97 + place)}" for place in range(classes))


@pytest.mark.parametrize(
    ("size", "classes", "ground", "shift"),
    [((28, 28), 10, 0, 0), ((25, 31), 3, 255, 2), ((64, 30), 2, 90, 1)],
)
@pytest.mark.parametrize("name", [*LAYERS, *load_architectures()])
def test_a_network_of_any_layers_predicts_what_numpy_predicts(name, size, classes, ground, shift):
    layers = LAYERS.get(name) or load_architectures()[name]
    generator = np.random.default_rng(5)
    about = described(
        architecture=layers,
        image_size=size,
        classes=names_of(classes),
        ground=ground,
        recipe={"pixel_range": [-0.4, 2.8], "prediction_shift": shift},
    )
    network = architecture.fit(architecture.parse(layers), size, classes)
    weights = {
        key: (np.abs(values) + 0.5 if key.endswith("variance") else values).astype(np.float32)
        for key, shape in architecture.weight_shapes(network).items()
        for values in [generator.normal(size=shape) / np.sqrt(np.prod(shape[:-1]) or 1)]
    }
    images = generator.integers(0, 256, (7, *size), np.uint8)
    loaded = scratch.load(network, weights)
    expected = training.predictor(lambda pixels: scratch.predict_proba(loaded, pixels), about.recipe, ground)(
        images
    )
    graph = Graph()
    output = networks.build(graph, exported.IMAGES, saved.Network(about, network, weights))
    content = graph.model(output, size, classes, exported.metadata(about, 0.75))
    found = exported.ask(content, name)
    np.testing.assert_allclose(found.predict_proba(images), expected, atol=2e-6)
    assert (found.name, found.classes, found.ground) == ("pytorch/linear", about.classes, ground)
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
    arrays, generator = tiny_arrays(classes=classes, size=size), np.random.default_rng(1)
    some = generator.random(len(arrays["train_labels"])) < 0.3  # are wrong, so that nothing is certain
    arrays["train_labels"][some] = generator.integers(0, classes, some.sum())
    classifier = fitted(entry, arrays)
    images = np.concatenate([arrays["test_images"], 255 - arrays["test_images"]])
    expected = sklearn.predict_proba(classifier, sklearn.prepare(images, entry), classes)
    graph = Graph()
    output = classifiers.build(graph, exported.IMAGES, classifier, entry, classes)
    about = described(architecture=None, image_size=size, classes=names_of(classes), recipe=entry)
    found = exported.ask(graph.model(output, size, classes, exported.metadata(about, None)), name)
    np.testing.assert_allclose(found.predict_proba(images), expected, atol=1e-5)
    assert found.sure_above is None


def test_a_value_just_above_a_threshold_of_more_digits_goes_right():
    tree = trees.Tree(*(np.array(values) for values in ([0], [0.3], [-1], [-2], [1.0, 2.0])), target=0)
    levels = np.zeros(256, np.float32)
    levels[1:3] = 0.3, np.nextafter(np.float32(0.3), np.float32(0))  # float32's 0.3 is larger than 0.3
    graph = Graph()
    rows = graph.add("Flatten", look_up(graph, exported.IMAGES, levels))
    about = described(architecture=None, image_size=(8, 8), classes=names_of(1))
    content = graph.model(trees.ensemble(graph, rows, [tree], 1), (8, 8), 1, exported.metadata(about, None))
    images = np.zeros((3, 8, 8), np.uint8)
    images[:, 0, 0] = 0, 1, 2
    assert exported.ask(content, "tree").predict_proba(images).ravel().tolist() == [1, 2, 1]


def test_a_class_that_no_training_image_shows_has_no_probability():
    arrays = tiny_arrays(classes=4, size=(10, 12))
    entry = CLASSIFIERS["random_forest"]
    arrays["train_labels"] = arrays["train_labels"] + (arrays["train_labels"] > 1)  # none is 2
    classifier, graph = fitted(entry, arrays), Graph()
    output = classifiers.build(graph, exported.IMAGES, classifier, entry, 5)
    about = described(architecture=None, image_size=(10, 12), classes=names_of(5), recipe=entry)
    found = exported.ask(graph.model(output, (10, 12), 5, exported.metadata(about, None)), "forest")
    probabilities = found.predict_proba(arrays["test_images"])
    expected = sklearn.predict_proba(classifier, sklearn.prepare(arrays["test_images"], entry), 5)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert (probabilities[:, 2] == 0).all() and (probabilities[:, 3] > 0).any()


@pytest.fixture
def left_behind(workspace, run_stage) -> Path:
    """What trainers and `evaluate` leave of a network, and of two classifiers, one of which nothing builds.

    The network cannot tell the classes 3 and 4 apart.
    """
    write_params(workspace, tiny_params(workspace, {"scratch": ["mlp_relu"], "sklearn": ["knn_3", "svm"]}))
    images, train = np.load("data/test_images.npy"), np.load("data/train_images.npy")
    leave_trained("scratch/mlp_relu", 1)
    path = results.folder("scratch", "mlp_relu") / "weights.safetensors"
    weights = load_file(path)
    for array in weights.values():
        array /= 10
    weights["2.dense.weights"][:, 4] = weights["2.dense.weights"][:, 3]
    weights["2.dense.biases"][[3, 4]] = 2
    save_file(weights, path)
    network = saved.load("scratch", "mlp_relu")
    loaded = scratch.load(network.architecture, network.weights)
    np.save(
        results.predictions("scratch", "mlp_relu"), scratch.predict_proba(loaded, images / np.float32(255))
    )
    for name, library, classifier in (
        ("knn_3", "neighbors", neighbors.ExactNeighbors(3)),
        ("svm", "sklearn", GaussianNB(var_smoothing=0.1)),
    ):
        leave_trained(f"sklearn/{name}", 1)
        recipe = {"library": library, "pixel_range": [0, 255]}
        sklearn.fit(classifier, sklearn.prepare(train, recipe), np.load("data/train_labels.npy"))
        folder = results.folder("sklearn", name)
        about = json.loads((folder / "model.json").read_text()) | {"recipe": recipe}
        (folder / "model.json").write_text(json.dumps(about))
        content = sklearn.dumps(classifier, LIBRARIES[library])
        (folder / "classifier.skops").write_bytes(content)
        found = sklearn.predict_proba(classifier, sklearn.prepare(images, recipe), 10)
        np.save(results.predictions("sklearn", name), found.astype(np.float32))
    run_stage("evaluate")
    return workspace


def exported_files() -> dict[str, bytes]:
    return {name: exported.path_of(name).read_bytes() for name in exported.names()}


def test_what_can_be_built_is_exported_and_the_rest_is_named(left_behind, run_stage, capsys):
    capsys.readouterr()
    run_stage("export")
    *lines, total, missing = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == exported.names() == ["scratch/mlp_relu", "sklearn/knn_3"]
    assert total.startswith("outputs/onnx: 2 models, ")
    assert missing == "not exported: sklearn/svm: GaussianNB has no builder"
    for name in exported.names():
        found = exported.load(exported.path_of(name))
        stored = np.load(results.predictions(*name.split("/")))
        np.testing.assert_allclose(found.predict_proba(np.load("data/test_images.npy")), stored, atol=1e-5)
        assert found.name == name


def test_the_files_repeat_to_the_byte_and_name_no_place(left_behind, run_stage):
    run_stage("export")
    first = exported_files()
    python("from stages import export; import sys; sys.argv = ['export']; export.main()", left_behind)
    assert exported_files() == first
    assert not any(str(left_behind).encode() in content for content in first.values())


def test_a_file_that_predicts_something_else_is_not_written(left_behind, run_stage):
    run_stage("export")
    before = exported_files()
    path = results.predictions("scratch", "mlp_relu")
    altered = np.load(path)
    altered[7] = np.roll(altered[7], 1)
    np.save(path, altered)
    complaint = (
        r"^scratch/mlp_relu: the exported file gives test image 7 probabilities that differ by \S+ from"
    )
    with pytest.raises(UserError, match=complaint):
        run_stage("export")
    assert exported_files() == before


def test_a_tie_that_the_file_decides_otherwise_is_listed(left_behind, run_stage, capsys):
    path = results.predictions("scratch", "mlp_relu")
    stored = np.load(path)
    tied = int(np.flatnonzero(stored.argmax(axis=1) == 3)[0])
    stored[tied, 4] += 1e-6
    np.save(path, stored)
    run_stage("export")
    line = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("scratch/mlp_relu  ")
    )
    assert line.endswith(f"MB  ties, decided differently: test images {tied}")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a" * 50])
def test_a_damaged_file_is_named_with_its_remedy(tmp_path, content):
    path = tmp_path / "a.onnx"
    with pytest.raises(UserError, match=r"a\.onnx is missing: `dvc repro export` makes it$"):
        exported.load(path)
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"^[^\n]*a\.onnx is no exported model: [^\n]*`dvc repro export` makes it anew$"
    ):
        exported.load(path)


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "model"), [(f, m) for f in MODELS for m in MODELS[f]])
def test_every_model_of_params_yaml_is_exported_and_predicts_all_test_images(
    run_stage, workspace, framework, model
):
    run_stage(f"train_{framework}", model)
    found = exported.ask(export.to_onnx(f"{framework}/{model}", None), model)
    stored = np.load(results.predictions(framework, model))
    np.testing.assert_allclose(found.predict_proba(np.load("data/test_images.npy")), stored, atol=1e-4)
