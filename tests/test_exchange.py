"""The same network is the same function in PyTorch, Keras and NumPy, and learns the same."""

from importlib import import_module
from itertools import permutations

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from conftest import load_params
from pydantic import TypeAdapter
from tensorflow.python.eager import context
from torch.nn import functional

from stages import compare_frameworks
from stages.common import dataset
from stages.common.architecture import Architecture
from stages.common.command import UserError
from stages.models import exchange, pytorch, scratch, tensorflow

FRAMEWORKS = {"pytorch": pytorch.build, "keras": tensorflow.build}
FRAMEWORKS["numpy"] = lambda layers: scratch.build(layers, np.random.default_rng(1))
NETWORKS = {name: load_params()["architectures"][name] for name in ("cnn_dropout", "cnn_wide", "mlp_relu")}
NETWORKS["strides_and_norms"] = [
    {"conv": {"filters": 6, "kernel": 5, "padding": "same", "stride": 2}}, "batch_norm", "relu",
    {"conv": {"filters": 5, "kernel": 4, "padding": "same"}}, "tanh", {"max_pool": 3},
    {"conv": {"filters": 7, "kernel": 2, "padding": "valid", "stride": 3}}, "batch_norm", "sigmoid",
    {"dense": 9}, "batch_norm", "relu", {"dense": 10},
]  # fmt: skip
GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.random((64, 28, 28)).astype(np.float32)
LABELS = GENERATOR.integers(0, 10, 64)


def parse(layers: list) -> Architecture:
    return TypeAdapter(Architecture).validate_python(layers)


def random_weights(layers: Architecture) -> exchange.Weights:
    """The first weights of the NumPy network, with biases and running means that are not trivial."""
    generator = np.random.default_rng(2)
    weights = exchange.read(scratch.build(layers, generator), layers)
    for arrays in weights:
        for name in sorted(arrays.keys() - {"weights"}):
            arrays[name] = (arrays[name] + 0.2 * generator.random(arrays[name].shape)).astype(np.float32)
    return weights


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("source", "target"), permutations(FRAMEWORKS, 2))
def test_carried_weights_give_equal_logits_and_come_back(name, source, target):
    layers = parse(NETWORKS[name])
    first, second = FRAMEWORKS[source](layers), FRAMEWORKS[target](layers)
    exchange.write(first, layers, random_weights(layers))
    exchange.write(second, layers, exchange.read(first, layers))
    expected, found = (compare_frameworks.logits(network, PIXELS) for network in (first, second))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for before, after in zip(exchange.read(first, layers), exchange.read(second, layers), strict=True):
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[key], after[key]) for key in before)


def without_dropout(layers: list) -> Architecture:
    return parse([layer for layer in layers if not (isinstance(layer, dict) and "dropout" in layer)])


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """Twenty batches of sixteen images."""
    generator = np.random.default_rng(5)
    return [(PIXELS[order], LABELS[order]) for order in generator.integers(0, len(PIXELS), (20, 16))]


def train_pytorch(network, rate):
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    for pixels, labels in batches():
        optimizer.zero_grad()
        logits = network(pytorch.to_tensor(pixels, torch.device("cpu")))
        functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
        optimizer.step()


def train_keras(network, rate):
    optimizer = keras.optimizers.SGD(rate)
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for pixels, labels in batches():
        with tf.GradientTape() as tape:
            loss = loss_function(labels, network(pixels[..., np.newaxis], training=True))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)


def train_numpy(network, rate):
    optimizer = scratch.SGD()
    for pixels, labels in batches():
        _, gradient = scratch.softmax_cross_entropy(network.forward(pixels, training=True), labels)
        network.backward(gradient)
        optimizer.step(network, rate)


@pytest.mark.parametrize("name", ["cnn_dropout", "cnn_wide", "mlp_relu"])
def test_twenty_steps_from_equal_weights_leave_equal_weights(name):
    layers = without_dropout(NETWORKS[name])
    start = random_weights(layers)
    trained = {}
    for framework, train in (("pytorch", train_pytorch), ("keras", train_keras), ("numpy", train_numpy)):
        network = FRAMEWORKS[framework](layers)
        exchange.write(network, layers, start)
        train(network, 0.01)
        trained[framework] = exchange.read(network, layers)
    moved = max(
        np.abs(after[key] - before[key]).max()
        for before, after in zip(start, trained["numpy"], strict=True)
        for key in before
    )
    assert moved > 1e-3
    for framework in ("keras", "numpy"):
        for expected, found in zip(trained["pytorch"], trained[framework], strict=True):
            for key in expected:
                np.testing.assert_allclose(found[key], expected[key], atol=1e-4)


