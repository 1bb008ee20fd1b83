"""float32, bfloat16 and auto: what a network computes in while it trains."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import torch
from conftest import edit_params, load_architectures, read_csv

from stages import train_pytorch, train_tensorflow
from stages.common import architecture, environment, results, training
from stages.console.errors import UserError
from stages.models import tensorflow

BOTH = pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])


@BOTH
def test_bfloat16_trains_others_of_the_same_kind_and_auto_one_of_the_two_as_timings_say(run_stage, framework):
    found, losses, entry = {}, {}, f"{framework}.cnn_dropout"
    slowly = {f"{entry}.learning_rate": 0.001, f"device.{framework}": "cpu"}  # so that the two stay close
    for precision in ("float32", "bfloat16", "auto"):
        run_stage(f"train_{framework}", "cnn_dropout", **slowly, **{f"{entry}.precision": precision})
        folder = results.folder(framework, "cnn_dropout")
        found[precision] = (folder / "weights.safetensors").read_bytes()
        losses[precision] = float(read_csv(folder / "history.csv")[0]["train_loss"])
        chosen = "bfloat16" if environment.multiplies_bfloat16() else "float32"
        timings = results.load_timings(framework, "cnn_dropout")
        assert (timings.device, timings.precision) == ("cpu", chosen if precision == "auto" else precision)
    assert found["auto"] == found[chosen]
    assert found["bfloat16"] != found["float32"]
    assert losses["float32"] != losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_keras_computes_in_bfloat16_in_the_block_alone_and_normalizes_in_float32():
    layers = architecture.parse(load_architectures()["sprint"])
    network = tensorflow.build(architecture.fit(layers, (28, 28), 10))
    images = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
    exact = network(images)
    with tensorflow.computing_in("bfloat16", network):
        assert network(images).dtype == "bfloat16"
        kinds = {layer.__class__.__name__: layer.compute_dtype for layer in network.layers}
    assert kinds.pop("BatchNormalization") == "float32"
    assert set(kinds.values()) == {"bfloat16"}
    np.testing.assert_array_equal(network(images), exact)
    assert {weights.dtype for weights in network.weights} == {"float32"}


@BOTH
def test_a_device_that_is_not_there_and_bits_that_differ_between_processors_are_refused(run_stage, framework):
    with pytest.raises(UserError, match=rf"device\.{framework} is 'tpu'; allowed here: auto, .*cpu"):
        run_stage(f"train_{framework}", "cnn_wide", **{f"device.{framework}": "tpu"})
    edits = {f"{framework}.cnn_wide.precision": "bfloat16", f"device.{framework}": "cpu"}
    with pytest.raises(UserError, match=r"\.cnn_wide\.precision is 'bfloat16', .*: float32, auto$"):
        run_stage(f"train_{framework}", "cnn_wide", profile="portable", **edits)


@pytest.mark.parametrize(
    ("device", "has_units", "profile", "chosen"),
    [
        ("cpu", True, "fast", "bfloat16"),
        ("cpu", False, "fast", "float32"),
        ("cpu", True, "portable", "float32"),
        ("cuda", True, "fast", "bfloat16"),
        ("cuda", False, "fast", "float32"),
        ("mps", True, "fast", "float32"),
    ],
)
def test_precision_auto_goes_by_the_units_of_the_device(
    workspace, monkeypatch, device, has_units, profile, chosen
):
    edit_params(workspace, "profile", profile)
    monkeypatch.setattr(environment, "multiplies_bfloat16", lambda: has_units)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_units)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    details = {"compute_capability": (8, 0) if has_units else (7, 5)}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    of_pytorch = train_pytorch.multiplies_bfloat16(torch.device(device))
    assert of_pytorch == train_tensorflow.multiplies_bfloat16(device)
    job = SimpleNamespace(settings=SimpleNamespace(precision="auto"), model="pytorch.mlp")
    assert training.choose_precision(job, of_pytorch) == chosen
