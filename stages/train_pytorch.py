"""Train one network with PyTorch and predict the test images.

    python -m stages.train_pytorch cnn_dropout

Reads data/, from params.yaml pytorch.<model>, data.validation, seed, threads, profile and device.pytorch,
and from architectures.yaml the architecture that the model names. Writes outputs/models/pytorch/<model>/ and
outputs/{predictions,validation,timings}/pytorch/<model>.*

On MNIST and two cores of an AMD EPYC (family 25, model 17), training time and test accuracy:
sprint 2 s, 99.1 %; cnn_dropout 16 s, 99.2 %; champion 136 s, 99.7 %.
"""

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from typing import Literal

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
import torch
from torch.nn import functional

from stages.common import architecture, augmentation, dataset, params, run, training
from stages.console import command
from stages.console.errors import UserError
from stages.models import allocator, pytorch, without_compiler

FRAMEWORK = "pytorch"


class Settings(training.NetworkSettings):
    """A PyTorch network's entry in params.yaml."""

    optimizer: Literal["sgd", "adam", "muon"]  # modules of stages/optimizers/
    precision: training.Precision = "float32"


def main() -> None:
    job = run.read(FRAMEWORK, Settings, __doc__)
    layers = training.read_architecture(job)
    device = choose_device(params.read("device.pytorch", str))
    precision = training.choose_precision(job, multiplies_bfloat16(device))
    make_deterministic(job.seed, job.threads)
    refuse_lone_image(layers, job)
    with (
        training.enough_memory(job.model, torch.OutOfMemoryError),
        run.recording(job, architecture.describe(layers), device.type, precision) as record,
    ):
        training.record_network(
            record,
            pytorch.build(layers, device),
            layers,
            train=partial(train, precision=precision),
            predict_proba=pytorch.predict_proba,
            get_weights=pytorch.get_weights,
            packages=("torch", "numpy"),
        )


def choose_device(wanted: str) -> torch.device:
    """The device called `wanted`; `auto` is CUDA if it computes, else the CPU.

    Prints one line if `auto` finds a CUDA device that does not compute, such as a card for which this
    PyTorch has no kernels. Raises UserError if the device called `wanted` is missing or does not compute.
    """
    known = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [name for name, is_there in known.items() if is_there]
    if wanted not in ("auto", *available):
        raise UserError(
            f"params.yaml: device.pytorch is {wanted!r}; allowed here: auto, {', '.join(available)}"
        )
    if wanted == "cuda" or (wanted == "auto" and known["cuda"]):
        try:
            with warnings.catch_warnings(action="ignore"):  # PyTorch's lines on cards that are too old
                torch.ones(1, device="cuda").add(1).item()
            return torch.device("cuda")
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            if wanted == "cuda":
                raise UserError(
                    f"params.yaml: device.pytorch is 'cuda', on which PyTorch fails: {reason}; "
                    "allowed here: auto, cpu"
                ) from None
            print(f"PyTorch fails on CUDA ({reason}): training on the CPU instead", flush=True)
    return torch.device("cpu" if wanted == "auto" else wanted)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware: AMX, or CUDA compute capability ≥ 8.0."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and environment.multiplies_bfloat16()


def make_deterministic(seed: int, threads: int) -> None:
    """Make runs repeatable bit by bit: set the seed and threads, and allow only deterministic algorithms."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, and nothing reads it
    torch.backends.cudnn.benchmark = False
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # else CUDA's matrix products are refused


def train(
    network: pytorch.Network,
    job: run.Run,
    watching: training.Progress,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Iterator[training.Epoch]:
    """Train `network` in place on its device and yield a training.Epoch after each epoch."""
    settings, device = job.settings, next(network.parameters()).device
    images = pytorch.to_tensor(job.data.train_images, device)  # uint8: float32 takes four times the memory
    labels = torch.from_numpy(job.data.train_labels.astype(np.int64)).to(device)
    ground = training.scaled_ground(job.dataset.ground, settings.pixel_range)
    moves = np.random.default_rng(job.seed)
    rates = training.learning_rates(settings, len(images)).tolist()
    optimizers = import_module(f"stages.optimizers.{settings.optimizer}").make(network, settings.momentum)
    shortened = precision == "bfloat16"

    for number, epoch_rates in enumerate(rates, start=1):
        network.train()
        loss_sum = torch.zeros((), device=device)
        correct = torch.zeros((), device=device)
        batches = torch.randperm(len(images)).to(device).split(settings.batch_size)
        for batch, rate in zip(watching.bar(batches, number), epoch_rates, strict=True):
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
            pixels = dataset.scale_levels(images[batch].float(), settings.pixel_range)
            if settings.augmentation:
                moved = torch.from_numpy(augmentation.draw(settings.augmentation, len(batch), moves))
                pixels = pytorch.move(pixels, moved.to(device), ground)
            with torch.autocast(device.type, torch.bfloat16) if shortened else nullcontext():
                logits = network(pixels).float()
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=settings.label_smoothing)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            loss = loss.detach()
            loss_sum += loss * len(batch)
            correct += (logits.argmax(dim=1) == labels[batch]).sum()
            watching.step(loss)
        yield training.validate(
            number,
            rate,
            loss_sum.item() / len(images),
            correct.item() / len(images),
            job,
            partial(pytorch.logits, network),
        )


def refuse_lone_image(layers: architecture.Architecture, job: run.Run) -> None:
    """Raise UserError if the last batch is one image and batch_norm would see one value per channel."""
    images, batch_size = len(job.data.train_images), job.settings.batch_size
    lone = (images - 1) % batch_size == 0
    normalized = [
        shape
        for layer, shape in zip(layers.layers, architecture.shapes(layers), strict=True)
        if isinstance(layer, architecture.BatchNorm)
    ]
    if lone and any(math.prod(places) == 1 for _, *places in normalized):
        raise UserError(
            f"params.yaml: {job.model}.batch_size is {batch_size}, so the last batch of the {images} "
            "images is one image: batch_norm needs at least two values per channel; choose another"
        )


if __name__ == "__main__":
    allocator.keep_freed_memory()
    without_compiler.install()
    command.run(main)
