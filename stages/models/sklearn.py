"""Classifiers with scikit-learn's interface: build, predict, save, load. Models are .skops files.

A model's `library` names a module of this folder, which defines
    PACKAGE: the Python package of its classes; scikit-learn's classes are always allowed, too
    DISTRIBUTION: the installed distribution
    ERRORS: the library's own exceptions
    TRUSTED: types that its .skops files may contain
    ARGUMENTS: arguments that its classifiers accept beside those in their signatures
    DEFAULTS: arguments that differ from the library's defaults
"""

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from stages.common import dataset
from stages.console.errors import UserError, reading
from stages.models.without import without

with without("dask", "pandas", "pytest"):
    from sklearn.base import BaseEstimator, ClassifierMixin, is_classifier
with without("dask", "pytest", "torch"):
    import skops.io

PACKAGE = "sklearn"
DISTRIBUTION = "scikit-learn"
ERRORS: tuple[type[Exception], ...] = ()
TRUSTED = [
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.metrics._dist_metrics.ChebyshevDistance64",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.model_selection._split.StratifiedShuffleSplit",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
]
"""Types that `load` accepts beside those that skops trusts."""
ARGUMENTS: frozenset[str] = frozenset()
DEFAULTS: dict[str, Any] = {}


def build(estimator: str, arguments: dict[str, Any], seed: int, library: ModuleType) -> ClassifierMixin:
    """The classifier at the dotted path `estimator`, such as sklearn.linear_model.LogisticRegression.

    It gets `arguments` and, if it draws random numbers and random_state is missing or null, `seed` as its
    random_state. For pipelines, an argument may itself be {estimator: dotted path, arguments: …}.
    Raises UserError if there is no such classifier or an argument is unknown.
    """
    classifier = _construct(estimator, arguments, seed, library)
    if not is_classifier(classifier):
        raise UserError(f"{estimator} is no classifier; sklearn.linear_model.LogisticRegression is one")
    if not hasattr(classifier, "predict_proba"):
        raise UserError(f"{estimator} gives no probabilities with the arguments {arguments}")
    return classifier


