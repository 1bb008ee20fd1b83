"""Errors that a stage reports to the user in one line."""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can fix; its text is one line for them."""


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
"""What parsers raise on a damaged file. A missing name or module is an error of the program instead."""


@contextmanager
def reading(path: Path, what: str, *errors: type[Exception], remedy: str = "dvc repro") -> Iterator[None]:
    """Raise UserError, naming the file, if it is missing or the block fails to read it.

    what: the message on a damaged file. errors: what a library raises besides DAMAGE. remedy: the command
    that makes the file anew.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing: `{remedy}` makes it") from None
    except (PermissionError, NotADirectoryError) as error:  # the content may be intact
        error.filename = error.filename or str(path)
        raise
    except MemoryError:
        raise UserError(f"{path}: not enough memory to read it") from None
    except (*DAMAGE, *errors) as error:
        raise UserError(f"{path} {what}: {one_line(error)}; `{remedy}` makes it anew") from None


def one_line(error: object) -> str:
    """The text of an error, or of any object, in one line; the name of its type if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
