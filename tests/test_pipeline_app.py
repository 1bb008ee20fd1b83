"""`python -m apps.pipeline`: graphs of small commands, run by the real DVC, and the real pipeline once."""

import errno
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
import zc.lockfile
from conftest import ROOT, command, dvc, edit_params, git, ran, timed

from apps.scheduling import costs, job, plan
from stages.common import results
from tools import reproduce

Stages = dict[str, tuple[str, list[str]]]
"""Of each stage its command and the files that it reads; it writes a file of its own name."""


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes a project of such stages, and others when called again; ends what still runs in them."""
    made = []

    def make(stages: Stages, name: str = "toy") -> Path:
        project = tmp_path / name
        (project / ".dvc").mkdir(parents=True)
        git(project, "init", "--quiet")
        shutil.copy(ROOT / ".dvc/config", project / ".dvc/config")
        for file in ("params.yaml", "architectures.yaml"):
            shutil.copy(ROOT / file, project)
        (project / "source").write_text("source")
        write_stages(project, stages)
        made.append(project)
        return project

    yield make
    for project in made:
        for process in commands_of(project):
            process.kill()


def write_stages(project: Path, stages: Stages) -> None:
    entries = {
        name: {"cmd": f"{line}\necho {name} > {name}", "deps": needs or ["source"], "outs": [name]}
        for name, (line, needs) in stages.items()
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": entries}, sort_keys=False))


def variables() -> dict[str, str]:
    """What the pipeline of this project needs to run in another folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}


