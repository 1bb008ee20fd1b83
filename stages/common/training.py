"""Shared by the trainers of networks: settings, learning rates, epochs, prediction."""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, SupportsFloat

import numpy as np
from pydantic import Field, model_validator

from stages.common import architecture, dataset, params
from stages.common.augmentation import Augmentation
from stages.common.run import Record, Run
from stages.console import progress
from stages.console.errors import UserError

Precision = Literal["float32", "bfloat16", "auto"]
"""Of convolutions and matrix products in training. Weights and predictions are always float32."""


class NetworkSettings(params.Section):
    """A network's entry in params.yaml."""

    architecture: params.Name
    pixel_range: params.PixelRange
    augmentation: Augmentation | None = None
    optimizer: Literal["sgd", "adam"]
    momentum: params.Share = 0.0  # of optimizer: sgd
    learning_rate: params.Rate
    schedule: Literal["constant", "one_cycle"]
    batch_size: params.Positive
    epochs: Annotated[params.Positive, Field(le=100_000)]
    validation: params.Validation | None = None
    label_smoothing: params.Share = 0.0  # of a target's probability, spread evenly over all classes
    prediction_shift: Annotated[params.Count, Field(lt=dataset.SIZES[1])] = 0  # pixels

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> "NetworkSettings":
        if self.momentum and self.optimizer != "sgd":
            raise ValueError("momentum is an option of optimizer: sgd")
        return self


def read_architecture(run: Run) -> architecture.Architecture:
    """The architecture that the run's settings name, for its images and classes.

    Raises UserError if it does not fit them, or if images are to be shifted by their size or more.
    """
    name, (rows, columns) = run.settings.architecture, run.dataset.image_size
    shift = max(run.settings.prediction_shift, getattr(run.settings.augmentation, "shift", 0))
    if shift >= min(rows, columns):
        raise UserError(
            f"params.yaml: {run.model} shifts images by {shift:g} pixels; allowed for images of "
            f"{rows}×{columns}: less than {min(rows, columns)}"
        )
    layers = params.read(name, architecture.Layers, params.ARCHITECTURES)
    try:
        return architecture.fit(layers, (rows, columns), len(run.dataset.classes))
    except ValueError as error:
        raise UserError(f"{params.ARCHITECTURES}: {name}: {error}") from None


def choose_precision(run: Run, has_units: bool) -> Literal["float32", "bfloat16"]:
    """The run's precision. `auto` is bfloat16 if the device has units for it: emulation is slow.

    With the profile `portable`, `auto` is float32, and bfloat16 raises UserError.
    """
    wanted = run.settings.precision
    if params.read("profile", str) == "portable":
        if wanted == "bfloat16":
            raise UserError(
                f"params.yaml: {run.model}.precision is 'bfloat16', which processors compute in different "
                "ways; allowed with profile: portable: float32, auto"
            )
        return "float32"
    if wanted != "auto":
        return wanted
    return "bfloat16" if has_units else "float32"


@contextmanager
def enough_memory(model: str, *errors: type[Exception]) -> Iterator[None]:
    """Raise UserError, naming the model, if the block runs out of memory.

    errors: the library's exceptions for that, beside MemoryError.
    """
    try:
        yield
    except (MemoryError, RuntimeError, *errors) as error:
        if not (isinstance(error, (MemoryError, *errors)) or ALLOCATOR.search(str(error))):
            raise
        raise UserError(
            f"params.yaml: {model} needs more memory than there is; choose a smaller batch_size or "
            "architecture"
        ) from None


ALLOCATOR = re.compile("DefaultCPUAllocator|[Nn]ot enough memory|[Cc]an't allocate memory")
"""Matches PyTorch's RuntimeError when main memory runs out."""


def views(pixels: np.ndarray, distance: int, ground: float) -> list[np.ndarray]:
    """The views of scaled images, float32 (n, rows, columns), over which a prediction is averaged.

    Always the images themselves; if `distance` is not 0, also shifted by so many pixels up, down, left and
    right. Pixels that enter have the value `ground`.
    """
    if distance == 0:
        return [pixels]
    padded = np.pad(pixels, ((0, 0), (distance,) * 2, (distance,) * 2), constant_values=ground)
    _, rows, columns = pixels.shape
    starts = (1, 1), (0, 1), (2, 1), (1, 0), (1, 2)
    return [padded[:, y * distance :, x * distance :][:, :rows, :columns] for y, x in starts]


