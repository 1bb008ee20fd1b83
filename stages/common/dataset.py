"""The images and labels in data/, as the trainers and `evaluate` see them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from stages.common.command import UserError
from stages.common.files import load_array

FOLDER = Path("data")
IMAGE_SIZE = 28
CLASSES = 10
Levels = TypeVar("Levels")


@dataclass(frozen=True)
class Split:
    """Training and held-out images, uint8 (n, 28, 28), and their labels, uint8 (n,), 0–9."""

    train_images: np.ndarray
    train_labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray


def load_training(held_out: int) -> Split:
    """The training images, the last `held_out` of them set apart for validation.

    Raises UserError if a file is missing or damaged or fewer than one image is left to train on.
    """
    images, labels = _load("train")
    if held_out >= len(images):
        raise UserError(
            f"params.yaml: validation_images (the model's own, or that of data) is {held_out}, but there "
            f"are {len(images)} training images: hold out at most {len(images) - 1}"
        )
    kept = len(images) - held_out
    return Split(images[:kept], labels[:kept], images[kept:], labels[kept:])


def load_test_images() -> np.ndarray:
    """The test images, uint8 (n, 28, 28), as the trainers see them: without labels."""
    return _load_images("test")


def load_test() -> tuple[np.ndarray, np.ndarray]:
    """The test images, uint8 (n, 28, 28), and their labels, uint8 (n,), for what draws them.

    Raises UserError if a file is missing or damaged.
    """
    return _load("test")


def load_labels(part: str) -> np.ndarray:
    """The labels of `part` (train or test), uint8 (n,), 0–9."""
    path = FOLDER / f"{part}_labels.npy"
    labels = load_array(path, np.uint8, (None,))
    if labels.max(initial=0) >= CLASSES:
        raise UserError(f"{path} holds the label {labels.max()}; allowed: 0 to {CLASSES - 1}")
    return labels


def scale_pixels(images: np.ndarray, pixel_range: tuple[float, float]) -> np.ndarray:
    """uint8 images of any shape as float32, 0 and 255 becoming the two ends of `pixel_range`."""
    return scale_levels(images.astype(np.float32), pixel_range)


def scale_levels(levels: Levels, pixel_range: tuple[float, float]) -> Levels:
    """Gray levels as float32, in an array or any framework's tensor, scaled like `scale_pixels`.

    In place, where the library can.
    """
    low, high = pixel_range
    levels *= (high - low) / 255
    levels += low
    return levels


def _load(part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _load_images(part), load_labels(part)
    if len(images) != len(labels):
        raise UserError(
            f"{FOLDER}/{part}_images.npy holds {len(images)} images, but {part}_labels.npy {len(labels)} "
            "labels: `dvc repro download_mnist` writes both again"
        )
    return images, labels


def _load_images(part: str) -> np.ndarray:
    path = FOLDER / f"{part}_images.npy"
    images = load_array(path, np.uint8, (None, IMAGE_SIZE, IMAGE_SIZE))
    if len(images) == 0:
        raise UserError(f"{path} holds no images: `dvc repro download_mnist` writes it again")
    return images
