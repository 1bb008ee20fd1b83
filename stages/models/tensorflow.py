"""The networks in Keras 3 on TensorFlow: build, predict, move images, weights in and out."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, assert_never

os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np

from stages.common.architecture import (
    EPSILON,
    MOMENTUM,
    Activation,
    Architecture,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    Shape,
    pool_first,
)
from stages.console import chatter
from stages.models.without import without

with chatter.hidden(), without("matplotlib", "pandas", "sklearn"):
    import keras
    import tensorflow as tf

keras.config.set_floatx("float32")  # overrides the user's ~/.keras
keras.config.set_image_data_format("channels_last")
keras.config.set_epsilon(1e-7)


ARRAYS = {"batch_norm": ("scale", "shift", "mean", "variance")}
"""Names in weights.safetensors of the arrays of Keras's `get_weights`, by the kind of layer."""
WEIGHTS_AND_BIASES = ("weights", "biases")
"""The names for all other kinds."""


def build(architecture: Architecture) -> keras.Sequential:
    """The network of an architecture: float32 (n, rows, columns, 1) to logits (n, classes).

    Its layers have the names of weights.safetensors, such as `3.dense`.
    """
    channels, rows, columns = architecture.input_shape
    network = keras.Sequential([keras.Input((rows, columns, channels), dtype="float32")], name="network")
    shape: Shape = architecture.input_shape
    for place, layer in pool_first(architecture):
        name = f"{place}.{layer.kind}"
        match layer:
            case Conv():
                options = {"strides": layer.stride, "padding": layer.padding, "name": name}
                network.add(keras.layers.Conv2D(layer.filters, layer.kernel, **options))
            case MaxPool():
                network.add(keras.layers.MaxPooling2D(layer.size, name=name))
            case Dense():
                if len(shape) == 3:
                    network.add(keras.layers.Flatten(name=f"{place}.flatten"))
                network.add(keras.layers.Dense(layer.units, name=name))
            case Dropout():
                network.add(keras.layers.Dropout(layer.rate, name=name))
            case BatchNorm():
                network.add(BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=name))
            case Activation():
                network.add(keras.layers.Activation(layer.kind, name=name))
            case _:
                assert_never(layer)
        shape = layer.output_shape(shape)
    return network


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization over the last axis with the same bits on Intel and AMD processors.

    Keras uses TensorFlow's rsqrt, which starts from the processor's estimate (RSQRTPS), and that differs
    between them. Square roots and quotients are rounded correctly everywhere. But TensorFlow's graph
    optimizer turns 1 / √v into rsqrt, so √v / v is used instead.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`inputs`, float32 (n, …, channels), normalized; in training by the moments of the batch."""
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
    """Let the layers of `network`, except batch normalization, compute in `precision` in this block.

    Weights stay float32. The block must enclose the tracing of a graph, not its execution.
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
    """Logits (n, classes) of float32 images (n, rows, columns, 1)."""
    forward = _compiled(network)
    batches = range(0, len(images), batch_size)
    return tf.concat([forward(images[start : start + batch_size]) for start in batches], axis=0)


@lru_cache(maxsize=1)
def _compiled(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """The network as a graph. Cached, since tracing takes as long as predicting thousands of images."""
    return tf.function(network, input_signature=[tf.TensorSpec(network.input_shape, tf.float32)])


def logits(network: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Logits, float32 (n, classes), of scaled images, float32 (n, rows, columns)."""
    return predict_logits(network, tf.constant(pixels[..., np.newaxis])).numpy()


def predict_proba(network: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Class probabilities, float32 (n, classes), of scaled images, float32 (n, rows, columns)."""
    return tf.nn.softmax(predict_logits(network, tf.constant(pixels[..., np.newaxis]))).numpy()


def move(images: tf.Tensor, transformations: tf.Tensor, ground: float) -> tf.Tensor:
    """Images float32 (n, rows, columns, 1), image i transformed by matrix i (augmentation.draw).

    transformations: float32 (n, 2, 3). ground: the background's value, which fills in from outside.
    """
    _, rows, columns, _ = images.shape
    middle = tf.constant([[(columns - 1) / 2], [(rows - 1) / 2]])
    linear, shift = transformations[:, :, :2], transformations[:, :, 2:]
    shift += middle - linear @ middle  # from the centre to the corner as origin
    affine = tf.reshape(tf.concat([linear, shift], axis=2), (-1, 6))
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.pad(affine, ((0, 0), (0, 2))),
        output_shape=tf.constant((rows, columns)),
        fill_value=ground,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def get_weights(network: keras.Model) -> dict[str, np.ndarray]:
    """The trained arrays in the layout of weights.safetensors (architecture.weight_shapes), float32."""
    return {
        f"{layer.name}.{name}": array
        for layer in network.layers
        for name, array in zip(_names(layer), layer.get_weights(), strict=True)
    }


def load(architecture: Architecture, weights: dict[str, np.ndarray]) -> keras.Sequential:
    """A network with the arrays of weights.safetensors (architecture.weight_shapes), of any framework."""
    network = build(architecture)
    for layer in network.layers:
        layer.set_weights([weights[f"{layer.name}.{name}"] for name in _names(layer)])
    return network


def _names(layer: keras.Layer) -> tuple[str, ...]:
    if not layer.weights:
        return ()
    return ARRAYS.get(layer.name.partition(".")[2], WEIGHTS_AND_BIASES)
