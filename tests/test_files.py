import json

import numpy as np
import pytest

from stages.common import files
from stages.common.command import UserError


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    with files.replacing(path) as partial:
        files.write_json(partial, {"good": 1})
    with pytest.raises(TypeError), files.replacing(path) as partial:
        files.write_json(partial, {"bad": object()})
    with pytest.raises(RuntimeError), files.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"good": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "tables"
    for name in ("old", "new"):
        with files.replacing(folder) as partial:
            partial.mkdir()
            (partial / name).write_text(name)
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_several_files_appear_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    with pytest.raises(TypeError), files.replacing_all() as partial:
        files.write_json(partial(first), {"good": 1})
        assert not first.exists()
        files.write_json(partial(second), {"bad": object()})
    assert list(tmp_path.iterdir()) == []
    with files.replacing_all() as partial:
        files.write_json(partial(first), {"good": 1})
        files.write_json(partial(second), {"good": 2})
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_what_a_killed_run_left_is_cleared(tmp_path):
    (tmp_path / "result.partial.json").write_text("half")
    with files.replacing(tmp_path / "result.json") as partial:
        files.write_json(partial, {"good": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_an_array_comes_back(tmp_path):
    array = np.arange(20, dtype=np.float32).reshape(2, 10)
    files.write_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(files.load_array(tmp_path / "a.npy", np.float32, (None, 10)), array)


def written(path):
    files.write_array(path, np.zeros((3, 10), np.float32))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("alter", "complaint"),
    [
        (lambda content: content[:-1], "no .npy file"),
        (lambda content: content + b"x", "goes on after its array's end"),
        (lambda content: b"", "no .npy file"),
        (lambda content: b"PK" + content[2:], "no .npy file"),
    ],
)
def test_a_damaged_array_is_refused_by_name(tmp_path, alter, complaint):
    path = tmp_path / "a.npy"
    path.write_bytes(alter(written(path)))
    with pytest.raises(UserError, match=rf"a\.npy.*{complaint}|a\.npy {complaint}"):
        files.load_array(path, np.float32, (3, 10))


@pytest.mark.parametrize("array", [np.zeros((3, 10)), np.zeros((3, 9), np.float32), np.zeros(3, np.float32)])
def test_an_array_of_another_type_or_shape_is_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=r"a\.npy holds .* not float32 \(n, 10\)"):
        files.load_array(tmp_path / "a.npy", np.float32, (None, 10))


def test_an_array_of_another_byte_order_is_named_as_such(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(2, ">f4"))
    with pytest.raises(UserError, match=r"a\.npy holds >f4 \(2,\), not float32 \(2\)"):
        files.load_array(tmp_path / "a.npy", np.float32, (2,))


def test_what_may_not_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        files.load_array(tmp_path / "file" / "a.npy", np.float32, (2,))
    assert caught.value.filename == str(tmp_path / "file" / "a.npy")
    with pytest.raises(PermissionError) as caught, files.reading(tmp_path / "b.h5", "is no file"):
        raise PermissionError(13, "Permission denied")
    assert caught.value.filename == str(tmp_path / "b.h5")


def test_a_pickle_in_an_array_is_not_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path / "executed").mkdir, ()

    np.save(tmp_path / "a.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"a\.npy"):
        files.load_array(tmp_path / "a.npy", np.float32, (None, 10))
    assert not (tmp_path / "executed").exists()


def test_a_missing_array_says_how_it_is_made(tmp_path):
    with pytest.raises(UserError, match="missing: `dvc repro` makes it"):
        files.load_array(tmp_path / "a.npy", np.float32, (None, 10))
