"""Which models come out with the same bits on other processors, and what that costs in time.

    make processors                                 all models
    make processors MODELS="pytorch/mlp scratch/cnn"    these; the others keep their rows

Trains models on a few images, on this processor and on emulated ones, in both profiles, and writes
docs/processors.md. Needs data/ (`dvc repro`) and QEMU 10 (qemu-x86_64 of Debian's package qemu-user, which
Debian 12 has among its backports: 7.2 crashes where images are augmented).
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from stages.common import command, environment, params

if __name__ == "__main__" and sys.argv[1:]:
    environment.prepare()

import numpy as np
import yaml

from stages.common import results
from tools import machine

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "processors.md"
EMULATOR = "qemu-x86_64"
OLDEST = 10
EMULATED = {"Intel Haswell": "Haswell", "AMD EPYC Milan": "EPYC-Milan"}
"""Processors and what QEMU calls them."""

PROFILES = ("portable", "fast")
COLUMNS = [(profile, name) for profile in PROFILES for name in EMULATED]
IMAGES, TEST_IMAGES = 192, 32  # an emulated convolution is a hundred times slower
TIMED_IMAGES, REPEATS = 6_000, 3
HEAD = """# The same bits on other processors

Written by `make processors`: every model trained natively and on emulated processors, and the weights and
predictions compared byte by byte. A number is the largest difference between two probabilities.

Native: {machine}.
Emulated by QEMU {emulator}, which has no AVX-512. One epoch of {images} images; networks hold {held_out} of
them out. The fingerprint is the beginning of the SHA-256 checksum of the weights and predictions in
`portable`, to compare with other machines that run `make processors`. The last column compares the profiles
natively: one epoch of {timed} images, medians of {repeats} runs, which are so short that they differ by up
to a third from one time to the next.

| model | portable: fingerprint | {columns} | portable: time against fast |
| --- | --- |{rules} --- |
"""
TAIL = """
`portable` pins the instructions of PyTorch, MKL, oneDNN, OpenBLAS and NumPy to AVX2 and FMA:
[stages/common/environment.py](../stages/common/environment.py). `fast` leaves the choice to them. oneDNN,
which multiplies and convolves for TensorFlow and convolves for PyTorch, and OpenBLAS, which multiplies for
NumPy and scikit-learn, choose by the instructions alone; MKL, which multiplies for PyTorch, by the
processor's maker too, and what `portable` makes it use everywhere is slower. The nearest neighbours are
whole numbers and cannot differ.

Processors' own estimates of reciprocal roots (RSQRTPS) differ between makers, and TensorFlow's batch
normalization starts from one: [stages/models/tensorflow.py](../stages/models/tensorflow.py) divides by the
root instead.

Neither emulated processor has AVX-512 or AMX. Where the native one does (the best of `avx2`, `avx512f` and
`amx_tile` stands in its line), 'identical' under `portable` holds with them and without. AMX multiplies
bfloat16 and small whole numbers, so only `precision: bfloat16` uses it, which `portable` refuses
and `precision: auto` does not choose there.
"""


def main() -> None:
    if sys.argv[1:2] == ["--all-of"]:
        train_all(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="framework/model", help="all, if none is named")
    everything = list(models(params.parse((ROOT / "params.yaml").read_text(encoding="utf-8"))))
    chosen = parser.parse_args().models or everything
    if unknown := set(chosen) - set(everything):
        sys.exit(f"error: {', '.join(sorted(unknown))} unknown; params.yaml has {', '.join(everything)}")
    if shutil.which(EMULATOR) is None:
        sys.exit(f"error: {EMULATOR} is missing: install Debian's package qemu-user")
    elif int(emulator_version().partition(".")[0]) < OLDEST:
        sys.exit(f"error: QEMU {emulator_version()} crashes on some models: install {OLDEST} or later")
    else:
        if not (ROOT / "data" / "train_images.npy").is_file():
            sys.exit("error: data/ is empty: run `dvc repro download_mnist` first")
        kept = {} if set(chosen) == set(everything) else kept_rows(PAGE.read_text(encoding="utf-8"))
        rows = kept | new_rows(chosen)
        text = head() + "".join(rows[model] for model in everything if model in rows) + TAIL
        PAGE.write_text(text, encoding="utf-8")


def train_all(framework: str) -> None:
    """Train every model of a framework in this process: most of an emulated run is imports."""
    stage = import_module(f"stages.train_{framework}")
    for model in params.read(framework, dict):
        sys.argv = [stage.__name__, model]
        stage.main()


def emulator_version() -> str:
    """The emulator's version, such as 10.0: what is mended after it decides no instruction."""
    text = subprocess.run([EMULATOR, "--version"], capture_output=True, text=True, check=True).stdout
    return text.split()[2].rpartition(".")[0]  # qemu-x86_64 version 10.0.2 (Debian …


def head() -> str:
    """The page's beginning: what is compared with what, and the columns."""
    columns = [f"{profile}: {name}" for profile, name in COLUMNS]
    return HEAD.format(
        machine=machine.describe(),
        emulator=emulator_version(),
        images=IMAGES,
        held_out=IMAGES // 3,
        timed=f"{TIMED_IMAGES:,}",
        repeats=REPEATS,
        columns=" | ".join(columns),
        rules=" --- |" * len(columns),
    )


