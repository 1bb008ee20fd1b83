"""The report and the page of `dvc plots`: what they hold, and how a real browser shows them offline."""

import html
import json
import platform
import re
import time

import numpy as np
import pandas as pd
import pytest
import vl_convert
from conftest import (
    FEW_NAMES,
    ROOT,
    SCREENS,
    browser_needed,
    dvc,
    edit_json,
    leave_trained,
    tiny_arrays,
    write_data,
)

from stages import plots_page, report
from stages.common import results
from stages.console.errors import UserError
from stages.evaluation import scores
from stages.pictures import overall

pytestmark = pytest.mark.xdist_group("browser")


def summaries(project):
    """The tables `summary` of the models and of the ensembles."""
    paths = [project / f"outputs/{folder}/summary.csv" for folder in ("tables", "comparison")]
    return pd.concat(map(pd.read_csv, paths)).set_index("model")


@browser_needed
@pytest.mark.parametrize("size", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_the_screen_and_shows_every_picture(finished, open_page, size, scheme):
    report, plots = finished / "outputs/report", finished / "outputs/plots"
    name = "scratch/mlp_relu"
    shown = {
        report / "index.html": len(list((plots / "overall").glob("*.png"))) + 2,  # and those with seconds
        report / f"models/{name.replace('/', '-')}.html": len(list(plots.glob(f"*/{name}.png"))),
    }
    images = []
    for path, pictures in shown.items():
        page = open_page(path.as_uri(), size, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == SCREENS[size][0]
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
        found = page.evaluate(
            """async () => Promise.all([...document.querySelectorAll("figure img")].map(async image => {
                image.loading = "eager"; await image.decode();
                return [image.naturalWidth, image.alt, image.closest("figure").innerText.trim()] }))"""
        )
        assert len(found) == pictures
        images += found
    assert all(width > 0 and alt and caption for width, alt, caption in images)


@pytest.fixture
def report_page(finished, open_page):
    return open_page((finished / "outputs/report/index.html").as_uri())


@browser_needed
def test_the_results_sort_by_click_and_by_keyboard_and_those_without_a_figure_last(finished, report_page):
    page, summary = report_page, summaries(finished)

    def figures(column: str) -> list[float]:
        time.sleep(0.2)
        return [summary[column][model] for model in page.locator("#results tbody tr th").all_inner_texts()]

    accuracy = sorted(summary.accuracy, reverse=True)
    assert sorted(figures("accuracy"), reverse=True) == accuracy
    head = page.locator("#results th", has_text=re.compile("^accuracy"))
    assert head.get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="macro F1", exact=True).click()
    assert figures("macro_f1") == sorted(summary.macro_f1, reverse=True)
    page.get_by_role("button", name="accuracy", exact=True).focus()
    page.keyboard.press("Enter")
    assert figures("accuracy") == accuracy
    page.keyboard.press("Space")
    assert figures("accuracy") == accuracy[::-1]
    for _ in range(2):
        page.get_by_role("button", name="parameters", exact=True).click()
        assert np.isnan(figures("parameters")[-2:]).all(), "the ensembles"


@browser_needed
def test_a_model_s_name_leads_to_its_page_and_back(report_page):
    page = report_page
    page.locator("#results").get_by_role("link", name="scratch/mlp_relu").click()
    page.get_by_role("heading", name="scratch/mlp_relu").wait_for()
    page.get_by_role("link", name="All models").click()
    page.locator("#results").wait_for()


@browser_needed
def test_a_picture_opens_large_and_closes_by_key(report_page):
    page = report_page
    page.locator("header .enlarge").focus()
    page.keyboard.press("Enter")
    large = page.locator("#large img")
    large.wait_for()
    assert large.get_attribute("src") == page.locator("header figure img").get_attribute("src")
    page.keyboard.press("Escape")
    large.wait_for(state="hidden")


@browser_needed
def test_the_report_leads_to_the_page_to_draw_on(finished, open_page):
    page = open_page((finished / "outputs/report/index.html").as_uri())
    page.get_by_role("link", name="Draw yourself").click()
    page.locator("#pad").wait_for()
    assert page.locator("#answers tbody tr").count() == 4, "all networks of the project are small"


@browser_needed
def test_the_plots_of_dvc_are_drawn_without_a_network(project, tmp_path, open_page):
    dvc(project, "plots", "show", "--out", str(tmp_path / "page"))
    index = tmp_path / "page" / "index.html"
    assert index.stat().st_size < 3e6
    page = open_page(index.as_uri())
    page.wait_for_function("document.querySelectorAll('canvas').length == 5", timeout=20_000)
    blank = page.evaluate(
        """[...document.querySelectorAll("canvas")].filter(canvas => {
            const {width, height} = canvas;
            const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
            return new Set(data).size < 20 }).length"""
    )
    assert blank == 0


def test_the_plot_of_training_leaves_out_models_that_hold_no_images_out(project, tmp_path):
    path = project / "outputs/tables/history.csv"
    table = pd.read_csv(path)
    table.loc[table.model == "scratch/mlp_relu", ["validation_loss", "validation_accuracy"]] = None
    path.unlink()
    table.to_csv(path, index=False)
    dvc(project, "plots", "show", "--out", str(tmp_path / "page"))
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    plot = json.loads(re.search(r"var spec = (.*);\s*vegaEmbed\('#training'", page)[1])
    picture = vl_convert.vegalite_to_svg(plot, vl_version=plots_page.VEGA_LITE)
    panels = {name for name in FEW_NAMES if f">{name}<" in picture}
    assert panels == {"pytorch/linear", "tensorflow/cnn", "scratch/mlp_sigmoid"}


@pytest.mark.parametrize(
    ("template", "x", "y"),
    [
        ("training", [*range(1, 13)], [0.5 + n / 100 for n in range(12)]),
        ("roc", [0, 7e-05, 2e-4, 2e-4, 0.01, 1], [0, 0.8, 0.85, 0.9, 0.95, 1]),
    ],
)
def test_a_line_goes_from_left_to_right_though_dvc_hands_on_texts(template, x, y):
    rows = [
        {"model": "a/b", "rev": "workspace", "class": "0", "x": str(at), "y": str(value)}
        for at, value in zip(x, y, strict=True)
    ]
    line = re.search(r'aria-roledescription="line mark"[^>]* d="([^"]+)"', drawn(template, rows, "x", "y"))[1]
    places = [float(point.split(",")[0]) for point in re.split("[ML]", line)[1:]]
    assert len(places) == len(x)
    assert places == sorted(places)


def drawn(template, rows, x, y):
    """What DVC would draw of these rows with a template, as SVG."""
    text = (ROOT / f".dvc/plots/{template}.json").read_text(encoding="utf-8")
    plot = text.replace('"<DVC_METRIC_DATA>"', json.dumps(rows))
    plot = plot.replace("<DVC_METRIC_X>", x).replace("<DVC_METRIC_Y>", y)
    return vl_convert.vegalite_to_svg(json.loads(plot), vl_version=plots_page.VEGA_LITE)


def test_plots_have_the_classes_in_the_data_set_s_order_and_figures_where_there_is_room():
    names = ["Shirt", "Ankle boot", "Bag"]
    counts = np.array([[7, 1, 0], [0, 8, 0], [2, 0, 6]])
    for classes in (names, [*names, *map(str, range(20))]):
        size = len(classes)
        table = scores.confusion(np.pad(counts, (0, size - 3)), tuple(classes))
        rows = table.assign(model="a/b", rev="workspace").astype(str).to_dict("records")
        picture = drawn("confusion_counts", rows, "prediction", "truth")
        assert list(dict.fromkeys(re.findall(r">(Shirt|Ankle boot|Bag)<", picture))) == names
        figures = set(re.findall(r'font-size="9px"[^>]*>(\d+)<', picture))
        assert figures == ({"7", "1", "8", "2", "6"} if size == 3 else set())
    rows = [
        {"model": "a/b", "rev": "workspace", "class": name, "x": str(at), "y": str(at)}
        for name in names
        for at in (0, 1)
    ]
    assert re.findall(r">(Shirt|Ankle boot|Bag)<", drawn("roc", rows, "x", "y")) == names


def write_report(run_stage):
    for stage in ("evaluate", "compare_models", "embed_images", "visualize", "report"):
        run_stage(stage)
    paths = [results.OUTPUTS / "report/index.html", *sorted((results.OUTPUTS / "report/models").iterdir())]
    return "".join(path.read_text(encoding="utf-8") for path in paths)


def words_of(page):
    """The text of a page, without its tags."""
    return " ".join(html.unescape(re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", page, flags=re.S)).split())


def test_the_report_says_what_the_tables_say(trained, run_stage):
    page = write_report(run_stage)
    rows = re.findall(
        r"<tr><th[^>]*><a href=\"models/[\w-]+\.html\">(\S+)</a></th>\s*"
        r"<td data-sort=\"[\d.]+\">([\d.]+)%</td>",
        page,
    )
    assert {model: float(figure) for model, figure in rows} == pytest.approx(
        {model: 100 * accuracy for model, accuracy in summaries(trained).accuracy.items()}
    )
    for name in FEW_NAMES:
        assert (trained / f"outputs/report/models/{name.replace('/', '-')}.html").is_file()
    assert str(trained) not in page
    assert re.search(r"is significantly better than (none|\d+) of the 6 others", page)
    assert not re.findall(r"(?:src|href)=[\"']https?://(?!github\.com/tofsjonas)", page)
    assert (trained / "outputs/report/index.html").stat().st_size < 5e6
    cost = pd.read_csv(trained / "outputs/report/cost.csv").set_index("model")
    assert set(cost.index) == set(FEW_NAMES)
    assert cost.training_seconds["pytorch/linear"] == 0.5
    assert (cost.parameters["pytorch/linear"], cost.peak_mebibytes["pytorch/linear"]) == (1, 100)
    resume = (trained / "outputs/report/resume.md").read_text(encoding="utf-8")
    assert "PyTorch: 99.00% test accuracy" in resume
    assert "NumPy, written from scratch: 97.00%" in resume
    assert "5 classifiers of images (tiny: 400 training and\n  100 test images, 10 classes)" in resume


def test_the_page_calls_the_classes_by_their_names_and_nothing_a_digit(workspace, run_stage):
    names = [f"<{letter}> & Ankle boot" for letter in "zabcdefghijklmnopqrstuvwxy"]
    write_data(workspace, tiny_arrays(400, 200, 26, (20, 32)), names)
    for number, model in enumerate(("pytorch/linear", "scratch/mlp_relu"), start=4):
        leave_trained(model, number, names, (20, 32))
    words = words_of(write_report(run_stage))
    assert "digit" not in words.lower()
    assert "The same in every framework" not in words, "what compare_frameworks has not compared is left out"
    assert f"test images of 20×32 pixels (rows × columns) in 26 classes: {', '.join(names)}." in words
    table = words[words.index("images are classified correctly") :]
    places = [table.index(name) for name in names]
    assert places == sorted(places), "in the data set's order"


def test_the_environment_is_that_of_the_trainings_and_differences_are_told(trained, run_stage):
    changes = {"python": "2.7.18", "system": "Plan 9", "packages": {"numpy": "1.0"}}
    for name in FEW_NAMES:
        edit_json(results.timings(*name.split("/")), **changes)
    packages = {"numpy": "1.0", "scikit-learn": "0.1"}
    edit_json(results.timings("sklearn", "knn_3"), processor="another one", packages=packages)
    every = {model: results.load_timings(*model.split("/")) for model in FEW_NAMES}
    rows = {(row["name"], row["value"]): row["models"] for row in report.environment(every)}
    assert rows["processor", "some processor, avx2"] == FEW_NAMES[:-1]
    assert rows["processor", "another one"] == ["sklearn/knn_3"]
    assert rows["scikit-learn", "0.1"] == [], "no other model says anything else"
    assert rows["Python", "2.7.18"] == rows["numpy", "1.0"] == rows["threads", "2"] == []
    words = words_of(write_report(run_stage))
    environment = words[words.index("As each training recorded it.") :]
    assert "another one sklearn/knn_3" in environment
    assert "system Plan 9" in environment
    for here in (platform.python_version(), platform.system(), np.__version__):
        assert here not in environment, "of the machine that writes the page"


@pytest.mark.parametrize(("field", "value"), [("training_seconds", "long"), ("prediction_seconds", None)])
def test_seconds_that_are_no_numbers_are_refused_with_the_files_name(compared, run_stage, field, value):
    edit_json(results.timings("pytorch", "linear"), **{field: value})
    with pytest.raises(UserError, match=rf"pytorch/linear\.json holds no timings of a model: {field} is "):
        run_stage("report")


ALIKE = "pytorch/linear", "tensorflow/cnn", "scratch/mlp_relu"


def test_the_networks_that_frameworks_share_are_shown_side_by_side(trained, run_stage):
    for model in ALIKE[::-1]:
        path = results.folder(*model.split("/")) / "model.json"
        recipe = {"pixel_range": [0, 1], "architecture": "shared", "batch_size": 96, "epochs": 2}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": recipe}))
    page = write_report(run_stage)
    section = page[page.index('id="frameworks"') : page.index('id="pictures"')]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*</tr>", section)][1:]
    names, cells = zip(*((re.sub("<.*?>", "", row[0]), row[1:]) for row in rows), strict=True)
    assert names == ALIKE, "in the order of the frameworks; scratch/mlp_sigmoid is of another architecture"
    for name, row in zip(names, cells, strict=True):
        number = FEW_NAMES.index(name) + 1  # as the fixture made it
        assert row[:6] == ["shared", "dense", f"{number}", "96", "2", "float32"]
        assert row[6:8] == [f"{number / 2:.1f}", f"{100 * number}"]
        assert row[9] == f"{1 - number / 100:.2%}"


def test_without_a_shared_architecture_nothing_is_side_by_side(trained, run_stage):
    assert 'id="frameworks"' not in write_report(run_stage)


def test_the_picture_of_frameworks_shows_losses_accuracies_and_seconds():
    history = pd.DataFrame(
        {"model": ["a/x"] * 2 + ["b/y"], "epoch": [1, 2, 1], "train_loss": [0.5, 0.3, 0.4]}
    ).assign(validation_accuracy=[0.8, 0.9, 0.7])
    alike = pd.DataFrame({"model": ["a/x", "b/y"], "training_seconds": [3.0, 5.0], "accuracy": [0.9, 0.8]})
    alike = alike.assign(architecture="cnn", kind="CNN", accuracy_low=0.7, accuracy_high=0.95)
    loss, accuracy, seconds, tested = overall.draw_frameworks(alike, history).axes
    assert loss.get_title() == "cnn (CNN)"
    assert [list(line.get_ydata()) for line in loss.lines] == [[0.5, 0.3], [0.4]]
    assert list(accuracy.lines[0].get_ydata()) == pytest.approx([80, 90])
    assert [bar.get_width() for bar in seconds.patches] == [3, 5]
    points = [bars.lines[0].get_xdata() for bars in tested.containers]
    assert [float(x) for (x,) in points] == pytest.approx([90, 80])
    assert [label.get_text() for label in seconds.get_yticklabels()] == ["a/x", "b/y"]


def test_a_significant_difference_is_told_from_others():
    pairs = pd.DataFrame(
        [("a", "b", 0.02, 0.001), ("a", "c", 0.01, 0.3), ("b", "c", -0.01, 0.04)],
        columns=["model", "other", "difference", "p_holm"],
    )
    a, b, c = report.significance(pairs, ["a", "b", "c"])
    assert (a["better"], a["same"], a["worse"]) == (["b"], ["c"], [])
    assert (b["better"], b["same"], b["worse"]) == ([], [], ["c", "a"])
    assert (c["better"], c["same"], c["worse"]) == (["b"], ["a"], [])


def test_the_best_of_a_framework_may_have_no_number_of_parameters():
    summary = pd.DataFrame(
        {"accuracy": [0.99, 0.95, 0.9], "parameters": [None, None, 10]},
        index=pd.Index(["sklearn/naive_bayes", "ensemble/mean", "pytorch/linear"], name="model"),
    )
    assert list(report.best_of_each_framework(summary).model) == ["sklearn/naive_bayes", "pytorch/linear"]


def test_a_model_adds_only_what_is_significant():
    table = pd.DataFrame({"model": ["a", "b", "c"], "gain": [0.01, 0.01, -0.02]})
    table = table.assign(p=0.001, p_holm=[0.01, 0.2, 0.01])
    assert report.adding(table) == ["a"]
    assert report.adding(table.assign(gain=-table.gain)) == ["c"], "which harms"
