"""Muon for the hidden layers of PyTorch's networks, and Adam for the last layer, biases and scales."""

import torch
from torch import nn


def make(network: nn.Module, momentum: float) -> list[torch.optim.Optimizer]:
    """The optimizers. The trainer sets their learning rate before each step. `momentum` is not used."""
    *hidden, last = [weights for weights in network.parameters() if weights.ndim > 1]
    vectors = [weights for weights in network.parameters() if weights.ndim == 1]
    fused = last.device.type in ("cpu", "cuda", "mps")
    adam = torch.optim.Adam([*vectors, last], fused=fused)
    return [*([Muon(hidden)] if hidden else []), adam]


MUON_SIZE = 0.2
"""Root mean square of an update divided by the learning rate, about the same as Adam's."""


class Muon(torch.optim.Optimizer):
    """w ← w - learning_rate · 0.2 √max(rows, columns) · O(u) with m ← β m + (1 - β) g, u = β m + (1 - β) g.

    The weights of a layer form one matrix, with a row per unit or filter. O sets its singular values to
    about 1, so rare directions of the gradient count as much as frequent ones: `champion` needs ten epochs
    instead of sixteen with Adam. The factor gives updates the size of Adam's, so both use the same learning
    rate. Sources: Jordan et al., Muon, 2024; Liu et al., 2025, arXiv:2502.16982.
    """

    def __init__(self, weights: list[nn.Parameter], momentum: float = 0.95):  # (units, …) each; β
        super().__init__(weights, {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Update all weights with their gradients."""
        for group in self.param_groups:
            for weights in group["params"]:
                mean = self.state[weights].setdefault("mean", torch.zeros_like(weights))
                mean.lerp_(weights.grad, 1 - group["momentum"])
                matrix = weights.grad.lerp(mean, group["momentum"]).flatten(start_dim=1)
                scale = MUON_SIZE * max(matrix.shape) ** 0.5
                weights.sub_(orthogonalize(matrix).view_as(weights), alpha=group["lr"] * scale)


# Five steps with these coefficients bring singular values from 0.005 to 1 to about 1, within 0.7 to 1.2.
STEPS, LINEAR, CUBIC, QUINTIC = 5, 3.4445, -4.7750, 2.0315


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Approximately U Vᵀ of a matrix U Σ Vᵀ, float32 (rows, columns), by the Newton–Schulz iteration.

    Computes in float32; torch.optim.Muon uses bfloat16, which is slow without hardware support.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=CUBIC, alpha=QUINTIC), x, beta=LINEAR)
    return x.T if tall else x
