"""How networks train: schedules, losses that run away, memory, labels, and what is on disk meanwhile."""

import signal
import subprocess
import sys
import time
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import (
    ROOT,
    edit_params,
    load_architectures,
    load_params,
    models,
    networks,
    read_csv,
    tiny_arrays,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages import train_pytorch
from stages.common import architecture, dataset, results, saved, training
from stages.console.errors import UserError
from stages.models import pytorch

EACH = pytest.mark.parametrize("framework", networks())


def history(framework: str, model: str) -> dict[str, str]:
    """The last row of history.csv."""
    return read_csv(results.folder(framework, model) / "history.csv")[-1]


def nothing_is_left() -> bool:
    return not any(path.is_file() for path in results.OUTPUTS.rglob("*"))


@EACH
def test_a_network_trains_on_all_images_when_none_are_held_out(run_stage, framework):
    model = models(framework)[0]
    run_stage(f"train_{framework}", model, **{f"{framework}.{model}.validation": 0})
    description = results.load_description(framework, model)
    assert (description.training_images, description.validation_images) == (400, 0)
    row = history(framework, model)
    assert row["validation_loss"] == row["validation_accuracy"] == ""
    assert float(row["train_loss"]) > 0
    assert results.load_probabilities(results.validation(framework, model), 0, 10).size == 0


@pytest.mark.parametrize(
    ("framework", "optimizer"),
    [
        *((framework, optimizer) for framework in networks() for optimizer in ("sgd", "adam")),
        ("pytorch", "muon"),
    ],
)
def test_a_diverging_network_is_named_with_its_epoch_and_writes_nothing(run_stage, framework, optimizer):
    entry = f"{framework}.{models(framework)[-1]}"
    changes = {"momentum": 0, "learning_rate": 1e9, "optimizer": optimizer, "schedule": "constant"}
    with pytest.raises(UserError, match=rf"{entry}: the loss became \S+ in epoch 1; lower {entry}.learning"):
        run_stage(
            f"train_{framework}", models(framework)[-1], **{f"{entry}.{k}": v for k, v in changes.items()}
        )
    assert nothing_is_left()


@pytest.mark.parametrize(
    "framework", ["pytorch", pytest.param("tensorflow", marks=pytest.mark.slow), "scratch"]
)  # TensorFlow tries for ten seconds
def test_a_network_larger_than_the_memory_is_one_line(run_stage, framework):
    model = models(framework)[0]
    name = load_params()[framework][model]["architecture"]
    layers = [{"dense": 2_000_000_000}, {"dense": "classes"}]
    complaint = rf"^params\.yaml: {framework}\.{model} needs more memory than there is[^\n]*$"
    with pytest.raises(UserError, match=complaint):
        run_stage(f"train_{framework}", model, **{f"architectures.{name}": layers})
    assert nothing_is_left()


@pytest.mark.parametrize(
    ("message", "is_memory"),
    [
        ("CUDA error: an illegal memory access was encountered", False),
        ("Unsupported memory format option Preserve", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
        ("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried", True),
        ("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.", True),
    ],
)
def test_only_the_allocators_own_words_are_told_as_too_little_memory(message, is_memory):
    with pytest.raises(UserError if is_memory else RuntimeError), training.enough_memory("pytorch.mlp"):
        raise RuntimeError(message)


def test_one_cycle_rises_for_a_quarter_and_falls_to_almost_zero():
    entry = {"architecture": "x", "pixel_range": (0, 1), "optimizer": "sgd", "learning_rate": 0.1}
    entry |= {"schedule": "one_cycle", "batch_size": 10, "epochs": 4}
    settings = training.NetworkSettings(**entry)
    rates = training.learning_rates(settings, 101)
    assert rates.shape == (4, 11)
    peak = int(rates.argmax())
    assert peak == pytest.approx(44 / 4, abs=1)
    assert (np.diff(rates.ravel()[: peak + 1]) > 0).all() and (np.diff(rates.ravel()[peak:]) < 0).all()
    assert rates.max() == pytest.approx(0.1, rel=0.1)
    assert rates[-1, -1] < 0.002
    constant = training.learning_rates(settings.model_copy(update={"schedule": "constant"}), 101)
    assert (constant == np.full((4, 11), 0.1, np.float32)).all()


def test_a_batch_of_one_image_is_refused_where_its_mean_is_the_image(run_stage):
    changes = {"pytorch.sprint.batch_size": 57, "pytorch.sprint.validation": 0}
    with pytest.raises(UserError, match=r"pytorch\.sprint\.batch_size is 57, .* one of the 400 images"):
        run_stage("train_pytorch", "sprint", **changes)
    one_pixel = {"conv": {"filters": 2, "kernel": 3, "padding": "same", "stride": 28}}
    changes = {
        "architectures.linear": [one_pixel, "batch_norm", {"dense": "classes"}],
        "pytorch.linear.batch_size": 1,
    }
    with pytest.raises(UserError, match=r"pytorch\.linear\.batch_size is 1, .* channels of one pixel"):
        run_stage("train_pytorch", "linear", **changes)
    layers = load_architectures()["linear"]
    run_stage("train_pytorch", "linear", **{"architectures.linear": layers, "pytorch.linear.batch_size": 57})


@EACH
def test_images_are_not_shifted_out_of_sight(run_stage, framework):
    entry = f"{framework}.{models(framework)[0]}"
    still = {"rotation": 0, "scale": 0, "shear": 0}
    for key, value in (("prediction_shift", 28), ("augmentation", still | {"shift": 28})):
        with pytest.raises(
            UserError, match=rf"{entry} shifts images by 28(\.0)? pixels; allowed for .*: less than 28$"
        ):
            run_stage(f"train_{framework}", models(framework)[0], **{f"{entry}.{key}": value})
        run_stage(
            f"train_{framework}", models(framework)[0], **{f"{entry}.{key}": 0 if key[0] == "p" else None}
        )


@EACH
def test_momentum_speeds_sgd_up_and_is_refused_elsewhere(run_stage, framework):
    model = models(framework)[0]
    entry = f"{framework}.{model}"
    sgd = {f"{entry}.optimizer": "sgd", f"{entry}.learning_rate": 0.003, f"{entry}.schedule": "constant"}
    losses = []
    for momentum in (0, 0.9):
        run_stage(f"train_{framework}", model, **sgd, **{f"{entry}.momentum": momentum})
        losses.append(float(history(framework, model)["validation_loss"]))
    assert losses[1] < losses[0]
    with pytest.raises(UserError, match=rf"{entry}: momentum is an option of optimizer: sgd"):
        run_stage(f"train_{framework}", model, **{f"{entry}.momentum": 0.9, f"{entry}.optimizer": "adam"})


@pytest.mark.parametrize(
    ("framework", "model"), [("pytorch", "mlp"), ("tensorflow", "cnn"), ("scratch", "mlp_relu")]
)
def test_labels_are_smoothed_in_training_alone(run_stage, framework, model):
    changes = {"label_smoothing": 0.3, "learning_rate": 1e-12}
    run_stage(f"train_{framework}", model, **{f"{framework}.{model}.{k}": v for k, v in changes.items()})
    network, library = saved.load(framework, model), import_module(f"stages.models.{framework}")
    network_itself = library.load(network.architecture, network.weights)
    data, found = dataset.load_training(40), {}
    for part, smoothing in (("train", 0.3), ("validation", 0)):
        pixels = dataset.scale_pixels(
            getattr(data, f"{part}_images"), network.description.recipe["pixel_range"]
        )
        labels = np.eye(10)[getattr(data, f"{part}_labels")] * (1 - smoothing) + smoothing / 10
        found[part] = -(labels * np.log(library.predict_proba(network_itself, pixels))).sum(axis=1).mean()
    row = history(framework, model)
    assert float(row["train_loss"]) == pytest.approx(found["train"], rel=1e-4)
    assert float(row["validation_loss"]) == pytest.approx(found["validation"], rel=1e-4)


def test_label_smoothing_is_refused_without_one_hot_labels(run_stage):
    with pytest.raises(UserError, match=r"tensorflow\.cnn_wide: label_smoothing needs labels: one_hot"):
        run_stage("train_tensorflow", "cnn_wide", **{"tensorflow.cnn_wide.label_smoothing": 0.1})


def test_a_loss_is_on_disk_a_second_after_its_step(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    run = SimpleNamespace(settings=SimpleNamespace(epochs=1), model="pytorch.mlp")
    watching = training.Progress(SimpleNamespace(folder=tmp_path, run=run))
    for step in watching.bar(range(1, 40), 1):
        watching.step(torch.tensor(step / 7))
        rows = read_csv(tmp_path / "losses.csv")
        assert step - len(rows) <= 10, "ten steps take a second"
        assert all(np.float32(row["loss"]) == np.float32(int(row["step"]) / 7) for row in rows)
        now[0] += 0.1


def test_a_network_can_be_watched_while_it_trains_and_a_kill_leaves_nothing_by_its_name(workspace, run_stage):
    edit_params(workspace, "scratch.mlp_sigmoid.epochs", 100_000)
    stage = [sys.executable, "-m", "stages.train_scratch", "mlp_sigmoid"]
    process = subprocess.Popen(stage, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    partial, seen = workspace / "outputs/models/scratch/mlp_sigmoid.partial", {0}
    try:
        for _ in range(60):
            time.sleep(1)
            if (partial / "history.csv").exists() and (partial / "losses.csv").exists():
                epochs = len(read_csv(partial / "history.csv"))
                assert len(read_csv(partial / "losses.csv")) >= 18 * epochs
                seen.add(epochs)
            if len(seen) > 3:
                break
        assert len(seen) > 3, "rows appear one after the other"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(1) == -signal.SIGTERM
    assert [path.name for path in partial.parent.iterdir()] == ["mlp_sigmoid.partial"]
    run_stage("train_scratch", "mlp_sigmoid", **{"scratch.mlp_sigmoid.epochs": 1})
    assert [path.name for path in partial.parent.iterdir()] == ["mlp_sigmoid"]


class Mixtures(TorchDispatchMode):
    """Notes the operations that mix tensors of several devices, copying apart."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if len({tensor.device for tensor in tensors}) > 1 and "copy" not in operation.__name__:
            self.found.add(operation.__name__)
        return operation(*args, **kwargs or {})


def test_training_with_pytorch_mixes_no_tensors_of_two_devices(monkeypatch):
    """On the device `meta`, which computes shapes alone: what a graphics card refuses besides is not seen."""
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: 1.0)
    monkeypatch.setattr(pytorch, "logits", lambda network, pixels: np.zeros((len(pixels), 10)))
    arrays = tiny_arrays(80, 40)
    entry = load_params()["pytorch"]["champion"] | {"batch_size": 40, "epochs": 1}
    job = SimpleNamespace(
        settings=train_pytorch.Settings.model_validate(entry),
        data=dataset.Split(
            *(arrays[f"{part}_{kind}"] for part in ("train", "test") for kind in ("images", "labels"))
        ),
        dataset=SimpleNamespace(ground=0),
        seed=0,
    )
    layers = architecture.parse(load_architectures()["champion"])
    network = pytorch.build(architecture.fit(layers, (28, 28), 10)).to("meta")
    losses = []
    watching = SimpleNamespace(bar=lambda steps, _: steps, step=losses.append)
    with Mixtures() as mixtures:
        (epoch,) = train_pytorch.train(network, job, watching)
    assert not mixtures.found
    assert (epoch.epoch, len(losses)) == (1, 2)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
