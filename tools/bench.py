"""Measure every model: accuracy over several seeds, seconds, memory, and how they grow.

    make bench                                            all models, three seeds
    make bench MODELS="pytorch/sprint sklearn/knn_3" SEEDS=10
    make growth                                           how time and memory grow

Writes docs/speed.csv (`make growth`: docs/growth.csv and docs/growth.png), of which docs/speed.md and
the README's table of speed are made. Models that are not named keep their rows.

Each run is the stage itself in a process of its own, in a folder of its own, with another seed in its
params.yaml, so what is measured is what `dvc repro` does. The stage's stopwatches leave out
imports and reading; a short run on a thousand images comes first, to have the libraries read from disk.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()  # the product of matrices, too, is measured with `threads`

import numpy as np
import yaml

from stages.common import architecture, command, params, results
from tools import machine, readme

ROOT = Path(__file__).parent.parent
TABLE = Path("docs/speed.csv")
GROWTH = Path("docs/growth.csv")
PAGE = Path("docs/speed.md")
README = Path("README.md")
BEGIN, END = "<!-- speed: written by `make bench` -->\n", "<!-- end of speed -->\n"
WARM_UP_IMAGES = 1000


@dataclass(frozen=True)
class Run:
    """One training of a model and its prediction of the test images."""

    accuracy: float
    training_seconds: float
    prediction_seconds: float
    start_seconds: float  # the process's time without training and prediction: imports, reading, writing
    peak_mebibytes: float
    training_images: int
    parameters: int | None
    history: list[dict[str, float | None]] = field(default_factory=list)


LAUNCH = """\
import resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.call(sys.argv[1:])
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""A small process between this and the stage: the system counts the parent's memory as the child's."""


def run(model: str, data: Path, changes: dict[str, Any]) -> Run:
    """Run the stage of `model`, such as pytorch/sprint, on the arrays in the folder `data`.

    changes: values of params.yaml by dotted key, for this run alone.
    """
    framework, name = model.split("/")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "stages").symlink_to(ROOT / "stages")
        (folder / "data").symlink_to(data.resolve())
        (folder / "params.yaml").write_text(yaml.safe_dump(changed(changes), sort_keys=False), "utf-8")
        stage = subprocess.run(
            [sys.executable, "-S", "-c", LAUNCH, sys.executable, "-m", f"stages.train_{framework}", name],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output, _, measured = stage.stdout.strip().rpartition("\n")
        if stage.returncode:
            raise command.UserError(f"{model} with {changes} failed: {output[-500:]}")
        seconds, peak = map(float, measured.split())
        load = {
            kind: json.loads((folder / results.path(kind, framework, name, "json")).read_text())
            for kind in ("timings", "cards")
        }
        probabilities = np.load(folder / results.path("predictions", framework, name, "npy"))
        history = folder / results.path("history", framework, name, "csv")
        epochs = []
        if history.is_file():
            with history.open(encoding="utf-8") as file:
                epochs = [
                    {k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)
                ]
    timings, card = load["timings"], load["cards"]
    return Run(
        accuracy=float(np.mean(probabilities.argmax(axis=1) == np.load(data / "test_labels.npy"))),
        training_seconds=timings["training_seconds"],
        prediction_seconds=timings["prediction_seconds"],
        start_seconds=seconds - timings["training_seconds"] - timings["prediction_seconds"],
        peak_mebibytes=peak / (1024 if sys.platform == "linux" else 1024**2),
        training_images=card["training_images"],
        parameters=card["parameters"],
        history=epochs,
    )


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """params.yaml with other values at some dotted keys."""
    content = params.parse((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        section = content
        *parents, last = key.split(".")
        for parent in parents:
            section = section[parent]
        section[last] = value
    return content


@dataclass(frozen=True)
class Row:
    """A line of docs/speed.csv. Seconds are medians, `_low` and `_high` the least and the most."""

    model: str
    seeds: int
    accuracy_mean: float
    accuracy_sd: float | None  # of one run, from seed to seed
    training_seconds: float
    training_seconds_low: float
    training_seconds_high: float
    prediction_seconds: float
    prediction_seconds_low: float
    prediction_seconds_high: float
    start_seconds: float
    images_per_second: float  # while training; every epoch counts
    seconds_to_98: float | None
    seconds_to_99: float | None
    peak_mebibytes: float
    parameters: int | None
    multiply_adds: int | None  # of one image, forward
    matmul_gflops: float  # what this machine's matrix product reached beside
    matmul_share: float | None  # how much of that training reached
    machine: str  # that measured it


def measure(model: str, seeds: int, data: Path) -> Row:
    """Run `model` with the seeds 0, 1, …, one after the other, and sum up."""
    runs, rates = [], []
    for seed in range(seeds):
        rates.append(matmul_gflops())
        runs.append(run(model, data, {"seed": seed}))
        print(
            f"{model} seed {seed}: {runs[-1].accuracy:.2%}, {runs[-1].training_seconds:.1f} s to train, "
            f"{runs[-1].prediction_seconds:.1f} s to predict",
            flush=True,
        )
    first, epochs = runs[0], max(1, len(runs[0].history))
    training = [r.training_seconds for r in runs]
    prediction = [r.prediction_seconds for r in runs]
    rate, spent = statistics.median(rates), statistics.median(training)
    multiplications = multiply_adds(model)
    forward = sum(multiplications)
    backward = 2 * forward - sum(multiplications[:1])  # the images need no gradient
    done = 2 * (forward + backward) * first.training_images * epochs
    return Row(
        model=model,
        seeds=seeds,
        accuracy_mean=round(statistics.mean(r.accuracy for r in runs), 6),
        accuracy_sd=round(statistics.stdev(r.accuracy for r in runs), 6) if seeds > 1 else None,
        training_seconds=spent,
        training_seconds_low=min(training),
        training_seconds_high=max(training),
        prediction_seconds=statistics.median(prediction),
        prediction_seconds_low=min(prediction),
        prediction_seconds_high=max(prediction),
        start_seconds=round(statistics.median(r.start_seconds for r in runs), 2),
        images_per_second=round(first.training_images * epochs / spent),
        seconds_to_98=seconds_to(0.98, runs),
        seconds_to_99=seconds_to(0.99, runs),
        peak_mebibytes=round(statistics.median(r.peak_mebibytes for r in runs)),
        parameters=first.parameters,
        multiply_adds=forward or None,
        matmul_gflops=round(rate, 1),
        matmul_share=round(done / spent / rate / 1e9, 3) if forward else None,
        machine=machine.describe(),
    )


def seconds_to(accuracy: float, runs: list[Run]) -> float | None:
    """Median seconds of training until the validation accuracy is reached, None if a run never does.

    Known to the epoch. The test accuracy at the end must be there, too, for the held-out images are easier;
    of models without validation images, or without epochs, it alone decides.
    """
    if min(one.accuracy for one in runs) < accuracy:
        return None
    seconds = []
    for one in runs:
        reached = [epoch["validation_accuracy"] for epoch in one.history]
        if not reached or reached[-1] is None:
            reached = [*[0.0] * (len(reached) - 1), one.accuracy]
        number = next((i for i, value in enumerate(reached, start=1) if value >= accuracy), None)
        if number is None:
            return None
        seconds.append(one.training_seconds * number / len(reached))
    return round(statistics.median(seconds), 2)


def multiply_adds(model: str) -> list[int]:
    """Multiplications of each layer of a network for one image, forward; none of a model that is no network.

    Layers that do not multiply by weights are left out.
    """
    framework, name = model.split("/")
    settings = params.read(f"{framework}.{name}", dict)
    if "architecture" not in settings:
        return []
    layers = params.read(f"architectures.{settings['architecture']}", architecture.Architecture)
    counts, shape = [], architecture.IMAGE_SHAPE
    for layer, output_shape in zip(layers, architecture.shapes(layers), strict=True):
        match layer:
            case architecture.Conv():
                counts.append(int(np.prod(output_shape)) * shape[0] * layer.kernel**2)
            case architecture.Dense():
                counts.append(int(np.prod(shape)) * layer.units)
        shape = output_shape
    return counts


def matmul_gflops(size: int = 2048) -> float:
    """10⁹ operations a second in NumPy's float32 matrix product: the best of five."""
    a = np.random.default_rng(0).random((size, size), np.float32)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


