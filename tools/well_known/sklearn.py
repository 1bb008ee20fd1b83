"""scikit-learn's classifiers as they come, on pixels from 0 to 1."""

import time
import warnings
from collections.abc import Iterator

from joblib import parallel_config
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from stages.common import dataset

PROGRAMS = {
    "regression": LogisticRegression(random_state=0),
    "forest": RandomForestClassifier(random_state=0),
    "trees": ExtraTreesClassifier(random_state=0),
}


def train(threads: int, program: str) -> Iterator[dict[str, float]]:
    """Train one of PROGRAMS and test it: one `epoch`."""
    data, (test_images, test_labels) = dataset.load_training(0), dataset.load_test()
    images = data.train_images, test_images
    pixels, test_pixels = (dataset.scale_pixels(part, (0, 1)).reshape(len(part), -1) for part in images)
    classifier = PROGRAMS[program]
    started = time.perf_counter()
    with parallel_config("threading", n_jobs=threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as it comes it takes 100 steps
        classifier.fit(pixels, data.train_labels)
    seconds = time.perf_counter() - started
    yield {"seconds": seconds, "accuracy": float(classifier.score(test_pixels, test_labels))}
