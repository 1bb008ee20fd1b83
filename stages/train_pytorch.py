"""Train one network with PyTorch and predict the test images.

    python -m stages.train_pytorch cnn_dropout

Reads data/train_{images,labels}.npy, data/test_images.npy and, from params.yaml, pytorch.<model>, the
architecture that it names, data.validation_images, seed, threads, profile and device. How long that takes
and how accurate each model becomes stands in README.md.
Writes outputs/{models,predictions,history,losses,cards,timings}/pytorch/<model>.*
"""

import math
import os
import sys
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Literal

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from stages.common import architecture, command, dataset, params, results, training
from stages.models import pytorch

# torch.optim imports torch.compile's half of PyTorch, only to tell it to keep out: that takes as
# long as importing the other half. Nothing here is compiled, so two functions stand in for it.
sys.modules.setdefault(
    "torch._dynamo", SimpleNamespace(graph_break=lambda: None, disable=lambda function, *_, **__: function)
)

FRAMEWORK = "pytorch"


class Augmentation(params.Section):
    """How far `augment` may move an image, at most, either way."""

    rotation: Annotated[params.Number, Field(ge=0, le=180)]  # degrees
    scale: Annotated[params.Number, Field(ge=0, lt=1)]  # share of the size
    shear: Annotated[params.Number, Field(ge=0, lt=1)]  # columns a row
    shift: Annotated[params.Number, Field(ge=0, lt=dataset.IMAGE_SIZE)]  # pixels


class Settings(training.NetworkSettings):
    """A PyTorch network's entry in params.yaml."""

    optimizer: Literal["sgd", "adam", "muon"]
    augmentation: Augmentation | None = None
    precision: training.Precision = "float32"

    def make_optimizers(self, network: nn.Module) -> list[torch.optim.Optimizer]:
        """What updates the weights of `network`. Their learning rate is set before each step."""
        if self.optimizer == "sgd":
            return [torch.optim.SGD(network.parameters(), momentum=self.momentum)]
        if self.optimizer == "adam":
            return [torch.optim.Adam(network.parameters(), fused=True)]
        *hidden, last = [weights for weights in network.parameters() if weights.ndim > 1]
        vectors = [weights for weights in network.parameters() if weights.ndim == 1]
        return [*([Muon(hidden)] if hidden else []), torch.optim.Adam([*vectors, last], fused=True)]


def main() -> None:
    name = command.model_name(__doc__)
    settings = params.read_model(FRAMEWORK, name, Settings)
    layers = params.read(f"architectures.{settings.architecture}", architecture.Architecture)
    described = architecture.describe(layers)
    model = f"{FRAMEWORK}.{name}"
    device = choose_device(params.read("device", str))
    precision = training.choose_precision(settings.precision, multiplies_bfloat16(device), model)
    make_deterministic(params.read("seed", params.Seed), params.read("threads", params.Threads))
    data = dataset.load_training(training.held_out(settings))
    refuse_lone_image(layers, len(data.train_images), settings.batch_size, model)
    test_images = dataset.scale_pixels(dataset.load_test_images(), settings.pixel_range)

    place = training.place(device.type, precision)
    print(f"{model} on {place}\n{described}", flush=True)
    with training.enough_memory(model, RuntimeError):
        network = pytorch.build(layers).to(device)
        with results.Stopwatch() as training_time:
            history, losses = train(network, data, settings, model, precision)
        with results.Stopwatch() as prediction_time:
            views = training.views(test_images, settings)
            probabilities = np.mean([pytorch.predict_proba(network, view) for view in views], axis=0)

    results.save(
        FRAMEWORK,
        name,
        probabilities=probabilities,
        write_weights=partial(pytorch.save, network),
        parameters=sum(architecture.parameter_counts(layers)),
        training_images=len(data.train_images),
        recipe=params.read(model, dict),
        layers=described,
        device=place,
        training_time=training_time,
        prediction_time=prediction_time,
        write_history=partial(training.write_history, history),
        losses=losses.cpu().numpy(),
    )


def choose_device(wanted: str) -> torch.device:
    """The device called `wanted`; `auto` is CUDA if there is any, else MPS, else the CPU."""
    available = [
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
        "cpu",
    ]
    if wanted == "auto":
        return torch.device(available[0])
    if wanted not in available:
        raise command.UserError(
            f"params.yaml: device is {wanted!r}; allowed here: auto, {', '.join(available)}"
        )
    return torch.device(wanted)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies matrices of bfloat16 in hardware: CUDA's from compute capability 8.0."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and environment.multiplies_bfloat16()