def write(rows: Iterable[Row]) -> None:
    """Replace these models' rows of docs/speed.csv, in the order of params.yaml, and all made of it."""
    known = {row["model"]: row for row in read_table(TABLE)} | {row.model: asdict(row) for row in rows}
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(known[model] for model in models() if model in known)
    publish()


def publish() -> None:
    """Write docs/speed.md and the README's table from docs/speed.csv and docs/growth.csv."""
    rows = read_table(TABLE)
    text = TEXT.format(
        table=markdown(rows, COLUMNS), machine=machines(rows), growth_machine=machines(read_table(GROWTH))
    )
    PAGE.write_text(text, encoding="utf-8")
    short = {head: COLUMNS[head] for head in README_COLUMNS}
    text = readme.with_table(README.read_text(encoding="utf-8"), markdown(rows, short), BEGIN, END)
    README.write_text(text, encoding="utf-8")


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of docs/speed.csv or growth.csv, none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def machines(rows: list[dict[str, str]]) -> str:
    """The machines that measured these rows."""
    return "; ".join(sorted({row["machine"] for row in rows}))


COLUMNS = {
    "model": "`{model}`",
    "seeds": "{seeds}",
    "accuracy, mean ± sd (%)": "{accuracy_mean:2%} ± {accuracy_sd:2%}",
    "training (s)": "{training_seconds:.1f} ({training_seconds_low:.1f}–{training_seconds_high:.1f})",
    "prediction (s)": "{prediction_seconds:.2f} ({prediction_seconds_low:.2f}–{prediction_seconds_high:.2f})",
    "start (s)": "{start_seconds:.1f}",
    "images/s": "{images_per_second:,.0f}",
    "s to 98 %": "{seconds_to_98:.1f}",
    "s to 99 %": "{seconds_to_99:.1f}",
    "memory (MiB)": "{peak_mebibytes:,.0f}",
    "parameters": "{parameters:,.0f}",
    "multiply-adds": "{multiply_adds:,.0f}",
    "of matmul (%)": "{matmul_share:1%}",
}
README_COLUMNS = (
    "model",
    "seeds",
    "accuracy, mean ± sd (%)",
    "training (s)",
    "prediction (s)",
    "images/s",
    "memory (MiB)",
)


