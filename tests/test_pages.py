"""Tables of measurements: what is measured anew, what stays, and what is read of them."""

from dataclasses import asdict, replace
from itertools import count

import pytest
from conftest import edit_json

from stages.console.errors import UserError
from tools import bench, pages, processors, projects, published

SECONDS = 2.0, 1.5, 3.0, 0.25, 0.2, 0.3, 1.2
OTHERS = 12345, None, None, 1234, 7960, None, 100.0, 0.125
SPEED = bench.Row(
    "pytorch/linear", "a machine", 1, "abc", "linear", 5, 100, 0.925, 0.0012, 0.93, 0.02, *SECONDS, *OTHERS
)
FOUND = {"fingerprint": "0123456789ab", "portable_haswell": "identical", "portable_milan": "1e-07"}
FOUND |= {"fast_haswell": "2e-07", "fast_milan": "3e-07"}
COST = {"fast_seconds": 2.0, "cost": 1.25, "cost_low": 1.125, "cost_high": 1.5}
BITS = processors.Row("pytorch/linear", **FOUND, **COST, machine="a machine", emulator="QEMU 10.0")
PROGRAM = published.Row("pytorch/examples, `mnist`", 10, 0.9912, 300.0, 200.0, "a machine")


@pytest.fixture
def measured(workspace, monkeypatch):
    """What takes minutes gives made-up rows instead, numbered."""
    (workspace / "docs").mkdir()
    edit_json(workspace / "data/dataset.json", name="mnist")
    numbers = count(1)

    def costs(_, chosen):
        return {model: COST | {"cost": next(numbers)} for model in chosen}

    for owner, name, made in (
        (bench, "run", lambda *_: None),
        (bench, "measure", lambda model, seeds: replace(SPEED, model=model, seeds=next(numbers))),
        (bench, "missing", lambda models, seeds: models),
        (published, "measure", lambda name: replace(PROGRAM, name=name, epochs=next(numbers))),
        (processors.shutil, "which", lambda name: name),
        (processors, "emulator_version", lambda: "10.0"),
        (processors, "compare_processors", lambda _, chosen: dict.fromkeys(chosen, FOUND)),
        (processors, "compare_profiles", costs),
    ):
        monkeypatch.setattr(owner, name, made)


@pytest.mark.parametrize(
    ("tool", "number", "argument", "chosen"),
    [
        (bench, "seeds", "scratch/cnn", ["scratch/cnn"]),
        (processors, "cost", "scratch/cnn", ["scratch/cnn"]),
        (published, "epochs", "pytorch", [name for name in published.PROGRAMS if name[0] in "p“"]),
    ],
)
def test_what_is_named_is_measured_and_the_others_keep_their_rows(
    measured, run_main, tool, number, argument, chosen
):
    everything = list(published.PROGRAMS) if tool is published else projects.models()
    for arguments in ([argument], [], [argument]):
        run_main(tool, *arguments)
    rows = [asdict(row) for row in pages.read_rows(tool.TABLE, tool.Row)]
    numbers = {next(iter(row.values())): row[number] for row in rows}
    expected = dict(zip(everything, count(len(chosen) + 1), strict=False))
    expected |= dict(zip(chosen, count(len(chosen) + len(everything) + 1), strict=False))
    assert list(numbers.items()) == list(expected.items())


@pytest.mark.parametrize("tool", [bench, processors])
def test_an_unknown_model_is_refused_before_anything_runs(measured, run_main, tool):
    with pytest.raises(UserError, match=r"pytorch/lienar unknown; params\.yaml has pytorch/"):
        run_main(tool, "pytorch/lienar")
    assert not tool.TABLE.exists()


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [SPEED, replace(SPEED, model="x/y", accuracy_sd=None)]
    pages.write_rows(path := tmp_path / "speed.csv", rows)
    assert pages.read_rows(path, bench.Row) == rows


def kept() -> list[tuple[str, str, str | None, int]]:
    """What docs/speed.csv holds."""
    rows = pages.read_rows(bench.TABLE, bench.Row)
    return [(row.model, row.machine, row.recipe, row.seeds) for row in rows]


def test_a_machine_adds_its_rows_and_another_recipe_takes_the_place_of_all(measured):
    here, there = replace(SPEED, seeds=3), replace(SPEED, machine="another")
    for row in (replace(SPEED, model="scratch/cnn"), here, there, replace(here, seeds=10)):
        bench.keep(row)
    cnn = ("scratch/cnn", "a machine", "abc", 5)
    linear = ("pytorch/linear", "a machine", "abc", 10), ("pytorch/linear", "another", "abc", 5)
    assert kept() == [*linear, cnn]
    bench.keep(replace(here, recipe="def"))
    assert kept() == [("pytorch/linear", "a machine", "def", 3), cnn]


def test_a_benchmark_goes_on_with_what_this_machine_has_not_measured_so_well(workspace):
    (workspace / "docs").mkdir()
    model, other, *_ = projects.models()
    done = replace(SPEED, model=model, machine=pages.this_machine(), recipe=bench.recipe(model))
    assert bench.missing([model, other], 5) == [model, other]
    bench.keep(done)
    assert bench.missing([model, other], 5) == [other]
    for worse in ({"seeds": 4}, {"machine": "another"}, {"recipe": "other"}, {"calibration_error": None}):
        pages.write_rows(bench.TABLE, [replace(done, **worse)])
        assert bench.missing([model], 5) == [model], worse


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (0.99423, 0.00044, "99.42 ± 0.04"),
        (0.99033, 0.00127, "99.0 ± 0.1"),
        (0.7317, 0.09, "73 ± 9"),
        (0.9705, 0.0, "97.05 ± 0.00"),
        (0.9923, None, "99.23"),
    ],
)
def test_an_accuracy_has_no_more_digits_than_its_spread_allows(mean, sd, text):
    assert bench.percent(replace(SPEED, accuracy_mean=mean, accuracy_sd=sd)) == text


def test_the_table_of_results_takes_accuracies_from_the_fullest_row_and_seconds_from_each_machine():
    old = replace(SPEED, machine="old", seeds=10, accuracy_mean=0.5, calibration_error=None, side_by_side=2)
    other = replace(old, model="scratch/cnn", accuracy_mean=0.96)
    assert bench.results_table([SPEED, old, other]).splitlines()[2:] == [
        "| `scratch/cnn` | 10 | 96.0 ± 0.1 | 90.2 – 98.4 | 93.0 |  | 7,960 | 2.0\\* |  |",
        "| `pytorch/linear` | 5 | 92.5 ± 0.1 | 85.0 – 95.9 | 93.0 | 2.0 | 7,960 | 2.0\\* | 2.0 |",
    ]
    bare = replace(SPEED, validation_accuracy=None, calibration_error=None)
    assert "validation" not in bench.results_table([bare]), "no empty columns"
