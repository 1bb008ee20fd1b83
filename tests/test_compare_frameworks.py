"""The same network is the same function in PyTorch, Keras and NumPy, and learns the same."""

import string
from functools import partial
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import load_architectures, tiny_arrays, write_data
from safetensors.numpy import load_file, save_file
from tensorflow.python.eager import context

from stages import compare_frameworks, train_pytorch, train_scratch, train_tensorflow
from stages.common import architecture, dataset, results, saved
from stages.console.errors import UserError
from stages.models import scratch, tensorflow

FRAMEWORKS = compare_frameworks.FRAMEWORKS
STAGES = {"pytorch": train_pytorch, "tensorflow": train_tensorflow, "scratch": train_scratch}
BUILD = {name: library.build for name, library in FRAMEWORKS.items()}
BUILD["scratch"] = partial(scratch.build, generator=np.random.default_rng(1))
NETWORKS = {name: load_architectures()[name] for name in ("cnn_dropout", "cnn", "sprint", "mlp_relu")}
NETWORKS["strides_and_norms"] = [
    {"conv": {"filters": 6, "kernel": 5, "padding": "same", "stride": 2}}, "batch_norm", "relu",
    {"conv": {"filters": 5, "kernel": 4, "padding": "same"}}, "tanh", {"max_pool": 2},
    {"conv": {"filters": 7, "kernel": 2, "padding": "valid", "stride": 3}}, "batch_norm", "sigmoid",
    {"dense": 9}, "batch_norm", "relu", {"dense": "classes"},
]  # fmt: skip
SIZE, CLASSES = (20, 32), 13
GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.random((40, *SIZE), np.float32)
LABELS = GENERATOR.integers(0, CLASSES, 40)


def fit(layers: list) -> architecture.Architecture:
    return architecture.fit(architecture.parse(layers), SIZE, CLASSES)


def random_weights(layers: architecture.Architecture) -> dict[str, np.ndarray]:
    """First weights, with biases, running means and the like that are not trivial."""
    generator = np.random.default_rng(2)
    weights = scratch.build(layers, generator).weights
    for name in sorted(weights):
        if not name.endswith(".weights"):
            weights[name] = (weights[name] + 0.2 * generator.random(weights[name].shape)).astype(np.float32)
    return weights


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("source", "target"), list(permutations(FRAMEWORKS, 2)))
def test_weights_of_one_framework_are_those_of_another_by_name_and_layout(name, source, target):
    layers = fit(NETWORKS[name])
    first = FRAMEWORKS[source].get_weights(FRAMEWORKS[source].load(layers, random_weights(layers)))
    announced = architecture.weight_shapes(layers)
    assert {name: (array.shape, array.dtype) for name, array in first.items()} == {
        name: (shape, np.float32) for name, shape in announced.items()
    }
    again = FRAMEWORKS[target].load(layers, first)
    for name, array in FRAMEWORKS[target].get_weights(again).items():
        np.testing.assert_array_equal(array, first[name])
        np.testing.assert_array_equal(array, random_weights(layers)[name])
    expected = FRAMEWORKS[source].logits(FRAMEWORKS[source].load(layers, first), PIXELS)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(FRAMEWORKS[target].logits(again, PIXELS), expected, atol=1e-5)


LEARNT = {name: layers for name, layers in NETWORKS.items() if name != "strides_and_norms"}
LEARNT |= {last: [{"dense": "classes"}, last] for last in ("sigmoid", "tanh", "relu")}


@pytest.mark.parametrize("name", LEARNT)
def test_twenty_steps_from_equal_weights_give_equal_losses_and_weights(name):
    """Also where the last layer is an activation, which counts in the loss. Every step is on all images."""
    layers = fit([layer for layer in LEARNT[name] if not (isinstance(layer, dict) and "dropout" in layer)])
    none = np.empty((0, *SIZE), np.uint8), np.empty(0, np.uint8)
    job = SimpleNamespace(
        data=dataset.Split((255 * PIXELS).astype(np.uint8), LABELS.astype(np.uint8), *none),
        dataset=SimpleNamespace(classes=range(CLASSES), ground=0),
        seed=0,
    )
    entry = {"architecture": "x", "pixel_range": [0, 1], "optimizer": "sgd", "schedule": "constant"}
    entry |= {"learning_rate": 0.01, "batch_size": len(PIXELS), "epochs": 20}
    losses, weights = [], []
    for framework, own in [*((name, {}) for name in FRAMEWORKS), ("tensorflow", {"labels": "one_hot"})]:
        job.settings = STAGES[framework].Settings.model_validate(entry | own)
        generator = {"generator": np.random.default_rng(0)} if framework == "scratch" else {}
        network = FRAMEWORKS[framework].load(layers, random_weights(layers))
        watching = SimpleNamespace(bar=lambda steps, _: steps, step=losses.append)
        assert len(list(STAGES[framework].train(network, job, watching, **generator))) == 20
        weights.append(FRAMEWORKS[framework].get_weights(network))
    first, *others = np.array([float(loss) for loss in losses]).reshape(-1, 20)
    assert first[0] - first[-1] > 1e-3
    for found, arrays in zip(others, weights[1:], strict=True):
        np.testing.assert_allclose(found, first, rtol=1e-4)
        for key, expected in weights[0].items():
            if not key.endswith(".variance"):  # PyTorch keeps that of n - 1
                np.testing.assert_allclose(arrays[key], expected, atol=1e-4)


