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
def test_three_frameworks_build_as_many_parameters_as_announced(name):
    layers = fit(ARCHITECTURES[name], WIDE, 26)
    announced = sum(architecture.parameter_counts(layers))
    assert sum(p.numel() for p in pytorch.build(layers).parameters()) == announced
    assert sum(np.prod(w.shape) for w in tensorflow.build(layers).trainable_weights) == announced
    built = scratch.build(layers, np.random.default_rng(0))
    assert sum(array.size for array in built.parameters.values()) == announced


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("linear", 784 * 10 + 10 + 10 * 10 + 10),
        ("cnn_valid", (9 + 1) * 24 + (9 * 24 + 1) * 36 + 901 * 128 + 129 * 10),
        ("cnn_wide", (9 + 1) * 32 + (9 * 32 + 1) * 64 + (3136 + 1) * 128 + 129 * 10),
        ("cnn_dropout", (9 + 1) * 16 + (9 * 16 + 1) * 32 + (1568 + 1) * 128 + 129 * 10),
        ("tiny_vgg", 100 + 3 * (9 * 10 + 1) * 10 + 491 * 10),
        ("mlp_relu", 785 * 128 + 129 * 10),
    ],
)
def test_known_networks_have_their_known_size(name, parameters):
    assert sum(architecture.parameter_counts(fit(ARCHITECTURES[name]))) == parameters


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_announced_shapes_are_those_of_pytorch(name):
    layers = fit(ARCHITECTURES[name], WIDE, 26)
    early = tuple(layer for _, layer in architecture.pool_first(layers))
    shapes = iter(architecture.shapes(architecture.Architecture(early, layers.input_shape)))
    x = torch.zeros(2, 1, *WIDE)
    for module in pytorch.build(layers).eval():
        x = module(x)
        if not isinstance(module, torch.nn.Flatten):
            assert tuple(x.shape[1:]) == next(shapes)
    assert not list(shapes)


def test_pooling_before_the_activation_changes_no_bit():
    torch.manual_seed(0)
    images = torch.randn(8, 1, 28, 28)
    late = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    early = torch.nn.Sequential(late[0], late[2], late[1])
    gradients = []
    for network in (late, early):
        network.zero_grad()
        output = network(images)
        (output**2).sum().backward()
        gradients.append((output.detach(), late[0].weight.grad.clone()))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])
    assert [layer.kind for _, layer in architecture.pool_first(fit(ARCHITECTURES["cnn"]))] == [
        "conv", "max_pool", "relu", "conv", "max_pool", "relu", "dense", "relu", "dense",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_description_lists_every_layer_and_the_sum_in_straight_columns(name):
    layers = fit(ARCHITECTURES[name])
    lines = architecture.describe(layers).splitlines()
    assert len(lines) == 1 + len(layers.layers) + 1
    assert len(set(map(len, lines))) == 1
    assert lines[-1].endswith(f" {sum(architecture.parameter_counts(layers)):,}")


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
        ([{"dense": "many"}, CLASSES], "it should be|'classes'"),
        ([{"dropout": 1}, CLASSES], "less than 1"),
        ([{"dense": 10}, {"max_pool": 2}], "layer 1: wants an image"),
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
