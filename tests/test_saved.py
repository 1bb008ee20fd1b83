"""Files of trained models that are damaged, hostile or of another model: one line, nothing is executed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skops.io
from safetensors.numpy import save_file

from stages.common import results, saved
from stages.console.errors import UserError
from stages.models import sklearn

FOLDER = results.folder("scratch", "mlp_relu")
WEIGHTS = FOLDER / "weights.safetensors"
REFUSED = rf"^{WEIGHTS} does not hold this architecture's weights: "
REMEDY = "`dvc repro --force train_scratch@mlp_relu` makes it"


@pytest.mark.parametrize(
    ("name", "array", "complaint"),
    [
        ("2.dense.biases", None, r"2\.dense\.biases is missing"),
        ("3.dense.biases", np.zeros(10, np.float32), r"3\.dense\.biases is of no layer"),
        (
            "2.dense.biases",
            np.zeros(9, np.float32),
            r"2\.dense\.biases is float32 \(9,\), not float32 \(10,\)",
        ),
        ("2.dense.biases", np.zeros(10), r"2\.dense\.biases is float64 \(10,\), not float32 \(10,\)"),
        ("2.dense.biases", np.zeros(10, np.int32), r"2\.dense\.biases is int32 \(10,\), not float32 \(10,\)"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(trained, name, array, complaint):
    weights = saved.load("scratch", "mlp_relu").weights
    save_file({key: value for key, value in (weights | {name: array}).items() if value is not None}, WEIGHTS)
    with pytest.raises(UserError, match=f"{REFUSED}{complaint}; {REMEDY} anew$"):
        saved.load("scratch", "mlp_relu")


@pytest.mark.parametrize("content", [b"", b"no weights", b"\xff" * 100, b"PK\x03\x04"])
def test_what_holds_no_weights_is_refused_by_name(trained, content):
    WEIGHTS.write_bytes(content)
    with pytest.raises(UserError, match=rf"{REFUSED}[^\n]*{REMEDY} anew$"):
        saved.load("scratch", "mlp_relu")
    WEIGHTS.unlink()
    with pytest.raises(UserError, match=rf"^{WEIGHTS} is missing: {REMEDY}$"):
        saved.load("scratch", "mlp_relu")


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("architecture", [{"dense": 12}], "does not describe a network: the last layer"),
        ("architecture", ["rleu", {"dense": "classes"}], "does not describe a network: .*unknown layer"),
        (
            "architecture",
            [{"dense": 13}, "relu", {"dense": "classes"}],
            r"weights: 0\.dense\.weights is float32",
        ),
        ("classes", ["a", 7], r"does not describe a model: classes\.1: "),
        ("image_size", [28, 2000], r"does not describe a model: image_size\.1: "),
        ("colour", "red", "does not describe a model: colour: Extra inputs"),
    ],
)
def test_a_description_that_cannot_be_is_refused_by_name(trained, key, value, complaint):
    path = FOLDER / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=rf"^{FOLDER}/[^\n]*{complaint}[^\n]*{REMEDY} anew$"):
        saved.load("scratch", "mlp_relu")


def test_a_classifier_is_no_network(trained):
    with pytest.raises(
        UserError, match=r"^outputs/models/sklearn/knn_3 is KNeighborsClassifier, not a network$"
    ):
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
    return refused


def test_damaged_files_are_read_or_refused_but_nothing_else_happens(trained, tmp_path):
    for name in ("model.json", "weights.safetensors"):
        good = (FOLDER / name).read_bytes()
        assert damage(FOLDER / name, lambda: saved.load("scratch", "mlp_relu")) > 50
        (FOLDER / name).write_bytes(good)
    classifier = sklearn.build("sklearn.linear_model.LogisticRegression", {}, 0, sklearn)
    classifier.fit(np.eye(10, dtype=np.float32), np.arange(10))
    (path := tmp_path / "classifier.skops").write_bytes(sklearn.dumps(classifier, sklearn))
    assert damage(path, lambda: sklearn.load(path, sklearn)) > 50


def test_a_skops_file_that_wants_other_code_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path / "executed").mkdir, ()

    for content in (Hostile(), {"a": 1}):
        skops.io.dump(content, tmp_path / "a.skops")
        with pytest.raises(UserError, match=r"a\.skops"):
            sklearn.load(tmp_path / "a.skops", sklearn)
    assert not (tmp_path / "executed").exists()