def pipeline(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(project, "apps.pipeline", *arguments, PYTHONPATH=str(ROOT))


def start(project: Path, *arguments: str, **options: object) -> subprocess.Popen:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    return subprocess.Popen(
        [sys.executable, "-m", "apps.pipeline", *arguments],
        cwd=project,
        env=variables(),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def commands_of(project: Path) -> list[psutil.Process]:
    """What runs in a project."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(project):
                found.append(process)
    return found


MANY: Stages = {
    **{f"first_{i}": (f"sleep 0.{i % 3}", []) for i in range(8)},
    **{f"second_{i}": ("true", [f"first_{i}", f"first_{i + 1}"]) for i in range(3)},
    "last": ("true", [f"second_{i}" for i in range(3)]),
}


def test_results_and_dvc_lock_are_those_of_dvc_repro_and_no_entry_is_lost(toy):
    serial, parallel = toy(MANY, "serial"), toy(MANY, "parallel")
    dvc(serial, "repro")
    run = pipeline(parallel, "--jobs", "8")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (parallel / "dvc.lock").read_text() == (serial / "dvc.lock").read_text()
    for name in MANY:
        assert (parallel / name).read_bytes() == (serial / name).read_bytes()
    ignored = [sorted((project / ".gitignore").read_text().split()) for project in (serial, parallel)]
    assert ignored[0] == ignored[1] == sorted(f"/{name}" for name in MANY)
    assert len([line for line in run.stdout.splitlines() if "/12  " in line]) == len(MANY)
    assert "up to date" in dvc(parallel, "status")


def test_a_new_stage_comes_last_in_dvc_lock_as_with_dvc_repro(toy):
    project = toy({"old_2": ("true", []), "old_1": ("true", ["old_2"])})
    dvc(project, "repro")
    write_stages(
        project,
        {f"new_{i}": (f"sleep {2 - i}", []) for i in range(3)}
        | {"old_1": ("true", ["new_0"]), "old_2": ("true", [])},
    )
    serial = project.with_name("serial")
    shutil.copytree(project, serial)
    dvc(serial, "repro")
    assert pipeline(project, "--jobs", "3").returncode == 0
    assert (project / "dvc.lock").read_text() == (serial / "dvc.lock").read_text()
    assert list(yaml.safe_load((project / "dvc.lock").read_text())["stages"])[:2] == ["old_2", "old_1"]


def test_stages_run_side_by_side_and_no_more_than_the_jobs(toy):
    stages = {f"nap_{i}": ("date +%s.%N > begun_$DVC_STAGE; sleep 1.5", []) for i in range(5)}
    project = toy(stages)
    assert pipeline(project, "--jobs", "3").returncode == 0
    begun = [float((project / f"begun_{name}").read_text()) for name in stages]
    at_once = [sum(one <= other < one + 1.5 for one in begun) for other in begun]
    assert max(at_once) == 3


def test_the_longest_by_the_last_run_starts_first(toy):
    """Such a stage is known by its model's timings."""
    project = toy({})
    models = {"tiny": 1.0, "large": 50.0, "small": 5.0}
    stages = {"train_own": {"foreach": list(models), "do": {"cmd": "echo ${item} >> order"}}}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for model, seconds in models.items():
        path = project / results.timings("own", model)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(timed(seconds).model_dump_json())
    run = pipeline(project, "--jobs", "1")
    assert run.returncode == 0, run.stderr
    assert (project / "order").read_text().split() == ["large", "small", "tiny"]


def test_a_stage_with_nothing_to_do_is_not_started(toy):
    project = toy(MANY)
    dvc(project, "repro")
    before = (project / "dvc.lock").read_bytes()
    assert pipeline(project).stdout == "Data and pipelines are up to date.\n"
    (project / "second_2").unlink()
    assert [line.split()[1] for line in pipeline(project).stdout.splitlines()] == ["second_2", "last"]
    assert (project / "dvc.lock").read_bytes() == before


def test_a_target_runs_with_what_it_needs(toy):
    project = toy(MANY)
    output = pipeline(project, "second_0", "second_1").stdout
    expected = ["first_0", "first_1", "first_2", "second_0", "second_1"]
    assert sorted(line.split()[1] for line in output.splitlines()) == expected


def test_a_failed_stage_stops_what_follows_it_and_is_told_at_the_end(toy):
    stages = {
        "good": ("sleep 0.5", []),
        "bad": ("for i in $(seq 20); do echo line $i; done; test -e mended", []),
        "after_bad": ("true", ["bad"]),
        "after_good": ("true", ["good"]),
        "last": ("true", ["after_bad", "after_good"]),
    }
    project = toy(stages)
    run = pipeline(project, "--jobs", "2")
    assert run.returncode == 1
    assert (project / "after_good").exists()
    assert not (project / "after_bad").exists()
    assert "error: 1 of 5 stages failed: bad; not run because of that: after_bad, last" in run.stderr
    assert "    line 20" in run.stderr and "    line 2\n" not in run.stderr
    assert "exited with 1" in run.stderr
    (project / "mended").touch()
    again = pipeline(project)
    assert again.returncode == 0
    assert [line.split()[1] for line in again.stdout.splitlines()] == ["bad", "after_bad", "last"]


ENDLESS: Stages = {
    "done": ("true", []),
    "long_1": ("test -e quick || sleep 600", ["done"]),
    "long_2": ("test -e quick || sleep 600", ["done"]),
    "last": ("true", ["long_1", "long_2"]),
}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_killed_it_leaves_no_process_and_the_next_run_goes_on(toy, how):
    project = toy(ENDLESS)
    running = start(project, "--jobs", "2")
    until(lambda: sum(process.name() == "sleep" for process in commands_of(project)) == 2)
    os.killpg(running.pid, how)
    output = running.communicate(timeout=30)[0]
    assert running.returncode == (-how if how == signal.SIGKILL else 128 + signal.SIGINT)
    assert ("interrupted" in output) == (how != signal.SIGKILL)
    assert "Traceback" not in output
    until(lambda: not commands_of(project), seconds=10)
    assert list(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == ["done"]
    (project / "quick").touch()
    again = pipeline(project, "--jobs", "2")
    assert again.returncode == 0, again.stderr
    assert sorted(line.split()[1] for line in again.stdout.splitlines()) == ["last", "long_1", "long_2"]


def test_a_stage_whose_dvc_is_killed_has_failed_and_the_others_go_on(toy):
    project = toy(ENDLESS | {"other": ("sleep 3", [])})
    running = start(project, "--jobs", "3")
    until(lambda: sum(process.name() == "sleep" for process in commands_of(project)) == 3)
    for process in commands_of(project):
        if process.cmdline() == ["sleep", "600"]:
            parent = process.parent()
            while parent.parent().pid != running.pid:
                parent = parent.parent()
            parent.kill()
    output = running.communicate(timeout=30)[0]
    assert running.returncode == 1
    assert "2 of 5 stages failed" in output and "last" in output
    assert (project / "other").exists()
    assert not commands_of(project)


def test_a_second_pipeline_waits_for_the_first(toy):
    project = toy({"nap": ("echo nap >> naps; sleep 2", [])})
    first = start(project)
    until((project / "naps").exists)
    second = pipeline(project)
    assert second.stdout.splitlines() == [
        "another pipeline is running in this folder: waiting for its end",
        "Data and pipelines are up to date.",
    ]
    assert first.wait(1) == 0
    assert (project / "naps").read_text() == "nap\n"
    first.stdout.close()


def test_the_runner_is_small_and_has_one_thread(toy):
    project = toy(ENDLESS)
    running = start(project, "--jobs", "2")
    until(lambda: sum(process.name() == "sleep" for process in commands_of(project)) == 2)
    runner = psutil.Process(running.pid)
    assert runner.memory_info().rss < 150 * 2**20
    assert runner.num_threads() == 1, "a fork takes one thread along: what the others hold stays locked"
    running.terminate()
    running.communicate(timeout=30)


def test_at_a_terminal_it_shows_what_runs_and_how_much_is_left(toy):
    project = toy({"nap": ("echo epoch 1/3 loss 0.5; sleep 2", []), "last": ("true", ["nap"])})
    ours, theirs = pty.openpty()
    running = start(project, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how a terminal says that nobody is left
        while more := os.read(ours, 2**16):
            shown += more
    os.close(ours)
    assert running.wait(10) == 0
    text = shown.decode()
    assert "epoch 1/3 loss 0.5" in text
    assert "0 of 2 done, 1 running, 1 waiting, about" in text
    assert "2/2  last" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0, "the cursor comes back"


def test_a_low_terminal_still_shows_how_much_is_left(toy):
    project = toy({f"nap_{i}": ("sleep 1", []) for i in range(3)})
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (2, 80))
    running = start(project, "--jobs", "3", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):
        while more := os.read(ours, 2**16):
            shown += more
    os.close(ours)
    assert running.wait(10) == 0
    assert "0 of 3 done, 3 running" in shown.decode()


def test_an_interrupted_pipeline_lets_other_sessions_live(toy):
    """The processes that feed trackers: they record how the training ended."""
    project = toy({"nap": ("setsid sh -c 'sleep 3; touch told' & sleep 600", [])})
    running = start(project)
    until(lambda: sum(process.name() == "sleep" for process in commands_of(project)) == 2)
    running.send_signal(signal.SIGINT)
    assert "interrupted" in running.communicate(timeout=30)[0]
    assert not (project / "told").exists()
    until((project / "told").exists, seconds=10)


@pytest.mark.slow
def test_an_interrupted_pipeline_ends_though_another_dvc_holds_the_lock(toy):
    project = toy({"nap": ("sleep 1", []), "last": ("true", ["nap"])})
    running = start(project)
    until(lambda: "sleep" in [process.name() for process in commands_of(project)])
    held = zc.lockfile.LockFile(str(project / ".dvc/tmp/lock"))
    try:
        until(lambda: "sleep" not in [process.name() for process in commands_of(project)])
        running.send_signal(signal.SIGINT)
        assert "interrupted" in running.communicate(timeout=30)[0]
        assert not commands_of(project)
    finally:
        held.close()


def test_if_nothing_succeeds_in_a_new_project_the_reasons_are_told(toy):
    run = pipeline(toy({"bad": ("echo because; exit 3", []), "worse": ("false", [])}), "--jobs", "1")
    assert run.returncode == 1
    assert "2 of 2 stages failed" in run.stderr and "because" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_full_disk_while_the_plan_is_made_is_told():
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "here")

    with pytest.raises(OSError, match="No space left on device: 'here'"):
        job.apart(full)


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "CONTAINER", tmp_path)
    free = plan.free_mebibytes()
    assert free > 500, "there is no limit"
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{300 * 2**20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {50 * 2**20}\n")
    assert plan.free_mebibytes() == pytest.approx(free, rel=0.2)
    (tmp_path / "memory.max").write_text(f"{400 * 2**20}\n")
    assert plan.free_mebibytes() == 150


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--jobs", "0"], "error: --jobs is 0; allowed: 1 and more"),
        (["nonsense"], "error: Stage 'nonsense' not found inside 'dvc.yaml' file"),
    ],
)
def test_a_mistake_at_the_prompt_is_one_line(toy, arguments, complaint):
    run = pipeline(toy(MANY), *arguments)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith(complaint)


