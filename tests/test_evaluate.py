import json

import numpy as np
import pandas as pd
import pytest
from conftest import TEST, load_params, tiny_arrays

from stages import evaluate
from stages.common import results
from stages.common.command import UserError

LABELS = tiny_arrays()["test_labels"]

HISTORY = (
    "epoch,learning_rate,train_loss,train_accuracy,validation_loss,validation_accuracy\n"
    "1,0.1,0.5,0.8,0.4,0.9\n2,0.1,0.3,0.9,0.2,0.95\n"
)


def right(share: float, labels: np.ndarray = LABELS) -> np.ndarray:
    """Predictions of which about `share` are right; the rest name the next digit."""
    predicted = labels.astype(int).copy()
    wrong = round((1 - share) * len(labels))
    predicted[:wrong] = (predicted[:wrong] + 1) % 10
    return (np.eye(10)[predicted] * 0.9 + 0.01).astype(np.float32)


@pytest.fixture
def trained(workspace):
    """What the trainers would have left for every model, each with another accuracy."""
    number = 0
    for framework, epochs in evaluate.FRAMEWORKS.items():
        for model in load_params()[framework]:
            number += 1
            for kind, extension, content in (
                ("predictions", "npy", None),
                ("cards", "json", json.dumps({"parameters": number, "training_images": 360})),
                ("history", "csv", HISTORY if epochs else None),
            ):
                path = results.path(kind, framework, model, extension)
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "predictions":
                    np.save(path, right(1 - number / TEST))
                elif content:
                    path.write_text(content)
    return workspace


def test_every_model_gets_its_metrics_and_a_row_in_every_table(trained, run_stage, capsys):
    run_stage("evaluate")
    names = [f"{f}/{m}" for f in evaluate.FRAMEWORKS for m in load_params()[f]]
    for number, name in enumerate(names, start=1):
        metrics = json.loads((trained / f"outputs/metrics/{name}.json").read_text())
        assert metrics["accuracy"] == pytest.approx(1 - number / TEST)
        assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
        assert metrics["parameters"] == number
    tables = {p.stem: pd.read_csv(p) for p in (trained / "outputs/tables").iterdir()}
    assert set(tables) == {"summary", "confusion", "history"}
    assert list(tables["summary"].model) == list(tables["confusion"].model.unique()) == names
    assert set(tables["history"].model) == {n for n in names if not n.startswith("sklearn")}
    assert capsys.readouterr().out.splitlines()[0].split() == [names[0], "99.00%", "[94.55%,", "99.82%]"]


def test_metrics_worked_by_hand():
    labels = np.array([0, 0, 1, 1], np.uint8)
    probabilities = np.zeros((4, 10), np.float32)
    probabilities[:, :2] = [[0.5, 0.5], [0.2, 0.8], [0.25, 0.75], [0, 1]]
    metrics = evaluate.measure(labels, probabilities)
    assert metrics["accuracy"] == 0.75  # a tie goes to the lower digit
    assert metrics["log_loss"] == pytest.approx(-np.log([0.5, 0.2, 0.75, 1]).mean(), abs=1e-6)
    # digit 0: precision 1, recall 1/2; digit 1: precision 2/3, recall 1; eight digits without images: 0
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 10, abs=1e-6)


def test_wilson_interval_equals_its_formula():
    metrics = evaluate.measure(LABELS, right(0.9))
    n, p, z = len(LABELS), 0.9, 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert metrics["accuracy_low"] == pytest.approx(centre - half, abs=1e-6)
    assert metrics["accuracy_high"] == pytest.approx(centre + half, abs=1e-6)


def test_a_certain_mistake_costs_a_finite_loss():
    probabilities = np.eye(10, dtype=np.float32)[(LABELS + 1) % 10]
    assert evaluate.measure(LABELS, probabilities)["log_loss"] == pytest.approx(15.94, abs=0.01)


def test_confusion_counts_rows_by_truth():
    labels = np.array([3, 3, 3, 5], np.uint8)
    table = evaluate.confusion(labels, np.eye(10, dtype=np.float32)[[3, 3, 8, 5]])
    assert len(table) == 100
    cells = table.set_index(["truth", "prediction"])
    assert cells.loc[(3, 8)].tolist() == [1, pytest.approx(1 / 3, abs=1e-6)]
    assert cells.loc[(8, 3)].tolist() == [0, 0]
    assert cells["count"].sum() == 4