@pytest.mark.parametrize("last", ["sigmoid", "tanh", "relu"])
def test_an_activation_at_the_end_counts_in_the_loss_of_every_framework(last):
    layers = parse([{"dense": 10}, last])
    none = np.empty((0, 28, 28), np.uint8), np.empty(0, np.uint8)
    data = dataset.Split((255 * PIXELS).astype(np.uint8), LABELS.astype(np.uint8), *none)
    entry = {
        "architecture": "of_this_test",
        "pixel_range": [0, 1],
        "optimizer": "sgd",
        "schedule": "constant",
    }
    entry |= {"learning_rate": 0.1, "batch_size": len(PIXELS), "epochs": 2, "validation_images": 0}
    losses = []
    for framework, stage, *arguments in (
        ("numpy", "train_scratch", np.random.default_rng(0)),
        ("pytorch", "train_pytorch"),
        ("keras", "train_tensorflow"),
        ("keras", "train_tensorflow"),
    ):
        module = import_module(f"stages.{stage}")
        own = {"labels": "one_hot"} if len(losses) == 3 else {}
        network = FRAMEWORKS[framework](layers)
        exchange.write(network, layers, random_weights(layers))
        settings = module.Settings.model_validate(entry | own)
        losses.append(module.train(network, data, settings, *arguments, framework)[1])
    assert losses[0][0] > losses[0][1]
    for found in losses[1:]:
        np.testing.assert_allclose(found, losses[0], rtol=1e-5)


def test_the_stage_writes_a_row_for_each_network_and_framework(run_stage, workspace):
    import pandas as pd

    run_stage("train_pytorch", "cnn_dropout")
    run_stage("train_tensorflow", "cnn_dropout")
    run_stage("train_scratch", "cnn")
    run_stage("compare_frameworks")
    table = pd.read_csv(workspace / "outputs/parity.csv")
    names = ("pytorch/cnn_dropout", "tensorflow/cnn_dropout", "scratch/cnn")
    assert table.model.tolist() == [name for name in names for _ in range(2)]
    assert (table.difference < 1e-4).all()
    assert (table.other_digits <= table.ties).all()

    path = workspace / "outputs/models/scratch/cnn.npz"
    weights = dict(np.load(path))
    np.savez(path, **{name: np.full_like(array, np.nan) for name, array in weights.items()})
    with pytest.raises(UserError, match=r"scratch/cnn\.npz gives logits that are nan or infinity"):
        run_stage("compare_frameworks")


def test_a_model_of_another_architecture_is_refused(run_stage):
    with pytest.raises(
        UserError, match=r"carried\.pytorch is 'mlp', whose architecture is mlp_relu; allowed"
    ):
        run_stage("compare_frameworks", **{"carried.pytorch": "mlp"})


def test_a_difference_is_counted():
    layers = parse([{"dense": 10}])
    network = scratch.build(layers, np.random.default_rng(3))
    same = compare_frameworks.compare("scratch", network, layers, PIXELS)
    assert [row["carried_to"] for row in same] == ["pytorch", "tensorflow"]
    assert all(row["difference"] < 1e-5 and row["other_digits"] == 0 for row in same)

    class Wrong(scratch.Network):
        def forward(self, images, training=False):
            return -super().forward(images, training)

    rows = compare_frameworks.compare("scratch", Wrong(network.layers), layers, PIXELS)
    assert all(row["difference"] > 0.1 and row["other_digits"] > 50 for row in rows)
    assert all(row["ties"] == 0 for row in rows)


def test_a_tie_that_rounding_decides_is_counted_as_one():
    layers = parse([{"dense": 10}])
    network = scratch.build(layers, np.random.default_rng(3))
    network.layers[-1].parameters["weights"][:] = 0  # all digits are equal

    class Shaken(scratch.Network):
        def forward(self, images, training=False):
            logits = super().forward(images, training)
            logits[:, 2] += 1e-5
            return logits

    for row in compare_frameworks.compare("scratch", Shaken(network.layers), layers, PIXELS):
        assert 0 < row["difference"] < 1e-4
        assert row["ties"] == row["other_digits"] == len(PIXELS)


def test_tensorflow_computes_no_estimate_that_each_processor_makes_its_own_way():
    layers = parse(NETWORKS["strides_and_norms"])
    network = tensorflow.build(layers)
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
