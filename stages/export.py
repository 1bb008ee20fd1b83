"""Export every trained model as one ONNX file, which predicts without the library that trained it.

    python -m stages.export

Reads data/dataset.json, data/test_images.npy, outputs/{models,predictions}/ and, from outputs/tables/, the
evaluated models and their thresholds of sure answers. Writes outputs/onnx/<framework>/<model>.onnx: `images`,
uint8 (n, rows, columns), to `probabilities`, float32 (n, classes), with a description, see
common/exported.py. Each file must give the model's own predictions for the first 500 test images.
"""

from importlib import import_module

import numpy as np

from stages.common import dataset, exported, files, results, saved
from stages.console import command
from stages.console.errors import UserError
from stages.evaluation.tables import TABLES, load_table
from stages.exporters import classifiers, neighbors, networks, trees
from stages.exporters.graph import Graph
from stages.models import sklearn

BUILDERS = classifiers, neighbors, trees
"""Importing these modules registers their builders."""
CHECKED = 500
TOLERANCE = 1e-4
"""How far a probability may be from the model's own. So two that are nearly equal may change places."""


def main() -> None:
    command.no_arguments(__doc__)
    data, images = dataset.describe(), dataset.load_test_images()
    summary = load_table(TABLES / "summary.csv", ("model", "sure_above"))
    sizes, left_out = [], []
    with files.replacing(exported.FOLDER) as (folder,):
        folder.mkdir()
        for model, sure_above in zip(summary.model, summary.sure_above, strict=True):
            try:
                content = to_onnx(model, None if np.isnan(sure_above) else sure_above)
            except NotImplementedError as error:
                left_out.append(f"{model}: {error}")
                continue
            path = results.predictions(*model.split("/"))
            expected = results.load_probabilities(path, len(images), len(data.classes))
            ties = compare(content, model, images[:CHECKED], expected[:CHECKED])
            files.write_bytes(exported.path_of(model, folder), content)
            print(f"{model:<30} {len(content) / 1e6:5.1f} MB{in_words(ties)}", flush=True)
            sizes.append(len(content))
    print(f"{exported.FOLDER}: {len(sizes)} models, {sum(sizes) / 1e6:.1f} MB")
    for reason in left_out:
        print(f"not exported: {reason}")


def to_onnx(model: str, sure_above: float | None) -> bytes:
    """The ONNX file of the trained model framework/name. sure_above: its threshold of sure answers, if any.

    Raises NotImplementedError if nothing in stages/exporters/ can build it.
    """
    described = results.load_description(*model.split("/"))
    graph, classes = Graph(), len(described.classes)
    if described.architecture is not None:
        probabilities = networks.build(graph, exported.IMAGES, saved.load(*model.split("/")))
    elif "library" in described.recipe:
        library = import_module(f"stages.models.{described.recipe['library']}")
        path = results.folder(*model.split("/")) / "classifier.skops"
        classifier = sklearn.load(path, library, results.remedy(*model.split("/")))
        probabilities = classifiers.build(graph, exported.IMAGES, classifier, described.recipe, classes)
    else:
        raise NotImplementedError(f"the framework {described.framework} has no builder")
    says = exported.metadata(described, sure_above)
    return graph.model(probabilities, described.image_size, classes, says)


def compare(content: bytes, model: str, images: np.ndarray, expected: np.ndarray) -> list[int]:
    """The indices of the images that get another class from an exported file than from the model: ties.

    images: uint8 (n, rows, columns). expected: the model's own probabilities, float32 (n, classes). Raises
    UserError, naming the model, if a probability differs by more than TOLERANCE.
    """
    found = exported.ask(content, model).predict_proba(images)
    differences = np.abs(found - expected).max(axis=1)
    if not (differences <= TOLERANCE).all():  # false for nan, too
        place = int(differences.argmax())
        raise UserError(
            f"{model}: the exported file gives test image {place} probabilities that differ by "
            f"{differences[place]:.1e} from the model's own; allowed: {TOLERANCE:g}"
        )
    return np.flatnonzero(found.argmax(axis=1) != expected.argmax(axis=1)).tolist()


def in_words(ties: list[int]) -> str:
    return f"  ties, decided differently: test images {', '.join(map(str, ties))}" if ties else ""


if __name__ == "__main__":
    command.run(main)
