"""The networks in Keras 3 on TensorFlow: build, predict, save, load. Weights are .weights.h5 files."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal, assert_never

os.environ["KERAS_BACKEND"] = "tensorflow"

import h5py
import numpy as np

from stages.common.environment import without

with without("matplotlib", "pandas", "sklearn"):  # Keras takes what it finds, for what nobody here does
    import keras
    import tensorflow as tf

from stages.common import files
from stages.common.architecture import (
    EPSILON,
    IMAGE_SHAPE,
    MOMENTUM,
    Activation,
    Architecture,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    pool_first,
    shapes,
)

keras.config.set_floatx("float32")  # whatever the user's own ~/.keras says
keras.config.set_image_data_format("channels_last")
keras.config.set_epsilon(1e-7)


def build(layers: Architecture) -> keras.Sequential:
    """The network of an architecture: float32 (n, 28, 28, 1) to logits (n, 10)."""
    layers = pool_first(layers)
    channels, rows, columns = IMAGE_SHAPE
    network = keras.Sequential([keras.Input((rows, columns, channels), dtype="float32")], name="network")
    shape = IMAGE_SHAPE
    for place, (layer, output_shape) in enumerate(zip(layers, shapes(layers), strict=True)):
        name = f"{layer.kind}_{place}"  # Keras would count on over all networks, and saves the names
        match layer:
            case Conv():
                network.add(
                    keras.layers.Conv2D(
                        layer.filters, layer.kernel, layer.stride, padding=layer.padding, name=name
                    )
                )
            case MaxPool():
                network.add(keras.layers.MaxPooling2D(layer.size, name=name))
            case Dense():
                if len(shape) == 3:
                    network.add(keras.layers.Flatten(name=f"flatten_{place}"))
                network.add(keras.layers.Dense(layer.units, name=name))
            case Dropout():
                network.add(keras.layers.Dropout(layer.rate, name=name))
            case BatchNorm():
                network.add(BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=name))
            case Activation():
                network.add(keras.layers.Activation(layer.kind, name=name))
            case _:
                assert_never(layer)
        shape = output_shape
    return network


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's, of the last axis, with the same bits on Intel's and AMD's processors.

    Keras scales with TensorFlow's rsqrt, which starts from the processor's own estimate (RSQRTPS),
    and they estimate differently. Roots and quotients are exact to the last bit, but a quotient by a
    root becomes rsqrt again when TensorFlow optimizes a graph: 1 / √v is written √v / v.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The normalized `inputs`, float32 (n, …, channels); in training by their own moments."""
        mean, variance = self.moving_mean, self.moving_variance
        if training:
            mean, variance = tf.nn.moments(inputs, axes=list(range(len(inputs.shape) - 1)))
            for moving, moment in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + moment * (1 - self.momentum))
        variance = variance + self.epsilon
        scale = self.gamma * tf.sqrt(variance) / variance
        return inputs * scale + (self.beta - mean * scale)


@contextmanager
def computing_in(precision: Literal["float32", "bfloat16"], network: keras.Sequential) -> Iterator[None]:
    """Let the layers of `network` compute in `precision` in this block, all but batch normalization.

    Their weights stay float32. The block is where a graph is traced, not where it runs.
    """
    if precision == "float32":
        yield
        return
    layers = [layer for layer in network.layers if not isinstance(layer, BatchNormalization)]
    for layer in layers:
        layer.dtype_policy = f"mixed_{precision}"
    try:
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = "float32"


def predict_logits(network: keras.Model, images: tf.Tensor, batch_size: int = 500) -> tf.Tensor:
    """Logits (n, 10) of float32 images (n, 28, 28, 1)."""
    forward = _compiled(network)
    batches = range(0, len(images), batch_size)
    return tf.concat([forward(images[start : start + batch_size]) for start in batches], axis=0)


@lru_cache(maxsize=1)
def _compiled(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """The network as one graph, made once: it takes as long as predicting thousands of images."""
    channels, rows, columns = IMAGE_SHAPE
    return tf.function(network, input_signature=[tf.TensorSpec([None, rows, columns, channels], tf.float32)])


def predict_proba(network: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Class probabilities, float32 (n, 10), of scaled images, float32 (n, 28, 28)."""
    return tf.nn.softmax(predict_logits(network, tf.constant(pixels[..., np.newaxis]))).numpy()


def save(network: keras.Model, path: Path) -> None:
    """Write the network's weights to `path`, which must end in .weights.h5."""
    room = 2**16 + sum(2**13 + weights.numpy().nbytes for weights in network.weights)
    path.write_bytes(bytes(room))  # on a full disk this fails, where HDF5 would crash
    path.unlink()
    network.save_weights(path)


def load(layers: Architecture, path: Path) -> keras.Sequential:
    """The network of `layers` with the weights that `save` wrote.

    Raises UserError, naming the file, if it is damaged or of another architecture.
    """
    network = build(layers)
    with files.reading(path, "does not hold this architecture's weights"):
        with h5py.File(path) as file:
            file.visititems(_refuse_other_types)
        network.load_weights(path)
    return network


def _refuse_other_types(name: str, item: h5py.Group | h5py.Dataset) -> None:
    if isinstance(item, h5py.Dataset) and item.dtype != np.float32:
        raise TypeError(f"{name} holds {item.dtype}, not float32")
