"""Every model of params.yaml, trained on tiny data by the real stages."""

import json
import platform
import sys
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from conftest import MODELS, NETWORKS, left, load_architectures, load_params, python, read_csv

from stages.common import dataset, environment, params, results, saved, training
from stages.console import machine
from stages.models import sklearn

EVERY = [(framework, model) for framework in MODELS for model in MODELS[framework]]


def load(described: results.Description):
    """The prediction of a trained model, uint8 images to probabilities, from its folder alone."""
    framework, model, recipe = described.framework, described.name, described.recipe
    if framework not in NETWORKS:
        library = import_module(f"stages.models.{recipe['library']}")
        classifier = sklearn.load(results.folder(framework, model) / "classifier.skops", library)
        classes = len(described.classes)
        return lambda images: sklearn.predict_proba(classifier, sklearn.prepare(images, recipe), classes)
    library, network = import_module(f"stages.models.{framework}"), saved.load(framework, model)
    predict_proba = partial(library.predict_proba, library.load(network.architecture, network.weights))
    return training.predictor(predict_proba, recipe, described.ground)


@pytest.mark.parametrize(("framework", "model"), EVERY)
def test_a_model_learns_repeats_and_comes_back_from_its_folder_alone(run_stage, framework, model):
    entry, is_network = f"{framework}.{model}", framework in NETWORKS
    changes = {"epochs": 3} if is_network else {"validation": "3/400"}
    run_stage(f"train_{framework}", model, **{f"{entry}.{key}": value for key, value in changes.items()})
    recipe, held_out = params.read(entry, dict), 40 if is_network else 3
    data, (images, labels) = dataset.load_training(held_out), dataset.load_test()
    probabilities, of_held_out = (
        results.load_probabilities(where(framework, model), len(shown), 10)
        for where, shown in ((results.predictions, images), (results.validation, data.validation_images))
    )
    assert np.mean(probabilities.argmax(axis=1) == labels) > 0.15, "by chance one in ten is right"
    first = left(framework, model)
    run_stage(f"train_{framework}", model)
    assert left(framework, model) == first, "the same seed gives other bytes"
    assert not list(results.OUTPUTS.rglob("*.partial*"))
    if is_network:
        has_learned(results.folder(framework, model))

    edited = {"pixel_range": [0, 9], "gray_levels": 2, "prediction_shift": 2}
    Path("params.yaml").write_text(json.dumps({framework: {model: edited}}))
    Path("architectures.yaml").unlink()
    params.content.cache_clear()
    described = results.load_description(framework, model)
    predict = load(described)
    for shown, expected in ((images, probabilities), (data.validation_images, of_held_out)):
        np.testing.assert_array_equal(predict(shown).astype(np.float32), expected)

    description = described.model_dump()
    assert description.pop("parameters") > 0
    assert (description.pop("layers") is None) == (not is_network)
    assert description == {
        "framework": framework,
        "name": model,
        "recipe": recipe,
        "architecture": load_architectures()[recipe["architecture"]] if is_network else None,
        "summary": recipe["architecture"] if is_network else sklearn.summarize(recipe),
        "classes": tuple("0123456789"),
        "image_size": (28, 28),
        "ground": 0,
        "training_images": 400 - held_out,
        "validation_images": held_out,
    }


def has_learned(folder: Path) -> None:
    """Assert that the losses of three epochs are all there, belong together and fall."""
    history, losses = read_csv(folder / "history.csv"), read_csv(folder / "losses.csv")
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    assert [int(row["step"]) for row in losses] == list(range(1, 3 * 18 + 1)), "360 images in batches of 20"
    of_epochs = np.array([float(row["loss"]) for row in losses]).reshape(3, 18)
    for row, of_epoch in zip(history, of_epochs, strict=True):
        assert of_epoch.mean() == pytest.approx(float(row["train_loss"]), rel=1e-4)
    for column in ("train_loss", "validation_loss"):
        first, *later = (float(row[column]) for row in history)
        assert min(later) < first
    for column in ("train_accuracy", "validation_accuracy"):
        assert all(0 <= float(row[column]) <= 1 for row in history)


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("pytorch/cnn_dropout", "torch numpy"),
        ("tensorflow/cnn", "tensorflow keras numpy"),
        ("scratch/mlp_relu", "numpy"),
        ("sklearn/random_forest", "scikit-learn numpy scipy"),
        ("sklearn/boosted_trees", "scikit-learn lightgbm numpy scipy"),
    ],
)
def test_another_seed_gives_another_model_and_the_timings_say_where_it_was_trained(run_stage, name, packages):
    framework, model = name.split("/")
    found = []
    for seed in (0, 1):
        devices = {"pytorch": "cpu", "tensorflow": "cpu"}
        run_stage(f"train_{framework}", model, seed=seed, device=devices)
        found.append(results.predictions(framework, model).read_bytes())
    assert found[0] != found[1]
    timings = results.load_timings(framework, model).model_dump()
    assert timings.pop("training_seconds") > 0 <= timings.pop("prediction_seconds")
    assert timings.pop("side_by_side") >= 1
    assert 0 < timings.pop("peak_mebibytes") <= machine.peak_mebibytes()
    assert timings == {
        "device": "cpu",
        "precision": "bfloat16"
        if model.startswith("cnn") and environment.multiplies_bfloat16()
        else "float32",
        "processor": machine.processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": load_params()["threads"],
        "packages": {name: version(name) for name in packages.split()},
    }


def test_the_stages_that_run_on_the_machine_are_counted(monkeypatch):
    train = [sys.executable, "-m", "stages.train_scratch", "mlp_relu"]
    others = [["sh", "-c", " ".join(train)], [sys.executable, "-m", "pytest"], ["-m"], None]
    processes = [SimpleNamespace(info={"cmdline": words}) for words in (train, train, *others)]
    monkeypatch.setattr(psutil, "process_iter", lambda attributes: processes)
    assert machine.stages_at_once() == 2


def test_the_memory_of_a_process_is_its_peak_and_not_that_of_the_process_that_started_it():
    held = np.ones(2**25)  # 256 MiB
    found = python(
        "from stages.console import machine; import numpy as np\n"
        "before = machine.peak_mebibytes(); np.ones(2**24); print(before, machine.peak_mebibytes())"
    )
    before, after = map(int, found.split())
    assert before < 200 < held.nbytes / 2**20
    assert 120 < after - before < 180, "128 MiB, although they are freed"
