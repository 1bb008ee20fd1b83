"""What the trainers of networks share: their keys in params.yaml, schedules, the history."""

import csv
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, SupportsFloat

import numpy as np
from pydantic import Field, model_validator
from tqdm import tqdm

from stages.common import dataset, params
from stages.common.command import UserError

Precision = Literal["float32", "bfloat16", "auto"]
"""What convolutions and matrix products compute in while a network trains. Its weights stay float32, and
so do predictions."""


class NetworkSettings(params.Section):
    """A network's entry in params.yaml."""

    architecture: str
    pixel_range: params.PixelRange
    optimizer: Literal["sgd", "adam"]
    momentum: params.Share = 0.0  # of optimizer: sgd
    learning_rate: params.Rate
    schedule: Literal["constant", "one_cycle"]
    batch_size: params.Positive
    epochs: Annotated[params.Positive, Field(le=100_000)]
    validation_images: params.Count | None = None
    label_smoothing: params.Share = 0.0  # of a target's probability, spread evenly over all classes
    prediction_shift: Annotated[params.Count, Field(lt=dataset.IMAGE_SIZE)] = 0  # pixels

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> "NetworkSettings":
        if self.momentum and self.optimizer != "sgd":
            raise ValueError("momentum is an option of optimizer: sgd")
        return self


def held_out(settings: NetworkSettings) -> int:
    """How many training images the model does not see: its own number or the one for all."""
    if settings.validation_images is not None:
        return settings.validation_images
    return params.read("data.validation_images", params.Count)


def choose_precision(wanted: Precision, has_units: bool, model: str) -> Precision:
    """`float32` or `bfloat16`: `auto` is bfloat16 if the device has units for it. Others imitate it, slowly.

    With the profile `portable`, `auto` is float32 everywhere, and bfloat16 raises UserError.
    """
    if params.read("profile", str) == "portable":
        if wanted == "bfloat16":
            raise UserError(
                f"params.yaml: {model}.precision is 'bfloat16', which processors compute in different "
                "ways; allowed with profile: portable: float32, auto"
            )
        return "float32"
    if wanted != "auto":
        return wanted
    return "bfloat16" if has_units else "float32"


def place(device: str, precision: Precision) -> str:
    """Where and how a network trains, in words: the device and, if it is not float32, the precision."""
    return f"{device}, {precision}" if precision != "float32" else device


@contextmanager
def enough_memory(model: str, *errors: type[Exception]) -> Iterator[None]:
    """Raise UserError, naming the model, if the block fails because it needs more memory than there is.

    errors: what the library raises then, perhaps among other things, beside MemoryError.
    """
    try:
        yield
    except (MemoryError, *errors) as error:
        if not (isinstance(error, MemoryError) or re.search("memory|OOM", str(error))):
            raise
        raise UserError(
            f"params.yaml: {model} needs more memory than there is; choose a smaller batch_size or "
            "architecture"
        ) from None


def views(pixels: np.ndarray, settings: NetworkSettings) -> list[np.ndarray]:
    """The scaled images, float32 (n, 28, 28), over which a prediction is averaged.

    They themselves and, if `prediction_shift` is not 0, the same moved by it up, down, left and right.
    """
    distance = settings.prediction_shift
    if distance == 0:
        return [pixels]
    background = settings.pixel_range[0]
    padded = np.pad(pixels, ((0, 0), (distance,) * 2, (distance,) * 2), constant_values=background)
    _, rows, columns = pixels.shape
    starts = (1, 1), (0, 1), (2, 1), (1, 0), (1, 2)
    return [padded[:, y * distance :, x * distance :][:, :rows, :columns] for y, x in starts]


WARM_UP = 0.25


def learning_rates(settings: NetworkSettings, images: int) -> np.ndarray:
    """The learning rate of every step, float32 (epochs, steps an epoch), for `images` an epoch.

    `one_cycle` (Smith, 2018, arXiv:1803.09820) rises in a straight line to `learning_rate`
    over the first quarter of the steps and falls in a straight line to almost zero.
    """
    shape = settings.epochs, math.ceil(images / settings.batch_size)
    steps = math.prod(shape)
    shares = np.ones(steps)
    if settings.schedule == "one_cycle":
        progress = (np.arange(steps) + 0.5) / steps
        shares = np.minimum(progress / WARM_UP, (1 - progress) / (1 - WARM_UP))
    return (settings.learning_rate * shares).astype(np.float32).reshape(shape)


@dataclass(frozen=True)
class Epoch:
    """One line of outputs/history: losses are mean cross-entropies in nats, accuracies shares.

    The training figures are means over the epoch's images, each seen before its batch's update,
    with dropout on and towards smoothed labels if these are asked for; the validation figures are
    taken at the epoch's end, None without images. `learning_rate` is the last step's.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None


def show_loss(bar: tqdm, loss: SupportsFloat) -> None:
    """Show a step's loss beside the epoch's progress, if that is shown at all: it is asked for only then."""
    if not bar.disable:
        bar.set_postfix_str(f"loss {float(loss):.3f}", refresh=False)


DIVERGED = 1000.0
"""A mean cross-entropy in nats that no training comes back from; guessing costs 2.3."""


def report(epoch: Epoch, model: str, settings: NetworkSettings) -> None:
    """Print one line on a finished epoch. Raises UserError if training has diverged."""
    text = (
        f"epoch {epoch.epoch}/{settings.epochs}"
        f"  loss {epoch.train_loss:.4f}  accuracy {epoch.train_accuracy:.2%}"
    )
    if epoch.validation_loss is not None:
        text += (
            f"  validation loss {epoch.validation_loss:.4f}"
            f"  validation accuracy {epoch.validation_accuracy:.2%}"
        )
    print(text, flush=True)
    for loss in (epoch.train_loss, epoch.validation_loss):
        if loss is not None and not loss < DIVERGED:  # true for nan, too
            raise UserError(
                f"{model}: the loss became {loss:.4g} in epoch {epoch.epoch}; lower "
                f"{model}.learning_rate in params.yaml (now {settings.learning_rate:g})"
            )


def write_history(history: list[Epoch], path: Path) -> None:
    """Write the epochs as CSV, a column a field of `Epoch`; None becomes an empty cell.

    The learning rate is written with the digits that tell one float32 from the next.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        for epoch in history:
            writer.writerow(asdict(epoch) | {"learning_rate": np.float32(epoch.learning_rate)})
