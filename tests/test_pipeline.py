"""The real `dvc repro` and what people do with it, in a temporary clone with tiny data."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from functools import reduce
from itertools import permutations
from operator import getitem

import pandas as pd
import pytest
import yaml
from conftest import (
    FEW_NAMES,
    MODELS,
    PARITY,
    ROOT,
    command,
    dvc,
    edit_params,
    git,
    load_params,
    ran,
    run_pipeline,
    tiny_arrays,
    write_idx,
    write_params,
)
from dvc.utils.hydra import apply_overrides

from tools import reproduce

AFTER = ["evaluate", "compare_models", "export", "draw_page", "visualize", "report"]
"""The stages that follow when one model is trained anew."""


def test_one_run_makes_every_result(finished):
    names = sorted(FEW_NAMES)
    for kind, suffix in (("predictions", ".npy"), ("validation", ".npy"), ("timings", ".json")):
        folder = finished / "outputs" / kind
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert sorted(p.relative_to(folder).as_posix().removesuffix(suffix) for p in files) == names
    models = finished / "outputs/models"
    assert sorted(p.parent.relative_to(models).as_posix() for p in models.rglob("model.json")) == names
    ensembles = ["ensemble/mean", "ensemble/vote"]
    for folder, more in (("metrics", []), ("plots/roc", ensembles[:1]), ("plots/confusion", ensembles)):
        folder = finished / "outputs" / folder
        made = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.*")}
        assert made == {*names, *more}
    assert (finished / "outputs/report/index.html").is_file()
    assert sorted(pd.read_csv(finished / "outputs/tables/summary.csv").model) == names
    assert not list(finished.rglob("*.partial*"))


def test_git_keeps_the_metrics_and_the_lock_and_nothing_large(finished):
    tracked = git(finished, "ls-files").splitlines()
    assert {name.split("/")[1] for name in tracked if name.startswith("outputs/")} == {"metrics"}
    assert "dvc.lock" in tracked
    assert not [name for name in tracked if name.startswith("data/")]
    assert max((finished / name).stat().st_size for name in tracked) < 2**20
    assert git(finished, "status", "--short") == ""


def test_no_result_holds_a_path_or_a_date(finished, idx_folder):
    """The folder that the pipeline ran in was renamed afterwards: conftest.run_pipeline."""
    year = time.strftime("%Y-").encode()
    for path in (finished / "outputs").rglob("*"):
        if not path.is_file():
            continue
        contents = {path.name: path.read_bytes()}
        if path.suffix == ".skops":
            with zipfile.ZipFile(io.BytesIO(contents[path.name])) as archive:
                contents = {name: archive.read(name) for name in archive.namelist()}
        for content in contents.values():
            assert b"unfinished" not in content, path
            assert str(finished.parent).encode() not in content, path
            assert str(idx_folder).encode() not in content, path
            if path.suffix in (".json", ".csv"):
                assert year not in content, path


def test_nothing_to_do_takes_seconds_and_runs_nothing(project):
    dvc(project, "status")
    seconds = []
    for arguments in (["status"], ["repro"]):
        started = time.monotonic()
        assert ran(dvc(project, *arguments)) == []
        seconds.append(time.monotonic() - started)
    assert seconds[1] < 3 * seconds[0] + 1  # about twice as long on a quiet machine
    assert "up to date" in dvc(project, "status")


def test_a_fresh_clone_without_data_has_nothing_to_do(finished, tmp_path):
    git(tmp_path, "clone", "--quiet", str(finished), "clone")
    output = dvc(tmp_path / "clone", "repro", "--dry", "--allow-missing")
    assert ran(output) == []


def test_changing_one_learning_rate_retrains_one_model_and_going_back_none(project):
    before = (project / "dvc.lock").read_text()
    edit_params(project, "scratch.mlp_relu.learning_rate", 0.0001)
    assert set(ran(dvc(project, "repro"))) == {"train_scratch@mlp_relu", *AFTER}
    diff = json.loads(dvc(project, "metrics", "diff", "--json"))
    assert list(diff) == ["outputs/metrics/scratch/mlp_relu.json"]
    assert "scratch.mlp_relu.learning_rate" in dvc(project, "params", "diff")
    assert (project / "dvc.lock").read_text() != before

    git(project, "checkout", "--quiet", "params.yaml")
    output = dvc(project, "repro")
    assert "epoch" not in output  # restored from the run cache
    assert (project / "dvc.lock").read_text() == before


def test_one_entry_adds_a_model_and_without_it_nothing_is_left(project):
    text = (project / "docs/adding.md").read_text(encoding="utf-8")
    for file, example in zip(
        ("architectures.yaml", "params.yaml"), text.split("```yaml\n")[1:3], strict=True
    ):
        content = yaml.safe_load((project / file).read_text())
        for section, entry in yaml.safe_load(example.split("```")[0]).items():
            if file == "architectures.yaml":
                content[section] = entry
            else:
                content[section] |= entry
        if file == "params.yaml":
            content["pytorch"]["my_network"].update(batch_size=20, epochs=1)
        (project / file).write_text(yaml.safe_dump(content, sort_keys=False))
    added = {"train_pytorch@my_network", "train_sklearn@naive_bayes"}
    assert set(ran(dvc(project, "repro"))) == {*added, *AFTER}
    models = set(pd.read_csv(project / "outputs/tables/confusion.csv").model)
    assert {"pytorch/my_network", "sklearn/naive_bayes"} <= models
    assert (project / "outputs/plots/confusion/pytorch/my_network.png").is_file()

    git(project, "checkout", "--quiet", "params.yaml", "architectures.yaml")
    dvc(project, "repro")
    assert not [*project.glob("outputs/**/my_network*"), *project.glob("outputs/**/naive_bayes*")]
    assert git(project, "status", "--short") in ("", " M dvc.lock\n")
    assert ran(dvc(project, "repro")) == []


NEAREST_MEAN = """
import numpy as np


