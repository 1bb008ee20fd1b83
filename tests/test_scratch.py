"""The from-scratch layers against finite differences and against PyTorch."""

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch.nn import functional

from stages.common import architecture
from stages.models import pytorch, scratch

SIZE, CLASSES = (13, 22), 7
GENERATOR = np.random.default_rng(0)
seeds = st.integers(0, 2**32 - 1)


def in_float64(layer: scratch.Layer) -> scratch.Layer:
    layer.parameters = {name: array.astype(np.float64) for name, array in layer.parameters.items()}
    return layer


@st.composite
def layers_and_inputs(draw) -> tuple[scratch.Layer, np.ndarray]:
    """A random layer in float64 and a batch that it takes."""
    generator = np.random.default_rng(draw(seeds))
    n, channels, rows, columns = (draw(st.integers(*bounds)) for bounds in ((1, 3), (1, 3), (3, 7), (3, 7)))
    x = generator.normal(size=(n, rows, columns, channels))
    match draw(st.sampled_from(["dense", "conv", "pool", "relu", "norm", *OTHERS])):
        case "dense":
            return scratch.Dense(generator.normal(size=(5, 4))), generator.normal(size=(n, 5))
        case "conv":
            kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
            pads = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(2))
            weights = generator.normal(size=(kernel, kernel, channels, draw(st.integers(1, 3))))
            return scratch.Conv2D(weights, pads, stride), x
        case "pool":  # no two values closer than the difference step
            distinct = generator.permutation(x.size).reshape(x.shape).astype(np.float64)
            return scratch.MaxPool2D(draw(st.integers(1, 3))), distinct
        case "relu":
            return scratch.ReLU(), x + np.sign(x) * 0.01  # none at the kink
        case "norm":
            layer = in_float64(scratch.BatchNorm(channels))
            layer.parameters["scale"] += generator.normal(size=channels)
            return layer, generator.normal(size=(n + 1, *x.shape[1:]))
        case other:
            return OTHERS[other](), x


OTHERS = {"sigmoid": scratch.Sigmoid, "tanh": scratch.Tanh, "flatten": scratch.Flatten}
OTHERS["dropout"] = lambda: scratch.Dropout(0.4, np.random.default_rng(0))


@settings(max_examples=60, deadline=None)
@given(case=layers_and_inputs(), seed=seeds)
def test_gradients_of_every_layer_equal_finite_differences(case, seed):
    layer, x = case
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=layer.forward(x, True).shape)

    def loss() -> float:
        if isinstance(layer, scratch.Dropout):
            layer.generator = np.random.default_rng(0)  # the same mask every time
        return float((layer.forward(x, True) * weights).sum())

    loss()
    layer.differentiate(weights)
    gradients = {"x": layer.backward(weights), **layer.gradients}
    arrays = {"x": x, **layer.parameters}
    assert {name: g.shape for name, g in gradients.items()} == {name: a.shape for name, a in arrays.items()}
    for name, array in arrays.items():
        for _ in range(5):
            direction, before, losses = generator.normal(size=array.shape), array.copy(), []
            for step in (1e-5, -1e-5):
                array[...] = before + step * direction
                losses.append(loss())
            array[...] = before
            slope = (losses[0] - losses[1]) / 2e-5
            assert slope == pytest.approx((gradients[name] * direction).sum(), rel=1e-5, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(1, 6), smoothing=st.sampled_from([0.0, 0.1, 0.9]))
def test_the_loss_and_its_gradient_are_those_of_pytorch(seed, n, smoothing):
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(scale=3, size=(n, 10)), generator.integers(0, 10, n)
    loss, gradient = scratch.softmax_cross_entropy(logits, labels, smoothing)
    tensor = torch.tensor(logits, requires_grad=True)
    expected = functional.cross_entropy(tensor, torch.tensor(labels), label_smoothing=smoothing)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=1e-12)


