"""`make` and the scripts on odd machines: foreign settings, users without a name, strange folders."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from conftest import ROOT, clone, edit_params, load_params
from filelock import FileLock

from apps import trials

ODD = "d'été, über $HOME"
"""A folder's name with an apostrophe, spaces, accents and a dollar."""
BASE = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")


def wheel(name: str, folder: Path) -> None:
    """Put an installed package back into the wheel that it came from."""
    package = distribution(name)
    stem = f"{name}-{package.version}"
    (tag, *_) = [line.split()[1] for line in package.read_text("WHEEL").splitlines() if line[:4] == "Tag:"]
    with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w") as archive:
        for file in package.files:
            if "__pycache__" not in file.parts:
                script = f"{stem}.data/scripts/{file.name}"
                archive.write(file.locate(), script if ".." in file.parts else file.as_posix())


@pytest.fixture(scope="session")
def offline(shared: Path) -> dict[str, str]:
    """The variables with which pip and uv take packages from a folder: uv, and a small one to install."""
    folder = shared / "wheels"
    with FileLock(shared / "wheels.lock"):
        if not folder.exists():
            folder.mkdir()
            wheel("uv", folder)
            wheel("filelock", folder)
    pip, uv = ({f"{name}_NO_INDEX": "1", f"{name}_FIND_LINKS": str(folder)} for name in ("PIP", "UV"))
    return pip | uv


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone in a folder with an odd name, which takes one small package to install."""
    (tmp_path / ODD).mkdir()
    (clone(tmp_path / ODD) / "requirements.txt").write_text(f"filelock=={distribution('filelock').version}\n")
    return tmp_path / ODD


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A folder with modules that end whoever imports them."""
    (tmp_path / "evil").mkdir()
    for name in ("numpy", "pip", "filelock", "yaml", "sitecustomize"):
        (tmp_path / "evil" / f"{name}.py").write_text(f"raise SystemExit('a foreign {name} was imported')")
    return tmp_path / "evil"


def make(
    folder: Path, *arguments: str, wrapped: str = "exec", without: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `make`, without some of the shell's variables. wrapped: what the shell writes before it."""
    kept = {key: value for key, value in os.environ.items() if key not in without}
    return subprocess.run(
        ["sh", "-c", f'{wrapped} make "$@"', "sh", *arguments],
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        errors="replace",
    )


def installed(folder: Path) -> str:
    """Where the folder's own environment finds the small package, which uv must have installed."""
    code = (
        "import filelock, importlib.metadata as m; print(filelock.__file__); "
        "print(m.distribution('filelock').read_text('INSTALLER').strip())"
    )
    run = subprocess.run([".venv/bin/python", "-Ic", code], cwd=folder, capture_output=True, text=True)
    where, installer = run.stdout.splitlines() or ["", run.stderr]
    assert installer == "uv"
    return where


NAMELESS = "exec unshare --user --map-user=4321 --map-group=4321"
"""Makes the current user one of whom the system knows neither name nor home."""
may_be_nameless = pytest.mark.skipif(
    subprocess.run([*NAMELESS.split()[1:], "true"], stderr=subprocess.DEVNULL).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="no user namespaces here",
)
may_mount = pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="only root, and not in every container, may mount",
)


@pytest.mark.parametrize("places", ["target", "prefix", "root"])
def test_pip_installs_into_the_environment_whatever_its_settings_say(checkout, offline, tmp_path, places):
    user = "user = true" if places == "target" else ""
    (tmp_path / "pip.conf").write_text(f"[install]\n{user}\n[global]\n{places} = {tmp_path}/elsewhere\n")
    settings = {"PIP_CONFIG_FILE": f"{tmp_path}/pip.conf", f"PIP_{places.upper()}": f"{tmp_path}/prefix"}
    if user:
        settings["PIP_USER"] = "1"
    run = make(checkout, f"PYTHON={BASE}", ".venv/installed", **offline, **settings)
    assert run.returncode == 0, run.stderr
    assert installed(checkout).startswith(f"{checkout}/.venv/")
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "prefix").exists()


def test_make_uses_its_own_environment_whichever_is_active(checkout, offline, evil, tmp_path):
    subprocess.run([BASE, "-m", "venv", "--without-pip", tmp_path / "other"], check=True)
    active = {key: f"{tmp_path}/other" for key in ("VIRTUAL_ENV", "CONDA_PREFIX", "UV_PROJECT_ENVIRONMENT")}
    active |= {"PATH": f"{tmp_path}/other/bin:{os.environ['PATH']}", "UV_PYTHON": f"{BASE}"}
    foreign = {"PYTHONPATH": f"{evil}", "PYTHONHOME": f"{tmp_path}", "PYTHONSAFEPATH": "1"}
    run = make(checkout, ".venv/installed", **offline, **active, **foreign)
    assert run.returncode == 0, run.stderr
    assert installed(checkout).startswith(f"{checkout}/.venv/")
    assert not list((tmp_path / "other").rglob("filelock"))


