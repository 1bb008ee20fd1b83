"""Fetch the data set and store it as NumPy arrays.

    python -m stages.download_mnist

Reads data.dataset from params.yaml: mnist, fashion_mnist, kmnist, or a folder of your own.
Writes data/{train,test}_{images,labels}.npy, and data/dataset.json with what later stages need to know: name,
class names, image size, gray level of the background, counts. Takes some seconds; later runs find the files
in the user's cache folder and download nothing.

A folder of your own holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
t10k-labels-idx1-ubyte, plain or .gz: 2 to 100 classes, 8 to 64 rows and columns, at least 4 test images.
The labels may be any numbers, which name the classes. A file classes.txt in the folder can give other names
(UTF-8, one per line): its first line is label 0, or label 1 if the labels go from 1 to the number of lines.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
import platformdirs

from stages.common import dataset, files, params
from stages.console import command
from stages.console.errors import UserError
from stages.sources import idx
from stages.sources.published import PUBLISHED, fetch

LEAST_TEST_IMAGES = 4


def main() -> None:
    command.no_arguments(__doc__)
    name = params.read("data.dataset", str)
    if name in PUBLISHED:
        paths = fetch(PUBLISHED[name], platformdirs.user_cache_path("mnist-pipeline") / name)
        classes = PUBLISHED[name].classes
    else:
        folder = find_folder(name)
        name, paths, classes = folder.name, idx.find(folder), idx.read_classes(folder / "classes.txt")
    arrays = {part: idx.read(path, part.split("_")[1]) for part, path in paths.items()}
    check(arrays, paths)
    classes = number_labels(arrays, paths, classes)
    train, test = arrays["train_images"], arrays["test_images"]
    described = dataset.Dataset(
        name=name,
        classes=classes,
        image_size=train.shape[1:],
        ground=find_ground(train),
        counts=dataset.Counts(train=len(train), test=len(test)),
    )
    targets = [dataset.FOLDER / f"{part}.npy" for part in arrays]
    with files.replacing(*targets, dataset.FOLDER / "dataset.json") as (*array_paths, json_path):
        for path, array in zip(array_paths, arrays.values(), strict=True):
            files.write_array(path, array)
        files.write_json(json_path, described.model_dump(mode="json"))
    print(f"{len(train)} training and {len(test)} test images of {len(classes)} classes")


def find_folder(name: str) -> Path:
    """The user's folder `name`, which may begin with ~, as a path that ends in its name.

    Raises UserError if there is none.
    """
    folder = Path(name)
    with suppress(RuntimeError):  # ~ and an unknown user
        folder = folder.expanduser()
    if not (name and folder.is_dir()):
        raise UserError(
            f"params.yaml: data.dataset is {name!r}, which is no folder; "
            f"allowed: {', '.join(PUBLISHED)}, or a folder with four IDX files"
        )
    return folder if folder.name not in ("", "..") else folder.resolve()


def check(arrays: dict[str, np.ndarray], paths: dict[str, Path]) -> None:
    """Raise UserError, naming the file, unless the four arrays fit together."""
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if len(images) != len(labels):
            raise UserError(f"{paths[f'{part}_labels']} holds {len(labels)} labels for {len(images)} images")
    path, size = paths["test_images"], arrays["train_images"].shape[1:]
    if images.shape[1:] != size:
        raise UserError(f"{path} holds images of {images.shape[1:]} pixels, the training images have {size}")
    if len(images) < LEAST_TEST_IMAGES:
        raise UserError(f"{path} holds {len(images)} images; allowed: at least {LEAST_TEST_IMAGES}")


def number_labels(
    arrays: dict[str, np.ndarray], paths: dict[str, Path], names: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Number the labels in `arrays` from 0, in place, and return the names of the classes in this order.

    With `names`, a label is an index of them, from 0 or 1 on; without, each different label is a class.
    Raises UserError, naming the file, if there are too few or too many classes or a label has no name.
    """
    values = np.union1d(arrays["train_labels"], arrays["test_labels"])
    if names is None:
        names = tuple(map(str, values))
    else:
        first = int(values[0] > 0 and values[-1] == len(names))
        part = "train_labels" if values[-1] in arrays["train_labels"] else "test_labels"
        if values[-1] >= first + len(names):
            raise UserError(
                f"{paths[part]} holds the label {values[-1]}; classes.txt has {len(names)} lines, which name "
                f"the labels 0 to {len(names) - 1}, or 1 to {len(names)}"
            )
        values = np.arange(first, first + len(names))
    for part in ("train_labels", "test_labels"):
        arrays[part] = np.searchsorted(values, arrays[part]).astype(np.uint8)
    counts = np.bincount(arrays["train_labels"], minlength=len(names))
    least, most = dataset.CLASSES
    if np.count_nonzero(counts) < least or len(names) > most:
        raise UserError(
            f"{paths['train_labels']}: the number of classes is {np.count_nonzero(counts)}, "
            f"with {paths['test_labels'].name} {len(names)}; allowed: {least} to {most}"
        )
    if not counts.all():
        print(f"no training image of: {', '.join(np.array(names)[counts == 0])}")
    return names


def find_ground(images: np.ndarray) -> int:
    """The gray level of the background: the median of the border pixels of images (n, rows, columns)."""
    border = np.ones(images.shape[1:], bool)
    border[1:-1, 1:-1] = False
    return int(np.median(images[:, border]))


if __name__ == "__main__":
    command.run(main)
