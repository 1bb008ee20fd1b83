"""Random rotations, scalings, shears and shifts of images, drawn alike for every framework.

Each framework moves the images with its own operation: models/pytorch.py, tensorflow.py and scratch.py have a
function `move`, which gives the same pixels.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from stages.common import params


class Augmentation(params.Section):
    """How far an image may be moved, at most, either way."""

    rotation: Annotated[params.Number, Field(ge=0, le=180)]  # degrees
    scale: Annotated[params.Number, Field(ge=0, lt=1)]  # share of the size
    shear: Annotated[params.Number, Field(ge=0, lt=1)]  # columns a row
    shift: Annotated[params.Number, Field(ge=0, lt=64)]  # pixels


def draw(limits: Augmentation, images: int, generator: np.random.Generator) -> np.ndarray:
    """A transformation for each image, float32 (images, 2, 3), evenly distributed within the limits.

    It leads from a pixel of the moved image to its source: (x, y) = matrix @ (x', y', 1), where x counts
    columns and y rows from the image's centre. A source between pixels is interpolated (bilinear), one
    outside the image is ground.
    """
    rotation, scale, shear, right, down = generator.uniform(-1, 1, (5, images))
    angle, size = np.deg2rad(limits.rotation * rotation), 1 + limits.scale * scale
    cosine, sine = np.cos(angle) / size, np.sin(angle) / size
    rows = [
        [cosine, limits.shear * shear - sine, limits.shift * right],
        [sine, cosine, limits.shift * down],
    ]
    return np.array(rows, np.float32).transpose(2, 0, 1)
