"""A well-known Keras program, its recipe written anew as such programs are written.

    python -m tools.well_known.keras 15

Trains on data/, on the processor. Prints the epochs as JSON, a line each: the seconds of training and the
accuracy on the test images.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator

os.environ["KERAS_BACKEND"] = "tensorflow"

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import keras
import tensorflow as tf
from keras import layers

from stages.common import command, dataset, params


def train(epochs: int) -> Iterator[dict[str, float]]:
    """The recipe of keras.io's "Simple MNIST convnet": the last tenth of the images is held out (here
    nobody looks at it), the rest shuffled."""
    keras.utils.set_random_seed(0)
    data = dataset.load_training(len(dataset.load_labels("train")) // 10)
    images = data.train_images[..., None].astype("float32") / 255
    labels = keras.utils.to_categorical(data.train_labels, dataset.CLASSES)
    test_images = dataset.load_test_images()[..., None].astype("float32") / 255
    test_labels = keras.utils.to_categorical(dataset.load_labels("test"), dataset.CLASSES)
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(dataset.CLASSES, activation="softmax"),
        ]
    )
    network.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    for _ in range(epochs):
        started = time.perf_counter()
        network.fit(images, labels, batch_size=128, verbose=0)
        seconds = time.perf_counter() - started
        _, accuracy = network.evaluate(test_images, test_labels, batch_size=1000, verbose=0)
        yield {"seconds": seconds, "accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("epochs", type=int)
    arguments = parser.parse_args()
    threads = params.read("threads", params.Threads)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.set_visible_devices([], "GPU")
    for epoch in train(arguments.epochs):
        print(json.dumps(epoch), flush=True)


if __name__ == "__main__":
    command.run(main)
