"""Models beside each other: which differences are significant, what they gain by deciding together.

labels: uint8 (n,). predictions: by model, probabilities, float32 (n, classes). predicted: by model,
classes (n,).
"""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from stages.evaluation.tables import CONTRIBUTIONS, PAIRS

RESAMPLES = 10_000


def mean_of(predictions: dict[str, np.ndarray]) -> np.ndarray:
    """The mean of the models' probabilities, float32 (n, classes), added up in float64."""
    return np.mean(list(predictions.values()), axis=0, dtype=np.float64).astype(np.float32)


def vote_of(predictions: dict[str, np.ndarray]) -> np.ndarray:
    """The class that most models predict, uint8 (n,); of tied ones that with the highest mean probability."""
    classes = np.arange(next(iter(predictions.values())).shape[1])
    votes = sum((p.argmax(axis=1)[:, None] == classes).astype(int) for p in predictions.values())
    mean = np.mean(list(predictions.values()), axis=0, dtype=np.float64)
    tied = votes == votes.max(axis=1, keepdims=True)
    return np.where(tied, mean, -1).argmax(axis=1).astype(np.uint8)


def contributions(labels: np.ndarray, predictions: dict[str, np.ndarray]) -> pd.DataFrame:
    """What each model adds to the mean of all: the accuracy without it, and the gain by it.

    gained, lost: test images that only the mean with it, or only the one without it, gets right.
    p: exact McNemar test of the two. p_holm: corrected for the number of rows. No row if there are
    fewer than two models.
    """
    if len(predictions) < 2:
        return pd.DataFrame(columns=CONTRIBUTIONS)
    total = sum(p.astype(np.float64) for p in predictions.values())
    right = mean_of(predictions).argmax(axis=1) == labels
    rows = []
    for model, probabilities in predictions.items():
        of_others = ((total - probabilities) / (len(predictions) - 1)).astype(np.float32)
        without = of_others.argmax(axis=1) == labels
        gained, lost = only(right, without)
        rows.append(
            {
                "model": model,
                "accuracy_without": without.mean(),
                "gain": right.mean() - without.mean(),
                "gained": gained,
                "lost": lost,
                "p": mcnemar(gained, lost),
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table.p.to_numpy()))


def pairs(labels: np.ndarray, predicted: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row for every two models, on the same images.

    only_model, only_other: images that only the one or only the other gets right.
    agreement: share of the images for which both predict the same class.
    difference: accuracy of `model` less that of `other`, with the bounds of its own 95 % interval,
        which is not corrected for the number of rows.
    p: exact McNemar test, 0 where it is below the least float64. p_holm: corrected for the number of rows.
    """
    right = {model: classes == labels for model, classes in predicted.items()}
    rows = []
    for model, other in combinations(predicted, 2):
        only_model, only_other = only(right[model], right[other])
        low, high = bootstrap_difference(only_model, only_other, len(labels))
        rows.append(
            {
                "model": model,
                "other": other,
                "only_model": only_model,
                "only_other": only_other,
                "agreement": np.mean(predicted[model] == predicted[other]),
                "difference": (only_model - only_other) / len(labels),
                "difference_low": low,
                "difference_high": high,
                "p": mcnemar(only_model, only_other),
            }
        )
    table = pd.DataFrame(rows, columns=PAIRS)
    return table.assign(p_holm=holm(table.p.to_numpy()))


def only(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """How many of the images only the first, and only the second gets right, from two bool (n,)."""
    return int(np.count_nonzero(first & ~second)), int(np.count_nonzero(second & ~first))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test (1947): the images that one of two gets right, as coin flips."""
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """p values (m,) corrected for their number (Holm, 1979): all below 0.05 hold together at 95 %."""
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(corrected)
    result[order] = np.minimum(corrected, 1)
    return result


def bootstrap_difference(only_first: int, only_second: int, images: int) -> tuple[float, float]:
    """Bounds of the difference of two accuracies at 95 %: paired percentile bootstrap.

    Drawing `images` images with replacement draws, of the three kinds (only the first right, only
    the second, both or none), multinomial counts: these are drawn, RESAMPLES times. Equal counts
    give equal bounds, whatever else is compared. With fewer than about ten images that only one of
    the two gets right the bounds are too close: there McNemar's exact p counts.
    """
    generator = np.random.default_rng([only_first, only_second, images])
    shares = np.array([only_first, only_second, images - only_first - only_second]) / images
    counts = generator.multinomial(images, shares, size=RESAMPLES)
    low, high = np.percentile((counts[:, 0] - counts[:, 1]) / images, [2.5, 97.5])
    return float(low), float(high)
