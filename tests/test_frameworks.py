"""The claims of docs/frameworks.md, each found out as the page does."""

import numpy as np
import pytest

from tools import frameworks

pytestmark = pytest.mark.usefixtures("in_the_project")
"""`cnn_dropout` of architectures.yaml is what the page measures."""


def test_frameworks_start_from_different_weights():
    rows = frameworks.first_weights()
    assert [row[0] for row in rows] == ["conv 3×3, same", "conv 3×3, same", "dense", "dense"]
    for inputs, outputs, row in zip((144, 1568), (288, 128), rows[1:3], strict=True):
        torch_weights, keras_weights, glorot, he = (tuple(map(float, cell.split(", "))) for cell in row[1:])
        assert torch_weights[0] == pytest.approx(1 / np.sqrt(3 * inputs), rel=0.05)
        assert torch_weights[1] == pytest.approx(1 / np.sqrt(3 * inputs), rel=0.35)  # few biases
        assert keras_weights == pytest.approx((np.sqrt(2 / (inputs + outputs)), 0), rel=0.05)
        assert glorot == pytest.approx(keras_weights, rel=0.05)
        assert he == pytest.approx((np.sqrt(2 / inputs), 0), rel=0.05)


def test_same_is_not_the_same_with_strides():
    assert frameworks.zeros_of_same(3, 1) == {
        "Keras": (1, 1), "PyTorch, same": (1, 1), "PyTorch, k // 2": (1, 1)
    }  # fmt: skip
    assert (
        frameworks.zeros_of_same(4, 1)["Keras"] == frameworks.zeros_of_same(4, 1)["PyTorch, same"] == (1, 2)
    )
    assert frameworks.zeros_of_same(3, 2) == {"Keras": (0, 1), "PyTorch, k // 2": (1, 0)}
    assert frameworks.zeros_of_same(5, 2) == {"Keras": (1, 2), "PyTorch, k // 2": (2, 1)}
    assert frameworks.padding(5, 2) == ["5", "2", "1, 2", "refused", "2, 1"]


def test_momentum_agrees_only_while_the_rate_stays():
    assert frameworks.momentum_differs([0.1] * 6) < 1e-6
    assert frameworks.momentum_differs([0.1, 0.1, 0.01, 0.01]) > 0.01


def test_epsilon_shows_in_small_gradients():
    large, small = frameworks.first_adam_step(1e-3), frameworks.first_adam_step(1e-8)
    assert all(step == pytest.approx(1, abs=0.01) for step in large.values())
    assert small["PyTorch"] == pytest.approx(0.5, abs=0.01)
    assert small["NumPy"] == pytest.approx(0.5, abs=0.01)
    assert small["Keras"] < 0.01


def test_only_pytorch_remembers_the_unbiased_variance():
    assert frameworks.running_variance(4) == pytest.approx({"PyTorch": 4 / 3, "Keras": 1, "NumPy": 1})