def predictor(
    predict_proba: Callable[[np.ndarray], np.ndarray], recipe: dict[str, Any], ground: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from uint8 images (n, rows, columns) to class probabilities, averaged over `views`.

    predict_proba: the network's, of scaled images. recipe: the model's entry in params.yaml.
    """
    level = scaled_ground(ground, recipe["pixel_range"])

    def predict(images: np.ndarray) -> np.ndarray:
        pixels = dataset.scale_pixels(images, recipe["pixel_range"])
        shown = views(pixels, recipe.get("prediction_shift", 0), level)
        return np.mean([predict_proba(view) for view in shown], axis=0)

    return predict


def scaled_ground(ground: int, pixel_range: tuple[float, float]) -> float:
    """The background's gray level, 0 to 255, scaled to `pixel_range`."""
    return float(dataset.scale_pixels(np.array([ground], np.uint8), pixel_range)[0])


WARM_UP = 0.25


def learning_rates(settings: NetworkSettings, images: int) -> np.ndarray:
    """The learning rate of every step, float32 (epochs, steps per epoch), for `images` images.

    `one_cycle` rises linearly to `learning_rate` over the first quarter of the steps, then falls linearly to
    almost zero: the slanted triangle of Howard and Ruder, 2018, arXiv:1801.06146, after
    the cycle of Smith, 2018, arXiv:1803.09820.
    """
    shape = settings.epochs, math.ceil(images / settings.batch_size)
    steps = math.prod(shape)
    shares = np.ones(steps)
    if settings.schedule == "one_cycle":
        done = (np.arange(steps) + 0.5) / steps
        shares = np.minimum(done / WARM_UP, (1 - done) / (1 - WARM_UP))
    return (settings.learning_rate * shares).astype(np.float32).reshape(shape)


@dataclass(frozen=True)
class Epoch:
    """A row of history.csv: losses are mean cross-entropies in nats, accuracies are shares, 0 to 1.

    Training figures are means over the epoch, each batch taken before its update, with the model's
    augmentation, dropout and label smoothing. Validation figures are taken after the epoch; None if no images
    are held out. `learning_rate` is the last step's.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None


def validate(
    number: int,
    rate: float,
    loss: float,
    accuracy: float,
    run: Run,
    logits: Callable[[np.ndarray], np.ndarray],
) -> Epoch:
    """The finished epoch `number`, with its validation figures.

    rate: of the last step. loss, accuracy: of the training images. logits: maps scaled images, float32
    (n, rows, columns), to logits (n, classes).
    """
    figures: tuple[float, float] | tuple[None, None] = None, None
    if len(run.data.validation_images):
        found = logits(dataset.scale_pixels(run.data.validation_images, run.settings.pixel_range))
        found = found.astype(np.float64)
        labels = run.data.validation_labels
        found -= found.max(axis=1, keepdims=True)
        losses = np.log(np.exp(found).sum(axis=1)) - found[np.arange(len(labels)), labels]
        figures = float(losses.mean()), float(np.mean(found.argmax(axis=1) == labels))
    return Epoch(number, rate, loss, accuracy, *figures)


DIVERGED = 1000.0
"""A mean cross-entropy in nats that counts as diverged; guessing among ten classes gives 2.3."""


class Progress:
    """Writes losses.csv and history.csv into the model's folder during training.

    Losses are written at the first step that ends more than FLUSH seconds after the last writing.
    """

    FLUSH = 0.5

    def __init__(self, record: Record):
        self._record, self._settings = record, record.run.settings
        self._waiting: list[SupportsFloat] = []
        self._steps, self._written = 0, time.monotonic()
        names = [field.name for field in fields(Epoch)]
        self._append("history.csv", ",".join(names))
        self._append("losses.csv", "step,loss")

    def bar(self, steps: Iterable[Any], epoch: int) -> progress.Bar:
        """`steps` with a progress bar."""
        self._bar = progress.Bar(steps, epoch, self._settings.epochs)
        return self._bar

    def step(self, loss: SupportsFloat) -> None:
        """Add a step's mean cross-entropy, before the update: a number or a scalar tensor."""
        self._waiting.append(loss)
        self._bar.show(loss)
        if time.monotonic() - self._written > self.FLUSH:
            self._flush()

    def epoch(self, epoch: Epoch) -> None:
        """Add a finished epoch. Raises UserError if training has diverged."""
        self._flush()
        row = asdict(epoch)
        # as float32, so that the learning rate has no more digits than it needs
        cells = (row | {"learning_rate": np.float32(epoch.learning_rate)}).values()
        self._append("history.csv", ",".join("" if cell is None else str(cell) for cell in cells))
        progress.epoch(row, self._settings.epochs)
        for loss in (epoch.train_loss, epoch.validation_loss):
            if loss is not None and not loss < DIVERGED:  # true for nan, too
                model = self._record.run.model
                raise UserError(
                    f"{model}: the loss became {loss:.4g} in epoch {epoch.epoch}; lower "
                    f"{model}.learning_rate in params.yaml (now {self._settings.learning_rate:g})"
                )

    def _flush(self) -> None:
        losses = [np.float32(float(loss)) for loss in self._waiting]
        self._append("losses.csv", *(f"{self._steps + i},{loss!s}" for i, loss in enumerate(losses, start=1)))
        progress.steps(self._steps, losses)
        self._steps += len(losses)
        self._waiting.clear()
        self._written = time.monotonic()

    def _append(self, name: str, *lines: str) -> None:
        path: Path = self._record.folder / name
        try:
            with path.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise


Train = Callable[[Any, Run, Progress], Iterator[Epoch]]
"""A framework's training loop: trains the network and yields each epoch when it ends."""


def record_network(
    record: Record,
    network: Any,
    layers: architecture.Architecture,
    train: Train,
    predict_proba: Callable[[Any, np.ndarray], np.ndarray],
    get_weights: Callable[[Any], dict[str, np.ndarray]],
    packages: tuple[str, ...],
) -> None:
    """Train a network, predict, and write the results."""
    run, watching = record.run, Progress(record)
    with record.training():
        for epoch in train(network, run, watching):
            watching.epoch(epoch)
    recipe = run.settings.model_dump()
    record.predict(predictor(lambda pixels: predict_proba(network, pixels), recipe, run.dataset.ground))
    record.save_weights(get_weights(network))
    record.describe(
        summary=run.settings.architecture,
        parameters=sum(architecture.parameter_counts(layers)),
        packages=packages,
        architecture=params.read(run.settings.architecture, list, params.ARCHITECTURES),
        layers=architecture.describe(layers),
    )
