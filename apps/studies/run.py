"""Run the trainings of a study.

    python -m apps.studies.run batch_size

Reads what `apps.studies.plan` reads, and the labels in data/. Writes studies/results/<study>/: trials.csv,
one row per training, and, if the seed varies, means.csv: the accuracy of the mean over several seeds. Results
of finished trainings stay in studies/results/<study>.partial.kept/ until all are finished, so that a killed
study can continue.
"""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
import pandas as pd
from tqdm import tqdm

from apps import trials
from apps.studies import plan
from stages.common import dataset, files
from stages.console import command
from stages.console.errors import UserError
from stages.evaluation import scores

RESULTS = Path("studies/results")
MOST = 500
"""How many choices of k seeds are tried."""


def main() -> None:
    name = command.argument(__doc__, "study", "the study's key in studies/params.yaml")
    studies = plan.read()
    if name not in studies:
        raise UserError(f"{name} is unknown; {plan.STUDIES} has {', '.join(studies)}")
    study = studies[name]
    trainings, kept = plan.plan(name, study), RESULTS / f"{name}.partial.kept"
    kept.mkdir(parents=True, exist_ok=True)
    with trials.only_one(kept / "lock", f"the study {name} is being run"):
        finish(name, study, trainings, kept)


def finish(name: str, study: plan.Study, trainings: list[dict[str, Any]], kept: Path) -> None:
    """Run the trainings that are missing, and write the results."""
    run(name, trainings, kept, study.alone)
    rows, predictions = zip(*(load(kept, one) for one in trainings), strict=True)
    if all(row["failure"] for row in rows):
        raise UserError(f"{name}: {rows[0]['failure']}")
    table = pd.DataFrame(rows)
    with files.replacing(RESULTS / name) as (folder,):
        files.write_text(folder / "trials.csv", table.to_csv(index=False, lineterminator="\n"))
        if study.vary == plan.SEED:
            text = means(table[table.accuracy.notna()], predictions).to_csv(
                index=False, lineterminator="\n", float_format="%.6g"
            )
            files.write_text(folder / "means.csv", text)
    shutil.rmtree(kept)


def run(name: str, trainings: list[dict[str, Any]], kept: Path, alone: bool = False) -> None:
    """Run the trainings without kept results, one at a time if `alone`. Those that failed are tried again."""
    missing = [one for one in trainings if not is_kept(kept, one)]
    together = 1 if alone else max(1, len(missing))
    done = len(trainings) - len(missing)
    with (
        trials.executor(1 if alone else None) as begin,
        tqdm(total=len(trainings), initial=done, desc=name, disable=None) as bar,
    ):
        for first in range(0, len(missing), together):
            some = missing[first : first + together]
            queue = [trials.Trial(**one["trial"], group=name) for one in some]
            for number, result in trials.run_all(begin, queue):
                one = some[number]
                keep(kept, one, result)
                bar.update()
                if bar.disable:
                    told = f"{one['model']}, {one['value']}, seed {one['seed']}"
                    print(told, result.failure or "", flush=True)


def describe(one: dict[str, Any], result: trials.Result) -> dict[str, Any]:
    """What a training's row of trials.csv has beside the test figures: seconds, MiB; or why it failed."""
    row = {key: one[key] for key in ("model", "value", "seed")} | {"failure": result.failure}
    if result.failure:
        return row
    described, timings = result.description(), result.timings()
    last = result.history[-1]["validation_accuracy"] if result.history else None
    return row | {
        "accuracy": None,
        "log_loss": None,
        "validation_accuracy": None if last is None else round(last, 6),
        "training_seconds": timings.training_seconds,
        "prediction_seconds": timings.prediction_seconds,
        "side_by_side": timings.side_by_side,
        "peak_mebibytes": timings.peak_mebibytes,
        "parameters": described.parameters,
        "training_images": described.training_images,
    }


def place(kept: Path, one: dict[str, Any]) -> Path:
    """The path of a training's kept results, without suffix: a checksum of all that determines them."""
    return kept / plan.digest(one)


def keep(kept: Path, one: dict[str, Any], result: trials.Result) -> None:
    """Keep a training's predictions and its row. The row comes last: it shows that both are there."""
    predictions = np.zeros((0, 0)) if result.failure else result.predictions()
    files.write_array(place(kept, one).with_suffix(".npy"), predictions)
    files.write_json(partial := place(kept, one).with_suffix(".new"), describe(one, result))
    partial.replace(place(kept, one).with_suffix(".json"))


def is_kept(kept: Path, one: dict[str, Any]) -> bool:
    """Whether a training has results; a failure may be this machine's."""
    path = place(kept, one).with_suffix(".json")
    return path.is_file() and not json.loads(path.read_text(encoding="utf-8"))["failure"]


def load(kept: Path, one: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """The row that `keep` kept, with accuracy as a share and log loss in nats, and the predictions."""
    path = place(kept, one)
    row = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    probabilities = np.load(path.with_suffix(".npy"))
    if not row["failure"]:
        labels = dataset.load_labels("test")
        row["accuracy"] = round(float(scores.accuracy(labels, probabilities)), 6)
        row["log_loss"] = round(float(scores.log_loss(labels, probabilities)), 6)
    return row, probabilities


def means(table: pd.DataFrame, predictions: tuple[np.ndarray, ...]) -> pd.DataFrame:
    """For each model and k, the accuracy of the mean over k seeds: mean, min, max over all choices of k.

    Of more than MOST choices that many are drawn.
    """
    labels, rows, random = dataset.load_labels("test"), [], np.random.default_rng(0)
    for model, of_model in table.groupby("model", sort=False):
        arrays = [predictions[i] for i in of_model.index]
        for k in range(1, len(arrays) + 1):
            chosen = itertools.combinations(range(len(arrays)), k)
            if math.comb(len(arrays), k) > MOST:
                chosen = (random.choice(len(arrays), k, replace=False) for _ in range(MOST))
            found = [scores.accuracy(labels, np.sum([arrays[i] for i in some], axis=0)) for some in chosen]
            figures = {"accuracy": np.mean(found), "accuracy_low": min(found), "accuracy_high": max(found)}
            rows.append({"model": model, "seeds": k, **figures})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    command.run(main)
