"""The layers of architectures.yaml: their shapes, their size, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import load_architectures
from pydantic import ValidationError

from stages.common import architecture
from stages.models import pytorch, scratch, tensorflow

ARCHITECTURES = load_architectures()
WIDE = 24, 40


def fit(layers: list, size: tuple[int, int] = (28, 28), classes: int = 10) -> architecture.Architecture:
    return architecture.fit(architecture.parse(layers), size, classes)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_and_shapes_are_as_announced_in_every_framework_and_described(name):
    layers = fit(ARCHITECTURES[name], WIDE, 26)
    announced = sum(architecture.parameter_counts(layers))
    network = pytorch.build(layers).eval()
    assert sum(p.numel() for p in network.parameters()) == announced
    assert sum(np.prod(w.shape) for w in tensorflow.build(layers).trainable_weights) == announced
    built = scratch.build(layers, np.random.default_rng(0))
    assert sum(array.size for array in built.parameters.values()) == announced

    early = tuple(layer for _, layer in architecture.pool_first(layers))
    shapes = iter(architecture.shapes(architecture.Architecture(early, layers.input_shape)))
    x = torch.zeros(2, 1, *WIDE)
    for module in network:
        x = module(x)
        if not isinstance(module, torch.nn.Flatten):
            assert tuple(x.shape[1:]) == next(shapes)
    assert not list(shapes)

    lines = architecture.describe(layers).splitlines()
    assert len(lines) == 1 + len(layers.layers) + 1
    assert lines[-1].endswith(f" {announced:,}")


def test_pooling_before_the_activation_changes_no_bit():
    kinds = [layer.kind for _, layer in architecture.pool_first(fit(ARCHITECTURES["cnn"]))]
    assert kinds == ["conv", "max_pool", "relu", "conv", "max_pool", "relu", "dense", "relu", "dense"]
    torch.manual_seed(0)
    conv, relu, pool = torch.nn.Conv2d(1, 4, 3), torch.relu, torch.nn.MaxPool2d(2)
    images, found = torch.randn(8, 1, 28, 28), []
    for output in (pool(relu(conv(images))), relu(pool(conv(images)))):
        conv.zero_grad()
        (output**2).sum().backward()
        found.append((output, conv.weight.grad.clone()))
    assert all(torch.equal(late, early) for late, early in zip(*found, strict=True))


CLASSES = {"dense": "classes"}


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        (["rleu", CLASSES], "unknown layer; allowed: conv"),
        ([{"dense": 11}], r"must be dense: classes \(or dense: 10, the number of classes of this data set\)"),
        ([CLASSES, {"dense": 12}, "relu"], "must be dense: classes"),
        ([], "must be dense: classes"),
        ([{"dense": 0}, CLASSES], "greater than 0"),
        ([{"dense": True}, CLASSES], "a number is wanted"),
        ([{"dropout": 1}, CLASSES], "less than 1"),
        ([{"dense": 10}, {"max_pool": 2}], "layer 1: needs an image"),
        ([{"max_pool": 29}, CLASSES], "layer 0: max_pool 29 is larger than the image of 28×28"),
        ([{"conv": {"filters": 1, "kernel": 30, "padding": "valid"}}, CLASSES], "kernel 30 is larger"),
        ([{"conv": {"filters": 1, "kernel": 3, "padding": "full"}}, CLASSES], "'same' or 'valid'"),
        ([{"conv": {"filters": 1, "kernel": 3, "pad": "same"}}, CLASSES], "Extra inputs"),
        ([{"conv": 3}, CLASSES], "unknown layer"),
        ([{"conv": {"kind": "dense", "units": 10}}], "unknown layer"),
        ([{"dense": 10, "relu": None}], "unknown layer"),
    ],
)
def test_impossible_networks_are_refused_with_what_is_allowed(layers, complaint):
    with pytest.raises((ValidationError, ValueError), match=complaint):
        fit(layers)


@pytest.mark.parametrize("module", [pytorch, tensorflow, scratch])
def test_a_kind_of_layer_that_a_framework_does_not_know_is_not_left_out(module):
    unknown = SimpleNamespace(kind="unheard_of", output_shape=lambda shape: shape)
    layers = architecture.Architecture((unknown, *fit([CLASSES]).layers), (1, 28, 28))
    generator = [np.random.default_rng(0)] if module is scratch else []
    with pytest.raises(AssertionError, match="unheard_of"):
        module.build(layers, *generator)
