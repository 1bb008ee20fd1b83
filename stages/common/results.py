"""What every training stage leaves behind, and where later stages find it.

outputs/models/<framework>/<model>/ is all that it takes to use a trained model: model.json, its weights
(networks: weights.safetensors, in one layout for all frameworks) or classifier.skops, and, of networks,
history.csv and losses.csv. Beside it are its predictions, those for the held-out images, and its timings.
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
    """What differs between equal runs: seconds, and the machine that took them."""
    return OUTPUTS / "timings" / framework / f"{model}.json"


def all_of(framework: str, model: str) -> tuple[Path, ...]:
    """The paths of all that a training stage leaves."""
    return tuple(where(framework, model) for where in (folder, predictions, validation, timings))


class Description(Section):
    """What model.json holds.

    recipe: the model's entry in params.yaml, as it was trained. architecture: the layers of a network as
    architectures.yaml has them. summary: what it is, in a few words. layers: a network's layers, a table
    for people. parameters: how many numbers the training set; None if that is not known.
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

    side_by_side: how many stages ran at once on the machine while this one trained, itself included.
    peak_mebibytes: the most memory that the process held. packages: versions by name.
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
    """What model.json says of a trained model. Raises UserError, naming the file, if it is something else."""
    path = folder(framework, model) / "model.json"
    return load_json(path, Description, "does not describe a model", remedy(framework, model))


def load_timings(framework: str, model: str) -> Timings:
    """What the timings of a model say. Raises UserError, naming the file, if they are something else."""
    path = timings(framework, model)
    return load_json(path, Timings, "holds no timings of a model", remedy(framework, model))


def remedy(framework: str, model: str) -> str:
    """The command that trains a model anew, also where DVC takes it for up to date."""
    return f"dvc repro --force train_{framework}@{model}"


def load_probabilities(path: Path, images: int, classes: int) -> np.ndarray:
    """Class probabilities, float32 (images, classes), each row finite, within 0 and 1, with sum 1.

    Raises UserError, naming the file, if they are anything else.
    """
    probabilities = files.load_array(path, np.float32, (images, classes))
    if not ((probabilities >= 0) & (probabilities <= 1)).all():  # false for nan, too
        raise UserError(f"{path} holds values that are no probabilities: allowed are 0 to 1")
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        row = int(np.abs(probabilities.sum(axis=1) - 1).argmax())
        raise UserError(f"{path}: the probabilities of image {row} do not sum to 1")
    return probabilities
