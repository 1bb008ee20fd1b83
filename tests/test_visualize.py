"""The pictures: the same bytes every time, other bytes for other results, all with titles and units."""

import os
import signal
from itertools import combinations, pairwise

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import FEW, few_names, right
from matplotlib.text import Text
from PIL import Image
from safetensors.numpy import save_file

from stages import visualize
from stages.common import results
from stages.common.command import UserError
from stages.evaluation import scores
from stages.evaluation.tables import HISTORY, load_tables
from stages.pictures import overall, single, style

IMAGES_ONLY = {
    "draw_samples",
    "draw_hardest",
    "draw_predictions",
    "draw_truths",
    "draw_mistakes",
    "draw_first_layer",
}


@pytest.fixture
def evaluated(trained, run_stage):
    run_stage("evaluate")
    run_stage("embed_images")
    return trained


def pictures(folder):
    plots = folder / "outputs/plots"
    return {path.relative_to(plots).as_posix(): path.read_bytes() for path in plots.rglob("*.png")}


def test_pictures_follow_the_results_and_the_others_stay_the_same_bytes(evaluated, run_stage):
    run_stage("visualize")
    first = pictures(evaluated)
    assert {"overall/pairs.png", "first_layer/scratch/mlp_relu.png", "roc/ensemble/mean.png"} <= set(first)
    for kind in ("confusion", "roc", "calibration", "predictions", "truths", "mistakes", "probabilities"):
        assert {f"{kind}/{name}.png" for name in few_names()} <= set(first)
    assert {name for name in first if name.startswith("training/")} == {
        f"training/{f}/{m}.png" for f in ("pytorch", "tensorflow", "scratch") for m in FEW[f]
    }

    np.save(results.path("predictions", "scratch", "mlp_relu", "npy"), right(0.5))
    run_stage("evaluate")
    run_stage("visualize")
    second = pictures(evaluated)
    changed = {name for name in first if first[name] != second[name]}
    assert {"overall/accuracy.png", "overall/pairs.png", "overall/agreement.png"} <= changed
    assert {f"{kind}/scratch/mlp_relu.png" for kind in ("confusion", "roc", "calibration")} <= changed
    others = {name for name in few_names() if name != "scratch/mlp_relu"}
    assert not {name for name in changed if any(name.endswith(f"{other}.png") for other in others)}
    assert "first_layer/scratch/mlp_relu.png" not in changed
    assert "overall/samples.png" not in changed


def test_every_picture_has_a_title_and_named_axes(evaluated):
    tables = load_tables()
    images, labels = visualize.dataset.load_test_images(), visualize.dataset.load_labels("test")
    predictions = {m: visualize.load_predictions(m, len(labels)) for m in tables["summary"].model}
    model = "pytorch/linear"
    of_model = {name: t[t.model == model] for name, t in tables.items()}
    jobs = [
        *visualize.overall_pictures(tables, images, labels, predictions),
        *visualize.pictures_of(model, of_model, images, labels, predictions[model], np.arange(29)),
        *visualize.first_layer(model),
    ]
    assert len(jobs) == 19
    style.set_theme()
    for path, draw, *arguments in jobs:
        arguments = ["sklearn/a_model_with_a_long_name_indeed" if a is model else a for a in arguments]
        figure = draw(*arguments)
        style.fit_titles(figure)
        figure.canvas.draw()
        axes = [axis for axis in figure.axes if axis.get_label() != "<colorbar>" and axis.get_visible()]
        assert figure.get_suptitle() or all(axis.get_title() for axis in axes[:1]), path
        assert figure.get_supxlabel() or any(axis.get_xlabel() for axis in axes), path
        if draw.__name__ not in IMAGES_ONLY:
            assert figure.get_supylabel() or any(axis.get_ylabel() for axis in axes), path
        labels_of = " ".join(
            [figure.get_supxlabel(), figure.get_supylabel()]
            + [text for axis in figure.axes for text in (axis.get_xlabel(), axis.get_ylabel())]
        )
        assert any(unit in labels_of for unit in ("%", "(", "digit", "unit", "images")), path
        inside = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert inside.x0 > -0.02, f"{path}: cut off at the left"
        assert inside.y0 > -0.02, f"{path}: cut off at the bottom"
        assert inside.x1 < width + 0.02, f"{path}: cut off at the right"
        assert inside.y1 < height + 0.02, f"{path}: cut off at the top"
        plt.close(figure)


