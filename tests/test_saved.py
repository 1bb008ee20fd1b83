"""Files of trained models that are damaged, hostile or of another model: one line, nothing is executed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skops.io
from conftest import Hostile, edit_json
from safetensors.numpy import load_file, save_file

from stages.common import results, saved
from stages.console.errors import UserError
from stages.models import sklearn

FOLDER = results.folder("scratch", "mlp_relu")
MODEL, WEIGHTS = FOLDER / "model.json", FOLDER / "weights.safetensors"
REMEDY = "`dvc repro --force train_scratch@mlp_relu` makes it"
OTHER = "does not hold this architecture's weights: "
NO_MODEL, NO_NETWORK = "does not describe a model: ", "does not describe a network: "


@pytest.mark.parametrize(
    ("path", "change", "complaint"),
    [
        (WEIGHTS, {"2.dense.biases": None}, rf"{OTHER}2\.dense\.biases is missing; "),
        (WEIGHTS, {"3.dense.biases": np.zeros(1)}, rf"{OTHER}3\.dense\.biases is of no layer; "),
        *(
            (WEIGHTS, {"2.dense.biases": array}, rf"{OTHER}.* is {found},\), not float32 \(10,\); ")
            for array, found in (
                (np.zeros(9, "f4"), r"float32 \(9"),
                (np.zeros(10), r"float64 \(10"),
                (np.zeros(10, "i4"), r"int32 \(10"),
            )
        ),
        (WEIGHTS, b"", OTHER),
        (WEIGHTS, b"no weights", OTHER),
        (WEIGHTS, b"\xff" * 100, OTHER),
        (MODEL, b"{", NO_MODEL),
        (MODEL, {"architecture": [{"dense": 12}]}, f"{NO_NETWORK}the last layer"),
        (MODEL, {"architecture": ["rleu", {"dense": "classes"}]}, f"{NO_NETWORK}.*unknown layer"),
        (MODEL, {"architecture": [{"dense": 13}, {"dense": "classes"}]}, f"{OTHER}0.dense.weights is fl"),
        (MODEL, {"classes": ["a", 7]}, rf"{NO_MODEL}classes\.1 is "),
        (MODEL, {"image_size": [28, 2000]}, rf"{NO_MODEL}image_size\.1 is "),
        (MODEL, {"colour": "red"}, f"{NO_MODEL}colour is unknown; allowed: "),
    ],
)
def test_a_file_of_another_model_or_of_none_is_named_with_its_remedy(trained, path, change, complaint):
    saved.load("scratch", "mlp_relu")
    if isinstance(change, bytes):
        path.write_bytes(change)
    elif path == MODEL:
        edit_json(MODEL, **change)
    else:
        arrays = load_file(WEIGHTS) | change
        save_file({name: array for name, array in arrays.items() if array is not None}, WEIGHTS)
    with pytest.raises(UserError, match=rf"^{FOLDER}/\S+ [^\n]*{complaint}[^\n]*{REMEDY} anew$"):
        saved.load("scratch", "mlp_relu")
    path.unlink()
    with pytest.raises(UserError, match=f"^{path} is missing: {REMEDY}$"):
        saved.load("scratch", "mlp_relu")


def test_a_classifier_is_no_network(trained):
    with pytest.raises(UserError, match=r"^outputs/models/sklearn/knn_3 is KNeighborsClassifier, not a n"):
        saved.load("sklearn", "knn_3")


def damage(path: Path, load: Callable[[], object]) -> int:
    """Load a file 200 times, each time with a few other bytes or cut short; how often it is refused."""
    good, generator, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(200):
        content = bytearray(good)
        for place in generator.integers(0, min(len(good), 2000), generator.integers(1, 4)):
            content[place] = generator.integers(256)
        path.write_bytes(content[: len(good) if generator.random() < 0.8 else generator.integers(len(good))])
        try:
            load()
        except UserError as error:
            assert str(error).startswith(str(path.parent))
            assert "\n" not in str(error)
            refused += 1
    path.write_bytes(good)
    return refused


def test_damaged_files_are_read_or_refused_but_nothing_else_happens(trained, tmp_path):
    for path in (MODEL, WEIGHTS):
        assert damage(path, lambda: saved.load("scratch", "mlp_relu")) > 50
    classifier = sklearn.build("sklearn.linear_model.LogisticRegression", {}, 0, sklearn)
    classifier.fit(np.eye(10, dtype=np.float32), np.arange(10))
    (path := tmp_path / "classifier.skops").write_bytes(sklearn.dumps(classifier, sklearn))
    assert damage(path, lambda: sklearn.load(path, sklearn)) > 50


def test_a_skops_file_that_wants_other_code_is_refused(tmp_path):
    for content in (Hostile(), {"a": 1}):
        skops.io.dump(content, tmp_path / "a.skops")
        with pytest.raises(UserError, match=r"a\.skops"):
            sklearn.load(tmp_path / "a.skops", sklearn)
