"""Prepare the numerical libraries before they are imported: threads, instruction sets, log level."""

import os
import platform
import sys
from pathlib import Path
from typing import Literal

from threadpoolctl import threadpool_limits

from stages.common import params
from stages.console.command import run
from stages.console.errors import UserError

PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
"""Variables that limit PyTorch, its MKL, NumPy, oneDNN (PyTorch's and TensorFlow's) and OpenBLAS in the
profile `portable` to instructions of every x86-64 processor with AVX2 and FMA."""

SETTINGS = (
    "ATEN_",
    "DNNL_",
    "MKL_",
    "NPY_",
    "NVIDIA_TF32_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "TF_",
    "TORCH_ALLOW_TF32_",
    "XLA_",
)
"""Prefixes of the variables that `prepare` unsets: they choose instructions, precision and threads, so
results would depend on the shell. With fewer threads than PyTorch asks for, its convolutions are wrong."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""The number of threads of OpenMP, OpenBLAS, MKL and Apple's Accelerate (vecLib)."""

HARMLESS = ("TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_ALLOCATOR")
"""Variables with these prefixes that `prepare` keeps: they affect memory only."""

SPINS = "10000"
"""How often a waiting OpenMP thread checks before it sleeps. With GCC's default of 300,000, boosted_trees
takes several times as long beside another busy process."""


def prepare() -> None:
    """Set the environment variables of the numerical libraries. Call it before they are imported.

    `threads` and `profile` of params.yaml decide how sums are split and computed, and so the last bits of
    every result. Other variables with such an effect are unset. A stage that computes with NumPy also calls
    `use_all_threads`.
    """
    run(_set_variables)


def use_all_threads() -> None:
    """Let NumPy's and SciPy's matrix products use `threads` threads, even on fewer processors.

    By default they use at most one thread per processor, which changes the last bits.
    """
    threadpool_limits(params.read("threads", params.Threads), "blas")


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware (AMX); False except on Linux."""
    return sys.platform == "linux" and "amx_bf16" in _processor_words()


def _set_variables() -> None:
    for name in list(os.environ):
        if name.startswith(SETTINGS) and name not in HARMLESS:
            del os.environ[name]
    threads = str(params.read("threads", params.Threads))
    for variable in THREADS:
        os.environ[variable] = threads
    os.environ["OMP_DYNAMIC"] = os.environ["MKL_DYNAMIC"] = "FALSE"
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # the default varies with the processor; 1 is faster
    if params.read("profile", Literal["fast", "portable"]) == "portable":
        _refuse_other_processors()
        os.environ.update(PORTABLE)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # errors arrive as exceptions


def _refuse_other_processors() -> None:
    known = platform.machine() in ("x86_64", "AMD64")
    if known and sys.platform == "linux":
        known = {"avx2", "fma"} <= _processor_words()
    if not known:
        raise UserError(
            f"params.yaml: profile is 'portable', which needs an x86-64 processor with AVX2 and FMA, "
            f"not {platform.machine()}; allowed here: fast"
        )


def _processor_words() -> set[str]:
    """The words of /proc/cpuinfo on the first processor, such as the names of its instruction sets."""
    return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].split())
