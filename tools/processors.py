"""Which models come out with the same bits on other processors, and what that costs in time.

    make processors                                 all models
    make processors MODELS="pytorch/mlp scratch/cnn"    these; the others keep their rows

Trains models on a few images, on this processor and on emulated ones, in both profiles, and writes
docs/processors.csv; `make processors` then has tools/readme.py make docs/processors.md of it. Needs data/
(`dvc repro`) and QEMU 10 (qemu-x86_64 of Debian's package qemu-user, which Debian 12 has among its
backports: 7.2 crashes where images are augmented).
"""

import argparse
import copy
import hashlib
import shutil
import statistics
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from apps import trials
from apps.scheduling import trainer
from stages.common import params, results
from stages.common.frameworks import FRAMEWORKS
from stages.console import command
from stages.console.errors import UserError
from tools import pages, projects

TABLE = Path("docs/processors.csv")
EMULATOR = "qemu-x86_64"
OLDEST = 10
EMULATED = {"haswell": ("Intel Haswell", "Haswell"), "milan": ("AMD EPYC Milan", "EPYC-Milan")}
"""Processors by their part of a column's name, what people call them, and what QEMU does."""
PROFILES = ("portable", "fast")
IMAGES, TEST_IMAGES = 192, 32  # an emulated convolution is a hundred times slower
TIMED_IMAGES, REPEATS = 20_000, 5
SHORTEST = 1.0
"""Seconds of a run; the times of shorter ones vary more than the profiles differ, and are not shown."""


@dataclass(frozen=True)
class Row:
    """A line of docs/processors.csv.

    fingerprint: the beginning of the SHA-256 checksum of weights and predictions in `portable`.
    <profile>_<processor>: what `difference` finds between the native and an emulated run. Seconds: medians of
    native runs; cost: portable's over fast's, median, least and most of pairs.
    """

    model: str
    fingerprint: str
    portable_haswell: str
    portable_milan: str
    fast_haswell: str
    fast_milan: str
    fast_seconds: float | None
    cost: float | None
    cost_low: float | None
    cost_high: float | None
    machine: str
    emulator: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="framework/model", help="all, if none is named")
    chosen = projects.chosen(parser.parse_args().models)
    if shutil.which(EMULATOR) is None:
        raise UserError(f"{EMULATOR} is missing: install Debian's package qemu-user")
    version = emulator_version()
    if int(version.partition(".")[0]) < OLDEST:
        raise UserError(f"QEMU {version} crashes on some models: install {OLDEST} or later")
    with tempfile.TemporaryDirectory() as folder:
        found, costs = compare_processors(Path(folder), chosen), compare_profiles(Path(folder), chosen)
    about = {"machine": pages.this_machine(), "emulator": f"QEMU {version}"}
    rows = [Row(model, **found[model], **costs[model], **about) for model in chosen]
    pages.keep_rows(TABLE, rows, projects.models())


def emulator_version() -> str:
    """The emulator's version, such as 10.0: the patch version is irrelevant here."""
    text = subprocess.run([EMULATOR, "--version"], capture_output=True, text=True, check=True).stdout
    return text.split()[2].rpartition(".")[0]  # qemu-x86_64 version 10.0.2 (Debian …


def compare_processors(folder: Path, chosen: list[str]) -> dict[str, dict[str, str]]:
    """For each chosen model its fingerprint in portable, and what `difference` finds in each column."""
    data = projects.resize(folder / "few", IMAGES, TEST_IMAGES)
    found: dict[str, dict[str, str]] = {model: {} for model in chosen}
    for profile in PROFILES:
        content = short_epoch(chosen, profile)
        native = lay_out(folder / profile, content, data)
        for framework in frameworks_of(content):
            train(native, framework)
        if profile == "portable":
            for model in chosen:
                found[model]["fingerprint"] = fingerprint(native, model)
        for short, (name, processor) in EMULATED.items():
            print(f"{profile}, {name}", flush=True)
            emulated = lay_out(folder / f"{profile}-{short}", content, data)
            with ThreadPoolExecutor(2) as pool:  # an emulator spends most of its time on one thread
                list(pool.map(partial(train, emulated, processor=processor), frameworks_of(content)))
            for model in chosen:
                found[model][f"{profile}_{short}"] = difference(native, emulated, model)
    return found


