"""A well-known Keras program, its recipe written anew as such programs are written."""

import os
import time
from collections.abc import Iterator

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf
from keras import layers

from stages.common import dataset


def train(threads: int, epochs: str) -> Iterator[dict[str, float]]:
    """The recipe of keras.io's "Simple MNIST convnet": a tenth of the images is held out (here
    nobody looks at it), the rest shuffled."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.set_visible_devices([], "GPU")
    keras.utils.set_random_seed(0)
    classes, data = len(dataset.describe().classes), dataset.load_training(0.1)
    images = data.train_images[..., None].astype("float32") / 255
    labels = keras.utils.to_categorical(data.train_labels, classes)
    test_images, test_labels = dataset.load_test()
    test_images = test_images[..., None].astype("float32") / 255
    test_labels = keras.utils.to_categorical(test_labels, classes)
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(classes, activation="softmax"),
        ]
    )
    network.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    for _ in range(int(epochs)):
        started = time.perf_counter()
        network.fit(images, labels, batch_size=128, verbose=0)
        seconds = time.perf_counter() - started
        _, accuracy = network.evaluate(test_images, test_labels, batch_size=1000, verbose=0)
        yield {"seconds": seconds, "accuracy": accuracy}
