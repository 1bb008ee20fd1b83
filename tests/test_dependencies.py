"""dvc.yaml lists exactly what each stage imports and reads."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import FEW, ROOT, load_params, python
from dvc.dependency import ParamsDependency
from dvc.repo import Repo

STAGES = {
    name: stage.get("do", stage)
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items()
}
CONSOLE = ROOT / "stages" / "console"
"""What only shows: no stage depends on it."""


def names_in(path: Path) -> set[str]:
    """The dotted names that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imported(path: Path, through_console: bool = False) -> set[Path]:
    """The project's files that a file imports, directly or through others, itself included."""
    found, waiting = set(), [path]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        if through_console or current.parent != CONSOLE:
            targets = (ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names_in(current))
            waiting += [target for target in targets if target.is_file()]
    return found


def script(stage: str) -> tuple[str, Path]:
    """A stage's module and its file."""
    module = STAGES[stage]["cmd"].split()[2]
    return module, ROOT.joinpath(*module.split(".")).with_suffix(".py")


@pytest.mark.parametrize("name", STAGES)
def test_the_code_in_deps_is_the_code_that_is_imported_but_for_the_console(name):
    listed = [dep for dep in STAGES[name]["deps"] if dep.endswith(".py")]
    assert len(listed) == len(set(listed))
    entries = load_params()[name.removeprefix("train_")].values() if name.startswith("train_") else [{}]
    for entry in entries:
        named = {
            dep: re.sub(r"\$\{item\.(\w+)\}", lambda key, entry=entry: entry[key[1]], dep) for dep in listed
        }
        expected = imported(script(name)[1])
        for dep, file in named.items():
            if dep != file:  # the stage imports it by the name in params.yaml
                expected |= imported(ROOT / file)
        expected = {path.relative_to(ROOT).as_posix() for path in expected if path.parent != CONSOLE}
        assert set(named.values()) == expected


HEAVY = "torch torchvision tensorflow keras sklearn lightgbm skops scipy pandas matplotlib seaborn PIL jinja2"
HEAVY = {*HEAVY.split(), "requests", "pooch", "dvc"}
"""Libraries that take their time to import."""
BRING = {
    "pooch": {"requests"},
    "sklearn": {"scipy"},
    "matplotlib": {"PIL"},
    "seaborn": {"matplotlib", "pandas", "scipy", "PIL"},
    "tensorflow": {"requests"},
    "keras": {"scipy", "PIL"},
}
"""Those that bring others along, which nothing can be done about."""


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_says_what_it_does_and_imports_no_library_that_its_code_does_not_use(name):
    module, path = script(name)
    asked = {
        name.partition(".")[0] for file in imported(path, through_console=True) for name in names_in(file)
    }
    loading = (
        f"import sys; sys.argv = ['{module}', '--help']; import runpy, atexit\n"
        "atexit.register(lambda: print('loaded', *(n for n, m in sys.modules.items() if m)))\n"
        f"runpy.run_module('{module}', run_name='__main__')"
    )
    said, _, loaded = python(loading).rpartition("loaded ")
    assert f"python -m {module}" in said
    loaded = {part.partition(".")[0] for part in loaded.split()} & HEAVY
    assert loaded <= asked.union(*(BRING.get(library, set()) for library in asked))


PARTS = {"models", "optimizers", "sources", "evaluation", "exporters", "pictures", "common", "console"}


def test_imports_run_from_stages_to_their_parts_to_common_to_the_console():
    below = {
        "stages": PARTS,
        "common": {"console"},
        "console": {"common"},
        "exporters": {"models", "common", "console"},
        "optimizers": {"common", "console"},
    }
    for path in (ROOT / "stages").rglob("*.py"):
        folder = path.parent.name
        allowed = below.get(folder, {"common", "console"}) | {folder} - {"stages"}
        targets = (ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names_in(path))
        assert {target.parent.name for target in targets if target.is_file()} <= allowed, path


