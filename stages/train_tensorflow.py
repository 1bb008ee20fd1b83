"""Train one network with Keras on TensorFlow and predict the test images.

    python -m stages.train_tensorflow cnn_dropout

Reads data/train_{images,labels}.npy, data/test_images.npy and, from params.yaml, tensorflow.<model>, the
architecture that it names, data.validation_images, seed, threads, profile and device. How long that takes
and how accurate each model becomes stands in README.md.
Writes outputs/{models,predictions,history,losses,cards,timings}/tensorflow/<model>.*
"""

from functools import partial
from typing import Literal

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()
    environment.import_quietly("stages.models.tensorflow")

import keras
import numpy as np
import tensorflow as tf
from pydantic import model_validator
from tqdm import tqdm

from stages.common import architecture, command, dataset, params, results, training
from stages.models import tensorflow

FRAMEWORK = "tensorflow"
LOSSES = {
    "integer": keras.losses.SparseCategoricalCrossentropy,
    "one_hot": keras.losses.CategoricalCrossentropy,
}
ACCURACIES = {
    "integer": keras.metrics.SparseCategoricalAccuracy,
    "one_hot": keras.metrics.CategoricalAccuracy,
}


class Settings(training.NetworkSettings):
    """A Keras network's entry in params.yaml."""

    labels: Literal["integer", "one_hot"] = "integer"
    precision: training.Precision = "float32"

    @model_validator(mode="after")
    def _only_vectors_are_smoothed(self) -> "Settings":
        if self.label_smoothing and self.labels != "one_hot":
            raise ValueError("label_smoothing needs labels: one_hot")
        return self

    def make_optimizer(self, rates: np.ndarray) -> keras.optimizers.Optimizer:
        """What updates the weights. rates: the learning rate of each step, float32 (epochs, steps)."""
        if self.optimizer == "sgd":
            return keras.optimizers.SGD(LearningRates(rates), momentum=self.momentum)
        return keras.optimizers.Adam(LearningRates(rates))