@pytest.fixture
def confusion():
    """Of each digit 90 images are right, and seven 3s are taken for an 8."""
    truth, prediction = np.meshgrid(np.arange(10), np.arange(10), indexing="ij")
    counts = np.where(truth == prediction, 90, 0)
    counts[3, 8] = 7
    shares = counts / counts.sum(axis=1, keepdims=True)
    columns = {"truth": truth, "prediction": prediction, "count": counts, "share": shares}
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()})


def test_a_confusion_matrix_shows_every_count_that_is_not_zero(confusion):
    figure = single.draw_confusion(confusion, "pytorch/b")
    texts = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in figure.axes[0].texts}
    assert len(texts) == 11
    assert texts[(3, 8)] == "7\n7.2%"
    assert "pytorch/b: 99.23%" in figure.axes[0].get_title()
    plt.close(figure)


def test_right_is_green_with_a_tick_and_wrong_is_red_with_a_cross():
    images, labels = np.zeros((2, 28, 28), np.uint8), np.array([4, 5])
    figure = single.draw_truths(images, labels, np.array([4, 9]), "a/b")
    (first, second) = figure.axes[0].texts
    assert (first.get_text(), first.get_color()) == ("✓ 4 / 4", style.RIGHT)
    assert (second.get_text(), second.get_color()) == ("✗ 9 / 5", style.WRONG)
    plt.close(figure)


def test_a_roc_picture_without_curves_says_why():
    curves = pd.DataFrame(columns=["digit", "false_positive_rate", "true_positive_rate"], dtype=float)
    figure = single.draw_roc(curves, pd.Series(dtype=float), "a/b")
    assert [text.get_text() for text in figure.axes[1].texts] == ["none: all images show one digit"]
    plt.close(figure)


def test_the_worst_mistakes_come_first_and_a_perfect_model_has_none():
    labels = np.arange(10)
    probabilities = np.eye(10, dtype=np.float32)[labels]
    probabilities[2], probabilities[6] = 0.1, 0.0
    probabilities[2, 3], probabilities[6, 0] = 0.2, 1.0
    tables = {
        "per_digit": pd.DataFrame({"digit": labels, "auc": 1.0}),
        "summary": pd.DataFrame({"calibration_error": [0.0]}),
        "confusion": None, "roc": None, "calibration": None, "history": [],
    }  # fmt: skip
    images = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((28, 28), np.uint8)

    def mistakes(p):
        jobs = visualize.pictures_of("a/b", tables, images, labels, p, np.arange(10))
        return next(job for job in jobs if job[0] == "mistakes/a/b.png")[2]

    assert mistakes(probabilities)[:, 0, 0].tolist() == [6, 2]
    assert len(mistakes(np.eye(10, dtype=np.float32))) == 0


@pytest.fixture
def three_models():
    """Their pairs: a is really better than c, b differs from both by what may be chance."""
    return pd.DataFrame(
        [
            ("a/a", "b/b", 0.01, 0.3, 0.97),
            ("a/a", "c/c", 0.1, 0.001, 0.8),
            ("b/b", "c/c", 0.09, 0.05, 0.9999),
        ],
        columns=["model", "other", "difference", "p_holm", "agreement"],
    ).replace({"a/a": "pytorch/a", "b/b": "scratch/b", "c/c": "sklearn/c"})


def texts_by_place(axis):
    return {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in axis.texts}


def test_the_matrix_of_differences_has_the_row_s_model_less_the_column_s(three_models):
    names = ["pytorch/a", "scratch/b", "sklearn/c"]
    axis = overall.draw_pairs(three_models, names, level=0.05).axes[0]
    texts = {(0, 1): "+1.00", (1, 0): "-1.00", (0, 2): "+10.0", (2, 0): "-10.0", (1, 2): "+9.00"}
    assert texts_by_place(axis) == texts | {(2, 1): "-9.00"}
    coloured = ~np.isnan(axis.images[0].get_array().filled(np.nan))
    assert np.argwhere(coloured).tolist() == [[0, 2], [2, 0]]
    assert axis.images[0].get_array()[0, 2] == pytest.approx(10)
    assert [label.get_text() for label in axis.get_yticklabels()] == names
    plt.close("all")


def test_the_matrix_of_agreement_is_symmetric(three_models):
    axis = overall.draw_agreement(three_models, ["sklearn/c", "pytorch/a", "scratch/b"]).axes[0]
    texts = {(0, 1): "80.0", (0, 2): "99.9", (1, 2): "97.0"}
    assert texts_by_place(axis) == texts | {(j, i): text for (i, j), text in texts.items()}
    plt.close("all")


