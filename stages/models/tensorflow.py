"""The networks in Keras 3 on TensorFlow: build, predict, save, load. Weights are .weights.h5 files."""

import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's own ~/.keras says

import keras
import numpy as np

from stages.common.architecture import (
    IMAGE_SHAPE,
    Activation,
    Architecture,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    pool_first,
    shapes,
)
from stages.common.command import UserError


def build(layers: Architecture) -> keras.Sequential:
    """The network of an architecture: float32 (n, 28, 28, 1) to logits (n, 10)."""
    layers = pool_first(layers)
    channels, rows, columns = IMAGE_SHAPE
    network = keras.Sequential([keras.Input((rows, columns, channels), dtype="float32")])
    shape = IMAGE_SHAPE
    for layer, output_shape in zip(layers, shapes(layers), strict=True):
        match layer:
            case Conv():
                network.add(keras.layers.Conv2D(layer.filters, layer.kernel, padding=layer.padding))
            case MaxPool():
                network.add(keras.layers.MaxPooling2D(layer.size))
            case Dense():
                if len(shape) == 3:
                    network.add(keras.layers.Flatten())
                network.add(keras.layers.Dense(layer.units))
            case Dropout():
                network.add(keras.layers.Dropout(layer.rate))
            case Activation():
                network.add(keras.layers.Activation(layer.kind))
        shape = output_shape
    return network


def predict_proba(network: keras.Model, pixels: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """Class probabilities, float32 (n, 10), of scaled images, float32 (n, 28, 28)."""
    logits = network.predict(pixels[..., np.newaxis], batch_size=batch_size, verbose=0)
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def save(network: keras.Model, path: Path) -> None:
    """Write the network's weights to `path`, which must end in .weights.h5."""
    network.save_weights(path)


def load(layers: Architecture, path: Path) -> keras.Sequential:
    """The network of `layers` with the weights that `save` wrote.

    Raises UserError, naming the file, if it is damaged or of another architecture.
    """
    network = build(layers)
    try:
        network.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} does not hold this architecture's weights: {reason}") from None
    return network
