"""IDX, the format of MNIST's files: find a data set's four files in a folder, read and check them.

Format: http://yann.lecun.com/exdb/mnist/ (a magic number, the lengths, the bytes).
"""

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from stages.common.dataset import CLASSES, SIZES
from stages.console.errors import UserError

PARTS = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
"""The usual names of the four files, which IDX's specification uses, too."""

DIMENSIONS = {"images": 3, "labels": 1}


def find(folder: Path) -> dict[str, Path]:
    """The four files in `folder`: plain or .gz, with `-idx` or `.idx` in the name.

    Raises UserError if one is missing.
    """
    paths = {}
    for part, name in PARTS.items():
        dotted = name.replace("-idx", ".idx")
        candidates = [folder / each for each in (name, f"{name}.gz", dotted, f"{dotted}.gz")]
        found = [path for path in candidates if path.is_file()]
        if not found:
            others = ", ".join(path.name for path in candidates[1:])
            raise UserError(f"{candidates[0]} is missing (it may also be called {others})")
        paths[part] = found[0]
    return paths


def read(path: Path, kind: str) -> np.ndarray:
    """The array of a file of `kind` images or labels, uint8 (n, rows, columns) or (n,) with n > 0.

    The file may be compressed by gzip, whatever its name. Raises UserError, naming the file, if it is cut
    short, too long or of another kind, or if the images are too small or too large.
    """
    with path.open("rb") as plain, gzip.GzipFile(fileobj=plain) as unpacked:
        try:
            array = _parse(unpacked if plain.peek(2)[:2] == b"\x1f\x8b" else plain, path, kind)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path} is no complete .gz file: {error}") from None
    least, most = SIZES
    if not all(least <= length <= most for length in array.shape[1:]):
        size = f"{array.shape[1:]} pixels"
        raise UserError(f"{path} holds images of {size}; allowed: {least} to {most} rows and columns")
    return array


def _parse(file: IO[bytes], path: Path, kind: str) -> np.ndarray:
    """The array of an open file. Reads no more than its header announces: a .gz may hold any length."""
    start = 4 + 4 * DIMENSIONS[kind]
    content = bytearray(file.read(start))
    magic, *shape = np.frombuffer(content.ljust(start, b"\0"), ">u4").tolist()
    if magic != (wanted := 0x800 + DIMENSIONS[kind]):  # of unsigned bytes
        raise UserError(f"{path} is no IDX file of {kind}: its magic number is {magic}, not {wanted}")
    end = start + math.prod(shape)
    while len(content) <= end and (more := file.read(2**20)):
        content += more
    if len(content) != end:
        state = f"cut short: {len(content)}" if len(content) < end else "too long: more"
        raise UserError(f"{path} is {state} bytes, {end} expected for {tuple(shape)}")
    if end == start:  # NumPy refuses some such shapes
        raise UserError(f"{path} holds no {kind}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_classes(path: Path) -> tuple[str, ...] | None:
    """The class names in a text file (UTF-8), one per line, in label order; None if there is no such file.

    Raises UserError, naming the file, unless it holds 2 to 100 different names of 1 to 60 characters without
    tabs. Empty lines at the end do not count.
    """
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n ").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8") from None
    names = tuple(line if "\t" in line else line.strip() for line in lines)
    for line, name in enumerate(names, start=1):
        if name in names[: line - 1] or not re.fullmatch(r"[^\x00-\x1f\x7f-\x9f]{1,60}", name):
            allowed = "1 to 60 characters without tabs, no name twice"
            raise UserError(f"{path}, line {line}: {name[:60]!r} cannot name a class; allowed: {allowed}")
    if not CLASSES[0] <= len(names) <= CLASSES[1]:
        raise UserError(f"{path}: the number of names is {len(names)}; allowed: {CLASSES[0]} to {CLASSES[1]}")
    return names
