"""Says how to run a script that is run by its path: stages/stages.py."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[1] / "stages" / "stages.py"))
