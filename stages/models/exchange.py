"""Carry weights between the frameworks: the three layouts meet here and nowhere else.

The common form is that of models/scratch.py and Keras: images are (rows, columns, channels), so
that a filter is (k, k, channels, filters) and the first dense layer takes pixels in that order.
PyTorch has the channels first, and its matrices the other way round.
"""

import keras
import numpy as np
import torch
from torch import nn

from stages.common.architecture import (
    IMAGE_SHAPE,
    Architecture,
    BatchNorm,
    Conv,
    Dense,
    Layer,
    Shape,
    pool_first,
    shapes,
)
from stages.models import scratch

Network = nn.Sequential | keras.Sequential | scratch.Network
Weights = list[dict[str, np.ndarray]]
"""For each layer that has any, in order, its arrays by name, float32."""

NAMES = {
    "conv": ("weights", "biases"),
    "dense": ("weights", "biases"),
    "batch_norm": ("scale", "shift", "mean", "variance"),
}
TORCH_NAMES = {
    "conv": ("weight", "bias"),
    "dense": ("weight", "bias"),
    "batch_norm": ("weight", "bias", "running_mean", "running_var"),
}


def read(network: Network, layers: Architecture) -> Weights:
    """The weights of a network that was built from `layers`, in whichever framework."""
    if isinstance(network, scratch.Network):
        return [
            {name: array.copy() for name, array in (layer.parameters | layer.running).items()}
            for layer in network.layers
            if layer.parameters
        ]
    weights = []
    for (layer, shape), module in zip(_with_weights(layers), _modules(network), strict=True):
        names = NAMES[layer.kind]
        if isinstance(network, keras.Sequential):
            arrays = module.get_weights()
        else:
            arrays = [getattr(module, name).detach().cpu().numpy() for name in TORCH_NAMES[layer.kind]]
            arrays[0] = _from_torch(arrays[0], layer, shape)
        weights.append(dict(zip(names, arrays, strict=True)))
    return weights


def write(network: Network, layers: Architecture, weights: Weights) -> None:
    """Give a network that was built from `layers` these weights, in place."""
    if isinstance(network, scratch.Network):
        targets = [layer.parameters | layer.running for layer in network.layers if layer.parameters]
        for target, arrays in zip(targets, weights, strict=True):
            for name, array in target.items():
                array[...] = arrays[name]
        return
    pairs = zip(_with_weights(layers), _modules(network), weights, strict=True)
    for (layer, shape), module, by_name in pairs:
        arrays = [by_name[name] for name in NAMES[layer.kind]]
        if isinstance(network, keras.Sequential):
            module.set_weights(arrays)
            continue
        arrays[0] = _to_torch(arrays[0], layer, shape)
        with torch.no_grad():
            for name, array in zip(TORCH_NAMES[layer.kind], arrays, strict=True):
                getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(array)))


def _with_weights(layers: Architecture) -> list[tuple[Layer, Shape]]:
    """The layers that have weights, each with the shape that it is given."""
    layers = pool_first(layers)
    given = [IMAGE_SHAPE, *shapes(layers)]
    return [
        (layer, shape)
        for layer, shape in zip(layers, given, strict=False)
        if isinstance(layer, Conv | Dense | BatchNorm)
    ]


def _modules(network: nn.Sequential | keras.Sequential) -> list[nn.Module | keras.Layer]:
    """The network's own layers that have weights."""
    if isinstance(network, keras.Sequential):
        return [layer for layer in network.layers if layer.weights]
    return [module for module in network if any(True for _ in module.parameters())]


def _from_torch(array: np.ndarray, layer: Layer, shape: Shape) -> np.ndarray:
    match layer:
        case Conv():  # (filters, channels, k, k)
            return array.transpose(2, 3, 1, 0)
        case Dense() if len(shape) == 3:  # (units, channels · rows · columns)
            return array.reshape(-1, *shape).transpose(2, 3, 1, 0).reshape(-1, len(array))
        case Dense():
            return array.T
    return array


def _to_torch(array: np.ndarray, layer: Layer, shape: Shape) -> np.ndarray:
    match layer:
        case Conv():  # (k, k, channels, filters)
            return array.transpose(3, 2, 0, 1)
        case Dense() if len(shape) == 3:  # (rows · columns · channels, units)
            channels, rows, columns = shape
            images = array.reshape(rows, columns, channels, -1)
            return images.transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
        case Dense():
            return array.T
    return array
