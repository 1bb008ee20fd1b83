"""Train one network with the NumPy layers of models/scratch.py and predict the test images.

    python -m stages.train_scratch mlp_relu

Reads data/train_{images,labels}.npy, data/test_images.npy and, from params.yaml, scratch.<model>, the
architecture that it names, data.validation_images, seed, threads and profile. How long that takes and
how accurate each model becomes stands in README.md.
Writes outputs/{models,predictions,history,losses,cards,timings}/scratch/<model>.*
"""

from functools import partial
from typing import Annotated, Literal

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
from pydantic import Field
from tqdm import tqdm

from stages.common import architecture, command, dataset, params, results, training
from stages.models import scratch

FRAMEWORK = "scratch"


class Settings(training.NetworkSettings):
    """A from-scratch network's entry in params.yaml."""

    initialization: Literal["glorot", "he"] = "glorot"
    weight_decay: Annotated[params.Number, Field(ge=0, le=1000)] = 0.0

    def make_optimizer(self) -> scratch.SGD | scratch.Adam:
        """What updates the weights, with the learning rate that each step is given."""
        if self.optimizer == "sgd":
            return scratch.SGD(momentum=self.momentum, weight_decay=self.weight_decay)
        return scratch.Adam(weight_decay=self.weight_decay)


def main() -> None:
    name = command.model_name(__doc__)
    settings = params.read_model(FRAMEWORK, name, Settings)
    layers = params.read(f"architectures.{settings.architecture}", architecture.Architecture)
    described = architecture.describe(layers)
    environment.use_all_threads()
    generator = np.random.default_rng(params.read("seed", params.Seed))
    data = dataset.load_training(training.held_out(settings))
    test_images = dataset.scale_pixels(dataset.load_test_images(), settings.pixel_range)

    model = f"{FRAMEWORK}.{name}"
    print(f"{model} on cpu\n{described}", flush=True)
    with training.enough_memory(model):
        network = scratch.build(layers, generator, settings.initialization)
        with results.Stopwatch() as training_time, np.errstate(over="ignore", invalid="ignore"):
            history, losses = train(network, data, settings, generator, model)
        with results.Stopwatch() as prediction_time:
            views = training.views(test_images, settings)
            probabilities = np.mean([scratch.predict_proba(network, view) for view in views], axis=0)

    results.save(
        FRAMEWORK,
        name,
        probabilities=probabilities,
        write_weights=partial(scratch.save, network),
        parameters=sum(architecture.parameter_counts(layers)),
        training_images=len(data.train_images),
        recipe=params.read(model, dict),
        layers=described,
        device="cpu",
        training_time=training_time,
        prediction_time=prediction_time,
        write_history=partial(training.write_history, history),
        losses=losses,
    )


def train(
    network: scratch.Network,
    data: dataset.Split,
    settings: Settings,
    generator: np.random.Generator,
    model: str,
) -> tuple[list[training.Epoch], np.ndarray]:
    """Train `network` in place, images in an order from `generator`.

    Returns its history and the loss of every step, float (steps,).
    """
    validation_images = dataset.scale_pixels(data.validation_images, settings.pixel_range)
    rates = training.learning_rates(settings, len(data.train_images)).tolist()
    optimizer = settings.make_optimizer()

    history, losses = [], []
    for number, epoch_rates in enumerate(rates, start=1):
        loss_sum, correct = 0.0, 0
        order = generator.permutation(len(data.train_images))
        bar = tqdm(epoch_rates, desc=f"epoch {number}/{settings.epochs}", leave=False, disable=None)
        for step, rate in enumerate(bar):
            batch = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            images, labels = data.train_images[batch], data.train_labels[batch]
            logits = network.forward(dataset.scale_pixels(images, settings.pixel_range), training=True)
            loss, gradient = scratch.softmax_cross_entropy(logits, labels, settings.label_smoothing)
            network.backward(gradient)
            optimizer.step(network, rate)
            losses.append(loss)
            loss_sum += loss * len(batch)
            correct += np.count_nonzero(logits.argmax(axis=1) == labels)
            training.show_loss(bar, loss)
        validation_loss, validation_accuracy = evaluate(network, validation_images, data.validation_labels)
        history.append(
            training.Epoch(
                epoch=number,
                learning_rate=rate,
                train_loss=loss_sum / len(order),
                train_accuracy=correct / len(order),
                validation_loss=validation_loss,
                validation_accuracy=validation_accuracy,
            )
        )
        training.report(history[-1], model, settings)
    return history, np.array(losses)


def evaluate(
    network: scratch.Network, images: np.ndarray, labels: np.ndarray
) -> tuple[float, float] | tuple[None, None]:
    """Mean cross-entropy in nats and accuracy, or None and None if there are no images."""
    if len(images) == 0:
        return None, None
    logits = scratch.predict_logits(network, images)
    loss, _ = scratch.softmax_cross_entropy(logits, labels)
    return loss, float(np.mean(logits.argmax(axis=1) == labels))


if __name__ == "__main__":
    command.run(main)
