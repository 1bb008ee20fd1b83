"""C++ libraries' notes on the machine are kept from the terminal, their errors are not."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CHATTER = r"^(I[0-9]{4} |WARNING: All log messages before absl::InitializeLog)"
"""How lines of level INFO begin, and the note on where such lines go."""


@contextmanager
def hidden() -> Iterator[None]:
    """Leave out CHATTER of what is written to standard error in the block.

    Another process filters it: so what a library says before it aborts this process is shown, too.
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