def test_contributions_are_sorted_and_the_real_ones_starred():
    table = pd.DataFrame(
        {"model": ["pytorch/a", "scratch/b"], "gain": [0.002, -0.001], "p_holm": [0.01, 0.4]}
    )
    (axis,) = overall.draw_contributions(table, 0.98, level=0.05).axes
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([-0.1, 0.2])
    assert [text.get_text() for text in axis.texts] == ["-0.10", "+0.20 *"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["scratch/b", "pytorch/a"]
    plt.close("all")


def test_bars_and_points_show_accuracies_and_errors_with_their_intervals():
    summary = pd.DataFrame(
        [("pytorch/a", 0.98, 0.97, 0.99), ("sklearn/c", 1.0, 0.996, 1.0)],
        columns=["model", "accuracy", "accuracy_low", "accuracy_high"],
    )
    bars, errors = overall.draw_accuracies(summary).axes
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([98, 100])
    assert errors.lines[0].get_xdata() == pytest.approx([2])
    assert errors.collections[0].get_segments()[0][:, 0] == pytest.approx([1, 3])
    assert [text.get_text() for text in errors.texts] == ["none wrong"]
    assert errors.texts[0].get_position() == (8, 0)
    assert errors.texts[0].xy == (pytest.approx(0.4), 1)
    plt.close("all")


def test_a_reliability_diagram_has_confidence_below_and_accuracy_at_the_side():
    bins = {"low": [0.4, 0.8], "high": [0.6, 1.0], "images": [10, 90], "confidence": [0.5, 0.9]}
    bins |= {"accuracy": [0.3, 0.8], "accuracy_low": [0.1, 0.7], "accuracy_high": [0.6, 0.85]}
    points, images = single.draw_calibration(pd.DataFrame(bins), 0.05, "pytorch/a").axes
    assert points.lines[1].get_xydata().tolist() == [[50, 30], [90, 80]]
    spans = [segment[:, 1].tolist() for segment in points.collections[0].get_segments()]
    assert spans == [pytest.approx([10, 60]), pytest.approx([70, 85])]
    assert [(bar.get_x(), bar.get_height()) for bar in images.patches] == [(40, 10), (80, 90)]
    plt.close("all")


def test_the_truth_is_green_and_the_wrong_prediction_red():
    probabilities = np.full(10, 0.01, np.float32)
    probabilities[[3, 8]] = 0.32, 0.6
    _, bars = single.draw_probabilities(np.zeros((28, 28), np.uint8), 3, probabilities, "a/b").axes
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(100 * probabilities)
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in bars.patches]
    assert (colours[3], colours[8], len(set(colours))) == (style.RIGHT, style.WRONG, 3)
    plt.close("all")


def test_the_heading_of_curves_is_readable_however_few_networks_there_are():
    history = pd.DataFrame([["pytorch/a", 1, 0.1, 2.5, 0.5, 2.5, 0.5]], columns=["model", *HISTORY])
    figure = overall.draw_curves(history, "loss")
    style.fit_titles(figure)
    assert figure._suptitle.get_fontsize() >= 8
    plt.close(figure)


@pytest.mark.parametrize("last", [1.0, 0.0])
def test_digits_have_their_places_in_both_embeddings(last):
    rows = [(digit, digit, 2.0 * digit, -digit, last * (digit + 1)) for digit in range(10) for _ in range(3)]
    embedding = pd.DataFrame(rows, columns=["digit", "pca_1", "pca_2", "tsne_1", "tsne_2"])
    for axis, place in zip(overall.draw_embedding(embedding).axes, ([4, 8], [-4, 5 * last]), strict=True):
        assert np.isfinite([text.get_position() for text in axis.texts]).all()
        assert axis.collections[4].get_offsets().tolist() == 3 * [place]
        assert "30 test images" in axis.get_title()
    plt.close("all")


def test_without_any_number_of_parameters_that_picture_is_left_out(evaluated, run_stage):
    table = pd.read_csv("outputs/tables/summary.csv").assign(parameters=None)
    table.to_csv("outputs/tables/summary.csv", index=False)
    run_stage("visualize")
    run_stage("report")
    assert "overall/accuracy.png" in pictures(evaluated)
    assert "overall/accuracy_by_parameters.png" not in pictures(evaluated)


