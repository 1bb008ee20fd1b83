"""The lines with which a training begins and ends. Imports little, because it runs beside the training."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from apps.tracking import lines
from stages.console import machine, tracking


def about() -> dict[str, Any]:
    """The code and the machine of a run."""
    here = lines.folder().parent  # a trial trains in a folder elsewhere
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
        commit = found.stdout.strip() or None
    except OSError:  # Git is not installed
        commit = None
    return {
        "git_commit": commit,
        "dvc_revision": os.environ.get("DVC_EXP_BASELINE_REV") or commit,
        "dvc_version": version("dvc"),
        "experiment": os.environ.get("DVC_EXP_NAME"),
        "group": os.environ.get(tracking.GROUP) or None,
        "processor": machine.processor(),
        "system": machine.system(),
    }


def fingerprint(folder: Path, timings: Path) -> str:
    """Identifies the results of a training among all others, which have other seconds in their timings."""
    content = (folder / "model.json").read_bytes() + timings.read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def of_training(folder: Path, timings: Path) -> Iterator[lines.Line]:
    """The lines about a training's results, with which its run ends."""
    result = fingerprint(folder, timings)
    yield {"event": "summary", "name": "timings", "values": json.loads(timings.read_text(encoding="utf-8"))}
    yield {"event": "artifact", "name": "model", "path": lines.keep(folder, result)}
    yield {"event": "end", "state": "finished", "result": result}
