"""A callback for a `fit` of one's own. Not for this project's trainers, whose loops tell of themselves."""

import keras

from stages.console import tracking


class Tracking(keras.callbacks.Callback):
    """Tells trackers of every epoch.

    with tracking.run("mine/first_try", parameters):
        model.fit(…, callbacks=[Tracking()])
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        tracking.epoch({"epoch": epoch + 1, **(logs or {})})
