"""The profile `portable` on emulated processors: same weights, same predictions, to the bit."""

import os
import platform
import shutil
import sys

import pytest
from conftest import ROOT, load_params, tiny_arrays, tiny_params

from stages.common import environment, params
from stages.common.command import UserError
from tools import processors

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


def portable_params(folder) -> dict:
    content = {**tiny_params(folder), "profile": "portable", "device": "cpu"}
    for framework, names in MODELS.items():
        content[framework] = {name: content[framework][name] for name in names}
    return content


@pytest.fixture(scope="module")
def native(tmp_path_factory, idx_folder):
    """A project in which the models have been trained on the processor that is here."""
    folder = tmp_path_factory.mktemp("native")
    project = processors.lay_out(folder, portable_params(idx_folder), tiny_arrays(train=160, test=40))
    for framework in MODELS:
        processors.train(project, framework)
    return project


@emulation
@pytest.mark.slow
@pytest.mark.parametrize("framework", MODELS)
@pytest.mark.parametrize("processor", processors.EMULATED.values())
def test_portable_models_are_the_same_bits_on_another_processor(
    native, tmp_path, idx_folder, processor, framework
):
    project = processors.lay_out(tmp_path, portable_params(idx_folder), tiny_arrays(train=160, test=40))
    processors.train(project, framework, processor)
    found = {
        name: processors.difference(native, project, f"{framework}/{name}") for name in MODELS[framework]
    }
    assert found == dict.fromkeys(MODELS[framework], "identical")


def test_portable_pins_what_fast_leaves_to_the_libraries(workspace, monkeypatch):
    for profile, pinned in (("fast", False), ("portable", True)):
        processors.lay_out(workspace, {**load_params(), "profile": profile}, {})
        params._file.cache_clear()
        monkeypatch.setattr(os, "environ", {})
        environment._set_variables()
        assert ({**os.environ, **environment.PORTABLE} == os.environ) == pinned
        assert os.environ["OMP_NUM_THREADS"] == str(load_params()["threads"])


def test_portable_is_refused_where_it_cannot_be_had(workspace, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    processors.lay_out(workspace, {**load_params(), "profile": "portable"}, {})
    params._file.cache_clear()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(
        UserError, match=r"profile is 'portable', which needs an x86-64 .* allowed here: fast"
    ):
        environment._set_variables()


def test_an_unknown_profile_is_refused(workspace, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    processors.lay_out(workspace, {**load_params(), "profile": "quick"}, {})
    params._file.cache_clear()
    with pytest.raises(UserError, match=r"profile is 'quick'.*'fast' or 'portable'"):
        environment._set_variables()


def test_an_emulator_that_crashes_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["processors"])
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(processors, "emulator_version", lambda: "7.2")
    with pytest.raises(SystemExit, match=r"QEMU 7\.2 crashes on some models: install 10 or later"):
        processors.main()


def test_the_page_has_every_model():
    page = processors.PAGE.read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in page.splitlines() if "×" in line]
    assert rows == list(processors.models(load_params())), "run `make processors`"


def test_an_unknown_model_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["processors", "pytorch/lienar"])
    with pytest.raises(SystemExit, match=r"pytorch/lienar unknown; params\.yaml has pytorch/linear, "):
        processors.main()


def test_models_that_are_not_named_keep_their_rows(monkeypatch, tmp_path):
    page, tried = tmp_path / "processors.md", []

    def new_rows(chosen):
        tried.append(list(chosen))
        return {model: f"| {model} | {len(tried)} |\n" for model in chosen}

    monkeypatch.setattr(processors, "PAGE", page)
    monkeypatch.setattr(processors, "ROOT", tmp_path)
    monkeypatch.setattr(processors, "emulator_version", lambda: "10.0")
    monkeypatch.setattr(processors, "new_rows", new_rows)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(processors, "head", lambda: "head of one machine\n")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train_images.npy").touch()
    monkeypatch.setattr(sys, "argv", ["processors"])
    processors.main()
    monkeypatch.setattr(sys, "argv", ["processors", "scratch/cnn"])
    processors.main()
    everything = list(processors.models(load_params()))
    assert tried == [everything, ["scratch/cnn"]]
    rows = [f"| {model} | {2 if model == 'scratch/cnn' else 1} |\n" for model in everything]
    assert page.read_text() == f"head of one machine\n{''.join(rows)}{processors.TAIL}"
    monkeypatch.setattr(processors, "head", lambda: "head of another machine\n")
    with pytest.raises(UserError, match="says 'head of one machine' and not 'head of another machine'"):
        processors.main()


def test_only_the_chosen_models_are_tried():
    content = processors.short_epoch(90, ["scratch/cnn"])
    assert processors.frameworks_of(content) == ["scratch"]
    assert list(processors.models(content)) == ["scratch/cnn"]
    assert content["scratch"]["cnn"]["validation_images"] == 30


def test_a_difference_is_found(tmp_path):
    import numpy as np

    for name, value in (("a", 0.5), ("b", 0.5), ("c", 0.75)):
        for kind, extension in (("models", "npz"), ("predictions", "npy")):
            path = tmp_path / name / "outputs" / kind / "scratch" / f"mlp.{extension}"
            path.parent.mkdir(parents=True)
            np.save(path.open("wb"), np.full(3, value))
    assert processors.difference(tmp_path / "a", tmp_path / "b", "scratch/mlp") == "identical"
    assert processors.difference(tmp_path / "a", tmp_path / "c", "scratch/mlp") == "2e-01"
    a, b, c = (processors.fingerprint(tmp_path / name, "scratch/mlp") for name in "abc")
    assert a == b != c
