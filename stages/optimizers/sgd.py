"""Stochastic gradient descent for PyTorch's networks."""

import torch
from torch import nn


def make(network: nn.Module, momentum: float) -> list[torch.optim.Optimizer]:
    """The optimizers. The trainer sets their learning rate before each step."""
    return [torch.optim.SGD(network.parameters(), momentum=momentum)]
