"""Which device trains: CUDA if it computes, the CPU otherwise, MPS only by name."""

import numpy as np
import pytest
import tensorflow as tf
import torch
from conftest import load_architectures

from stages import train_pytorch, train_tensorflow
from stages.common import architecture, results
from stages.console.errors import UserError
from stages.models import pytorch

NO_KERNEL = """CUDA error: no kernel image is available for execution on the device
CUDA kernel errors might be asynchronously reported at some other API call."""


@pytest.fixture(params=[torch.AcceleratorError, RuntimeError])
def old_card(monkeypatch, request):
    """A CUDA device that exists, and for which this PyTorch has no kernels."""
    ones = torch.ones

    def fail(*size, device="cpu", **options):
        if device == "cuda":
            raise request.param(NO_KERNEL)
        return ones(*size, device=device, **options)

    answers = iter([True])  # later PyTorch itself asks, and would look for a driver
    monkeypatch.setattr(torch.cuda, "is_available", lambda: next(answers, False))
    monkeypatch.setattr(torch, "ones", fail)


def test_auto_trains_on_the_cpu_if_the_card_has_no_kernels_and_says_so_in_one_line(
    old_card, run_stage, capfd
):
    run_stage("train_pytorch", "linear", **{"device.pytorch": "auto"})
    assert results.load_timings("pytorch", "linear").device == "cpu"
    output, errors = capfd.readouterr()
    assert [line for line in output.splitlines() if "CUDA" in line] == [
        f"PyTorch fails on CUDA ({NO_KERNEL.splitlines()[0]}): training on the CPU instead"
    ]
    assert "CUDA" not in errors


def test_a_card_without_kernels_asked_for_by_name_is_refused_in_one_line(old_card, run_stage):
    with pytest.raises(UserError, match=r"^params\.yaml: device\.pytorch is 'cuda'[^\n]*no kernel[^\n]*$"):
        run_stage("train_pytorch", "linear", **{"device.pytorch": "cuda"})


@pytest.mark.parametrize("wanted", ["cuda", "mps"])
def test_a_device_asked_for_by_name_that_is_missing_is_refused(monkeypatch, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    for framework, choose in (
        ("pytorch", train_pytorch.choose_device),
        ("tensorflow", train_tensorflow.choose_device),
    ):
        with pytest.raises(UserError, match=rf"device\.{framework} is '{wanted}'; allowed here: auto, cpu$"):
            choose(wanted)


def test_mps_trains_only_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: None)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
    for wanted, chosen in (("auto", "cpu"), ("mps", "mps")):
        assert train_pytorch.choose_device(wanted).type == chosen
        assert train_tensorflow.choose_device(wanted) == chosen


@pytest.mark.parametrize("devices", [("mps",), ("cpu",)])
def test_tensors_are_channels_last_except_on_devices_that_need_contiguous_storage(monkeypatch, devices):
    """The CPU stands in for MPS."""
    monkeypatch.setattr(pytorch, "CONTIGUOUS", devices)
    layers = architecture.parse(load_architectures()["sprint"])
    network = pytorch.build(architecture.fit(layers, (28, 28), 10)).eval()
    images = pytorch.to_tensor(np.zeros((4, 28, 28), np.float32), torch.device("cpu"))
    moved = pytorch.move(images, torch.eye(2, 3).repeat(4, 1, 1), 0.0)
    stored = [weights for weights in network.parameters() if weights.ndim == 4 and weights.shape[1] > 1]
    for module in network.children():
        module.register_forward_hook(lambda _, __, output: stored.append(output))
    network(images)
    pictures = [tensor for tensor in stored if tensor.ndim == 4 and min(tensor.shape[1:]) > 1]
    kind = torch.contiguous_format if devices == ("cpu",) else torch.channels_last
    assert len(pictures) > 5
    assert all(tensor.is_contiguous(memory_format=kind) for tensor in pictures)
    assert {tensor.stride(1) for tensor in (images, moved)} == {28 * 28 if devices == ("cpu",) else 1}
