"""A trained model tells digits, as its stage does, in test images and in pictures."""

import numpy as np
import pytest
from conftest import models
from PIL import Image, PngImagePlugin

from stages.common import results
from stages.common.command import UserError
from tools import predict


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow", "scratch", "sklearn"])
def test_a_trained_model_predicts_as_its_stage_did(run_stage, framework):
    model = models(framework)[-1]
    run_stage(f"train_{framework}", model)
    expected = np.load(results.path("predictions", framework, model, "npy"))
    images = np.stack([predict.load_image(str(number)) for number in range(100)])
    np.testing.assert_allclose(predict.predict(framework, model, images), expected, atol=1e-5)


def test_answers_name_the_likeliest_digits(run_stage, monkeypatch, capsys):
    run_stage("train_pytorch", "mlp")
    picture = Image.fromarray(predict.load_image("3")).resize((280, 280), Image.Resampling.NEAREST)
    picture.convert("RGB").save("large.png")
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["predict", "pytorch/mlp", "3", "large.png"])
    predict.main()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("3: ")
    assert first.count("%") == 3
    digit = np.load(results.path("predictions", "pytorch", "mlp", "npy"))[3].argmax()
    assert first.startswith(f"3: {digit} (")
    assert second.startswith(f"large.png: {digit} (")


@pytest.mark.parametrize(
    ("model", "image", "complaint"),
    [
        (
            "torch/mlp",
            "0",
            r"'torch/mlp': allowed are pytorch, tensorflow, scratch, sklearn, / and a model's",
        ),
        ("pytorch/nope", "0", r"pytorch\.nope is missing; pytorch has linear"),
        ("pytorch/mlp", "100", "100: there are 100 test images, 0 to 99"),
        ("pytorch/mlp", "params.yaml", r"params\.yaml is no picture"),
    ],
)
def test_a_wrong_model_or_image_is_named(run_stage, monkeypatch, model, image, complaint):
    run_stage("train_pytorch", "linear")
    monkeypatch.setattr("sys.argv", ["predict", model, image])
    with pytest.raises(UserError, match=complaint):
        predict.main()


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
    np.testing.assert_array_equal(predict.load_image(str(path)), INK, kind)


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise shows it upright
    Image.fromarray(np.rot90(INK)).save(path := tmp_path / "picture.png", exif=exif)
    np.testing.assert_array_equal(predict.load_image(str(path)), INK)


def test_a_damaged_an_uncertain_and_a_huge_picture_are_refused(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    Image.fromarray(noise).save(path := tmp_path / "half.png")
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match=r"half\.png is a damaged picture: "):
        predict.load_image(str(path))
    note = PngImagePlugin.PngInfo()
    note.add_text("comment", "y" * 5_000_000, zip=True)
    Image.fromarray(INK).save(path := tmp_path / "bomb.png", pnginfo=note)
    with pytest.raises(UserError, match=r"bomb\.png is a damaged picture: Decompressed data too large"):
        predict.load_image(str(path))
    Image.fromarray(INK.astype(np.float32)).save(path := tmp_path / "float.tiff")
    with pytest.raises(UserError, match=r"float\.tiff has pixels of 32 bits, .*allowed: 8 or 16 bits"):
        predict.load_image(str(path))
    Image.fromarray(noise).save(path := tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"large\.png has too many pixels; allowed: 2,000"):
        predict.load_image(str(path))
