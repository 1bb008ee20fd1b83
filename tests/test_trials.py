"""Trials: the stages' own results, from processes that have run others, here and on Dask's workers."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import ROOT, TRAIN, edit_params, load_architectures, load_params, tiny_arrays, write_data

from apps import trials
from apps.scheduling import trainer
from stages.common import params, results
from stages.console.errors import UserError

SLOW = pytest.mark.slow
LONG = {"scratch.mlp_relu.epochs": 30}


@pytest.fixture(autouse=True)
def _apart(workspace, monkeypatch) -> Iterator[None]:
    """Trials of a test run on one thread, beside whatever runs here, in folders that it can find."""
    monkeypatch.delenv(trials.SCHEDULER, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(workspace))
    edit_params(workspace, "threads", 1)
    params.content.cache_clear()
    yield
    trials.close()


def until(true, seconds: float = 30) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def trained(project: Path, framework: str, name: str) -> dict[str, bytes]:
    """All that training left in a project but for the timings."""
    folder, *others, _ = (project / path for path in results.all_of(framework, name))
    return {str(path.relative_to(project)): path.read_bytes() for path in [*folder.iterdir(), *others]}


@pytest.mark.parametrize(
    ("model", "another"),
    [
        ("scratch/mlp_relu_augmented", "scratch/cnn"),
        pytest.param("pytorch/cnn_dropout", "pytorch/champion", marks=SLOW),
        pytest.param("tensorflow/cnn_dropout", "tensorflow/sprint", marks=SLOW),
        pytest.param("tensorflow/mlp_augmented", "tensorflow/mlp_augmented", marks=SLOW),
        pytest.param("sklearn/random_forest", "sklearn/svm", marks=SLOW),
        pytest.param("sklearn/boosted_trees", "sklearn/logistic_regression", marks=SLOW),
    ],
)
def test_a_process_that_has_trained_another_model_leaves_the_bytes_of_the_stage(workspace, model, another):
    framework, name = model.split("/")
    content = params.content(params.PATH) | {"threads": load_params()["threads"]}
    folders = [
        trainer.lay_out(workspace / folder, content | {"seed": seed}, load_architectures(), Path("data"))
        for folder, seed in (("first", 5), ("warm", 0), ("cold", 0))
    ]
    worker = trials.Worker(framework, folders[0])
    worker.train(folders[0], another.split("/")[1])
    answer = worker.train(folders[1], name)
    worker.close()
    trials.cold(folders[2], model)
    warm, cold = (trained(folder, framework, name) for folder in folders[1:])
    assert warm == cold
    assert len(cold) == (4 if framework == "sklearn" else 6)
    assert len(answer["history"]) == (0 if framework == "sklearn" else 1)


def test_a_trial_is_the_stage_with_other_parameters_in_both_files(workspace):
    before = Path("params.yaml").read_bytes()
    changes = {"scratch.mlp_relu.epochs": 2, "architectures.yaml:mlp_relu[0].dense": 24, "seed": 3}
    result = trials.run(trials.make("scratch/mlp_relu", changes))
    described = result.description()
    assert described.recipe["epochs"] == len(result.history) == 2
    assert described.parameters == 784 * 24 + 24 + 24 * 10 + 10
    assert result.predictions().shape == (100, 10) and result.validation().shape == (40, 10)
    assert result.timings().peak_mebibytes < 500
    assert Path("params.yaml").read_bytes() == before
    assert not list(Path().glob("outputs/**/*.npy")), "results are the caller's to write"


def test_what_a_trial_does_without_test_images_it_does_where_there_are_none(workspace):
    with_them = trials.run(trials.make("scratch/mlp_relu", {}))
    for path in Path("data").glob("test_*"):
        path.unlink()
    without = trials.run(trials.make("scratch/mlp_relu", {}, tests=False))
    np.testing.assert_array_equal(without.validation(), with_them.validation())
    assert without.predictions().shape == (1, 10), "a blank image stands for them"
    with pytest.raises(UserError, match=r"data/test_images\.npy is missing"):
        trials.make("scratch/mlp_relu", {})


def test_a_share_of_the_images_is_drawn_class_by_class_and_part_of_a_larger_share(workspace):
    found = {}
    for share in (0.1, 0.5, 1):
        folder = trainer.select(workspace / f"some{share}", share, tests=True)
        images, labels = (np.load(folder / f"train_{kind}.npy") for kind in ("images", "labels"))
        assert np.bincount(labels).tolist() == [share * TRAIN / 10] * 10
        found[share] = {image.tobytes() for image in images}
        assert not (folder / "test_labels.npy").exists()
    assert found[0.1] < found[0.5] < found[1]
    result = trials.run(trials.make("scratch/mlp_relu", {"data.validation": 0.25}, images=0.5))
    assert (result.description().training_images, len(result.validation())) == (150, 50)


def test_a_trial_ends_below_its_bar_and_leaves_nothing(workspace):
    changes = {"scratch.mlp_relu.epochs": 4}
    result = trials.run(trials.make("scratch/mlp_relu", changes, bars={1: 0.0, 2: 1.1}))
    assert result.ended and len(result.history) == 2 and result.files == {}
    after = trials.run(trials.make("scratch/mlp_relu", changes))
    assert not after.ended and len(after.history) == 4, "the next trial in the process has no bars"


@pytest.mark.parametrize(
    ("key", "value", "failure"),
    [
        ("learning_rate", 1e30, "the loss became nan in epoch 1"),
        ("learning_rat", 1, "learning_rat is unknown"),
    ],
)
def test_a_trial_that_fails_says_why_and_the_process_goes_on(workspace, key, value, failure):
    result = trials.run(trials.make("scratch/mlp_relu", {f"scratch.mlp_relu.{key}": value}))
    assert failure in result.failure and result.files == {}
    assert trials.run(trials.make("scratch/mlp_relu", {})).failure is None


@pytest.mark.parametrize(
    ("model", "key", "message"),
    [
        ("scratch/mlp", "seed", "scratch/mlp is unknown; params.yaml has pytorch/linear, "),
        ("mlp", "seed", "mlp is unknown"),
        (
            "scratch/mlp_relu",
            "scratch.cnn.epochs",
            "params.yaml: scratch.cnn.epochs is missing: there is no cnn",
        ),
        ("scratch/mlp_relu", "architectures.yaml:mlp_relu[9].dense", "there is no 9"),
        ("scratch/mlp_relu", "scratch.mlp_relu.pixel_range[2]", "there is no 2"),
        ("scratch/mlp_relu", "scratch.mlp_relu.epochs.first", "there is no first"),
    ],
)
def test_a_model_or_key_that_is_not_there_is_named(workspace, model, key, message):
    with pytest.raises(UserError) as raised:
        trials.make(model, {key: 1})
    assert message in str(raised.value)


@pytest.mark.parametrize(("part", "what"), [("code", "code or packages"), ("data", "images")])
def test_a_worker_with_other_code_or_data_refuses(workspace, part, what):
    trial = replace(trials.make("scratch/mlp_relu", {}), **{part: "another"})
    with pytest.raises(UserError, match=f"has other {what} than where the trials were started"):
        trials.run(trial)


def test_the_code_of_a_trial_is_what_its_stage_depends_on(workspace):
    entries = params.content(params.PATH)["pytorch"]
    sprint, champion = (trials.code("pytorch", entries[name]) for name in ("sprint", "champion"))
    assert sprint != champion, "muon.py is the champion's"
    assert sprint == trials.code("pytorch", entries["pocket"])


def children() -> list[psutil.Process]:
    """The processes that train."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "apps.scheduling.trainer" in " ".join(process.cmdline())]


