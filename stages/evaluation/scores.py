"""What one model's probabilities say about it: its scalars and its tables.

labels are uint8 (n,), 0–9; probabilities float32 (n, 10), each row with sum 1. A model's prediction
is the digit of the largest probability, of equal ones the lowest.
"""

from bisect import bisect
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn import config_context
from sklearn.metrics import (
    auc,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_curve,
)

from stages.common.dataset import CLASSES

DIGITS = range(CLASSES)
BINS = 15
ROC_POINTS = 24
BETWEEN = np.array([m / 10**n for n in range(6, 0, -1) for m in (1, 1.5, 2, 3, 5, 7)])
"""False positive rates at which a straight piece of an ROC curve may need a point, where they are
drawn on a logarithmic axis: there it is bent."""


def assess(labels: np.ndarray, probabilities: np.ndarray) -> tuple[dict[str, float], dict[str, pd.DataFrame]]:
    """The scalars of one model, and its tables: confusion, per_digit, roc, calibration."""
    with config_context(assume_finite=True, skip_parameter_validation=True):  # all of it is checked
        curves = roc_curves(labels, probabilities)
        tables = {
            "confusion": confusion(labels, probabilities),
            "per_digit": per_digit(labels, probabilities, curves),
            "roc": thinned(curves),
            "calibration": calibration(labels, probabilities),
        }
        return measure(labels, probabilities, tables["per_digit"], tables["calibration"]), tables


def measure(
    labels: np.ndarray, probabilities: np.ndarray, digits: pd.DataFrame, bins: pd.DataFrame
) -> dict[str, float]:
    """The scalars of one model, rounded to six places. digits: of `per_digit`. bins: of `calibration`.

    accuracy: share of images, with the bounds of its 95 % interval (Wilson, 1927).
    log_loss: mean cross-entropy in nats; a probability below 1.2e-7, what float32 can tell from 0
        beside 1, counts as that.
    macro_f1: mean over the digits that an image shows or the model predicts.
    macro_auc: mean of the areas under the ROC curves of each digit against the rest, digits that no
        image or every image shows left out. None if none is left.
    calibration_error: expected calibration error over 15 bins of equal width (Guo et al., 2017,
        arXiv:1706.04599), 0 to 1.
    brier_score: mean over the images of the squared distances to the truth, 0 to 2 (Brier, 1950).
    """
    correct = int(np.count_nonzero(probabilities.argmax(axis=1) == labels))
    low, high = wilson_interval(correct, len(labels))
    gaps = (bins.accuracy - bins.confidence).abs()
    scalars = {
        "accuracy": correct / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "log_loss": log_loss(labels, probabilities, labels=DIGITS),
        "macro_f1": digits.f1.mean(),
        "macro_auc": not_quite_one(digits.auc.mean()) if digits.auc.notna().any() else None,
        "calibration_error": (gaps * bins.images).sum() / len(labels),
        "brier_score": brier_score_loss(labels, probabilities, labels=DIGITS),
    }
    return {name: None if value is None else round(float(value), 6) for name, value in scalars.items()}


def not_quite_one(area: float) -> float:
    """An area that six places would round to 1 although it is less, as the largest that they do not."""
    return min(area, 0.999999) if area < 1 else area


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """Bounds of the accuracy `correct / images` at 95 % (Wilson, 1927)."""
    interval = binomtest(int(correct), int(images)).proportion_ci(0.95, method="wilson")
    return interval.low, interval.high


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """A row for every truth and prediction: how many images, and their share of the truth's images."""
    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=DIGITS)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    table = pd.DataFrame(product(DIGITS, DIGITS), columns=["truth", "prediction"])
    return table.assign(count=counts.ravel(), share=shares.ravel())


Curves = dict[int, tuple[np.ndarray, np.ndarray]]
"""Of each digit against the rest, the false and the true positive rates, float64 (points,)."""


def roc_curves(labels: np.ndarray, probabilities: np.ndarray) -> Curves:
    """The ROC curve of each digit, without points on a straight line between others.

    Digits that no image or every image shows have none.
    """
    shown = [digit for digit in DIGITS if 0 < np.count_nonzero(labels == digit) < len(labels)]
    return {digit: roc_curve(labels == digit, probabilities[:, digit])[:2] for digit in shown}