SPEED = """\
model,training_seconds,prediction_seconds,start_seconds,peak_mebibytes
pytorch/linear,1,0.25,2,800
pytorch/other,7,0.25,3,900
pytorch/other,9,0.25,5,950
scratch/other,30,1,1,100
"""


def test_costs_are_those_of_the_last_run_or_else_what_the_bench_measured(trained, monkeypatch):
    """The model pytorch/linear took 0.5 + 0.1 s when `trained` was made, sklearn/knn_3 2.5 + 0.1 s."""
    (trained / "speed.csv").write_text(SPEED)
    monkeypatch.setattr(costs, "SPEED", trained / "speed.csv")
    expected = costs.Costs()
    stages = ["train_pytorch@linear", "train_sklearn@knn_3", "train_pytorch@other", "evaluate"]
    assert [expected.seconds(name) for name in stages] == pytest.approx([2.6, 5.1, 12.25, 10.75])
    own = expected.mebibytes("train_pytorch@linear") - 800
    assert own == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.2), (
        "DVC's, beside the stage"
    )
    assert [expected.mebibytes(name) - own for name in stages] == [800, 950, 950, 950]


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_what_dvc_repro_gives(toy):
    serial, project = toy(MANY, "serial"), toy(MANY, "killed")
    dvc(serial, "repro")
    generator = random.Random(0)
    for _ in range(6):
        running = start(project, "--jobs", "4")
        time.sleep(generator.uniform(0.5, 6))
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate(timeout=30)
    run = pipeline(project, "--jobs", "4")
    assert run.returncode == 0, run.stdout + run.stderr
    locks = [yaml.safe_load((folder / "dvc.lock").read_text()) for folder in (project, serial)]
    assert locks[0] == locks[1]
    assert "up to date" in dvc(project, "status")


