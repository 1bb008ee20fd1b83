"""Images moved at random: drawn once for all frameworks, which move them to the same pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import torch
from conftest import edit_json, left, read_csv, tiny_arrays, write_data

from stages.common import augmentation, results, training
from stages.models import pytorch, scratch, tensorflow

STILL = {"rotation": 0, "scale": 0, "shear": 0, "shift": 0}
MOST = {"rotation": 40, "scale": 0.3, "shear": 0.4, "shift": 5}


def draw(limits: dict[str, float], images: int, generator) -> np.ndarray:
    return augmentation.draw(augmentation.Augmentation(**STILL | limits), images, generator)


def move_pytorch(images, transformations, ground):
    tensor = pytorch.to_tensor(images, torch.device("cpu"))
    moved = pytorch.move(tensor, torch.from_numpy(transformations), ground)
    assert (moved.shape, moved.stride()) == (tensor.shape, tensor.stride()), "channels-last, as it came"
    return moved.numpy()[:, 0]


def move_tensorflow(images, transformations, ground):
    moved = tensorflow.move(tf.constant(images[..., np.newaxis]), tf.constant(transformations), ground)
    return moved.numpy()[..., 0]


MOVES = {"pytorch": move_pytorch, "tensorflow": move_tensorflow, "scratch": scratch.move}


@pytest.mark.parametrize("limit", MOST)
def test_each_limit_is_kept_its_range_filled_evenly_and_every_image_moved_otherwise(limit):
    drawn = draw({limit: MOST[limit]}, 2000, np.random.default_rng(0))
    assert (drawn.shape, drawn.dtype) == ((2000, 2, 3), np.float32)
    (a, b, right), (c, _, down) = drawn.transpose(1, 2, 0)
    found = {"rotation": np.rad2deg(np.arctan2(c, a)), "scale": 1 / np.hypot(a, c) - 1, "shear": b + c}
    found["shift"] = np.concatenate([right, down])
    values = found.pop(limit) / MOST[limit]
    assert 0.99 < np.abs(values).max() <= 1.0001
    assert (values.mean(), values.std()) == pytest.approx((0, 1 / np.sqrt(3)), abs=0.03)
    assert len(np.unique(values)) > 1900
    np.testing.assert_allclose(np.concatenate(list(found.values())), 0, atol=2e-6, err_msg="the others stay")
    np.testing.assert_array_equal(draw({limit: MOST[limit]}, 2000, np.random.default_rng(0)), drawn)


@pytest.mark.parametrize("size", [(28, 28), (20, 33), (64, 8)])
@pytest.mark.parametrize("ground", [0.0, -1.0, 1.0, 255.0])
def test_three_frameworks_move_images_to_the_same_pixels_and_what_comes_in_is_ground(size, ground):
    generator, brightest = np.random.default_rng(0), max(1, ground)
    images = brightest * generator.random((50, *size), np.float32)
    drawn = draw(MOST, 50, generator)
    expected = scratch.move(images, drawn, ground)
    assert np.abs(expected - images).max() > 0.5
    blank = np.full_like(images, ground)
    for move in MOVES.values():
        np.testing.assert_allclose(move(images, drawn, ground), expected, atol=1e-4 * brightest)
        np.testing.assert_allclose(move(blank, drawn, ground), blank, rtol=1e-6)


@pytest.fixture
def blob() -> np.ndarray:
    """Three images of 28×34, -1 but for a lopsided patch in the middle."""
    images = np.full((3, 28, 34), -1, np.float32)
    images[:, 10:16, 12:23] = np.random.default_rng(0).random((3, 6, 11), np.float32)
    return images


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_images_shift_by_pixels_rotate_by_degrees_scale_by_shares_and_shear_along_rows(blob, move):
    farthest = SimpleNamespace(uniform=lambda low, high, shape: np.full(shape, high))

    def moved(images: np.ndarray = blob, **limits: float) -> np.ndarray:
        """To the limits, all images to the same side."""
        return move(images, draw(limits, len(images), farthest), -1.0)

    square = blob[:, :, 3:31].copy()
    np.testing.assert_allclose(moved(), blob, atol=1e-5)
    np.testing.assert_allclose(moved(shift=2), np.roll(blob, (-2, -2), axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(moved(shift=40), -1, atol=1e-5)
    np.testing.assert_allclose(moved(square, rotation=90), np.rot90(square, axes=(1, 2)), atol=1e-5)
    inked = [np.count_nonzero(moved(scale=scale) > -0.5) for scale in (0, 0.5)]
    assert 2 < inked[1] / inked[0] < 2.9, "half as large again is 2.25 times the area"
    sheared, plain = moved(shear=0.5) > -0.99, blob > -0.99
    np.testing.assert_array_equal(sheared.any(axis=2), plain.any(axis=2), "every row keeps its place")
    first, *_, last = (np.flatnonzero(row).mean() for row in sheared[0, 10:16])
    assert first - last == pytest.approx(5 * 0.5, abs=0.51), "half a column a row"


@pytest.mark.parametrize("name", ["pytorch/mlp", "tensorflow/cnn", "scratch/mlp_relu"])
def test_every_framework_trains_on_moved_images_over_the_datas_ground_and_repeats(run_stage, workspace, name):
    framework, model = name.split("/")
    found, losses = [], []

    def train(**settings: object) -> None:
        edits = {f"{framework}.{model}.{key}": value for key, value in settings.items()}
        run_stage(f"train_{framework}", model, **edits)
        found.append(left(framework, model))
        losses.append(float(read_csv(results.folder(framework, model) / "history.csv")[0]["train_loss"]))

    train(label_smoothing=0)
    train(augmentation=MOST)
    train()
    plain, first, second = found
    weights = str(results.folder(framework, model) / "weights.safetensors")
    assert plain[weights] != first[weights]
    assert first == second

    white = np.full((400, 28, 28), 255, np.uint8)
    write_data(workspace, tiny_arrays() | {"train_images": white})
    edit_json(workspace / "data/dataset.json", ground=255)
    train(augmentation=None, learning_rate=1e-12, pixel_range=[-1, 2])
    train(augmentation=STILL | {"shift": 20})
    assert losses[-1] == pytest.approx(losses[-2], rel=1e-5), "white images stay white"


def test_predictions_are_averaged_over_the_image_and_its_four_neighbours(blob):
    rolled = [np.roll(blob, move, axis=(1, 2)) for move in ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2))]
    np.testing.assert_array_equal(training.views(blob, 2, -1.0), rolled)
    np.testing.assert_array_equal(training.views(blob, 0, -1.0), [blob])
    shown, images = [], np.random.default_rng(0).integers(0, 256, (4, 20, 30)).astype(np.uint8)

    def count(pixels: np.ndarray) -> int:
        shown.append(pixels)
        return len(shown)

    predict = training.predictor(count, {"pixel_range": [0, 10], "prediction_shift": 1}, 255)
    assert predict(images) == 3, "the mean of 1 to 5"
    np.testing.assert_allclose(shown[0], images / 25.5, rtol=1e-5)
    np.testing.assert_allclose(shown[1][:, 0], 10, rtol=1e-6, err_msg="from outside comes ground")