@may_mount
def test_make_installs_without_room_or_leave_elsewhere(checkout, offline, tmp_path):
    """A small /tmp from which nothing may be started, a home that is read-only, the mask 077, no locale."""
    for name in ("small", "home"):
        (tmp_path / name).mkdir()
    places = {"TMPDIR": f"{tmp_path}/small", "HOME": f"{tmp_path}/home", "LC_ALL": "C"}
    mounts = 'mount -t tmpfs -o noexec,size=1m none "$TMPDIR" && mount -t tmpfs -o ro none "$HOME"'
    inside = f"exec unshare --mount sh -c 'umask 077; {mounts} && exec \"$@\"' sh"
    run = make(checkout, f"PYTHON={BASE}", ".venv/installed", wrapped=inside, **offline, **places)
    assert run.returncode == 0, run.stderr
    assert installed(checkout).startswith(f"{checkout}/.venv/")


@pytest.mark.parametrize(("home", "cache"), [("/proc", "{}/.dvc/tmp/cache"), ("{}/home", "")])
def test_a_home_that_cannot_be_written_gets_a_cache_in_the_project(checkout, home, cache):
    shown = ["--eval", 'shown: ; @echo "$$XDG_CACHE_HOME"', "shown"]
    run = make(checkout, *shown, without=("XDG_CACHE_HOME",), HOME=home.format(checkout))
    assert run.stdout == f"{cache.format(checkout)}\n", run.stderr


def test_a_python_that_cannot_make_environments_is_one_line(checkout, tmp_path):
    """As Debian's, whose package python3-venv holds ensurepip."""
    (tmp_path / "ensurepip.py").write_text("raise ModuleNotFoundError('No module named ensurepip')")
    (tmp_path / "python").write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {BASE} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    run = make(checkout, f"PYTHON={tmp_path}/python", ".venv/installed")
    (line,) = [line for line in (run.stdout + run.stderr).splitlines() if not line.startswith("make: ")]
    assert run.returncode != 0 and line.startswith("error: ") and "install python3-venv" in line
    assert not (checkout / ".venv").exists()


@pytest.fixture
def ready(project: Path, tmp_path: Path) -> Path:
    """A copy of the finished pipeline in a folder with an odd name, with the tests' environment."""
    (project / ".venv").symlink_to(sys.prefix)
    return project.rename(tmp_path / ODD)


READY = ("-o", ".venv/installed")
"""Lets `make` take the environment as it is."""


def test_make_says_what_to_do_in_the_checkout_of_somebody_else(ready, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    os.chown(ready, 4321, 4321)
    os.chown(ready / ".git", 4321, 4321)
    run = make(ready, *READY, HOME=str(tmp_path))
    assert run.returncode != 0 and "Traceback" not in run.stderr
    assert "git config --global --add safe.directory" in run.stderr
    subprocess.run(
        ["git", "config", "--global", "--add", "safe.directory", ready],
        env={**os.environ, "HOME": str(tmp_path)},
        check=True,
    )
    run = make(ready, *READY, HOME=str(tmp_path))
    assert run.returncode == 0 and "up to date" in run.stdout, run.stderr


def test_an_archive_that_becomes_a_repository_gets_its_history(ready):
    (ready / ".git").rename(ready.parent / "git")
    assert make(ready, *READY, ".history").returncode == 0
    assert "no_scm = true" in (ready / ".dvc/config.local").read_text()
    (ready.parent / "git").rename(ready / ".git")
    assert make(ready, *READY, ".history").returncode == 0
    assert "no_scm" not in (ready / ".dvc/config.local").read_text()


def test_the_models_of_make_quick_are_stages():
    (names,) = re.findall(r"^QUICK \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    models = {f"train_{name.replace('/', '@')}" for name in trials.models(load_params())}
    assert set(names.split()) <= models


@may_be_nameless
@pytest.mark.parametrize("home", [{}, {"HOME": "/"}], ids=["without a home", "at home in /"])
def test_make_runs_for_a_user_without_a_name(ready, home):
    """As in a container that was started with an unknown number."""
    unknown = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    run = make(ready, *READY, wrapped=NAMELESS, without=unknown, **home)
    assert run.returncode == 0 and "up to date" in run.stdout, run.stderr


@pytest.mark.slow
def test_the_pipeline_runs_in_an_odd_shell(ready, evil):
    edit_params(ready, "scratch.mlp_relu.learning_rate", 0.0001)
    shell = {"PYTHONPATH": f"{evil}", "PYTHONSAFEPATH": "1", "LC_ALL": "C", "TMPDIR": "/nonexistent"}
    run = make(ready, *READY, wrapped="umask 077; exec", without=("HOME",), **shell)
    assert run.returncode == 0, run.stdout + run.stderr
    lock = (ready / "dvc.lock").read_text(encoding="utf-8")
    assert "learning_rate: 0.0001" in lock
    assert not [line for line in run.stderr.splitlines() if "arning" in line]


SCRIPTS = [
    path
    for folder in ("stages", "apps", "tools")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
]


def run_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=kept, capture_output=True, text=True)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_script_that_is_run_by_its_path_says_how_to_run_it(path, tmp_path):
    run = run_script(tmp_path, str(path), "anything")
    assert run.returncode == 1
    assert run.stderr == f"error: run it in {ROOT}: python -m {path.parent.name}.{path.stem}\n"


@pytest.mark.parametrize("module", ["stages.train_pytorch", "apps.predict", "tools.bench"])
def test_a_module_that_is_run_in_its_own_folder_says_how_to_run_it(module):
    run = run_script(ROOT / module.partition(".")[0], "-m", module)
    assert (run.returncode, run.stderr) == (1, f"error: run it in {ROOT}: python -m {module}\n")