def make_deterministic(seed: int, threads: int) -> None:
    """Let equal runs give equal bits: seed, threads, and only algorithms without races."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, and nothing reads it
    torch.backends.cudnn.benchmark = False
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # else CUDA's matrix products are refused


def train(
    network: nn.Module,
    data: dataset.Split,
    settings: Settings,
    model: str,
    precision: training.Precision = "float32",
) -> tuple[list[training.Epoch], torch.Tensor]:
    """Train `network` in place and return its history and the loss of every step, float32 (steps,)."""
    device = next(network.parameters()).device
    images = pytorch.to_tensor(data.train_images, device)  # bytes: floats are four times as many
    labels = to_classes(data.train_labels, device)
    validation_pixels = dataset.scale_pixels(data.validation_images, settings.pixel_range)
    validation_images = pytorch.to_tensor(validation_pixels, device)
    validation_labels = to_classes(data.validation_labels, device)
    rates = training.learning_rates(settings, len(images)).tolist()
    optimizers = settings.make_optimizers(network)
    shortened = precision == "bfloat16"

    history, losses = [], []
    for number, epoch_rates in enumerate(rates, start=1):
        network.train()
        loss_sum = torch.zeros((), device=device)
        correct = torch.zeros((), device=device)
        batches = torch.randperm(len(images)).to(device).split(settings.batch_size)
        bar = tqdm(batches, desc=f"epoch {number}/{settings.epochs}", leave=False, disable=None)
        for batch, rate in zip(bar, epoch_rates, strict=True):
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
            pixels = dataset.scale_levels(images[batch].float(), settings.pixel_range)
            if settings.augmentation:
                pixels = augment(pixels, settings.augmentation, settings.pixel_range[0])
            with torch.autocast(device.type, torch.bfloat16) if shortened else nullcontext():
                logits = network(pixels).float()
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=settings.label_smoothing)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.detach())
            loss_sum += losses[-1] * len(batch)
            correct += (logits.argmax(dim=1) == labels[batch]).sum()
            training.show_loss(bar, losses[-1])
        validation_loss, validation_accuracy = evaluate(network, validation_images, validation_labels)
        history.append(
            training.Epoch(
                epoch=number,
                learning_rate=rate,
                train_loss=loss_sum.item() / len(images),
                train_accuracy=correct.item() / len(images),
                validation_loss=validation_loss,
                validation_accuracy=validation_accuracy,
            )
        )
        training.report(history[-1], model, settings)
    return history, torch.stack(losses)


MUON_SIZE = 0.2
"""The root mean square of an update in learning rates, as it is Adam's on the way."""


class Muon(torch.optim.Optimizer):
    """w ← w - learning_rate · 0.2 √max(rows, columns) · O(u) with m ← β m + (1 - β) g, u = β m + (1 - β) g.

    The weights of a layer are one matrix, a row a unit or filter, and O gives it singular values of
    about one: what the gradient seldom says counts as much as what it always says, and `champion`
    needs ten epochs instead of sixteen with Adam. The factor makes an update as large as Adam's, so that
    the two share a learning rate. Sources: Jordan et al., Muon, 2024; Liu et al., 2025, arXiv:2502.16982.
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
    """About U Vᵀ of a matrix U Σ Vᵀ, float32 (rows, columns), by Newton and Schulz's iteration.

    In float32, unlike torch.optim.Muon, which needs hardware for bfloat16 to be fast.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=CUBIC, alpha=QUINTIC), x, beta=LINEAR)
    return x.T if tall else x


def refuse_lone_image(layers: architecture.Architecture, images: int, batch_size: int, model: str) -> None:
    """Raise UserError if a batch of one image would meet batch normalization that has one value of each."""
    lone = (images - 1) % batch_size == 0
    normalized = [
        shape
        for layer, shape in zip(layers, architecture.shapes(layers), strict=True)
        if isinstance(layer, architecture.BatchNorm)
    ]
    if lone and any(math.prod(places) == 1 for _, *places in normalized):
        raise command.UserError(
            f"params.yaml: {model}.batch_size is {batch_size}, which leaves a batch of one of the {images} "
            "images: batch_norm of units, or of channels of one pixel, needs two; choose another"
        )


def augment(images: torch.Tensor, limits: Augmentation, background: float) -> torch.Tensor:
    """Images (n, 1, 28, 28), each rotated, scaled, sheared and shifted a little, at random.

    One affine grid moves the whole batch, pixels between pixels are interpolated, and what comes
    in from outside is `background`. Random numbers come from PyTorch's generator of the CPU.
    """
    count, _, rows, columns = images.shape
    rotation, scale, shear, right, down = (2 * torch.rand(5, count, 1, 1) - 1).to(images.device)
    angle, size = torch.deg2rad(limits.rotation * rotation), 1 + limits.scale * scale
    cosine, sine = angle.cos() / size, angle.sin() / size
    x = (2 * torch.arange(columns, device=images.device) + 1) / columns - 1  # of the pixels' centres, as
    y = ((2 * torch.arange(rows, device=images.device) + 1) / rows - 1)[:, None]  # grid_sample counts them
    sources = torch.stack(
        [
            cosine * x + (limits.shear * shear - sine) * y + 2 * limits.shift / columns * right,
            sine * x + cosine * y + 2 * limits.shift / rows * down,
        ],
        dim=-1,
    )
    moved = functional.grid_sample(images - background, sources, align_corners=False) + background
    return moved.view(count, rows, columns, 1).permute(0, 3, 1, 2)  # channels-last, as `to_tensor`


def evaluate(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> tuple[float, float] | tuple[None, None]:
    """Mean cross-entropy in nats and accuracy, or None and None if there are no images."""
    if len(images) == 0:
        return None, None
    logits = pytorch.predict_logits(network, images)
    correct = (logits.argmax(dim=1) == labels).sum()
    return functional.cross_entropy(logits, labels).item(), correct.item() / len(labels)


def to_classes(labels: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 labels (n,) as int64, which PyTorch's loss asks for."""
    return torch.from_numpy(labels.astype(np.int64)).to(device)


if __name__ == "__main__":
    command.run(main)