def thinned(curves: Curves) -> pd.DataFrame:
    """At most ROC_POINTS points on each curve, with which it looks the same: it is for the eye.

    All are drawn on the same axes, of which the logarithmic one begins at half the smallest rate of any.
    """
    tables = []
    smallest = min((x[x > 0].min() for x, _ in curves.values()), default=1)
    for digit, (x, y) in curves.items():
        between = np.setdiff1d([smallest, *BETWEEN[smallest < BETWEEN]], x)
        y = np.concatenate([y, np.interp(between, x, y)])
        x = np.concatenate([x, between])
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
        kept = points_to_show(x, y, smallest / 2)
        tables.append(
            pd.DataFrame({"digit": digit, "false_positive_rate": x[kept], "true_positive_rate": y[kept]})
        )
    return pd.concat(tables or [pd.DataFrame(columns=["digit", "false_positive_rate", "true_positive_rate"])])


def points_to_show(x: np.ndarray, y: np.ndarray, least: float) -> list[int]:
    """Indices of the points of an ROC curve to draw: at most ROC_POINTS, its ends among them.

    x, y: false and true positive rates (points,). One by one the point is added that lies farthest
    from the line through those before, on plain axes or where the corner is looked at: false
    positive rates logarithmic from `least` on, true positive rates from 80 % on. Distances are rounded:
    the last bits of a logarithm differ from processor to processor, and would choose between equal ones.
    """
    corner_x = 1 - np.log(np.maximum(x, least)) / np.log(least)
    corner_y = np.maximum(5 * y - 4, 0)
    views = [(x + y, y - x), (corner_x + corner_y, corner_y - corner_x)]  # along and across the diagonal
    gaps = np.zeros(len(x))

    def measure_gaps(first: int, last: int) -> None:
        part, ends = slice(first, last + 1), [first, last]
        gaps[part] = 0
        for along, across in views:
            line = np.interp(along[part], along[ends], across[ends])
            np.maximum(gaps[part], np.abs(across[part] - line).round(9), out=gaps[part])

    kept = [0, len(x) - 1]
    measure_gaps(*kept)
    while len(kept) < ROC_POINTS and gaps.any():  # else all others lie on the lines
        farthest = int(gaps.argmax())
        place = bisect(kept, farthest)
        measure_gaps(kept[place - 1], farthest)
        measure_gaps(farthest, kept[place])
        kept.insert(place, farthest)
    return kept


def per_digit(labels: np.ndarray, probabilities: np.ndarray, curves: Curves) -> pd.DataFrame:
    """A row a digit: precision, recall, F1, AUC against the rest, and how many images show it.

    Precision is 0 for a digit that is never predicted, recall 0 for one that no image shows; its
    AUC is nan, and F1, too, if it is not predicted either.
    """
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=DIGITS, zero_division=0
    )
    f1[~np.isin(DIGITS, [labels, predicted])] = np.nan
    areas = [not_quite_one(auc(*curves[digit])) if digit in curves else np.nan for digit in DIGITS]
    columns = {"digit": DIGITS, "precision": precision, "recall": recall, "f1": f1, "auc": areas}
    return pd.DataFrame(columns | {"support": support})


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """A row for each bin of confidence, the largest probability, that holds images.

    low, high: the bin, low excluded. images: how many. confidence: their mean. accuracy: the share
    that is right, and its 95 % interval; a model that knows what it knows has both equal.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    place = np.searchsorted(edges.astype(np.float32), confidence, side="left") - 1  # 0.6 is 9/15
    place = np.clip(place, 0, BINS - 1)
    images = np.bincount(place, minlength=BINS)
    kept = images > 0
    correct = np.bincount(place[right], minlength=BINS)[kept]
    intervals = [wilson_interval(*counts) for counts in zip(correct, images[kept], strict=True)]
    return pd.DataFrame(
        {
            "low": edges[:-1][kept],
            "high": edges[1:][kept],
            "images": images[kept],
            "confidence": np.bincount(place, confidence, BINS)[kept] / images[kept],
            "accuracy": correct / images[kept],
            "accuracy_low": [low for low, _ in intervals],
            "accuracy_high": [high for _, high in intervals],
        }
    )