def random_architecture(draw) -> architecture.Architecture:
    activation = st.sampled_from(["relu", "sigmoid", "tanh"])
    options = {"filters": (1, 4), "kernel": (1, 4), "stride": (1, 2)}
    layers = []
    for _ in range(draw(st.integers(0, 2))):
        conv = {option: draw(st.integers(*bounds)) for option, bounds in options.items()}
        layers.append({"conv": conv | {"padding": draw(st.sampled_from(["same", "valid"]))}})
        layers += [*(["batch_norm"] if draw(st.booleans()) else []), draw(activation)]
        layers += [{"max_pool": draw(st.integers(2, 3))}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        layers += [{"dense": draw(st.integers(1, 12))}, draw(activation)]
    try:
        return architecture.fit(architecture.parse([*layers, {"dense": "classes"}]), SIZE, CLASSES)
    except ValueError:  # strides and pools left fewer pixels than the next layer takes
        reject()


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=seeds, n=st.integers(2, 4))
def test_random_networks_have_the_logits_and_gradients_of_pytorch(data, seed, n):
    layers = random_architecture(data.draw)
    generator = np.random.default_rng(seed)
    network = scratch.build(layers, generator)
    theirs = pytorch.load(layers, network.weights).double().train()
    for layer in network.layers:
        in_float64(layer)
    images, labels = generator.normal(size=(n, *SIZE)), generator.integers(0, CLASSES, n)

    logits = network.forward(images, training=True)
    expected = theirs(pytorch.to_tensor(images, torch.device("cpu")))
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-10)
    _, gradient = scratch.softmax_cross_entropy(logits, labels)
    network.backward(gradient)
    functional.cross_entropy(expected, torch.tensor(labels)).backward()
    for parameter in theirs.parameters():
        parameter.data = parameter.grad
    # before batch normalization a bias has no gradient, and what rounding leaves of it goes by the others
    largest = max(1.0, *(gradient.max() for gradient in map(np.abs, network.gradients.values())))
    for name, found in network.gradients.items():
        np.testing.assert_allclose(found, pytorch.get_weights(theirs)[name], rtol=1e-5, atol=1e-8 * largest)


@pytest.mark.parametrize(
    "options", [{"momentum": 0.9, "weight_decay": 0.1}, {"weight_decay": 0.0}, {"weight_decay": 0.3}]
)
def test_optimizers_take_the_steps_of_pytorch(options):
    ours, theirs = (
        (scratch.SGD, torch.optim.SGD) if "momentum" in options else (scratch.Adam, torch.optim.AdamW)
    )
    layer = scratch.Dense(GENERATOR.normal(size=(4, 3)))
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in layer.parameters.items()}
    mine, reference = ours(**options), theirs(tensors.values(), lr=0.1, **options)
    for step in range(12):
        reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        for name, tensor in tensors.items():
            layer.gradients[name] = GENERATOR.normal(size=layer.parameters[name].shape)
            tensor.grad = torch.tensor(layer.gradients[name])
        mine.step(scratch.Network([layer]), 0.1 / (step + 1))
        reference.step()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(layer.parameters[name], tensor.detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize("shape", [(64, 28, 28, 3), (1, 1, 1, 2), (7, 5)])
def test_sums_over_many_pixels_keep_the_digits_of_float32(shape):
    x = np.random.default_rng(0).random(shape, np.float32)
    exact = x.reshape(-1, shape[-1]).astype(float).sum(axis=0)
    assert scratch.sum_of_channels(x) == pytest.approx(exact, rel=1e-6)  # all in a row: 5e-6
    assert scratch.mean_of_channels(x) == pytest.approx(exact / (x.size // shape[-1]), rel=1e-6)


def test_everything_stays_in_float32():
    conv = {"conv": {"filters": 2, "kernel": 3, "padding": "same"}}
    layers = [conv, "batch_norm", "relu", {"max_pool": 2}, {"dense": 8}, "sigmoid", {"dropout": 0.5}, "tanh"]
    layers = architecture.fit(architecture.parse([*layers, {"dense": "classes"}]), SIZE, CLASSES)
    network = scratch.build(layers, np.random.default_rng(0), "he")
    logits = network.forward(np.ones((3, *SIZE), np.float32), training=True)
    _, gradient = scratch.softmax_cross_entropy(logits, np.array([1, 2, 3]))
    network.backward(gradient)
    for optimizer in (scratch.Adam(weight_decay=0.1), scratch.SGD(momentum=0.9, weight_decay=0.1)):
        optimizer.step(network, 0.001)
    arrays = [logits, gradient, *network.gradients.values(), *network.weights.values()]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


@pytest.mark.parametrize("shape", [(784, 300), (5, 5, 16, 64)])
def test_first_weights_have_the_spread_of_their_papers(shape):
    area = np.prod(shape[:-2])
    glorot = scratch.glorot_uniform(shape, np.random.default_rng(0))
    bound = np.sqrt(6 / (area * (shape[-2] + shape[-1])))
    assert 0.99 * bound < np.abs(glorot).max() <= bound
    assert glorot.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    he = scratch.he_normal(shape, np.random.default_rng(0))
    assert he.std() == pytest.approx(np.sqrt(2 / (area * shape[-2])), rel=0.02)


def test_sigmoid_and_softmax_survive_huge_values():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert scratch.Sigmoid().forward(np.array([-1e4, 0, 1e4]), False).tolist() == [0, 0.5, 1]
        assert scratch.softmax(np.array([[1e4, 0.0], [0.0, 1e4]])).tolist() == [[1, 0], [0, 1]]


def test_dropout_keeps_the_mean_and_rests_when_not_training():
    x = np.ones((100, 1000), np.float32)
    layer = scratch.Dropout(0.25, np.random.default_rng(0))
    assert layer.forward(x, False) is x
    y = layer.forward(x, True)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert y.mean() == pytest.approx(1, abs=0.01)
