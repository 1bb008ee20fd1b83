"""A training run: its settings and data, and the results that it writes."""

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_json
from safetensors.numpy import save as to_safetensors

from stages.common import dataset, files, params, results
from stages.console import command, machine, progress
from stages.console.errors import UserError


@dataclass(frozen=True)
class Run:
    """A model to train, and the data for it.

    settings: the model's checked entry in params.yaml. test_images: uint8 (n, rows, columns), without labels.
    """

    framework: str
    name: str
    settings: Any
    dataset: dataset.Dataset
    data: dataset.Split
    test_images: np.ndarray
    seed: int
    threads: int

    @property
    def model(self) -> str:
        """The model's key in params.yaml, such as pytorch.mlp."""
        return f"{self.framework}.{self.name}"


def read(
    framework: str, settings: type[params.Section], description: str | None, validation: Any = None
) -> Run:
    """The run that the command line names.

    settings: the type of the model's entry. If its key `validation` is None, `validation` says how many
    images are held out; if that is None too, data.validation does.
    """
    name = command.model_name(description)
    entry = params.read_model(framework, name, settings)
    if validation is None:
        validation = params.read("data.validation", params.Validation)
    return Run(
        framework=framework,
        name=name,
        settings=entry,
        dataset=dataset.describe(),
        data=dataset.load_training(validation if entry.validation is None else entry.validation),
        test_images=dataset.load_test_images(),
        seed=params.read("seed", params.Seed),
        threads=params.read("threads", params.Threads),
    )


class Record:
    """Writes the results of a run. folder: the model's, under a temporary name until the run succeeds."""

    def __init__(self, run: Run, paths: tuple[Path, ...], device: str, precision: str):
        self.run, self.device, self.precision = run, device, precision
        self.folder, self._predictions, self._validation, self._timings = paths
        self.folder.mkdir()
        self._side_by_side = machine.stages_at_once()
        self._training, self._prediction = results.Stopwatch(), results.Stopwatch()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Measure the block as the model's training time."""
        with self._training:
            yield
        self._side_by_side = max(self._side_by_side, machine.stages_at_once())

    def predict(self, predict_proba: Callable[[np.ndarray], np.ndarray]) -> None:
        """Write the trained model's predictions for the test images and the held-out images.

        predict_proba: maps uint8 images (n, rows, columns) to class probabilities (n, classes), which are
        saved as float32. Raises UserError if one is not finite.
        """
        with self._prediction:
            probabilities = predict_proba(self.run.test_images)
        held_out = self.run.data.validation_images
        none = np.empty((0, len(self.run.dataset.classes)))
        of_held_out = predict_proba(held_out) if len(held_out) else none
        for path, array in ((self._predictions, probabilities), (self._validation, of_held_out)):
            if not np.isfinite(array).all():
                raise UserError(
                    f"params.yaml: {self.run.model} predicts nan or infinity; change its parameters"
                )
            files.write_array(path, array.astype(np.float32))

    def save_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Write a network's arrays, by name, as weights.safetensors."""
        arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
        files.write_bytes(self.folder / "weights.safetensors", to_safetensors(arrays))

    def describe(
        self,
        *,
        summary: str,
        parameters: int | None,
        packages: tuple[str, ...],
        architecture: list[Any] | None = None,
        layers: str | None = None,
    ) -> None:
        """Write model.json (see results.Description) and the timings. packages: names, for their versions."""
        run = self.run
        recipe = params.read(run.model, dict)
        description = {
            "framework": run.framework,
            "name": run.name,
            "recipe": json.loads(to_json(recipe, inf_nan_mode="strings")),  # YAML knows more than JSON
            "architecture": architecture,
            "summary": summary,
            "layers": layers,
            "classes": list(run.dataset.classes),
            "image_size": list(run.dataset.image_size),
            "ground": run.dataset.ground,
            "parameters": parameters,
            "training_images": len(run.data.train_images),
            "validation_images": len(run.data.validation_images),
        }
        timings = {
            "device": self.device,
            "precision": self.precision,
            "training_seconds": self._training.seconds,
            "prediction_seconds": self._prediction.seconds,
            "processor": machine.processor(),
            "system": machine.system(),
            "python": platform.python_version(),
            "threads": run.threads,
            "side_by_side": self._side_by_side,
            "peak_mebibytes": machine.peak_mebibytes(),
            "packages": machine.packages(packages),
        }
        files.write_json(self.folder / "model.json", description)
        files.write_json(self._timings, timings)


@contextmanager
def recording(run: Run, what: str, device: str = "cpu", precision: str = "float32") -> Iterator[Record]:
    """Yield a Record of the run, whose files appear all together if the block succeeds.

    what: the model in words, printed first. precision: of convolutions and matrix products.
    """
    where = device if precision == "float32" else f"{device}, {precision}"
    of_run = results.all_of(run.framework, run.name)
    with progress.training(run.model, where, what), files.replacing(*of_run) as paths:
        yield Record(run, paths, device, precision)
