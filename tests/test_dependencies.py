"""dvc.yaml lists exactly what each stage imports and reads."""

import ast
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

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
    assert sorted(listed) == sorted(path.relative_to(ROOT).as_posix() for path in needed)


def test_imports_run_from_stages_to_models_to_common():
    for path in (ROOT / "stages").rglob("*.py"):
        others = imported(path) - {path}
        folder = path.parent.name
        allowed = {"stages": {"models", "common"}, "models": {"common"}, "common": {"common"}}[folder]
        assert {other.parent.name for other in others} <= allowed, path


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
