"""The optimizer Muon against its mathematics and against PyTorch's own."""

import numpy as np
import pytest
import torch
from conftest import load_params

from stages.common import saved
from stages.models import pytorch
from stages.optimizers.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(8, 8), (12, 30), (30, 12), (32, 25), (1, 5)])
def test_a_matrix_keeps_its_directions_and_gets_singular_values_of_about_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    assert sizes.max() / sizes.min() < 200 and (len(sizes) == 1 or sizes.max() / sizes.min() > 2)
    turned = left.T @ orthogonalize(1e3 * matrix) @ right.T  # diagonal if the directions are the same
    kept = turned.diagonal()
    assert ((kept > 0.65) & (kept < 1.25)).all()
    torch.testing.assert_close(turned, torch.diag(kept), rtol=0, atol=1e-4)
    assert not orthogonalize(torch.zeros(shape)).any(), "no gradient, no update"


def test_it_takes_the_steps_of_pytorch():
    """PyTorch's orthogonalizes in bfloat16, which keeps two digits."""
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(6, 3, 3, 3).to(memory_format=torch.channels_last))
    theirs = torch.nn.Parameter(ours.detach().reshape(6, 27).clone())
    options = {"nesterov": True, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
    mine, reference = Muon([ours]), torch.optim.Muon([theirs], momentum=0.95, **options)
    start = ours.detach().clone()
    for step in range(5):
        mine.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        ours.grad = torch.randn(6, 3, 3, 3)
        theirs.grad = ours.grad.reshape(6, 27).clone()
        mine.step()
        reference.step()
    moved = (ours - start).detach()
    difference = (ours.detach() - theirs.detach().view_as(ours)).norm()
    assert difference < 0.03 * moved.norm()
    assert 0.05 < moved.square().mean().sqrt() / (0.2 * 0.1) < 3, "the size of an update is Adam's"


@pytest.mark.parametrize("hidden", [[], [{"dense": 8}, "batch_norm", "relu"]])
def test_it_moves_every_weight_of_networks_with_hidden_layers_and_without(run_stage, hidden):
    layers = {"architectures.linear": [*hidden, {"dense": "classes"}]}
    run_stage("train_pytorch", "linear", **layers, **{"pytorch.linear.optimizer": "muon"})
    network = saved.load("pytorch", "linear")
    torch.manual_seed(load_params()["seed"])
    for name, first in pytorch.get_weights(pytorch.build(network.architecture)).items():
        assert not np.array_equal(network.weights[name], first), name
