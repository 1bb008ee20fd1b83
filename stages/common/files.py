"""Read files with checks, and replace them all at once."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from stages.console.errors import UserError, reading


@contextmanager
def replacing(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield temporary paths that replace `paths` if the block succeeds, all or none.

    Works for files and folders. If the block fails, `paths` stay unchanged. If the process is killed while
    it replaces them, some of `paths` may be missing, but old and new ones never mix and none is incomplete.
    The temporary names depend only on `paths`, so the next run removes what a killed one left.
    """
    partials = tuple(_beside(path, "partial") for path in paths)
    earlier = tuple(_beside(path, "earlier.partial") for path in paths)
    for path, *temporary in zip(paths, partials, earlier, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in temporary:
            remove(leftover)
    try:
        yield partials
        with ExitStack() as restoring:
            for path, aside in zip(paths, earlier, strict=True):
                if path.exists():
                    path.replace(aside)
                    restoring.callback(aside.replace, path)
            for path, partial in zip(paths, partials, strict=True):
                partial.replace(path)
                restoring.callback(remove, path)  # undone before the old file is restored
            restoring.pop_all()
    finally:
        for leftover in (*partials, *earlier):
            remove(leftover)


def _beside(path: Path, word: str) -> Path:
    stem, dot, suffixes = path.name.partition(".")
    return path.with_name(f"{stem}.{word}{dot}{suffixes}")


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file, and create its folder if needed. Raises OSError that names the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:  # a full disk gives no file name
        error.filename = error.filename or str(path)
        raise


def write_text(path: Path, content: str) -> None:
    """Write a text as UTF-8, as `write_bytes` does."""
    write_bytes(path, content.encode("utf-8"))


def write_array(path: Path, array: np.ndarray) -> None:
    """Write `array` as `.npy`."""
    content = BytesIO()
    np.save(content, array, allow_pickle=False)
    write_bytes(path, content.getbuffer())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON with two spaces of indentation, keys in the order given."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def load_array(path: Path, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array of an `.npy` file, which must have this `dtype` and `shape` (None: any length).

    Raises UserError, naming the file, if it is missing or damaged, has another dtype or shape, or holds
    Python objects (which are never unpickled).
    """
    with reading(path, "is no .npy file of numbers"), path.open("rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        rest = file.read(1)
    if rest:
        raise UserError(f"{path} is damaged: it has data after the end of the array")
    wanted = f"{np.dtype(dtype).name} ({', '.join('n' if n is None else str(n) for n in shape)})"
    if (
        array.dtype != dtype
        or array.ndim != len(shape)
        or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True))
    ):
        raise UserError(f"{path} holds {array.dtype} {array.shape}, not {wanted}")
    return array
