"""Images moved at random: drawn once for all frameworks, which move them to the same pixels."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import torch
from conftest import left, read_csv, tiny_arrays, write_data

from stages.common import augmentation, results, training
from stages.models import pytorch, scratch, tensorflow

STILL = {"rotation": 0, "scale": 0, "shear": 0, "shift": 0}
LIMITS = augmentation.Augmentation(rotation=40, scale=0.3, shear=0.4, shift=5)


def move_pytorch(images, transformations, ground):
    tensor = pytorch.to_tensor(images, torch.device("cpu"))
    moved = pytorch.move(tensor, torch.from_numpy(transformations), ground)
    assert (moved.shape, moved.stride()) == (tensor.shape, tensor.stride()), "channels-last, as it came"
    return moved.numpy()[:, 0]


def move_tensorflow(images, transformations, ground):
    return tensorflow.move(
        tf.constant(images[..., np.newaxis]), tf.constant(transformations), ground
    ).numpy()[..., 0]


MOVES = {"pytorch": move_pytorch, "tensorflow": move_tensorflow, "scratch": scratch.move}
EACH = pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)


def to_the_limits(images: int = 3, **limits: float) -> np.ndarray:
    """The transformations of a draw that goes to its limits, all to the same side."""
    farthest = SimpleNamespace(uniform=lambda low, high, shape: np.full(shape, high))
    return augmentation.draw(augmentation.Augmentation(**STILL | limits), images, farthest)


@pytest.mark.parametrize("limit", ["rotation", "scale", "shear", "shift"])
def test_each_transformation_is_spread_over_its_limits_and_differs_from_image_to_image(limit):
    limits = augmentation.Augmentation(**STILL | {limit: getattr(LIMITS, limit)})
    drawn = augmentation.draw(limits, 2000, np.random.default_rng(0))
    assert (drawn.shape, drawn.dtype) == ((2000, 2, 3), np.float32)
    (a, b, right), (c, _, down) = drawn.transpose(1, 2, 0)
    found = {"rotation": np.rad2deg(np.arctan2(c, a)), "scale": 1 / np.hypot(a, c) - 1, "shear": b + c}
    found |= {"shift": np.concatenate([right, down])}
    for name, values in found.items():
        if name == limit:
            most = getattr(LIMITS, limit)
            assert 0.99 * most < np.abs(values).max() <= most * 1.0001
            assert values.std() == pytest.approx(most / np.sqrt(3), rel=0.05), "evenly, either way"
            assert abs(values.mean()) < 0.05 * most
            assert len(np.unique(values)) > 1900
        elif (limit, name) != ("rotation", "shear"):
            np.testing.assert_allclose(values, 0, atol=1e-6)
    again = augmentation.draw(limits, 2000, np.random.default_rng(0))
    np.testing.assert_array_equal(again, drawn)


@pytest.mark.parametrize("size", [(28, 28), (20, 33), (64, 8)])
@pytest.mark.parametrize("ground", [0.0, -1.0, 1.0, 255.0])
def test_three_frameworks_move_images_to_the_same_pixels(size, ground):
    generator = np.random.default_rng(0)
    images = (255 * generator.random((50, *size))).astype(np.float32) * max(1, ground) / 255
    drawn = augmentation.draw(LIMITS, 50, generator)
    expected = scratch.move(images, drawn, ground)
    assert np.abs(expected - images).max() > 0.5
    for move in MOVES.values():
        np.testing.assert_allclose(move(images, drawn, ground), expected, atol=1e-4 * max(1, ground))
    blank = np.full_like(images, ground)
    for move in MOVES.values():
        np.testing.assert_allclose(
            move(blank, drawn, ground), blank, rtol=1e-6, err_msg="what comes in is ground"
        )


@pytest.fixture
def blob() -> np.ndarray:
    """Three images, -1 but for a lopsided patch in the middle."""
    images = np.full((3, 28, 28), -1, np.float32)
    images[:, 10:16, 9:20] = np.random.default_rng(0).random((3, 6, 11), np.float32)
    return images


@EACH
def test_images_shift_by_pixels_rotate_by_degrees_scale_by_shares_and_shear_along_rows(blob, move):
    def moved(**limits: float) -> np.ndarray:
        return move(blob, to_the_limits(**limits), -1.0)

    np.testing.assert_allclose(moved(), blob, atol=1e-5)
    np.testing.assert_allclose(moved(shift=2), np.roll(blob, (-2, -2), axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(moved(rotation=90), np.rot90(blob, axes=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(move(blob, to_the_limits(shift=40), -1.0), -1, atol=1e-5)
    inked = [np.count_nonzero(moved(scale=scale) > -0.5) for scale in (0, 0.5)]
    assert 2 < inked[1] / inked[0] < 2.9, "half as large again is 2.25 times the area"
    sheared = moved(shear=0.5) > -0.99
    np.testing.assert_array_equal(
        sheared.any(axis=2), (blob > -0.99).any(axis=2), "every row stays in its place"
    )
    middles = [np.flatnonzero(row).mean() for row in sheared[0, 10:16]]
    np.testing.assert_allclose(np.diff(middles), -0.5, atol=0.51, err_msg="by half a column a row")
    assert middles[0] - middles[-1] == pytest.approx(2.5, abs=0.51)
    wide = np.pad(blob, ((0, 0), (0, 0), (6, 0)), constant_values=-1)
    expected = np.roll(wide, (-3, -3), axis=(1, 2))
    np.testing.assert_allclose(move(wide, to_the_limits(shift=3), -1.0), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("framework", "model"), [("pytorch", "mlp"), ("tensorflow", "cnn"), ("scratch", "mlp_relu")]
)
def test_every_framework_trains_on_moved_images_and_repeats(run_stage, workspace, framework, model):
    entry = f"{framework}.{model}"
    run_stage(f"train_{framework}", model, **{f"{entry}.label_smoothing": 0})
    weights, found = str(results.folder(framework, model) / "weights.safetensors"), []
    for augmented in (LIMITS.model_dump(), LIMITS.model_dump(), STILL):
        found.append(left(framework, model))
        run_stage(f"train_{framework}", model, **{f"{entry}.augmentation": augmented})
    plain, first, second = found
    assert first == second
    assert first[weights] != plain[weights]

    arrays = tiny_arrays()
    arrays["train_images"][:] = 255
    write_data(workspace, arrays)
    description = json.loads((workspace / "data/dataset.json").read_text())
    (workspace / "data/dataset.json").write_text(json.dumps(description | {"ground": 255}))
    changes = {"learning_rate": 1e-12, "pixel_range": [-1, 2]}
    losses = []
    for augmented in (None, STILL | {"shift": 20}):
        edits = {f"{entry}.{key}": value for key, value in (changes | {"augmentation": augmented}).items()}
        run_stage(f"train_{framework}", model, **edits)
        losses.append(float(read_csv(results.folder(framework, model) / "history.csv")[0]["train_loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5), "white images stay white on a white ground"


def test_predictions_are_averaged_over_the_image_and_its_four_neighbours(blob):
    rolled = [np.roll(blob, move, axis=(1, 2)) for move in ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2))]
    np.testing.assert_array_equal(training.views(blob, 2, -1.0), rolled)
    np.testing.assert_array_equal(training.views(blob, 0, -1.0), [blob])
    shown = []
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 30)).astype(np.uint8)
    recipe = {"pixel_range": [0, 10], "prediction_shift": 1}
    predict = training.predictor(
        lambda pixels: shown.append(pixels) or np.full((4, 2), len(shown)), recipe, 255
    )
    np.testing.assert_array_equal(predict(images), np.full((4, 2), 3), "the mean of 1 to 5")
    np.testing.assert_allclose(shown[0], images / 25.5, rtol=1e-5)
    np.testing.assert_allclose(shown[1][:, 0], 10, rtol=1e-6, err_msg="from outside comes ground")
