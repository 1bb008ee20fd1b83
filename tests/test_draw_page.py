"""The page to draw on without a program: its networks, its preparation, and how a browser draws on it."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    SCREENS,
    STROKES,
    browser_needed,
    leave_trained,
    tiny_arrays,
    write_data,
)
from safetensors.numpy import save_file

from stages import draw_page
from stages.common import architecture, results, training
from stages.models import scratch

pytestmark = [pytest.mark.xdist_group("browser"), browser_needed]
SHAPES = {
    "dense layers": [{"dense": 12}, "sigmoid", {"dropout": 0.25}, {"dense": 8}, "tanh", {"dense": "classes"}],
    "windows that overlap the edge": [
        {"conv": {"filters": 5, "kernel": 4, "padding": "same", "stride": 3}},
        "relu",
        {"conv": {"filters": 4, "kernel": 3, "padding": "same"}},
        "batch_norm",
        "relu",
        {"dense": "classes"},
    ],
    "windows that do not": [
        {"conv": {"filters": 6, "kernel": 5, "padding": "valid", "stride": 2}},
        "batch_norm",
        "relu",
        {"conv": {"filters": 4, "kernel": 2, "padding": "valid"}},
        {"max_pool": 2},
        "relu",
        {"dense": 16},
        "batch_norm",
        "tanh",
        {"dense": "classes"},
    ],
}
"""Architectures that have every layer, and every option of it, between them."""


def test_every_kind_of_layer_is_compared():
    tried = {
        layer if isinstance(layer, str) else next(iter(layer))
        for layers in SHAPES.values()
        for layer in layers
    }
    assert tried == {"conv", *architecture.SCALAR_OF, *architecture.ALONE}


def leave_network(name, layers, classes, size, generator, ground=0, **recipe):
    """A scratch network with random weights, and what it predicts: uint8 images to probabilities."""
    write_data(Path(), tiny_arrays(100, 2 * len(classes), len(classes), size), classes)
    leave_trained(f"scratch/{name}", 1, classes, size)
    folder = results.folder("scratch", name)
    fitted = architecture.fit(architecture.parse(layers), size, len(classes))
    network = scratch.build(fitted, generator)
    for path, array in network.weights.items():
        if not path.endswith(".weights"):
            array[...] = generator.uniform(0.5, 1.5, array.shape)
    save_file(network.weights, folder / "weights.safetensors")
    described = json.loads((folder / "model.json").read_text())
    described |= {"architecture": layers, "recipe": recipe, "ground": ground}
    (folder / "model.json").write_text(json.dumps(described))
    leave_summary({f"scratch/{name}": (0.9, None)})
    return training.predictor(lambda pixels: scratch.predict_proba(network, pixels), recipe, ground)


def leave_summary(rows):
    """The table of results of these models: accuracy, and above what they are sure."""
    path = results.OUTPUTS / "tables" / "summary.csv"
    path.parent.mkdir(exist_ok=True)
    lines = [
        f"{model},{accuracy},{'' if sure is None else sure}\n" for model, (accuracy, sure) in rows.items()
    ]
    path.write_text("model,accuracy,sure_above\n" + "".join(lines))


def index():
    return (draw_page.PAGE / "index.html").absolute().as_uri()


@pytest.mark.parametrize("layers", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("size", "recipe"),
    [
        ((28, 28), {"pixel_range": [0, 1], "prediction_shift": 2}),
        ((20, 33), {"pixel_range": [-0.4242, 2.8215]}),
    ],
)
def test_the_networks_in_the_page_answer_as_those_of_numpy(
    workspace, run_stage, open_page, layers, size, recipe
):
    generator = np.random.default_rng(5)
    predict = leave_network("net", layers, list("abcdefg"), size, generator, ground=70, **recipe)
    run_stage("draw_page")
    page = open_page(index())
    worker, networks = (page.locator(f"#{part}").text_content() for part in ("worker", "networks"))
    images = generator.integers(0, 256, (1000, *size), np.uint8)
    page.goto("about:blank")  # where the page's policy lets a test add a script
    page.add_script_tag(content=worker)
    answers = page.evaluate(
        """([networks, images, pixels]) => {
            const [{ model, weights }] = JSON.parse(networks);
            const predict = loadNetwork(model, decode(weights)), all = decode(images), answers = [];
            for (let i = 0; i < all.length; i += pixels) {
                answers.push([...predict(all.subarray(i, i + pixels))]);
            }
            return answers;
        }""",
        [networks, base64.b64encode(images.tobytes()).decode(), size[0] * size[1]],
    )
    expected = predict(images)
    assert expected.std(axis=0).min() > 1e-3, "answers that do not depend on the image show nothing"
    np.testing.assert_allclose(answers, expected, atol=1e-5)


class Hand:
    """Draws on the pad of a page as a person would."""

    def __init__(self, page):
        self.page = page

    def points(self, digit, left=0.25, top=0.2, size=0.55):
        """The strokes of a digit in pixels of the screen, in a square part of the pad."""
        self.page.locator("#pad").scroll_into_view_if_needed()
        box = self.page.locator("#pad").bounding_box()
        for stroke in STROKES[digit]:
            yield [
                (
                    box["x"] + (left + size * x / 100) * box["width"],
                    box["y"] + (top + size * y / 100) * box["height"],
                )
                for x, y in stroke
            ]

    def mouse(self, digit, **where):
        for start, *others in self.points(digit, **where):
            self.page.mouse.move(*start)
            self.page.mouse.down()
            for point in others:
                self.page.mouse.move(*point, steps=4)
            self.page.mouse.up()

    def finger(self, digit, **where):
        devtools = self.page.context.new_cdp_session(self.page)

        def touch(kind, *points):
            places = [{"x": x, "y": y} for x, y in points]
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

        for start, *others in self.points(digit, **where):
            touch("touchStart", start)
            for point in others:
                touch("touchMove", point)
            touch("touchEnd")

    def keys(self, digit):
        """Walks through the strokes on the pad's grid of steps, the pen lowered on the way."""
        pad = self.page.locator("#pad")
        while not self.page.evaluate("document.activeElement === document.getElementById('pad')"):
            self.page.keyboard.press("Tab")
        step = self.page.evaluate("STEP / pad.width")
        at = self.page.evaluate("[at[0] / pad.width, at[1] / pad.height]")
        assert pad.evaluate("pad => pad.matches(':focus-visible')")
        for stroke in STROKES[digit]:
            for number, (x, y) in enumerate(stroke):
                if number == 1:
                    self.page.keyboard.press("Space")
                target = 0.25 + 0.5 * x / 100, 0.2 + 0.55 * y / 100
                at = self.walk(
                    [round((to - here) / step) for to, here in zip(target, at, strict=True)], at, step
                )
            self.page.keyboard.press("Space")

    def walk(self, steps, at, step):
        """So many steps right and down, aslant as long as both are left."""
        across = {-1: "ArrowLeft", 1: "ArrowRight"}
        down = {-1: "ArrowUp", 1: "ArrowDown"}
        left = list(steps)
        while any(left):
            keys = [names[np.sign(n)] for names, n in zip((across, down), left, strict=True) if n]
            for key in keys:
                self.page.keyboard.down(key)
            for key in keys:
                self.page.keyboard.up(key)
            # the second key of two moves the pen along both
            left = [
                n - np.sign(n) * (2 if axis == 0 and len(keys) == 2 else 1) for axis, n in enumerate(left)
            ]
        return [here + step * n for here, n in zip(at, steps, strict=True)]


