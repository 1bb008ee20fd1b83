"""What the user sees while a model trains."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, SupportsFloat

from tqdm import tqdm

from stages.common import params, results
from stages.console import tracking

watchers: list[Callable[[dict[str, float | None]], None]] = []
"""Called with each finished epoch, a row of history.csv, after it is printed. Their exceptions end the
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


@contextmanager
def training(model: str, where: str, what: str) -> Iterator[None]:
    """Print what the block will train, and on which device; let trackers follow it."""
    print(f"{model} on {where}\n{what}", flush=True)
    with _tracked(model, where) if tracking.chosen() else nullcontext():
        yield


def _tracked(model: str, where: str) -> AbstractContextManager[None]:
    framework, name = model.split(".")
    known = params.content(params.PATH)
    recipe = known[framework][name]
    layers = params.content(params.ARCHITECTURES).get(recipe.get("architecture"))
    parameters = {"recipe": recipe, "architecture": layers, "device": where}
    parameters |= {key: known.get(key) for key in ("data", "seed", "threads", "profile")}
    left = {"folder": results.folder(framework, name), "timings": results.timings(framework, name)}
    return tracking.run(f"{framework}/{name}", parameters, **left)


def steps(done: int, losses: Sequence[SupportsFloat]) -> None:
    """Tell trackers the losses of the steps that follow the first `done`."""
    tracking.steps(done, losses)


def epoch(row: dict[str, float | None], epochs: int) -> None:
    """Print a line about a finished epoch, a row of history.csv, and tell trackers and watchers."""
    tracking.epoch(row)
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
