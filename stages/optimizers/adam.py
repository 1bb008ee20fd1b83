"""Adam (Kingma and Ba, 2015) for PyTorch's networks."""

import torch
from torch import nn


def make(network: nn.Module, momentum: float) -> list[torch.optim.Optimizer]:
    """The optimizers. The trainer sets their learning rate before each step. `momentum` is not used."""
    return [torch.optim.Adam(network.parameters(), fused=_has_fused(network))]


def _has_fused(network: nn.Module) -> bool:
    return next(network.parameters()).device.type in ("cpu", "cuda", "mps")
