"""What differs between PyTorch, Keras and NumPy, measured.

    make frameworks      (python -m tools.frameworks)

Writes docs/frameworks.md. Needs a finished pipeline (`dvc repro`), takes some five minutes. Every
function that measures something is tried by tests/test_frameworks.py.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()
    environment.import_quietly("stages.models.exchange")

import keras
import numpy as np
import tensorflow as tf
import torch
from torch.nn import functional

from stages import compare_frameworks, train_pytorch, train_tensorflow
from stages.common import architecture, command, dataset, params, results
from stages.models import exchange, pytorch, scratch, tensorflow
from tools import machine

PAGE = Path("docs/frameworks.md")
BATCH_SIZES = (16, 64, 256, 1024)
NETWORK = "cnn_dropout"


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in results.WITH_EPOCHS:
        framework, determinism = sys.argv[1:]
        print(json.dumps(milliseconds(framework, determinism == "deterministic")))
    else:
        command.no_arguments(__doc__)
        PAGE.write_text(page(), encoding="utf-8")


def layers_of(name: str) -> architecture.Architecture:
    return params.read(f"architectures.{name}", architecture.Architecture)


def first_weights(layers: architecture.Architecture) -> list[tuple[str, ...]]:
    """For each layer with weights: the spread of its first weights and biases in each framework."""
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    networks = (
        pytorch.build(layers),
        tensorflow.build(layers),
        scratch.build(layers, np.random.default_rng(0)),
        scratch.build(layers, np.random.default_rng(0), "he"),
    )
    weights = [exchange.read(network, layers) for network in networks]
    names = [str(layer) for layer in architecture.pool_first(layers) if layer.kind in exchange.NAMES]
    return [
        (name, *(f"{w['weights'].std():.4f}, {w['biases'].std():.4f}" for w in of_layer))
        for name, *of_layer in zip(names, *weights, strict=True)
    ]


def zeros_of_same(kernel: int, stride: int, size: int = 28) -> dict[str, tuple[int, int]]:
    """How many zeros `same` puts before and after a row: in Keras, in PyTorch, and with k // 2.

    Found by convolving ones with a filter that sums: windows with zeros sum to less.
    """
    ones = np.ones((1, size, 1, 1), np.float32)
    filters = np.ones((kernel, 1, 1, 1), np.float32)
    sums = {"Keras": tf.nn.conv2d(ones, filters, (stride, 1), "SAME").numpy().ravel()}
    signal, weight = torch.ones(1, 1, size), torch.ones(1, 1, kernel)
    if stride == 1:
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
    """What batch normalization keeps as the variance of a batch of +1 and -1, if it keeps all of it."""
    batch = np.resize(np.array([1, -1], np.float32), (images, 1))
    module = torch.nn.BatchNorm1d(1, momentum=1.0)
    module(torch.from_numpy(batch))
    layer = keras.layers.BatchNormalization(momentum=0.0)
    layer(batch, training=True)
    return {
        "PyTorch": module.running_var.item(),
        "Keras": float(layer.moving_variance.numpy()[0]),
        "NumPy": float(batch.var()),
    }


def agreement_without_reordering() -> float:
    """The share of test images that keep their digit if the pixels' order is left as PyTorch has it."""
    layers = layers_of(NETWORK)
    network = pytorch.load(layers, results.weights("pytorch", NETWORK))
    weights = exchange.read(network, layers)
    dense = next(m for m in network if isinstance(m, torch.nn.Linear))
    place = next(i for i, arrays in enumerate(weights) if arrays["weights"].shape == dense.weight.T.shape)
    weights[place]["weights"] = dense.weight.detach().numpy().T
    copy = scratch.build(layers, np.random.default_rng(0))
    exchange.write(copy, layers, weights)
    pixel_range = params.read(f"pytorch.{NETWORK}.pixel_range", params.PixelRange)
    pixels = dataset.scale_pixels(dataset.load_test_images(), pixel_range)
    found, expected = (compare_frameworks.logits(n, pixels).argmax(axis=1) for n in (copy, network))
    return float(np.mean(found == expected))


