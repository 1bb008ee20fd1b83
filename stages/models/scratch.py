"""Neural networks in plain NumPy: layers, softmax cross-entropy, optimizers, and their mathematics.

A layer's `forward` maps a batch x to its output y and stores what backpropagation needs. Then the layer
gets g = ∂L/∂y, the gradient of the loss with respect to y: `differentiate` stores the gradients of the
layer's parameters in `gradients`, and `backward` returns ∂L/∂x for the layer before. Images are
(n, rows, columns, channels).

Source: Rumelhart, Hinton and Williams, Learning representations by back-propagating errors,
Nature 323, 1986.
"""

from typing import assert_never

import numpy as np

from stages.common import architecture as spec
from stages.common.architecture import Architecture, Shape, pool_first


class Layer:
    """A layer of the network. The dictionaries stay empty if it has no parameters.

    parameters: updated by the optimizer. gradients: ∂L/∂parameter, under the same names. running: other
    arrays that prediction needs, such as running means.
    """

    def __init__(self) -> None:
        self.parameters: dict[str, np.ndarray] = {}
        self.gradients: dict[str, np.ndarray] = {}
        self.running: dict[str, np.ndarray] = {}

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        raise NotImplementedError

    def differentiate(self, g: np.ndarray) -> None:
        """Set `gradients`, if the layer has parameters."""

    def backward(self, g: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def sum_of_channels(x: np.ndarray) -> np.ndarray:
    """Σ x over all axes but the last: (…, channels) → (channels,).

    It sums one axis after the other: a single float32 sum over all would lose two more digits and be slower.
    """
    while x.ndim > 1:
        x = x.sum(axis=0)
    return x


def mean_of_channels(x: np.ndarray) -> np.ndarray:
    """The mean of x over all axes but the last: (…, channels) → (channels,)."""
    return sum_of_channels(x) / (x.size // x.shape[-1])


class Dense(Layer):
    """y = x W + b.

    ∂L/∂W = xᵀ g,  ∂L/∂b = Σ g over the batch,  ∂L/∂x = g Wᵀ.
    """

    def __init__(self, weights: np.ndarray):  # (inputs, units)
        super().__init__()
        self.parameters = {"weights": weights, "biases": np.zeros(weights.shape[1], weights.dtype)}

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:  # (n, inputs) → (n, units)
        self.x = x
        return x @ self.parameters["weights"] + self.parameters["biases"]

    def differentiate(self, g: np.ndarray) -> None:
        self.gradients = {"weights": self.x.T @ g, "biases": sum_of_channels(g)}

    def backward(self, g: np.ndarray) -> np.ndarray:  # (n, units) → (n, inputs)
        return g @ self.parameters["weights"].T


class Conv2D(Layer):
    """The matrix product of every k×k window with the filters: y[r, c] = window[s r, s c] W + b.

    s is the stride. For all windows at once this is Dense, so ∂L/∂W = windowsᵀ g and ∂L/∂b = Σ g. A pixel
    belongs to several windows: ∂L/∂x is the sum of g Wᵀ over the k² positions in the window, each shifted
    to its position.
    """

    def __init__(
        self,
        weights: np.ndarray,  # (k, k, channels, filters)
        pads: tuple[tuple[int, int], tuple[int, int]],  # zeros around rows and columns
        stride: int = 1,
    ):
        super().__init__()
        self.pads, self.stride = pads, stride
        self.parameters = {"weights": weights, "biases": np.zeros(weights.shape[3], weights.dtype)}

    def forward(
        self, x: np.ndarray, training: bool
    ) -> np.ndarray:  # (n, r, c, channels) → (n, r', c', filters)
        weights, s = self.parameters["weights"], self.stride
        padded = np.pad(x, ((0, 0), *self.pads, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[:2], axis=(1, 2))
        windows = windows[:, ::s, ::s].transpose(0, 1, 2, 4, 5, 3)  # (n, r', c', k, k, channels)
        self.padded_shape, self.output_shape = padded.shape, windows.shape[:3]
        self.rows = windows.reshape(-1, weights[..., 0].size)  # a copy: (n·r'·c', k·k·channels)
        y = self.rows @ weights.reshape(-1, weights.shape[-1])
        y += self.parameters["biases"]
        return y.reshape(*self.output_shape, -1)

    def differentiate(self, g: np.ndarray) -> None:
        shape = self.parameters["weights"].shape
        flat = g.reshape(-1, shape[-1])  # (n·r'·c', filters)
        self.gradients = {"weights": (self.rows.T @ flat).reshape(shape), "biases": sum_of_channels(g)}

    def backward(self, g: np.ndarray) -> np.ndarray:
        # (n, r', c', filters) → (n, r, c, channels)
        weights, s = self.parameters["weights"], self.stride
        (height, width, channels, filters), (_, rows, columns) = weights.shape, self.output_shape
        flat = g.reshape(-1, filters)
        gradient = np.zeros(self.padded_shape, g.dtype)
        for i in range(height):
            for j in range(width):
                pixels = (flat @ weights[i, j].T).reshape(*self.output_shape, channels)
                gradient[:, i : i + s * rows : s, j : j + s * columns : s] += pixels
        (top, bottom), (left, right) = self.pads
        return gradient[:, top : gradient.shape[1] - bottom, left : gradient.shape[2] - right]


class MaxPool2D(Layer):
    """The largest value of each s×s square; rows and columns left over are dropped.

    ∂L/∂x is g at the position of the largest value (in a tie, the first), else 0.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:  # (n, r, c, ch) → (n, r/s, c/s, ch)
        self.x = x
        first, *others = self._places(x)
        self.y = first.copy()
        for values in others:
            np.maximum(self.y, values, out=self.y)
        return self.y

    def backward(self, g: np.ndarray) -> np.ndarray:  # (n, r/s, c/s, ch) → (n, r, c, ch)
        gradient = np.zeros(self.x.shape, g.dtype)
        waiting = np.ones(g.shape, bool)  # squares whose largest value has not been found yet
        for values, target in zip(self._places(self.x), self._places(gradient), strict=True):
            here = waiting & (values == self.y)
            np.multiply(g, here, out=target)
            waiting &= ~here
        return gradient

    def _places(self, x: np.ndarray) -> list[np.ndarray]:
        """Views of x: the first value of every square, the second, …, row by row."""
        s = self.size
        kept = x[:, : x.shape[1] // s * s, : x.shape[2] // s * s]
        return [kept[:, i::s, j::s] for i in range(s) for j in range(s)]


class Flatten(Layer):
    """Each image as one row. ∂L/∂x is g in the image's shape."""

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:  # (n, r, c, ch) → (n, r·c·ch)
        self.input_shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, g: np.ndarray) -> np.ndarray:
        return g.reshape(self.input_shape)


class ReLU(Layer):
    """y = max(x, 0).  ∂L/∂x = g where x > 0, else 0."""

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, g: np.ndarray) -> np.ndarray:
        return g * self.positive


class Sigmoid(Layer):
    """y = 1 / (1 + e⁻ˣ), computed as (1 + tanh(x/2)) / 2, which never overflows.  ∂L/∂x = g y (1 - y)."""

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.y = (1 + np.tanh(x / 2)) / 2
        return self.y

    def backward(self, g: np.ndarray) -> np.ndarray:
        return g * self.y * (1 - self.y)


class Dropout(Layer):
    """In training y = x m / (1 - rate), where m is 0 with probability `rate`, else 1; in prediction y = x.

    ∂L/∂x = g m / (1 - rate). Source: Srivastava et al., JMLR 15, 2014.
    """

    def __init__(self, rate: float, generator: np.random.Generator):
        super().__init__()
        self.rate, self.generator = rate, generator

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        if not training:
            return x
        kept = self.generator.random(x.shape, np.float32) >= self.rate
        self.scale = kept * x.dtype.type(1 / (1 - self.rate))
        return x * self.scale

    def backward(self, g: np.ndarray) -> np.ndarray:
        return g * self.scale


class Tanh(Layer):
    """y = tanh x.  ∂L/∂x = g (1 - y²)."""

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.y = np.tanh(x)
        return self.y

    def backward(self, g: np.ndarray) -> np.ndarray:
        return g * (1 - self.y * self.y)


class BatchNorm(Layer):
    """y = γ x̂ + β with x̂ = (x - μ) / √(σ² + ε), μ and σ² a channel's mean and variance in the batch.

    ∂L/∂γ = Σ g x̂,  ∂L/∂β = Σ g,  ∂L/∂x = γ / √(σ² + ε) · (g - mean(g) - x̂ mean(g x̂)), sums and
    means over all axes but the last. Prediction uses running means of the batches' μ and σ².
    Source: Ioffe and Szegedy, 2015, arXiv:1502.03167.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.parameters = {"scale": np.ones(channels, np.float32), "shift": np.zeros(channels, np.float32)}
        self.running = {"mean": np.zeros(channels, np.float32), "variance": np.ones(channels, np.float32)}

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:  # (…, channels) → (…, channels)
        mean, variance = self.running["mean"], self.running["variance"]
        if training:
            batch_mean = mean_of_channels(x)
            batch_variance = mean_of_channels((x - batch_mean) ** 2)
            mean += (1 - spec.MOMENTUM) * (batch_mean - mean)
            variance += (1 - spec.MOMENTUM) * (batch_variance - variance)
            mean, variance = batch_mean, batch_variance
        self.deviation = np.sqrt(variance + x.dtype.type(spec.EPSILON))
        self.normal = (x - mean) / self.deviation
        return self.parameters["scale"] * self.normal + self.parameters["shift"]

    def differentiate(self, g: np.ndarray) -> None:
        self.gradients = {"scale": sum_of_channels(g * self.normal), "shift": sum_of_channels(g)}

    def backward(self, g: np.ndarray) -> np.ndarray:
        centred = g - mean_of_channels(g) - self.normal * mean_of_channels(g * self.normal)
        return self.parameters["scale"] / self.deviation * centred


ACTIVATIONS = {"relu": ReLU, "sigmoid": Sigmoid, "tanh": Tanh}


def glorot_uniform(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Initial weights, float32, uniform within ±√(6 / (inputs + outputs)) (Glorot and Bengio, 2010).

    shape: (inputs, units) or (k, k, channels, filters); each weight of a filter's k×k counts.
    """
    area = int(np.prod(shape[:-2]))
    bound = np.sqrt(6 / (area * (shape[-2] + shape[-1])))
    return generator.uniform(-bound, bound, shape).astype(np.float32)


def he_normal(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Initial weights, float32, normal with variance 2 / inputs, for ReLU (He et al., 2015)."""
    return (generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)


INITIALIZATIONS = {"glorot": glorot_uniform, "he": he_normal}


class Network:
    """A sequence of layers: images, float32 (n, rows, columns), to logits (n, classes).

    names: of the layers, in order, as in weights.safetensors.
    """

    def __init__(self, layers: list[Layer], names: list[str] | None = None):
        self.layers = layers
        self.names = names or list(map(str, range(len(layers))))

    def forward(self, images: np.ndarray, training: bool = False) -> np.ndarray:
        x = images[..., np.newaxis]  # one channel
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def backward(self, g: np.ndarray) -> None:
        """Set the gradients of every layer from g = ∂L/∂logits, but not of the images."""
        first = next(place for place, layer in enumerate(self.layers) if layer.parameters)
        for layer in reversed(self.layers[first + 1 :]):
            layer.differentiate(g)
            g = layer.backward(g)
        self.layers[first].differentiate(g)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Every weight and bias, named like `0.dense.weights` after its layer."""
        return self._collect("parameters")

    @property
    def gradients(self) -> dict[str, np.ndarray]:
        """∂L/∂parameter of the last `backward`, under the same names."""
        return self._collect("gradients")

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """All arrays of a trained network: parameters and running means."""
        return self._collect("parameters") | self._collect("running")

    def _collect(self, which: str) -> dict[str, np.ndarray]:
        return {
            f"{layer_name}.{name}": array
            for layer_name, layer in zip(self.names, self.layers, strict=True)
            for name, array in getattr(layer, which).items()
        }


def build(
    architecture: Architecture, generator: np.random.Generator, initialization: str = "glorot"
) -> Network:
    """A network with random initial weights from `generator`."""
    first_weights = INITIALIZATIONS[initialization]
    built: dict[str, Layer] = {}
    shape: Shape = architecture.input_shape
    for place, layer in pool_first(architecture):
        name = f"{place}.{layer.kind}"
        match layer:
            case spec.Conv():
                k, (channels, rows, columns) = layer.kernel, shape
                weights = first_weights((k, k, channels, layer.filters), generator)
                built[name] = Conv2D(weights, layer.pads(rows, columns), layer.stride)
            case spec.MaxPool():
                built[name] = MaxPool2D(layer.size)
            case spec.Dense():
                if len(shape) == 3:
                    built[f"{place}.flatten"] = Flatten()
                built[name] = Dense(first_weights((int(np.prod(shape)), layer.units), generator))
            case spec.Dropout():
                built[name] = Dropout(layer.rate, generator)
            case spec.BatchNorm():
                built[name] = BatchNorm(shape[0])
            case spec.Activation():
                built[name] = ACTIVATIONS[layer.kind]()
            case _:
                assert_never(layer)
        shape = layer.output_shape(shape)
    return Network(list(built.values()), list(built))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities eᶻ / Σ eᶻ of each row of logits (n, k). Subtracting the maximum prevents overflow."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def softmax_cross_entropy(
    logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0
) -> tuple[float, np.ndarray]:
    """The mean cross-entropy in nats of logits (n, k) and labels (n,), and its gradient (n, k).

    The target is q = (1 - smoothing) · one_hot(label) + smoothing / k (Szegedy et al., 2016,
    arXiv:1512.00567).  L = mean(log Σ eᶻ - Σ q z).  ∂L/∂z = (softmax(z) - q) / n.
    """
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    sums = powers.sum(axis=1, keepdims=True)
    wanted = (1 - smoothing) * shifted[rows, labels] + smoothing * shifted.mean(axis=1)
    loss = np.mean(np.log(sums[:, 0]) - wanted)
    gradient = powers / sums - smoothing / logits.shape[1]
    gradient[rows, labels] -= 1 - smoothing
    return float(loss), gradient / len(labels)


class SGD:
    """w ← w - learning_rate · v with v ← momentum · v + ∂L/∂w + weight_decay · w (Polyak, 1964)."""

    def __init__(self, momentum: float = 0.0, weight_decay: float = 0.0):
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocities: dict[str, np.ndarray] = {}

    def step(self, network: Network, learning_rate: float) -> None:
        gradients = network.gradients
        for name, array in network.parameters.items():
            velocity = gradients[name]
            if self.weight_decay:
                velocity = velocity + self.weight_decay * array
            if self.momentum:
                velocity = velocity + self.momentum * self.velocities.get(name, 0)
                self.velocities[name] = velocity
            array -= learning_rate * velocity


class Adam:
    """w ← w - learning_rate · (m̂ / (√v̂ + ε) + weight_decay · w) (Kingma and Ba, 2015, Algorithm 1).

    m and v are running means of the gradient and of its square; m̂ = m / (1 - β₁ᵗ) and
    v̂ = v / (1 - β₂ᵗ) correct for their start at zero. Weight decay is decoupled, as in AdamW
    (Loshchilov and Hutter, 2019).
    """

    def __init__(
        self,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.weight_decay = weight_decay
        self.steps = 0
        self.means: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def step(self, network: Network, learning_rate: float) -> None:
        self.steps += 1
        scale_m, scale_v = 1 - self.beta_1**self.steps, 1 - self.beta_2**self.steps
        parameters, gradients = network.parameters, network.gradients
        for name, array in parameters.items():
            if name not in self.means:
                self.means[name] = np.zeros_like(array), np.zeros_like(array)
            (m, v), gradient = self.means[name], gradients[name]
            m += (1 - self.beta_1) * (gradient - m)
            v += (1 - self.beta_2) * (gradient * gradient - v)
            if self.weight_decay:
                array -= learning_rate * self.weight_decay * array
            array -= learning_rate / scale_m * m / (np.sqrt(v / scale_v) + self.epsilon)


def logits(network: Network, pixels: np.ndarray, batch_size: int = 100) -> np.ndarray:
    """Logits, float32 (n, classes), of scaled images, float32 (n, rows, columns)."""
    batches = range(0, len(pixels), batch_size)
    return np.concatenate([network.forward(pixels[start : start + batch_size]) for start in batches])


def predict_proba(network: Network, pixels: np.ndarray) -> np.ndarray:
    """Class probabilities, float32 (n, classes), of scaled images, float32 (n, rows, columns)."""
    return softmax(logits(network, pixels))


def move(images: np.ndarray, transformations: np.ndarray, ground: float) -> np.ndarray:
    """Images float32 (n, rows, columns), image i transformed by matrix i (augmentation.draw).

    transformations: float32 (n, 2, 3). ground: the background's value, which fills in from outside.
    Interpolation is bilinear: a pixel is a weighted mean of the four pixels around its source.
    """
    count, rows, columns = images.shape
    middle_x, middle_y = (columns - 1) / 2, (rows - 1) / 2
    x = np.arange(columns, dtype=np.float32) - np.float32(middle_x)
    y = np.arange(rows, dtype=np.float32)[:, np.newaxis] - np.float32(middle_y)
    a = transformations[..., np.newaxis, np.newaxis]  # (n, 2, 3, 1, 1)
    source_x = a[:, 0, 0] * x + (a[:, 0, 1] * y + (a[:, 0, 2] + np.float32(middle_x + 1)))
    source_y = a[:, 1, 0] * x + (a[:, 1, 1] * y + (a[:, 1, 2] + np.float32(middle_y + 1)))
    framed = np.pad(images, ((0, 0), (1, 2), (1, 2)), constant_values=ground).ravel()
    np.clip(source_x, 0, columns + 1, out=source_x)  # outside the frame all pixels are background
    np.clip(source_y, 0, rows + 1, out=source_y)
    left, top = source_x.astype(np.int32), source_y.astype(np.int32)
    right_share, lower_share = source_x - left, source_y - top
    width = columns + 3
    place = left + top * width + (np.arange(count, dtype=np.int32) * ((rows + 3) * width))[:, None, None]
    upper = framed[place] * (1 - right_share) + framed[place + 1] * right_share
    lower = framed[place + width] * (1 - right_share) + framed[place + width + 1] * right_share
    return upper * (1 - lower_share) + lower * lower_share


def get_weights(network: Network) -> dict[str, np.ndarray]:
    """The trained arrays in the layout of weights.safetensors, float32."""
    return network.weights


def load(architecture: Architecture, weights: dict[str, np.ndarray]) -> Network:
    """A network with the arrays of weights.safetensors (architecture.weight_shapes), of any framework."""
    network = build(architecture, np.random.default_rng(0))
    for name, array in network.weights.items():
        array[...] = weights[name]
    return network
