"""Draw random rotations, scalings, shears and shifts of images, the same for every framework.

The function `move` of models/pytorch.py, tensorflow.py and scratch.py applies them; all give the same pixels.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from stages.common import params


class Augmentation(params.Section):
    """The limits of the random transformations, in both directions."""

    rotation: Annotated[params.Number, Field(ge=0, le=180)]  # degrees
    scale: Annotated[params.Number, Field(ge=0, lt=1)]  # share of the size
    shear: Annotated[params.Number, Field(ge=0, lt=1)]  # columns per row
    shift: Annotated[params.Number, Field(ge=0, lt=64)]  # pixels


def draw(limits: Augmentation, images: int, generator: np.random.Generator) -> np.ndarray:
    """An affine matrix for each image, float32 (images, 2, 3), drawn uniformly within the limits.

    It maps a pixel of the moved image to its source: (x, y) = matrix @ (x', y', 1), where x counts columns
    and y rows from the image's centre. Sources between pixels are interpolated (bilinear); sources outside
    the image have the background's gray level.
    """
    rotation, scale, shear, right, down = generator.uniform(-1, 1, (5, images))
    angle, size = np.deg2rad(limits.rotation * rotation), 1 + limits.scale * scale
    cosine, sine = np.cos(angle) / size, np.sin(angle) / size
    rows = [
        [cosine, limits.shear * shear - sine, limits.shift * right],
        [sine, cosine, limits.shift * down],
    ]
    return np.array(rows, np.float32).transpose(2, 0, 1)
