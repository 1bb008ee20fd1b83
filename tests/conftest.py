"""A tiny data set, and copies of the project to run it in."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

os.environ["GOMP_SPINCOUNT"] = "0"  # threads that spin would keep the other worker waiting

import numpy as np
import pytest
import yaml
from filelock import FileLock
from safetensors.numpy import save_file

from stages.common import dataset, params, results
from stages.common.frameworks import FRAMEWORKS

ROOT = Path(__file__).parent.parent
TRAIN, TEST = 400, 100
IDX_NAMES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # as environment.prepare sets it
for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # a `make` that a test calls is no part of `make test`
    os.environ.pop(name, None)
os.environ["DVC_NO_ANALYTICS"] = "true"


def pytest_collect_file() -> None:
    """In one process PyTorch must come before TensorFlow, for both bring an LLVM.

    Not at the top of this file: the process that only hands out the tests would wait for it, too.
    """
    import torch._dynamo  # noqa: F401


@pytest.hookimpl(trylast=True)  # when slow ones are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process make the finished pipeline, while the other has tests to run that do without."""
    needing = [item for item in items if "finished" in item.fixturenames]
    items[:] = [*needing[:1], *(item for item in items if item not in needing), *needing[1:]]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Threads of TensorFlow can be set only before its first operation, whichever test that is in."""
    if "tensorflow" in sys.modules:
        from stages.train_tensorflow import make_deterministic

        make_deterministic(seed=0, threads=load_params()["threads"])


def tiny_arrays(
    train: int = TRAIN, test: int = TEST, classes: int = 10, size: tuple[int, int] = (28, 28)
) -> dict[str, np.ndarray]:
    """Easy classes: each has a pattern of its own, every image adds noise to it."""
    generator = np.random.default_rng(7)
    rows, columns = size
    patterns = np.kron(
        generator.integers(0, 200, (classes, -(-rows // 4), -(-columns // 4))), np.ones((1, 4, 4))
    )
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        labels = generator.permutation(np.arange(count) % classes).astype(np.uint8)
        noise = generator.integers(0, 56, (count, rows, columns))
        arrays[f"{part}_images"] = (patterns[labels][:, :rows, :columns] + noise).astype(np.uint8)
        arrays[f"{part}_labels"] = labels
    return arrays


def write_data(project: Path, arrays: dict[str, np.ndarray], names: list[str] | None = None) -> None:
    """What the stage download_mnist leaves of these arrays, the classes called by their numbers unless
    named."""
    folder = project / "data"
    folder.mkdir(exist_ok=True)
    for part, array in arrays.items():
        np.save(folder / f"{part}.npy", array)
    classes = names or list(map(str, range(arrays["train_labels"].max() + 1)))
    counts = {part: len(arrays[f"{part}_labels"]) for part in ("train", "test")}
    size = list(arrays["train_images"].shape[1:])
    content = {"name": "tiny", "classes": classes, "image_size": size, "ground": 0, "counts": counts}
    (folder / "dataset.json").write_text(json.dumps(content))


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def write_idx(folder: Path, arrays: dict[str, np.ndarray], compress: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in arrays.items():
        if compress:
            (folder / f"{IDX_NAMES[part]}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / IDX_NAMES[part]).write_bytes(idx_bytes(array))


def load_params() -> dict:
    return params.parse((ROOT / "params.yaml").read_text(encoding="utf-8"))


def load_architectures() -> dict:
    return params.parse((ROOT / "architectures.yaml").read_text(encoding="utf-8"))


MODELS = {framework: list(load_params()[framework]) for framework in FRAMEWORKS}
NETWORKS = [name for name in MODELS if "architecture" in load_params()[name][MODELS[name][0]]]
"""The frameworks whose models are networks."""
FEW = {
    "pytorch": ["linear"],
    "tensorflow": ["cnn"],
    "scratch": ["mlp_sigmoid", "mlp_relu"],
    "sklearn": ["knn_3"],
}
PARITY = {"pytorch": "linear", "tensorflow": "cnn", "scratch": "mlp_sigmoid"}
"""The models of a whole pipeline in a test: some of every kind, and those that have one architecture."""


FEW_NAMES = [f"{framework}/{model}" for framework, names in FEW.items() for model in names]


def tiny_params(folder: Path, chosen: dict[str, list[str]] | None = None) -> dict:
    """The project's parameters for the tiny data set: few images, few trees, one epoch.

    All models, or the chosen ones.
    """
    content = load_params()
    if chosen:
        content["parity"] = PARITY
    for framework, names in (chosen or {}).items():
        content[framework] = {name: content[framework][name] for name in names}
        if PARITY.get(framework) in content[framework]:
            content[framework][PARITY[framework]]["architecture"] = "mlp_sigmoid"
    content["data"] = {"dataset": str(folder), "validation": 40}
    for framework in NETWORKS:
        for settings in content[framework].values():
            settings.update(batch_size=20, epochs=1)
    for name in ("random_forest", "extra_trees", "boosted_trees"):
        content["sklearn"].get(name, {}).get("arguments", {}).update(n_estimators=5)
    return content


def write_params(project: Path, content: dict) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    params.content.cache_clear()


def edit_json(path: Path, **edits: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | edits))


def put(content: dict, key: str, value: object) -> None:
    """Set the value at a dotted key, whose numbers are places in lists."""
    *parents, last = key.split(".")
    for parent in parents:
        content = content[int(parent) if isinstance(content, list) else parent]
    content[last] = value


def edit_params(project: Path, key: str, value: object) -> None:
    """Set the value at a dotted key of the project's params.yaml, or of its architectures.yaml
    (`architectures.…`)."""
    section, _, inner = key.partition(".")
    file, key = ("architectures.yaml", inner) if section == "architectures" else ("params.yaml", key)
    content = yaml.safe_load((project / file).read_text(encoding="utf-8"))
    put(content, key, value)
    (project / file).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    params.content.cache_clear()


def clone(target: Path) -> Path:
    """A Git repository with the project's files as they are now, committed or not."""
    git(target, "init", "--quiet")
    scope = f"--git-dir={target}/.git", f"--work-tree={ROOT}"
    listed = git(ROOT, *scope, "ls-files", "--others", "--exclude-standard", "-z")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    commit(target, "The project")
    return target