def test_names_beside_the_points_do_not_overlap_however_many_there_are():
    names = [f"sklearn/model_{i}" for i in range(60)]
    cost = pd.Series(np.geomspace(1, 1e3, 60), names)
    figure = overall.draw_cost(cost, pd.Series(0.01, names), "time (seconds)")
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # without their lines
    boxes.sort(key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(boxes))
    plt.close(figure)


def test_the_hardest_images_are_those_that_most_models_get_wrong():
    labels = np.array([0, 1, 2])
    predicted = np.array([[0, 7, 2], [0, 7, 3], [0, 8, 2], [0, 1, 2]])
    hardest, captions = visualize.find_hardest(labels, predicted)
    assert hardest.tolist() == [1]
    assert captions == ["is 1: 1 of 4 right,\nmostly 7"]


def test_a_first_dense_layer_after_pooling_is_not_drawn(trained):
    path = results.path("models", "pytorch", few_names()[0].split("/")[1], "safetensors")
    assert len(list(visualize.first_layer(few_names()[0]))) == 1
    for inputs in (14 * 14, 4 * 784):
        save_file({"2.weight": np.zeros((8, inputs), np.float32)}, path)
        assert list(visualize.first_layer(few_names()[0])) == []
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="holds no weights of a network"):
        list(visualize.first_layer(few_names()[0]))


def test_of_a_wide_first_layer_the_first_units_are_drawn():
    weights = np.random.default_rng(0).normal(size=(512, 28, 28)).astype(np.float32)
    wide, narrow = (single.draw_first_layer(units, "a model") for units in (weights, weights[:128]))
    (shown, _), (expected, _) = wide.axes, narrow.axes
    np.testing.assert_array_equal(shown.images[0].get_array(), expected.images[0].get_array())
    assert shown.get_xlabel().startswith("the first 128 of 512 units: ")
    assert expected.get_xlabel().startswith("128 units: ")


def test_the_user_s_own_matplotlibrc_changes_no_picture(monkeypatch, confusion):
    expected = style.png(single.draw_confusion, confusion, "pytorch/b")
    monkeypatch.setitem(plt.rcParams, "lines.antialiased", False)
    monkeypatch.setitem(plt.rcParams, "image.cmap", "jet")
    monkeypatch.setitem(plt.rcParams, "figure.dpi", style.THEME["figure.dpi"])
    monkeypatch.setitem(plt.rcParams, "xtick.direction", "in")
    style.set_theme.cache_clear()
    assert style.png(single.draw_confusion, confusion, "pytorch/b") == expected


def test_a_missing_table_is_named(evaluated, run_stage):
    for name in ("outputs/losses/pytorch/linear.npy", "outputs/embedding.csv", "outputs/tables/pairs.csv"):
        (evaluated / name).unlink()
        with pytest.raises(UserError, match=rf"{name} is missing"):
            run_stage("visualize")


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("summary", lambda t: t[:0], "as framework/model, each once"),
        ("summary", lambda t: t[:1], r"confusion\.csv .* the models of summary\.csv"),
        ("summary", lambda t: pd.concat([t, t[:1]]), "as framework/model, each once"),
        ("summary", lambda t: t.assign(model=[None, *t.model[1:]]), "as framework/model, each once"),
        ("summary", lambda t: t.assign(model=["a/b/c", *t.model[1:]]), "as framework/model, each once"),
        ("summary", lambda t: t.assign(accuracy=2), "a share, 0 to 1"),
        ("summary", lambda t: t.assign(accuracy=None), "a share, 0 to 1"),
        ("confusion", lambda t: t[:1], r"confusion\.csv .* the models of summary\.csv"),
        ("pairs", lambda t: t.assign(other="a/b"), r"pairs\.csv .* the models of summary\.csv"),
    ],
)
def test_a_table_that_does_not_fit_the_others_is_named(evaluated, run_stage, name, damage, complaint):
    path = evaluated / f"outputs/tables/{name}.csv"
    damage(pd.read_csv(path)).to_csv(path, index=False)
    for stage in ("visualize", "report"):
        with pytest.raises(UserError, match=complaint):
            run_stage(stage)


def be_killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_drawing_process_that_is_killed_is_said_in_a_line(evaluated, run_stage, monkeypatch):
    monkeypatch.setattr(style, "save", be_killed)
    with pytest.raises(UserError, match="a process that draws was ended from outside"):
        run_stage("visualize")