def _construct(path: str, arguments: dict[str, Any], seed: int, library: ModuleType) -> Any:
    module, _, name = path.rpartition(".")
    kind = None
    if _is_in(module, PACKAGE) or _is_in(module, library.PACKAGE):
        with suppress(ModuleNotFoundError):
            kind = getattr(import_module(module), name, None)
    if not isinstance(kind, type):
        packages = " or ".join(dict.fromkeys((PACKAGE, library.PACKAGE)))
        raise UserError(
            f"{path!r} is unknown; allowed with library: {library.__name__.rpartition('.')[2]} is the dotted "
            f"path of a class in {packages}, such as sklearn.linear_model.LogisticRegression"
        )
    known = [p.name for p in signature(kind).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    more = library.ARGUMENTS if _is_in(module, library.PACKAGE) else ()
    for argument in arguments:
        if argument not in known and argument not in more:
            others = f" and {library.PACKAGE}'s own parameters" if more else ""
            raise UserError(
                f"{path} has no argument {argument!r}; allowed: {', '.join(sorted(known))}{others}"
            )
    if "random_state" in known and arguments.get("random_state") is None:
        arguments = {**arguments, "random_state": seed}
    if arguments.get("memory") is not None:
        raise UserError(f"{path}: memory would keep results where DVC does not see them; leave it out")
    if arguments.get("n_jobs") and "n_jobs" in known:
        raise UserError(f"{path}: n_jobs is what `threads` decides for all models; leave it out")
    if _is_in(module, library.PACKAGE):
        arguments = library.DEFAULTS | arguments
    arguments = {argument: _resolve(value, seed, library) for argument, value in arguments.items()}
    inner = arguments.get("estimator")
    if inner is not None and not hasattr(inner, "fit"):
        raise UserError(
            f"{path}: its estimator is {inner!r}; allowed: {{estimator: a dotted path, arguments: …}}"
        )
    try:
        return kind(**arguments)
    except TypeError as error:  # a required argument is missing
        raise UserError(f"{path}: {error}") from None


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _resolve(value: Any, seed: int, library: ModuleType) -> Any:
    """An argument for scikit-learn, in which each {estimator: …, arguments: …} is built."""
    if isinstance(value, list):
        return [_resolve(item, seed, library) for item in value]
    if isinstance(value, dict) and isinstance(value.get("estimator"), str):
        if unknown := value.keys() - {"estimator", "arguments"}:
            raise UserError(
                f"{value['estimator']}: {unknown.pop()!r} is unknown; allowed: estimator, arguments"
            )
        arguments = value.get("arguments") or {}
        if not isinstance(arguments, dict):
            raise UserError(
                f"{value['estimator']}: its arguments are {arguments!r}; allowed: {{name: value, …}}"
            )
        return _construct(value["estimator"], arguments, seed, library)
    return value


def fit(classifier: ClassifierMixin, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Fit `classifier` in place to images (n, rows, columns) and labels (n,)."""
    classifier.fit(to_rows(pixels), labels.astype(np.int64))  # some libraries use -1
    for part in _walk(classifier):
        learnt = vars(part)
        if isinstance(learnt.get("components_"), np.ndarray):
            # files store C order, and the order in memory decides the last bits
            part.components_ = np.ascontiguousarray(part.components_)
        if "cv_results_" in learnt:  # a search stores seconds, which differ between runs
            part.refit_time_ = 0.0
            for key, values in part.cv_results_.items():
                if key.endswith("_time"):
                    values[:] = 0


def needs_one_thread(classifier: ClassifierMixin) -> bool:
    """Whether `classifier` must be fitted with one thread to get the same bits in every run.

    libsvm and liblinear have one random generator, which threads would share in random order. Forests add
    their trees' predictions in the order in which threads finish, and a forest inside another classifier
    may predict during the fit.
    """
    whole, *parts = _walk(classifier)
    machines = (type(part).__module__.startswith("sklearn.svm") for part in (whole, *parts))
    forests = (type(part).__module__ == "sklearn.ensemble._forest" for part in parts)
    return any(machines) or any(forests) or "liblinear" in str(classifier.get_params())


def predict_proba(classifier: ClassifierMixin, pixels: np.ndarray, classes: int) -> np.ndarray:
    """Class probabilities, float64 (n, classes), of scaled images, float32 (n, rows, columns).

    A class without training images has probability 0. Raises UserError if the number of predicted classes
    is not that in training (some classifiers fail with a single class), or if a row does not sum to 1.
    """
    probabilities = np.zeros((len(pixels), classes))
    shown = classifier.predict_proba(to_rows(pixels))
    if shown.shape != (len(pixels), len(classifier.classes_)):
        raise UserError(
            f"it predicts {shown.shape[-1]} classes, but the training images show {len(classifier.classes_)}"
        )
    if (np.abs(shown.sum(axis=1) - 1) > 1e-4).any():
        raise UserError("its probabilities do not sum to 1; choose other arguments")
    probabilities[:, classifier.classes_] = shown
    return probabilities


def prepare(images: np.ndarray, recipe: dict[str, Any]) -> np.ndarray:
    """uint8 images (n, rows, columns) as float32 in the recipe's pixel_range and number of gray_levels.

    Trees sort the pixels at every split, which is much faster with few different values.
    """
    if levels := recipe.get("gray_levels"):
        steps = images.astype(np.uint16) * levels // 256  # 0 … levels - 1
        images = (steps * 255 // (levels - 1)).astype(np.uint8)
    return dataset.scale_pixels(images, recipe["pixel_range"])


def summarize(recipe: dict[str, Any]) -> str:
    """A short name, such as 'PCA + LogisticRegression' or 'SVC, 4 gray levels'."""
    levels = recipe.get("gray_levels")
    return _name(recipe) + (f", {levels} gray levels" if levels else "")


def _name(recipe: dict[str, Any]) -> str:
    arguments = recipe.get("arguments") or {}
    if isinstance(steps := arguments.get("steps"), list):  # of a pipeline
        return " + ".join(_name(step[1]) for step in steps if isinstance(step[1], dict))
    name = recipe["estimator"].rpartition(".")[2]
    if isinstance(inner := arguments.get("estimator"), dict):
        return f"{name} of {_name(inner)}"
    return name


def to_rows(pixels: np.ndarray) -> np.ndarray:
    """Images (n, rows, columns) as rows of pixels (n, rows · columns)."""
    return pixels.reshape(len(pixels), -1)


def parameter_count(classifier: ClassifierMixin) -> int | None:
    """The number of trained parameters: coefficients, nodes of trees, stored pixels or vectors.

    None if the classifier has none of these.
    """
    if hasattr(classifier, "booster_"):
        trees = classifier.booster_.dump_model()["tree_info"]
        return sum(2 * tree["num_leaves"] - 1 for tree in trees)
    if parts := _fitted_parts(classifier):
        counts = [parameter_count(part) for part in parts]
        return None if None in counts else sum(counts)
    if hasattr(classifier, "tree_"):
        return classifier.tree_.node_count
    learnt = getattr(classifier, "__dict__", {})  # a step of a pipeline may be a string
    arrays = [learnt[name] for name in LEARNT if name in learnt]
    return sum(np.size(array) for array in arrays) or None


def _fitted_parts(estimator: BaseEstimator) -> list[BaseEstimator]:
    """The fitted estimators directly inside a pipeline, calibration, ensemble or search."""
    steps = [step for _, step in getattr(estimator, "steps", [])]
    calibrated = [part.estimator for part in getattr(estimator, "calibrated_classifiers_", [])]
    ensemble = getattr(estimator, "estimators_", [])
    if isinstance(ensemble, np.ndarray):  # (rounds of boosting, classes)
        ensemble = ensemble.ravel()
    others = [vars(estimator)[name] for name in LAST if name in getattr(estimator, "__dict__", {})]
    return steps or calibrated or [*ensemble, *others]


def _walk(thing: Any) -> Iterator[BaseEstimator]:
    """All estimators in an estimator or in nested collections, the outermost first."""
    if isinstance(thing, BaseEstimator):
        yield thing
        thing = vars(thing)
    elif type(thing).__name__ == "_CalibratedClassifier":
        thing = vars(thing)
    if isinstance(thing, dict):
        thing = list(thing.values())
    if isinstance(thing, list | tuple) or (isinstance(thing, np.ndarray) and thing.dtype == object):
        for part in thing:
            yield from _walk(part)


LEARNT = (
    "coef_",  # linear models
    "intercept_",
    "components_",  # principal components
    "mean_",
    "support_vectors_",  # support vector machines
    "dual_coef_",
    "images_",  # neighbours
)
"""Attributes with the trained parameters of scikit-learn's classifiers."""

LAST = ("final_estimator_", "best_estimator_")
"""Attributes with the estimator that makes the prediction in stacks and searches."""


def dumps(classifier: ClassifierMixin, library: ModuleType) -> bytes:
    """The fitted classifier as a .skops file; equal classifiers give equal bytes.

    Raises UserError if `load` would refuse it.
    """
    content = skops.io.dumps(classifier)
    if unknown := set(skops.io.get_untrusted_types(data=content)) - {*TRUSTED, *library.TRUSTED}:
        raise UserError(
            f"it would be saved with {', '.join(sorted(unknown))}, which nothing loads again without "
            "running code: choose other arguments or another classifier"
        )
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(result, "w") as target:
        schema = json.loads(source.read("schema.json"))
        numbers: dict[int, int] = {}
        arrays: dict[str, str] = {}
        _renumber(schema, numbers, arrays)
        for old, new in arrays.items():
            _write(target, new, source.read(old))
        _write(target, "schema.json", json.dumps(schema))
    return result.getvalue()


def _renumber(node: Any, numbers: dict[int, int], arrays: dict[str, str]) -> None:
    """Number the objects of a skops schema in order of appearance, in place.

    skops names them by their address in memory, which differs between runs.
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


def load(path: Path, library: ModuleType, remedy: str = "dvc repro") -> ClassifierMixin:
    """The classifier of a .skops file. remedy: the command that recreates the file.

    Raises UserError, naming the file, if it is damaged or contains types other than those of scikit-learn
    and `library`. No code of such types is run.
    """
    with reading(path, "is no .skops file of a classifier", Exception, remedy=remedy):
        classifier = skops.io.load(path, trusted=[*TRUSTED, *library.TRUSTED])
    if not (isinstance(classifier, BaseEstimator) and is_classifier(classifier)):
        raise UserError(f"{path} holds {type(classifier).__name__}, not a classifier")
    return classifier
