"""Classifiers of scikit-learn: build, predict, save, load. Models are .skops files."""

import io
import json
import zipfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from stages.common.command import UserError
from stages.common.dataset import CLASSES
from stages.common.environment import without
from stages.models import neighbors

with without("torch"):  # skops walks through all of scikit-learn, a corner of which imports it
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

TRUSTED = ["sklearn.tree._tree.Tree", f"{neighbors.__name__}.ExactNeighbors"]
"""What `load` accepts beside the types that skops itself knows to be harmless."""


def build(estimator: str, arguments: dict[str, Any], seed: int) -> ClassifierMixin:
    """The classifier at the dotted path `estimator`, such as sklearn.linear_model.LogisticRegression.

    It gets `arguments` and, if it draws random numbers, `seed` as its random_state.
    Raises UserError if there is no such classifier or it does not know an argument.
    """
    kind = _find(estimator)
    known = sorted(kind._get_param_names())
    for name in arguments:
        if name not in known:
            raise UserError(f"{estimator} has no argument {name!r}; allowed: {', '.join(known)}")
    if "random_state" in known:
        arguments = {"random_state": seed, **arguments}
    classifier = kind(**arguments)
    if not hasattr(classifier, "predict_proba"):
        raise UserError(f"{estimator} gives no probabilities with the arguments {arguments}")
    return classifier


def _find(estimator: str) -> type[BaseEstimator]:
    module, _, name = estimator.rpartition(".")
    kind = None
    if module.startswith("sklearn.") or module == neighbors.__name__:
        with suppress(ModuleNotFoundError):
            kind = getattr(import_module(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, ClassifierMixin)):
        raise UserError(
            f"{estimator!r} is no classifier; allowed: the dotted path of one in scikit-learn, such as "
            f"sklearn.linear_model.LogisticRegression, or {neighbors.__name__}.ExactNeighbors"
        )
    return kind


def predict_proba(classifier: ClassifierMixin, pixels: np.ndarray) -> np.ndarray:
    """Class probabilities, float64 (n, 10), of scaled images, float32 (n, 28, 28).

    A class that no training image showed has probability 0.
    """
    probabilities = np.zeros((len(pixels), CLASSES))
    probabilities[:, classifier.classes_] = classifier.predict_proba(to_rows(pixels))
    return probabilities


def to_rows(pixels: np.ndarray) -> np.ndarray:
    """Images (n, 28, 28) as rows (n, 784)."""
    return pixels.reshape(len(pixels), -1)


def parameter_count(classifier: ClassifierMixin) -> int | None:
    """How many numbers the training set: coefficients, the nodes of trees, or the stored pixels.

    None for a kind of classifier that has none of these.
    """
    if hasattr(classifier, "coef_"):
        return classifier.coef_.size + classifier.intercept_.size
    if hasattr(classifier, "images_"):
        return classifier.images_.size
    trees = getattr(classifier, "estimators_", [classifier])
    if all(hasattr(tree, "tree_") for tree in trees):
        return sum(tree.tree_.node_count for tree in trees)
    return None


def save(classifier: ClassifierMixin, path: Path) -> None:
    """Write the fitted classifier to `path` (.skops); equal classifiers give equal bytes."""
    with (
        zipfile.ZipFile(io.BytesIO(skops.io.dumps(classifier))) as source,
        zipfile.ZipFile(path, "w") as target,
    ):
        schema = json.loads(source.read("schema.json"))
        numbers: dict[int, int] = {}
        arrays: dict[str, str] = {}
        _renumber(schema, numbers, arrays)
        for old, new in arrays.items():
            _write(target, new, source.read(old))
        _write(target, "schema.json", json.dumps(schema))


def _renumber(node: Any, numbers: dict[int, int], arrays: dict[str, str]) -> None:
    """Name the objects of a skops schema in the order of their appearance.

    skops names them after their address in memory, which differs from run to run.
    """
    if isinstance(node, list):
        for child in node:
            _renumber(child, numbers, arrays)
    elif isinstance(node, dict):
        if "__id__" in node:
            node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
        if "file" in node:
            node["file"] = arrays.setdefault(node["file"], f"{len(arrays)}.npy")
        for child in node.values():
            _renumber(child, numbers, arrays)


def _write(archive: zipfile.ZipFile, name: str, content: str | bytes) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980-01-01 00:00
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=1)


def load(path: Path) -> ClassifierMixin:
    """The classifier that `save` wrote.

    Raises UserError, naming the file, if it is damaged or wants anything but scikit-learn's
    classes, which is never executed.
    """
    try:
        classifier = skops.io.load(path, trusted=TRUSTED)
    except (UntrustedTypesFoundException, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no .skops file of a classifier: {' '.join(str(error).split())}") from None
    if not isinstance(classifier, ClassifierMixin):
        raise UserError(f"{path} holds {type(classifier).__name__}, not a classifier")
    return classifier
