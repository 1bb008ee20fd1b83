"""A tiny data set, and copies of the project to run it in."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["GOMP_SPINCOUNT"] = "0"  # threads that spin would keep the other worker waiting

import numpy as np
import pytest
import yaml
from filelock import FileLock

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
    from stages.common import params

    return params.parse((ROOT / "params.yaml").read_text(encoding="utf-8"))


def load_architectures() -> dict:
    from stages.common import params

    return params.parse((ROOT / "architectures.yaml").read_text(encoding="utf-8"))


def networks() -> list[str]:
    """The frameworks whose models are networks."""
    content = load_params()
    return [name for name in frameworks() if "architecture" in next(iter(content[name].values()))]


def frameworks() -> list[str]:
    from stages.common.frameworks import FRAMEWORKS

    return list(FRAMEWORKS)


def models(framework: str) -> list[str]:
    return list(load_params()[framework])


FEW = {
    "pytorch": ["linear"],
    "tensorflow": ["cnn"],
    "scratch": ["mlp_sigmoid", "mlp_relu"],
    "sklearn": ["knn_3"],
}
PARITY = {"pytorch": "linear", "tensorflow": "cnn", "scratch": "mlp_sigmoid"}
"""The models of a whole pipeline in a test: some of every kind, and those that have one architecture."""


def few_names() -> list[str]:
    """The models of FEW as framework/model."""
    return [f"{framework}/{model}" for framework, names in FEW.items() for model in names]


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
    for framework in networks():
        for settings in content[framework].values():
            settings.update(batch_size=20, epochs=1)
    for name in ("random_forest", "extra_trees", "boosted_trees"):
        content["sklearn"].get(name, {}).get("arguments", {}).update(n_estimators=5)
    return content


def write_params(project: Path, content: dict) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def edit_params(project: Path, key: str, value: object) -> None:
    """Set the value at a dotted key of the project's params.yaml, or of its architectures.yaml
    (`architectures.…`)."""
    file = project / "params.yaml"
    if key.startswith("architectures."):
        file, key = project / "architectures.yaml", key.removeprefix("architectures.")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    section = content
    *parents, last = key.split(".")
    for parent in parents:
        section = section[parent]
    section[last] = value
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


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


def command(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` in the project with the tests' own Python first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=project,
        env={**os.environ, "PATH": path, "PYTHONPATH": "", **variables},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def python(code: str, project: Path = ROOT, **variables: str) -> str:
    """What a Python program prints that must succeed in the project, or in another folder."""
    options = {"env": {**os.environ, "PYTHONPATH": str(ROOT), **variables}, "capture_output": True}
    run = subprocess.run([sys.executable, "-c", code], cwd=project, text=True, **options)
    assert run.returncode == 0, run.stderr
    return run.stdout


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def left(framework: str, model: str) -> dict[str, bytes]:
    """All that training leaves in the current folder, file by file, but for the timings."""
    from stages.common import results

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
    for name in ("outputs", "dvc.lock"):
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
    from stages.common import params

    write_params(tmp_path, tiny_params(idx_folder))
    shutil.copy2(ROOT / "architectures.yaml", tmp_path)
    write_data(tmp_path, tiny_arrays())
    monkeypatch.chdir(tmp_path)
    params.content.cache_clear()
    yield tmp_path
    params.content.cache_clear()


@pytest.fixture
def run_stage(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Calls a stage's `main` in this process, after setting parameters by dotted keys."""
    from importlib import import_module

    from stages.common import params

    def run(stage: str, *arguments: str, **edits: object) -> None:
        for key, value in edits.items():
            edit_params(workspace, key, value)
        params.content.cache_clear()
        monkeypatch.setattr(sys, "argv", [stage, *arguments])
        import_module(f"stages.{stage}").main()

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


def leave_trained(framework: str, model: str, number: int, classes: list[str], size: tuple[int, int]) -> None:
    """In the current folder what a trainer would have left, the higher `number` the less accurate."""
    from safetensors.numpy import save_file

    from stages.common import dataset, results

    labels, held_out = dataset.load_labels("test"), dataset.load_labels("train")
    held_out = held_out[dataset.held_out(held_out, 40)]
    folder = results.folder(framework, model)
    for path in results.all_of(framework, model):
        path.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    is_network = framework != "sklearn"
    description = {
        "framework": framework,
        "name": model,
        "recipe": {"pixel_range": [0, 1]},
        "architecture": [{"dense": 12}, "relu", {"dense": "classes"}] if is_network else None,
        "summary": "dense" if is_network else "KNeighborsClassifier",
        "layers": "dense 12" if is_network else None,
        "classes": classes,
        "image_size": list(size),
        "ground": 0,
        "parameters": number,
        "training_images": 360,
        "validation_images": 40 if is_network else 0,
    }
    timings = {
        "device": "cpu",
        "precision": "float32",
        "training_seconds": number / 2,
        "prediction_seconds": 0.1,
        "processor": "some processor, avx2",
        "system": "Linux x86_64",
        "python": "3.11.7",
        "threads": 2,
        "side_by_side": 1,
        "peak_mebibytes": 100 * number,
        "packages": {"numpy": "2.4.6"},
    }
    (folder / "model.json").write_text(json.dumps(description))
    results.timings(framework, model).write_text(json.dumps(timings))
    share = 1 - number / len(labels)
    np.save(results.predictions(framework, model), right(share, labels, len(classes)))
    shown = held_out if is_network else held_out[:0]
    np.save(results.validation(framework, model), right(share, shown, len(classes)))
    if is_network:
        (folder / "history.csv").write_text(HISTORY)
        losses = np.geomspace(2.3, 0.3, 36, dtype=np.float32)
        (folder / "losses.csv").write_text(
            "step,loss\n" + "".join(f"{i},{loss!s}\n" for i, loss in enumerate(losses, start=1))
        )
        generator = np.random.default_rng(1)
        shapes = {"0.dense.weights": (size[0] * size[1], 12), "0.dense.biases": (12,)}
        shapes |= {"2.dense.weights": (12, len(classes)), "2.dense.biases": (len(classes),)}
        weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        save_file(weights, folder / "weights.safetensors")


@pytest.fixture
def trained(workspace: Path) -> Path:
    """What the trainers would have left for the models of FEW, each with another accuracy."""
    from stages.common import params, results

    write_params(workspace, tiny_params(workspace, FEW))
    params.content.cache_clear()
    for number, name in enumerate(few_names(), start=1):
        leave_trained(*name.split("/"), number, list(map(str, range(10))), (28, 28))
    parity = "model,target,difference,other_classes,ties\nscratch/mlp_sigmoid,pytorch,1e-06,0,0\n"
    (results.OUTPUTS / "parity.csv").write_text(parity)
    return workspace
