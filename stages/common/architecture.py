"""Networks as data: the layer lists of architectures.yaml, their shapes and parameter counts.

PyTorch, Keras and NumPy build the same network from the same list. The output is a logit for each class;
softmax belongs to the loss and to `predict_proba`.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from stages.common.dataset import SIZES
from stages.common.params import Number, Positive, Section

Shape = tuple[int, int, int] | tuple[int]
"""Of a layer's input or output for one image: (channels, rows, columns) or (units,)."""


class Layer(Section):
    """A layer. By default it keeps the shape and has no parameters."""

    kind: str

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the output. Raises ValueError if the input cannot have `shape`."""
        return shape

    def parameters(self, shape: Shape) -> int:
        """The number of trained parameters for an input of `shape`."""
        return 0

    def __str__(self) -> str:
        return self.kind


class Conv(Layer):
    """2-D convolution with a bias. `same` pads with zeros: with stride 1 the size stays the same."""

    kind: Literal["conv"]
    filters: Positive
    kernel: Annotated[Positive, Field(le=2 * SIZES[1] - 1)]  # from any pixel to all others
    padding: Literal["same", "valid"]
    stride: Annotated[Positive, Field(le=SIZES[1])] = 1

    def output_shape(self, shape: Shape) -> Shape:
        _, rows, columns = _image(shape)
        if self.padding == "same":
            return self.filters, -(-rows // self.stride), -(-columns // self.stride)
        if self.kernel > min(rows, columns):
            raise ValueError(f"kernel {self.kernel} is larger than the image of {rows}×{columns}")
        rows, columns = ((size - self.kernel) // self.stride + 1 for size in (rows, columns))
        return self.filters, rows, columns

    def pads(self, rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros before and after the rows and the columns. As in TensorFlow, an odd one goes after."""
        if self.padding == "valid":
            return (0, 0), (0, 0)
        missing = (
            max(0, (-(-n // self.stride) - 1) * self.stride + self.kernel - n) for n in (rows, columns)
        )
        top_bottom, left_right = ((zeros // 2, zeros - zeros // 2) for zeros in missing)
        return top_bottom, left_right

    def parameters(self, shape: Shape) -> int:
        return (shape[0] * self.kernel**2 + 1) * self.filters

    def __str__(self) -> str:
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"conv {self.kernel}×{self.kernel}, {self.padding}{stride}"


class MaxPool(Layer):
    """The largest value of each `size`×`size` square; rows and columns left over are dropped."""

    kind: Literal["max_pool"]
    size: Positive

    def output_shape(self, shape: Shape) -> Shape:
        channels, rows, columns = _image(shape)
        if self.size > min(rows, columns):
            raise ValueError(f"max_pool {self.size} is larger than the image of {rows}×{columns}")
        return channels, rows // self.size, columns // self.size

    def __str__(self) -> str:
        return f"max_pool {self.size}×{self.size}"


class Dense(Layer):
    """Matrix product and bias. An image is flattened first. units: `classes` is the number of classes."""

    kind: Literal["dense"]
    units: Positive | Literal["classes"]

    def output_shape(self, shape: Shape) -> Shape:
        return (self.units,)

    def parameters(self, shape: Shape) -> int:
        return (prod(shape) + 1) * self.units


class Dropout(Layer):
    """In training, each value is set to 0 with probability `rate`, others are multiplied by 1/(1-rate)."""

    kind: Literal["dropout"]
    rate: Annotated[Number, Field(gt=0, lt=1)]

    def __str__(self) -> str:
        return f"dropout {self.rate:g}"


class BatchNorm(Layer):
    """Each channel or unit normalized over the batch, then scaled and shifted (Ioffe and Szegedy, 2015).

    Prediction uses running means and variances, updated as old · MOMENTUM + new · (1 - MOMENTUM).
    """

    kind: Literal["batch_norm"]

    def parameters(self, shape: Shape) -> int:
        return 2 * shape[0]


MOMENTUM, EPSILON = 0.9, 1e-5
"""Of batch normalization: decay of the running values, and the number added to the variance."""


class Activation(Layer):
    """An increasing function of each value."""

    kind: Literal["relu", "sigmoid", "tanh"]


SCALAR_OF = {"max_pool": "size", "dense": "units", "dropout": "rate"}
"""The name of the value of layers that are written with one, such as `dense: 128`."""
ALONE = ("relu", "sigmoid", "tanh", "batch_norm")
"""Layers written without a value."""


def _spell_out(layer: Any) -> Any:
    """`relu` as {kind: relu}, `dense: 10` as {kind: dense, units: 10}, `conv: {…}` as {kind: conv, …}."""
    if isinstance(layer, str) and layer in ALONE:
        return {"kind": layer}
    if isinstance(layer, dict) and len(layer) == 1:
        (kind, value), *_ = layer.items()
        if kind in SCALAR_OF:
            return {"kind": kind, SCALAR_OF[kind]: value}
        if kind == "conv" and isinstance(value, dict) and "kind" not in value:
            return {"kind": kind, **value}
    raise ValueError(
        "unknown layer; allowed: conv: {filters: …, kernel: …, padding: same or valid, stride: …}, "
        f"max_pool: …, dense: …, dropout: …, {', '.join(ALONE)}"
    )


AnyLayer = Annotated[
    Annotated[Conv | MaxPool | Dense | Dropout | BatchNorm | Activation, Field(discriminator="kind")],
    BeforeValidator(_spell_out),
]
Layers = tuple[AnyLayer, ...]


@dataclass(frozen=True)
class Architecture:
    """Layers with matching shapes. input_shape: (channels, rows, columns) of one image."""

    layers: Layers
    input_shape: tuple[int, int, int]


def parse(layers: Any) -> Layers:
    """The layers of a list as in architectures.yaml. Raises ValueError (pydantic's) if one is invalid."""
    return TypeAdapter(Layers).validate_python(layers)


def fit(layers: Layers, image_size: tuple[int, int], classes: int) -> Architecture:
    """The architecture of these layers for images of `image_size` (rows, columns).

    Raises ValueError if a layer cannot take the output of the one before, or if the output is not one logit
    for each class.
    """
    counted = tuple(
        layer.model_copy(update={"units": classes}) if getattr(layer, "units", None) == "classes" else layer
        for layer in layers
    )
    architecture = Architecture(counted, (1, *image_size))
    if shapes(architecture)[-1:] != [(classes,)]:
        raise ValueError(
            "the last layer that changes the shape must be dense: classes"
            f" (or dense: {classes}, the number of classes of this data set)"
        )
    return architecture


def shapes(architecture: Architecture) -> list[Shape]:
    """The output shape of each layer, in order, for one image.

    Raises ValueError if a layer cannot take the output of the one before.
    """
    result: list[Shape] = []
    for number, layer in enumerate(architecture.layers):
        try:
            result.append(layer.output_shape(result[-1] if result else architecture.input_shape))
        except ValueError as error:
            raise ValueError(f"layer {number}: {error}") from None
    return result


def input_shapes(architecture: Architecture) -> list[Shape]:
    """The input shape of each layer, in order, for one image."""
    return [architecture.input_shape, *shapes(architecture)][: len(architecture.layers)]


def parameter_counts(architecture: Architecture) -> list[int]:
    """The number of trained weights and biases of each layer, in order."""
    inputs = input_shapes(architecture)
    return [layer.parameters(shape) for layer, shape in zip(architecture.layers, inputs, strict=True)]


def weight_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a trained network's arrays: the one layout of weights.safetensors.

    In `3.dense.weights`, 3 is the layer's index. Images are (rows, columns, channels), so convolutions have
    weights (k, k, channels, filters), and the first dense layer, (inputs, units), takes pixels in that order.
    """
    arrays: dict[str, tuple[int, ...]] = {}
    for place, (layer, shape) in enumerate(zip(architecture.layers, input_shapes(architecture), strict=True)):
        match layer:
            case Conv():
                weights = (layer.kernel, layer.kernel, shape[0], layer.filters)
                of_layer = {"weights": weights, "biases": weights[3:]}
            case Dense():
                of_layer = {"weights": (prod(shape), layer.units), "biases": (layer.units,)}
            case BatchNorm():
                of_layer = dict.fromkeys(("scale", "shift", "mean", "variance"), shape[:1])
            case _:
                of_layer = {}
        arrays |= {f"{place}.{layer.kind}.{name}": of_array for name, of_array in of_layer.items()}
    return arrays


def pool_first(architecture: Architecture) -> list[tuple[int, AnyLayer]]:
    """The layers with their indices, each max pooling moved before the ReLU that it follows.

    ReLU and the maximum commute: outputs and gradients are the same bit by bit, and ReLU gets a quarter of
    the values. Sigmoid and tanh may round different values to equal ones, so they stay in place.
    """
    result = list(enumerate(architecture.layers))
    for i, ((_, layer), (_, following)) in enumerate(pairwise(result)):
        if isinstance(layer, Activation) and layer.kind == "relu" and isinstance(following, MaxPool):
            result[i : i + 2] = result[i + 1], result[i]
    return result


def describe(architecture: Architecture) -> str:
    """A printed table: one line per layer with its output shape and parameters, then the sum."""
    counts = parameter_counts(architecture)
    rows = [
        (str(layer), "×".join(map(str, shape)), f"{count:,}" if count else "")
        for layer, shape, count in zip(architecture.layers, shapes(architecture), counts, strict=True)
    ]
    rows = [("layer", "output", "parameters"), *rows, ("in all", "", f"{sum(counts):,}")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"  {layer:<{widths[0]}}  {shape:>{widths[1]}}  {count:>{widths[2]}}" for layer, shape, count in rows
    )


def _image(shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError("needs an image, but a dense layer comes before it")
    return shape