def test_a_trial_whose_process_is_killed_begins_again(workspace):
    expected = trials.run(trial := trials.make("scratch/mlp_relu", LONG))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(trials.run, trial)
        until(lambda: list(workspace.glob("trials-*/*/outputs/**/history.csv")))
        (process,) = children()
        process.kill()
        assert future.result().files.keys() == expected.files.keys()
    assert not process.is_running()
    np.testing.assert_array_equal(future.result().validation(), expected.validation())


def test_a_trial_that_is_killed_each_time_is_given_up_with_one_line(workspace):
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(trials.run, trials.make("scratch/mlp_relu", LONG))
        while not future.done():
            for process in children():
                process.kill()
            time.sleep(0.1)
        with pytest.raises(UserError, match=r"scratch/mlp_relu: .* ended by SIGKILL; .* 3 times"):
            future.result()


def test_the_end_of_an_idle_process_leaves_the_next_trial_its_folder(workspace):
    for model in ("scratch/mlp_relu", "sklearn/knn_3", "scratch/mlp_relu"):
        assert trials.run(trials.make(model, {})).failure is None


def test_training_ends_and_its_folder_goes_with_the_process_that_asked_for_it(workspace, tmp_path):
    asking = (
        "from apps import trials\n"
        "trials.run(trials.make('scratch/mlp_relu', {'scratch.mlp_relu.epochs': 9999}))"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, "-c", asking], env=environment) as parent:
        until(lambda: list(temporary.glob("*/*/outputs/**/history.csv")))
        training = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    psutil.wait_procs(training, timeout=10)
    assert training and not [process for process in training if process.is_running()]
    assert list(temporary.iterdir()) == []


