"""The files between the stages: read with every check, written in one piece."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.command import UserError


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Raise UserError, naming the file, if it is missing or the block finds that it is not `what`.

    For parsers: they meet a damaged file with anything, from ValueError to zlib.error.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing: `dvc repro` makes it") from None
    except (PermissionError, NotADirectoryError) as error:  # no matter of what is in the file
        error.filename = error.filename or str(path)
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} {what}: {reason}; `dvc repro` makes it anew") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary path; when the block ends well, what was written there becomes `path`.

    Works for a file and for a whole folder. If the block fails, `path` stays as it was. The
    temporary name depends on `path` alone, so what a killed run leaves is cleared by the next.
    """
    stem, dot, suffixes = path.name.partition(".")
    partial = path.with_name(f"{stem}.partial{dot}{suffixes}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(partial)
    try:
        yield partial
        if path.is_dir():
            _remove(path)
        partial.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is noticed where no name is known
        raise
    finally:
        _remove(partial)


@contextmanager
def replacing_all() -> Iterator[Callable[[Path], Path]]:
    """Lend a function that lends temporary paths as `replacing` does.

    What was written there appears when the block ends well: all of it, or nothing if it fails.
    """
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(replacing(path))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write `array` as `.npy`."""
    content = BytesIO()  # np.save hides from a file why it cannot be written
    np.save(content, array, allow_pickle=False)
    path.write_bytes(content.getbuffer())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON with two spaces of indentation, keys in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load_array(path: Path, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array of an `.npy` file, which must have this `dtype` and `shape` (None: any length).

    Raises UserError, naming the file, if it is missing, damaged, holds Python objects (which
    are never unpickled) or something else than announced.
    """
    with reading(path, "is no .npy file of numbers"), path.open("rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        rest = file.read(1)
    if rest:
        raise UserError(f"{path} is damaged: it goes on after its array's end")
    wanted = f"{np.dtype(dtype).name} ({', '.join('n' if n is None else str(n) for n in shape)})"
    if (
        array.dtype != dtype
        or array.ndim != len(shape)
        or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True))
    ):
        raise UserError(f"{path} holds {array.dtype} {array.shape}, not {wanted}")
    return array