def test_pictures_are_small_files_of_few_colours(finished):
    for path in (finished / "outputs/plots").rglob("*.png"):
        assert path.stat().st_size < 150_000
        with Image.open(path) as picture:
            assert max(picture.size) < 1400
            assert picture.mode == "P"


@pytest.mark.parametrize("errors", [(0.0, 0.03), (0.0, 0.0)])
def test_a_model_without_an_error_has_its_place_on_the_logarithmic_axis(errors):
    names = ["pytorch/mlp", "sklearn/knn_3"]
    figure = overall.draw_cost(pd.Series([1e3, 1e5], names), pd.Series(errors, names), "parameters (count)")
    (axis,) = figure.axes
    heights = axis.collections[0].get_offsets()[:, 1]
    low, high = axis.get_ylim()
    assert ((low <= heights) & (heights <= high)).all()
    texts = {text.get_text() for text in axis.texts}
    assert texts == {f"{n}: none wrong" if e == 0 else n for n, e in zip(names, errors, strict=True)}
    plt.close(figure)


def test_long_names_and_few_models_stay_within_the_picture():
    names = ["pytorch/" + "m" * 50, "sklearn/knn_3", "ensemble/mean"]
    pairs = pd.DataFrame(
        [(a, b, 0.0001, 0.001, 1.0) for a, b in combinations(names, 2)],
        columns=["model", "other", "difference", "p_holm", "agreement"],
    )
    style.set_theme()
    one_epoch = {"epoch": 1, "train_accuracy": 0.9, "validation_accuracy": 0.9}
    figures = [
        overall.draw_pairs(pairs, names, 0.05),
        overall.draw_agreement(pairs, names),
        overall.draw_cost(pd.Series([1e3, 1e4, 1e5], names), pd.Series(0.0, names), "parameters (count)"),
        overall.draw_curves(pd.DataFrame([{"model": name} | one_epoch for name in names]), "accuracy"),
    ]
    for figure in figures:
        style.fit_titles(figure)
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert drawn.x0 >= 0 and drawn.y0 >= 0, figure
        assert drawn.x1 <= width and drawn.y1 <= height, figure
        plt.close(figure)


@pytest.mark.parametrize("wrong", [[1, 2, 4], [0, 1, 9000], [0, 0, 0]])
def test_axes_of_errors_have_numbers_however_few_there_are(wrong):
    errors = pd.Series([w / 10_000 for w in wrong], [f"sklearn/m{i}" for i in range(len(wrong))])
    bounds = [scores.wilson_interval(10_000 - w, 10_000) for w in wrong]
    summary = pd.DataFrame({"model": errors.index, "accuracy": 1 - errors.to_numpy()})
    summary[["accuracy_low", "accuracy_high"]] = bounds
    cost = pd.Series([0.0, 1.0, 10.0], errors.index)
    accuracies = overall.draw_accuracies(summary).axes[-1].xaxis
    costs = overall.draw_cost(cost, errors, "time (seconds)").axes[-1].yaxis
    for axis in (accuracies, costs):
        assert len(numbers_on(axis)) >= 2
    plt.close("all")


def numbers_on(axis):
    """The texts at the ticks of an axis, within its limits."""
    axis.figure.canvas.draw()
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return {t.label1.get_text() for t in ticks if low <= t.get_loc() <= high} - {""}


@pytest.mark.parametrize(
    "cost", [(0, 1, 10), (2e4, 5e4, 8e4), (2.3, 4.1, 8.9), (1e5, 2e5, 4e5), (11, 13, 15)]
)
def test_axes_of_costs_have_numbers_however_close_these_are(cost):
    names = [f"sklearn/m{i}" for i in range(len(cost))]
    figure = overall.draw_cost(pd.Series(cost, names), pd.Series([0.01, 0.02, 0.3], names), "time (seconds)")
    assert len(numbers_on(figure.axes[0].xaxis)) >= 2
    plt.close(figure)


@pytest.mark.parametrize("least", [1.0, 1e-3, 1e-8, 0.0])
def test_the_axis_of_losses_has_numbers_however_small_they_are(least):
    history = pd.DataFrame([[1, 0.1, 2.5, 0.5, 2.5, 0.5]], columns=HISTORY)
    figure = single.draw_training(history, np.array([2.5, 1.0, least], np.float32), "pytorch/a")
    axis = figure.axes[0]
    low, high = axis.get_ylim()
    assert sum(low <= tick <= high for tick in axis.get_yticks()) >= 1
    plt.close(figure)
