"""Settings of the numerical libraries, which read them when they are imported: threads, instructions,
quiet."""

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
"""Which instructions PyTorch, its MKL, NumPy, oneDNN (PyTorch's and TensorFlow's) and OpenBLAS use
in the profile `portable`: those of every x86-64 processor with AVX2 and FMA."""

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
"""How variables begin by which results would depend on the shell: they choose instructions, precision and
threads. With fewer threads than it asked for PyTorch's convolutions are plainly wrong."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What tells a library how many threads to use; the last is Apple's."""

HARMLESS = ("TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_ALLOCATOR")
"""Those among them that are about memory alone."""

SPINS = "10000"
"""How often a thread of OpenMP looks for the others before it sleeps. GCC's 300,000 last longer than
a wait ever does while each has a core of its own, but beside another busy process they cost most of
the time: boosted_trees takes several times as long."""


def prepare() -> None:
    """Set up the numerical libraries as params.yaml says. Call it before they are imported.

    `threads` decides how sums are split, `profile` which instructions add them: both decide the
    last bits of every result, so what else would is unset. What computes with NumPy calls
    `use_all_threads`, too.
    """
    run(_set_variables)


def use_all_threads() -> None:
    """Let NumPy's and SciPy's matrix products use `threads`, also where there are fewer processors.

    Left alone, they use as many as there are processors, and other last bits come out.
    """
    threadpool_limits(params.read("threads", params.Threads), "blas")


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies matrices of bfloat16 in hardware, and Linux says so (AMX)."""
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
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # else TensorFlow decides by processor; also much faster
    if params.read("profile", Literal["fast", "portable"]) == "portable":
        _refuse_other_processors()
        os.environ.update(PORTABLE)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # its mistakes arrive as exceptions, the rest is chatter


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
    """What Linux says of the first processor, the names of its instruction sets among it."""
    return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].split())
