"""Import libraries without their optional dependencies.

skops imports all of scikit-learn, parts of which import PyTorch, pandas, pytest and Dask; Keras imports
Matplotlib, pandas and scikit-learn. None of these is used here. On an AMD EPYC (family 25, model 17),
two cores, medians of three starts: scikit-learn with skops 4.2 s, without these 0.9 s; Keras with TensorFlow
5.0 s, without them 3.3 s. To measure again: time python -c "import stages.models.sklearn", with and
without the block there.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """Make importing `modules` fail in the block, unless they are already imported."""
    blocked = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))
    try:
        yield
    finally:
        for module in blocked:
            del sys.modules[module]