def milliseconds(framework: str, deterministic: bool) -> dict[int, float]:
    """The median time of a step of Adam, by batch size, in a process of its own."""
    step = {"pytorch": _pytorch_step, "tensorflow": _tensorflow_step, "scratch": _scratch_step}[framework]
    run = step(layers_of(NETWORK), deterministic)
    generator = np.random.default_rng(0)
    times = {}
    for size in BATCH_SIZES:
        pixels = generator.random((size, 28, 28)).astype(np.float32)
        labels = generator.integers(0, 10, size)
        taken = []
        for _ in range(max(12, 1500 // size)):
            started = time.perf_counter()
            run(pixels, labels)
            taken.append(1000 * (time.perf_counter() - started))
        times[size] = statistics.median(taken[3:])
    return times


Step = Callable[[np.ndarray, np.ndarray], None]


def _pytorch_step(layers: architecture.Architecture, deterministic: bool) -> Step:
    threads = params.read("threads", params.Threads)
    if deterministic:
        train_pytorch.make_deterministic(0, threads)
    else:
        torch.set_num_threads(threads)
    network = pytorch.build(layers).train()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step(pixels: np.ndarray, labels: np.ndarray) -> None:
        optimizer.zero_grad()
        logits = network(pytorch.to_tensor(pixels, torch.device("cpu")))
        functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
        optimizer.step()

    return step


def _tensorflow_step(layers: architecture.Architecture, deterministic: bool) -> Step:
    tf.config.set_visible_devices([], "GPU")
    threads = params.read("threads", params.Threads)
    if deterministic:
        train_tensorflow.make_deterministic(0, threads)
    else:
        train_tensorflow.use_threads(threads)
    network = tensorflow.build(layers)
    optimizer = keras.optimizers.Adam()
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(input_signature=[tf.TensorSpec([None, 28, 28, 1]), tf.TensorSpec([None], tf.int64)])
    def compiled(images: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = loss_function(labels, network(images, training=True))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)

    return lambda pixels, labels: compiled(tf.constant(pixels[..., np.newaxis]), tf.constant(labels))


def _scratch_step(layers: architecture.Architecture, deterministic: bool) -> Step:
    network, optimizer = scratch.build(layers, np.random.default_rng(0)), scratch.Adam()

    def step(pixels: np.ndarray, labels: np.ndarray) -> None:
        _, gradient = scratch.softmax_cross_entropy(network.forward(pixels, training=True), labels)
        network.backward(gradient)
        optimizer.step(network, 0.001)

    return step


def measured(framework: str) -> dict[str, dict[int, float]]:
    """`milliseconds`, deterministic and free: the fastest of five processes each, in turns."""
    runs: dict[str, list[dict[str, float]]] = {"deterministic": [], "free": []}
    for _ in range(5):
        for determinism, times in runs.items():
            command = [sys.executable, "-m", "tools.frameworks", framework, determinism]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            times.append(json.loads(run.stdout.splitlines()[-1]))
    return {
        determinism: {size: min(run[str(size)] for run in times) for size in BATCH_SIZES}
        for determinism, times in runs.items()
    }


def library_tables() -> dict[str, list[str]]:
    """The rows of the tables that depend on the libraries alone, by the table's place in TEXT."""
    return {
        "padding": [
            f"{k} | {s} | " + " | ".join(_pair(zeros_of_same(k, s).get(name)) for name in PADDINGS)
            for k, s in ((3, 1), (4, 1), (5, 1), (3, 2), (5, 2))
        ],
        "adam": [
            f"{g:.0e} | " + " | ".join(f"{step:.4f}" for step in first_adam_step(g).values())
            for g in (1e-3, 1e-6, 1e-7, 1e-8)
        ],
        "variance": [
            f"{n} | " + " | ".join(f"{v:.4f}" for v in running_variance(n).values()) for n in (4, 64, 256)
        ],
    }


def page() -> str:
    """The page as Markdown."""
    agreement = agreement_without_reordering()  # first, for it needs what the pipeline trained
    speed = {framework: measured(framework) for framework in results.WITH_EPOCHS}
    rows = library_tables() | {
        "weights": [" | ".join(row) for row in first_weights(layers_of(NETWORK))],
        "speed": [
            f"{size} | "
            + " | ".join(
                f"{t:.1f} ({1000 * t / size:.0f})"
                for t in [of["deterministic"][size] for of in speed.values()]
            )
            for size in BATCH_SIZES
        ],
        "determinism": [
            f"{size} | "
            + " | ".join(
                f"{speed[f]['deterministic'][size] / speed[f]['free'][size]:.2f} ×"
                for f in results.WITH_EPOCHS[:2]
            )
            for size in BATCH_SIZES
        ],
    }
    return TEXT.format(
        machine=machine.describe(),
        network=NETWORK,
        constant=momentum_differs([0.1] * 6),
        changing=momentum_differs([0.1] * 3 + [0.01] * 3),
        agreement=agreement,
        **{name: "\n".join(f"| {row} |" for row in table) for name, table in rows.items()},
    )


PADDINGS = ("Keras", "PyTorch, same", "PyTorch, k // 2")


def _pair(zeros: tuple[int, int] | None) -> str:
    return "refused" if zeros is None else f"{zeros[0]}, {zeros[1]}"


TEXT = """# What differs between the frameworks, and why

Written by `make frameworks` from measurements, most of which a test tries:
[tests/test_frameworks.py](../tests/test_frameworks.py). With equal weights the three build the same function
and learn the same: [tests/test_exchange.py](../tests/test_exchange.py) carries weights between them, and the
report shows how far trained networks then lie apart on all test images.

Measured on: {machine}.

## First weights

Left alone, two frameworks start the same network from different weights. Standard deviation of the weights,
and of the biases, of `{network}`:

| layer | PyTorch | Keras | NumPy, `glorot` | NumPy, `he` |
| --- | --- | --- | --- | --- |
{weights}

PyTorch draws weights and biases evenly from ±1/√inputs. Keras draws weights evenly from
±√(6 / (inputs + outputs)) (Glorot) and sets biases to zero; so does NumPy here unless `initialization: he`
asks for normal ones of variance 2 / inputs.

## Padding

Zeros that `same` puts before and after a row of 28 pixels:

| kernel | stride | Keras | PyTorch, `padding="same"` | PyTorch, `padding=kernel // 2` |
| --- | --- | --- | --- | --- |
{padding}

PyTorch's `same` is for stride 1 only; with stride 2 the usual `kernel // 2` shifts the picture by a pixel
against Keras. Here one rule, TensorFlow's, holds for all three: `Conv.pads` in
[stages/common/architecture.py](../stages/common/architecture.py).

## Momentum and epsilon

SGD with momentum: PyTorch multiplies the velocity by the learning rate when it moves, Keras when it adds the
gradient. With a constant rate that is the same ({constant:.0e} apart after six steps); if the rate falls to a
tenth on the way, they are {changing:.2g} apart. NumPy follows PyTorch.

Adam: Keras adds 1e-7 to the root before it corrects for the start at zero, PyTorch and NumPy add 1e-8
after it. The first step with learning rate 1:

| gradient | PyTorch | Keras | NumPy |
| --- | --- | --- | --- |
{adam}

Batch normalization: PyTorch's `momentum=0.1` is Keras's `momentum=0.9`. Of a batch whose variance is 1 the
running variance remembers

| images | PyTorch | Keras | NumPy |
| --- | --- | --- | --- |
{variance}

because PyTorch divides by n - 1 there, while it normalizes with n.

## Layout

PyTorch keeps images as (channels, rows, columns), Keras and NumPy as (rows, columns, channels). Filters are
transposed, and the first dense layer's rows reordered:
[stages/models/exchange.py](../stages/models/exchange.py).
Forget the second, and only {agreement:.1%} of the test images keep their digit.

## The time of a step

Milliseconds for a step of Adam on `{network}` in float32, median of the fastest of five processes, in
brackets microseconds an image:

| batch | PyTorch | Keras on TensorFlow | NumPy |
| --- | --- | --- | --- |
{speed}

## What determinism costs

The time of a deterministic step against one that may choose any algorithm, on the processor with as many
threads, each the fastest of five processes in turns. Above one is what determinism costs, but on a shared
machine two equal processes lie up to a fifth apart:

| batch | PyTorch | Keras on TensorFlow |
| --- | --- | --- |
{determinism}
"""


if __name__ == "__main__":
    command.run(main)
