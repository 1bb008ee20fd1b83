"""The stage `evaluate`: what it reads, refuses and writes."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import LABELS, TEST, few_names, right, tiny_params, write_params

from stages.common import results
from stages.common.command import UserError
from stages.evaluation.tables import COLUMNS, load_table


def test_every_model_and_ensemble_gets_its_metrics_and_a_row_in_every_table(trained, run_stage, capsys):
    run_stage("evaluate")
    names = few_names()
    everyone = [*names, "ensemble/mean", "ensemble/vote"]
    for number, name in enumerate(names, start=1):
        metrics = json.loads((trained / f"outputs/metrics/{name}.json").read_text())
        assert list(metrics) == [
            "accuracy", "accuracy_low", "accuracy_high", "log_loss",
            "macro_f1", "macro_auc", "calibration_error", "brier_score",
        ]  # fmt: skip
        assert metrics["accuracy"] == pytest.approx(1 - number / TEST)
        assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    tables = {p.stem: pd.read_csv(p) for p in (trained / "outputs/tables").iterdir()}
    assert {name: tuple(table.columns) for name, table in tables.items()} == COLUMNS
    for name in ("summary", "confusion", "per_digit", "roc", "calibration"):
        assert list(tables[name].model.unique()) == everyone
    assert list(tables["contributions"].model) == names
    assert len(tables["pairs"]) == len(everyone) * (len(everyone) - 1) / 2
    assert tables["summary"].parameters.dropna().tolist() == list(range(1, len(names) + 1))
    assert set(tables["history"].model) == {n for n in names if not n.startswith("sklearn")}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:4] == ["pytorch/linear", "99.00%", "[94.55%,", "99.82%]"]
    assert printed[0].endswith(f"log loss {tables['summary'].log_loss[0]:.4f}")
    best_first = tables["summary"].sort_values("accuracy", ascending=False, kind="stable").model
    assert [line.split()[0] for line in printed] == list(best_first)
    for kind in ("mean", "vote"):
        ensemble = np.load(trained / f"outputs/ensembles/{kind}.npy")
        assert (ensemble.dtype, ensemble.shape) == (np.float32, (TEST, 10))


def test_one_model_alone_is_evaluated_and_drawn(trained, run_stage):
    content = tiny_params(trained, {"pytorch": [], "tensorflow": [], "scratch": ["mlp_relu"], "sklearn": []})
    write_params(trained, content)
    for path in (trained / "outputs").rglob("*.*"):
        if path.name != "parity.csv" and (path.parent.name != "scratch" or path.stem != "mlp_relu"):
            path.unlink()
    run_stage("evaluate")
    run_stage("embed_images")
    run_stage("visualize")
    run_stage("report")
    page = (trained / "outputs/report/index.html").read_text(encoding="utf-8")
    assert "1 classifier and two ensembles" in page
    assert 'id="scratch-mlp_relu"' in page


@pytest.mark.parametrize(
    ("alter", "complaint"),
    [
        (lambda path: path.unlink(), r"pytorch/linear\.npy is missing"),
        (lambda path: path.write_bytes(b"none"), r"pytorch/linear\.npy is no \.npy file"),
        (lambda path: np.save(path, right(0.9)[:-1]), r"pytorch/linear\.npy holds float32 \(99, 10\)"),
        (lambda path: np.save(path, right(0.9).astype(float)), r"pytorch/linear\.npy holds float64"),
        (lambda path: np.save(path, right(0.9) * 2), r"pytorch/linear\.npy holds values that are no prob"),
        (
            lambda path: np.save(path, right(0.9) * np.nan),
            r"pytorch/linear\.npy holds values that are no prob",
        ),
        (
            lambda path: np.save(path, right(0.9) / 2),
            r"pytorch/linear\.npy: the probabilities of image \d+ do",
        ),
        (
            lambda path: path.with_name("stray.npy").touch(),
            r"pytorch/stray\.npy: of no model in params.yaml; .*: rm -f \S+ outputs/\*/pytorch/stray\.\*",
        ),
        (
            lambda path: path.with_name("a file;$(touch x).npy").touch(),
            r": rm -f 'outputs/predictions/pytorch/a file;\$\(touch x\)\.npy'$",
        ),
        (
            lambda path: results.path("cards", "pytorch", "linear", "json").write_text("{}"),
            r"cards/pytorch/linear\.json is no card of a model",
        ),
        (
            lambda path: results.path("cards", "pytorch", "linear", "json").write_text(
                '{"parameters": "5", "training_images": 1, "recipe": {}, "layers": null}'
            ),
            r"cards/pytorch/linear\.json is no card of a model: parameters is '5'",
        ),
        (
            lambda path: results.path("cards", "pytorch", "linear", "json").write_text(
                '{"parameters": 5, "training_images": 1' + 40 * "0" + ', "recipe": {}, "layers": null}'
            ),
            r"cards/pytorch/linear\.json is no card of a model: training_images is '100",
        ),
        (
            lambda path: results.path("history", "pytorch", "linear", "csv").write_text(""),
            r"history/pytorch/linear\.csv is no CSV table",
        ),
        (
            lambda path: results.path("history", "pytorch", "linear", "csv").write_text("epoch\n1\n"),
            r"history/pytorch/linear\.csv is no CSV table .*not found.*'train_loss'",
        ),
        (lambda path: np.save("data/test_labels.npy", LABELS + 1), r"test_labels\.npy holds the label 10"),
    ],
)
def test_a_wrong_file_is_named_and_earlier_results_stay(trained, run_stage, alter, complaint):
    run_stage("evaluate")
    before = {path: path.read_bytes() for path in (trained / "outputs/metrics").rglob("*.json")}
    alter(results.path("predictions", "pytorch", "linear", "npy"))
    with pytest.raises(UserError, match=complaint):
        run_stage("evaluate")
    assert {path: path.read_bytes() for path in (trained / "outputs/metrics").rglob("*.json")} == before


@pytest.mark.parametrize(
    "content",
    [
        "model,digit,auc\na/b,seven,0.5\n",
        "model,digit,auc\na/b,7.5,0.5\n",
        "model,digit,auc\na/b,,0.5\n",
        "model,digit,auc\na/b,7,high\n",
        "model,digit\na/b,7\n",
        "\0",
    ],
)
def test_a_table_holds_its_columns_and_numbers_where_they_belong(tmp_path, content):
    columns = ("model", "digit", "auc")
    path = tmp_path / "table.csv"
    path.write_text("more,model,digit,auc\n0,a/b,7,0.5\n0,c/d,8,\n")
    assert load_table(path, columns).fillna(-1).values.tolist() == [["a/b", 7, 0.5], ["c/d", 8, -1]]
    path.write_text(content)
    with pytest.raises(UserError, match=r"table\.csv is no CSV table as `dvc repro` writes it: "):
        load_table(path, columns)
