"""The same network is the same function in PyTorch, Keras and NumPy, and learns the same."""

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import torch
from conftest import load_architectures
from safetensors.numpy import load_file, save_file
from tensorflow.python.eager import context

from stages import compare_frameworks, train_pytorch, train_scratch, train_tensorflow
from stages.common import architecture, dataset, results, saved
from stages.console.errors import UserError
from stages.models import scratch, tensorflow

FRAMEWORKS = compare_frameworks.FRAMEWORKS
STAGES = {"pytorch": train_pytorch, "tensorflow": train_tensorflow, "scratch": train_scratch}
NETWORKS = {name: load_architectures()[name] for name in ("cnn_dropout", "cnn", "sprint", "mlp_relu")}
STRIDES_AND_NORMS = [
    {"conv": {"filters": 6, "kernel": 5, "padding": "same", "stride": 2}}, "batch_norm", "relu",
    {"conv": {"filters": 5, "kernel": 4, "padding": "same"}}, "tanh", {"max_pool": 2},
    {"conv": {"filters": 7, "kernel": 2, "padding": "valid", "stride": 3}}, "batch_norm", "sigmoid",
    {"dense": 9}, "batch_norm", "relu", {"dense": "classes"},
]  # fmt: skip
SIZE, CLASSES = (20, 32), 13
GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.random((40, *SIZE), np.float32)
LABELS = GENERATOR.integers(0, CLASSES, 40).astype(np.uint8)


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


@pytest.mark.parametrize("name", [*NETWORKS, "strides_and_norms"])
@pytest.mark.parametrize(("source", "target"), list(permutations(FRAMEWORKS, 2)))
def test_weights_of_one_framework_are_those_of_another_by_name_and_layout(name, source, target):
    layers = fit(NETWORKS.get(name, STRIDES_AND_NORMS))
    first = FRAMEWORKS[source].load(layers, random_weights(layers))
    weights = FRAMEWORKS[source].get_weights(first)
    assert {name: array.shape for name, array in weights.items()} == architecture.weight_shapes(layers)
    second = FRAMEWORKS[target].load(layers, weights)
    for name, array in FRAMEWORKS[target].get_weights(second).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, random_weights(layers)[name])
    expected = FRAMEWORKS[source].logits(first, PIXELS)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(FRAMEWORKS[target].logits(second, PIXELS), expected, atol=1e-5)


@pytest.mark.parametrize("name", [*NETWORKS, "sigmoid", "tanh", "relu"])
def test_twenty_steps_from_equal_weights_give_equal_losses_and_weights(name):
    """On all images. An activation at the end counts in the loss, labels are smoothed in training alone."""
    smoothing = {} if name in NETWORKS else {"label_smoothing": 0.2}
    layers = NETWORKS.get(name, [{"dense": "classes"}, name])
    layers = fit([layer for layer in layers if not (isinstance(layer, dict) and "dropout" in layer)])
    images = (255 * PIXELS).astype(np.uint8)
    data = dataset.Split(images, LABELS, images, LABELS)
    job = SimpleNamespace(data=data, dataset=SimpleNamespace(classes=range(CLASSES), ground=0), seed=0)
    entry = {"architecture": "x", "pixel_range": [0, 1], "optimizer": "sgd", "momentum": 0.9}
    entry |= {"schedule": "constant", "learning_rate": 0.001, "batch_size": len(images), "epochs": 20}
    train_tensorflow.keras.utils.set_random_seed(0)  # some orders of the images round a ReLU to 0
    torch.manual_seed(0)
    losses, weights = [], []
    variants = [{"labels": "one_hot"}, {"labels": "one_hot" if smoothing else "integer"}]
    for framework, own in [("pytorch", {}), *(("tensorflow", own) for own in variants), ("scratch", {})]:
        job.settings = STAGES[framework].Settings.model_validate(entry | smoothing | own)
        generator = {"generator": np.random.default_rng(0)} if framework == "scratch" else {}
        network = FRAMEWORKS[framework].load(layers, random_weights(layers))
        watching = SimpleNamespace(bar=lambda steps, _: steps, step=losses.append)
        *_, epoch = STAGES[framework].train(network, job, watching, **generator)
        weights.append(FRAMEWORKS[framework].get_weights(network))
        logits = torch.from_numpy(FRAMEWORKS[framework].logits(network, images / np.float32(255)))
        plain = torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS).long())
        assert epoch.validation_loss == pytest.approx(float(plain), rel=1e-5)
    first, *others = np.array([float(loss) for loss in losses]).reshape(-1, 20)
    assert first[0] - first[-1] > 1e-3
    for found in others:
        np.testing.assert_allclose(found[:2], first[:2], rtol=1e-5)
        np.testing.assert_allclose(found, first, rtol=3e-4)  # steps add up what each rounds off
    of_pytorch, expected, *others = weights
    of_pytorch = {k: array for k, array in of_pytorch.items() if not k.endswith(".variance")}  # of n - 1
    for arrays in (*others, expected | of_pytorch):
        for key, array in arrays.items():
            np.testing.assert_allclose(array, expected[key], atol=1e-4)


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


def test_a_difference_is_counted_and_a_tie_that_rounding_decides_is_counted_as_one(monkeypatch):
    layers, logits = fit([{"dense": "classes"}]), scratch.logits
    weights = random_weights(layers)
    zeros = {name: np.zeros_like(array) for name, array in weights.items()}
    shift = np.float32(1e-5) * (np.arange(CLASSES) == 2)
    for arrays, alter, least, most, others, ties in (
        (weights, lambda found: found, 0, 1e-5, range(1), range(1)),
        (weights, lambda found: -found, 0.1, 99, range(30, 41), range(1)),
        (zeros, lambda found: found + shift, 1e-6, 1e-4, [40], [40]),
    ):
        monkeypatch.setattr(scratch, "logits", lambda *arguments, alter=alter: alter(logits(*arguments)))
        network = saved.Network(SimpleNamespace(name="of_this_test"), layers, arrays)
        rows = compare_frameworks.compare("scratch", network, PIXELS)
        assert [row["target"] for row in rows] == ["pytorch", "tensorflow"]
        for row in rows:
            assert least <= row["difference"] < most
            assert row["other_classes"] in others and row["ties"] in ties


def test_tensorflow_computes_no_estimate_that_each_processor_makes_its_own_way():
    network = tensorflow.build(fit(STRIDES_AND_NORMS))
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
