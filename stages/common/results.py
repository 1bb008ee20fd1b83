"""What every training stage leaves behind, and where `evaluate` finds it.

`outputs/<kind>/<framework>/<model>.<extension>`, one file of each kind a model.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_json

from stages.common.command import UserError
from stages.common.files import reading, replacing_all, write_array, write_json

OUTPUTS = Path("outputs")
WEIGHTS = {"pytorch": "safetensors", "tensorflow": "weights.h5", "scratch": "npz", "sklearn": "skops"}
"""Each framework, and how the files with its trained models end."""
FRAMEWORKS = tuple(WEIGHTS)
WITH_EPOCHS = ("pytorch", "tensorflow", "scratch")
"""Those whose models are networks: they have epochs, and so a history."""


class Stopwatch:
    """`with Stopwatch() as watch:` leaves the block's wall-clock time in `watch.seconds`."""

    seconds: float

    def __enter__(self) -> "Stopwatch":
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = round(time.perf_counter() - self._started, 3)


def save(
    framework: str,
    model: str,
    *,
    probabilities: np.ndarray,
    write_weights: Callable[[Path], None],
    parameters: int | None,
    training_images: int,
    recipe: dict[str, Any],
    layers: str | None = None,
    device: str,
    training_time: Stopwatch,
    prediction_time: Stopwatch,
    write_history: Callable[[Path], None] | None = None,
    losses: np.ndarray | None = None,
) -> None:
    """Write a trained model's weights, predictions, card, timings, history and losses: all or nothing.

    probabilities: float (n_test, 10), row i = class probabilities of test image i; saved as float32.
    write_weights: writes the trained model to a path.
    parameters: how many numbers the training set; None if that is not known. training_images: how
    many it saw. recipe: its entry in params.yaml. layers: a network's, in words. The card holds these.
    device, training_time, prediction_time: all that differs between equal runs.
    write_history: writes the epochs as .csv; losses: float (steps,), each batch's mean cross-entropy in
    nats before its update, saved as float32. None for a model without epochs.

    Raises UserError, before anything is written, if a probability is not finite.
    """
    if not np.isfinite(probabilities).all():
        raise UserError(f"params.yaml: {framework}.{model} predicts nan or infinity; change its parameters")
    card = {
        "parameters": parameters,
        "training_images": training_images,
        "recipe": json.loads(to_json(recipe, inf_nan_mode="strings")),  # YAML knows more than JSON
        "layers": layers,
    }
    timings = {
        "device": device,
        "training_seconds": training_time.seconds,
        "prediction_seconds": prediction_time.seconds,
    }
    with replacing_all() as partial:
        write_weights(partial(weights(framework, model)))
        write_array(partial(path("predictions", framework, model, "npy")), probabilities.astype(np.float32))
        write_json(partial(path("cards", framework, model, "json")), card)
        write_json(partial(path("timings", framework, model, "json")), timings)
        if write_history:
            write_history(partial(path("history", framework, model, "csv")))
        if losses is not None:
            write_array(partial(path("losses", framework, model, "npy")), losses.astype(np.float32))


CARD = {"parameters": int | None, "training_images": int, "recipe": dict, "layers": str | None}


def load_card(framework: str, model: str) -> dict[str, Any]:
    """What `save` wrote into a model's card. Raises UserError, naming the file, if it is something else."""
    card_path = path("cards", framework, model, "json")
    with reading(card_path, "is no card of a model"):
        card = json.loads(card_path.read_text(encoding="utf-8"))
        for key, kind in CARD.items():
            value = card[key]
            of_kind = isinstance(value, kind) and not isinstance(value, bool)
            if not of_kind or (isinstance(value, int) and not 0 <= value < 2**63):
                raise TypeError(f"{key} is {str(value)[:40]!r}")
        return card


def path(kind: str, framework: str, model: str, extension: str) -> Path:
    """Where a result of `kind` (predictions, models, history, losses, cards, timings) of a model lies."""
    return OUTPUTS / kind / framework / f"{model}.{extension}"


def weights(framework: str, model: str) -> Path:
    """Where a trained model lies."""
    return path("models", framework, model, WEIGHTS[framework])
