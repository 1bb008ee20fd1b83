"""Load trained networks from their folders, which hold all that is needed."""

from dataclasses import dataclass

import numpy as np
import safetensors
from safetensors.numpy import load_file

from stages.common import architecture, results
from stages.console.errors import UserError, reading


@dataclass(frozen=True)
class Network:
    """A trained network of any framework. weights: float32 arrays, as in architecture.weight_shapes."""

    description: results.Description
    architecture: architecture.Architecture
    weights: dict[str, np.ndarray]


def load(framework: str, model: str) -> Network:
    """The network that a training stage wrote.

    Raises UserError, naming the file, if it is missing, damaged, not a network, or if the weights do not
    match the layers.
    """
    description = results.load_description(framework, model)
    folder, remedy = results.folder(framework, model), results.remedy(framework, model)
    if description.architecture is None:
        raise UserError(f"{folder} is {description.summary}, not a network")
    with reading(folder / "model.json", "does not describe a network", remedy=remedy):
        layers = architecture.parse(description.architecture)
        layers = architecture.fit(layers, description.image_size, len(description.classes))
    path = folder / "weights.safetensors"
    with reading(
        path, "does not hold this architecture's weights", safetensors.SafetensorError, remedy=remedy
    ):
        weights = load_file(path)
        for name, shape in (expected := architecture.weight_shapes(layers)).items():
            if name not in weights:
                raise ValueError(f"{name} is missing")
            if (found := weights[name]).dtype != np.float32 or found.shape != shape:
                raise ValueError(f"{name} is {found.dtype} {found.shape}, not float32 {shape}")
        if unknown := weights.keys() - expected:
            raise ValueError(f"{min(unknown)} is of no layer")
    return Network(description, layers, weights)
