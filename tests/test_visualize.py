"""The pictures: the same bytes every time, other bytes for other results, all readable."""

import os
import re
import signal
from functools import partial
from itertools import combinations, pairwise

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import FEW, FEW_NAMES, leave_trained, right, tiny_arrays, write_data
from matplotlib.text import Text
from PIL import Image
from safetensors.numpy import save_file

from stages import visualize
from stages.common import dataset, results
from stages.console.errors import UserError
from stages.evaluation import scores
from stages.evaluation.tables import HISTORY, MEAN, SCORES, VOTE, load_tables
from stages.pictures import overall, single, style

DIGITS = tuple(map(str, range(10)))
WORDS = ("Shirt", "Ankle boot", "Bag", "Coat")


@pytest.fixture(autouse=True)
def theme():
    style.set_theme()
    yield
    plt.close("all")


@pytest.fixture
def evaluated(compared, run_stage):
    run_stage("embed_images")
    return compared


def pictures(folder):
    plots = folder / "outputs/plots"
    return {path.relative_to(plots).as_posix(): path.read_bytes() for path in plots.rglob("*.png")}


def test_pictures_follow_the_results_and_the_others_stay_the_same_bytes(evaluated, run_stage):
    run_stage("visualize")
    first = pictures(evaluated)
    everyone = [*FEW_NAMES, MEAN]
    for kind in ("confusion", "roc", "calibration", "predictions", "truths", "mistakes", "probabilities"):
        assert {f"{kind}/{name}.png" for name in everyone} <= set(first)
    assert {name for name in first if VOTE in name} == {
        f"{kind}/{VOTE}.png" for kind in ("confusion", "truths")
    }
    networks = [f"{f}/{m}" for f in ("pytorch", "tensorflow", "scratch") for m in FEW[f]]
    for kind in ("training", "first_layer"):
        assert {name for name in first if name.startswith(kind)} == {
            f"{kind}/{name}.png" for name in networks
        }

    np.save(results.predictions("scratch", "mlp_relu"), right(0.5))
    for stage in ("evaluate", "compare_models", "visualize"):
        run_stage(stage)
    second = pictures(evaluated)
    changed = {name for name in first if first[name] != second[name]}
    assert {"overall/accuracy.png", "overall/pairs.png", "overall/agreement.png"} <= changed
    assert {f"{kind}/scratch/mlp_relu.png" for kind in ("confusion", "roc", "calibration")} <= changed
    others = {name for name in FEW_NAMES if name != "scratch/mlp_relu"}
    assert not {name for name in changed if any(name.endswith(f"{other}.png") for other in others)}
    assert "first_layer/scratch/mlp_relu.png" not in changed
    assert "overall/samples.png" not in changed


NAMES = (
    r"epoch|model|compared with|(true |predicted )?class|images|the test image it is least sure about"
    r"|truth: models that are right, and the most frequent wrong class|.*\(.+\).*"
)
"""What an axis may be called: but for these, each name has a unit in brackets."""


def complaints(figure):
    """What is wrong with a picture: no title, axes without name or unit, small or overlapping letters."""
    style.fit_titles(figure)
    figure.canvas.draw()
    axes = [axis for axis in figure.axes if axis.get_visible()]
    headings = [text for text in figure.texts if text.get_text() == figure.get_suptitle()]
    if any(heading.get_fontsize() < 8 for heading in headings):
        yield "heading too small"
    if not (figure.get_suptitle() or axes[0].get_title()):
        yield "no title"
    for axis in axes:
        bare = axis.get_label() == "<colorbar>" or not axis.get_xticks().size  # images, without a scale
        for letter in "xy":
            sharing = getattr(axis, f"get_shared_{letter}_axes")().get_siblings(axis)
            names = {getattr(other, f"get_{letter}label")() for other in sharing}
            names = (names | {getattr(figure, f"get_sup{letter}label")()}) - {""}
            if not (names or bare) or not all(re.fullmatch(NAMES, name) for name in names):
                yield f"an axis is called {names}"
        for side, ends in ((axis.xaxis, ("x0", "x1")), (axis.yaxis, ("y0", "y1"))):
            ticks = [tick for tick in side.get_ticklabels() if tick.get_text() and tick.get_visible()]
            if any(tick.get_fontsize() < 5 for tick in ticks):
                yield "letters too small"
            spans = sorted([getattr(tick.get_window_extent(), end) for end in ends] for tick in ticks)
            if any(after[0] < before[1] - 1 for before, after in pairwise(spans)):
                yield f"overlap: {[tick.get_text() for tick in ticks]}"
    inside, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    if min(inside.x0, inside.y0) < -0.02 or inside.x1 > width + 0.02 or inside.y1 > height + 0.02:
        yield f"cut off: {inside.extents} of {width} × {height} inches"
    if max(width, height) * figure.dpi > 1500:
        yield f"large: {width} × {height} inches"
    plt.close(figure)