def test_a_folder_goes_in_which_something_still_writes(tmp_path):
    folder = tmp_path / "trials"
    written = folder / "history.csv.partial"
    folder.mkdir()

    def write() -> None:
        end = time.monotonic() + 5
        with suppress(FileNotFoundError):
            while time.monotonic() < end:
                written.touch()

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        until(written.exists)
        trainer.remove(folder)
        assert not folder.exists()
        writing.result()


@pytest.mark.parametrize("attempt", range(3))  # what is printed last must not be lost now and then
def test_a_fault_of_the_program_is_told_with_its_traceback(workspace, attempt):
    worker = trials.Worker("nothing", workspace)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback .*No module named 'stages\.train_nothing'"):
        worker.train(workspace, "model")


def test_a_wrong_address_of_a_scheduler_is_one_line(workspace, monkeypatch):
    monkeypatch.setenv(trials.SCHEDULER, "foo")
    pytest.importorskip("distributed", reason="Dask comes with `make tuning`")
    with (
        pytest.raises(UserError, match=r"DASK_SCHEDULER_ADDRESS is 'foo'; allowed: .* tcp://127"),
        trials.executor(),
    ):
        pass


def test_without_dask_one_line_says_how_to_install_it(workspace, monkeypatch):
    monkeypatch.setenv(trials.SCHEDULER, "tcp://127.0.0.1:1")
    for name in ("dask", "dask.distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="Dask is not installed: `make tuning`"), trials.executor(1):
        pass


@contextmanager
def cluster(folders: list[Path]) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A Dask scheduler and a worker in each of the folders: its address, and their processes in order."""
    pytest.importorskip("distributed", reason="Dask comes with `make tuning`")
    log = Path("dask.log")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(Path.cwd())}

    def start(module: str, *arguments: str, cwd: Path) -> subprocess.Popen:
        call = [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--host", "127.0.0.1"]
        with log.open("ab") as output:
            return subprocess.Popen(
                [*call, "--no-dashboard"], cwd=cwd, env=environment, stdout=output, stderr=output
            )

    with ExitStack() as ending:
        processes: list[subprocess.Popen] = []

        @ending.callback
        def end() -> None:
            for process in [*processes[1:], *processes[:1]]:  # the workers first
                for each in (*psutil.Process(process.pid).children(recursive=True), process):
                    each.kill()
                process.wait()

        processes.append(start("dask_scheduler", "--port", "0", cwd=Path.cwd()))
        until(lambda: "Scheduler at:" in log.read_text())
        line = next(line for line in log.read_text().splitlines() if "Scheduler at:" in line)
        address = line.split()[-1]
        for folder in folders:
            options = [
                "--nthreads",
                "1",
                "--death-timeout",
                "60",
                "--local-directory",
                str(folder / "scratch"),
            ]
            processes.append(start("dask_worker", address, *options, cwd=folder))
        until(lambda: log.read_text().count("Register worker") >= len(folders), 60)
        yield address, processes


def elsewhere(folder: Path, **arrays: np.ndarray) -> Path:
    """Another machine's checkout: the data are there, the parameters are not."""
    folder.mkdir()
    write_data(folder, tiny_arrays() | arrays)
    return folder


@pytest.mark.slow
def test_dasks_workers_leave_what_this_machine_leaves_also_if_one_is_killed(workspace, monkeypatch):
    queue = [trials.make("scratch/mlp_relu", LONG | {"seed": seed}) for seed in range(6)]
    with trials.executor(1) as begin:
        expected = {place: result.validation() for place, result in trials.run_all(begin, queue)}
    with cluster([elsewhere(workspace / name) for name in ("one", "two")]) as (address, processes):
        monkeypatch.setenv(trials.SCHEDULER, address)
        found = {}
        with trials.executor(1) as begin:
            for place, result in trials.run_all(begin, queue):
                if not found:
                    for process in psutil.Process(processes[1].pid).children(recursive=True):
                        process.kill()
                    processes[1].kill()
                found[place] = result.validation()
    assert found.keys() == expected.keys()
    for place, array in found.items():
        np.testing.assert_array_equal(array, expected[place])


@pytest.mark.slow
def test_a_dask_worker_with_other_images_is_refused_in_one_line(workspace, monkeypatch):
    other = elsewhere(workspace / "other", train_labels=np.zeros(TRAIN, np.uint8))
    with cluster([other]) as (address, _):
        monkeypatch.setenv(trials.SCHEDULER, address)
        with trials.executor(1) as begin, pytest.raises(UserError, match="other has other images than"):
            list(trials.run_all(begin, [trials.make("scratch/mlp_relu", {})]))


@pytest.mark.slow
def test_a_scheduler_without_workers_is_one_line(workspace, monkeypatch):
    monkeypatch.setattr(trials, "PATIENCE", 2)
    with cluster([]) as (address, _):
        monkeypatch.setenv(trials.SCHEDULER, address)
        with pytest.raises(UserError, match=r"no worker at the scheduler .* for 2 s"), trials.executor():
            pass


@pytest.mark.slow
def test_a_worker_that_is_gone_for_good_is_one_line(workspace, monkeypatch):
    monkeypatch.setattr(trials, "PATIENCE", 3)
    with cluster([elsewhere(workspace / "one")]) as (address, processes):
        monkeypatch.setenv(trials.SCHEDULER, address)
        with pytest.raises(UserError, match="no worker at the scheduler"), trials.executor() as begin:
            for process in (*psutil.Process(processes[1].pid).children(recursive=True), processes[1]):
                process.kill()
            list(trials.run_all(begin, [trials.make("scratch/mlp_relu", {})]))


@pytest.mark.slow
def test_a_scheduler_that_is_lost_or_not_there_is_one_line_at_once(workspace, monkeypatch):
    begun = time.monotonic()
    with cluster([elsewhere(workspace / "one")]) as (address, processes):
        monkeypatch.setenv(trials.SCHEDULER, address)
        with pytest.raises(UserError, match=r"the scheduler at .* is gone"), trials.executor(1) as begin:
            long = trials.make("scratch/mlp_relu", {"scratch.mlp_relu.epochs": 9999})
            found = trials.run_all(begin, [trials.make("scratch/mlp_relu", {}), long])
            next(found)
            begun = time.monotonic()
            os.kill(processes[0].pid, signal.SIGKILL)
            next(found)
        assert time.monotonic() - begun < 10
    with pytest.raises(UserError, match="no scheduler answers at"), trials.executor(1):
        pass