def git(project: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    run = subprocess.run(
        ["git", *identity, *arguments], cwd=project, capture_output=True, text=True, check=True
    )
    return run.stdout


def commit(project: Path, message: str) -> None:
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--allow-empty", "--message", message)


PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def command(
    project: Path, *arguments: str, before: Callable[[], None] | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` in the project with the tests' own Python first on the path.

    before: what the new process does first.
    """
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=project,
        env={**os.environ, "PATH": PATH, "PYTHONPATH": "", **variables},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        preexec_fn=before,
    )


def python(code: str, project: Path = ROOT, *arguments: str, **variables: str) -> str:
    """What a Python program prints that must succeed in the project, or in another folder."""
    options = {"env": {**os.environ, "PYTHONPATH": str(ROOT), **variables}, "capture_output": True}
    run = subprocess.run([sys.executable, "-c", code, *arguments], cwd=project, text=True, **options)
    assert run.returncode == 0, run.stderr
    return run.stdout


class Hostile:
    """What runs code if it is unpickled."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("a pickle was executed",)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def left(framework: str, model: str) -> dict[str, bytes]:
    """All that training leaves in the current folder, file by file, but for the timings."""
    folder, *others, _ = results.all_of(framework, model)
    return {str(path): path.read_bytes() for path in [*folder.iterdir(), *others]}


def dvc(project: Path, *arguments: str) -> str:
    """What a DVC command that must succeed prints."""
    run = command(project, "dvc", *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def ran(output: str) -> list[str]:
    """The stages that `dvc repro` or `dvc exp run` says it ran."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder for what the processes that run the tests make once for all."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent  # else each has a folder in it


@pytest.fixture(scope="session")
def idx_folder(shared: Path) -> Path:
    """A folder with the tiny data set as IDX files."""
    with FileLock(shared / "idx.lock"):
        if not (shared / "idx").exists():
            write_idx(shared / "idx", tiny_arrays())
    return shared / "idx"


@pytest.fixture(scope="session")
def finished(shared: Path, idx_folder: Path) -> Path:
    """A clone in which the pipeline has run with the models of FEW and been committed.

    To read, for it is shared; `project` is a copy to run commands in.
    """
    with FileLock(shared / "finished.lock"):
        if not (shared / "finished").exists():
            run_pipeline(shared / "unfinished", idx_folder).rename(shared / "finished")
    return shared / "finished"


def run_pipeline(project: Path, idx_folder: Path) -> Path:
    """A new clone at `project` after a committed run of the pipeline."""
    project.mkdir()
    clone(project)
    for name in ("outputs", "dvc.lock", "studies"):  # whose results are of other data
        path = project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write_params(project, tiny_params(idx_folder, FEW))
    dvc(project, "repro")
    commit(project, "Run on tiny data")
    return project


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` to run commands in and to change, DVC's cache included."""
    shutil.copytree(finished, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


@pytest.fixture
def workspace(tmp_path: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project with tiny parameters and data, which the current process works in."""
    write_params(tmp_path, tiny_params(idx_folder))
    shutil.copy2(ROOT / "architectures.yaml", tmp_path)
    write_data(tmp_path, tiny_arrays())
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    params.content.cache_clear()


@pytest.fixture
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current process works in the project itself, which tests must not change."""
    monkeypatch.chdir(ROOT)
    params.content.cache_clear()


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Calls a module's `main` in this process, with these arguments of the command line."""

    def run(module: ModuleType, *arguments: str) -> None:
        params.content.cache_clear()
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        module.main()

    return run


@pytest.fixture
def run_stage(workspace: Path, run_main: Callable[..., None]) -> Callable[..., None]:
    """Calls a stage's `main` in this process, after setting parameters by dotted keys."""

    def run(stage: str, *arguments: str, **edits: object) -> None:
        for key, value in edits.items():
            edit_params(workspace, key, value)
        run_main(import_module(f"stages.{stage}"), *arguments)

    return run


LABELS = tiny_arrays()["test_labels"]
HISTORY = (
    "epoch,learning_rate,train_loss,train_accuracy,validation_loss,validation_accuracy\n"
    "1,0.1,0.5,0.8,0.4,0.9\n2,0.1,0.3,0.9,0.2,0.95\n"
)


def right(share: float, labels: np.ndarray = LABELS, classes: int = 10) -> np.ndarray:
    """Predictions of which about `share` are right; the rest name the next class."""
    predicted = labels.astype(int).copy()
    wrong = round((1 - share) * len(labels))
    predicted[:wrong] = (predicted[:wrong] + 1) % classes
    return (np.eye(classes)[predicted] * 0.9 + 0.1 / classes).astype(np.float32)


def described(**others: object) -> results.Description:
    """A description of a network, but for these fields."""
    fields = {"framework": "pytorch", "name": "linear", "recipe": {"pixel_range": (0, 1)}, "ground": 0}
    fields |= {"architecture": [{"dense": 12}, "relu", {"dense": "classes"}], "layers": "dense 12"}
    fields |= {"summary": "dense", "classes": tuple("0123456789"), "image_size": (28, 28), "parameters": 1}
    return results.Description(**fields | {"training_images": 360, "validation_images": 40} | others)


def timed(training: float, prediction: float = 0.1) -> results.Timings:
    """Timings with these seconds."""
    fields = {"device": "cpu", "precision": "float32", "threads": 2, "side_by_side": 1, "peak_mebibytes": 100}
    fields |= {"processor": "some processor, avx2", "system": "Linux x86_64", "python": "3.11.7"}
    fields |= {"packages": {"numpy": "2.4.6"}, "training_seconds": training, "prediction_seconds": prediction}
    return results.Timings(**fields)


def leave_trained(
    name: str, number: int, classes: Sequence[str] = "0123456789", size: tuple[int, int] = (28, 28)
) -> None:
    """In the current folder what a trainer would have left, the higher `number` the less accurate."""
    framework, model = name.split("/")
    labels, held_out = dataset.load_labels("test"), dataset.load_labels("train")
    held_out = held_out[dataset.held_out(held_out, 40)]
    folder = results.folder(framework, model)
    for path in results.all_of(framework, model):
        path.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    is_network = framework != "sklearn"
    other = {"summary": "KNeighborsClassifier", "validation_images": 0, "architecture": None, "layers": None}
    about = {"framework": framework, "name": model, "classes": tuple(classes), "image_size": size}
    description = described(**about, parameters=number, **{} if is_network else other)
    (folder / "model.json").write_text(description.model_dump_json())
    of_run = timed(number / 2).model_copy(update={"peak_mebibytes": 100 * number})
    results.timings(framework, model).write_text(of_run.model_dump_json())
    share = 1 - number / len(labels)
    np.save(results.predictions(framework, model), right(share, labels, len(classes)))
    shown = held_out if is_network else held_out[:0]
    np.save(results.validation(framework, model), right(share, shown, len(classes)))
    if is_network:
        (folder / "history.csv").write_text(HISTORY)
        losses = np.geomspace(2.3, 0.3, 36, dtype=np.float32)
        rows = (f"{i},{loss!s}\n" for i, loss in enumerate(losses, start=1))
        (folder / "losses.csv").write_text("step,loss\n" + "".join(rows))
        generator = np.random.default_rng(1)
        shapes = {"0.dense.weights": (size[0] * size[1], 12), "0.dense.biases": (12,)}
        shapes |= {"2.dense.weights": (12, len(classes)), "2.dense.biases": (len(classes),)}
        weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        save_file(weights, folder / "weights.safetensors")


@pytest.fixture
def trained(workspace: Path) -> Path:
    """What the trainers would have left for the models of FEW, each with another accuracy."""
    write_params(workspace, tiny_params(workspace, FEW))
    for number, name in enumerate(FEW_NAMES, start=1):
        leave_trained(name, number)
    parity = "model,target,difference,other_classes,ties\nscratch/mlp_sigmoid,pytorch,1e-06,0,0\n"
    (results.OUTPUTS / "parity.csv").write_text(parity)
    return workspace


@pytest.fixture
def compared(trained: Path, run_stage: Callable[..., None]) -> Path:
    """The same, scored and compared."""
    run_stage("evaluate")
    run_stage("compare_models")
    return trained


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser_needed = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium, as of Debian's package chromium"
)
SCREENS = {"phone": (390, 844), "desk": (1400, 900), "wide": (2200, 1200)}


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Opens an address, a file's without a network.

    Afterwards nothing elsewhere may have been asked for, and nothing may have complained.
    """
    contexts, complaints = [], []

    def note(asked: str, address: str) -> None:
        if asked.startswith("http") and not asked.startswith(address):
            complaints.append(asked)

    def open_address(address: str, size: str = "desk", scheme: str = "light", **options):
        width, height = SCREENS[size]
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            offline=address.startswith("file:"),
            **options,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: note(request.url, address))
        page.goto(address)
        return page

    open_address.complaints = complaints
    yield open_address
    assert complaints == []
    for context in contexts:
        context.close()


STROKES = {
    "0": [[(50, 0), (20, 12), (5, 50), (20, 88), (50, 100), (80, 88), (95, 50), (80, 12), (50, 0)]],
    "1": [[(50, 0), (50, 100)]],
    "2": [[(8, 25), (25, 3), (60, 0), (85, 18), (80, 42), (10, 98), (95, 98)]],
    "3": [[(10, 8), (55, 0), (85, 20), (70, 42), (40, 48), (75, 55), (90, 78), (60, 98), (8, 92)]],
    "4": [[(30, 0), (8, 55), (92, 55)], [(72, 8), (68, 100)]],
    "5": [[(88, 2), (25, 2), (18, 45), (60, 40), (88, 62), (70, 94), (12, 96)]],
    "6": [[(75, 0), (35, 25), (12, 70), (40, 99), (78, 90), (80, 62), (45, 55), (15, 75)]],
    "7": [[(5, 4), (92, 4), (60, 45), (40, 100)]],
    "8": [[(50, 48), (20, 25), (50, 0), (80, 25), (50, 48), (15, 75), (50, 100), (85, 75), (50, 48)]],
    "9": [[(85, 20), (50, 0), (18, 20), (30, 48), (65, 45), (85, 20), (80, 60), (60, 100)]],
}
"""Digits as one draws them: points (x, y) of a pen, 0 to 100."""


def drawn_digits(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images of STROKES as MNIST has digits, uint8 (n, 28, 28), each slanted otherwise; their labels."""
    from PIL import Image, ImageDraw

    labels = generator.permutation(np.arange(count) % 10).astype(np.uint8)
    images = np.zeros((count, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        turn = np.eye(2) + generator.uniform(-0.2, 0.2, (2, 2))
        picture = Image.new("L", (400, 400))
        for stroke in STROKES[str(label)]:
            points = [tuple(turn @ (np.array(point) - 50) * 2.2 + 200) for point in stroke]
            ImageDraw.Draw(picture).line(points, 255, int(generator.integers(18, 34)), joint="curve")
        picture = picture.crop(picture.getbbox())
        scale = 20 / max(picture.size)
        small = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BOX)
        ink = np.asarray(small).astype(float)
        rows, columns = (
            int(14 - (ink.sum(axis=1 - axis) @ (np.arange(ink.shape[axis]) + 0.5)) / ink.sum() + 0.5)
            for axis in (0, 1)
        )
        image[rows : rows + ink.shape[0], columns : columns + ink.shape[1]] = ink
    return images, labels


@pytest.fixture(scope="session")
def reading_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose models were trained on drawn digits, evaluated, and put into the page to draw on."""
    project = tmp_path_factory.mktemp("digits")
    generator = np.random.default_rng(3)
    arrays = {}
    for part, count in (("train", 1000), ("test", 100)):
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = drawn_digits(count, generator)
    write_data(project, arrays)
    shutil.copy2(ROOT / "architectures.yaml", project)
    chosen = {"scratch": ["mlp_sigmoid", "mlp_relu"], "sklearn": ["knn_3"]}
    write_params(project, tiny_params(project, chosen))
    for model in chosen["scratch"]:
        edit_params(project, f"scratch.{model}.epochs", 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        params.content.cache_clear()
        trainings = [
            (f"train_{framework}", model) for framework, models in chosen.items() for model in models
        ]
        for stage, *arguments in (*trainings, ("evaluate",), ("draw_page",)):
            patch.setattr(sys, "argv", [stage, *arguments])
            import_module(f"stages.{stage}").main()
    params.content.cache_clear()
    return project
