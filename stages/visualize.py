"""Draw the data, every model's predictions, and what `evaluate` found.

    python -m stages.visualize

Reads data/*.npy, outputs/{tables,losses,predictions,ensembles}/, outputs/embedding.csv and the weights of
PyTorch's and the from-scratch models. Writes outputs/plots/overall/*.png and, for every model,
outputs/plots/<kind>/<framework>/<model>.png. Which images are shown is drawn once, for all models.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from stages.common import command, dataset, files, results
from stages.evaluation.tables import EMBEDDING, LEVEL, load_table, load_tables
from stages.pictures import overall, single, style

PLOTS = results.OUTPUTS / "plots"
MISTAKES = 20

Job = tuple
"""A picture to draw: its path below outputs/plots, the function, its arguments."""


def main() -> None:
    command.no_arguments(__doc__)
    tables = load_tables()
    images, labels = dataset.load_test()
    predictions = {model: load_predictions(model, len(labels)) for model in tables["summary"].model}
    chosen = np.random.default_rng(0).permutation(len(labels))[:29]

    jobs = list(overall_pictures(tables, images, labels, predictions))
    for model, probabilities in predictions.items():
        of_model = {name: t[t.model == model] for name, t in tables.items() if "model" in t}
        jobs += pictures_of(model, of_model, images, labels, probabilities, chosen)
        jobs += first_layer(model)
    with files.replacing(PLOTS) as folder, ProcessPoolExecutor() as processes:
        drawn = [processes.submit(style.save, folder / path, *job) for path, *job in jobs]
        try:
            for picture in drawn:
                picture.result()
        except BrokenProcessPool:
            raise command.UserError(
                "a process that draws was ended from outside, perhaps for want of memory"
            ) from None
        except BaseException:
            processes.shutdown(cancel_futures=True)  # else all the others would be drawn before the end
            raise
    print(f"{len(jobs)} pictures")


def load_predictions(model: str, images: int) -> np.ndarray:
    """Class probabilities, float32 (images, 10), of a model or an ensemble."""
    framework, name = model.split("/")
    kind = results.OUTPUTS / ("ensembles" if framework == "ensemble" else f"predictions/{framework}")
    return files.load_array(kind / f"{name}.npy", np.float32, (images, dataset.CLASSES))


def overall_pictures(
    tables: dict[str, pd.DataFrame],
    images: np.ndarray,
    labels: np.ndarray,
    predictions: dict[str, np.ndarray],
) -> Iterator[Job]:
    """The pictures of the data and of all models together."""
    summary = tables["summary"].set_index("model")
    yield "overall/samples.png", overall.draw_samples, *sample_each_digit(columns=10), 10
    embedding = load_table(results.OUTPUTS / "embedding.csv", EMBEDDING)
    yield "overall/embedding.png", overall.draw_embedding, embedding
    yield "overall/accuracy.png", overall.draw_accuracies, tables["summary"]
    for quantity in ("loss", "accuracy") if len(tables["history"]) else ():
        yield f"overall/training_{quantity}.png", overall.draw_curves, tables["history"], quantity
    trained = summary.parameters.dropna()
    errors = 1 - summary.accuracy
    if len(trained):
        yield "overall/accuracy_by_parameters.png", overall.draw_cost, trained, errors, "parameters (count)"
    best_first = list(summary.sort_values("accuracy", ascending=False, kind="stable").index)
    yield "overall/agreement.png", overall.draw_agreement, tables["pairs"], best_first
    yield "overall/pairs.png", overall.draw_pairs, tables["pairs"], best_first, LEVEL
    if len(tables["contributions"]):
        accuracy = summary.accuracy["ensemble/mean"]
        added = tables["contributions"]
        yield "overall/contributions.png", overall.draw_contributions, added, accuracy, LEVEL
    votes = {m: p.argmax(axis=1) for m, p in predictions.items() if not m.startswith("ensemble/")}
    hardest, captions = find_hardest(labels, np.array(list(votes.values())))
    yield "overall/hardest.png", overall.draw_hardest, images[hardest], captions, len(votes)


def pictures_of(
    model: str,
    tables: dict[str, pd.DataFrame],
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    chosen: np.ndarray,
) -> Iterator[Job]:
    """The pictures of one model. tables: its rows alone. chosen: images to show, as indices."""
    digits = tables["per_digit"].set_index("digit")
    error = tables["summary"].calibration_error.item()
    yield f"confusion/{model}.png", single.draw_confusion, tables["confusion"], model
    yield f"roc/{model}.png", single.draw_roc, tables["roc"], digits.auc, model
    yield f"calibration/{model}.png", single.draw_calibration, tables["calibration"], error, model
    if len(tables["history"]):
        path = results.path("losses", *model.split("/"), "npy")
        losses = files.load_array(path, np.float32, (None,))
        yield f"training/{model}.png", single.draw_training, tables["history"], losses, model

    def shown(some: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        return images[some], labels[some], probabilities[some], model

    predicted = probabilities.argmax(axis=1)
    nine = chosen[-9:]
    yield f"predictions/{model}.png", single.draw_predictions, *shown(chosen[:20])
    yield f"truths/{model}.png", single.draw_truths, images[nine], labels[nine], predicted[nine], model
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")[:MISTAKES]]
    yield f"mistakes/{model}.png", single.draw_mistakes, *shown(surest)
    doubtful = probabilities.max(axis=1).argmin()
    yield f"probabilities/{model}.png", single.draw_probabilities, *shown(doubtful)


def first_layer(model: str) -> Iterator[Job]:
    """The picture of the first layer's weights, if the model is a network that begins with a dense layer."""
    framework, name = model.split("/")
    if framework not in ("pytorch", "scratch"):
        return
    path = results.weights(framework, name)
    with files.reading(path, "holds no weights of a network"):
        weights = load_file(path) if framework == "pytorch" else dict(np.load(path, allow_pickle=False))
        by_layer = {int(key.split(".")[0]): w for key, w in weights.items() if key.split(".")[1][0] == "w"}
        first = by_layer[min(by_layer)]
    size = dataset.IMAGE_SIZE
    units = first if framework == "pytorch" else first.T
    if units.ndim == 2 and units.shape[1] == size * size:  # else something before it made fewer of the pixels
        yield f"first_layer/{model}.png", single.draw_first_layer, units.reshape(-1, size, size), model


def sample_each_digit(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images at random, a row a digit, and their labels."""
    data = dataset.load_training(held_out=0)
    generator = np.random.default_rng(0)
    places = []
    for digit in range(dataset.CLASSES):
        of_digit = np.flatnonzero(data.train_labels == digit)
        if len(of_digit):
            places.append(generator.choice(of_digit, columns, replace=len(of_digit) < columns))
    places = np.concatenate(places)
    return data.train_images[places], data.train_labels[places]


def find_hardest(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The test images that more than half of the models get wrong, at most MISTAKES, worst first.

    predicted: (models, n). Returns their indices and captions.
    """
    right = (predicted == labels).sum(axis=0)
    order = np.argsort(right, kind="stable")[:MISTAKES]
    hardest = order[right[order] < len(predicted) / 2]
    captions = []
    for i in hardest:
        others = np.bincount(predicted[predicted[:, i] != labels[i], i])
        captions.append(f"is {labels[i]}: {right[i]} of {len(predicted)} right,\nmostly {others.argmax()}")
    return hardest, captions


if __name__ == "__main__":
    command.run(main)
