"""Fit one classifier of scikit-learn to all training images and predict the test images.

    python -m stages.train_sklearn random_forest

Reads data/*.npy and, from params.yaml, sklearn.<model>.
Writes outputs/{models,predictions,cards,timings}/sklearn/<model>.*
"""

import warnings
from functools import partial
from typing import Any

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

from joblib import parallel_config
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning

from stages.common import command, dataset, params, results
from stages.models import sklearn

FRAMEWORK = "sklearn"


class Settings(params.Section):
    """A classifier's entry in params.yaml."""

    estimator: str
    pixel_range: params.PixelRange
    arguments: dict[str, Any]


def main() -> None:
    name = command.model_name(__doc__)
    settings = params.read_model(FRAMEWORK, name, Settings)
    threads = params.read("threads", params.Positive)
    classifier = sklearn.build(settings.estimator, settings.arguments, params.read("seed", params.Seed))
    data = dataset.load_training(held_out=0)
    test_images = dataset.scale_pixels(dataset.load_test_images(), settings.pixel_range)

    print(f"{FRAMEWORK}.{name} on cpu\n  {' '.join(repr(classifier).split())}", flush=True)
    try:
        with results.Stopwatch() as training_time:
            train(classifier, data, settings, threads)
        with results.Stopwatch() as prediction_time:
            probabilities = sklearn.predict_proba(classifier, test_images)
    except (ValueError, TypeError) as error:  # scikit-learn checks the arguments while it fits
        reason = " ".join(str(error).split())
        raise command.UserError(f"params.yaml: {FRAMEWORK}.{name}.arguments: {reason}") from None

    results.save(
        FRAMEWORK,
        name,
        probabilities=probabilities,
        extension="skops",
        write_weights=partial(sklearn.save, classifier),
        parameters=sklearn.parameter_count(classifier),
        training_images=len(data.train_images),
        device="cpu",
        training_time=training_time,
        prediction_time=prediction_time,
    )


def train(classifier: ClassifierMixin, data: dataset.Split, settings: Settings, threads: int) -> None:
    """Fit `classifier` in place. Prediction stays on one job: threads would add in any order."""
    pixels = dataset.scale_pixels(data.train_images, settings.pixel_range)
    with parallel_config(n_jobs=threads), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        classifier.fit(sklearn.to_rows(pixels), data.train_labels)
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            print(f"not converged: {str(warning.message).splitlines()[0]}", flush=True)


if __name__ == "__main__":
    command.run(main)
