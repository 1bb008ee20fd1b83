"""The results of a training stage, and their paths.

outputs/models/<framework>/<model>/ holds all that is needed to use a trained model: model.json and, for
networks, weights.safetensors (one layout for all frameworks), history.csv and losses.csv; for classifiers,
classifier.skops. Predictions for test and held-out images and timings have folders of their own.
"""

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from stages.common import dataset, files
from stages.common.params import Section, load_json
from stages.console.errors import UserError

OUTPUTS = Path("outputs")
Whole = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def folder(framework: str, model: str) -> Path:
    """The folder of a trained model."""
    return OUTPUTS / "models" / framework / model


def predictions(framework: str, model: str) -> Path:
    """Class probabilities of the test images, float32 (n, classes)."""
    return OUTPUTS / "predictions" / framework / f"{model}.npy"


def validation(framework: str, model: str) -> Path:
    """Class probabilities of the held-out images, float32 (n, classes), in the order of data/."""
    return OUTPUTS / "validation" / framework / f"{model}.npy"


def timings(framework: str, model: str) -> Path:
    """What may differ between equal runs: seconds and the machine."""
    return OUTPUTS / "timings" / framework / f"{model}.json"


def all_of(framework: str, model: str) -> tuple[Path, ...]:
    """The paths of all results of a training stage."""
    return tuple(where(framework, model) for where in (folder, predictions, validation, timings))


class Description(Section):
    """What model.json holds.

    recipe: the model's entry in params.yaml when it was trained. architecture: a network's layers as in
    architectures.yaml. summary: the model in a few words. layers: a network's layers as a printed table.
    parameters: the number of trained parameters; None if unknown.
    """

    framework: str
    name: str
    recipe: dict[str, Any]
    architecture: list[Any] | None
    summary: str
    layers: str | None
    classes: tuple[dataset.Name, ...]
    image_size: tuple[dataset.Size, dataset.Size]
    ground: Annotated[int, Field(strict=True, ge=0, le=255)]
    parameters: Whole | None
    training_images: Whole
    validation_images: Whole


class Timings(Section):
    """What outputs/timings holds.

    side_by_side: the number of stages that ran on the machine during training, this one included.
    peak_mebibytes: peak memory of the process, in MiB. packages: versions by name.
    """

    device: str
    precision: str
    training_seconds: Seconds
    prediction_seconds: Seconds
    processor: str
    system: str
    python: str
    threads: Whole
    side_by_side: Whole
    peak_mebibytes: Whole
    packages: dict[str, str]


class Stopwatch:
    """`with Stopwatch() as watch:` leaves the block's wall-clock time in `watch.seconds`."""

    seconds: float

    def __enter__(self) -> "Stopwatch":
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = round(time.perf_counter() - self._started, 3)


def load_description(framework: str, model: str) -> Description:
    """The content of model.json. Raises UserError, naming the file, if it is missing or wrong."""
    path = folder(framework, model) / "model.json"
    return load_json(path, Description, "does not describe a model", remedy(framework, model))


def load_timings(framework: str, model: str) -> Timings:
    """The timings of a model. Raises UserError, naming the file, if it is missing or wrong."""
    path = timings(framework, model)
    return load_json(path, Timings, "holds no timings of a model", remedy(framework, model))


def remedy(framework: str, model: str) -> str:
    """The command that retrains a model even if DVC considers it up to date."""
    return f"dvc repro --force train_{framework}@{model}"


def load_probabilities(path: Path, images: int, classes: int) -> np.ndarray:
    """Class probabilities, float32 (images, classes), each row finite, within 0 and 1, with sum 1.

    Raises UserError, naming the file, if they are anything else.
    """
    probabilities = files.load_array(path, np.float32, (images, classes))
    if not ((probabilities >= 0) & (probabilities <= 1)).all():  # False for nan
        raise UserError(f"{path} holds values that are no probabilities: allowed are 0 to 1")
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        row = int(np.abs(probabilities.sum(axis=1) - 1).argmax())
        raise UserError(f"{path}: the probabilities of image {row} do not sum to 1")
    return probabilities
