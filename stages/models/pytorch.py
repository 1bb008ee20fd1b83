"""The networks in PyTorch: build, predict, move images, weights in and out."""

from typing import assert_never

import numpy as np
import torch
from torch import nn
from torch.nn import functional

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

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
ARRAYS = {"weights": "weight", "biases": "bias"}
ARRAYS |= {"scale": "weight", "shift": "bias", "mean": "running_mean", "variance": "running_var"}
"""PyTorch's names of a layer's arrays, by their names in weights.safetensors."""
CONTIGUOUS = ("mps",)
"""Devices on which batch normalization of channels-last tensors has wrong gradients:
https://github.com/pytorch/pytorch/issues/175189."""


class Network(nn.Sequential):
    """The layers of an architecture, named as in weights.safetensors with _ for the dot: `3_dense`."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        shape: Shape = architecture.input_shape
        self.input_shapes: dict[str, Shape] = {}
        for place, layer in pool_first(architecture):
            for name, module in _modules(layer, shape).items():
                self.add_module(f"{place}_{name}", module)
            self.input_shapes[f"{place}.{layer.kind}"] = shape
            shape = layer.output_shape(shape)


def _modules(layer: object, shape: Shape) -> dict[str, nn.Module]:
    """The modules of one layer, by name. shape: of its input, without the batch."""
    match layer:
        case Conv():
            modules, padding = {}, layer.padding
            if layer.padding == "same" and (layer.stride > 1 or layer.kernel % 2 == 0):
                # PyTorch supports `same` only for stride 1, and warns about even kernels
                (top, bottom), (left, right) = layer.pads(*shape[1:])
                modules["pad"], padding = nn.ZeroPad2d((left, right, top, bottom)), "valid"
            return modules | {
                "conv": nn.Conv2d(shape[0], layer.filters, layer.kernel, layer.stride, padding=padding)
            }
        case MaxPool():
            return {"max_pool": nn.MaxPool2d(layer.size)}
        case Dense():
            flatten = {"flatten": nn.Flatten()} if len(shape) == 3 else {}
            return flatten | {"dense": nn.Linear(int(np.prod(shape)), layer.units)}
        case Dropout():
            return {"dropout": nn.Dropout(layer.rate)}
        case BatchNorm():
            kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
            return {"batch_norm": kind(shape[0], eps=EPSILON, momentum=1 - MOMENTUM)}
        case Activation():
            return {layer.kind: ACTIVATIONS[layer.kind]()}
        case _:
            assert_never(layer)


def build(architecture: Architecture, device: torch.device | str = "cpu") -> Network:
    """A network with random initial weights: float32 (n, 1, rows, columns) to logits (n, classes)."""
    kind = torch.device(device).type
    storage = torch.contiguous_format if kind in CONTIGUOUS else torch.channels_last
    return Network(architecture).to(device, memory_format=storage)


def to_tensor(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """Images (n, rows, columns), of any dtype, as a tensor (n, 1, rows, columns) on `device`."""
    return _with_channel(torch.from_numpy(pixels).to(device))


def _with_channel(images: torch.Tensor) -> torch.Tensor:
    """Images (n, rows, columns) as (n, 1, rows, columns), channels-last except on CONTIGUOUS devices.

    Channels-last must be set by strides: one channel looks contiguous either way, and then the first
    convolution and pooling run several times slower on a CPU.
    """
    if images.device.type in CONTIGUOUS:
        return images.unsqueeze(1)
    return images.unsqueeze(-1).permute(0, 3, 1, 2)


def predict_logits(network: nn.Module, images: torch.Tensor, batch_size: int = 500) -> torch.Tensor:
    """Logits (n, classes) of float32 images (n, 1, rows, columns), on the network's device."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(batch) for batch in images.split(batch_size)])


def logits(network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Logits, float32 (n, classes), of scaled images, float32 (n, rows, columns)."""
    device = next(network.parameters()).device
    return predict_logits(network, to_tensor(pixels, device)).cpu().numpy()


def predict_proba(network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Class probabilities, float32 (n, classes), of scaled images, float32 (n, rows, columns)."""
    images = to_tensor(pixels, next(network.parameters()).device)
    return predict_logits(network, images).softmax(dim=1).cpu().numpy()


def move(images: torch.Tensor, transformations: torch.Tensor, ground: float) -> torch.Tensor:
    """Images float32 (n, 1, rows, columns), image i transformed by matrix i (augmentation.draw).

    transformations: float32 (n, 2, 3). ground: the background's value, which fills in from outside.
    """
    count, _, rows, columns = images.shape
    x = torch.arange(columns, device=images.device) - (columns - 1) / 2
    y = (torch.arange(rows, device=images.device) - (rows - 1) / 2)[:, None]
    to_x, to_y = transformations.view(count, 2, 3, 1, 1).unbind(dim=1)
    scale_x, scale_y = 2 / columns, 2 / rows  # grid_sample's coordinates run from -1 to 1
    sources = torch.stack(
        [
            (scale_x * to_x[:, 0]) * x + (scale_x * to_x[:, 1]) * y + scale_x * to_x[:, 2],
            (scale_y * to_y[:, 0]) * x + (scale_y * to_y[:, 1]) * y + scale_y * to_y[:, 2],
        ],
        dim=-1,
    )
    moved = functional.grid_sample(images - ground, sources, align_corners=False) + ground
    return _with_channel(moved.squeeze(1))


def get_weights(network: Network) -> dict[str, np.ndarray]:
    """The trained arrays in the layout of weights.safetensors (architecture.weight_shapes), float32."""
    weights = {}
    for layer, shape, module in _with_weights(network):
        for name, tensor in _tensors(layer, module).items():
            array = tensor.detach().cpu().numpy()
            weights[f"{layer}.{name}"] = _from_torch(array, shape) if name == "weights" else array
    return weights


def load(architecture: Architecture, weights: dict[str, np.ndarray]) -> Network:
    """A network with the arrays of weights.safetensors (architecture.weight_shapes), of any framework."""
    network = build(architecture)
    with torch.no_grad():
        for layer, shape, module in _with_weights(network):
            for name, tensor in _tensors(layer, module).items():
                array = weights[f"{layer}.{name}"]
                array = _to_torch(array, shape) if name == "weights" else array
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return network


def _with_weights(network: Network) -> list[tuple[str, Shape, nn.Module]]:
    """Name, input shape and module of each layer that has weights."""
    modules = {name.replace("_", ".", 1): module for name, module in network.named_children()}
    return [
        (name, shape, modules[name])
        for name, shape in network.input_shapes.items()
        if any(True for _ in modules[name].parameters())
    ]


def _tensors(layer: str, module: nn.Module) -> dict[str, torch.Tensor]:
    names = ("scale", "shift", "mean", "variance") if layer.endswith("batch_norm") else ("weights", "biases")
    return {name: getattr(module, ARRAYS[name]) for name in names}


def _from_torch(array: np.ndarray, shape: Shape) -> np.ndarray:
    if array.ndim == 4:  # (filters, channels, k, k)
        return array.transpose(2, 3, 1, 0)
    if len(shape) == 3:  # (units, channels · rows · columns)
        return array.reshape(-1, *shape).transpose(2, 3, 1, 0).reshape(-1, len(array))
    return array.T


def _to_torch(array: np.ndarray, shape: Shape) -> np.ndarray:
    if array.ndim == 4:  # (k, k, channels, filters)
        return array.transpose(3, 2, 0, 1)
    if len(shape) == 3:  # (rows · columns · channels, units)
        channels, rows, columns = shape
        return array.reshape(rows, columns, channels, -1).transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
    return array.T
