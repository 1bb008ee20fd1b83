"""Load the images and labels in data/ and their description, data/dataset.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import AfterValidator, Field

from stages.common.files import load_array
from stages.common.params import Section, load_json
from stages.console.errors import UserError

FOLDER = Path("data")
SIZES = 8, 64
"""Minimum and maximum rows or columns of an image."""
CLASSES = 2, 100
"""Minimum and maximum number of classes."""
Levels = TypeVar("Levels")

Name = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^\S(.*\S)?$")]
Size = Annotated[int, Field(strict=True, ge=SIZES[0], le=SIZES[1])]
Count = Annotated[int, Field(strict=True, ge=1)]


class Counts(Section):
    """The number of images."""

    train: Count
    test: Count


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("two have the same name")
    return names


class Dataset(Section):
    """The content of data/dataset.json, which describes the arrays in data/.

    classes: their names, in the order of the labels. image_size: rows and columns. ground: the background's
    gray level, 0 to 255.
    """

    name: str
    classes: Annotated[
        tuple[Name, ...], Field(min_length=CLASSES[0], max_length=CLASSES[1]), AfterValidator(_different)
    ]
    image_size: tuple[Size, Size]
    ground: Annotated[int, Field(strict=True, ge=0, le=255)]
    counts: Counts


def describe() -> Dataset:
    """The content of data/dataset.json. Raises UserError, naming the file, if it is missing or wrong."""
    return load_json(FOLDER / "dataset.json", Dataset, "does not describe a data set")


@dataclass(frozen=True)
class Split:
    """Training and held-out images, uint8 (n, rows, columns), and their labels, uint8 (n,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray


def load_training(validation: float) -> Split:
    """The training images, split into training and held-out images. validation: a count or a share below 1.

    Raises UserError if a file is missing or damaged or no image is left to train on.
    """
    images, labels = _load("train")
    count = round(validation * len(images)) if validation < 1 else int(validation)
    if count >= len(images):
        raise UserError(
            f"params.yaml: validation (the model's own, or that of data) is {count}, but there "
            f"are {len(images)} training images: hold out at most {len(images) - 1}"
        )
    apart = held_out(labels, count)
    if not count:  # without a copy
        return Split(images, labels, images[:0], labels[:0])
    return Split(images[~apart], labels[~apart], images[apart], labels[apart])


def held_out(labels: np.ndarray, count: int) -> np.ndarray:
    """A mask, bool (n,), of the `count` training images that are held out. labels: uint8 (n,).

    A stratified sample from a generator with a fixed seed: the same images for every model and seed. A
    smaller sample is a subset of a larger one.
    """
    generator = np.random.default_rng(0)
    order = generator.permutation(len(labels))
    rank = np.empty(len(labels))  # of an image within its class, between 0 and 1
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    chosen = np.zeros(len(labels), bool)
    chosen[order[np.argsort(rank[order], kind="stable")[:count]]] = True
    return chosen


def load_test_images() -> np.ndarray:
    """The test images, uint8 (n, rows, columns), for trainers, which must not see the labels."""
    return _load_images("test")


def load_test() -> tuple[np.ndarray, np.ndarray]:
    """The test images, uint8 (n, rows, columns), and their labels, uint8 (n,).

    Raises UserError if a file is missing or damaged.
    """
    return _load("test")


def load_labels(part: str) -> np.ndarray:
    """The labels of `part` (train or test), uint8 (n,): indices of the classes. Raises UserError."""
    path, classes = FOLDER / f"{part}_labels.npy", len(describe().classes)
    labels = load_array(path, np.uint8, (None,))
    if labels.max(initial=0) >= classes:
        raise UserError(f"{path} holds the label {labels.max()}; allowed: 0 to {classes - 1}")
    return labels


def scale_pixels(images: np.ndarray, pixel_range: tuple[float, float]) -> np.ndarray:
    """uint8 images of any shape as float32, scaled linearly from 0–255 to `pixel_range`."""
    return scale_levels(images.astype(np.float32), pixel_range)


def scale_levels(levels: Levels, pixel_range: tuple[float, float]) -> Levels:
    """float32 gray levels, an array or a framework's tensor, scaled like `scale_pixels`.

    Works in place if the library can: do not use `levels` afterwards.
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
    images = load_array(path, np.uint8, (None, *describe().image_size))
    if len(images) == 0:
        raise UserError(f"{path} holds no images: `dvc repro download_mnist` writes it again")
    return images
