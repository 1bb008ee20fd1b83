"""Let a trained model say which digits it sees, in test images or in pictures of your own.

    python -m tools.predict pytorch/champion 0 7 my_seven.png

A number is a row of data/test_images.npy. A picture is any that Pillow opens; it is made gray and
28×28 pixels, and should show one light digit on a dark ground, about as large as MNIST's. Needs
the model's weights (`dvc repro` or `dvc pull`). Prints the likeliest digits and their probabilities.
"""

import argparse
import warnings
from importlib import import_module

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stages.common import command, dataset, params, results, training
from stages.common.architecture import Architecture

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
    if framework not in results.FRAMEWORKS:
        raise command.UserError(
            f"{arguments.model!r}: allowed are {', '.join(results.FRAMEWORKS)}, / and a model's name"
        )
    images = np.stack([load_image(image) for image in arguments.images])
    for image, probabilities in zip(arguments.images, predict(framework, name, images), strict=True):
        best = probabilities.argsort(kind="stable")[::-1][:SHOWN]
        print(f"{image}: " + ", ".join(f"{digit} ({probabilities[digit]:.1%})" for digit in best))


def load_image(name: str) -> np.ndarray:
    """The test image of that number, or the picture in that file, uint8 (28, 28)."""
    if name.isdecimal():
        images = dataset.load_test_images()
        if len(name) > 18 or int(name) >= len(images):
            raise command.UserError(f"{name}: there are {len(images)} test images, 0 to {len(images) - 1}")
        return images[int(name)]
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(name) as picture:
            upright = ImageOps.exif_transpose(picture)
            size = (dataset.IMAGE_SIZE, dataset.IMAGE_SIZE)
            return np.asarray(_gray(upright, name).resize(size, Image.Resampling.LANCZOS))
    except UnidentifiedImageError:
        raise command.UserError(f"{name} is no picture") from None
    except Image.DecompressionBombError:
        raise command.UserError(
            f"{name} has too many pixels; allowed: {2 * Image.MAX_IMAGE_PIXELS:,}"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, OSError) and error.filename:
            raise
        raise command.UserError(f"{name} is a damaged picture: {error}") from None


def _gray(picture: Image.Image, name: str) -> Image.Image:
    """The picture in 256 levels of gray, on black where it is transparent."""
    if picture.mode.startswith("I;16"):
        levels = np.asarray(picture)
        levels = np.where(levels == picture.info.get("transparency", -1), 0, levels)
        return Image.fromarray((levels >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise command.UserError(
            f"{name} has pixels of 32 bits, of no certain range; allowed: 8 or 16 bits a pixel and colour"
        )
    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, "black")
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    return picture.convert("L")


def predict(framework: str, name: str, images: np.ndarray) -> np.ndarray:
    """Class probabilities (n, 10) of images, uint8 (n, 28, 28), as the model's stage gives them."""
    path = results.weights(framework, name)
    environment.import_quietly(f"stages.models.{framework}")
    stage = import_module(f"stages.train_{framework}")
    library = import_module(f"stages.models.{framework}")
    settings = params.read_model(framework, name, stage.Settings)
    if framework == "sklearn":
        classifier = library.load(path, import_module(f"stages.models.{settings.library}"))
        return library.predict_proba(classifier, stage.prepare(images, settings))
    layers = params.read(f"architectures.{settings.architecture}", Architecture)
    network = library.load(layers, path)
    views = training.views(dataset.scale_pixels(images, settings.pixel_range), settings)
    probabilities = library.predict_proba(network, np.concatenate(views))
    return probabilities.reshape(len(views), len(images), -1).mean(axis=0)


if __name__ == "__main__":
    command.run(main)
