"""Exported models: ONNX files with a description, which need only onnxruntime."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from stages.common import results
from stages.common.frameworks import FRAMEWORKS
from stages.console.errors import UserError, one_line

FOLDER = results.OUTPUTS / "onnx"
REMEDY = "dvc repro export"
IMAGES, PROBABILITIES = "images", "probabilities"
"""Names of the input and the output."""
KEYS = "name", "classes", "image_size", "ground", "sure_above", "provenance"
"""The metadata of a file, each value as JSON: fields of `Exported`."""
AT_ONCE = 100
"""Images per batch, to limit memory."""


def path_of(model: str, folder: Path = FOLDER) -> Path:
    """The file of the model framework/name."""
    return folder / f"{model}.onnx"


@dataclass(frozen=True)
class Exported:
    """A loaded model.

    name: framework/model. classes: their names, in the order of the probabilities. image_size: rows and
    columns. ground: the gray level of the background. sure_above: an answer is sure if its probability is
    larger (evaluation/scores.py); None if too few images were held out to tell. provenance: the
    facts of model.json about the training.
    """

    name: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    ground: int
    sure_above: float | None
    provenance: dict[str, object]
    session: onnxruntime.InferenceSession

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities, float32 (n, classes), of images, uint8 (n, rows, columns)."""
        probabilities = np.empty((len(images), len(self.classes)), np.float32)
        for start in range(0, len(images), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            (probabilities[part],) = self.session.run([PROBABILITIES], {IMAGES: images[part]})
        return probabilities


def metadata(described: results.Description, sure_above: float | None) -> dict[str, str]:
    """The metadata of a trained model's file: its KEYS as JSON."""
    provenance = described.model_dump(
        mode="json", include={"recipe", "summary", "parameters", "training_images", "validation_images"}
    )
    content = {
        "name": f"{described.framework}/{described.name}",
        "classes": described.classes,
        "image_size": described.image_size,
        "ground": described.ground,
        "sure_above": sure_above,
        "provenance": provenance,
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in content.items()}


def names() -> list[str]:
    """The exported models as framework/name. Raises UserError if there are none."""
    found = [
        path.relative_to(FOLDER).with_suffix("").as_posix()
        for framework in FRAMEWORKS
        for path in sorted((FOLDER / framework).glob("*.onnx"))
    ]
    if not found:
        raise UserError(f"{FOLDER} holds no models: `{REMEDY}` makes it")
    return found


def load(path: Path) -> Exported:
    """The model of a file that the stage `export` wrote.

    Raises UserError, naming the file, if it is missing, damaged or not such a model.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: `{REMEDY}` makes it")
    return ask(path.read_bytes(), str(path))


def ask(content: bytes, name: str) -> Exported:
    """The model whose file has this content. name: of the file, for messages. Raises UserError."""
    options = onnxruntime.SessionOptions()
    # each session's threads wait by spinning: eighteen models answered a drawing in 125 ms, so in 9 ms
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        found = session.get_modelmeta().custom_metadata_map
        found = {key: json.loads(found[key]) for key in KEYS}
    except Exception as error:  # onnxruntime's own have no common class
        raise UserError(f"{name} is no exported model: {one_line(error)}; `{REMEDY}` makes it anew") from None
    found["classes"], found["image_size"] = tuple(found["classes"]), tuple(found["image_size"])
    return Exported(**found, session=session)
