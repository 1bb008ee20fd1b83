"""A trained model tells digits, as its stage does, in test images and in pictures."""

import numpy as np
import pytest
from conftest import models
from PIL import Image

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
