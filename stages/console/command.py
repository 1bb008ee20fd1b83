"""How a stage starts and how it ends: a user's mistake is one line and exit status 1."""

import argparse
import io
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from threading import Thread

import psutil

from stages.console import parameters, tracking
from stages.console.errors import UserError, one_line


def run(main: Callable[[], None]) -> None:
    """Call `main`. If it fails for a reason that the user can fix, exit with status 1 and one line.

    Ctrl-C and SIGTERM end the process at once, even in a long call of a C library: Python's own handlers
    would wait for that call. Half-written files keep their temporary names until the next run removes them.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for a × that the terminal cannot show
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if "DVC_STAGE" in os.environ:  # DVC sets it
        _end_with_dvc()
    try:
        parameters.check()
        main()
        tracking.join(getattr(sys.modules["__main__"].__spec__, "name", ""))
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a full disk, a missing permission: a traceback would not help
        reason = os.strerror(error.errno) if error.errno else one_line(error)
        sys.exit(f"error: {error.filename or 'input or output'}: {reason}")


@cache  # once is enough
def _end_with_dvc() -> None:
    """End this process when the DVC that started it is gone, killed or crashed.

    Otherwise it could overwrite the results that a later run of DVC has made and recorded.
    """
    started = psutil.Process()  # by DVC: this process, or the shell that waits for it
    with suppress(psutil.Error):  # a parent of another user
        while (parent := started.parent()) and "DVC_STAGE" in parent.environ():
            started = parent
    dvc = started.ppid()

    def wait() -> None:
        with suppress(psutil.Error):  # the shell is gone
            while started.ppid() == dvc:
                time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=wait, daemon=True).start()


def end_with_parent() -> None:
    """Called first by each process of a pool: it ends when the process that made the pool is gone."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def model_name(description: str | None) -> str:
    """Parse the only argument of a training stage: the model's key in params.yaml."""
    return argument(description, "model", "the model's key in params.yaml")


def argument(description: str | None, name: str, explained: str) -> str:
    """Parse the only argument of a command."""
    parser = _parser(description)
    parser.add_argument(name, help=explained)
    return getattr(parser.parse_args(), name)


def no_arguments(description: str | None) -> None:
    """Parse the command line of a stage without arguments, so that it answers --help."""
    _parser(description).parse_args()


def _parser(description: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
