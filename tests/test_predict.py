"""A trained model tells classes, as its stage does, in test images and in pictures."""

import numpy as np
import pytest
from conftest import MODELS, described, edit_json, edit_params
from PIL import Image, PngImagePlugin

from stages.common import results
from stages.console.errors import UserError
from tools import predict


@pytest.fixture
def answers(run_main, capsys):
    """Calls the tool; the lines that it prints, and those of standard error."""

    def ask(*arguments: str) -> tuple[list[str], list[str]]:
        capsys.readouterr()
        run_main(predict, *arguments)
        printed = capsys.readouterr()
        return printed.out.splitlines(), printed.err.splitlines()

    return ask


def test_answers_name_the_likeliest_classes(run_stage, workspace, answers):
    names = [f"class {chr(97 + label)}" for label in range(10)]
    edit_json(workspace / "data/dataset.json", classes=names)
    run_stage("train_pytorch", "mlp")
    image = np.load("data/test_images.npy")[3]
    Image.fromarray(image).resize((280, 280), Image.Resampling.NEAREST).convert("RGB").save("large.png")
    probabilities = np.load(results.predictions("pytorch", "mlp"))[3]
    best = probabilities.argsort()[::-1]
    (first, second), notes = answers("pytorch/mlp", "3", "large.png")
    assert first == "3: " + ", ".join(f"{names[i]} ({probabilities[i]:.1%})" for i in best[:3])
    assert second.startswith(f"large.png: {names[best[0]]} (")
    assert notes == []


@pytest.mark.parametrize(
    ("key", "value", "note"),
    [
        ("scratch.mlp_relu.pixel_range", [0, 9], "params.yaml has another pixel_range for scratch.mlp_relu"),
        ("scratch.mlp_relu.prediction_shift", 1, "another prediction_shift for scratch.mlp_relu today"),
        ("scratch", {}, "params.yaml no longer has scratch.mlp_relu"),
        ("architectures.mlp_relu", ["relu"], "architectures.yaml has other layers for mlp_relu today"),
    ],
)
def test_other_parameters_of_today_are_told_in_one_line_and_change_no_answer(
    run_stage, workspace, answers, key, value, note
):
    run_stage("train_scratch", "mlp_relu")
    before, _ = answers("scratch/mlp_relu", "0", "1", "2")
    edit_params(workspace, key, value)
    after, (line,) = answers("scratch/mlp_relu", "0", "1", "2")
    assert after == before
    assert note in line


@pytest.mark.parametrize(
    ("model", "image", "complaint"),
    [
        ("torch/mlp", "0", rf"'torch/mlp': allowed are {', '.join(MODELS)}, / and a model's"),
        ("scratch/nope", "0", r"scratch/nope/model\.json is missing: `dvc repro --force train_"),
        ("scratch/mlp_relu", "100", "100: there are 100 test images, 0 to 99"),
        ("scratch/mlp_relu", "params.yaml", r"params\.yaml is no picture"),
    ],
)
def test_a_wrong_model_or_image_is_named(run_stage, run_main, model, image, complaint):
    run_stage("train_scratch", "mlp_relu")
    with pytest.raises(UserError, match=complaint):
        run_main(predict, model, image)


def test_test_images_of_another_size_are_refused(workspace):
    with pytest.raises(UserError, match="the test images have 28×28 pixels, the model's 8×9"):
        predict.load_image("0", described(image_size=(8, 9)))


INK = np.kron(np.arange(49, dtype=np.uint8).reshape(7, 7) * 5, np.ones((4, 4), np.uint8))
"""A picture of 28×28 pixels with all kinds of gray."""


def with_alpha(mode: str) -> Image.Image:
    """White ink whose transparency makes the grays; the ground's colour is not seen."""
    white = Image.fromarray(np.full_like(INK, 255)).convert(mode)
    white.putalpha(Image.fromarray(INK))
    return white


TURNED = Image.Exif()
TURNED[0x0112] = 6  # a quarter turn clockwise shows it upright


@pytest.mark.parametrize(
    ("picture", "options"),
    [
        (Image.fromarray(INK.astype(np.uint16) * 257), {}),
        (with_alpha("RGB"), {}),
        (with_alpha("L"), {}),
        (Image.fromarray(INK).convert("P"), {}),
        (Image.fromarray(np.rot90(INK)), {"exif": TURNED}),
    ],
    ids=["16 bits", "RGBA", "LA", "palette", "turned as the camera says"],
)
def test_every_kind_of_picture_shows_the_same_grays(tmp_path, picture, options):
    picture.save(path := tmp_path / "picture.png", **options)
    np.testing.assert_array_equal(predict.load_image(str(path), described()), INK)


def test_a_transparent_picture_stands_on_the_ground_of_the_models_images(tmp_path):
    light = described(ground=255, image_size=(14, 20))
    dark = Image.new("LA", (20, 14), (0, 0))  # black, nothing of it seen
    dark.putpixel((5, 3), (0, 255))
    dark.save(path := tmp_path / "picture.png")
    expected = np.full((14, 20), 255)
    expected[3, 5] = 0
    np.testing.assert_array_equal(predict.load_image(str(path), light), expected)
    deep = Image.fromarray(np.full((14, 20), 7 * 257, np.uint16))
    deep.save(path, transparency=7 * 257)
    np.testing.assert_array_equal(predict.load_image(str(path), light), np.full((14, 20), 255))


def test_a_damaged_an_uncertain_and_a_huge_picture_are_refused(tmp_path, monkeypatch):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8))
    noise.save(path := tmp_path / "half.png")
    path.write_bytes(path.read_bytes()[:20_000])
    note = PngImagePlugin.PngInfo()
    note.add_text("comment", "y" * 5_000_000, zip=True)
    Image.fromarray(INK).save(tmp_path / "bomb.png", pnginfo=note)
    Image.fromarray(INK.astype(np.float32)).save(tmp_path / "float.tiff")
    noise.resize((300, 300)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 25_000)
    for name, complaint in {
        "half.png": "is a damaged picture: ",
        "bomb.png": "is a damaged picture: Decompressed data too large",
        "float.tiff": "has pixels of 32 bits, .*allowed: 8 or 16 bits",
        "large.png": "has too many pixels; allowed: 50,000",
    }.items():
        with pytest.raises(UserError, match=f"{name} {complaint}"):
            predict.load_image(str(tmp_path / name), described())
