"""Train one network with Keras on TensorFlow and predict the test images.

    python -m stages.train_tensorflow cnn_dropout

Reads data/*.npy and, from params.yaml, tensorflow.<model> and the architecture that it names.
Writes outputs/{models,predictions,history,cards,timings}/tensorflow/<model>.*
"""

from functools import partial
from typing import Literal

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from stages.common import architecture, command, dataset, params, results, training
from stages.models import tensorflow

FRAMEWORK = "tensorflow"
OPTIMIZERS = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
LOSSES = {
    "integer": keras.losses.SparseCategoricalCrossentropy,
    "one_hot": keras.losses.CategoricalCrossentropy,
}


class Settings(training.NetworkSettings):
    """A Keras network's entry in params.yaml."""

    labels: Literal["integer", "one_hot"] = "integer"


def main() -> None:
    name = command.model_name(__doc__)
    settings = params.read_model(FRAMEWORK, name, Settings)
    layers = params.read(f"architectures.{settings.architecture}", architecture.Architecture)
    device = choose_device(params.read("device", str))
    make_deterministic(params.read("seed", params.Seed), params.read("threads", params.Positive))
    data = dataset.load_training(training.held_out(settings))
    test_images = dataset.scale_pixels(dataset.load_test_images(), settings.pixel_range)

    print(f"{FRAMEWORK}.{name} on {device}\n{architecture.describe(layers)}", flush=True)
    network = tensorflow.build(layers)
    with results.Stopwatch() as training_time:
        history = train(network, data, settings, f"{FRAMEWORK}.{name}")
    with results.Stopwatch() as prediction_time:
        probabilities = tensorflow.predict_proba(network, test_images)

    training.save_history(results.path("history", FRAMEWORK, name, "csv"), history)
    results.save(
        FRAMEWORK,
        name,
        probabilities=probabilities,
        extension="weights.h5",
        write_weights=partial(tensorflow.save, network),
        parameters=sum(architecture.parameter_counts(layers)),
        training_images=len(data.train_images),
        device=device,
        training_time=training_time,
        prediction_time=prediction_time,
    )


def choose_device(wanted: str) -> str:
    """Let TensorFlow use the device called `wanted` and return its name; `auto` prefers a GPU.

    TensorFlow calls every accelerator GPU, Apple's too.
    """
    gpus = tf.config.list_physical_devices("GPU")
    accelerators = ["cuda" if tf.test.is_built_with_cuda() else "mps"] if gpus else []
    available = ["cpu", *accelerators]
    if wanted not in ("auto", *available):
        raise command.UserError(
            f"params.yaml: device is {wanted!r}; allowed here: auto, {', '.join(available)}"
        )
    device = available[-1] if wanted == "auto" else wanted
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    return device


def make_deterministic(seed: int, threads: int) -> None:
    """Let equal runs give equal bits: seed, threads, and only algorithms without races."""
    keras.utils.set_random_seed(seed)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()


def train(network: keras.Model, data: dataset.Split, settings: Settings, model: str) -> list[training.Epoch]:
    """Train `network` in place and return its history."""
    images, labels = prepare(data.train_images, data.train_labels, settings)
    rates = training.learning_rates(settings, len(images))
    network.compile(
        optimizer=OPTIMIZERS[settings.optimizer](LearningRates(rates)),
        loss=LOSSES[settings.labels](from_logits=True),
        metrics=["accuracy"],
    )
    reporter = Reporter(rates, settings, model)
    network.fit(
        images,
        labels,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        validation_data=prepare(data.validation_images, data.validation_labels, settings)
        if len(data.validation_images)
        else None,
        validation_batch_size=500,
        callbacks=[reporter],
        verbose=0,
    )
    return reporter.epochs


def prepare(images: np.ndarray, labels: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images and labels as the network and its loss take them.

    images: float32 (n, 28, 28, 1). labels: uint8 (n,), or float32 (n, 10) for one_hot.
    """
    pixels = dataset.scale_pixels(images, settings.pixel_range)[..., np.newaxis]
    if settings.labels == "one_hot":
        labels = keras.utils.to_categorical(labels, dataset.CLASSES).astype(np.float32)
    return pixels, labels


class LearningRates(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of every step, from an array of any shape."""

    def __init__(self, rates: np.ndarray):
        self.rates = tf.constant(rates.ravel())

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return tf.gather(self.rates, tf.cast(step, tf.int32))

    def get_config(self) -> dict:
        return {"rates": self.rates.numpy()}


class Reporter(keras.callbacks.Callback):
    """A bar per epoch at a terminal, a line per epoch everywhere, the history in `epochs`."""

    def __init__(self, rates: np.ndarray, settings: Settings, model: str):
        super().__init__()
        self.rates, self.settings, self.model_name = rates, settings, model
        self.epochs: list[training.Epoch] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        title = f"epoch {epoch + 1}/{self.settings.epochs}"
        self.bar = tqdm(total=self.rates.shape[1], desc=title, leave=False, disable=None)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.bar.update(batch + 1 - self.bar.n)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.bar.close()
        self.epochs.append(
            training.Epoch(
                epoch=epoch + 1,
                learning_rate=float(self.rates[epoch, -1]),
                train_loss=logs["loss"],
                train_accuracy=logs["accuracy"],
                validation_loss=logs.get("val_loss"),
                validation_accuracy=logs.get("val_accuracy"),
            )
        )
        training.report(self.epochs[-1], self.model_name, self.settings)


if __name__ == "__main__":
    command.run(main)
