"""Weights & Biases, offline unless WANDB_MODE=online; `wandb sync` uploads a run to an account."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from apps.tracking import feed, lines

ONLINE = feed.ONLINE["wandb"]


class Tracker:
    """See feed.Tracker."""

    CONTINUES = ONLINE

    def __init__(self, folder: Path, run: lines.Run, begin: lines.Line, again: bool):
        if not ONLINE:
            staged = folder / "staged" / run.id  # where artifacts wait for `wandb sync`
            for earlier in (*folder.glob(f"wandb/offline-run-*-{run.id}"), staged):
                shutil.rmtree(earlier, ignore_errors=True)
            os.environ["WANDB_DATA_DIR"] = str(staged)
        about = begin["about"]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", feed.PROJECT),
            id=run.id,
            name=run.name,
            group=about.get("group") or about["experiment"],
            job_type=run.name.partition("/")[0],
            config={**begin["parameters"], **about},
            dir=folder,
            mode="online" if ONLINE else "offline",
            resume="allow" if again else None,
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=10,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                disable_git=True,
                disable_code=True,
                x_transaction_log_flush_interval=0.5,  # seconds; a kill would lose those of its default, 15
            ),
        )
        self._run.define_metric("*", step_metric="epoch", step_sync=False)
        self._run.define_metric("step_loss", step_metric="step", step_sync=False)

    def metrics(self, axis: str, places: Sequence[int], values: Sequence[Mapping[str, float]], when: float):
        for place, of_place in zip(places, values, strict=True):
            self._run.log({axis: place, **of_place})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(values)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self._run.log({name: table})

    def picture(self, name: str, path: Path) -> None:
        self._run.log({name: wandb.Image(str(path))})

    def artifact(self, name: str, path: Path) -> None:
        artifact = wandb.Artifact(f"{self._run.name.replace('/', '-')}-{name}", type="model")
        (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
        self._run.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