OF_CLASSES = r"overall/(samples|embedding|hardest)|confusion|roc|predictions|truths|mistakes|prob|first_layer"
"""The pictures that depend on the classes or the size of the images."""
SHAPES = [
    (DIGITS, (28, 28)),
    (("no", "a name far longer than its picture is wide"), (8, 8)),
    (tuple(f"{letter} as in Ankle boot" for letter in "ZABCDEFGHIJKLMNOPQRSTUVWXY"), (20, 32)),
    (tuple(f"kind {number}" for number in range(99, -1, -1)), (64, 48)),
]


@pytest.mark.parametrize(("classes", "size"), SHAPES, ids=["digits", "two", "letters", "hundred"])
def test_every_picture_is_readable_whatever_the_classes_and_the_size(workspace, run_stage, classes, size):
    count = len(classes)
    write_data(workspace, tiny_arrays(400, 200, count, size), list(classes))
    names = ["pytorch/linear", "tensorflow/cnn", "scratch/mlp_relu"]
    for number, name in enumerate(names, start=4):
        leave_trained(name, number, classes, size)
    for stage in ("evaluate", "compare_models", "embed_images"):
        run_stage(stage)
    data, tables, (images, labels) = dataset.describe(), load_tables(classes), dataset.load_test()
    predictions = {m: visualize.load_predictions(m, data) for m in tables["summary"].model}
    jobs = dict(visualize.overall_pictures(tables, images, labels, predictions, classes))
    for model in (names[0], VOTE):
        of_model = {name: t[t.model == model] for name, t in tables.items()}
        chosen = np.arange(29)
        jobs |= visualize.pictures_of(model, of_model, images, labels, predictions[model], chosen, classes)
    jobs |= visualize.first_layer(names[0], size)
    assert len(jobs) == 21
    for path, draw in jobs.items():
        arguments = ["sklearn/a_model_with_a_long_name_indeed" if a is names[0] else a for a in draw.args]
        if classes == DIGITS or re.match(OF_CLASSES, path):
            assert not list(complaints(draw.func(*arguments))), path
    matrix = jobs[f"confusion/{names[0]}.png"]().axes[0]
    assert [label.get_text() for label in matrix.get_xticklabels()] == [style.short(name) for name in classes]
    assert bool(matrix.texts) == (count <= 30), "figures where there is room for them"
    legend = jobs[f"roc/{names[0]}.png"]().legends[0].get_texts()
    assert len(legend) == (count + 1 if count <= 20 else single.NAMED + 2)
    sheet = jobs["overall/samples.png"]
    assert len(sheet.args[0]) <= 100
    assert list(dict.fromkeys(sheet.args[1])) == list(classes), "each class, in the data set's order"


def test_a_confusion_matrix_shows_every_count_that_is_not_zero_in_the_data_set_s_order():
    counts = 90 * np.eye(4, dtype=int)
    counts[1, 3] = 7
    figure = single.draw_confusion(scores.confusion(counts, WORDS), WORDS, "pytorch/b")
    axis = figure.axes[0]
    assert texts_by_place(axis) | {(1, 3): "7\n7.2%"} == texts_by_place(axis)
    assert len(axis.texts) == 5
    assert axis.images[0].get_array()[1].tolist() == pytest.approx([0, 90 / 97, 0, 7 / 97])
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert tuple(label.get_text() for label in labels) == WORDS
    assert "pytorch/b: 98.09%" in axis.get_title()


