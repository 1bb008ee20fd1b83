"""What a stage tells the person at the prompt when something is wrong: one line."""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake that the person at the prompt can mend; its text is one line for them."""


DAMAGE = (
    ValueError,  # with it UnicodeError and json.JSONDecodeError
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    RecursionError,
    NotImplementedError,
    OSError,
    struct.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What parsers raise on a damaged file. A missing name or module is a fault of the program, not of the
file."""


@contextmanager
def reading(path: Path, what: str, *errors: type[Exception], remedy: str = "dvc repro") -> Iterator[None]:
    """Raise UserError, naming the file, if it is missing or the block finds that it is not `what`.

    errors: what a library raises beside DAMAGE. remedy: the command that makes the file anew.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing: `{remedy}` makes it") from None
    except (PermissionError, NotADirectoryError) as error:  # says nothing about the content
        error.filename = error.filename or str(path)
        raise
    except MemoryError:
        raise UserError(f"{path}: not enough memory to read it") from None
    except (*DAMAGE, *errors) as error:
        raise UserError(f"{path} {what}: {one_line(error)}; `{remedy}` makes it anew") from None


def one_line(error: object) -> str:
    """An error's text, or any other, in one line; of one without a text its kind."""
    return " ".join(str(error).split()) or type(error).__name__