def test_swapped_columns_change_the_figures():
    swapped = right(0.9)[:, [1, 0, *range(2, 10)]]
    assert evaluate.measure(LABELS, right(0.9))["accuracy"] == 0.9
    assert evaluate.measure(LABELS, swapped)["accuracy"] < 0.8


@pytest.mark.parametrize(
    ("alter", "complaint"),
    [
        (lambda path: path.unlink(), r"pytorch/mlp\.npy is missing"),
        (lambda path: path.write_bytes(b"none"), r"pytorch/mlp\.npy is no \.npy file"),
        (lambda path: np.save(path, right(0.9)[:-1]), r"pytorch/mlp\.npy holds float32 \(99, 10\)"),
        (lambda path: np.save(path, right(0.9).astype(float)), r"pytorch/mlp\.npy holds float64"),
        (lambda path: np.save(path, right(0.9) * 2), r"pytorch/mlp\.npy holds values that are no prob"),
        (lambda path: np.save(path, right(0.9) * np.nan), r"pytorch/mlp\.npy holds values that are no prob"),
        (lambda path: np.save(path, right(0.9) / 2), r"pytorch/mlp\.npy: the probabilities of image \d+ do"),
        (
            lambda path: path.with_name("stray.npy").touch(),
            r"pytorch/stray\.npy is of no model in params.yaml; remove it: rm outputs",
        ),
        (
            lambda path: results.path("cards", "pytorch", "mlp", "json").write_text("{}"),
            r"cards/pytorch/mlp\.json is damaged",
        ),
        (
            lambda path: results.path("history", "pytorch", "mlp", "csv").write_text(""),
            r"history/pytorch/mlp\.csv is no CSV table",
        ),
        (lambda path: np.save("data/test_labels.npy", LABELS + 1), r"test_labels\.npy holds the label 10"),
    ],
)
def test_a_wrong_file_is_named_and_earlier_results_stay(trained, run_stage, alter, complaint):
    run_stage("evaluate")
    before = {path: path.read_bytes() for path in (trained / "outputs/metrics").rglob("*.json")}
    alter(results.path("predictions", "pytorch", "mlp", "npy"))
    with pytest.raises(UserError, match=complaint):
        run_stage("evaluate")
    assert {path: path.read_bytes() for path in (trained / "outputs/metrics").rglob("*.json")} == before


def test_pictures_are_the_same_bytes_twice_and_follow_the_data(trained, run_stage):
    def pictures():
        run_stage("evaluate")
        run_stage("visualize")
        return {path.name: path.read_bytes() for path in (trained / "outputs/plots").rglob("*.png")}

    first = pictures()
    assert len(first) == 3 + len({m for f in evaluate.FRAMEWORKS for m in load_params()[f]})
    assert pictures() == first
    np.save(results.path("predictions", "scratch", "mlp_relu", "npy"), right(0.5))
    second = pictures()
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"accuracy.png", "mlp_relu.png"}


def test_every_picture_has_a_title_and_named_axes(trained, run_stage):
    from stages import visualize

    run_stage("evaluate")
    tables = {p.stem: pd.read_csv(p) for p in (trained / "outputs/tables").iterdir()}
    tables["history"] = pd.DataFrame(
        {"model": ["pytorch/mlp"] * 2, "epoch": [1, 2], "train_loss": [2, 1], "validation_loss": [2, 1]}
    )
    confusion = tables["confusion"][tables["confusion"].model == "pytorch/mlp"]
    figures = {
        "accuracies": visualize.draw_accuracies(tables["summary"]),
        "curves": visualize.draw_curves(tables["history"], "loss"),
        "confusion": visualize.draw_confusion(confusion, "pytorch/mlp"),
    }
    for figure in figures.values():
        assert all(axis.get_title() for axis in figure.axes if axis.get_label() != "<colorbar>")
    assert [a.get_xlabel() for a in figures["accuracies"].axes] == ["accuracy (%)", "wrong (%), logarithmic"]
    assert figures["curves"].get_supxlabel() == "epoch"
    assert figures["curves"].get_supylabel() == "cross-entropy (nats)"
    axis, bar = figures["confusion"].axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted digit", "true digit")
    assert bar.get_ylabel() == "share of the digit's images"
    assert len(axis.texts) == 100
