"""The profile `portable` on emulated processors: same weights, same predictions, to the bit."""

import os
import platform
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, edit_params, networks, tiny_arrays, tiny_params, write_data

from stages.common import environment, params, results
from stages.console.errors import UserError
from tools import pages, processors, projects

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


def test_portable_pins_what_fast_leaves_to_the_libraries(workspace, monkeypatch):
    for profile, pinned in (("fast", False), ("portable", True)):
        edit_params(workspace, "profile", profile)
        params.content.cache_clear()
        monkeypatch.setattr(os, "environ", {})
        environment._set_variables()
        assert (os.environ | environment.PORTABLE == os.environ) == pinned
        assert os.environ["OMP_NUM_THREADS"] == str(params.read("threads", int))


def test_portable_is_refused_where_it_cannot_be_had(workspace, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    edit_params(workspace, "profile", "portable")
    params.content.cache_clear()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(
        UserError, match=r"profile is 'portable', which needs an x86-64 .* allowed here: fast"
    ):
        environment._set_variables()


def test_an_unknown_profile_is_refused(workspace, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    edit_params(workspace, "profile", "quick")
    params.content.cache_clear()
    with pytest.raises(UserError, match=r"profile is 'quick'.*'fast' or 'portable'"):
        environment._set_variables()


def test_an_emulator_that_crashes_is_refused(workspace, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["processors"])
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(processors, "emulator_version", lambda: "7.2")
    monkeypatch.setattr(processors, "compare_processors", lambda *_: pytest.fail("it was used"))
    with pytest.raises(UserError, match=r"QEMU 7\.2 crashes on some models: install 10 or later"):
        processors.main()


ROW = processors.Row(
    model="pytorch/mlp",
    fingerprint="0123456789ab",
    portable_haswell="identical",
    portable_milan="1e-07",
    fast_haswell="2e-07",
    fast_milan="3e-07",
    fast_seconds=2.0,
    cost=1.25,
    cost_low=1.125,
    cost_high=1.5,
    machine="a machine",
    emulator="QEMU 10.0",
)


def test_the_page_shows_what_was_found_and_no_cost_of_short_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(processors, "TABLE", tmp_path / "processors.csv")
    rows = [
        ROW,
        replace(ROW, model="pytorch/linear", fast_seconds=0.9),
        replace(ROW, model="x/y", cost=None, fast_seconds=None),
    ]
    pages.write_rows(processors.TABLE, rows)
    page = processors.page()
    table = [line for line in page.splitlines() if line.startswith("|")]
    found = "`0123456789ab` | identical | 1e-07 | 2e-07 | 3e-07"
    assert table[2:] == [
        f"| pytorch/mlp | {found} | 1.25 × (1.12–1.50) |",
        f"| pytorch/linear | {found} |  |",
        f"| x/y | {found} |  |",
    ]
    heads = [cell.strip() for cell in table[0].split("|")]
    assert heads[3:7] == [
        "portable: Intel Haswell", "portable: AMD EPYC Milan", "fast: Intel Haswell", "fast: AMD EPYC Milan"
    ]  # fmt: skip
    assert "Native: a machine.\nEmulated by QEMU 10.0," in page


def test_models_that_are_not_named_keep_their_rows(workspace, monkeypatch):
    (workspace / "docs").mkdir()
    columns = "fingerprint", *("_".join((p, e)) for p in processors.PROFILES for e in processors.EMULATED)
    found = {column: "identical" for column in columns}
    costs = iter([1.0, 2.0])
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(processors, "emulator_version", lambda: "10.0")
    monkeypatch.setattr(
        processors, "compare_processors", lambda _, chosen: {model: found for model in chosen}
    )

    def compare_profiles(_, chosen):
        found = {"fast_seconds": 2.0, "cost": next(costs), "cost_low": 1.0, "cost_high": 3.0}
        return {model: found for model in chosen}

    monkeypatch.setattr(processors, "compare_profiles", compare_profiles)
    for named in ([], ["scratch/cnn"]):
        monkeypatch.setattr(sys, "argv", ["processors", *named])
        processors.main()
    rows = {row.model: row.cost for row in pages.read_rows(processors.TABLE, processors.Row)}
    assert rows == dict.fromkeys(projects.models(), 1.0) | {"scratch/cnn": 2.0}
    assert list(rows) == projects.models()


def test_only_the_chosen_models_are_tried_for_one_epoch_on_the_processor(workspace):
    chosen = ["scratch/cnn", "sklearn/knn_3"]
    edit_params(workspace, "scratch.cnn.epochs", 5)
    params.content.cache_clear()
    content = processors.short_epoch(chosen, "portable")
    assert processors.frameworks_of(content) == ["scratch", "sklearn"]
    assert projects.models(content) == chosen
    assert content["scratch"]["cnn"]["epochs"] == 1
    assert "epochs" not in content["sklearn"]["knn_3"]
    assert content["profile"] == "portable"
    assert set(content["device"].values()) == {"cpu"}


@pytest.mark.slow
def test_all_models_of_a_framework_are_trained_in_one_process(native):
    assert {path.name for path in (native / "outputs" / "models").iterdir()} == set(MODELS)
    for framework, names in MODELS.items():
        for name in names:
            weights, predictions = processors.trained(native, f"{framework}/{name}")
            assert (weights.suffix == ".safetensors") == (framework in networks())
            assert np.load(predictions).shape == (40, 10)


def test_the_cost_of_a_profile_is_the_median_of_pairs_of_runs(workspace, monkeypatch):
    seconds = iter([2.0, 1.0, 6.0, 2.0, 4.0, 4.0])  # portable, fast, portable, …

    def train(project, framework):
        timings = project / "outputs" / "timings" / "scratch" / "cnn.json"
        timings.parent.mkdir(parents=True, exist_ok=True)
        content = {key: "" for key in ("device", "precision", "processor", "system", "python")}
        numbers = {"threads": 1, "side_by_side": 1, "peak_mebibytes": 1, "packages": {}}
        about = results.Timings(
            **content, **numbers, training_seconds=next(seconds) - 0.5, prediction_seconds=0.5
        )
        timings.write_text(about.model_dump_json())

    monkeypatch.setattr(processors, "train", train)
    monkeypatch.setattr(processors, "REPEATS", 3)
    monkeypatch.setattr(processors, "TIMED_IMAGES", 90)
    found = processors.compare_profiles(workspace / "timed", ["scratch/cnn"])
    assert found == {"scratch/cnn": {"cost": 2.0, "cost_low": 1.0, "cost_high": 3.0, "fast_seconds": 2.0}}


def test_a_difference_is_found(tmp_path):
    for name, value, weight in (("a", 0.5, 1), ("b", 0.5, 1), ("c", 0.75, 1), ("d", 0.5, 2)):
        for folder, file, content in (
            ("models/scratch/mlp", "weights.safetensors", weight),
            ("predictions/scratch", "mlp.npy", value),
        ):
            path = tmp_path / name / "outputs" / folder / file
            path.parent.mkdir(parents=True)
            with path.open("wb") as opened:
                np.save(opened, np.full(3, content))
    a, b, c, d = (tmp_path / name for name in "abcd")
    assert processors.difference(a, b, "scratch/mlp") == "identical"
    assert processors.difference(a, c, "scratch/mlp") == "2e-01"
    assert processors.difference(a, d, "scratch/mlp") == "0e+00"
    prints = [processors.fingerprint(project, "scratch/mlp") for project in (a, b, c, d)]
    assert prints[0] == prints[1] and len(set(prints)) == 3
