"""dvc.yaml lists exactly what each stage imports and reads."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import CARRIED, FEW, ROOT, load_params, tiny_params

from stages.common import params
from tools import edits

STAGES = {
    name: stage.get("do", stage)
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items()
}


def imported(path: Path) -> set[Path]:
    """The project's files that a file imports, directly or through others, itself included."""
    found, waiting = set(), [path]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        for node in ast.walk(ast.parse(current.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{current}: relative import"
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                target = ROOT.joinpath(*name.split(".")).with_suffix(".py")
                if target.is_file():
                    waiting.append(target)
    return found


@pytest.mark.parametrize("name", STAGES)
def test_the_code_in_deps_is_the_code_that_is_imported(name):
    module = STAGES[name]["cmd"].split()[2]
    needed = imported(ROOT.joinpath(*module.split(".")).with_suffix(".py"))
    listed = [dep for dep in STAGES[name]["deps"] if dep.endswith(".py")]
    assert len(listed) == len(set(listed))
    entries = load_params()[name.removeprefix("train_")].values() if name.startswith("train_") else [{}]
    for entry in entries:
        named = {
            dep: re.sub(r"\$\{item\.(\w+)\}", lambda key, entry=entry: entry[key[1]], dep) for dep in listed
        }
        expected = set(needed)
        for dep, file in named.items():
            if dep != file:  # the stage imports it by the name in params.yaml
                expected |= imported(ROOT / file)
        assert set(named.values()) == {path.relative_to(ROOT).as_posix() for path in expected}


HEAVY = {
    *("torch", "torchvision", "tensorflow", "keras", "sklearn", "lightgbm", "skops", "scipy", "pandas"),
    *("matplotlib", "seaborn", "PIL", "jinja2", "requests", "pooch", "h5py", "dvc"),
}
"""Libraries that take their time to import."""
BRING = {
    "pooch": {"requests"},
    "sklearn": {"scipy"},
    "matplotlib": {"PIL"},
    "seaborn": {"matplotlib", "pandas", "scipy", "PIL"},
    "tensorflow": {"requests"},
    "keras": {"scipy", "PIL", "h5py"},
}
"""Those that bring others along, which nothing can be done about."""


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_says_what_it_does_and_imports_no_library_that_its_code_does_not_use(name):
    module = STAGES[name]["cmd"].split()[2]
    asked = set()
    for path in imported(ROOT.joinpath(*module.split(".")).with_suffix(".py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            asked |= {found.partition(".")[0] for found in names}
    loading = (
        f"import sys; sys.argv = ['{module}', '--help']; import runpy, atexit\n"
        "atexit.register(lambda: print('loaded', *(n for n, m in sys.modules.items() if m)))\n"
        f"runpy.run_module('{module}', run_name='__main__')"
    )
    run = subprocess.run([sys.executable, "-c", loading], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"python -m {module}" in run.stdout
    loaded = {part.partition(".")[0] for part in run.stdout.rpartition("loaded ")[2].split()} & HEAVY
    assert loaded <= asked.union(*(BRING.get(library, set()) for library in asked))


def test_imports_run_from_stages_to_their_parts_to_common():
    for path in (ROOT / "stages").rglob("*.py"):
        others = imported(path) - {path}
        folder = path.parent.name
        parts = {"models", "evaluation", "pictures", "common"}
        below = {"stages": parts, "common": set()}.get(folder, {"common"})
        assert {other.parent.name for other in others} <= below | {folder} - {"stages"}, path


def instances() -> list[tuple[str, str | None, set[str]]]:
    """Each stage with the first of its models and the parameters that dvc.yaml declares for it."""
    params = tiny_params(ROOT, FEW)
    result = []
    for name, stage in STAGES.items():
        declared = stage.get("params", [])
        for part, value in CARRIED.items():
            declared = [entry.replace(f"${{carried.{part}}}", value) for entry in declared]
        key = FEW[name.removeprefix("train_")][0] if name.startswith("train_") else None
        item = params[name.removeprefix("train_")][key] if key else {}
        declared = {
            entry.replace("${key}", str(key)).replace("${item.architecture}", item.get("architecture", ""))
            for entry in declared
        }
        result.append((name, key, declared))
    return result


@pytest.mark.parametrize(("name", "model", "declared"), instances(), ids=STAGES)
def test_the_parameters_in_dvc_yaml_are_those_that_are_read(
    finished, tmp_path, monkeypatch, name, model, declared
):
    shutil.copytree(finished, tmp_path / "project", ignore=shutil.ignore_patterns(".git", "cache"))
    monkeypatch.chdir(tmp_path / "project")
    params._file.cache_clear()
    seen = set()

    def recording(key, kind, read=params.read):
        seen.add(key)
        return read(key, kind)

    monkeypatch.setattr(params, "read", recording)
    monkeypatch.setattr(sys, "argv", [name, *filter(None, [model])])
    runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)
    params._file.cache_clear()
    assert seen == declared


def test_the_table_of_edits_has_every_parameter_and_file():
    listed = set(re.findall(r"^\| `(\S+)` \|", (ROOT / "docs" / "edits.md").read_text(), flags=re.MULTILINE))
    missing = {key for key in edits.leaves(load_params()) if not {key, f"{edits.model_of(key)}.*"} & listed}
    missing |= {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "stages").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    } - listed
    assert not missing, "commit, then run `make edits`"


@pytest.mark.slow
def test_the_table_of_edits_is_what_dvc_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert edits.page() == (ROOT / "docs" / "edits.md").read_text(encoding="utf-8"), "run `make edits`"


@pytest.mark.parametrize("path", sorted((ROOT / "stages" / "common").glob("*.py")), ids=lambda p: p.stem)
def test_common_code_needs_no_framework(path):
    text = path.read_text(encoding="utf-8")
    imports = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not imports & {"torch", "tensorflow", "keras", "sklearn", "matplotlib", "pandas"}
