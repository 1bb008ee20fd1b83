"""What a person sees while a model trains."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsFloat

from tqdm import tqdm

watchers: list[Callable[[dict[str, float | None]], None]] = []
"""Called with each finished epoch, a row of history.csv, after it is printed. What they raise ends the
training."""


class Bar:
    """A progress bar over the steps of an epoch, shown at a terminal."""

    def __init__(self, steps: Iterable[Any], epoch: int, epochs: int):
        self._bar = tqdm(steps, desc=f"epoch {epoch}/{epochs}", leave=False, disable=None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._bar)

    def show(self, loss: SupportsFloat) -> None:
        """Show a step's loss; it is read from its device only if somebody sees it."""
        if not self._bar.disable:
            self._bar.set_postfix_str(f"loss {float(loss):.3f}", refresh=False)


def beginning(model: str, where: str, what: str) -> None:
    """Print what is going to be trained."""
    print(f"{model} on {where}\n{what}", flush=True)


def epoch(row: dict[str, float | None], epochs: int) -> None:
    """Print one line on a finished epoch, a row of history.csv."""
    text = (
        f"epoch {row['epoch']}/{epochs}  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.2%}"
    )
    if row["validation_loss"] is not None:
        text += (
            f"  validation loss {row['validation_loss']:.4f}"
            f"  validation accuracy {row['validation_accuracy']:.2%}"
        )
    print(text, flush=True)
    for watch in watchers:
        watch(row)
