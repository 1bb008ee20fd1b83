"""How the numerical libraries are imported: their settings, which they read only then, and fast."""

import ctypes
import gc
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Literal

from threadpoolctl import threadpool_limits

from stages.common import command, params

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
    *("ATEN_", "DNNL_", "MKL_", "NPY_", "OMP_", "ONEDNN_", "OPENBLAS_", "TF_", "XLA_"),
    *("NVIDIA_TF32_", "TORCH_ALLOW_TF32_"),
)
"""How variables begin by which results would depend on the shell: they choose instructions, precision and
threads. With fewer threads than it asked for PyTorch's convolutions are plainly wrong."""

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
    command.run(_set_variables)
    gc.disable()  # imports leave no garbage; command.run turns the collector on again
    if sys.platform == "linux":
        _keep_freed_memory()


def use_all_threads() -> None:
    """Let NumPy's and SciPy's matrix products use `threads`, also where there are fewer processors.

    Left alone, they use as many as there are processors, and other last bits come out.
    """
    threadpool_limits(params.read("threads", params.Threads), "blas")


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies matrices of bfloat16 in hardware, and Linux says so (AMX)."""
    return sys.platform == "linux" and "amx_bf16" in _processor_words()


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


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """Make `import` of these fail in the block, for a library that can do without them."""
    blocked = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))
    try:
        yield
    finally:
        for module in blocked:
            del sys.modules[module]


def _set_variables() -> None:
    for name in list(os.environ):
        if name.startswith(SETTINGS) and name not in HARMLESS:
            del os.environ[name]
    threads = str(params.read("threads", params.Threads))
    for library in ("OMP", "OPENBLAS", "MKL", "VECLIB", "NUMEXPR"):
        os.environ[f"{library}_NUM_THREADS"] = threads
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
        raise command.UserError(
            f"params.yaml: profile is 'portable', which needs an x86-64 processor with AVX2 and FMA, "
            f"not {platform.machine()}; allowed here: fast"
        )


def _processor_words() -> set[str]:
    """What Linux says of the first processor, the names of its instruction sets among it."""
    return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].split())


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