def settled(page):
    """What the page says when it has answered what is on the pad."""
    page.wait_for_selector(".answers[aria-busy=false]")
    return page.locator("#sentence").inner_text()


@pytest.fixture
def digits_page(reading_digits):
    return (reading_digits / "outputs/draw_page/index.html").as_uri()


@pytest.mark.parametrize("digit", STROKES)
def test_what_is_drawn_with_a_mouse_is_read_wherever_and_however_large(digits_page, open_page, digit):
    page = open_page(digits_page)
    for where in ({}, {"left": 0.05, "top": 0.05, "size": 0.4}, {"left": 0.5, "top": 0.5, "size": 0.45}):
        Hand(page).mouse(digit, **where)
        assert settled(page) == f"All 2 models say {digit}."
        assert page.locator("#answers td:nth-child(2)").all_inner_texts() == [digit, digit]
        page.get_by_role("button", name="Clear").click()
        assert settled(page) == "Nothing drawn yet."


@pytest.mark.parametrize("digit", ["3", "4"])
def test_a_finger_draws_on_a_phone_and_the_page_does_not_scroll(digits_page, open_page, digit):
    page = open_page(digits_page, "phone", has_touch=True, is_mobile=True)
    Hand(page).finger(digit)
    assert settled(page) == f"All 2 models say {digit}."
    assert page.evaluate("scrollY") == 0
    assert page.evaluate("document.documentElement.scrollHeight > innerHeight"), "it could have"
    box = page.locator("#sentence").bounding_box()
    assert box["y"] + box["height"] < SCREENS["phone"][1], "the answer is seen beside the drawing"


