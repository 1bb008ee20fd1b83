"""Tables of measurements: what is measured anew, what stays, and what is read of them."""

from dataclasses import asdict, replace
from itertools import count

import pytest
from conftest import edit_json

from stages.console.errors import UserError
from tools import bench, pages, processors, projects, published

SECONDS = 2.0, 1.5, 3.0, 0.25, 0.2, 0.3, 1.2
OTHERS = 12345, None, None, 1234, 7960, None, 100.0, 0.125, "a machine"
SPEED = bench.Row("pytorch/linear", 5, 0.925, 0.0012, *SECONDS, *OTHERS)
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
        (published, "epochs", "pytorch", ["pytorch/examples, `mnist`", "R2's network and recipe"]),
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
