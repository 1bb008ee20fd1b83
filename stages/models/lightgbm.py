"""LightGBM's classifiers: what models/sklearn.py must know of them."""

import ctypes
import sys
from contextlib import suppress
from importlib.metadata import distribution

from stages.models.without import without

if sys.platform == "linux":
    # LightGBM wants the system's libgomp, which slim systems lack; PyTorch brings one.
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
"""The parameters of its C++ code but the number of threads; it ignores what it does not know."""
DEFAULTS = {"n_jobs": 0, "deterministic": True}
"""As many threads as `threads` says, else as many as there are cores; and the same sums in every run."""
