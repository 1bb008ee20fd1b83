"""Tuning: a search that is resumed is the search that was not interrupted, and it sees no test image."""

import difflib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import MODELS, ROOT, command, edit_params
from test_trials import until

from apps import trials, tune
from stages.common import params
from stages.console.errors import UserError

pytest.importorskip("optuna", reason="Optuna comes with `make tuning`")

MODEL = "scratch/mlp_relu"
SPACE = {
    "networks": {
        "learning_rate": {"low": 0.0001, "high": 0.01, "log": True},
        "batch_size": [20, 40],
        "epochs": {"low": 2, "high": 4},
        "layers[0].dense": {"low": 4, "high": 64, "step": 4},
    }
}


@pytest.fixture(autouse=True)
def _searchable(workspace, monkeypatch):
    monkeypatch.delenv(trials.SCHEDULER, raising=False)
    edit_params(workspace, "threads", 1)
    write_space(SPACE)


def write_space(content: object) -> None:
    tune.SPACES.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    params.content.cache_clear()


def tuned(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return command(project, "apps.tune", MODEL, *options, PYTHONPATH=str(ROOT))


def table(project: Path) -> Path:
    return project / tune.FOLDER / MODEL / "trials.csv"


def test_a_killed_search_ends_with_the_table_of_an_undisturbed_one_and_without_test_images(
    workspace, tmp_path_factory
):
    for path in Path("data").glob("test_*"):
        path.unlink()
    other = tmp_path_factory.mktemp("killed") / "project"
    shutil.copytree(workspace, other)
    run = tuned(workspace, "--trials", "18", "--jobs", "1")
    assert run.returncode == 0, run.stderr
    expected = table(workspace).read_text()
    rows = list(tune.read_rows(expected, list(SPACE["networks"])))
    assert [row.trial for row in rows] == list(range(18))
    assert {row.state for row in rows} >= {tune.COMPLETE, tune.PRUNED}, "some end early"
    assert {path.name for path in table(workspace).parent.glob("*.png")} == {
        "course.png",
        "importance.png",
        "pair.png",
    }

    call = [sys.executable, "-m", "apps.tune", MODEL, "--trials", "12", "--jobs", "2"]
    environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(other.parent)}
    with subprocess.Popen(call, cwd=other, env=environment) as process:
        until(lambda: table(other).is_file() and len(table(other).read_text().splitlines()) > 7)
        process.kill()
    until(lambda: list(other.parent.iterdir()) == [other])
    assert 7 < len(table(other).read_text().splitlines()) < 13
    assert tuned(other, "--trials", "18", "--jobs", "2").returncode == 0
    assert table(other).read_text() == expected


def test_equal_values_are_tried_once(workspace):
    write_space({"networks": {"batch_size": [20, 40]}})
    rows = tune.Search(MODEL, 4).run(6, 1)
    assert [row.note for row in rows if not row.note] == ["", ""]
    for row in rows:
        first = next(one for one in rows if one.values == row.values)
        assert row.note == ("" if row is first else f"as trial {first.trial}")
        assert row.validation_accuracy == first.validation_accuracy


def row(trial: int, accuracy: float | None, *accuracies: float, **values: object) -> tune.Row:
    state = tune.COMPLETE if accuracy is not None else tune.PRUNED
    return tune.Row(trial, state, accuracy, accuracy and 1 - accuracy, accuracies, "", values)


def test_a_bar_is_the_median_at_the_same_share_of_the_epochs_of_enough_complete_trials(workspace):
    search = tune.Search(MODEL, 4)
    earlier = [row(n, 0.9, 0.1 * n, 0.2 * n) for n in range(1, 5)]  # two epochs each
    earlier.append(row(5, None, 0.99))
    found = search.bars({"epochs": 4}, earlier)
    assert found == pytest.approx({2: 0.25, 3: 0.25}), "after one of four nobody is half done"
    assert search.bars({"epochs": 4}, earlier[1:]) == {}, "three complete ones are too few"
    assert search.bars({"epochs": 1}, earlier) == {}, "a trial that is done need not end early"


def test_the_best_has_the_highest_accuracy_then_the_lowest_loss():
    rows = [row(0, 0.98), row(1, 0.99), row(2, 0.99), row(3, None, 1.0)]
    assert tune.best(rows).trial == 1
    rows[2] = tune.Row(2, tune.COMPLETE, 0.99, 0.001, (), "", {})
    assert tune.best(rows).trial == 2
    assert tune.best(rows[3:]) is None


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("pytorch.cnn_dropout.learning_rate", 0.00321, "params.yaml"),
        ("pytorch.cnn_dropout.learning_rate", 1e-05, "params.yaml"),
        ("sklearn.logistic_regression.arguments.steps[1][1].arguments.C", 0.7, "params.yaml"),
        ("architectures.yaml:cnn_dropout[3].conv.filters", 48, "architectures.yaml"),
    ],
)
def test_what_won_is_written_as_one_changed_line(workspace, key, value, name):
    for path in ("params.yaml", "architectures.yaml"):
        shutil.copy(ROOT / path, path)
    before = Path(name).read_text().splitlines()
    tune.write({key: value})
    after = Path(name).read_text().splitlines()
    changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert len(changed) == 2, changed
    params.content.cache_clear()
    assert trials.get(params.content(Path(name)), key.rpartition(":")[2]) == value


def test_values_that_other_models_share_are_not_written(workspace):
    text = "pytorch:\n  one: &same\n    learning_rate: 0.1\n  two: *same\n"
    Path("params.yaml").write_text(text)
    params.content.cache_clear()
    with pytest.raises(UserError, match=r"params\.yaml: & and \* let other models share these values"):
        tune.write({"pytorch.one.learning_rate": 0.2})
    assert Path("params.yaml").read_text() == text
    assert not list(Path().glob("*.partial.yaml"))


