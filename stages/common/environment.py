"""Settings of the numerical libraries that they read once, while they are imported."""

import ctypes
import os
import sys
from importlib import import_module
from pathlib import Path

from stages.common import command, params


def prepare() -> None:
    """Give every thread pool `threads` of params.yaml. Call it before the libraries are imported.

    The number of threads decides how sums are split and so the last bits of every result.
    """
    command.run(_set_variables)
    if sys.platform == "linux":
        _keep_freed_memory()


def import_quietly(module: str) -> None:
    """Import a library without the notes on the machine that its C++ code prints meanwhile.

    Errors are exceptions and arrive as ever.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            import_module(module)
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _set_variables() -> None:
    threads = str(params.read("threads", params.Positive))
    for library in ("OMP", "OPENBLAS", "MKL", "VECLIB", "NUMEXPR"):
        os.environ[f"{library}_NUM_THREADS"] = threads
    os.environ["OMP_DYNAMIC"] = os.environ["MKL_DYNAMIC"] = "FALSE"
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # else TensorFlow decides by processor; also much faster
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # its mistakes arrive as exceptions, the rest is chatter


def _keep_freed_memory() -> None:
    """Let glibc reuse the arrays of the last step instead of fetching zeroed pages for each.

    It makes a training step of PyTorch a fifth faster and changes no result. Arrays over 64 MiB
    keep pages of their own, which grow without being copied.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_THRESHOLD, 2**26)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
