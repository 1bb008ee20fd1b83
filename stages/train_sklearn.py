"""Fit one classifier of scikit-learn, LightGBM or models/neighbors.py and predict the test images.

    python -m stages.train_sklearn random_forest

Reads data/ and, from params.yaml, sklearn.<model>, seed, threads and profile. Writes
outputs/models/sklearn/<model>/ and outputs/{predictions,validation,timings}/sklearn/<model>.*

On MNIST and two cores of an AMD EPYC (family 25, model 17), training time and test accuracy:
logistic_regression 1 s, 92.5 %; random_forest 9 s, 97.0 %; svm 14 s, 98.5 %.
"""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
from joblib import parallel_config
from pydantic import Field

from stages.common import files, params, run
from stages.console import command
from stages.console.errors import UserError, one_line
from stages.models import sklearn

FRAMEWORK = "sklearn"
STAGES = Path(__file__).parent


class Settings(params.Section):
    """A classifier's entry in params.yaml."""

    library: Literal["sklearn", "lightgbm", "neighbors"]  # a module of stages/models/
    estimator: str
    pixel_range: params.PixelRange
    arguments: dict[str, Any]
    gray_levels: Annotated[int, Field(ge=2, le=256)] | None = None
    validation: params.Validation | None = None  # None holds out no images


def main() -> None:
    job = run.read(FRAMEWORK, Settings, __doc__, validation=0)
    environment.use_all_threads()
    recipe, classes = job.settings.model_dump(), len(job.dataset.classes)
    library = import_module(f"stages.models.{job.settings.library}")
    with naming(job.model, *WRONG_ARGUMENTS):
        classifier = sklearn.build(recipe["estimator"], recipe["arguments"], job.seed, library)
    with run.recording(job, f"  {one_line(repr(classifier))}") as record:
        pixels = sklearn.prepare(job.data.train_images, recipe)
        with naming(job.model, *WRONG_ARGUMENTS, *library.ERRORS):
            with record.training():
                train(classifier, pixels, job.data.train_labels, job.threads)
            record.predict(
                lambda images: sklearn.predict_proba(classifier, sklearn.prepare(images, recipe), classes)
            )
        with naming(job.model):
            content = sklearn.dumps(classifier, library)
        files.write_bytes(record.folder / "classifier.skops", content)
        record.describe(
            summary=sklearn.summarize(recipe),
            parameters=sklearn.parameter_count(classifier),
            packages=tuple(dict.fromkeys(("scikit-learn", library.DISTRIBUTION, "numpy", "scipy"))),
        )


WRONG_ARGUMENTS = ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError
"""What libraries raise for wrong arguments, most of which they check while they fit."""


@contextmanager
def naming(model: str, *errors: type[Exception]) -> Iterator[None]:
    """Raise UserError, naming the model, for `errors` that a library raises because of the model's entry.

    Errors that stages/ raises itself, except ValueError and RecursionError, are bugs and pass unchanged.
    """
    try:
        yield
    except UserError as error:
        if str(error).startswith("params.yaml: "):
            raise  # already names the model
        raise UserError(f"params.yaml: {model}: {error}") from None
    except MemoryError:
        raise UserError(f"params.yaml: {model} needs more memory than there is") from None
    except errors as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if raised_in.is_relative_to(STAGES) and not isinstance(error, ValueError | RecursionError):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = one_line(error).removeprefix(f"{model}: ")
        raise UserError(f"params.yaml: {model}: {kind}{reason}") from None


def train(classifier: sklearn.ClassifierMixin, pixels: np.ndarray, labels: np.ndarray, threads: int) -> None:
    """Fit `classifier` in place and print each different warning once.

    Prediction later uses one job, because threads would add in an order that varies.
    """
    jobs = 1 if sklearn.needs_one_thread(classifier) else threads
    with parallel_config("threading", n_jobs=jobs), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        sklearn.fit(classifier, pixels, labels)
    for message in dict.fromkeys(f"{w.category.__name__}: {str(w.message).splitlines()[0]}" for w in caught):
        print(message, flush=True)


if __name__ == "__main__":
    command.run(main)