def compare_profiles(folder: Path, chosen: list[str]) -> dict[str, dict[str, float]]:
    """For each chosen model its time in fast, and portable's over it, of alternating native runs."""
    data = projects.resize(folder / "more", TIMED_IMAGES, TEST_IMAGES)
    seconds: dict[tuple[str, str], list[float]] = {}
    for profile in PROFILES:
        lay_out(folder / f"timed-{profile}", content := short_epoch(chosen, profile), data)
    for _ in range(REPEATS):
        for profile in PROFILES:
            project = folder / f"timed-{profile}"
            for framework in frameworks_of(content):
                train(project, framework)
            for model in chosen:
                path = project / results.timings(*model.split("/"))
                timings = results.Timings.model_validate_json(path.read_bytes())
                total = timings.training_seconds + timings.prediction_seconds
                seconds.setdefault((profile, model), []).append(total)
    costs = {}
    for model in chosen:
        fast = seconds["fast", model]
        ratios = [slow / quick for slow, quick in zip(seconds["portable", model], fast, strict=True)]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        costs[model] = {"cost": round(middle, 3), "cost_low": round(low, 3), "cost_high": round(high, 3)}
        costs[model]["fast_seconds"] = statistics.median(fast)
    return costs


def short_epoch(chosen: list[str], profile: str) -> dict[str, Any]:
    """The project's parameters for one epoch on the processor, and only the chosen models."""
    content = copy.deepcopy(params.content(params.PATH)) | {"profile": profile}
    content["data"]["validation"] = "1/3"
    content["device"] = dict.fromkeys(content["device"], "cpu")
    for framework in FRAMEWORKS:
        entries = content[framework] = {
            name: entry for name, entry in content[framework].items() if f"{framework}/{name}" in chosen
        }
        for entry in filter(projects.is_network, entries.values()):
            entry.update(epochs=1, batch_size=64)
    return content


def lay_out(folder: Path, content: dict[str, Any], data: Path) -> Path:
    """A project with these parameters and the images of the folder `data`."""
    return trainer.lay_out(folder, content, params.content(params.ARCHITECTURES), data)


def frameworks_of(content: dict[str, Any]) -> list[str]:
    """The frameworks that have models in some parameters."""
    return [framework for framework in FRAMEWORKS if content[framework]]


def train(project: Path, framework: str, processor: str | None = None) -> None:
    """Train all models of a framework in `project`, on the emulated `processor` if one is named.

    In one process: most of an emulated run is imports. Raises UserError if a model cannot be trained, and
    RuntimeError with the last lines of output if the process fails.
    """
    emulator = [EMULATOR, "-cpu", processor] if processor else []
    with closing(trials.Worker(framework, project, emulator)) as worker:
        for name in params.content(project / params.PATH)[framework]:
            if failure := worker.train(project, name)["failure"]:
                raise UserError(f"{framework}/{name} on {processor or 'this processor'}: {failure}")


def fingerprint(project: Path, model: str) -> str:
    """The beginning of the checksum of a model's weights and predictions in `project`."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in trained(project, model))).hexdigest()[:12]


def difference(native: Path, emulated: Path, model: str) -> str:
    """'identical' if a model's weights and predictions are the same bytes in two projects.

    Else the largest difference between two probabilities, 0 if only the weights differ.
    """
    pairs = list(zip(trained(native, model), trained(emulated, model), strict=True))
    if all(here.read_bytes() == there.read_bytes() for here, there in pairs):
        return "identical"
    here, there = pairs[1]
    return f"{np.abs(np.load(here) - np.load(there)).max():.0e}"


def trained(project: Path, model: str) -> tuple[Path, Path]:
    """The files of a model's weights and of its predictions."""
    framework, name = model.split("/")
    folder = project / results.folder(framework, name)
    (weights,) = (*folder.glob("weights.*"), *folder.glob("classifier.*"))
    return weights, project / results.predictions(framework, name)


def page() -> str:
    """The text of docs/processors.md, of docs/processors.csv."""
    rows = pages.read_rows(TABLE, Row)
    same = {
        profile: [
            row.model
            for row in rows
            if {getattr(row, f"{profile}_{one}") for one in EMULATED} == {"identical"}
        ]
        for profile in PROFILES
    }
    others = [f"`{row.model}`" for row in rows if row.model not in same["portable"]]
    timed = [[f"`{row.model}`", cost(row), row.machine] for row in rows if cost(row)]
    return pages.fill(
        "processors.md",
        portable=f"{len(same['portable'])} of {len(rows)} models",
        others=f" (the others: {', '.join(others)})" if others else "",
        fast=", ".join(f"`{model}`" for model in same["fast"]) or "none",
        costs=pages.table(("model", "time of `portable` against `fast`", "machine"), timed, texts=3),
        machine=pages.machines(rows),
        emulated=" and ".join(name for name, _ in EMULATED.values()),
        emulator="; ".join(sorted({row.emulator for row in rows})),
        images=IMAGES,
        timed=f"{TIMED_IMAGES:,}",
        repeats=REPEATS,
        shortest=f"{SHORTEST:g}",
    )


def cost(row: Row) -> str:
    """How many times as long `portable` takes, if it was timed well enough to say."""
    if row.fast_seconds is None or row.fast_seconds < SHORTEST:
        return ""
    return f"{row.cost:.2f} × ({row.cost_low:.2f}–{row.cost_high:.2f})"


if __name__ == "__main__":
    command.run(main)