def test_right_is_green_with_a_tick_and_wrong_is_red_with_a_cross():
    images, labels = np.zeros((2, 20, 32), np.uint8), np.array([1, 2])
    figure = single.draw_truths(images, labels, np.array([1, 3]), WORDS, "a/b")
    (first, second) = figure.axes[0].texts
    assert (first.get_text(), first.get_color()) == ("✓ Ankle boot\n/ Ankle boot", style.RIGHT)
    assert (second.get_text(), second.get_color()) == ("✗ Coat\n/ Bag", style.WRONG)


def test_images_that_are_not_square_keep_their_proportions():
    images = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((20, 32), np.uint8) + 1
    axis = style.draw_sheet(images, ["a", "b", "c"], 3 * ["black"], 2, "title", "label").axes[0]
    canvas = axis.images[0].get_array().filled(0)
    for value, caption in zip((1, 2, 3), axis.texts, strict=True):
        down, across = np.nonzero(canvas == value)
        assert (np.ptp(down) + 1, np.ptp(across) + 1) == (20, 32)
        assert caption.get_position()[0] == across.mean()
        assert caption.get_position()[1] > down.max()
    box, (rows, columns) = axis.get_position(), canvas.shape
    width, height = axis.figure.get_size_inches() * (box.width, box.height)
    assert width / columns == pytest.approx(height / rows, rel=1e-6)


def test_a_roc_picture_without_curves_says_why():
    curves = pd.DataFrame(columns=["class", "false_positive_rate", "true_positive_rate"], dtype=float)
    figure = single.draw_roc(curves, pd.Series(np.nan, WORDS), "a/b")
    assert [text.get_text() for text in figure.axes[1].texts] == ["none: all images show one class"]


def test_of_many_classes_those_with_the_smallest_areas_have_colours():
    classes = [f"c{number:02}" for number in range(30)]
    areas = pd.Series([*np.linspace(0.999, 0.99, 15), *np.linspace(0.98, 0.97, 15)], classes)
    rows = [(name, x, areas[name] * x) for name in classes for x in (0, 0.1, 1)]
    curves = pd.DataFrame(rows, columns=["class", "false_positive_rate", "true_positive_rate"])
    figure = single.draw_roc(curves, areas, "a/b")
    shown = [text.get_text().split()[0] for text in figure.legends[0].get_texts()]
    assert sorted(shown[:10]) == classes[20:]
    assert figure.legends[0].get_texts()[10].get_text() == "the 20 other classes"
    heights = {line.get_ydata()[-1] for line in figure.axes[1].lines if line.get_color() != "#c4c7cc"}
    assert heights == {100 * area for area in areas[20:]}


def test_the_worst_mistakes_come_first_and_a_perfect_model_has_none():
    labels = np.arange(10)
    probabilities = np.eye(10, dtype=np.float32)[labels]
    probabilities[2], probabilities[6] = 0.1, 0.0
    probabilities[2, 3], probabilities[6, 0] = 0.2, 1.0
    tables = {
        "per_class": pd.DataFrame({"class": DIGITS, "auc": 1.0}),
        "summary": pd.DataFrame({"calibration_error": [0.0]}),
        "confusion": None, "roc": None, "calibration": None, "history": [],
    }  # fmt: skip
    images = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((28, 28), np.uint8)

    def mistakes(p):
        jobs = visualize.pictures_of("a/b", tables, images, labels, p, np.arange(10), DIGITS)
        return dict(jobs)["mistakes/a/b.png"].args[0]

    assert mistakes(probabilities)[:, 0, 0].tolist() == [6, 2]
    assert len(mistakes(np.eye(10, dtype=np.float32))) == 0


@pytest.fixture
def three_models():
    """Their pairs: a is significantly better than c, b is not distinguished from either."""
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
    names = ["sklearn/c", "pytorch/a", "scratch/b"]  # another order than the pairs'
    axis = overall.draw_pairs(three_models, names, level=0.05).axes[0]
    texts = {(1, 2): "+1.00", (2, 1): "-1.00", (1, 0): "+10.0", (0, 1): "-10.0", (2, 0): "+9.00"}
    assert texts_by_place(axis) == texts | {(0, 2): "-9.00"}
    coloured = ~np.isnan(axis.images[0].get_array().filled(np.nan))
    assert np.argwhere(coloured).tolist() == [[0, 1], [1, 0]]
    assert axis.images[0].get_array()[1, 0] == pytest.approx(10)
    assert [label.get_text() for label in axis.get_yticklabels()] == names


