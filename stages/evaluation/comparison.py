"""What models' predictions say beside each other: which differences are real, what a vote gains.

labels are uint8 (n,); predictions map a model's name to its probabilities, float32 (n, 10).
"""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

RESAMPLES = 10_000
MEAN, VOTE = "ensemble/mean", "ensemble/vote"


def ensembles(predictions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Two ways to let all models decide together, as probabilities, float32 (n, 10).

    ensemble/mean: the mean of the models' probabilities.
    ensemble/vote: each digit's share of the votes, a model one vote. Of digits with equally many
        votes the one with the highest mean probability gets a hair more.
    """
    mean = mean_of(list(predictions.values()))
    digits = np.arange(mean.shape[1])
    votes = np.mean([p.argmax(axis=1)[:, None] == digits for p in predictions.values()], axis=0)
    first = np.where(votes == votes.max(axis=1, keepdims=True), mean, -1).argmax(axis=1)
    hair = 0.03 / len(predictions)  # far less than a vote, and more than float32 rounds off
    vote = (1 - 2 * hair) * votes + hair * mean + hair * (first[:, None] == digits)
    return {MEAN: mean, VOTE: vote.astype(np.float32)}


def mean_of(probabilities: list[np.ndarray]) -> np.ndarray:
    """The mean of models' probabilities, float32 (n, 10), added up in float64."""
    return np.mean(probabilities, axis=0, dtype=np.float64).astype(np.float32)


def contributions(labels: np.ndarray, predictions: dict[str, np.ndarray]) -> pd.DataFrame:
    """What each model adds to the mean of all: the accuracy without it, and the gain by it.

    gained, lost: test images that only the mean with it, or only the one without it, gets right.
    p: exact McNemar test of the two. p_holm: corrected for the number of rows. No row if there are
    fewer than two models.
    """
    columns = ["model", "accuracy_without", "gain", "gained", "lost", "p", "p_holm"]
    if len(predictions) < 2:
        return pd.DataFrame(columns=columns)
    right = mean_of(list(predictions.values())).argmax(axis=1) == labels
    rows = []
    for model in predictions:
        others = [p for other, p in predictions.items() if other != model]
        without = mean_of(others).argmax(axis=1) == labels
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
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table.p.to_numpy()))


def pairs(labels: np.ndarray, predictions: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row for every two models, on the same images.

    only_model, only_other: images that only the one or only the other gets right.
    agreement: share of the images to which both give the same digit.
    difference: accuracy of `model` less that of `other`, with the bounds of its own 95 % interval,
        which is not corrected for the number of rows.
    p: exact McNemar test, 0 where it is below the least float64. p_holm: corrected for the number of rows.
    """
    predicted = {model: p.argmax(axis=1) for model, p in predictions.items()}
    right = {model: digits == labels for model, digits in predicted.items()}
    rows = []
    for model, other in combinations(predictions, 2):
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
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table.p.to_numpy())) if rows else table


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
