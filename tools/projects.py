"""Which models a tool is asked for, and other images to train them on."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from apps import trials
from stages.common import params
from stages.console.errors import UserError

DATA = Path("data")


def models(content: dict[str, Any] | None = None) -> list[str]:
    """All models of params.yaml, or of other parameters, as framework/name."""
    return trials.models(params.content(params.PATH) if content is None else content)


def chosen(named: list[str]) -> list[str]:
    """The named models; all, if none is. Raises UserError if one is unknown or there are no images."""
    everything = models()
    if unknown := set(named) - set(everything):
        raise UserError(f"{', '.join(sorted(unknown))} unknown; params.yaml has {', '.join(everything)}")
    if not (DATA / "test_labels.npy").is_file():
        raise UserError("data/ is empty: run `dvc repro download_mnist` first")
    return named or everything


def is_network(entry: dict[str, Any]) -> bool:
    """Whether a model's entry in params.yaml is a network's."""
    return "architecture" in entry


def resize(folder: Path, train: int, test: int | None = None, data: Path = DATA) -> Path:
    """Put the first images of `data` into `folder`; more than there are, are the same again.

    train, test: how many. All test images if `test` is None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    for part, count in (("train", train), ("test", test)):
        for kind in ("images", "labels"):
            array = np.load(data / f"{part}_{kind}.npy", mmap_mode="r")
            array = np.resize(array, (count or len(array), *array.shape[1:]))
            np.save(folder / f"{part}_{kind}.npy", array)
        described["counts"][part] = len(array)
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    return folder
