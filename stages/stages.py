"""Imported as `stages` if a script is run by its path, or from its own folder: it says how to run it.

Python then looks for modules beside the script instead of in the project's folder. The files of this kind in
apps/ and tools/ run this one.
"""

import sys
from pathlib import Path

folder = Path(sys.path[0])
named = Path(getattr(sys.modules["__main__"], "__file__", ""))  # python -m sets it later
orders = sys.orig_argv
module = f"{folder.name}.{named.stem}" if named.suffix == ".py" else orders[orders.index("-m") + 1]
sys.exit(f"error: run it in {folder.parent}: python -m {module}")
