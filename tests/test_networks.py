"""How networks train: schedules, losses that run away, memory, labels, and what is on disk meanwhile."""

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import (
    MODELS,
    NETWORKS,
    ROOT,
    edit_params,
    load_architectures,
    load_params,
    read_csv,
    tiny_arrays,
    write_data,
)

from stages import train_pytorch
from stages.common import architecture, dataset, results, training
from stages.console.errors import UserError
from stages.models import pytorch

EACH = pytest.mark.parametrize("framework", NETWORKS)


@pytest.fixture
def train(run_stage):
    """Trains the framework's first model with these settings; the last row of its history."""

    def run(framework: str, **settings: object) -> dict[str, str]:
        model = MODELS[framework][0]
        edits = {f"{framework}.{model}.{key}": value for key, value in settings.items()}
        run_stage(f"train_{framework}", model, **edits)
        return read_csv(results.folder(framework, model) / "history.csv")[-1]

    return run


def nothing_is_left() -> bool:
    return not any(path.is_file() for path in results.OUTPUTS.rglob("*"))


@EACH
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
def test_a_diverging_network_is_named_with_its_epoch_and_writes_nothing(train, framework, optimizer):
    complaint = (
        r"(\S+): the loss became \S+ in epoch [12]; lower \1\.learning_rate in params.yaml \(now 1e\+09\)$"
    )
    if optimizer == "muon" and framework != "pytorch":
        complaint = "optimizer is 'muon': it should be 'sgd' or 'adam'"
    with pytest.raises(UserError, match=complaint):
        train(framework, learning_rate=1e9, optimizer=optimizer, schedule="constant", epochs=3)
    assert nothing_is_left()


SLOW = {"tensorflow": pytest.param("tensorflow", marks=pytest.mark.slow)}  # it tries for ten seconds


@pytest.mark.parametrize("framework", [SLOW.get(framework, framework) for framework in NETWORKS])
def test_a_network_larger_than_the_memory_is_one_line(workspace, train, framework):
    edit_params(workspace, "architectures.linear", [{"dense": 2_000_000_000}, {"dense": "classes"}])
    complaint = rf"^params\.yaml: {framework}\.\w+ needs more memory than there is[^\n]*$"
    with pytest.raises(UserError, match=complaint):
        train(framework, architecture="linear")
    assert nothing_is_left()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA error: an illegal memory access was encountered", RuntimeError),
        ("Unsupported memory format option Preserve", RuntimeError),
        ("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate", UserError),
        ("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried to allocate", UserError),
    ],
)
def test_only_the_allocators_own_words_are_told_as_too_little_memory(message, kind):
    with pytest.raises(kind), training.enough_memory("pytorch.mlp"):
        raise RuntimeError(message)


def test_one_cycle_rises_for_a_quarter_and_falls_to_almost_zero():
    entry = {"architecture": "x", "pixel_range": (0, 1), "optimizer": "sgd", "learning_rate": 0.1}
    settings = training.NetworkSettings(**entry, schedule="one_cycle", batch_size=10, epochs=4)
    rates = training.learning_rates(settings, 101)
    assert rates.shape == (4, 11)
    assert (np.diff(rates.ravel()[:11]) > 0).all() and (np.diff(rates.ravel()[11:]) < 0).all()
    assert rates.max() == pytest.approx(0.1, rel=0.1)
    assert rates[-1, -1] < 0.002
    constant = training.learning_rates(settings.model_copy(update={"schedule": "constant"}), 101)
    assert (constant == np.full((4, 11), 0.1, np.float32)).all()


def test_all_images_may_be_trained_on_but_none_alone_where_its_mean_is_the_image(workspace, train):
    row = train("pytorch", batch_size=57, validation=0)
    assert row["validation_loss"] == row["validation_accuracy"] == ""
    assert results.load_description("pytorch", "linear").training_images == 400
    assert results.load_probabilities(results.validation("pytorch", "linear"), 0, 10).size == 0
    with pytest.raises(UserError, match=r"pytorch\.linear\.batch_size is 57, .* the 400 images is one image"):
        train("pytorch", architecture="sprint")
    one_pixel = {"conv": {"filters": 2, "kernel": 3, "padding": "same", "stride": 28}}
    edit_params(workspace, "architectures.linear", [one_pixel, "batch_norm", {"dense": "classes"}])
    with pytest.raises(UserError, match=r"pytorch\.linear\.batch_size is 57, .* is one image"):
        train("pytorch", architecture="linear")


@EACH
def test_images_are_not_shifted_out_of_sight(train, framework):
    still = {"rotation": 0, "scale": 0, "shear": 0}
    complaint = r"shifts images by 28 pixels; allowed for images of 28×28: less than 28$"
    for settings in ({"augmentation": still | {"shift": 28}}, {"prediction_shift": 28, "augmentation": None}):
        with pytest.raises(UserError, match=complaint):
            train(framework, **settings)


@EACH
def test_a_last_layer_that_has_not_a_unit_a_class_is_refused(workspace, train, framework):
    edit_params(workspace, "architectures.linear", [{"dense": 9}])
    complaint = r"^architectures\.yaml: linear: the last layer .* dense: classes \(or dense: 10, the"
    with pytest.raises(UserError, match=complaint):
        train(framework, architecture="linear")


def test_a_network_can_be_watched_while_it_trains_and_a_kill_leaves_nothing_by_its_name(workspace, train):
    """Within an epoch of 20,000 steps. That none is lost in the end, test_every_model.py checks."""
    write_data(workspace, tiny_arrays(20_000, 10, size=(8, 8)))
    edit_params(workspace, "scratch.mlp_sigmoid.batch_size", 1)
    stage = [sys.executable, "-m", "stages.train_scratch", "mlp_sigmoid"]
    process = subprocess.Popen(stage, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    partial, seen = workspace / "outputs/models/scratch/mlp_sigmoid.partial", {0: 0.0}
    try:
        while len(seen) < 4 and process.poll() is None:
            time.sleep(0.05)
            if (partial / "losses.csv").exists():
                seen.setdefault(len(read_csv(partial / "losses.csv")), time.monotonic())
        assert min(np.diff(list(seen.values())[1:])) < 1, "seconds from some steps to the next ones"
        assert read_csv(partial / "history.csv") == []
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(1) == -signal.SIGTERM
    assert [path.name for path in partial.parent.iterdir()] == ["mlp_sigmoid.partial"]
    train("scratch", batch_size=1000)
    assert [path.name for path in partial.parent.iterdir()] == ["mlp_sigmoid"]


def test_training_with_pytorch_stays_on_its_device(monkeypatch):
    """On `meta`, which computes shapes alone and takes no CPU's. What a graphics card refuses is not seen."""
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: 1.0)
    monkeypatch.setattr(pytorch, "logits", lambda network, pixels: np.zeros((len(pixels), 10)))
    entry = load_params()["pytorch"]["champion"] | {"batch_size": 40, "epochs": 1}
    data, settings = (
        dataset.Split(*tiny_arrays(80, 40).values()),
        train_pytorch.Settings.model_validate(entry),
    )
    job = SimpleNamespace(settings=settings, data=data, dataset=SimpleNamespace(ground=0), seed=0)
    layers = architecture.fit(architecture.parse(load_architectures()["champion"]), (28, 28), 10)
    network, losses = pytorch.build(layers).to("meta"), []
    watching = SimpleNamespace(bar=lambda steps, _: steps, step=losses.append)
    assert len(list(train_pytorch.train(network, job, watching))) == 1
    assert {tensor.device.type for tensor in (*losses, *network.state_dict().values())} == {"meta"}