def fit(images, labels, classes):
    return np.stack([images[labels == c].mean(axis=0) for c in range(classes)])


def predict_proba(means, images):
    distances = np.linalg.norm(images[:, None] - means, axis=(2, 3))
    powers = np.exp(distances.min(axis=1, keepdims=True) - distances)
    return powers / powers.sum(axis=1, keepdims=True)
"""
TRAIN_NEAREST_MEAN = """
from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

from stages.common import params, run
from stages.console import command
from stages.models import nearest_mean


class Settings(params.Section):
    validation: params.Validation | None = None


def main() -> None:
    job = run.read("nearest_mean", Settings, None)
    with run.recording(job, "  the mean image of each class") as record:
        with record.training():
            means = nearest_mean.fit(job.data.train_images, job.data.train_labels, len(job.dataset.classes))
        record.predict(lambda images: nearest_mean.predict_proba(means, images))
        record.save_weights({"means": means})
        record.describe(summary="nearest mean", parameters=means.size, packages=("numpy",))


if __name__ == "__main__":
    command.run(main)
"""


def test_a_new_framework_is_two_files_a_block_and_a_line(project):
    (project / "stages/models/nearest_mean.py").write_text(NEAREST_MEAN)
    (project / "stages/train_nearest_mean.py").write_text(TRAIN_NEAREST_MEAN)
    stages = yaml.safe_load((project / "dvc.yaml").read_text())
    block = json.loads(json.dumps(stages["stages"]["train_scratch"]).replace("scratch", "nearest_mean"))
    unused = {f"stages/common/{name}.py" for name in ("architecture", "augmentation", "training")}
    block["do"]["deps"] = [dep for dep in block["do"]["deps"] if dep not in unused]
    block["do"]["params"] = [entry for entry in block["do"]["params"] if isinstance(entry, str)]
    stages["stages"]["train_nearest_mean"] = block
    (project / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    listed = project / "stages/common/frameworks.py"
    entry = '    "nearest_mean": Framework("Nearest mean", "#2e7d32"),\n}'
    listed.write_text(entry.join(listed.read_text().rsplit("}", 1)))
    content = yaml.safe_load((project / "params.yaml").read_text())
    write_params(project, content | {"nearest_mean": {"plain": {}}})

    assert set(ran(dvc(project, "repro"))) == {"train_nearest_mean@plain", *AFTER}
    metrics = json.loads((project / "outputs/metrics/nearest_mean/plain.json").read_text())
    assert metrics["accuracy"] > 0.9 and metrics["validation_accuracy"] > 0.9
    assert (project / "outputs/report/models/nearest_mean-plain.html").is_file()
    resume = (project / "outputs/report/resume.md").read_text(encoding="utf-8")
    assert "Nearest mean" in resume


def test_part_of_the_models_gives_part_of_the_results(finished, tmp_path):
    git(tmp_path, "clone", "--quiet", str(finished), "clone")
    project = tmp_path / "clone"
    assert ran(dvc(project, "repro", "train_scratch@mlp_relu")) == [
        "download_mnist",
        "train_scratch@mlp_relu",
    ]
    output = dvc(project, "repro", "--single-item", "evaluate")
    assert list((project / "outputs/metrics").rglob("*.json")) == [
        project / "outputs/metrics/scratch/mlp_relu.json"
    ]
    assert list(pd.read_csv(project / "outputs/tables/summary.csv").model) == ["scratch/mlp_relu"]
    for name in FEW_NAMES:
        assert (name in output.partition("not scored")[2]) == (name != "scratch/mlp_relu")


def test_stray_files_run_nothing_or_change_nothing(project):
    for name in (".DS_Store", "mlp_relu.npy~", ".mlp_relu.npy.swp"):
        (project / "outputs/predictions/scratch" / name).touch()
    assert ran(dvc(project, "repro")) == []
    before = reproduce.checksums(project / "dvc.lock")
    (project / "outputs/predictions/scratch/mlp_relu (copy).npy").write_bytes(b"no numbers")
    assert set(ran(dvc(project, "repro"))) == {"evaluate", "compare_models", "export", "visualize"}
    assert reproduce.checksums(project / "dvc.lock") == before
    assert (project / "outputs/predictions/scratch/mlp_relu (copy).npy").exists()


WORDS = [f"letter {chr(97 + place)}" for place in range(26)]


def test_another_data_set_runs_from_images_to_report(shared, tmp_path_factory):
    """26 classes of 20×32 pixels."""
    folder = tmp_path_factory.mktemp("letters")
    write_idx(folder / "idx", tiny_arrays(train=520, test=130, classes=26, size=(20, 32)))
    (folder / "idx" / "classes.txt").write_text("\n".join(WORDS))
    project = run_pipeline(folder / "project", folder / "idx")
    described = json.loads((project / "data/dataset.json").read_text())
    assert (described["classes"], described["image_size"]) == (WORDS, [20, 32])
    assert list(pd.read_csv(project / "outputs/tables/per_class.csv")["class"].unique()) == WORDS
    assert "letter z" in (project / "outputs/report/index.html").read_text(encoding="utf-8")
    parity = pd.read_csv(project / "outputs/parity.csv")
    pairs = [(f"{name}/{PARITY[name]}", other) for name, other in permutations(PARITY, 2)]
    assert list(zip(parity.model, parity.target, strict=True)) == pairs
    assert (parity.difference < 1e-4).all() and (parity.other_classes <= parity.ties).all()
    for name in FEW_NAMES:
        described = json.loads((project / f"outputs/models/{name}/model.json").read_text())
        assert (described["classes"], described["image_size"]) == (WORDS, [20, 32])
    metrics = json.loads((project / "outputs/metrics/sklearn/knn_3.json").read_text())
    assert metrics["accuracy"] > 0.9


def leaves(section: dict, prefix: str = "") -> Iterator[str]:
    """The dotted keys of all values that are no mappings."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_an_override_changes_one_line_and_no_comment(tmp_path):
    """As `dvc exp run -S` writes it; one override in every section."""
    text, content = (ROOT / "params.yaml").read_text(encoding="utf-8"), load_params()
    found = ((key, reduce(getitem, key.split("."), content)) for key in leaves(content))
    sections = {key.rpartition(".")[0]: (key, value) for key, value in found}
    scalars = [pair for pair in sections.values() if not isinstance(pair[1], list)]
    assert len(scalars) > 30
    for key, value in scalars:
        (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
        other = value + 1 if isinstance(value, int | float) and not isinstance(value, bool) else "another"
        apply_overrides(str(tmp_path / "params.yaml"), [f"{key}={other}"])
        changed = (tmp_path / "params.yaml").read_text(encoding="utf-8").splitlines()
        pairs = list(zip(text.splitlines(), changed, strict=True))
        assert sum(before != after for before, after in pairs) == 1, key


def test_metrics_plots_and_the_graph_can_be_shown(project, tmp_path):
    params = yaml.safe_load((project / "params.yaml").read_text())
    table = dvc(project, "metrics", "show")
    for framework in MODELS:
        for model in params[framework]:
            assert f"outputs/metrics/{framework}/{model}.json" in table
    assert "train_pytorch@linear" in dvc(project, "dag")
    dvc(project, "plots", "show", "--out", str(tmp_path / "page"))
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    for plot in yaml.safe_load((project / "dvc.yaml").read_text())["plots"]:
        if isinstance(plot, dict):
            assert next(iter(plot.values()))["title"] in page
    assert "tensorflow/cnn" in page


@pytest.mark.parametrize(
    ("key", "value", "stage", "complaint"),
    [
        ("scratch.mlp_relu.epoch", 3, "train_scratch@mlp_relu", "scratch.mlp_relu.epoch is unknown; allowed"),
        ("data.dataset", "mnits", "download_mnist", "data.dataset is 'mnits', which is no folder"),
    ],
)
def test_a_mistake_in_params_ends_the_stage_and_loses_nothing(project, key, value, stage, complaint):
    results = {path: path.read_bytes() for path in (project / "outputs").rglob("*.*")}
    edit_params(project, key, value)
    run = command(project, "dvc", "repro", "--single-item", stage)
    assert run.returncode != 0
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert complaint in line
    git(project, "checkout", "--quiet", "params.yaml")
    dvc(project, "checkout")
    assert {path: path.read_bytes() for path in (project / "outputs").rglob("*.*")} == results
    assert ran(dvc(project, "repro")) == []
    assert git(project, "status", "--short") == ""
