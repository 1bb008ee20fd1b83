"""LightGBM's classifiers: the constants that models/sklearn.py needs."""

import ctypes
import sys
from contextlib import suppress
from importlib.metadata import distribution

from stages.models.without import without

if sys.platform == "linux":
    # LightGBM needs libgomp, which slim systems lack; PyTorch's wheel contains one
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        with suppress(OSError):
            ctypes.CDLL(str(distribution("torch").locate_file("torch/lib/libgomp.so.1")), ctypes.RTLD_GLOBAL)

with without("dask", "matplotlib", "pandas"):
    import lightgbm

PACKAGE = "lightgbm"
DISTRIBUTION = "lightgbm"
ERRORS = (lightgbm.basic.LightGBMError,)
TRUSTED = ["collections.OrderedDict", "lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier"]
ALIASES = lightgbm.basic._ConfigAliases._get_all_param_aliases()
ARGUMENTS = frozenset().union(*ALIASES.values()).difference(ALIASES["num_threads"])
"""LightGBM's own parameters except the number of threads. It ignores unknown ones."""
DEFAULTS = {"n_jobs": 0, "deterministic": True}
"""n_jobs 0 uses OMP_NUM_THREADS, not all cores; deterministic gives the same sums in every run."""
