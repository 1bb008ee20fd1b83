"""What differs between PyTorch, Keras and NumPy.

    make frameworks      (python -m tools.frameworks)

Measures the time of a training step (five minutes) and writes it to docs/frameworks.csv; `make frameworks`
then has tools/readme.py write docs/frameworks.md: these times, and what the functions below find out about
the libraries.
"""

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
import torch
import torch._dynamo  # its LLVM must be loaded before TensorFlow's
from torch.nn import functional

from stages import train_pytorch, train_tensorflow
from stages.common import architecture, params
from stages.console import command
from stages.models import pytorch, scratch, tensorflow
from stages.models.tensorflow import keras, tf
from tools import pages

TABLE = Path("docs/frameworks.csv")
BATCH_SIZES = (16, 64, 256, 1024)
GRADIENTS = (1e-3, 1e-6, 1e-7, 1e-8)
NETWORK = "cnn_dropout"
IMAGE_SIZE, CLASSES = (28, 28), 10


@dataclass(frozen=True)
class Row:
    """A line of docs/frameworks.csv: milliseconds of a step, deterministic, and with any algorithm."""

    framework: str
    batch_size: int
    deterministic: float
    free: float
    machine: str


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in STEPS:
        framework, determinism = sys.argv[1:]
        print(json.dumps(milliseconds(framework, determinism == "deterministic")))
    else:
        command.no_arguments(__doc__)
        pages.write_rows(TABLE, [row for framework in STEPS for row in measured(framework)])


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


def milliseconds(framework: str, deterministic: bool) -> dict[int, float]:
    """The median time of a step of Adam, by batch size, in a process of its own."""
    run = STEPS[framework](network(), deterministic)
    generator = np.random.default_rng(0)
    times = {}
    for size in BATCH_SIZES:
        pixels = generator.random((size, *IMAGE_SIZE)).astype(np.float32)
        labels = generator.integers(0, CLASSES, size)
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
    built = pytorch.build(layers).train()
    optimizer = torch.optim.Adam(built.parameters(), fused=True)

    def step(pixels: np.ndarray, labels: np.ndarray) -> None:
        optimizer.zero_grad()
        logits = built(pytorch.to_tensor(pixels, torch.device("cpu")))
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
    built = tensorflow.build(layers)
    optimizer = keras.optimizers.Adam()
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(input_signature=[tf.TensorSpec([None, *IMAGE_SIZE, 1]), tf.TensorSpec([None], tf.int64)])
    def compiled(images: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = loss_function(labels, built(images, training=True))
        gradients = tape.gradient(loss, built.trainable_variables)
        optimizer.apply(gradients, built.trainable_variables)

    return lambda pixels, labels: compiled(tf.constant(pixels[..., np.newaxis]), tf.constant(labels))


def _scratch_step(layers: architecture.Architecture, deterministic: bool) -> Step:
    built, optimizer = scratch.build(layers, np.random.default_rng(0)), scratch.Adam()

    def step(pixels: np.ndarray, labels: np.ndarray) -> None:
        _, gradient = scratch.softmax_cross_entropy(built.forward(pixels, training=True), labels)
        built.backward(gradient)
        optimizer.step(built, 0.001)

    return step


STEPS: dict[str, Callable[[architecture.Architecture, bool], Step]] = {
    "pytorch": _pytorch_step,
    "tensorflow": _tensorflow_step,
    "scratch": _scratch_step,
}
"""What makes a training step of a network, deterministic or not."""


def measured(framework: str) -> list[Row]:
    """The framework's rows of docs/frameworks.csv: the fastest of five processes each, in turns."""
    runs: dict[str, list[dict[str, float]]] = {"deterministic": [], "free": []}
    for _ in range(5):
        for determinism, times in runs.items():
            call = [sys.executable, "-m", "tools.frameworks", framework, determinism]
            run = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
            times.append(json.loads(run.stdout.splitlines()[-1]))
    fastest = {
        determinism: {size: min(run[str(size)] for run in times) for size in BATCH_SIZES}
        for determinism, times in runs.items()
    }
    return [
        Row(framework, size, *(round(times[size], 4) for times in fastest.values()), pages.this_machine())
        for size in BATCH_SIZES
    ]


def page() -> str:
    """The text of docs/frameworks.md, of docs/frameworks.csv and of what the libraries do."""
    rows = pages.read_rows(TABLE, Row)
    adam = [[f"{g:.0e}", *(f"{step:.4f}" for step in first_adam_step(g).values())] for g in GRADIENTS]
    variance = [[f"{n}", *(f"{value:.4f}" for value in running_variance(n).values())] for n in (4, 64, 256)]
    speed = {
        row: f"{row.deterministic:.1f} ({1000 * row.deterministic / row.batch_size:.0f})" for row in rows
    }
    cost = {row: f"{row.deterministic / row.free:.2f} ×" for row in rows if row.framework != "scratch"}
    return pages.fill(
        "frameworks.md",
        network=NETWORK,
        machine=pages.machines(rows),
        changing=momentum_differs([0.1] * 3 + [0.01] * 3),
        weights=pages.rows(first_weights()),
        padding=pages.rows(map(padding, (3, 4, 5, 3, 5), (1, 1, 1, 2, 2))),
        adam=pages.rows(adam),
        variance=pages.rows(variance),
        speed=by_batch_size(speed),
        determinism=by_batch_size(cost),  # of those that have several algorithms
    )


def padding(kernel: int, stride: int) -> list[str]:
    """A row of the page: how many zeros each library puts before and after."""
    found = zeros_of_same(kernel, stride)
    pairs = (found.get(name) for name in ("Keras", "PyTorch, same", "PyTorch, k // 2"))
    return [f"{kernel}", f"{stride}", *("{}, {}".format(*zeros) if zeros else "refused" for zeros in pairs)]


def by_batch_size(cells: dict[Row, str]) -> str:
    """A line a batch size, a column a framework."""
    lines: dict[int, list[str]] = {}
    for row, cell in cells.items():
        lines.setdefault(row.batch_size, [f"{row.batch_size}"]).append(cell)
    return pages.rows(lines.values())


if __name__ == "__main__":
    command.run(main)
