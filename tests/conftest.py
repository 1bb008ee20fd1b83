"""A tiny data set, and copies of the project to run it in."""

import gc
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
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


def pytest_unconfigure() -> None:
    """Stages that ran in this process have frozen its objects, and some libraries complain at the end."""
    gc.unfreeze()


def tiny_arrays(train: int = TRAIN, test: int = TEST) -> dict[str, np.ndarray]:
    """Ten easy classes: each has a pattern of its own, every image adds noise to it."""
    generator = np.random.default_rng(7)
    patterns = np.kron(generator.integers(0, 200, (10, 7, 7)), np.ones((1, 4, 4)))
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        labels = generator.permutation(np.arange(count) % 10).astype(np.uint8)
        noise = generator.integers(0, 56, (count, 28, 28))
        arrays[f"{part}_images"] = (patterns[labels] + noise).astype(np.uint8)
        arrays[f"{part}_labels"] = labels
    return arrays


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


def models(framework: str) -> list[str]:
    return list(load_params()[framework])


FEW = {
    "pytorch": ["linear"],
    "tensorflow": ["cnn"],
    "scratch": ["mlp_sigmoid", "mlp_relu"],
    "sklearn": ["knn_3"],
}
CARRIED = {"architecture": "mlp_sigmoid", "pytorch": "linear", "tensorflow": "cnn", "scratch": "mlp_sigmoid"}
"""The models of a whole pipeline in a test: some of every kind."""


def few_names() -> list[str]:
    """The models of FEW as framework/model."""
    return [f"{framework}/{model}" for framework, names in FEW.items() for model in names]


def tiny_params(folder: Path, chosen: dict[str, list[str]] | None = None) -> dict:
    """The project's parameters for the tiny data set: few images, few trees, one epoch.

    All models, or the chosen ones.
    """
    content = load_params()
    if chosen:
        content["carried"] = CARRIED
    for framework, names in (chosen or {}).items():
        content[framework] = {name: content[framework][name] for name in names}
        if CARRIED.get(framework) in content[framework]:
            content[framework][CARRIED[framework]]["architecture"] = CARRIED["architecture"]
    content["data"] = {"dataset": str(folder), "validation_images": 40}
    for framework in ("pytorch", "tensorflow", "scratch"):
        for settings in content[framework].values():
            settings.update(batch_size=20, epochs=1)
            settings.pop("validation_images", None)
    for name in ("random_forest", "extra_trees", "boosted_trees"):
        content["sklearn"].get(name, {}).get("arguments", {}).update(n_estimators=5)
    return content


def write_params(project: Path, content: dict) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def edit_params(project: Path, key: str, value: object) -> None:
    """Set the value at a dotted key of the project's params.yaml."""
    content = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    section = content
    *parents, last = key.split(".")
    for parent in parents:
        section = section[parent]
    section[last] = value
    write_params(project, content)


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
def workspace(tmp_path: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with tiny parameters and data, which the current process works in."""
    from stages.common import params

    write_params(tmp_path, tiny_params(idx_folder))
    (tmp_path / "data").mkdir()
    for part, array in tiny_arrays().items():
        np.save(tmp_path / "data" / f"{part}.npy", array)
    monkeypatch.chdir(tmp_path)
    params._file.cache_clear()
    yield tmp_path
    params._file.cache_clear()


@pytest.fixture
def run_stage(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Calls a stage's `main` in this process, after setting parameters by dotted keys."""
    from importlib import import_module

    from stages.common import params

    def run(stage: str, *arguments: str, **edits: object) -> None:
        for key, value in edits.items():
            edit_params(workspace, key, value)
        params._file.cache_clear()
        monkeypatch.setattr(sys, "argv", [stage, *arguments])
        import_module(f"stages.{stage}").main()

    return run


LABELS = tiny_arrays()["test_labels"]
HISTORY = (
    "epoch,learning_rate,train_loss,train_accuracy,validation_loss,validation_accuracy\n"
    "1,0.1,0.5,0.8,0.4,0.9\n2,0.1,0.3,0.9,0.2,0.95\n"
)


def right(share: float, labels: np.ndarray = LABELS) -> np.ndarray:
    """Predictions of which about `share` are right; the rest name the next digit."""
    predicted = labels.astype(int).copy()
    wrong = round((1 - share) * len(labels))
    predicted[:wrong] = (predicted[:wrong] + 1) % 10
    return (np.eye(10)[predicted] * 0.9 + 0.01).astype(np.float32)


@pytest.fixture
def trained(workspace: Path) -> Path:
    """What the trainers would have left for the models of FEW, each with another accuracy."""
    from safetensors.numpy import save_file

    from stages.common import results

    write_params(workspace, tiny_params(workspace, FEW))
    weights = np.random.default_rng(1).normal(size=(12, 784)).astype(np.float32)
    for number, name in enumerate(few_names(), start=1):
        framework, model = name.split("/")
        paths = {
            kind: results.path(kind, framework, model, extension)
            for kind, extension in (
                ("predictions", "npy"),
                ("cards", "json"),
                ("timings", "json"),
                ("history", "csv"),
                ("losses", "npy"),
                ("models", {"pytorch": "safetensors", "scratch": "npz"}.get(framework, "none")),
            )
        }
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        np.save(paths["predictions"], right(1 - number / TEST))
        recipe = {"pixel_range": [0, 1]}
        card = {"parameters": number, "training_images": 360, "recipe": recipe, "layers": "dense 10"}
        paths["cards"].write_text(json.dumps(card))
        seconds = {"device": "cpu", "training_seconds": number / 2, "prediction_seconds": 0.1}
        paths["timings"].write_text(json.dumps(seconds))
        if framework != "sklearn":
            paths["history"].write_text(HISTORY)
            np.save(paths["losses"], np.geomspace(2.3, 0.3, 36, dtype=np.float32))
        if framework == "pytorch":
            save_file({"1.weight": weights, "1.bias": np.zeros(12, np.float32)}, paths["models"])
        elif framework == "scratch":
            np.savez(paths["models"], **{"1.weights": weights.T, "1.biases": np.zeros(12, np.float32)})
    parity = "model,carried_to,difference,other_digits,ties\nscratch/mlp_sigmoid,pytorch,1e-06,0,0\n"
    (results.OUTPUTS / "parity.csv").write_text(parity)
    return workspace