@pytest.mark.parametrize("digit", ["2", "4"])
def test_the_keyboard_alone_draws_undoes_and_clears(digits_page, open_page, digit):
    page = open_page(digits_page)
    Hand(page).keys(digit)
    assert settled(page) == f"All 2 models say {digit}."
    strokes = len(STROKES[digit])
    assert page.evaluate("strokes.length") == strokes
    page.keyboard.press("Control+z")
    assert page.evaluate("strokes.length") == strokes - 1
    page.keyboard.press("Delete")
    assert settled(page) == "Nothing drawn yet."


def test_whoever_listens_hears_the_answer_once_it_has_settled_and_finds_a_table(digits_page, open_page):
    page = open_page(digits_page)
    Hand(page).mouse("7")
    status = page.get_by_role("status")
    assert status.get_attribute("aria-live") == "polite"
    assert status.text_content() == ""
    page.wait_for_selector("#spoken:not(:empty)", state="attached")
    assert status.text_content() == "All 2 models say 7."
    table = page.get_by_role("table", name="What each model answers")
    heads = [head.split("\n")[0] for head in table.get_by_role("columnheader").all_inner_texts()]
    assert heads == ["model", "says", "sure"], "the bars are for the eye"
    row = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name="scratch/mlp_relu"))
    says, sure = row.get_by_role("cell").all_inner_texts()
    assert says == "7"
    assert re.fullmatch(r"(> )?\d\d %", sure)


def test_who_disagrees_and_who_is_unsure_is_named(workspace, run_stage, open_page):
    layers = [{"dense": "classes"}]
    for number, label in enumerate((2, 2, 0)):
        leave_network(
            f"net_{number}", layers, ["a", "b", "c"], (28, 28), np.random.default_rng(1), pixel_range=[0, 1]
        )
        biases = np.eye(3, dtype=np.float32)[label] * 3
        weights = {"0.dense.weights": np.zeros((784, 3), np.float32), "0.dense.biases": biases}
        save_file(weights, results.folder("scratch", f"net_{number}") / "weights.safetensors")
    leave_summary({f"scratch/net_{number}": (0.9, sure) for number, sure in enumerate((None, 0.95, 0.9))})
    run_stage("draw_page")
    page = open_page(index())
    Hand(page).mouse("5")
    assert settled(page) == "2 of 3 models say c. Others: a (scratch/net_2)."
    assert page.locator("#answers td:nth-child(2)").all_inner_texts() == ["c", "c", "a ≠"]
    sure = [" ".join(text.split()) for text in page.locator("#answers td:nth-child(3)").all_inner_texts()]
    assert sure == ["91 %", "91 % ? unsure", "91 %"]
    heights = page.evaluate(
        "[...document.querySelectorAll('tbody tr:last-child .bars i')].map(bar => bar.style.height)"
    )
    assert [round(float(height[:-1])) for height in heights] == [91, 5, 5]


