"""Results are written whole or not at all, and read with every check."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import Hostile, python

from stages.common import files
from stages.console.errors import UserError, reading


def leave(folder: Path, content: str) -> None:
    """Write as a training stage does: a folder of two files, and files in other folders."""
    with files.replacing(folder / "models/cnn", folder / "array/cnn.npy", folder / "cnn.json") as partials:
        model, *others = partials
        model.mkdir()
        for path in (model / "model.json", model / "weights", *others):
            path.write_text(content)
            assert content != "half"


def left(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


WHOLE = ["cnn.json", "models/cnn/model.json", "models/cnn/weights", "array/cnn.npy"]
MOVES = 6
"""Three results are put aside, three take their places."""


def at_move(number: int, act) -> None:
    """Let `act` happen instead of the move with this number, counted from now."""
    move, numbers = Path.replace, iter(range(1, 100))
    Path.replace = lambda path, target: act() if next(numbers) == number else move(path, target)


def die_at_every_move(folder: Path) -> None:
    """Run in a process of its own: for every move a child that is killed there."""
    for number in range(1, MOVES + 2):
        leave(folder / str(number), "old")
        if os.fork() == 0:
            at_move(number, lambda: os._exit(9))
            leave(folder / str(number), "new")
            os._exit(0)
        _, status = os.wait()
        assert os.waitstatus_to_exitcode(status) == (9 if number <= MOVES else 0)


def test_after_a_kill_between_two_moves_nothing_is_half_there_or_new_beside_old(tmp_path):
    code = f"import pathlib, test_files; test_files.die_at_every_move(pathlib.Path({str(tmp_path)!r}))"
    python(code, PYTHONPATH=f"tests{os.pathsep}.")
    for number in range(1, MOVES + 2):
        folder = tmp_path / str(number)
        found = {name: text for name, text in left(folder).items() if ".partial" not in name}
        assert len(set(found.values())) <= 1, f"killed at move {number}: {found}"
        assert ("models/cnn/model.json" in found) == ("models/cnn/weights" in found)
        leave(folder, "again")
        assert left(folder) == dict.fromkeys(WHOLE, "again"), "the next run clears what the killed one left"


@pytest.mark.parametrize("number", range(MOVES + 1))
def test_if_a_block_or_a_move_fails_everything_is_as_before(tmp_path, monkeypatch, number):
    monkeypatch.setattr(Path, "replace", Path.replace)  # undoes what `at_move` does
    leave(tmp_path, "old")
    at_move(number, lambda: Path("missing").stat())
    with pytest.raises((OSError, AssertionError)):
        leave(tmp_path, "new" if number else "half")
    assert left(tmp_path) == dict.fromkeys(WHOLE, "old")
    leave(tmp_path, "new")
    assert left(tmp_path) == dict.fromkeys(WHOLE, "new")


def npy(array: np.ndarray) -> bytes:
    np.save(content := io.BytesIO(), array)
    return content.getvalue()


ARRAY = np.arange(30, dtype=np.float32).reshape(3, 10)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (npy(ARRAY)[:-1], "is no .npy file of numbers"),
        (npy(ARRAY) + b"x", "is damaged: it has data after the end of the array"),
        (b"", "is no .npy file of numbers"),
        (b"PK" + npy(ARRAY)[2:], "is no .npy file of numbers"),
        (npy(np.array([Hostile()], object)), "is no .npy file of numbers"),
        (npy(np.zeros((3, 10))), r"holds float64 \(3, 10\), not float32 \(n, 10\)"),
        (npy(ARRAY[:, :9]), r"holds float32 \(3, 9\), not float32 \(n, 10\)"),
        (npy(ARRAY[0]), r"holds float32 \(10,\), not float32 \(n, 10\)"),
        (npy(ARRAY.astype(">f4")), r"holds >f4 \(3, 10\), not float32 \(n, 10\)"),
    ],
)
def test_a_damaged_array_or_another_one_is_refused_by_name(tmp_path, content, complaint):
    path = tmp_path / "new/a.npy"
    files.write_array(path, ARRAY)
    np.testing.assert_array_equal(files.load_array(path, np.float32, (None, 10)), ARRAY)
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.npy {complaint}"):
        files.load_array(path, np.float32, (None, 10))


def test_a_missing_file_says_how_it_is_made_and_one_that_may_not_be_read_is_not_called_damaged(tmp_path):
    with pytest.raises(UserError, match="missing: `dvc repro` makes it"):
        files.load_array(tmp_path / "a.npy", np.float32, (None, 10))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        files.load_array(tmp_path / "file/a.npy", np.float32, (2,))
    assert caught.value.filename == str(tmp_path / "file/a.npy")
    for error in (PermissionError, AttributeError, NameError, ImportError, AssertionError):
        with pytest.raises(error), reading(Path("a.json"), "does not describe a model"):
            raise error
