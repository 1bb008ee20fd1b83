"""scikit-learn's classifiers as ONNX graphs: common code, pipelines, linear models, support vector machines.

Each kind of estimator has its own builder, registered for its class; trees.py and neighbors.py add theirs.
Builders take and return names of outputs in the graph. skl2onnx is not used: it cannot convert calibration by
temperature, it needs 75 s and 224 MB for a forest for which trees.py needs 2 s and 30 MB, and it supports new
versions of scikit-learn late.
"""

from functools import singledispatch
from itertools import combinations
from typing import Any

import numpy as np
from onnx import TensorProto
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from stages.exporters.graph import GRAY_LEVELS, Graph, look_up, whole
from stages.models import sklearn


def build(
    graph: Graph, images: str, classifier: ClassifierMixin, recipe: dict[str, Any], classes: int
) -> str:
    """Add a fitted classifier, with its scaling; return its probabilities, float32 (n, classes).

    A class without training images has probability 0. Raises NotImplementedError for an estimator without a
    builder.
    """
    rows = graph.add("Flatten", look_up(graph, images, sklearn.prepare(GRAY_LEVELS, recipe)))
    shown = probabilities(classifier, graph, rows)
    if len(classifier.classes_) == classes:
        return shown
    return graph.add("MatMul", shown, np.eye(classes, dtype=np.float32)[classifier.classes_])


@singledispatch
def probabilities(classifier: object, graph: Graph, rows: str) -> str:
    """Probabilities, float32 (n, classes), of rows of scaled pixels, float32 (n, pixels)."""
    raise NotImplementedError(f"{type(classifier).__name__} has no builder")


@singledispatch
def scores(classifier: object, graph: Graph, rows: str) -> str:
    """A classifier's decision function, float64 (n, classes), of rows, float32 (n, values)."""
    raise NotImplementedError(f"the scores of {type(classifier).__name__} have no builder")


@singledispatch
def transform(step: object, graph: Graph, rows: str) -> str:
    """The output of a pipeline's step, other than the classifier, for rows, float32 (n, values)."""
    raise NotImplementedError(f"the step {type(step).__name__} has no builder")


@transform.register
def _(step: PCA, graph: Graph, rows: str) -> str:
    components, mean = step.components_, step.mean_ @ step.components_.T
    if step.whiten:
        deviation = np.sqrt(step.explained_variance_)
        deviation = np.maximum(deviation, np.finfo(deviation.dtype).eps)
        components, mean = components / deviation[:, np.newaxis], mean / deviation
    return affine(graph, rows, components, -mean)


@probabilities.register
def _(classifier: Pipeline, graph: Graph, rows: str) -> str:
    return probabilities(classifier[-1], graph, transformed(classifier, graph, rows))


@scores.register
def _(classifier: Pipeline, graph: Graph, rows: str) -> str:
    return scores(classifier[-1], graph, transformed(classifier, graph, rows))


def transformed(classifier: Pipeline, graph: Graph, rows: str) -> str:
    """The input of a pipeline's last step."""
    for _, step in classifier.steps[:-1]:
        rows = transform(step, graph, rows)
    return rows


@probabilities.register
def _(classifier: LogisticRegression, graph: Graph, rows: str) -> str:
    if len(classifier.classes_) > 2 and classifier.solver == "liblinear":
        raise NotImplementedError("LogisticRegression with the solver liblinear has no builder")
    coefficients, intercepts = classifier.coef_, classifier.intercept_
    if len(coefficients) == 1:  # the second of two classes against the first
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.append(np.zeros_like(intercepts), intercepts)
    return graph.add("Softmax", affine(graph, rows, coefficients, intercepts), axis=1)


@probabilities.register
def _(classifier: CalibratedClassifierCV, graph: Graph, rows: str) -> str:
    if classifier.method != "temperature":
        raise NotImplementedError(f"a calibration by {classifier.method} has no builder")
    opinions = []
    for fold in classifier.calibrated_classifiers_:
        beta = np.array(fold.calibrators[0].beta_, np.float64)
        logits = graph.add("Mul", scores(fold.estimator, graph, rows), beta)
        opinions.append(graph.add("Cast", graph.add("Softmax", logits, axis=1), to=TensorProto.FLOAT))
    return graph.add("Mean", *opinions)


@scores.register
def _(classifier: SVC, graph: Graph, rows: str) -> str:
    """As in scikit-learn, each pair of classes votes for one of the two; sums of their decisions break ties.

    Computed in float64, as libsvm does, because a tiny difference can decide a whole vote.
    """
    if classifier.kernel != "rbf" or classifier.decision_function_shape != "ovr":
        raise NotImplementedError(f"SVC with the kernel {classifier.kernel} has no builder")
    classes = len(classifier.classes_)
    vectors = classifier.support_vectors_.astype(np.float64)
    points = graph.add("Cast", rows, to=TensorProto.DOUBLE)
    norms = graph.add("ReduceSumSquare", points, whole(1))
    products = graph.add("MatMul", points, -2 * vectors.T)
    squares = graph.add("Add", graph.add("Add", products, np.einsum("nd,nd->n", vectors, vectors)), norms)
    kernel = graph.add("Exp", graph.add("Mul", squares, np.array(-classifier._gamma)))
    if classes == 2:
        decided = affine(graph, kernel, classifier.dual_coef_, classifier.intercept_)
        return graph.add("MatMul", decided, np.array([[-1.0, 1.0]]))
    pairs = list(combinations(range(classes), 2))
    weights = np.zeros((len(pairs), len(vectors)))
    ends = np.cumsum(classifier.n_support_)
    parts = [slice(end - size, end) for end, size in zip(ends, classifier.n_support_, strict=True)]
    first, second = np.zeros((2, len(pairs), classes))
    for place, (i, j) in enumerate(pairs):
        weights[place, parts[i]] = classifier.dual_coef_[j - 1, parts[i]]
        weights[place, parts[j]] = classifier.dual_coef_[i, parts[j]]
        first[place, i] = second[place, j] = 1
    decided = affine(graph, kernel, weights, classifier.intercept_)
    against = graph.add("Cast", graph.add("Less", decided, np.array(0.0)), to=TensorProto.DOUBLE)
    votes = affine(graph, against, (second - first).T, first.sum(axis=0))
    sums = graph.add("MatMul", decided, first - second)
    bounds = graph.add("Mul", graph.add("Add", graph.add("Abs", sums), np.array(1.0)), np.array(3.0))
    return graph.add("Add", votes, graph.add("Div", sums, bounds))


def affine(graph: Graph, rows: str, weights: np.ndarray, shifts: np.ndarray) -> str:
    """rows · weightsᵀ + shifts."""
    return graph.add("Gemm", rows, weights, shifts, transB=1)