LETTERS = {"pytorch": "linear", "tensorflow": "cnn", "scratch": "mlp_sigmoid"}


def test_26_classes_of_20_by_32_pixels_train_everywhere_and_frameworks_agree(run_stage, workspace):
    write_data(workspace, tiny_arrays(520, 260, classes=26, size=SIZE), list(string.ascii_lowercase))
    edits = {f"parity.{framework}": model for framework, model in LETTERS.items()}
    for framework, model in LETTERS.items():
        changes = {"architecture": "cnn", "epochs": 4, "pixel_range": [0, 1], "learning_rate": 0.01}
        edits |= {f"{framework}.{model}.{key}": value for key, value in changes.items()}
    for framework, model in LETTERS.items():
        run_stage(f"train_{framework}", model, **edits)
    run_stage("train_sklearn", "random_forest")
    for framework, model in [*LETTERS.items(), ("sklearn", "random_forest")]:
        probabilities = np.load(results.predictions(framework, model))
        assert probabilities.shape == (260, 26)
        assert np.mean(probabilities.argmax(axis=1) == dataset.load_labels("test")) > 0.2
        description = results.load_description(framework, model)
        assert (description.classes, description.image_size) == (tuple(string.ascii_lowercase), SIZE)
    run_stage("compare_frameworks")
    table = pd.read_csv("outputs/parity.csv")
    assert list(table) == ["model", "target", "difference", "other_classes", "ties"]
    pairs = [(f"{framework}/{model}", other) for framework, model in LETTERS.items() for other in LETTERS]
    expected = [(name, other) for name, other in pairs if not name.startswith(other)]
    assert list(zip(table.model, table.target, strict=True)) == expected
    assert (table.difference < 1e-4).all()
    assert (table.other_classes <= table.ties).all()

    complaint = r"^architectures\.yaml: cnn: the last layer .* dense: classes \(or dense: 26, the number of"
    for framework, model in LETTERS.items():
        with pytest.raises(UserError, match=complaint):
            run_stage(f"train_{framework}", model, **{"architectures.cnn": [{"dense": 10}]})


def test_what_cannot_be_compared_is_named(run_stage, trained):
    folder = results.folder("scratch", "mlp_sigmoid")
    weights = load_file(folder / "weights.safetensors")
    not_finite = {name: np.full_like(array, np.nan) for name, array in weights.items()}
    save_file(not_finite, folder / "weights.safetensors")
    complaint = rf"^{folder} gives logits that are nan or infinity; `dvc repro --force train_scratch@mlp_sigm"
    with pytest.raises(UserError, match=complaint):
        run_stage("compare_frameworks")
    description = (folder / "model.json").read_text()
    (folder / "model.json").write_text(description.replace('"relu"', '"tanh"'))
    complaint = (
        r"^params\.yaml: parity\.scratch is 'mlp_sigmoid', of another architecture than parity\.pytorch"
    )
    with pytest.raises(UserError, match=complaint):
        run_stage("compare_frameworks")


def compared(weights: dict[str, np.ndarray]) -> list[dict]:
    description = SimpleNamespace(name="of_this_test")
    return compare_frameworks.compare("scratch", saved.Network(description, LAYERS, weights), PIXELS)


LAYERS = fit([{"dense": "classes"}])


def test_a_difference_is_counted(monkeypatch):
    weights = random_weights(LAYERS)
    assert [row["target"] for row in compared(weights)] == ["pytorch", "tensorflow"]
    assert all(row["difference"] < 1e-5 and row["other_classes"] == 0 for row in compared(weights))
    logits = scratch.logits
    monkeypatch.setattr(scratch, "logits", lambda *arguments: -logits(*arguments))
    rows = compared(weights)
    assert all(row["difference"] > 0.1 and row["other_classes"] > 30 for row in rows)
    assert all(row["ties"] == 0 for row in rows)


def test_a_tie_that_rounding_decides_is_counted_as_one(monkeypatch):
    zeros = {name: np.zeros_like(array) for name, array in random_weights(LAYERS).items()}
    shift = np.float32(1e-5) * (np.arange(CLASSES) == 2)
    logits = scratch.logits
    monkeypatch.setattr(scratch, "logits", lambda *arguments: logits(*arguments) + shift)
    for row in compared(zeros):
        assert 0 < row["difference"] < 1e-4
        assert row["ties"] == row["other_classes"] == len(PIXELS)


def test_tensorflow_computes_no_estimate_that_each_processor_makes_its_own_way():
    network = tensorflow.build(fit(NETWORKS["strides_and_norms"]))
    images = tf.constant(PIXELS[..., np.newaxis])

    @tf.function
    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(images, training=True) ** 2)
        return tape.gradient(loss, network.trainable_variables)

    context.enable_run_metadata()
    tensorflow.predict_logits(network, images)
    gradients()
    graphs = [graph.post_optimization_graph for graph in context.export_run_metadata().function_graphs]
    context.disable_run_metadata()
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [node for graph in graphs for function in graph.library.function for node in function.node_def]
    kinds = {node.op for node in nodes}
    assert "Sqrt" in kinds
    assert not {"Rsqrt", "RsqrtGrad", "Reciprocal", "ReciprocalGrad", "Inv"} & kinds
