"""Score one model's predictions: scalars and tables.

labels: uint8 (n,), indices of `classes`, the names. probabilities: float32 (n, classes); each row sums to 1.
A model predicts the class with the largest probability, the first of equal ones.

Written in NumPy alone: importing scikit-learn's metrics takes longer than scoring 25 models. Tests compare
each figure with scikit-learn's.
"""

from statistics import NormalDist

import numpy as np
import pandas as pd

Z = NormalDist().inv_cdf(0.975)
BINS = 15
RATES = 10.0 ** (np.arange(-48, 1) / 12)
"""False positive rates at which ROC curves are sampled: twelve per decade, from 0.0001 to 1."""

Scalars = dict[str, float | None]
Tables = dict[str, pd.DataFrame]


def assess(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> tuple[Scalars, Tables]:
    """The scalars of one model, rounded to six places, and its tables.

    Those of `assess_predictions`, and:
    log_loss: mean cross-entropy in nats; probabilities below 1.2e-7 (float32's epsilon) count as that.
    macro_auc: mean of the areas under the ROC curves, each class against the rest. Classes that no image or
        every image shows are left out; None if none is left.
    calibration_error: expected calibration error over 15 bins of equal width (Guo et al., 2017,
        arXiv:1706.04599), 0 to 1.
    brier_score: mean over the images of the squared distance between probabilities and one-hot label, 0 to 2
        (Brier, 1950).
    """
    scalars, tables = assess_predictions(labels, probabilities.argmax(axis=1), classes)
    curves = [roc_curve(labels == label, scores) for label, scores in enumerate(probabilities.T)]
    areas = np.array([np.nan if curve is None else area_under(*curve) for curve in curves])
    tables["per_class"]["auc"] = areas
    tables["roc"] = sampled(curves, classes, len(labels))
    tables["calibration"] = bins = calibration(labels, probabilities)
    of_truth = probabilities[np.arange(len(labels)), labels].astype(float)
    squares = np.square(probabilities, dtype=float).sum(axis=1) - 2 * of_truth + 1
    known = areas[~np.isnan(areas)]
    more = {
        "log_loss": log_loss(labels, probabilities),
        "macro_auc": not_quite_one(known.mean()) if len(known) else None,
        "calibration_error": ((bins.accuracy - bins.confidence).abs() * bins.images).sum() / len(labels),
        "brier_score": squares.mean(),
    }
    return scalars | rounded(more), tables


def assess_predictions(
    labels: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]
) -> tuple[Scalars, Tables]:
    """What follows from the predicted classes (n,) alone: scalars, to six places, confusion and per_class.

    accuracy: share of the images that are correct, with the bounds of its 95 % interval (Wilson, 1927).
    macro_f1: mean F1 over the classes that occur among the labels or the predictions.
    """
    size = len(classes)
    counts = np.bincount(labels * np.int64(size) + predicted, minlength=size * size).reshape(size, size)
    correct = int(np.trace(counts))
    low, high = wilson_interval(correct, len(labels))
    tables = {"confusion": confusion(counts, classes), "per_class": per_class(counts, classes)}
    scalars = {
        "accuracy": correct / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": tables["per_class"].f1.mean(),
    }
    return rounded(scalars), tables


def rounded(scalars: Scalars) -> Scalars:
    """The scalars, rounded to six places."""
    return {name: None if value is None else round(float(value), 6) for name, value in scalars.items()}


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The share of the images whose label has the largest probability."""
    return np.mean(probabilities.argmax(axis=1) == labels)


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean cross-entropy in nats, see `assess`."""
    of_truth = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(of_truth, np.finfo(np.float32).eps).astype(float)).mean()


