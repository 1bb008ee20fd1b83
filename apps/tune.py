"""Search for parameters that make a model more accurate, judged only by held-out training images.

    python -m apps.tune pytorch/cnn_dropout --trials 40          search, or continue a search
    python -m apps.tune pytorch/cnn_dropout --trials 40 --apply  and write the best values into params.yaml

tuning.yaml says what is tried. The first trial is the model as params.yaml has it; Optuna's TPE sampler
chooses the others, `--together` at a time. A network's trial ends early if, after an epoch, it is less
accurate than the median of earlier trials at the same share of their epochs. Trials do not get the test
images.

Writes outputs/tuning/<framework>/<model>/: trials.csv, a row for each trial, and pictures. The table depends
only on seed, space, `--together`, data and code: not on `--jobs`, timing, or whether the search was killed.
Started again, the search continues after the trials in the table.
"""

import argparse
import csv
import io
import json
import shutil
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

from pydantic import Field, model_validator
from tqdm import tqdm

from apps import pictures, trials
from stages.common import dataset, files, params, results
from stages.console import command
from stages.console.errors import UserError, reading
from stages.evaluation import scores
from stages.pictures import style

SPACES = Path("tuning.yaml")
FOLDER = results.OUTPUTS / "tuning"
ENOUGH = 4
"""The least number of earlier trials for a median."""
COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"

Number = Annotated[int, Field(strict=True)] | params.Number


class Range(params.Section):
    """Numbers from `low` to `high`, both included; integers if both are.

    step: between neighbours, from `low` on. log: whether numbers are uniform on a logarithmic scale.
    """

    low: Number
    high: Number
    step: Number | None = None
    log: bool = False

    @model_validator(mode="after")
    def _make_sense(self) -> "Range":
        if not self.low < self.high:
            raise ValueError("low must be smaller than high")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError("log: true needs a low above 0, and no step")
        if self.step is not None:
            steps = (self.high - self.low) / self.step if self.step > 0 else 0.5
            if abs(steps - round(steps)) > 1e-9:
                raise ValueError("from low to high must be a whole number of steps above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether the numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)


Choices = Annotated[tuple[Any, ...], Field(min_length=2)]
Space = dict[str, Range | tuple[Any, ...]]
"""What is tried for each key of a model's entry."""


@dataclass(frozen=True)
class Row:
    """A line of trials.csv.

    accuracies: on the held-out images after each epoch, 0 to 1. values: of the space, by key. note: why it
    failed, or which trial it repeats.
    """

    trial: int
    state: str
    validation_accuracy: float | None
    validation_log_loss: float | None
    accuracies: tuple[float, ...]
    note: str
    values: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="framework/model")
    parser.add_argument("--trials", type=int, default=40, metavar="N", help="in all, earlier ones too (40)")
    parser.add_argument("--together", type=int, default=4, metavar="N", help="chosen at once (4)")
    parser.add_argument("--jobs", type=int, metavar="N", help="running at once; changes no result")
    parser.add_argument("--apply", action="store_true", help="write the best values into params.yaml")
    arguments = parser.parse_args()
    for option in ("trials", "together", "jobs"):
        if (number := getattr(arguments, option)) is not None and number < 1:
            raise UserError(f"--{option} is {number}; allowed: 1 and more")
    search = Search(arguments.model, arguments.together)
    search.folder.mkdir(parents=True, exist_ok=True)
    with trials.only_one(search.folder / "search.lock", f"{search.model} is being tuned"):
        rows = search.run(arguments.trials, arguments.jobs)
        draw(search, rows)
    report(search, rows, arguments.apply)


