"""What differs between PyTorch, Keras and NumPy, tried anew; docs/frameworks.md is written of it."""

import warnings

import numpy as np
import torch
import torch._dynamo  # its LLVM must be loaded before TensorFlow's
from torch.nn import functional

from stages.common import architecture, params
from stages.models import pytorch, scratch, tensorflow
from stages.models.tensorflow import keras, tf
from tools import pages

GRADIENTS = (1e-3, 1e-6, 1e-7, 1e-8)
NETWORK = "cnn_dropout"
IMAGE_SIZE, CLASSES = (28, 28), 10


def network() -> architecture.Architecture:
    """The architecture that is measured."""
    layers = params.read(NETWORK, architecture.Layers, params.ARCHITECTURES)
    return architecture.fit(layers, IMAGE_SIZE, CLASSES)


def first_weights() -> list[tuple[str, ...]]:
    """For each layer with weights: the spread of its first weights and biases in each framework."""
    layers = network()
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    of_each = (
        pytorch.get_weights(pytorch.build(layers)),
        tensorflow.get_weights(tensorflow.build(layers)),
        scratch.get_weights(scratch.build(layers, np.random.default_rng(0))),
        scratch.get_weights(scratch.build(layers, np.random.default_rng(0), "he")),
    )
    rows = []
    for name in architecture.weight_shapes(layers):
        layer, _, kind = name.rpartition(".")
        if kind == "weights":
            spreads = (f"{w[name].std():.4f}, {w[f'{layer}.biases'].std():.4f}" for w in of_each)
            rows.append((str(layers.layers[int(layer.partition(".")[0])]), *spreads))
    return rows


def zeros_of_same(kernel: int, stride: int, size: int = 28) -> dict[str, tuple[int, int]]:
    """How many zeros `same` puts before and after a row: in Keras, in PyTorch, and with k // 2.

    Found by convolving ones with a filter that sums: windows with zeros sum to less.
    """
    ones = np.ones((1, size, 1, 1), np.float32)
    filters = np.ones((kernel, 1, 1, 1), np.float32)
    sums = {"Keras": tf.nn.conv2d(ones, filters, (stride, 1), "SAME").numpy().ravel()}
    signal, weight = torch.ones(1, 1, size), torch.ones(1, 1, kernel)
    if stride == 1:
        with warnings.catch_warnings(action="ignore"):  # of a copy that even kernels cost
            sums["PyTorch, same"] = functional.conv1d(signal, weight, padding="same").numpy().ravel()
    padding = kernel // 2
    sums["PyTorch, k // 2"] = (
        functional.conv1d(signal, weight, stride=stride, padding=padding).numpy().ravel()
    )
    found = {}
    for name, values in sums.items():
        before = int(kernel - values[0])
        covered = (len(values) - 1) * stride + kernel - before  # where the last window ends
        found[name] = before, max(0, covered - size)
    return found


def momentum_differs(rates: list[float]) -> float:
    """How far SGD with momentum of PyTorch and Keras lie apart after steps with these rates."""
    variable, tensor = keras.Variable([1.0]), torch.ones(1, requires_grad=True)
    ours = keras.optimizers.SGD(rates[0], momentum=0.9)
    theirs = torch.optim.SGD([tensor], lr=rates[0], momentum=0.9)
    for rate in rates:
        ours.learning_rate = theirs.param_groups[0]["lr"] = rate
        ours.apply([tf.constant([0.5])], [variable])
        tensor.grad = torch.full((1,), 0.5)
        theirs.step()
    return abs(float(variable.numpy()[0]) - tensor.item())


def first_adam_step(gradient: float) -> dict[str, float]:
    """How far the first step of Adam with learning rate 1 goes, for a gradient of this size."""
    variable, tensor = keras.Variable([0.0]), torch.zeros(1, requires_grad=True)
    keras.optimizers.Adam(1.0).apply([tf.constant([gradient])], [variable])
    tensor.grad = torch.full((1,), gradient)
    torch.optim.Adam([tensor], lr=1.0).step()
    layer = scratch.Dense(np.zeros((1, 1), np.float32))
    layer.gradients = {"weights": np.full((1, 1), gradient, np.float32), "biases": np.zeros(1, np.float32)}
    scratch.Adam().step(scratch.Network([layer]), 1.0)
    return {
        "PyTorch": -tensor.item(),
        "Keras": -float(variable.numpy()[0]),
        "NumPy": -float(layer.parameters["weights"][0, 0]),
    }


def running_variance(images: int) -> dict[str, float]:
    """What batch normalization takes for the variance of a batch of +1 and -1, to keep a share of it."""
    batch = np.resize(np.array([1, -1], np.float32), (images, 1))
    module = torch.nn.BatchNorm1d(1, momentum=1.0)
    module(torch.from_numpy(batch))
    layer = keras.layers.BatchNormalization(momentum=0.0)
    layer(batch, training=True)
    ours = scratch.BatchNorm(1)
    ours.running["variance"][:] = 0
    ours.forward(batch, training=True)
    return {
        "PyTorch": module.running_var.item(),
        "Keras": float(layer.moving_variance.numpy()[0]),
        "NumPy": float(ours.running["variance"][0] / (1 - architecture.MOMENTUM)),
    }


def page() -> str:
    """The text of docs/frameworks.md, of what the libraries do."""
    adam = [[f"{g:.0e}", *(f"{step:.4f}" for step in first_adam_step(g).values())] for g in GRADIENTS]
    variance = [[f"{n}", *(f"{value:.4f}" for value in running_variance(n).values())] for n in (4, 64, 256)]
    return pages.fill(
        "frameworks.md",
        network=NETWORK,
        changing=momentum_differs([0.1] * 3 + [0.01] * 3),
        weights=pages.rows(first_weights()),
        padding=pages.rows(map(padding, (3, 4, 5, 3, 5), (1, 1, 1, 2, 2))),
        adam=pages.rows(adam),
        variance=pages.rows(variance),
    )


def padding(kernel: int, stride: int) -> list[str]:
    """A row of the page: how many zeros each library puts before and after."""
    found = zeros_of_same(kernel, stride)
    pairs = (found.get(name) for name in ("Keras", "PyTorch, same", "PyTorch, k // 2"))
    return [f"{kernel}", f"{stride}", *("{}, {}".format(*zeros) if zeros else "refused" for zeros in pairs)]
