"""Settings of the numerical libraries that they read once, while they are imported."""

import os

from stages.common import command, params


def prepare() -> None:
    """Give every thread pool `threads` of params.yaml. Call it before the libraries are imported.

    The number of threads decides how sums are split and so the last bits of every result.
    """
    command.run(_set_variables)


def _set_variables() -> None:
    threads = str(params.read("threads", params.Positive))
    for library in ("OMP", "OPENBLAS", "MKL", "VECLIB", "NUMEXPR"):
        os.environ[f"{library}_NUM_THREADS"] = threads
    os.environ["OMP_DYNAMIC"] = os.environ["MKL_DYNAMIC"] = "FALSE"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # TensorFlow's notes on the processor, not on a mistake
