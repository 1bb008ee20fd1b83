"""Load trained networks of each framework into the others and compare their logits.

    python -m stages.compare_frameworks

`parity` in params.yaml names one network of each framework, all of one architecture. Each is loaded into all
frameworks, which get the same test images on the CPU. Reads data/test_images.npy and outputs/models/. Writes
outputs/parity.csv: model, target (the other framework), difference (the largest absolute one of a logit),
other_classes (how many images get another class), ties (how many of these have their two largest logits
within TIE of each other).
"""

import io

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
import pandas as pd
import torch

from stages.common import dataset, files, params, results, saved
from stages.console import command
from stages.console.errors import UserError
from stages.models import pytorch, scratch, tensorflow
from stages.models.tensorflow import tf

TIE = 1e-4
"""Rounding may swap logits that differ by up to this: it changes each by less than half of it (tested)."""
FRAMEWORKS = {"pytorch": pytorch, "tensorflow": tensorflow, "scratch": scratch}


class Parity(params.Section):
    """The models to compare, one of each framework."""

    pytorch: params.Name
    tensorflow: params.Name
    scratch: params.Name


def main() -> None:
    command.no_arguments(__doc__)
    threads = params.read("threads", params.Threads)
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    torch.set_num_threads(threads)
    environment.use_all_threads()
    compared = params.read("parity", Parity).model_dump()
    images = dataset.load_test_images()
    first, rows = None, []
    for framework, name in compared.items():
        model = saved.load(framework, name)
        first = first or model
        if model.architecture != first.architecture:
            raise UserError(
                f"params.yaml: parity.{framework} is {name!r}, of another architecture than "
                f"parity.{first.description.framework}, {first.description.name!r}"
            )
        pixels = dataset.scale_pixels(images, model.description.recipe["pixel_range"])
        for row in compare(framework, model, pixels):
            rows.append({"model": f"{framework}/{name}", **row})
            print(
                f"{framework}/{name} in {row['target']}: logits within {row['difference']:.1e}, "
                f"{row['other_classes']} other classes",
                flush=True,
            )
    table = pd.DataFrame(rows, columns=["model", "target", "difference", "other_classes", "ties"])
    content = io.StringIO()
    table.to_csv(content, index=False, lineterminator="\n", float_format="%.3g")
    with files.replacing(results.OUTPUTS / "parity.csv") as (partial,):
        files.write_text(partial, content.getvalue())


def compare(framework: str, model: saved.Network, pixels: np.ndarray) -> list[dict[str, object]]:
    """A row for each other framework. pixels: float32 (n, rows, columns)."""
    found = {
        name: library.logits(library.load(model.architecture, model.weights), pixels)
        for name, library in FRAMEWORKS.items()
    }
    expected = found.pop(framework)
    if not np.isfinite(expected).all():
        raise UserError(
            f"{results.folder(framework, model.description.name)} gives logits that are nan or infinity; "
            f"`{results.remedy(framework, model.description.name)}` makes it anew"
        )
    rows = []
    for target, logits in found.items():
        changed = logits.argmax(axis=1) != expected.argmax(axis=1)
        first, second = np.sort(expected[changed], axis=1)[:, :-3:-1].T
        rows.append(
            {
                "target": target,
                "difference": float(np.abs(logits - expected).max()),
                "other_classes": int(changed.sum()),
                "ties": int(np.count_nonzero(first - second <= TIE)),
            }
        )
    return rows


if __name__ == "__main__":
    command.run(main)
