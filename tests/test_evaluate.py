"""The stages `evaluate` and `compare_models`: what they read, refuse, remove and write."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FEW, FEW_NAMES, LABELS, TEST, edit_json, right, tiny_params, write_params

from stages.common import results
from stages.console.errors import UserError
from stages.evaluation import tables

OF_NETWORKS = [name for name in FEW_NAMES if not name.startswith("sklearn/")]


def read_tables(folder):
    return {path.stem: pd.read_csv(path) for path in folder.iterdir()}


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_model_gets_four_metrics_and_a_row_in_every_table(trained, run_stage, capsys):
    run_stage("evaluate")
    names = FEW_NAMES
    paths = (trained / "outputs/metrics").rglob("*.json")
    assert {f"{path.parent.name}/{path.stem}" for path in paths} == set(names)
    for number, name in enumerate(names, start=1):
        of_model = json.loads((trained / f"outputs/metrics/{name}.json").read_text())
        assert list(of_model) == ["accuracy", "log_loss", "validation_accuracy", "validation_log_loss"]
        assert of_model["accuracy"] == pytest.approx(1 - number / TEST)
        if name in OF_NETWORKS:  # of 40 held-out images, of which the fixture gets that share wrong
            assert of_model["validation_accuracy"] == pytest.approx(1 - round(40 * number / TEST) / 40)
            assert of_model["validation_log_loss"] > 0
        else:
            assert of_model["validation_accuracy"] is of_model["validation_log_loss"] is None
    found = read_tables(trained / "outputs/tables")
    expected = tables.SCORES | {"history": ("model", *tables.HISTORY)}
    assert {name: tuple(table.columns) for name, table in found.items()} == expected
    for name in tables.SCORES:
        assert list(found[name].model.unique()) == names
    assert list(found["history"].model.unique()) == OF_NETWORKS
    summary = found["summary"].set_index("model")
    assert summary[["sure_above", "answered", "wrong_answers"]].isna().all(axis=None), "40 images are too few"
    assert summary.parameters.tolist() == list(range(1, len(names) + 1))
    assert summary.validation_images.tolist() == [40 if name in OF_NETWORKS else 0 for name in names]
    assert summary.summary["sklearn/knn_3"] == "KNeighborsClassifier"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:4] == ["pytorch/linear", "99.00%", "[94.55%,", "99.82%]"]
    assert printed[0].endswith(f"log loss {summary.log_loss.iloc[0]:.4f}  validation 100.00%")
    assert [line.split()[0] for line in printed] == list(summary.sort_values("accuracy").index[::-1])


def test_the_ensembles_are_in_tables_of_their_own_and_a_vote_has_no_probabilities(compared):
    found = read_tables(compared / "outputs/comparison")
    expected = tables.SCORES | {"pairs": tables.PAIRS, "contributions": tables.CONTRIBUTIONS}
    assert {name: tuple(table.columns) for name, table in found.items()} == expected
    for name in ("summary", "confusion", "per_class"):
        assert list(found[name].model.unique()) == [tables.MEAN, tables.VOTE]
    for name in ("roc", "calibration"):
        assert list(found[name].model.unique()) == [tables.MEAN]
    missing = found["summary"].set_index("model").isna()
    for name in ("log_loss", "macro_auc", "calibration_error", "brier_score"):
        assert missing[name].tolist() == [False, True]
    for name in ("accuracy", "accuracy_low", "accuracy_high", "macro_f1"):
        assert not missing[name].any()
    assert found["per_class"].auc[found["per_class"].model == tables.VOTE].isna().all()
    assert list(found["contributions"].model) == FEW_NAMES
    assert len(found["pairs"]) == 7 * 6 / 2
    mean, vote = (np.load(compared / f"outputs/ensembles/{kind}.npy") for kind in ("mean", "vote"))
    assert (mean.dtype, mean.shape) == (np.float32, (TEST, 10))
    assert (vote.dtype, vote.shape) == (np.uint8, (TEST,))
    predictions = [np.load(results.predictions(*name.split("/"))) for name in FEW_NAMES]
    np.testing.assert_allclose(mean, np.mean(predictions, axis=0), atol=1e-6)
    most = [np.bincount(votes, minlength=10).argmax() for votes in np.argmax(predictions, axis=2).T]
    np.testing.assert_array_equal(vote[3:], most[3:])  # of the first three images models disagree evenly


CNN, MODEL = results.predictions("tensorflow", "cnn"), results.folder("tensorflow", "cnn") / "model.json"


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda: CNN.unlink(), "not trained"),
        (lambda: results.timings("tensorflow", "cnn").unlink(), "not trained"),
        (lambda: edit_json(MODEL, classes=[*"abcdefghij"]), "trained on data with other classes"),
        (lambda: edit_json(MODEL, image_size=[28, 20]), "trained on data with another image size"),
        (lambda: edit_json(MODEL, training_images=9), "trained on data with other held-out images"),
        (lambda: np.save(CNN, right(0.9)[1:]), "trained on data with another number of test images"),
    ],
)
def test_what_is_there_is_scored_and_what_is_not_is_named(trained, run_stage, capsys, alter, reason):
    alter()
    run_stage("evaluate")
    others = [name for name in FEW_NAMES if name != "tensorflow/cnn"]
    assert list(pd.read_csv("outputs/tables/summary.csv").model) == others
    expected = f"not scored: tensorflow/cnn ({reason}); `dvc repro train_tensorflow@cnn` trains it"
    assert capsys.readouterr().out.splitlines()[-1] == expected


def test_without_any_trained_model_all_are_named(workspace, run_stage):
    with pytest.raises(UserError, match=r"^not scored: pytorch/linear, .*svm \(not trained\); `dvc repro` t"):
        run_stage("evaluate")


def test_models_that_hold_out_enough_images_have_a_threshold_and_shares(trained, run_stage, capsys):
    content = tiny_params(trained, FEW) | {"wrong_answers": 0.2}
    write_params(trained, content)
    run_stage("evaluate")
    summary = pd.read_csv("outputs/tables/summary.csv").set_index("model")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for name, row in summary.iterrows():
        if not name.startswith("sklearn/"):  # right about 37 of the 40 or more, and equally sure of all
            assert row.sure_above == 0
            assert (row.answered, row.wrong_answers) == (1, pytest.approx(1 - row.accuracy))
            assert lines[name].endswith(f"sure 100.0%, wrong {1 - row.accuracy:.2%}")
        else:
            assert row[["sure_above", "answered", "wrong_answers"]].isna().all()
            assert "sure" not in lines[name]


def test_one_model_alone_is_evaluated_and_drawn(trained, run_stage):
    content = tiny_params(trained, {"scratch": ["mlp_relu"]}) | {"wrong_answers": 0.2}
    for framework in ("pytorch", "tensorflow", "sklearn"):
        del content[framework]  # a section that is missing is no models
    write_params(trained, content)
    for stage in ("evaluate", "compare_models", "embed_images", "visualize", "report"):
        run_stage(stage)
    assert pd.read_csv("outputs/comparison/contributions.csv").empty
    page = (trained / "outputs/report/index.html").read_text(encoding="utf-8")
    assert "1 classifier, tested on" in page
    assert 'href="models/scratch-mlp_relu.html"' in page
    assert '<td data-sort="1.0">100.0%</td>' in page, "the share of sure answers"


def test_stray_files_change_nothing(trained, run_stage):
    run_stage("evaluate")
    before = files_in(trained / "outputs")
    strays = [
        trained / "outputs" / name
        for name in (
            "predictions/.DS_Store",
            "models/pytorch/.DS_Store",
            "predictions/pytorch/linear~.npy",
            "models/pytorch/linear/model.json~",
            "models/pytorch/notes/model.txt",
        )
    ]
    for path in strays:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    run_stage("evaluate")
    assert files_in(trained / "outputs") == before | dict.fromkeys(strays, b"")


def remove_mlp_relu(trained):
    write_params(trained, tiny_params(trained, FEW | {"scratch": ["mlp_sigmoid"]}))


def test_what_a_model_that_was_removed_from_params_yaml_left_is_removed(trained, run_stage, capsys):
    remove_mlp_relu(trained)
    gone = results.all_of("scratch", "mlp_relu")
    others = set(FEW_NAMES) - {"scratch/mlp_relu"}
    kept = [path for name in others for path in results.all_of(*name.split("/"))]
    run_stage("evaluate")
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "scratch/mlp_relu is not in params.yaml: results removed; DVC's cache keeps them"
    assert "mlp_relu" not in "".join(rest)


FOLDER = results.folder("scratch", "mlp_relu")


@pytest.mark.parametrize(
    "alter",
    [
        lambda: (FOLDER / "notes.txt").touch(),
        lambda: (FOLDER / "model.json").unlink(),
        lambda: (FOLDER / "model.json").write_text("{}"),
        lambda: edit_json(FOLDER / "model.json", name="other"),
        lambda: edit_json(FOLDER / "model.json", framework="pytorch"),
        lambda: results.timings("scratch", "mlp_relu").unlink(),
        lambda: FOLDER.rename("elsewhere") and FOLDER.symlink_to("../../../elsewhere"),
    ],
)
def test_what_has_not_exactly_the_form_of_results_stays(trained, run_stage, alter):
    remove_mlp_relu(trained)
    alter()
    before = files_in(trained)
    run_stage("evaluate")
    assert before.keys() <= files_in(trained).keys()


OF_LINEAR, LINEAR, OF_HELD_OUT, _ = results.all_of("pytorch", "linear")


@pytest.mark.parametrize(
    ("path", "content", "complaint"),
    [
        (LINEAR, b"none", r"pytorch/linear\.npy is no \.npy file"),
        (LINEAR, right(0.9).astype(float), r"pytorch/linear\.npy holds float64"),
        (LINEAR, right(0.9) * 2, r"pytorch/linear\.npy holds values that are no prob"),
        (LINEAR, right(0.9) / 2, r"linear\.npy: the probabilities of image \d+ do"),
        (OF_HELD_OUT, right(0.9)[:39], r"validation/pytorch/linear\.npy holds float32 \(39, 10\)"),
        (OF_LINEAR / "model.json", b"{}", r"linear/model\.json does not describe a model: framework"),
        (OF_LINEAR / "history.csv", b"epoch\n1\n", r"linear/history\.csv is no .*not found.*'train_loss'"),
        (Path("data/test_labels.npy"), LABELS + 1, r"test_labels\.npy holds the label 10"),
    ],
)
def test_a_wrong_file_is_named_and_earlier_results_stay(trained, run_stage, path, content, complaint):
    run_stage("evaluate")
    before = files_in(trained / "outputs/metrics") | files_in(trained / "outputs/tables")
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(UserError, match=complaint):
        run_stage("evaluate")
    assert files_in(trained / "outputs/metrics") | files_in(trained / "outputs/tables") == before


@pytest.mark.parametrize(
    "content",
    [
        *(f"model,count,auc\na/b,{row}\n" for row in ("seven,0.5", "7.5,0.5", ",0.5", "7,high")),
        "model,count\na/b,7\n",
        "\0",
    ],
)
def test_a_table_holds_its_columns_and_numbers_where_they_belong(tmp_path, content):
    columns = ("class", "count", "auc")
    path = tmp_path / "table.csv"
    path.write_text("more,class,count,auc\n0,NA,7,0.5\n0,007,8,\n")
    assert tables.load_table(path, columns).fillna(-1).values.tolist() == [["NA", 7, 0.5], ["007", 8, -1]]
    path.write_text(content.replace("model", "class"))
    with pytest.raises(UserError, match=r"table\.csv is no table as `dvc repro` writes it: "):
        tables.load_table(path, columns)
