"""Carry trained networks from each framework to the others and compare what they say.

    python -m stages.compare_frameworks

The networks stand in params.yaml under `carried`. The weights of each go into the same network
built by the two other frameworks, and all three see all test images, on the CPU. Reads data/test_images.npy
and outputs/models/; writes outputs/parity.csv: model, carried_to, the largest difference of a
logit, and how many images get another digit, `ties` of them because their two largest logits lie
within TIE of each other.
"""

from collections.abc import Callable

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()
    environment.import_quietly("stages.models.tensorflow")

import numpy as np
import pandas as pd
import tensorflow as tf
import torch
from pydantic import ConfigDict

from stages.common import command, dataset, files, params, results
from stages.common.architecture import Architecture
from stages.models import exchange, pytorch, scratch, tensorflow

TIE = 1e-4
"""Logits that rounding may exchange: it moves each by less than half of this, as tests hold."""
LOAD = {"pytorch": pytorch.load, "tensorflow": tensorflow.load, "scratch": scratch.load}
BUILD: dict[str, Callable[[Architecture], exchange.Network]] = {
    "pytorch": pytorch.build,
    "tensorflow": tensorflow.build,
    "scratch": lambda layers: scratch.build(layers, np.random.default_rng(0)),
}


class Carried(params.Section):
    """An architecture, and the model of each framework that has it."""

    architecture: str
    pytorch: str
    tensorflow: str
    scratch: str


class Trained(params.Section):
    """What matters here of a trained network's entry in params.yaml."""

    model_config = ConfigDict(extra="ignore")
    architecture: str
    pixel_range: params.PixelRange


def main() -> None:
    command.no_arguments(__doc__)
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(params.read("threads", params.Threads))
    torch.set_num_threads(params.read("threads", params.Threads))
    environment.use_all_threads()
    carried = params.read("carried", Carried)
    layers = params.read(f"architectures.{carried.architecture}", Architecture)
    images = dataset.load_test_images()
    rows = []
    for framework, load in LOAD.items():
        name = getattr(carried, framework)
        settings = params.read(f"{framework}.{name}", Trained)
        if settings.architecture != carried.architecture:
            raise command.UserError(
                f"params.yaml: carried.{framework} is {name!r}, whose architecture is "
                f"{settings.architecture}; allowed: models of {carried.architecture}"
            )
        network = load(layers, results.weights(framework, name))
        pixels = dataset.scale_pixels(images, settings.pixel_range)
        if not np.isfinite(logits(network, pixels)).all():
            raise command.UserError(
                f"{results.weights(framework, name)} gives logits that are nan or infinity; "
                "`dvc repro` makes it anew"
            )
        for row in compare(framework, network, layers, pixels):
            rows.append({"model": f"{framework}/{name}", **row})
            print(
                f"{framework}/{name} in {row['carried_to']}: logits within {row['difference']:.1e}, "
                f"{row['other_digits']} other digits",
                flush=True,
            )
    columns = ["model", "carried_to", "difference", "other_digits", "ties"]
    with files.replacing(results.OUTPUTS / "parity.csv") as partial:
        table = pd.DataFrame(rows, columns=columns)
        table.to_csv(partial, index=False, lineterminator="\n", float_format="%.3g")


def compare(
    framework: str, network: exchange.Network, layers: Architecture, pixels: np.ndarray
) -> list[dict[str, object]]:
    """A row for each other framework. pixels: float32 (n, 28, 28)."""
    expected = logits(network, pixels)
    weights = exchange.read(network, layers)
    rows = []
    for other, build in BUILD.items():
        if other == framework:
            continue
        copy = build(layers)
        exchange.write(copy, layers, weights)
        found = logits(copy, pixels)
        difference = float(np.abs(found - expected).max())
        changed = found.argmax(axis=1) != expected.argmax(axis=1)
        first, second = np.sort(expected[changed], axis=1)[:, :-3:-1].T
        rows.append(
            {
                "carried_to": other,
                "difference": difference,
                "other_digits": int(changed.sum()),
                "ties": int(np.count_nonzero(first - second <= TIE)),
            }
        )
    return rows


def logits(network: exchange.Network, pixels: np.ndarray) -> np.ndarray:
    """Logits, float32 (n, 10), of a network in whichever framework; pixels: float32 (n, 28, 28)."""
    if isinstance(network, scratch.Network):
        return scratch.predict_logits(network, pixels)
    if isinstance(network, torch.nn.Module):
        return pytorch.predict_logits(network, pytorch.to_tensor(pixels, torch.device("cpu"))).numpy()
    return tensorflow.predict_logits(network, tf.constant(pixels[..., np.newaxis])).numpy()


if __name__ == "__main__":
    command.run(main)