def test_the_pipeline_gives_what_dvc_repro_gives(project, tmp_path):
    shutil.copytree(project, tmp_path / "serial", symlinks=True)
    serial = tmp_path / "serial"
    for folder in (serial, project):
        edit_params(folder, "scratch.mlp_relu.epochs", 2)
        edit_params(folder, "scratch.mlp_sigmoid.epochs", 2)
    dvc(serial, "repro", "evaluate")
    run = pipeline(project, "evaluate", "--jobs", "2")
    assert run.returncode == 0, run.stderr
    assert reproduce.checksums(project / "dvc.lock") == reproduce.checksums(serial / "dvc.lock")
    assert list(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == list(
        yaml.safe_load((serial / "dvc.lock").read_text())["stages"]
    )
    assert ran(dvc(project, "repro", "evaluate")) == []


@pytest.mark.slow
def test_make_quick_reports_a_few_models_and_make_goes_on_from_there(project):
    before = reproduce.checksums(project / "dvc.lock")
    shutil.rmtree(project / "outputs")
    shutil.rmtree(project / ".dvc/cache")
    (project / ".venv").symlink_to(sys.prefix)
    quick = {"train_scratch@mlp_relu", "train_sklearn@knn_3"}
    run = subprocess.run(
        ["make", "--old-file", ".venv/installed", "quick", f"QUICK={' '.join(quick)}"],
        cwd=project,
        env=variables(),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "outputs/report/index.html: 2 models"
    output = pipeline(project).stdout
    done = {line.split()[1] for line in output.splitlines()}
    assert not done & {*quick, "download_mnist", "embed_images"}
    assert {"train_tensorflow@cnn", "train_pytorch@linear", "report"} <= done
    assert reproduce.checksums(project / "dvc.lock") == before
