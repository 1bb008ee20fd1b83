"""Hide the notes of C++ libraries from the terminal, but not their errors."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CHATTER = r"^(I[0-9]{4} |WARNING: All log messages before absl::InitializeLog)"
"""The beginnings of lines of level INFO, and of the note on where such lines go."""


@contextmanager
def hidden() -> Iterator[None]:
    """Filter CHATTER out of standard error during the block.

    Another process filters, so what a library writes before it aborts this process is shown, too.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with subprocess.Popen(["grep", "-vE", CHATTER], stdin=subprocess.PIPE, stdout=kept) as filtering:
        os.dup2(filtering.stdin.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
