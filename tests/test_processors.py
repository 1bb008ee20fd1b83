"""The profile `portable` on emulated processors: same weights, same predictions, to the bit."""

import os
import platform
import shutil

import numpy as np
import pytest
from conftest import NETWORKS, ROOT, edit_params, timed, tiny_arrays, tiny_params, write_data

from stages.common import environment, params
from stages.console.errors import UserError
from tools import processors, projects

MODELS = {
    "pytorch": ["mlp", "cnn_sgd", "cnn_dropout"],
    "tensorflow": ["sprint", "cnn"],
    "scratch": ["mlp_sigmoid", "mlp_relu"],
    "sklearn": ["logistic_regression", "knn_3", "random_forest"],
}

pytestmark = pytest.mark.xdist_group("processors")
emulation = pytest.mark.skipif(
    shutil.which(processors.EMULATOR) is None or platform.machine() != "x86_64",
    reason=f"needs an x86-64 Linux with {processors.EMULATOR}, of Debian's package qemu-user",
)


def laid_out(folder, idx_folder):
    """A project with MODELS in `portable`, and few images."""
    content = tiny_params(idx_folder) | {"profile": "portable"}
    content["device"] = dict.fromkeys(content["device"], "cpu")
    content |= {
        framework: {name: content[framework][name] for name in names} for framework, names in MODELS.items()
    }
    write_data(folder, tiny_arrays(train=160, test=40))
    return processors.lay_out(folder / "project", content, folder / "data")


@pytest.fixture(scope="module")
def native(tmp_path_factory, idx_folder):
    """A project in which the models have been trained on the processor that is here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        project = laid_out(tmp_path_factory.mktemp("native"), idx_folder)
    for framework in MODELS:
        processors.train(project, framework)
    return project


@emulation
@pytest.mark.slow
@pytest.mark.parametrize("framework", MODELS)
@pytest.mark.parametrize("processor", [processor for _, processor in processors.EMULATED.values()])
def test_portable_models_are_the_same_bits_on_another_processor(
    native, workspace, tmp_path_factory, idx_folder, processor, framework
):
    project = laid_out(tmp_path_factory.mktemp("emulated"), idx_folder)
    processors.train(project, framework, processor)
    found = {
        name: processors.difference(native, project, f"{framework}/{name}") for name in MODELS[framework]
    }
    assert found == dict.fromkeys(MODELS[framework], "identical")


@pytest.mark.slow
def test_all_models_of_a_framework_are_trained_in_one_process(native):
    assert {path.name for path in (native / "outputs" / "models").iterdir()} == set(MODELS)
    for framework, names in MODELS.items():
        for name in names:
            weights, predictions = processors.trained(native, f"{framework}/{name}")
            assert (weights.suffix == ".safetensors") == (framework in NETWORKS)
            assert np.load(predictions).shape == (40, 10)


def test_portable_pins_what_fast_leaves_to_the_libraries_and_is_refused_where_it_cannot(
    workspace, monkeypatch
):
    for profile, pinned in (("fast", False), ("portable", True)):
        edit_params(workspace, "profile", profile)
        monkeypatch.setattr(os, "environ", {})
        environment._set_variables()
        assert (os.environ | environment.PORTABLE == os.environ) == pinned
        assert os.environ["OMP_NUM_THREADS"] == str(params.read("threads", int))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(UserError, match=r"profile is 'portable', .* an x86-64 .* allowed here: fast"):
        environment._set_variables()


def test_an_emulator_that_crashes_is_refused(workspace, monkeypatch, run_main):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(processors, "emulator_version", lambda: "7.2")
    monkeypatch.setattr(processors, "compare_processors", lambda *_: pytest.fail("it was used"))
    with pytest.raises(UserError, match=r"QEMU 7\.2 crashes on some models: install 10 or later"):
        run_main(processors)


def test_only_the_chosen_models_are_tried_for_one_epoch_on_the_processor(workspace):
    chosen = ["scratch/cnn", "sklearn/knn_3"]
    edit_params(workspace, "scratch.cnn.epochs", 5)
    content = processors.short_epoch(chosen, "portable")
    assert processors.frameworks_of(content) == ["scratch", "sklearn"]
    assert projects.models(content) == chosen
    assert content["scratch"]["cnn"]["epochs"] == 1
    assert "epochs" not in content["sklearn"]["knn_3"]
    assert (content["profile"], set(content["device"].values())) == ("portable", {"cpu"})


def test_the_cost_of_a_profile_is_the_median_of_pairs_of_runs(workspace, monkeypatch):
    seconds = iter([2.0, 1.0, 6.0, 2.0, 4.0, 4.0])  # portable, fast, portable, …

    def train(project, framework):
        path = project / "outputs/timings/scratch/cnn.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(timed(next(seconds) - 0.5, 0.5).model_dump_json())

    monkeypatch.setattr(processors, "train", train)
    monkeypatch.setattr(processors, "REPEATS", 3)
    monkeypatch.setattr(processors, "TIMED_IMAGES", 90)
    found = processors.compare_profiles(workspace / "timed", ["scratch/cnn"])
    assert found == {"scratch/cnn": {"cost": 2.0, "cost_low": 1.0, "cost_high": 3.0, "fast_seconds": 2.0}}


@pytest.mark.parametrize(
    ("weight", "probability", "told"), [(1, 0.5, "identical"), (1, 0.75, "2e-01"), (2, 0.5, "0e+00")]
)
def test_a_difference_is_found_and_changes_the_fingerprint(tmp_path, weight, probability, told):
    for name, values in (("here", (1, 0.5)), ("there", (weight, probability))):
        files = "models/scratch/mlp/weights.npy", "predictions/scratch/mlp.npy"
        for file, value in zip(files, values, strict=True):
            path = tmp_path / name / "outputs" / file
            path.parent.mkdir(parents=True)
            np.save(path, np.full(3, value))
    here, there = tmp_path / "here", tmp_path / "there"
    assert processors.difference(here, there, "scratch/mlp") == told
    fingerprints = {processors.fingerprint(project, "scratch/mlp") for project in (here, there)}
    assert len(fingerprints) == (1 if told == "identical" else 2)