@pytest.mark.parametrize(("size", "ground"), [((28, 28), 0), ((28, 28), 255), ((12, 40), 100)])
def test_the_image_is_as_mnist_made_its_own(workspace, run_stage, open_page, size, ground):
    generator = np.random.default_rng(1)
    leave_network("net", [{"dense": "classes"}], list("012"), size, generator, ground, pixel_range=[0, 1])
    run_stage("draw_page")
    page = open_page(index())
    for digit, where in (("4", {}), ("7", {"left": 0.1, "top": 0.1, "size": 0.3})):
        Hand(page).mouse(digit, **where)
        settled(page)
        image = np.array(list(page.evaluate("[...answers[0].image]")), float).reshape(size)
        strength = abs(image - ground) / max(ground, 255 - ground)
        sides = [np.flatnonzero(strength.max(axis=1 - axis) > 0.2) for axis in (0, 1)]
        longest = max((side[-1] - side[0] + 1) / n for side, n in zip(sides, size, strict=True))
        assert longest * 28 == pytest.approx(20, abs=1.5 * 28 / min(size))
        for axis, n in enumerate(size):
            middle = strength.sum(axis=1 - axis) @ (np.arange(n) + 0.5) / strength.sum()
            assert middle == pytest.approx(n / 2, abs=0.1)
        assert len(np.unique(image)) > 10, "its edges are gray"
        page.get_by_role("button", name="Clear").click()


def test_a_dot_is_not_read(digits_page, open_page):
    page = open_page(digits_page)
    page.locator("#pad").click()
    assert settled(page) == "Nothing to read in this."
    assert page.locator("#answers td:nth-child(2)").all_inner_texts() == ["–", "–"]
    page.get_by_role("button", name="Undo").click()
    assert settled(page) == "Nothing drawn yet."


def test_a_browser_that_cannot_compute_says_so(reading_digits, open_page, tmp_path):
    text = (reading_digits / "outputs/draw_page/index.html").read_text(encoding="utf-8")
    (tmp_path / "index.html").write_text(
        text.replace("worker-src blob:", "worker-src 'none'"), encoding="utf-8"
    )
    page = open_page((tmp_path / "index.html").as_uri())
    Hand(page).mouse("7")
    page.wait_for_selector("#message:not(:empty)")
    assert page.get_by_role("alert").inner_text() == "This browser cannot compute the networks in this page."
    assert "worker-src" in open_page.complaints.pop()
    open_page.complaints.clear()


def test_a_picture_that_is_dropped_does_not_take_the_page_away(digits_page, open_page):
    page = open_page(digits_page)
    page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File(["x"], "seven.png", { type: "image/png" }));
            const drop = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
            document.body.dispatchEvent(drop);
            return drop.defaultPrevented || (() => { throw new Error("the browser opens it"); })();
        }"""
    )
    assert "python -m apps.draw" in page.get_by_role("alert").inner_text()


@pytest.mark.parametrize("size", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_the_screen_whatever_the_classes_are_called(
    workspace, run_stage, open_page, size, scheme
):
    names = [f"</script>{letter} & Ankle boot" for letter in "abcdefghijklmnopqrstuvwxyz"]
    generator = np.random.default_rng(1)
    leave_network(
        "a_name_of_some_length", [{"dense": "classes"}], names, (20, 32), generator, pixel_range=[0, 1]
    )
    run_stage("draw_page")
    page = open_page(index(), size, scheme)
    Hand(page).mouse("8")
    assert re.fullmatch(r"scratch/a_name_of_some_length says </script>[a-z] & Ankle boot\.", settled(page))
    assert page.evaluate("document.documentElement.scrollWidth") == SCREENS[size][0]
    box = page.locator("#pad").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(32 / 20, abs=0.02)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_the_page_has_the_small_networks_the_most_accurate_first_or_says_that_there_is_none(
    trained, run_stage, open_page, monkeypatch
):
    accuracies = {
        "pytorch/linear": 0.8,
        "tensorflow/cnn": 0.95,
        "scratch/mlp_relu": 0.9,
        "sklearn/knn_3": 0.99,
    }
    leave_summary({name: (accuracy, None) for name, accuracy in accuracies.items()})
    large = results.folder("scratch", "mlp_relu") / "weights.safetensors"
    sizes = [draw_page.weights_of(name).stat().st_size for name in accuracies if "knn" not in name]
    monkeypatch.setattr(draw_page, "LARGEST", max(sizes) + 1)
    large.write_bytes(large.read_bytes() + b"\0" * 2)
    run_stage("draw_page")
    assert open_page(index()).locator("#answers tbody th").all_inner_texts() == [
        "tensorflow/cnn",
        "pytorch/linear",
    ]
    monkeypatch.setattr(draw_page, "LARGEST", 0)
    run_stage("draw_page")
    page = open_page(index())
    assert page.locator("#sentence").inner_text() == "No network is small enough to answer in a page."
    Hand(page).mouse("1")