class Cell:
    """A figure of the table in a format; nothing where there is none; `2%`: a percentage without its sign."""

    def __init__(self, text: str):
        self.text = text

    def __format__(self, form: str) -> str:
        if not form or not self.text:
            return self.text
        if form.endswith("%"):
            return f"{100 * float(self.text):.{form[:-1]}f}"
        return format(float(self.text), form)


def markdown(rows: list[dict[str, str]], columns: dict[str, str]) -> str:
    """The rows as a Markdown table, the most accurate first."""
    rows = sorted(rows, key=lambda row: -float(row["accuracy_mean"]))
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    for row in rows:
        cells = {key: Cell(value) for key, value in row.items()}
        shown = (form.format(**cells).removesuffix(" ± ") for form in columns.values())
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def models() -> list[str]:
    """All models of params.yaml, as framework/name."""
    return [f"{kind}/{name}" for kind in results.FRAMEWORKS for name in params.read(kind, dict)]


def few_images(folder: Path, count: int = WARM_UP_IMAGES) -> Path:
    """The first images of data/ in `folder`."""
    for path in (ROOT / "data").glob("*.npy"):
        np.save(folder / path.name, np.load(path)[:count])
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="framework/model", help="all, if none is named")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each model (3)")
    arguments = parser.parse_args()
    chosen = arguments.models or models()
    if unknown := set(chosen) - set(models()):
        raise command.UserError(
            f"{', '.join(sorted(unknown))} unknown; params.yaml has {', '.join(models())}"
        )
    if arguments.seeds < 1:
        raise command.UserError(f"--seeds is {arguments.seeds}; allowed: 1 and more")
    if not (ROOT / "data" / "test_labels.npy").is_file():
        raise command.UserError("data/ is empty: run `dvc repro download_mnist` first")
    with tempfile.TemporaryDirectory() as temporary:
        warm_up = few_images(Path(temporary))
        for model in chosen:
            of_network = {f"{model.replace('/', '.')}.validation_images": 100}
            run(model, warm_up, {} if model.startswith("sklearn/") else of_network)
            write([measure(model, arguments.seeds, ROOT / "data")])


TEXT = """\
# How fast each model is

Written by `make bench` from [speed.csv](speed.csv), which holds all figures. Measured on: {machine}.

{table}
Each run is the stage itself in a process of its own, one after the other, with the seeds 0, 1, …

- *accuracy*: of the 10,000 test images, mean and standard deviation over the seeds. *training*,
  *prediction*: wall-clock seconds from arrays in memory, median (least–most); compiling and tracing
  count. *start*: what the process takes beside, imports, reading and writing.
- *images/s*: training images times epochs by seconds. *s to 98 %, 99 %*: training until the end of the epoch
  whose validation accuracy reaches it; where no images are held out, until the end. Empty if a seed's test
  accuracy is not there at the end: the held-out images are the last training images, and easier.
- *memory*: the process's peak. *multiply-adds*: of one image, forward. *of matmul*: operations of the
  convolutions and dense layers, forward and backward (the images get no gradient), a second, as a share of
  what NumPy's float32 product of two 2048×2048 matrices reaches on the same machine just before. What trains
  in bfloat16 (`precision` in params.yaml) multiplies faster than that.

## How time and memory grow

![Seconds and mebibytes against images, batch size and threads](growth.png)

Written by `make growth` from [growth.csv](growth.csv). Measured on: {growth_machine}.

More images than the data set has are the same images again, which tell trees nothing new; `n^p` is the
line through the seconds to train and predict for 15,000 to 60,000 images, of which networks hold a
twelfth out. Every point is one run, and equal runs on a shared machine mostly differ by up to a
quarter, now and then by more.

- An epoch of a network, a regression's step and a tree's level look at each image once: p would be 1, and is
  lower where a start and predicting the test images, which stay the same, take a good part of the time, as
  TensorFlow's seconds of tracing. Trees grown to the end get deeper with more images, theirs is higher.
- The neighbours of a test image are looked for among all training images; what the test images cost by
  themselves keeps p below 1.
- A kernel machine weighs pairs of images near the borders between digits: its p lies between 1 and 2.
- Networks keep the images as bytes: little beside what PyTorch itself takes, most of what NumPy's take. The
  other models work on float32 copies, several at a time, and grow with the images.
- Small networks gain less than half from a second thread: their steps are too short to be shared. The kernel
  machine's solver uses one.
"""

if __name__ == "__main__":
    command.run(main)
