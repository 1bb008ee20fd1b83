"""A callback for your own `fit`. This project's trainers do not need it: their loops report to trackers."""

import keras

from stages.console import tracking


class Tracking(keras.callbacks.Callback):
    """Reports every epoch to trackers.

    with tracking.run("mine/first_try", parameters):
        model.fit(…, callbacks=[Tracking()])
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        tracking.epoch({"epoch": epoch + 1, **(logs or {})})
