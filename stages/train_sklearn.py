"""Fit one classifier, of scikit-learn, LightGBM or models/neighbors.py, to all training images and predict
the test images.

    python -m stages.train_sklearn random_forest

Reads data/train_{images,labels}.npy, data/test_images.npy and, from params.yaml, sklearn.<model>, seed,
threads and profile. How long that takes and how accurate each model becomes stands in README.md.
Writes outputs/{models,predictions,cards,timings}/sklearn/<model>.*
"""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
from joblib import parallel_config
from pydantic import Field

from stages.common import command, dataset, params, results
from stages.models import sklearn

FRAMEWORK = "sklearn"
STAGES = Path(__file__).parent


class Settings(params.Section):
    """A classifier's entry in params.yaml."""

    library: Literal["sklearn", "lightgbm", "neighbors"]  # the module of models/ that the estimator needs
    estimator: str
    pixel_range: params.PixelRange
    arguments: dict[str, Any]
    gray_levels: Annotated[int, Field(ge=2, le=256)] | None = None


def main() -> None:
    name = command.model_name(__doc__)
    settings = params.read_model(FRAMEWORK, name, Settings)
    threads = params.read("threads", params.Threads)
    environment.use_all_threads()
    seed = params.read("seed", params.Seed)
    data = dataset.load_training(held_out=0)
    train_pixels = prepare(data.train_images, settings)
    test_pixels = prepare(dataset.load_test_images(), settings)

    library = import_module(f"stages.models.{settings.library}")
    with naming(f"{FRAMEWORK}.{name}"):
        classifier = sklearn.build(settings.estimator, settings.arguments, seed, library)
        print(f"{FRAMEWORK}.{name} on cpu\n  {' '.join(repr(classifier).split())}", flush=True)
        with results.Stopwatch() as training_time:
            train(classifier, train_pixels, data.train_labels, threads)
        # what numbers overflow is refused below, without a warning before it
        with results.Stopwatch() as prediction_time, warnings.catch_warnings(action="ignore"):
            probabilities = sklearn.predict_proba(classifier, test_pixels)
        if (np.abs(probabilities.sum(axis=1) - 1) > 1e-4).any():
            raise command.UserError("its probabilities do not sum to 1; choose other arguments")
        results.save(
            FRAMEWORK,
            name,
            probabilities=probabilities,
            write_weights=partial(sklearn.save, classifier, library=library),
            parameters=sklearn.parameter_count(classifier),
            training_images=len(data.train_images),
            recipe=params.read(f"{FRAMEWORK}.{name}", dict),
            device="cpu",
            training_time=training_time,
            prediction_time=prediction_time,
        )


@contextmanager
def naming(model: str) -> Iterator[None]:
    """Raise UserError, naming the model, for whatever a library finds wrong with its entry.

    Arguments are checked while it fits, and each classifier complains in its own way. What goes wrong
    in our own code, or with the disk, is no fault of the entry.
    """
    try:
        yield
    except OSError:
        raise
    except RecursionError:
        raise command.UserError(f"params.yaml: {model}: it is nested too deeply, or holds itself") from None
    except Exception as error:
        if isinstance(error, command.UserError) and str(error).startswith("params.yaml: "):
            raise  # it names the model
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if raised_in.is_relative_to(STAGES) and not isinstance(error, command.UserError | ValueError):
            raise
        kind = "" if isinstance(error, command.UserError | ValueError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split()).removeprefix(f"{model}: ")
        raise command.UserError(f"params.yaml: {model}: {kind}{reason}") from None


def prepare(images: np.ndarray, settings: Settings) -> np.ndarray:
    """uint8 images (n, 28, 28) as float32 in the settings' range and number of gray levels.

    Trees sort the pixels at every split: with few different values that is much faster.
    """
    if settings.gray_levels:
        steps = images.astype(np.uint16) * settings.gray_levels // 256  # 0 … gray_levels - 1
        images = (steps * 255 // (settings.gray_levels - 1)).astype(np.uint8)
    return dataset.scale_pixels(images, settings.pixel_range)


def train(classifier: sklearn.ClassifierMixin, pixels: np.ndarray, labels: np.ndarray, threads: int) -> None:
    """Fit `classifier` in place. Prediction stays on one job: threads would add in any order."""
    jobs = 1 if sklearn.needs_one_thread(classifier) else threads
    with parallel_config("threading", n_jobs=jobs), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        sklearn.fit(classifier, pixels, labels)
    for warning in caught:
        if issubclass(warning.category, sklearn.ConvergenceWarning):
            print(f"not converged: {str(warning.message).splitlines()[0]}", flush=True)


if __name__ == "__main__":
    command.run(main)
