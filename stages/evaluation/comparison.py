"""Compare models: which differences are significant, and what each model adds to their ensemble.

labels: uint8 (n,). predictions: each model's probabilities, float32 (n, classes). predicted: each model's
predicted classes, (n,).
"""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from stages.evaluation.tables import CONTRIBUTIONS, PAIRS

RESAMPLES = 10_000


def mean_of(predictions: dict[str, np.ndarray]) -> np.ndarray:
    """The mean of the models' probabilities, float32 (n, classes), computed in float64."""
    return np.mean(list(predictions.values()), axis=0, dtype=np.float64).astype(np.float32)


def vote_of(predictions: dict[str, np.ndarray]) -> np.ndarray:
    """The class that most models predict, uint8 (n,). The mean probability decides ties."""
    classes = np.arange(next(iter(predictions.values())).shape[1])
    votes = sum((p.argmax(axis=1)[:, None] == classes).astype(int) for p in predictions.values())
    mean = np.mean(list(predictions.values()), axis=0, dtype=np.float64)
    tied = votes == votes.max(axis=1, keepdims=True)
    return np.where(tied, mean, -1).argmax(axis=1).astype(np.uint8)


def contributions(labels: np.ndarray, predictions: dict[str, np.ndarray]) -> pd.DataFrame:
    """What each model adds to the mean of all models: the mean's accuracy without it, and the gain with it.

    gained, lost: number of images that only the mean with the model, or only the mean without it,
        classifies correctly.
    p: exact McNemar test of the two means. p_holm: corrected for the number of rows.
    There are no rows for fewer than two models.
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
    """A row for each pair of models, on the same images.

    only_model, only_other: number of images that only `model`, or only `other`, classifies correctly.
    agreement: share of the images for which both predict the same class.
    difference: accuracy of `model` minus that of `other`, with the bounds of its 95 % interval, which is
        not corrected for the number of rows.
    p: exact McNemar test; 0 below the smallest float64. p_holm: corrected for the number of rows.
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
    """How many images only the first, and only the second, classifies correctly. Both: bool (n,)."""
    return int(np.count_nonzero(first & ~second)), int(np.count_nonzero(second & ~first))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test (1947): a binomial test of the images that only one gets right."""
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """p values (m,) corrected for multiple tests (Holm, 1979), which controls the family-wise error rate."""
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(corrected)
    result[order] = np.minimum(corrected, 1)
    return result


def bootstrap_difference(only_first: int, only_second: int, images: int) -> tuple[float, float]:
    """Bounds of the 95 % interval of the difference of two accuracies: paired percentile bootstrap.

    An image is of one of three kinds: only the first is right, only the second is, or both or none are.
    Resampling `images` images with replacement gives multinomial counts of the kinds, which are drawn
    RESAMPLES times. The counts are the seed, so equal counts give equal bounds. With fewer than about ten
    images that only one of the two gets right, the interval is too narrow: use McNemar's exact p there.
    """
    generator = np.random.default_rng([only_first, only_second, images])
    shares = np.array([only_first, only_second, images - only_first - only_second]) / images
    counts = generator.multinomial(images, shares, size=RESAMPLES)
    low, high = np.percentile((counts[:, 0] - counts[:, 1]) / images, [2.5, 97.5])
    return float(low), float(high)