def test_the_matrix_of_agreement_is_symmetric(three_models):
    axis = overall.draw_agreement(three_models, ["sklearn/c", "pytorch/a", "scratch/b"]).axes[0]
    texts = {(0, 1): "80.0", (0, 2): "99.9", (1, 2): "97.0"}
    assert texts_by_place(axis) == texts | {(j, i): text for (i, j), text in texts.items()}


def test_contributions_are_sorted_and_the_significant_ones_starred():
    table = pd.DataFrame(
        {"model": ["pytorch/a", "scratch/b"], "gain": [0.002, -0.001], "p_holm": [0.01, 0.4]}
    )
    (axis,) = overall.draw_contributions(table, 0.98, level=0.05).axes
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([-0.1, 0.2])
    assert [text.get_text() for text in axis.texts] == ["-0.10", "+0.20 *"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["scratch/b", "pytorch/a"]


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


BINS = pd.DataFrame(
    [(0.4, 0.6, 10, 0.5, 0.3, 0.1, 0.6), (0.8, 1.0, 90, 0.9, 0.8, 0.7, 0.85)],
    columns=SCORES["calibration"][1:],
)


def test_a_reliability_diagram_has_confidence_below_and_accuracy_at_the_side():
    points, images = single.draw_calibration(BINS, 0.05, "pytorch/a").axes
    assert points.lines[1].get_xydata().tolist() == [[50, 30], [90, 80]]
    spans = [segment[:, 1].tolist() for segment in points.collections[0].get_segments()]
    assert spans == [pytest.approx([10, 60]), pytest.approx([70, 85])]
    assert [(bar.get_x(), bar.get_height()) for bar in images.patches] == [(40, 10), (80, 90)]


def test_the_truth_is_green_and_the_wrong_prediction_red():
    probabilities = np.full(10, 0.01, np.float32)
    probabilities[[3, 8]] = 0.32, 0.6
    _, bars = single.draw_probabilities(np.zeros((28, 28), np.uint8), 3, probabilities, DIGITS, "a/b").axes
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(100 * probabilities)
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in bars.patches]
    assert (colours[3], colours[8], len(set(colours))) == (style.RIGHT, style.WRONG, 3)


def test_of_many_classes_the_most_probable_and_the_truth_are_shown():
    probabilities = np.linspace(0, 0.2, 26, dtype=np.float32)
    classes = tuple("zyxwvutsrqponmlkjihgfedcba")
    _, bars = single.draw_probabilities(np.zeros((8, 8), np.uint8), 2, probabilities, classes, "a/b").axes
    assert "".join(label.get_text() for label in bars.get_yticklabels()) == "xihgfedcba"
    assert bars.get_title() == "Its 10 highest probabilities"


@pytest.mark.parametrize("last", [1.0, 0.0])
def test_classes_have_their_places_in_both_embeddings(last):
    rows = [(name, n, 2.0 * n, -n, last * (n + 1)) for n, name in enumerate(WORDS) for _ in range(3)]
    embedding = pd.DataFrame(rows, columns=["class", "pca_1", "pca_2", "tsne_1", "tsne_2"])
    figure = overall.draw_embedding(embedding, WORDS)
    for axis, place in zip(figure.axes, ([2, 4], [-2, 3 * last]), strict=True):
        assert np.isfinite([text.get_position() for text in axis.texts]).all()
        assert axis.collections[2].get_offsets().tolist() == 3 * [place]
        assert "12 test images" in axis.get_title()
    assert tuple(text.get_text() for text in figure.legends[0].get_texts()) == WORDS


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