def test_if_a_value_cannot_be_written_none_is(workspace):
    before = Path("params.yaml").read_bytes()
    with pytest.raises(UserError, match=r"scratch\.no_such\.epochs is missing"):
        tune.write({"scratch.mlp_relu.epochs": 9, "scratch.no_such.epochs": 9})
    assert Path("params.yaml").read_bytes() == before
    assert not list(Path().glob("*.partial.yaml"))


def test_a_value_of_a_range_with_steps_is_one_that_the_search_knows_again():
    optuna = pytest.importorskip("optuna")
    choice = tune.Range(low=0, high=1, step=0.0625)
    known = tune.distribution(optuna, choice)
    value = tune.decoded(choice, 0.1875)
    assert value == 0.1875
    assert tune.as_trial(optuna, row(0, 0.9, rate=value), {"rate": choice}, {"rate": known}) is not None


def test_apply_writes_the_winner_and_the_search_says_what_it_changed(workspace, monkeypatch, capsys):
    edit_params(workspace, "scratch.mlp_relu.learning_rate", 1e-5)
    params.content.cache_clear()
    monkeypatch.setattr(sys, "argv", ["tune", MODEL, "--trials", "6", "--jobs", "1", "--apply"])
    tune.main()
    printed = capsys.readouterr().out
    rows = list(tune.read_rows(table(workspace).read_text(), list(SPACE["networks"])))
    winner = tune.best(rows)
    assert winner.validation_accuracy > rows[0].validation_accuracy
    assert f"trial {winner.trial} of 6 is the best, {winner.validation_accuracy:.2%} of 40" in printed
    assert f"scratch.mlp_relu.learning_rate: 1e-05 → {winner.values['learning_rate']}" in printed
    assert "will be trained again: pytorch/mlp, scratch/mlp_relu_augmented" in printed
    params.content.cache_clear()
    assert params.read("scratch.mlp_relu.learning_rate", float) == winner.values["learning_rate"]
    layers = params.read("mlp_relu", list, params.ARCHITECTURES)
    assert layers[0]["dense"] == winner.values["layers[0].dense"]
    with pytest.raises(UserError, match="is of a search with other params, architectures"):
        tune.main()


def test_two_searches_of_a_model_at_once_are_refused(workspace, monkeypatch):
    folder = tune.Search(MODEL, 4).folder
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["tune", MODEL])
    running = trials.only_one(folder / "search.lock", "this")
    with running, pytest.raises(UserError, match="scratch/mlp_relu is being tuned by another process"):
        tune.main()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, r"tuning\.yaml has no scratch\.mlp_relu"),
        (
            {"learning_rate": {"low": 1, "high": 0.1}},
            r"networks\.learning_rate.*low must be smaller than high",
        ),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "log: true needs a low above 0"),
        ({"learning_rate": {"low": 0, "high": 1, "step": 0.3}}, "a whole number of steps"),
        (
            {"learning_rate": {"lwo": 0, "high": 1}},
            r"networks\.learning_rate\.lwo is unknown; allowed: high, ",
        ),
        ({"batch_size": [20]}, r"networks\.batch_size is \[20\]"),
        ({"batch_size": 20}, r"networks\.batch_size is 20"),
        ({"epochs.first": [1, 2]}, r"scratch\.mlp_relu\.epochs\.first is missing"),
        ({"learning_rat": [1, 2]}, "learning_rat is unknown; allowed: "),
    ],
)
def test_a_wrong_space_is_named_in_one_line(workspace, space, message):
    write_space({"networks": space})
    with pytest.raises(UserError, match=message):
        tune.Search(MODEL, 2).run(3, 1)


def test_without_optuna_one_line_says_how_to_install_it(workspace):
    code = "import sys; sys.modules['optuna'] = None; from apps import tune; tune.load_optuna()"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "UserError: a search needs Optuna: `make tuning` installs it" in run.stderr


@pytest.mark.slow
def test_the_commands_of_the_document_run(workspace):
    blocks = (ROOT / "docs" / "tuning.md").read_text().split("```sh\n")[1:]
    lines = [line.split("#")[0].strip() for block in blocks for line in block.split("```")[0].splitlines()]
    searches = [line.split()[3:] for line in lines if line.startswith(f"python -m apps.tune {MODEL}")]
    assert searches == [[MODEL, "--trials", "20"], [MODEL, "--trials", "20", "--apply"]]
    for options in searches:
        run = tuned(workspace, *options[1:])
        assert run.returncode == 0, run.stderr
    assert "written; `dvc repro train_scratch@mlp_relu` trains it" in run.stdout or "already" in run.stdout


OPTIONAL = "label_smoothing", "augmentation"
"""Keys that a network's entry may leave out."""


@pytest.mark.parametrize("framework", MODELS)
def test_the_shipped_spaces_name_keys_that_their_models_have(workspace, framework):
    for path in ("params.yaml", "architectures.yaml", "tuning.yaml"):
        shutil.copy(ROOT / path, path)
    params.content.cache_clear()
    for name in MODELS[framework]:
        search = tune.Search(f"{framework}/{name}", 4)
        assert {key for key, value in search.now().items() if value is None} <= set(OPTIONAL)
        for place in (0, -1):
            values = {
                key: choice[place] if isinstance(choice, tuple) else (choice.low, choice.high)[place]
                for key, choice in search.space.items()
            }
            search.trial(values, {})
