"""Let a trained model say which classes it sees, in test images or in pictures of your own.

    python -m tools.predict pytorch/champion 0 7 my_seven.png

A number is a row of data/test_images.npy. A picture is any that Pillow opens; it is made gray and as large
as the model's images, and should look like them: for MNIST one light digit on a dark ground. Needs nothing
but the model's folder in outputs/models (`dvc repro` or `dvc pull`): the model answers as it was trained,
whatever params.yaml says today. Prints the likeliest classes and their probabilities.
"""

import argparse
import json
import sys
import warnings
from functools import partial
from importlib import import_module

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic_core import to_json

from stages.common import dataset, params, results, saved, training
from stages.common.frameworks import FRAMEWORKS
from stages.console import command
from stages.console.errors import UserError

SHOWN = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="framework/model", help="as the results name it")
    parser.add_argument(
        "images", nargs="+", metavar="image", help="a test image's number or a picture's file"
    )
    arguments = parser.parse_args()
    framework, _, name = arguments.model.partition("/")
    if framework not in FRAMEWORKS:
        raise UserError(f"{arguments.model!r}: allowed are {', '.join(FRAMEWORKS)}, / and a model's name")
    model = results.load_description(framework, name)
    if changed := differing(model):
        print(f"note: {changed}; {arguments.model} answers as it was trained", file=sys.stderr)
    images = np.stack([load_image(image, model) for image in arguments.images])
    for image, probabilities in zip(arguments.images, predict(model, images), strict=True):
        best = probabilities.argsort(kind="stable")[::-1][:SHOWN]
        print(f"{image}: " + ", ".join(f"{model.classes[i]} ({probabilities[i]:.1%})" for i in best))


def differing(model: results.Description) -> str | None:
    """How today's parameters differ from those that the model was trained with; None if they do not."""
    entry = params.content(params.PATH).get(model.framework) or {}
    entry = entry.get(model.name)
    if entry is None:
        return f"{params.PATH} no longer has {model.framework}.{model.name}"
    entry = json.loads(to_json(entry, inf_nan_mode="strings"))  # as a training stage writes it
    keys = [key for key in {**model.recipe, **entry} if model.recipe.get(key) != entry.get(key)]
    if keys:
        return f"{params.PATH} has another {', '.join(keys)} for {model.framework}.{model.name} today"
    if model.architecture is not None:
        name = model.recipe["architecture"]
        if params.content(params.ARCHITECTURES).get(name) != model.architecture:
            return f"{params.ARCHITECTURES} has other layers for {name} today"
    return None


def load_image(name: str, model: results.Description) -> np.ndarray:
    """The test image of that number, or the picture in that file, as large as the model's images, uint8."""
    rows, columns = model.image_size
    if name.isdecimal():
        images = dataset.load_test_images()
        if len(name) > 18 or int(name) >= len(images):
            raise UserError(f"{name}: there are {len(images)} test images, 0 to {len(images) - 1}")
        if images.shape[1:] != (rows, columns):
            size = "×".join(map(str, images.shape[1:]))
            raise UserError(f"{name}: the test images have {size} pixels, the model's {rows}×{columns}")
        return images[int(name)]
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(name) as picture:
            upright = ImageOps.exif_transpose(picture)
            gray = _gray(upright, name, model.ground)
            return np.asarray(gray.resize((columns, rows), Image.Resampling.LANCZOS))
    except UnidentifiedImageError:
        raise UserError(f"{name} is no picture") from None
    except Image.DecompressionBombError:
        raise UserError(f"{name} has too many pixels; allowed: {2 * Image.MAX_IMAGE_PIXELS:,}") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, OSError) and error.filename:
            raise
        raise UserError(f"{name} is a damaged picture: {error}") from None


def _gray(picture: Image.Image, name: str, ground: int) -> Image.Image:
    """The picture in 256 levels of gray, on the gray level `ground` where it is transparent."""
    if picture.mode.startswith("I;16"):
        levels = np.asarray(picture)
        transparent = levels == picture.info.get("transparency", -1)
        return Image.fromarray(np.where(transparent, ground, levels >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise UserError(
            f"{name} has pixels of 32 bits, of no certain range; allowed: 8 or 16 bits a pixel and colour"
        )
    if picture.has_transparency_data:
        below = Image.new("RGBA", picture.size, (ground, ground, ground))
        picture = Image.alpha_composite(below, picture.convert("RGBA"))
    return picture.convert("L")


def predict(model: results.Description, images: np.ndarray) -> np.ndarray:
    """Class probabilities (n, classes) of uint8 images (n, rows, columns), as the model's stage gave them."""
    library = import_module(f"stages.models.{model.framework}")
    if model.architecture is not None:
        trained = saved.load(model.framework, model.name)
        network = library.load(trained.architecture, trained.weights)
        predict_proba = partial(library.predict_proba, network)
        return training.predictor(predict_proba, model.recipe, model.ground)(images)
    path = results.folder(model.framework, model.name) / "classifier.skops"
    source = import_module(f"stages.models.{model.recipe['library']}")
    classifier = library.load(path, source, results.remedy(model.framework, model.name))
    return library.predict_proba(classifier, library.prepare(images, model.recipe), len(model.classes))


if __name__ == "__main__":
    command.run(main)