def test_the_hardest_images_are_those_that_most_models_get_wrong():
    labels = np.array([0, 1, 2])
    predicted = np.array([[0, 3, 2], [0, 3, 3], [0, 2, 2], [0, 1, 2]])
    hardest, captions = visualize.find_hardest(labels, predicted, WORDS)
    assert hardest.tolist() == [1]
    assert captions == ["is Ankle boot: 1 of 4 right,\nmostly Coat"]


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow", "scratch"])
def test_the_first_layer_is_drawn_unit_by_unit_if_it_is_dense(trained, framework):
    name = f"{framework}/{FEW[framework][0]}"
    path = results.folder(*name.split("/")) / "weights.safetensors"
    units = np.arange(3 * 784, dtype=np.float32).reshape(3, 28, 28)
    save_file({"0.dense.weights": np.ascontiguousarray(units.reshape(3, -1).T)}, path)
    ((drawn, picture),) = visualize.first_layer(name, (28, 28))
    assert drawn == f"first_layer/{name}.png"
    np.testing.assert_array_equal(picture.args[0], units)
    for other in ({"0.conv.weights": units}, {"1.dense.weights": units}):  # pooled or flipped pixels
        save_file(other, path)
        assert list(visualize.first_layer(name, (28, 28))) == []
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="holds no weights of a network"):
        list(visualize.first_layer(name, (28, 28)))
    assert list(visualize.first_layer("sklearn/knn_3", (28, 28))) == []


def test_of_a_wide_first_layer_the_first_units_are_drawn():
    weights = np.random.default_rng(0).normal(size=(512, 20, 32)).astype(np.float32)
    wide, narrow = (single.draw_first_layer(units, "a model") for units in (weights, weights[:128]))
    (shown, _), (expected, _) = wide.axes, narrow.axes
    np.testing.assert_array_equal(shown.images[0].get_array(), expected.images[0].get_array())
    assert shown.get_xlabel().startswith("the first 128 of 512 units: ")
    assert expected.get_xlabel().startswith("128 units: ")
    np.testing.assert_array_equal(shown.images[0].get_array()[22:42, 34:66], weights[17])


def test_the_user_s_own_matplotlibrc_changes_no_picture(monkeypatch):
    draw = partial(single.draw_calibration, BINS, 0.05, "pytorch/b")
    expected = style.png(draw)
    for name, value in {"lines.antialiased": False, "xtick.direction": "in", "axes.titlesize": 20}.items():
        monkeypatch.setitem(plt.rcParams, name, value)
    assert style.png(draw) != expected
    style.set_theme.cache_clear()
    assert style.png(draw) == expected


def test_a_missing_file_is_named(evaluated, run_stage):
    for name in ("models/pytorch/linear/losses", "embedding", "comparison/pairs", "tables/roc"):
        (evaluated / "outputs" / f"{name}.csv").unlink()
        with pytest.raises(UserError, match=rf"{name}\.csv is missing"):
            run_stage("visualize")


ONCE, ITS_MODELS = "as framework/model, each once", r"\.csv .* the models of summary\.csv"
ITS_CLASSES = r"\.csv .* the classes of data/dataset"


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("tables/summary", lambda t: t[:0], ONCE),
        ("tables/summary", lambda t: pd.concat([t, t[:1]]), ONCE),
        ("tables/summary", lambda t: t.assign(model=[None, *t.model[1:]]), ONCE),
        ("tables/summary", lambda t: t.assign(model=["a/b/c", *t.model[1:]]), ONCE),
        ("tables/summary", lambda t: t.assign(accuracy=2), "a share, 0 to 1"),
        ("tables/summary", lambda t: t.assign(accuracy=None), "a share, 0 to 1"),
        ("tables/summary", lambda t: t[:1], f"tables/confusion{ITS_MODELS}"),
        ("comparison/per_class", lambda t: t[:1], f"comparison/per_class{ITS_MODELS}"),
        ("comparison/pairs", lambda t: t.assign(other="a/b"), f"pairs{ITS_MODELS}"),
        ("comparison/pairs", lambda t: t[:1], f"pairs{ITS_MODELS}"),
        ("tables/confusion", lambda t: t.assign(truth="7½"), f"confusion{ITS_CLASSES}"),
        ("tables/roc", lambda t: t.assign(**{"class": "Ä"}), f"roc{ITS_CLASSES}"),
    ],
)
def test_a_table_that_does_not_fit_the_others_is_named(compared, run_stage, name, damage, complaint):
    path = compared / f"outputs/{name}.csv"
    damage(pd.read_csv(path)).to_csv(path, index=False)
    for stage in ("visualize", "report"):
        with pytest.raises(UserError, match=complaint):
            run_stage(stage)