def kept_rows(page: str) -> dict[str, str]:
    """The rows of an earlier page, by model. Raises UserError unless it begins as one written here."""
    for there, here in zip(page.splitlines(), head().splitlines(), strict=False):
        if there != here:
            raise command.UserError(
                f"{PAGE.relative_to(ROOT)} was written elsewhere, where it says '{there}' and not '{here}': "
                "name no models, to try all"
            )
    rows = page.removeprefix(head()).partition("\n\n")[0].splitlines()
    return {row.split("|")[1].strip(): f"{row}\n" for row in rows}


def new_rows(chosen: Iterable[str]) -> dict[str, str]:
    """Try the chosen models; their rows by model."""
    with tempfile.TemporaryDirectory() as folder:
        differences = compare_processors(Path(folder), chosen)
        costs = compare_profiles(Path(folder), chosen)
    return {
        model: f"| {model} | {' | '.join(texts)} | {costs[model]:.2f} × |\n"
        for model, texts in differences.items()
    }


def compare_processors(folder: Path, chosen: Iterable[str]) -> dict[str, list[str]]:
    """For each chosen model its fingerprint in portable, and what `difference` finds in each column."""
    content, arrays = short_epoch(IMAGES, chosen), first_images(IMAGES, TEST_IMAGES)
    frameworks = frameworks_of(content)

    def project(profile: str, name: str) -> Path:
        return lay_out(folder / profile / name, {**content, "profile": profile}, arrays)

    for profile in PROFILES:
        for framework in frameworks:
            train(project(profile, "native"), framework)
        for name, processor in EMULATED.items():
            print(f"{profile}, {name}", flush=True)
            two_at_once(partial(train, project(profile, name), processor=processor), frameworks)
    pairs = [(folder / profile / "native", folder / profile / name) for profile, name in COLUMNS]
    return {
        model: [fingerprint(pairs[0][0], model)] + [difference(*pair, model) for pair in pairs]
        for model in models(content)
    }


def two_at_once(do: Callable[[Any], None], things: Iterable[Any]) -> None:
    """Call `do` with each thing: an emulator spends most of its time on one thread."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(do, things))


def compare_profiles(folder: Path, chosen: Iterable[str]) -> dict[str, float]:
    """For each chosen model its time in portable over that in fast, medians of alternating runs."""
    content, arrays = short_epoch(TIMED_IMAGES, chosen), first_images(TIMED_IMAGES, TEST_IMAGES)
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(REPEATS):
        for profile in PROFILES:
            project = lay_out(folder / f"timed-{profile}", {**content, "profile": profile}, arrays)
            for framework in frameworks_of(content):
                train(project, framework)
            for model in models(content):
                timings = json.loads((project / f"outputs/timings/{model}.json").read_text())
                total = timings["training_seconds"] + timings["prediction_seconds"]
                seconds.setdefault((profile, model), []).append(total)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return {model: medians["portable", model] / medians["fast", model] for model in models(content)}


def short_epoch(images: int, chosen: Iterable[str]) -> dict[str, Any]:
    """The project's parameters for one epoch of a few images, and only the chosen models."""
    content = params.parse((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content["device"] = "cpu"
    content["data"]["validation_images"] = images // 3
    for framework in results.FRAMEWORKS:
        content[framework] = {
            name: entry for name, entry in content[framework].items() if f"{framework}/{name}" in chosen
        }
    for framework in results.WITH_EPOCHS:
        for settings in content[framework].values():
            settings.update(epochs=1, batch_size=64, validation_images=images // 3)
    return content


def first_images(images: int, test_images: int) -> dict[str, np.ndarray]:
    """The first images of data/ and their labels."""
    return {
        f"{part}_{kind}": np.load(ROOT / "data" / f"{part}_{kind}.npy", mmap_mode="r")[:count]
        for part, count in (("train", images), ("test", test_images))
        for kind in ("images", "labels")
    }


def lay_out(project: Path, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    """A folder with what a training stage reads: these parameters and these arrays of data/."""
    (project / "data").mkdir(parents=True, exist_ok=True)
    (project / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    for name, array in arrays.items():
        np.save(project / "data" / f"{name}.npy", array)
    return project


def train(project: Path, framework: str, processor: str | None = None) -> None:
    """Train all models of a framework in `project`, on the emulated `processor` if one is named.

    Raises RuntimeError with the last lines of output if that fails.
    """
    emulator = [EMULATOR, "-cpu", processor] if processor else []
    run = subprocess.run(
        [*emulator, *trainer(framework)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if run.returncode != 0:
        end = "\n".join(run.stdout.splitlines()[-10:])
        raise RuntimeError(f"{framework} on {processor or 'this processor'} failed:\n{end}")


def trainer(framework: str) -> list[str]:
    """The command that trains all models of a framework in the current folder."""
    return [sys.executable, "-m", "tools.processors", "--all-of", framework]


def frameworks_of(content: dict[str, Any]) -> list[str]:
    """The frameworks that have models in some parameters."""
    return [framework for framework in results.FRAMEWORKS if content[framework]]


def models(content: dict[str, Any]) -> Iterator[str]:
    """Every model of some parameters, such as pytorch/mlp."""
    return (f"{framework}/{model}" for framework in results.FRAMEWORKS for model in content[framework])


def fingerprint(project: Path, model: str) -> str:
    """The beginning of the checksum of a model's weights and predictions in `project`."""
    checksum = hashlib.sha256(b"".join(path.read_bytes() for path in trained(project, model)))
    return f"`{checksum.hexdigest()[:12]}`"


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
    (weights,) = (project / "outputs" / "models").glob(f"{model}.*")
    return weights, project / "outputs" / "predictions" / f"{model}.npy"


if __name__ == "__main__":
    command.run(main)