def main() -> None:
    name = command.model_name(__doc__)
    settings = params.read_model(FRAMEWORK, name, Settings)
    layers = params.read(f"architectures.{settings.architecture}", architecture.Architecture)
    described = architecture.describe(layers)
    model = f"{FRAMEWORK}.{name}"
    device = choose_device(params.read("device", str))
    precision = training.choose_precision(settings.precision, multiplies_bfloat16(device), model)
    make_deterministic(params.read("seed", params.Seed), params.read("threads", params.Threads))
    data = dataset.load_training(training.held_out(settings))
    test_images = dataset.scale_pixels(dataset.load_test_images(), settings.pixel_range)

    place = training.place(device, precision)
    print(f"{model} on {place}\n{described}", flush=True)
    with training.enough_memory(model, tf.errors.ResourceExhaustedError):
        network = tensorflow.build(layers)
        with results.Stopwatch() as training_time:
            history, losses = train(network, data, settings, model, precision)
        with results.Stopwatch() as prediction_time:
            views = training.views(test_images, settings)
            probabilities = np.mean([tensorflow.predict_proba(network, view) for view in views], axis=0)

    results.save(
        FRAMEWORK,
        name,
        probabilities=probabilities,
        write_weights=partial(tensorflow.save, network),
        parameters=sum(architecture.parameter_counts(layers)),
        training_images=len(data.train_images),
        recipe=params.read(model, dict),
        layers=described,
        device=place,
        training_time=training_time,
        prediction_time=prediction_time,
        write_history=partial(training.write_history, history),
        losses=losses,
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


def multiplies_bfloat16(device: str) -> bool:
    """Whether `device` multiplies matrices of bfloat16 in hardware: CUDA's from compute capability 8.0."""
    if device == "cuda":
        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        return details.get("compute_capability", (0, 0)) >= (8, 0)
    return device == "cpu" and environment.multiplies_bfloat16()


def make_deterministic(seed: int, threads: int) -> None:
    """Let equal runs give equal bits: seed, threads, and only algorithms without races."""
    keras.utils.set_random_seed(seed)
    use_threads(threads)
    tf.config.experimental.enable_op_determinism()


def use_threads(threads: int) -> None:
    """Let an operation use `threads`, and as many run side by side. Works only before the first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def train(
    network: keras.Model,
    data: dataset.Split,
    settings: Settings,
    model: str,
    precision: training.Precision = "float32",
) -> tuple[list[training.Epoch], np.ndarray]:
    """Train `network` in place and return its history and the loss of every step, float32 (steps,).

    A loop of our own over tensors in memory takes little more than half the time of `fit`.
    """
    images = tf.constant(data.train_images[..., np.newaxis])  # bytes: floats are four times as many
    labels = to_targets(data.train_labels, settings)
    validation_pixels = dataset.scale_pixels(data.validation_images, settings.pixel_range)
    validation_images = tf.constant(validation_pixels[..., np.newaxis])
    validation_labels = to_targets(data.validation_labels, settings)
    rates = training.learning_rates(settings, len(images))
    optimizer = settings.make_optimizer(rates)
    smoothed = {"label_smoothing": settings.label_smoothing} if settings.label_smoothing else {}
    loss_function = LOSSES[settings.labels](from_logits=True, **smoothed)
    mean_loss = keras.metrics.Mean()
    accuracy = ACCURACIES[settings.labels]()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def step(batch: tf.Tensor) -> tf.Tensor:
        levels = tf.cast(tf.gather(images, batch), tf.float32)
        pixels = dataset.scale_levels(levels, settings.pixel_range)
        targets = tf.gather(labels, batch)
        with tf.GradientTape() as tape:
            with tensorflow.computing_in(precision, network):
                logits = network(pixels, training=True)
            # Keras's loss would look behind a last sigmoid for what went in, and leave it out
            logits = tf.cast(tf.identity(logits), tf.float32)
            loss = loss_function(targets, logits)
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        mean_loss.update_state(loss, sample_weight=tf.size(batch))
        accuracy.update_state(targets, logits)
        return loss

    history, losses = [], []
    for number in range(1, settings.epochs + 1):
        mean_loss.reset_state()
        accuracy.reset_state()
        order = tf.random.shuffle(tf.range(len(images)))
        starts = range(0, len(images), settings.batch_size)
        bar = tqdm(starts, desc=f"epoch {number}/{settings.epochs}", leave=False, disable=None)
        for start in bar:
            losses.append(step(order[start : start + settings.batch_size]))
            training.show_loss(bar, losses[-1])
        train_loss, train_accuracy = float(mean_loss.result()), float(accuracy.result())
        validation_loss = validation_accuracy = None
        if len(validation_images):
            logits = tensorflow.predict_logits(network, validation_images)
            accuracy.reset_state()
            accuracy.update_state(validation_labels, logits)
            validation_loss = float(LOSSES[settings.labels](from_logits=True)(validation_labels, logits))
            validation_accuracy = float(accuracy.result())
        history.append(
            training.Epoch(
                epoch=number,
                learning_rate=float(rates[number - 1, -1]),
                train_loss=train_loss,
                train_accuracy=train_accuracy,
                validation_loss=validation_loss,
                validation_accuracy=validation_accuracy,
            )
        )
        training.report(history[-1], model, settings)
    return history, tf.stack(losses).numpy()


def to_targets(labels: np.ndarray, settings: Settings) -> tf.Tensor:
    """uint8 labels (n,) as the loss takes them: as they are or, for one_hot, float32 (n, 10)."""
    if settings.labels == "one_hot":
        labels = keras.utils.to_categorical(labels, dataset.CLASSES).astype(np.float32)
    return tf.constant(labels)


class LearningRates(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of every step, from an array of any shape."""

    def __init__(self, rates: np.ndarray):
        self.rates = tf.constant(rates.ravel())

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return tf.gather(self.rates, tf.cast(step, tf.int32))


if __name__ == "__main__":
    command.run(main)