def be_killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def note_process(path, draw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(f".{os.getpid()}").write_text(str(os.getppid()))


def test_as_many_processes_draw_as_there_are_cores_and_one_that_is_killed_is_said_in_a_line(
    evaluated, run_stage, monkeypatch
):
    monkeypatch.setattr(style, "save", note_process)
    monkeypatch.setattr(visualize, "cpu_count", lambda: 1)
    run_stage("visualize")
    notes = [path for path in (evaluated / "outputs/plots").rglob("*") if path.is_file()]
    assert len({path.suffix for path in notes}) == 1
    assert str(os.getpid()) not in {path.read_text() for path in notes}, "no copy of this process"
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


def test_long_names_and_few_models_stay_within_the_picture():
    names = ["pytorch/" + "m" * 40, "sklearn/knn_3", "ensemble/mean"]
    pairs = pd.DataFrame(
        [(a, b, 0.0001, 0.001, 1.0) for a, b in combinations(names, 2)],
        columns=["model", "other", "difference", "p_holm", "agreement"],
    )
    curves = [(name, 1, 0.1, 2.5, 0.5, 2.5, 0.5) for name in names]
    curves = pd.DataFrame(curves, columns=["model", *HISTORY])
    cost = pd.Series([1e3, 1e4, 1e5], names)
    for figure in (
        overall.draw_pairs(pairs, names, 0.05),
        overall.draw_agreement(pairs, names),
        overall.draw_cost(cost, pd.Series(0.0, names), "parameters (count)"),
        overall.draw_curves(curves, "accuracy"),
        overall.draw_curves(curves[1:2], "loss"),
    ):
        assert not list(complaints(figure))


def numbers_on(axis):
    """The texts at the ticks of an axis, within its limits."""
    axis.figure.canvas.draw()
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return {t.label1.get_text() for t in ticks if low <= t.get_loc() <= high} - {""}


def accuracies_of(*wrong):
    rows = [(f"sklearn/m{w}", 1 - w / 1e4, *scores.wilson_interval(10_000 - w, 10_000)) for w in wrong]
    summary = pd.DataFrame(rows, columns=["model", "accuracy", "accuracy_low", "accuracy_high"])
    return overall.draw_accuracies(summary).axes[-1].xaxis


def cost_of(*cost, errors=(0.01, 0.02, 0.3)):
    names = [f"sklearn/m{i}" for i in range(len(cost))]
    return overall.draw_cost(pd.Series(cost, names), pd.Series(errors, names), "time (seconds)").axes[-1]


def losses_of(least):
    history = pd.DataFrame([[1, 0.1, 2.5, 0.5, 2.5, 0.5]], columns=HISTORY)
    return single.draw_training(history, np.array([2.5, 1.0, least], np.float32), "pytorch/a").axes[0].yaxis


@pytest.mark.parametrize(
    ("draw", "least"),
    [
        *((partial(accuracies_of, *wrong), 2) for wrong in ((1, 2, 4), (0, 1, 9000), (0, 0, 0))),
        (lambda: cost_of(0, 1, 10, errors=(1e-4, 2e-4, 4e-4)).yaxis, 2),
        (lambda: cost_of(0, 1, 10, errors=(0, 1e-4, 0.9)).yaxis, 2),
        (lambda: cost_of(0, 1, 10, errors=(0, 0, 0)).yaxis, 2),
        (lambda: cost_of(0, 1, 10).xaxis, 2),
        (lambda: cost_of(2e4, 5e4, 8e4).xaxis, 2),
        (lambda: cost_of(2.3, 4.1, 8.9).xaxis, 2),
        (lambda: cost_of(1e5, 2e5, 4e5).xaxis, 2),
        (lambda: cost_of(11, 13, 15).xaxis, 2),
        *((partial(losses_of, loss), 1) for loss in (1.0, 1e-3, 1e-8, 0.0)),
    ],
)
def test_an_axis_has_numbers_however_few_close_or_small_they_are(draw, least):
    assert len(numbers_on(draw())) >= least