def wilson_interval(correct: np.ndarray | int, images: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the 95 % interval of the share `correct / images` (Wilson, 1927), to nine places."""
    share, weight = correct / images, Z**2 / images
    middle = (share + weight / 2) / (1 + weight)
    half = np.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
    return np.round(middle - half, 9), np.round(middle + half, 9)


def sure_above(labels: np.ndarray, probabilities: np.ndarray, wrong: float) -> float | None:
    """The confidence above which answers are sure: at most the share `wrong` of them is wrong.

    labels, probabilities: of held-out images. The result is the lowest threshold, to six places, for which
    the accuracy of the answers above it has a 95 % interval whose lower bound is at least 1 - `wrong`. So a
    few lucky images are not enough: even without a mistake, showing 0.5 % takes 765 answers.
    Returns 1, which no answer exceeds, if no threshold is good enough, and None if there are too few images
    for any threshold.
    """
    if not len(labels) or wilson_interval(len(labels), len(labels))[0] < 1 - wrong:
        return None
    confidence = np.ceil(probabilities.max(axis=1).astype(float) * 1e6)  # in steps of 1e-6
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum(probabilities.argmax(axis=1)[order] == labels[order])
    last = np.append(np.flatnonzero(np.diff(confidence[order])), len(labels) - 1)  # of equal confidence
    enough = last[wilson_interval(right[last], last + 1)[0] >= 1 - wrong]
    return np.append(confidence[order], 0)[enough[-1] + 1] / 1e6 if len(enough) else 1.0


def answered(labels: np.ndarray, probabilities: np.ndarray, threshold: float | None) -> Scalars:
    """The share of the images whose answers are sure, and the share of these answers that is wrong.

    Both are None without a threshold; wrong_answers is also None if no answer is sure.
    """
    scalars: Scalars = {"answered": None, "wrong_answers": None}
    if threshold is not None:
        sure = probabilities.max(axis=1) > threshold
        scalars["answered"] = sure.mean()
        if sure.any():
            scalars["wrong_answers"] = 1 - accuracy(labels[sure], probabilities[sure])
    return scalars


def confusion(counts: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """The confusion matrix as rows: each class with itself, then each mistake that occurs.

    counts: images by true and predicted class (classes, classes). share: of the images of the true class.
    Rows of a class with itself come first, so that plots show the classes in the data set's order.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    every, names = np.arange(len(classes)), np.array(classes, object)
    mistakes = np.nonzero(counts * (1 - np.eye(len(classes))))
    truth, prediction = (np.concatenate([every, of_mistakes]) for of_mistakes in mistakes)
    columns = {"truth": names[truth], "prediction": names[prediction]}
    return pd.DataFrame(columns | {"count": counts[truth, prediction], "share": shares[truth, prediction]})


def per_class(counts: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """A row for each class: precision, recall, F1 and support, its number of images. counts: see `confusion`.

    Precision is 0 for a class that is never predicted, recall is 0 for one without images; F1 is nan if both
    are the case.
    """
    right, predicted, support = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    both = predicted + support
    f1 = np.where(both > 0, 2 * right / np.maximum(both, 1), np.nan)
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(support, 1)
    columns = {"class": classes, "precision": precision, "recall": recall, "f1": f1, "support": support}
    return pd.DataFrame(columns)


Curve = tuple[np.ndarray, np.ndarray]
"""The false and the true positive rates of an ROC curve, float64 (points,)."""


def roc_curve(positive: np.ndarray, scores: np.ndarray) -> Curve | None:
    """The ROC curve of scores (n,). positive: bool (n,). None if all images are positive, or none is."""
    positives = np.count_nonzero(positive)
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    order = np.argsort(-scores)
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of equal scores
    hits = np.concatenate([[0], np.cumsum(positive[order])[last]])
    return (np.concatenate([[0], last + 1]) - hits) / negatives, hits / positives


def area_under(x: np.ndarray, y: np.ndarray) -> float:
    """The area under an ROC curve."""
    return not_quite_one(np.trapezoid(y, x).round(12))


def not_quite_one(area: float) -> float:
    """Cap an area below 1 at 0.999999, so that rounding never shows a perfect score."""
    return min(area, 0.999999) if area < 1 else area


def sampled(curves: list[Curve | None], classes: tuple[str, ...], images: int) -> pd.DataFrame:
    """The classes' ROC curves, sampled at 0 and at the RATES above 1 / `images`.

    Straight lines between the samples are off by at most one step, a twelfth of a decade (21 %), along the
    false positive rate. Points as high as both neighbours are left out.
    """
    rates = np.concatenate([[0], RATES[RATES * images > 1]])
    tables = []
    for name, curve in zip(classes, curves, strict=True):
        if curve is not None:
            y = np.interp(rates, *curve)
            kept = np.append(True, np.diff(y) > 0) | np.append(np.diff(y) > 0, True)
            columns = {"class": name, "false_positive_rate": rates[kept], "true_positive_rate": y[kept]}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables or [pd.DataFrame(columns=["class", "false_positive_rate", "true_positive_rate"])])


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """A row for each bin of confidence (the largest probability) that holds images.

    low, high: the bin's bounds, low excluded. images: their number. confidence: its mean. accuracy: the share
    that is correct, and its 95 % interval. If a model is perfectly calibrated, confidence equals accuracy.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    place = np.searchsorted(edges.astype(np.float32), confidence, side="left") - 1  # so that 0.6 is 9/15
    place = np.clip(place, 0, BINS - 1)
    images = np.bincount(place, minlength=BINS)
    kept = images > 0
    images, correct = images[kept], np.bincount(place[right], minlength=BINS)[kept]
    low, high = wilson_interval(correct, images)
    return pd.DataFrame(
        {
            "low": edges[:-1][kept],
            "high": edges[1:][kept],
            "images": images,
            "confidence": np.bincount(place, confidence, BINS)[kept] / images,
            "accuracy": correct / images,
            "accuracy_low": low,
            "accuracy_high": high,
        }
    )
