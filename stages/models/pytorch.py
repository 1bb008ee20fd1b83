"""The networks in PyTorch: build, predict, save, load. Weights are safetensors files."""

from collections import OrderedDict
from pathlib import Path
from typing import assert_never

import numpy as np
import safetensors.torch
import torch
from torch import nn

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

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def build(layers: Architecture) -> nn.Sequential:
    """The network of an architecture: float32 (n, 1, 28, 28) to logits (n, 10)."""
    layers = pool_first(layers)
    modules: list[nn.Module] = []
    shape = IMAGE_SHAPE
    for layer, output_shape in zip(layers, shapes(layers), strict=True):
        match layer:
            case Conv():
                padding = layer.padding
                if layer.padding == "same" and (layer.stride > 1 or layer.kernel % 2 == 0):
                    # PyTorch knows `same` for stride 1 alone, and warns of even kernels
                    (top, bottom), (left, right) = layer.pads(*shape[1:])
                    modules.append(nn.ZeroPad2d((left, right, top, bottom)))
                    padding = "valid"
                modules.append(
                    nn.Conv2d(shape[0], layer.filters, layer.kernel, layer.stride, padding=padding)
                )
            case MaxPool():
                modules.append(nn.MaxPool2d(layer.size))
            case Dense():
                if len(shape) == 3:
                    modules.append(nn.Flatten())
                modules.append(nn.Linear(int(np.prod(shape)), layer.units))
            case Dropout():
                modules.append(nn.Dropout(layer.rate))
            case BatchNorm():
                kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
                modules.append(kind(shape[0], eps=EPSILON, momentum=1 - MOMENTUM))
                modules[-1].num_batches_tracked = None  # it counts steps, for nobody
            case Activation():
                modules.append(ACTIVATIONS[layer.kind]())
            case _:
                assert_never(layer)
        shape = output_shape
    return nn.Sequential(*modules).to(memory_format=torch.channels_last)


def to_tensor(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """Images (n, 28, 28), of any dtype, as a tensor (n, 1, 28, 28) on `device`.

    The one channel is given the strides of channels-last storage, which PyTorch cannot guess:
    without them the first convolution and pooling run several times slower on a CPU.
    """
    return torch.from_numpy(pixels).unsqueeze(-1).to(device).permute(0, 3, 1, 2)


def predict_logits(network: nn.Module, images: torch.Tensor, batch_size: int = 500) -> torch.Tensor:
    """Logits (n, 10) of float32 images (n, 1, 28, 28), on the network's device."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(batch) for batch in images.split(batch_size)])


def predict_proba(network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Class probabilities, float32 (n, 10), of scaled images, float32 (n, 28, 28)."""
    images = to_tensor(pixels, next(network.parameters()).device)
    return predict_logits(network, images).softmax(dim=1).cpu().numpy()


def save(network: nn.Module, path: Path) -> None:
    """Write the network's weights to `path` (.safetensors)."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    path.write_bytes(safetensors.torch.save(tensors))


def load(layers: Architecture, path: Path) -> nn.Sequential:
    """The network of `layers` with the weights that `save` wrote.

    Raises UserError, naming the file, if it is damaged or of another architecture.
    """
    network = build(layers)
    with files.reading(path, "does not hold this architecture's weights"):
        tensors = safetensors.torch.load_file(path)
        if kinds := {tensor.dtype for tensor in tensors.values()} - {torch.float32}:
            raise TypeError(f"it holds {', '.join(sorted(map(str, kinds)))}, not torch.float32")
        weights = OrderedDict(tensors)
        weights._metadata = network.state_dict()._metadata  # else batch norm takes them for an old version's
        network.load_state_dict(weights)
    return network
