"""`python -m apps.predict`: what it answers, in which forms, and what it says where it cannot."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, described, tiny_arrays, write_data
from PIL import Image
from test_dependencies import HEAVY
from test_preparation import PAPER, drawing, nothing, on, picture

from apps import predict
from stages.common import architecture, exported, files, params, saved
from stages.console.errors import UserError
from stages.exporters import networks
from stages.exporters.graph import Graph

CLASSES = tuple(f"class {chr(97 + place)}" for place in range(10))
MODELS = {  # how sure an answer must be, and the validation accuracy and loss
    "pytorch/first": (0.3, 0.97, 0.1),
    "scratch/second": (1.0, 0.98, 0.2),
    "scratch/third": (0.0, 0.98, 0.1),
    "tensorflow/fourth": (None, None, None),
}
BEST = "scratch/third"


@pytest.fixture
def models(workspace) -> Path:
    """Exported networks that have learnt nothing, and their metrics."""
    layers = [{"dense": 12}, "relu", {"dense": "classes"}]
    network = architecture.fit(architecture.parse(layers), (28, 28), 10)
    for number, (name, (sure_above, accuracy, loss)) in enumerate(MODELS.items()):
        generator = np.random.default_rng(number)
        weights = {
            key: generator.normal(0, 0.2, shape).astype(np.float32)
            for key, shape in architecture.weight_shapes(network).items()
        }
        framework, model = name.split("/")
        about = described(architecture=layers, classes=CLASSES, framework=framework, name=model)
        graph = Graph()
        output = networks.build(graph, exported.IMAGES, saved.Network(about, network, weights))
        content = graph.model(output, (28, 28), 10, exported.metadata(about, sure_above))
        files.write_bytes(exported.path_of(name), content)
        metrics = {"validation_accuracy": accuracy, "validation_log_loss": loss}
        files.write_json(predict.METRICS / f"{name}.json", metrics)
    return workspace


@pytest.fixture
def say(models, monkeypatch, capsys):
    """Calls the program in this process: what it prints, and how it ends (None: well)."""

    def call(*arguments: str) -> tuple[str, str | None]:
        params.content.cache_clear()
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
        capsys.readouterr()
        try:
            predict.main()
        except SystemExit as end:
            return capsys.readouterr().out, end.code
        return capsys.readouterr().out, None

    return call


def probabilities(name: str, *images: np.ndarray) -> np.ndarray:
    return exported.load(exported.path_of(name)).predict_proba(np.stack(images))


def test_test_images_are_answered_by_the_model_of_the_best_validation_accuracy(say):
    images = np.load("data/test_images.npy")
    records = json.loads(say("--json", 3, 99)[0])
    assert [record["picture"] for record in records] == ["3", "99"]
    for record, row in zip(records, probabilities(BEST, images[3], images[99]), strict=True):
        ((name, said),) = record["things"][0].items()
        assert name == BEST
        assert said["class"] == CLASSES[row.argmax()]
        assert said["probability"] == pytest.approx(row.max())
        assert list(said["probabilities"]) == list(CLASSES)
        assert list(said["probabilities"].values()) == pytest.approx(row)


@pytest.mark.parametrize("name", MODELS)
def test_an_answer_is_unsure_if_its_probability_is_not_above_the_model_s_threshold(say, name):
    records, threshold = json.loads(say("--json", name, *range(40))[0]), MODELS[name][0]
    answers = [record["things"][0][name] for record in records]
    above = [None if threshold is None else each["probability"] > threshold for each in answers]
    assert [each["sure"] for each in answers] == above
    lines = say(name, *range(40))[0].splitlines()
    assert [("unsure" in line) for line in lines[1:41]] == [sure is False for sure in above]
    if name == "pytorch/first":
        assert {True, False} == set(above)
    assert ("does not tell sure answers" in lines[-1]) == (threshold is None)


def test_a_photograph_a_prepared_image_and_a_row_of_a_table_get_the_same_answer(say):
    picture(on(drawing(2)), 4).save("photo.jpg", quality=90)
    image = predict.preparation.prepare(Image.open("photo.jpg"), (28, 28), 0)[0]
    Image.fromarray(image).save("own.png")
    header = ",".join(f"pixel{place}" for place in range(784))
    rows = [image, np.load("data/test_images.npy")[5]]
    lines = [",".join(map(str, row.ravel())) for row in rows]
    Path("test.csv").write_text("\n".join([header, *lines]) + "\n")
    labelled = [f"label,{header}", *(f"7,{line}" for line in lines)]
    Path("train.csv").write_text("\n".join(labelled), encoding="utf-8-sig")  # as Excel does
    records = json.loads(say("--json", "photo.jpg", "own.png", "test.csv", "train.csv", "5")[0])
    names = [record["picture"] for record in records]
    assert names == ["photo.jpg", "own.png", "test.csv:1", "test.csv:2", "train.csv:1", "train.csv:2", "5"]
    things = [record["things"] for record in records]
    assert things[0] == things[1] == things[2] == things[4]
    assert things[3] == things[5] == things[6]


def test_a_large_scan_of_16_bits_is_answered_and_shown(say):
    shown = picture(on(drawing(2)), 4).convert("L").resize((800, 800))
    shown.save("8.png")
    Image.fromarray(np.asarray(shown).astype(np.uint16) * 257).save("16.png")
    with Image.open("16.png") as opened:
        assert opened.mode == "I;16"
    records = json.loads(say("--json", "--show", "shown.png", "8.png", "16.png")[0])
    assert records[0]["things"] == records[1]["things"]


def test_as_it_is_a_picture_is_only_made_small(say):
    shown = picture(on(drawing(2)), 4)
    shown.save("photo.png")
    said = json.loads(say("--json", "--as-is", "photo.png")[0])[0]["things"][0][BEST]
    image = np.asarray(shown.convert("L").resize((28, 28), Image.Resampling.LANCZOS))
    assert list(said["probabilities"].values()) == pytest.approx(probabilities(BEST, image)[0], abs=0.02)


def test_all_models_are_asked_and_how_many_agree_is_said(say):
    image = np.load("data/test_images.npy")[8]
    printed = say("--all", 8)[0].splitlines()
    assert [line.split()[0] for line in printed[1:-1]] == exported.names()
    best = [CLASSES[probabilities(name, image).argmax()] for name in exported.names()]
    assert all(said in line for said, line in zip(best, printed[1:-1], strict=True))
    most = max(best, key=best.count)
    count, *_, said = re.fullmatch(r"  (\d) of 4 models say (class .)", printed[-1]).groups()
    assert int(count) == best.count(said) == best.count(most)


def test_things_side_by_side_have_a_line_each(say):
    Image.fromarray(np.concatenate([np.asarray(picture(on(drawing(d)))) for d in (7, 2)], axis=1)).save(
        "two.png"
    )
    (record,) = json.loads(say("--json", "two.png")[0])
    assert len(record["things"]) == 2
    lines = say("two.png", "3")[0].splitlines()
    assert [line.startswith(name) for line, name in zip(lines[1:], ("two.png", " ", "3"), strict=True)]
    classes = [thing[BEST]["class"] for thing in record["things"]]
    assert [said in line for said, line in zip(classes, lines[1:3], strict=True)]
    assert say("--csv", "two.png")[0].splitlines() == ["ImageId,Label", f"1,{''.join(classes)}"]


def test_a_folder_and_a_submission(say):
    Path("scans").mkdir()
    for number, digit in enumerate((5, 0, 4)):
        picture(on(drawing(digit))).save(f"scans/{number}.png")
    Path("scans/.hidden").write_text("no picture")
    records = json.loads(say("--json", "scans")[0])
    assert [record["picture"] for record in records] == ["scans/0.png", "scans/1.png", "scans/2.png"]
    rows = list(csv.DictReader(io.StringIO(say("--csv", "scans", "7")[0])))
    assert [row["ImageId"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["Label"] for row in rows[:3]] == [record["things"][0][BEST]["class"] for record in records]


def test_bad_files_among_good_ones_are_named_and_the_others_answered(say):
    picture(on(drawing(2))).save("good.png")
    picture(nothing(), 3).save("empty.png")
    Image.new("L", (28, 28)).save("black.png")
    Path("text.png").write_text("no picture")
    arguments = ("good.png", "empty.png", "missing.png", "text.png", "100", "black.png", "4")
    printed, end = say("--json", *arguments)
    records = json.loads(printed)
    assert [record["picture"] for record in records] == list(arguments)
    assert [record["picture"] for record in records if "things" in record] == ["good.png", "4"]
    assert end.splitlines() == [f"error: {record['error']}" for record in records if "error" in record]
    assert end.splitlines() == [
        "error: empty.png is empty, or what is drawn there is too small or too faint",
        "error: missing.png: No such file or directory",
        "error: text.png is no picture",
        "error: 100: there are 100 test images, 0 to 99",
        "error: black.png is empty, or what is drawn there is too small or too faint",
    ]
    rows = csv.DictReader(io.StringIO(say("--csv", *arguments)[0]))
    assert [row["ImageId"] for row in rows] == ["1", "7"]
    assert say("--as-is", "black.png")[1].startswith("error: black.png is empty")


def test_what_is_shown_is_drawn(say):
    picture(on(drawing(2))).save("photo.png")
    say("--all", "photo.png", "3", "--show", "shown.png")
    sheet = np.asarray(Image.open("shown.png").convert("L"), float)
    (image,) = predict.preparation.prepare(Image.open("photo.png"), (28, 28), 0)
    scale = predict.SIDE // 28
    top, left = predict.LINE // 2, predict.SIDE + predict.LINE // 2
    part = sheet[top : top + 28 * scale : scale, left : left + 28 * scale : scale]
    np.testing.assert_array_equal(part, image)
    corner = sheet[top : top + predict.SIDE, : predict.SIDE]
    assert abs(corner[4, 4] - np.dot(PAPER, (0.299, 0.587, 0.114))) < 2, "the picture beside it"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["pytorch/nope", "0"], r"^pytorch/nope is not exported; allowed: pytorch/first, .*fourth, scratch"),
        (["--all", "pytorch/first", "0"], "^pytorch/first or --all: name one model, or ask all"),
        (["pytorch/first"], "^nothing for pytorch/first to answer"),
        (["--all", "--csv", "0"], "^--csv has one label per image"),
        (["empty"], "^empty holds no files"),
        (["short.csv"], r"^short\.csv is no table of images: 3 columns of pixels, not 784"),
        (["words.csv"], r"^words\.csv is no table of images: "),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(say, arguments, complaint):
    Path("empty").mkdir()
    Path("short.csv").write_text("a,b,c\n1,2,3\n")
    Path("words.csv").write_text(",".join("p" * 784) + "\n" + ",".join(["x"] * 784) + "\n")
    with pytest.raises(UserError, match=complaint) as raised:
        say(*arguments)
    assert "\n" not in str(raised.value)


def test_test_images_of_another_size_are_refused_one_by_one(say, workspace):
    write_data(workspace, tiny_arrays(size=(8, 9)))
    assert say("0")[1] == "error: 0: the test images have 8×9 pixels, the model's 28×28"


def test_without_models_the_stage_is_named(workspace, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["predict", "0"])
    with pytest.raises(UserError, match=r"^outputs/onnx holds no models: `dvc repro export` makes it$"):
        predict.main()


def test_it_needs_onnxruntime_and_no_library_that_trains(models):
    picture(on(drawing(2))).save("photo.png")
    code = (
        "import sys, runpy; sys.argv = ['predict', '--all', '--show', 'shown.png', 'photo.png', '3']\n"
        "runpy.run_module('apps.predict', run_name='__main__')\n"
        "print('loaded', *sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in run.stdout.rpartition("loaded ")[2].split()}
    assert "onnxruntime" in loaded
    assert not loaded & (HEAVY - {"PIL"} | {"onnx"})
