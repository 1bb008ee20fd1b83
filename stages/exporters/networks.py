"""The networks as ONNX graphs, from the layer list and the common weights: one builder for all frameworks.

common/architecture.py says what each layer computes. Images are (channels, rows, columns) here, as in
PyTorch; weights.safetensors has the channels last.
"""

from typing import assert_never

import numpy as np

from stages.common import dataset
from stages.common.architecture import (
    EPSILON,
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    Shape,
    input_shapes,
)
from stages.common.saved import Network
from stages.exporters.graph import GRAY_LEVELS, Graph, look_up, whole

OPERATORS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
"""ONNX's names of the activations."""


def build(graph: Graph, images: str, network: Network) -> str:
    """Add a network, with scaling and averaged views; return its probabilities, float32 (n, classes)."""
    described = network.description
    levels = dataset.scale_pixels(GRAY_LEVELS, described.recipe["pixel_range"])
    distance = described.recipe.get("prediction_shift", 0)
    pixels = look_up(graph, images, levels)
    values, views = add_views(graph, pixels, distance, levels[described.ground], described.image_size)
    layers = network.architecture.layers
    for place, (layer, shape) in enumerate(zip(layers, input_shapes(network.architecture), strict=True)):
        arrays = {
            name.rpartition(".")[2]: array
            for name, array in network.weights.items()
            if name.startswith(f"{place}.")
        }
        values = add_layer(graph, values, layer, shape, arrays)
    probabilities = graph.add("Softmax", values, axis=1)
    if views == 1:
        return probabilities
    by_view = graph.add("Reshape", probabilities, whole(views, -1, len(described.classes)))
    return graph.add("ReduceMean", by_view, whole(0), keepdims=0)


def add_views(
    graph: Graph, pixels: str, distance: int, ground: np.float32, image_size: tuple[int, int]
) -> tuple[str, int]:
    """The views over which predictions are averaged, (views · n, 1, rows, columns), and their number.

    Views are the images themselves and, if `distance` is not 0, the images moved by so many pixels up, down,
    left and right. ground: what fills the edges then.
    """
    views = [pixels]
    if distance:
        around = whole(0, distance, distance, 0, distance, distance)
        padded = graph.add("Pad", pixels, around, np.array(ground, np.float32))
        for y, x in (2, 1), (0, 1), (1, 2), (1, 0):
            start = whole(y * distance, x * distance)
            views.append(graph.add("Slice", padded, start, whole(*start + image_size), whole(1, 2)))
    together = graph.add("Concat", *views, axis=0) if distance else pixels
    return graph.add("Unsqueeze", together, whole(1)), len(views)


def add_layer(graph: Graph, values: str, layer: object, shape: Shape, arrays: dict[str, np.ndarray]) -> str:
    """Add a layer. shape: of its input for one image. arrays: its weights, by their names in the file."""
    match layer:
        case Conv():
            filters = arrays["weights"].transpose(3, 2, 0, 1)  # from (k, k, channels, filters)
            (top, bottom), (left, right) = layer.pads(*shape[1:])
            strides, pads = [layer.stride] * 2, [top, left, bottom, right]
            return graph.add("Conv", values, filters, arrays["biases"], strides=strides, pads=pads)
        case MaxPool():
            return graph.add("MaxPool", values, kernel_shape=[layer.size] * 2, strides=[layer.size] * 2)
        case Dense():
            weights = arrays["weights"]
            if len(shape) == 3:
                channels, rows, columns = shape
                weights = weights.reshape(rows, columns, channels, -1).transpose(2, 0, 1, 3)
                weights = weights.reshape(-1, layer.units)
                values = graph.add("Flatten", values)
            return graph.add("Gemm", values, weights, arrays["biases"])
        case BatchNorm():
            order = (arrays[name] for name in ("scale", "shift", "mean", "variance"))
            return graph.add("BatchNormalization", values, *order, epsilon=EPSILON)
        case Dropout():
            return values
        case Activation():
            return graph.add(OPERATORS[layer.kind], values)
        case _:
            assert_never(layer)
