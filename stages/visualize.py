"""Draw the data, every model's predictions, and the results of `evaluate` and `compare_models`.

    python -m stages.visualize

Reads data/, outputs/{tables,comparison,models,predictions,ensembles}/ and outputs/embedding.csv. Writes
outputs/plots/overall/*.png and, for every model, outputs/plots/<kind>/<framework>/<model>.png. All models
show the same random test images. Takes about 20 s for 25 models on two cores.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context

import numpy as np
import pandas as pd
from joblib import cpu_count
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open

from stages.common import dataset, files, results
from stages.console import command
from stages.console.errors import UserError, reading
from stages.evaluation.tables import EMBEDDING, ENSEMBLES, LEVEL, LOSSES, MEAN, VOTE, load_table, load_tables
from stages.pictures import overall, single, style

PLOTS = results.OUTPUTS / "plots"
MISTAKES = 20
PROCESSES = 4
"""At most so many draw at once; each takes 150 MB."""

Job = tuple[str, partial[Figure]]
"""A picture to draw: its path in outputs/plots, and the function that draws it."""


def main() -> None:
    command.no_arguments(__doc__)
    data = dataset.describe()
    tables = load_tables(data.classes)
    images, labels = dataset.load_test()
    predictions = {model: load_predictions(model, data) for model in tables["summary"].model}
    chosen = np.random.default_rng(0).permutation(len(labels))[:29]

    jobs = list(overall_pictures(tables, images, labels, predictions, data.classes))
    for model, answers in predictions.items():
        of_model = {name: t[t.model == model] for name, t in tables.items()}
        jobs += pictures_of(model, of_model, images, labels, answers, chosen, data.classes)
        jobs += first_layer(model, data.image_size)
    processes = get_context("forkserver")  # it imports the pictures' modules once
    processes.set_forkserver_preload([overall.__name__, single.__name__])
    with (
        files.replacing(PLOTS) as (folder,),
        ProcessPoolExecutor(min(cpu_count(), PROCESSES), processes, command.end_with_parent) as pool,
    ):
        drawn = [pool.submit(style.save, folder / path, draw) for path, draw in jobs]
        try:
            for picture in drawn:
                picture.result()
        except BrokenProcessPool:
            raise UserError(
                "a process that draws was ended from outside, perhaps because memory ran out"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else all other pictures are drawn first
            raise
    print(f"{len(jobs)} pictures")


def load_predictions(model: str, data: dataset.Dataset) -> np.ndarray:
    """The predictions of a model or an ensemble: probabilities, float32 (n, classes), or for the vote
    classes, uint8 (n,)."""
    if model == VOTE:
        return files.load_array(ENSEMBLES / "vote.npy", np.uint8, (data.counts.test,))
    path = ENSEMBLES / "mean.npy" if model == MEAN else results.predictions(*model.split("/"))
    return files.load_array(path, np.float32, (data.counts.test, len(data.classes)))


def overall_pictures(
    tables: dict[str, pd.DataFrame],
    images: np.ndarray,
    labels: np.ndarray,
    predictions: dict[str, np.ndarray],
    classes: tuple[str, ...],
) -> Iterator[Job]:
    """The pictures of the data and of all models together."""
    summary = tables["summary"].set_index("model")
    yield "overall/samples.png", partial(overall.draw_samples, *sample_classes(classes))
    embedding = load_table(results.OUTPUTS / "embedding.csv", EMBEDDING)
    yield "overall/embedding.png", partial(overall.draw_embedding, embedding, classes)
    yield "overall/accuracy.png", partial(overall.draw_accuracies, tables["summary"])
    for quantity in ("loss", "accuracy") if len(tables["history"]) else ():
        yield f"overall/training_{quantity}.png", partial(overall.draw_curves, tables["history"], quantity)
    trained = summary.parameters.dropna()
    if len(trained):
        cost = partial(overall.draw_cost, trained, 1 - summary.accuracy, "parameters (count)")
        yield "overall/accuracy_by_parameters.png", cost
    best_first = list(summary.sort_values("accuracy", ascending=False, kind="stable").index)
    yield "overall/agreement.png", partial(overall.draw_agreement, tables["pairs"], best_first)
    yield "overall/pairs.png", partial(overall.draw_pairs, tables["pairs"], best_first, LEVEL)
    added = tables["contributions"]
    if len(added):
        draw = partial(overall.draw_contributions, added, summary.accuracy[MEAN], LEVEL)
        yield "overall/contributions.png", draw
    votes = np.array([p.argmax(axis=1) for model, p in predictions.items() if model not in (MEAN, VOTE)])
    hardest, captions = find_hardest(labels, votes, classes)
    yield "overall/hardest.png", partial(overall.draw_hardest, images[hardest], captions, len(votes))


def pictures_of(
    model: str,
    tables: dict[str, pd.DataFrame],
    images: np.ndarray,
    labels: np.ndarray,
    answers: np.ndarray,
    chosen: np.ndarray,
    classes: tuple[str, ...],
) -> Iterator[Job]:
    """The pictures of one model.

    tables: only its rows. answers: its probabilities, or for the vote the classes. chosen: indices of the
    images to show.
    """
    yield f"confusion/{model}.png", partial(single.draw_confusion, tables["confusion"], classes, model)
    predicted = answers if model == VOTE else answers.argmax(axis=1)
    nine = chosen[-9:]
    shown = images[nine], labels[nine], predicted[nine]
    yield f"truths/{model}.png", partial(single.draw_truths, *shown, classes, model)
    if len(tables["history"]):
        losses = load_table(results.folder(*model.split("/")) / "losses.csv", LOSSES).loss.to_numpy()
        yield f"training/{model}.png", partial(single.draw_training, tables["history"], losses, model)
    if model == VOTE:
        return

    areas = tables["per_class"].set_index("class").auc.reindex(classes)
    yield f"roc/{model}.png", partial(single.draw_roc, tables["roc"], areas, model)
    error = tables["summary"].calibration_error.item()
    yield f"calibration/{model}.png", partial(single.draw_calibration, tables["calibration"], error, model)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-answers[wrong].max(axis=1), kind="stable")[:MISTAKES]]
    doubtful = answers.max(axis=1).argmin()
    for kind, draw, some in (
        ("predictions", single.draw_predictions, chosen[:20]),
        ("mistakes", single.draw_mistakes, surest),
        ("probabilities", single.draw_probabilities, doubtful),
    ):
        yield f"{kind}/{model}.png", partial(draw, images[some], labels[some], answers[some], classes, model)


def first_layer(model: str, image_size: tuple[int, int]) -> Iterator[Job]:
    """The picture of the first layer's weights, if the model is a network whose first layer is dense.

    A dense layer after another layer does not see the pixels and gets no picture.
    """
    path = results.folder(*model.split("/")) / "weights.safetensors"
    if not path.exists():
        return
    with reading(path, "holds no weights of a network", SafetensorError), safe_open(path, "numpy") as file:
        if "0.dense.weights" not in file.keys():  # noqa: SIM118 – it is not a mapping
            return
        units = file.get_tensor("0.dense.weights").T.reshape(-1, *image_size)
    yield f"first_layer/{model}.png", partial(single.draw_first_layer, units, model)


def sample_classes(classes: tuple[str, ...]) -> tuple[np.ndarray, list[str], int]:
    """Random training images, grouped by class, for a sheet of at most ten rows and columns.

    Returns the images, the names of their classes and the number of columns. A class without images is left
    out; a class with too few images repeats them.
    """
    data = dataset.load_training(validation=0)
    generator = np.random.default_rng(0)
    in_a_row = -(-len(classes) // 10)
    each = 10 // in_a_row
    places = []
    for label in np.unique(data.train_labels):
        of_class = np.flatnonzero(data.train_labels == label)
        places.append(generator.choice(of_class, each, replace=len(of_class) < each))
    places = np.concatenate(places)
    return data.train_images[places], [classes[i] for i in data.train_labels[places]], each * in_a_row


def find_hardest(
    labels: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]
) -> tuple[np.ndarray, list[str]]:
    """The test images that more than half of the models get wrong, at most MISTAKES, the worst first.

    predicted: each model's classes, (models, n). Returns the images' indices and captions.
    """
    right = (predicted == labels).sum(axis=0)
    order = np.argsort(right, kind="stable")[:MISTAKES]
    hardest = order[right[order] < len(predicted) / 2]
    captions = []
    for i in hardest:
        others = np.bincount(predicted[predicted[:, i] != labels[i], i])
        truth, mostly = style.short(classes[labels[i]]), style.short(classes[others.argmax()])
        captions.append(f"is {truth}: {right[i]} of {len(predicted)} right,\nmostly {mostly}")
    return hardest, captions


if __name__ == "__main__":
    command.run(main)