class Search:
    """A search for a model's parameters. together: the number of trials that are chosen at once."""

    def __init__(self, model: str, together: int):
        trials.make(model, {}, tests=False)  # raises if there is no such model
        self.model, self.together = model, together
        self.framework, self.name = model.split("/")
        self.entry = params.read(f"{self.framework}.{self.name}", dict)
        self.space = read_space(self.framework, self.name, self.entry)
        held_out = self.entry.get("validation") or params.content(params.PATH)["data"]["validation"]
        held_out = params.check("data.validation", held_out, params.Validation)
        if not held_out:
            raise UserError("params.yaml: data.validation is 0: no images are held out to judge trials by")
        self.always = {f"{self.framework}.{self.name}.validation": held_out}
        self.labels = dataset.load_training(held_out).validation_labels
        self.seed = params.read("seed", params.Seed)

    @property
    def folder(self) -> Path:
        """The folder of the table and the pictures."""
        return FOLDER / self.framework / self.name

    @property
    def group(self) -> str:
        """The group of its trials in trackers."""
        return f"tuning-{self.framework}-{self.name}"

    def key(self, key: str, values: dict[str, Any]) -> str:
        """The name of a key of the space in `dvc exp run -S`, if the model's entry has these values."""
        if not key.startswith("layers["):
            return f"{self.framework}.{self.name}.{key}"
        used = values.get("architecture", self.entry.get("architecture"))
        return f"{params.ARCHITECTURES}:{used}{key.removeprefix('layers')}"

    def trial(self, values: dict[str, Any], bars: dict[int, float]) -> trials.Trial:
        """The trial of these values. bars: see the method `bars`."""
        changes = {self.key(key, values): value for key, value in values.items()}
        return trials.make(self.model, changes | self.always, tests=False, bars=bars, group=self.group)

    def now(self) -> dict[str, Any]:
        """The values of the space's keys in params.yaml; None where it has none."""
        layers = params.content(params.ARCHITECTURES).get(self.entry.get("architecture"))
        return {key: trials.get(self.entry | {"layers": layers}, key) for key in self.space}

    def others(self) -> list[str]:
        """Other models of the same architecture."""
        content, mine = params.content(params.PATH), self.entry.get("architecture")
        keys = {model: f"{model.replace('/', '.')}.architecture" for model in trials.models(content)}
        same = [model for model, key in keys.items() if trials.get(content, key) == mine]
        return [model for model in same if model != self.model]

    def run(self, total: int, jobs: int | None) -> list[Row]:
        """Run the missing ones of `total` trials, and return all.

        Raises UserError if the table is of another search, or if all chosen trials have failed.
        """
        rows = self.load()
        with (
            trials.executor(jobs) as begin,
            tqdm(total=total, initial=min(total, len(rows)), desc=self.model, disable=None) as bar,
        ):
            show(bar, rows)
            for first in range(1, max(2, total), self.together):
                least = first if first > 1 else 0  # the unchanged model runs with the first trials
                wanted = list(range(least, min(total, first + self.together)))
                if rows.keys() >= set(wanted):
                    continue
                for row in self.run_together(begin, first, rows, wanted):
                    rows[row.trial] = row
                    self.save(rows)
                    bar.update()
                    show(bar, rows, row)
                chosen = [row for row in rows.values() if row.trial > 0] or [rows[0]]
                if all(row.state == FAILED for row in chosen):
                    raise UserError(chosen[0].note)
        return [rows[number] for number in range(total)]

    def run_together(
        self, begin: trials.Begin, first: int, rows: dict[int, Row], wanted: list[int]
    ) -> Iterator[Row]:
        """Run the wanted trials that are missing; yield rows as trials end. Equal values are tried once."""
        earlier = [rows[number] for number in range(first)] if first > 1 else []
        values = {row.trial: row.values for row in earlier}
        values |= dict(enumerate(self.choose(first, earlier), start=first))
        if first == 1:
            values = {0: self.now()} | values
        missing = [number for number in wanted if number not in rows]
        same = {number: next(n for n in values if values[n] == values[number]) for number in missing}
        new = [number for number in missing if same[number] == number]
        queue = [self.trial(values[n] if n else {}, self.bars(values[n], earlier)) for n in new]
        done = dict(rows)
        for place, result in trials.run_all(begin, queue):
            number = new[place]
            done[number] = self.judge(number, values[number], result)
            yield done[number]
        for number in missing:
            if (twin := done[same[number]]).trial != number:
                yield replace(twin, trial=number, note=twin.note or f"as trial {twin.trial}")

    def choose(self, first: int, earlier: list[Row]) -> list[dict[str, Any]]:
        """The values of the trials from `first` on, chosen by the results of the earlier ones.

        They depend on these alone: with a new sampler each time, interruptions make no difference.
        """
        optuna = load_optuna()
        distributions = {key: distribution(optuna, choice) for key, choice in self.space.items()}
        sampler = optuna.samplers.TPESampler(
            seed=self.seed * 100_003 + first, n_startup_trials=2 * self.together
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for row in earlier:
            if known := as_trial(optuna, row, self.space, distributions):
                study.add_trial(known)
        asked = [study.ask(distributions).params for _ in range(self.together)]
        return [{key: decoded(self.space[key], value) for key, value in one.items()} for one in asked]

    def bars(self, values: dict[str, Any], earlier: list[Row]) -> dict[int, float]:
        """By epoch, the accuracy below which a trial of these values ends; none for the last epoch."""
        epochs = int(values.get("epochs") or self.entry.get("epochs", 0))  # params.yaml may say 3.0
        curves = [row.accuracies for row in earlier if row.state == COMPLETE]
        found = {}
        for epoch in range(1, epochs):
            shares = ((curve, epoch * len(curve) // epochs) for curve in curves)
            then = [curve[done - 1] for curve, done in shares if done]
            if len(then) >= max(ENOUGH, self.together):
                found[epoch] = statistics.median(then)
        return found

    def judge(self, number: int, values: dict[str, Any], result: trials.Result) -> Row:
        """The row of a finished trial."""
        accuracies = tuple(round(epoch["validation_accuracy"], 6) for epoch in result.history)
        state = FAILED if result.failure else PRUNED if result.ended else COMPLETE
        accuracy = loss = None
        if state == COMPLETE:
            probabilities = result.validation()
            accuracy = round(scores.accuracy(self.labels, probabilities), 6)
            loss = round(scores.log_loss(self.labels, probabilities), 6)
        return Row(number, state, accuracy, loss, accuracies, result.failure or "", values)

    def load(self) -> dict[int, Row]:
        """The earlier trials by number. Raises UserError if they are of another search."""
        now = asdict(self.trial({}, {})) | {
            "space": {key: repr(choice) for key, choice in self.space.items()},
            "together": self.together,
        }
        now = json.loads(json.dumps(now))
        path, table = self.folder / "search.json", self.folder / "trials.csv"
        if not table.is_file():
            files.write_json(path, now)
            return {}
        with reading(path, "does not describe a search", remedy=f"rm -r {self.folder}"):
            then = json.loads(path.read_text(encoding="utf-8"))
            if other := [key for key in now if then.get(key) != now[key]]:
                raise UserError(
                    f"{table} is of a search with other {', '.join(other)}: `rm -r {self.folder}` starts over"
                )
        with reading(table, "holds no trials", remedy=f"rm -r {self.folder}"):
            return {row.trial: row for row in read_rows(table.read_text(encoding="utf-8"), list(self.space))}

    def save(self, rows: dict[int, Row]) -> None:
        """Replace the table in one step: a killed search leaves the old or the new one."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*COLUMNS, *self.space])
        for _, row in sorted(rows.items()):
            curve = " ".join(map(str, row.accuracies))
            values = (json.dumps(row.values[key]) for key in self.space)
            figures = row.validation_accuracy, row.validation_log_loss  # None becomes an empty cell
            writer.writerow([row.trial, row.state, *figures, curve, row.note, *values])
        files.write_text(partial := self.folder / "trials.partial.csv", text.getvalue())
        partial.replace(self.folder / "trials.csv")


COLUMNS = ("trial", "state", "validation_accuracy", "validation_log_loss", "accuracies", "note")


def read_rows(text: str, keys: Sequence[str]) -> Iterator[Row]:
    """The rows of a trials.csv, given as text. Raises one of errors.DAMAGE if it is something else."""
    for cells in csv.DictReader(io.StringIO(text)):
        accuracy, loss = (float(cells[name]) if cells[name] else None for name in COLUMNS[2:4])
        yield Row(
            trial=int(cells["trial"]),
            state=cells["state"],
            validation_accuracy=accuracy,
            validation_log_loss=loss,
            accuracies=tuple(map(float, cells["accuracies"].split())),
            note=cells["note"],
            values={key: json.loads(cells[key]) for key in keys},
        )


def read_space(framework: str, name: str, entry: dict[str, Any]) -> Space:
    """What tuning.yaml says to try for a model. Raises UserError if it says nothing, or something wrong."""
    content = params.content(SPACES)
    where = f"{framework}.{name}"
    found = (content.get(framework) or {}).get(name)
    if found is None and "architecture" in entry:
        where, found = "networks", content.get("networks")
    if not found:
        raise UserError(
            f"{SPACES} has no {framework}.{name}: it should hold the keys to try, and their values"
        )
    found = params.check(where, found, dict[str, Any], SPACES)
    return {
        key: params.check(f"{where}.{key}", value, Range if isinstance(value, dict) else Choices, SPACES)
        for key, value in found.items()
    }


def load_optuna() -> Any:
    """Optuna, which only a search needs. Raises UserError if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError("a search needs Optuna: `make tuning` installs it") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def distribution(optuna: Any, choice: Range | tuple[Any, ...]) -> Any:
    """A key's values for Optuna; those of a list by their indices, because they may be of any type."""
    if isinstance(choice, tuple):
        return optuna.distributions.CategoricalDistribution(range(len(choice)))
    if choice.whole:
        return optuna.distributions.IntDistribution(choice.low, choice.high, choice.log, choice.step or 1)
    return optuna.distributions.FloatDistribution(choice.low, choice.high, choice.log, choice.step)


def decoded(choice: Range | tuple[Any, ...], value: Any) -> Any:
    """Optuna's value as params.yaml has it: numbers without a step have three significant digits."""
    if isinstance(choice, tuple):
        return choice[value]
    if choice.whole:
        return value
    if choice.step is not None:  # no other number: Optuna would not know the trial again
        return float(f"{value:.12g}")
    return min(max(float(f"{value:.3g}"), choice.low), choice.high)


def as_trial(optuna: Any, row: Row, space: Space, distributions: dict[str, Any]) -> Any:
    """A row as Optuna's trial; None if its values, as those of params.yaml may, lie outside the space."""
    complete = row.state == COMPLETE
    states = optuna.trial.TrialState
    try:
        return optuna.trial.create_trial(
            state=states.COMPLETE if complete else states.PRUNED,
            value=row.validation_accuracy,
            params={
                key: choice.index(row.values[key]) if isinstance(choice, tuple) else row.values[key]
                for key, choice in space.items()
            },
            distributions=distributions,
            intermediate_values=dict(enumerate(row.accuracies, start=1)) if row.state == PRUNED else {},
        )
    except (ValueError, TypeError):
        return None


def best(rows: Iterable[Row]) -> Row | None:
    """The row with the highest accuracy; among equal ones, the lowest log loss decides, then the order."""
    complete = [row for row in rows if row.state == COMPLETE]
    return max(complete, key=lambda row: (row.validation_accuracy, -row.validation_log_loss), default=None)


def show(bar: tqdm, rows: dict[int, Row], row: Row | None = None) -> None:
    """Show the best trial so far beside the bar; without a terminal, print a line for the ended trial."""
    leader = best(rows.values())
    so_far = f"best {leader.validation_accuracy:.2%} (trial {leader.trial})" if leader else ""
    bar.set_postfix_str(so_far)
    if bar.disable and row:
        accuracy = f"{row.validation_accuracy:.2%}" if row.state == COMPLETE else row.state
        print(f"trial {row.trial}: {accuracy}; {so_far}", flush=True)


def draw(search: Search, rows: list[Row]) -> None:
    """Write the pictures: the course of the search and, if there are enough trials, the importances."""
    style.save(search.folder / "course.png", partial(pictures.draw_course, search.model, rows))
    weights = importances(search.space, rows)
    if len(weights) < 2:
        return
    style.save(search.folder / "importance.png", partial(pictures.draw_importance, search.model, weights))
    first, second, *_ = weights
    pair = partial(pictures.draw_pair, search.model, rows, search.space, first, second)
    style.save(search.folder / "pair.png", pair)


def importances(space: Space, rows: list[Row]) -> dict[str, float]:
    """The importance of each key, its share in the differences of accuracy, the largest first.

    Empty if fewer than ENOUGH different accuracies are known.
    """
    optuna = load_optuna()
    study = optuna.create_study(direction="maximize")
    distributions = {key: distribution(optuna, choice) for key, choice in space.items()}
    known = [as_trial(optuna, row, space, distributions) for row in rows if row.state == COMPLETE]
    study.add_trials([one for one in known if one])
    if len({one.value for one in study.trials}) < ENOUGH:
        return {}
    return optuna.importance.get_param_importances(study)


def report(search: Search, rows: list[Row], apply: bool) -> None:
    """Print the best trial and, with `apply`, write its values into params.yaml and architectures.yaml."""
    now, winner = rows[0], best(rows)
    if winner is None:
        raise UserError(f"none of {len(rows)} trials was completed")
    had = f"{now.validation_accuracy:.2%}" if now.state == COMPLETE else now.state
    print(
        f"{search.model}: trial {winner.trial} of {len(rows)} is the best, {winner.validation_accuracy:.2%} "
        f"of {len(search.labels):,} held-out images; with the values in params.yaml: {had}. The best of many "
        "looks slightly better than it is."
    )
    changes = {key: value for key, value in winner.values.items() if value != now.values[key]}
    if not changes or winner is now:
        print("params.yaml has these values already")
        return
    for key, value in changes.items():
        full = search.key(key, winner.values)
        print(f"  {full}: {json.dumps(now.values[key])} → {json.dumps(value)}")
    if apply:
        write({search.key(key, winner.values): value for key, value in changes.items()})
    if any(key.startswith("layers[") for key in changes) and (others := search.others()):
        print(f"  these models have the same architecture and will be trained again: {', '.join(others)}")
    if apply:
        print(f"written; `dvc repro train_{search.framework}@{search.name}` trains it")
    else:
        print("--apply writes them")
    print(f"trials and pictures: {search.folder}")


def write(changes: dict[str, Any]) -> None:
    """Change values in params.yaml and architectures.yaml as DVC does, leaving the other lines alone.

    Each file is replaced in one step. Raises UserError if more than these values would change.
    """
    from dvc.utils.serialize import modify_yaml

    files_of: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        path, _, rest = key.rpartition(":")
        files_of.setdefault(path or str(params.PATH), {})[rest] = value
    partials = {path: Path(path).resolve().with_suffix(".partial.yaml") for path in files_of}
    try:
        for path, values in files_of.items():
            wanted = json.loads(_plain(params.content(Path(path))))  # of which nothing is shared
            shutil.copy2(path, partials[path])
            with modify_yaml(str(partials[path])) as content:
                for key, value in values.items():
                    trials.put(wanted, key, value, path)
                    trials.put(content, key, value, path)
            if _plain(params.parse(partials[path].read_text(encoding="utf-8"))) != _plain(wanted):
                raise UserError(f"{path}: & and * let other models share these values: write them out")
        for path, partial in partials.items():
            partial.replace(Path(path).resolve())
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def _plain(content: dict[str, Any]) -> str:
    return json.dumps(content, default=str)


if __name__ == "__main__":
    command.run(main)
