"""A trained model tells classes, as its stage does, in test images and in pictures."""

import json
import re
import sys

import numpy as np
import pytest
from conftest import edit_params, frameworks, models
from PIL import Image, PngImagePlugin
from test_bench import DESCRIPTION

from stages.common import params, results
from stages.console.errors import UserError
from tools import predict


@pytest.mark.parametrize("framework", frameworks())
def test_a_trained_model_predicts_as_its_stage_did_whatever_the_parameters_say_today(
    run_stage, workspace, monkeypatch, framework
):
    name = models(framework)[-1]
    run_stage(f"train_{framework}", name)
    (workspace / "params.yaml").unlink()
    (workspace / "architectures.yaml").unlink()
    params.content.cache_clear()
    model = results.load_description(framework, name)
    images = np.stack([predict.load_image(str(number), model) for number in range(100)])
    expected = np.load(results.predictions(framework, name))
    np.testing.assert_allclose(predict.predict(model, images), expected, atol=1e-5)


def answers(monkeypatch, capsys, *arguments: str) -> tuple[list[str], list[str]]:
    """The lines that the tool prints, and those of standard error."""
    params.content.cache_clear()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    predict.main()
    printed = capsys.readouterr()
    return printed.out.splitlines(), printed.err.splitlines()


def test_answers_name_the_likeliest_classes(run_stage, workspace, monkeypatch, capsys):
    described = json.loads((workspace / "data" / "dataset.json").read_text())
    names = [f"class {chr(97 + label)}" for label in range(10)]
    (workspace / "data" / "dataset.json").write_text(json.dumps(described | {"classes": names}))
    run_stage("train_pytorch", "mlp")
    image = np.load("data/test_images.npy")[3]
    Image.fromarray(image).resize((280, 280), Image.Resampling.NEAREST).convert("RGB").save("large.png")
    probabilities = np.load(results.predictions("pytorch", "mlp"))[3]
    best = probabilities.argsort()[::-1]
    (first, second), notes = answers(monkeypatch, capsys, "pytorch/mlp", "3", "large.png")
    assert first == "3: " + ", ".join(f"{names[i]} ({probabilities[i]:.1%})" for i in best[:3])
    assert second.startswith(f"large.png: {names[best[0]]} (")
    assert notes == []


@pytest.mark.parametrize(
    ("key", "value", "note"),
    [
        (
            "scratch.mlp_relu.pixel_range",
            [0, 255],
            r"params\.yaml has another pixel_range for scratch\.mlp_relu",
        ),
        ("scratch.mlp_relu.prediction_shift", 1, r"another prediction_shift for scratch\.mlp_relu today"),
        ("scratch", {}, r"params\.yaml no longer has scratch\.mlp_relu"),
        (
            "architectures.mlp_relu",
            [{"dense": 9}],
            r"architectures\.yaml has other layers for mlp_relu today",
        ),
    ],
)
def test_other_parameters_of_today_are_told_in_one_line_and_change_no_answer(
    run_stage, workspace, monkeypatch, capsys, key, value, note
):
    run_stage("train_scratch", "mlp_relu")
    before, _ = answers(monkeypatch, capsys, "scratch/mlp_relu", "0", "1", "2")
    edit_params(workspace, key, value)
    after, notes = answers(monkeypatch, capsys, "scratch/mlp_relu", "0", "1", "2")
    assert after == before
    assert len(notes) == 1
    assert re.search(note, notes[0]), notes


@pytest.mark.parametrize(
    ("model", "image", "complaint"),
    [
        (
            "torch/mlp",
            "0",
            rf"'torch/mlp': allowed are {', '.join(frameworks())}, / and a model's",
        ),
        (
            "scratch/nope",
            "0",
            r"outputs/models/scratch/nope/model\.json is missing: `dvc repro --force train_",
        ),
        ("scratch/mlp_relu", "100", "100: there are 100 test images, 0 to 99"),
        ("scratch/mlp_relu", "params.yaml", r"params\.yaml is no picture"),
    ],
)
def test_a_wrong_model_or_image_is_named(run_stage, monkeypatch, model, image, complaint):
    run_stage("train_scratch", "mlp_relu")
    monkeypatch.setattr(sys, "argv", ["predict", model, image])
    with pytest.raises(UserError, match=complaint):
        predict.main()


def test_test_images_of_another_size_are_refused(workspace):
    small = DESCRIPTION.model_copy(update={"image_size": (8, 9)})
    with pytest.raises(UserError, match="the test images have 28×28 pixels, the model's 8×9"):
        predict.load_image("0", small)


INK = np.kron(np.arange(49, dtype=np.uint8).reshape(7, 7) * 5, np.ones((4, 4), np.uint8))
"""A picture of 28×28 pixels with all kinds of gray."""


def with_alpha(mode: str) -> Image.Image:
    """White ink whose transparency makes the grays; the ground's colour is not seen."""
    white = Image.fromarray(np.full_like(INK, 255)).convert(mode)
    white.putalpha(Image.fromarray(INK))
    return white


@pytest.mark.parametrize(
    ("kind", "picture"),
    [
        ("16 bits", Image.fromarray(INK.astype(np.uint16) * 257)),
        ("RGBA", with_alpha("RGB")),
        ("LA", with_alpha("L")),
        ("palette", Image.fromarray(INK).convert("P")),
    ],
)
def test_every_kind_of_picture_shows_the_same_grays(tmp_path, kind, picture):
    picture.save(path := tmp_path / "picture.png")
    np.testing.assert_array_equal(predict.load_image(str(path), DESCRIPTION), INK, kind)


def test_a_transparent_picture_stands_on_the_ground_of_the_models_images(tmp_path):
    light = DESCRIPTION.model_copy(update={"ground": 255, "image_size": (14, 20)})
    dark = Image.new("LA", (20, 14), (0, 0))  # black, nothing of it seen
    dark.putpixel((5, 3), (0, 255))
    dark.save(path := tmp_path / "picture.png")
    expected = np.full((14, 20), 255)
    expected[3, 5] = 0
    np.testing.assert_array_equal(predict.load_image(str(path), light), expected)
    deep = Image.fromarray(np.full((14, 20), 7 * 257, np.uint16))
    deep.save(path, transparency=7 * 257)
    np.testing.assert_array_equal(predict.load_image(str(path), light), np.full((14, 20), 255))


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise shows it upright
    Image.fromarray(np.rot90(INK)).save(path := tmp_path / "picture.png", exif=exif)
    np.testing.assert_array_equal(predict.load_image(str(path), DESCRIPTION), INK)


def test_a_damaged_an_uncertain_and_a_huge_picture_are_refused(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    Image.fromarray(noise).save(path := tmp_path / "half.png")
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match=r"half\.png is a damaged picture: "):
        predict.load_image(str(path), DESCRIPTION)
    note = PngImagePlugin.PngInfo()
    note.add_text("comment", "y" * 5_000_000, zip=True)
    Image.fromarray(INK).save(path := tmp_path / "bomb.png", pnginfo=note)
    with pytest.raises(UserError, match=r"bomb\.png is a damaged picture: Decompressed data too large"):
        predict.load_image(str(path), DESCRIPTION)
    Image.fromarray(INK.astype(np.float32)).save(path := tmp_path / "float.tiff")
    with pytest.raises(UserError, match=r"float\.tiff has pixels of 32 bits, .*allowed: 8 or 16 bits"):
        predict.load_image(str(path), DESCRIPTION)
    Image.fromarray(noise).save(path := tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"large\.png has too many pixels; allowed: 2,000"):
        predict.load_image(str(path), DESCRIPTION)