def test_imports_run_from_tools_to_apps_to_stages():
    for folder, above in (("stages", ("apps", "tools")), ("apps", ("tools",))):
        for path in (ROOT / folder).rglob("*.py"):
            assert not {name for name in names_in(path) if name.partition(".")[0] in above}, path


def test_what_only_shows_retrains_nothing_and_muon_retrains_its_user_alone(monkeypatch):
    monkeypatch.chdir(ROOT)
    users: dict[str, set[str]] = {}
    for stage in Repo(str(ROOT)).stage.collect("dvc.yaml"):
        for dep in stage.deps:
            users.setdefault(str(dep), set()).add(stage.addressing)
    shown = [
        *CONSOLE.glob("*.py"),
        ROOT / "stages/common/frameworks.py",
        *(ROOT / "stages/pictures").glob("*.py"),
    ]
    for path in shown:
        of_path = users.get(path.relative_to(ROOT).as_posix(), set())
        assert not {stage for stage in of_path if stage.startswith("train_")}, path
    entries = load_params()["pytorch"].items()
    assert users["stages/optimizers/muon.py"] == {
        f"train_pytorch@{name}" for name, entry in entries if entry["optimizer"] == "muon"
    }


WATCH = """
import json, runpy, sys
from pathlib import Path
opened, read = set(), set()
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str | bytes | Path):
        path = Path(str(arguments[0]))
        if not path.is_absolute() or path.is_relative_to(Path.cwd()):
            opened.add(str(path.relative_to(Path.cwd()) if path.is_absolute() else path))
sys.addaudithook(hook)
from stages.common import params
def recording(key, kind, path=params.PATH, read_=params.read):
    read.add(key if path == params.PATH else f"{path}:{key}")
    return read_(key, kind, path)
params.read = recording
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
Path("watched.json").write_text(json.dumps([sorted(opened), sorted(read)]))
"""
"""Runs a stage and notes which of the project's files it opens, and which parameters it reads."""


def declared(project: Path, stage: str) -> tuple[set[str], list[str], list[str]]:
    """The parameters, the files and the results that dvc.yaml says a stage depends on and makes, as DVC
    reads it, without code."""
    found = next(one for one in Repo(str(project)).index.stages if one.name == stage)
    params, deps = set(), []
    for dep in found.deps:
        if isinstance(dep, ParamsDependency):
            file = Path(dep.def_path).name
            params |= {key if file == "params.yaml" else f"{file}:{key}" for key in dep.params} or {file}
        elif not dep.def_path.startswith("stages/"):
            deps.append(dep.def_path)
    return params, deps, [out.def_path for out in found.outs]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_reads_the_parameters_and_files_that_dvc_yaml_declares_and_no_others(
    finished, tmp_path, name
):
    model = FEW.get(name.removeprefix("train_"), [None])[0]
    project = tmp_path / "project"
    shutil.copytree(finished, project, ignore=shutil.ignore_patterns("cache"))
    params, deps, outs = declared(project, f"{name}@{model}" if model else name)
    python(WATCH, project, f"stages.{name}", *filter(None, [model]))
    opened, read = json.loads((project / "watched.json").read_text())
    results = [path for path in opened if path.startswith(("data/", "outputs/")) and ".partial" not in path]

    def within(path: str, places: list[str]) -> bool:
        return any(Path(path).is_relative_to(place) for place in places)

    assert not [path for path in results if not within(path, [*deps, *outs])], "read, but not declared"
    assert not [dep for dep in deps if not any(within(path, [dep]) for path in results)], "declared, not read"
    if "params.yaml" in params:  # as a whole
        read = [key for key in read if ":" in key] + ["params.yaml"]
    assert set(read) == params


@pytest.mark.parametrize("path", sorted((ROOT / "stages" / "common").glob("*.py")), ids=lambda p: p.stem)
def test_common_code_needs_no_framework(path):
    imports = {name.partition(".")[0] for name in names_in(path)}
    assert not imports & {"torch", "tensorflow", "keras", "sklearn", "matplotlib", "pandas"}
