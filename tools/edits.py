"""What runs again after an edit: a table of every parameter and every source file.

    make edits      (python -m tools.edits)

Asks DVC itself, in a temporary clone of the commit, which stages it calls changed after each
parameter and each file under stages/ is edited, and writes docs/edits.md. Needs a finished
pipeline (`dvc repro`), but no data. Stages that follow a changed one run only if its results differ.
"""

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from dvc.dependency import param
from dvc.repo import Repo

from stages.common import command, params

PAGE = Path("docs/edits.md")
HEAD = """# What runs again after an edit

Written by `make edits`, which asks DVC. A stage that follows a changed one runs only if its input
really differs: after a training stage these are `evaluate`, `visualize`, `report` and, for a model under
`carried`, `compare_frameworks`.

| edit | stages that run again |
| --- | --- |
"""


def main() -> None:
    command.no_arguments(__doc__)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page as Markdown, for the commit that is checked out."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "clone"
        clone(Path.cwd(), project)
        with ProcessPoolExecutor(initializer=enter_clone, initargs=[project]) as processes:
            parameters = processes.map(changed_stages, *zip(*edits_of_parameters(project), strict=True))
            files = processes.map(changed_stages, *zip(*edits_of_files(project), strict=True))
        rows = [*together(parameters), *files]
    return HEAD + "".join(f"| `{edit}` | {stages} |\n" for edit, stages in rows)


def clone(project: Path, target: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", str(project), str(target)], check=True)


def enter_clone(project: Path) -> None:
    """Work from now on in a clone that this process alone edits."""
    own = project.with_name(str(os.getpid()))
    clone(project, own)
    os.chdir(own)


def together(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """One row `model.*` in place of rows that tell the same for every key of a model."""
    for (model, stages), group in itertools.groupby(rows, lambda row: (model_of(row[0]), row[1])):
        keys = [key for key, _ in group]
        yield (f"{model}.*" if len(keys) > 1 else keys[0]), stages


def model_of(key: str) -> str:
    """The model that a dotted key belongs to, such as pytorch.mlp; other keys stand for themselves."""
    framework, *rest = key.split(".")
    return f"{framework}.{rest[0]}" if len(rest) > 1 else key


def edits_of_parameters(project: Path) -> Iterator[tuple[str, Path, str]]:
    """For each leaf of params.yaml (a network's list of layers is one) its key, the file and its new text."""
    path = Path("params.yaml")
    original = (project / path).read_text(encoding="utf-8")
    for key in leaves(params.parse(original)):
        content = params.parse(original)
        section = content
        *parents, last = key.split(".")
        for parent in parents:
            section = section[parent]
        section[last] = another(section[last])
        yield key, path, yaml.safe_dump(content, sort_keys=False)


def edits_of_files(project: Path) -> Iterator[tuple[str, Path, str]]:
    """For each file under stages/, templates included, its name, itself and its text with a line more."""
    for path in sorted(path for path in (project / "stages").rglob("*") if path.is_file()):
        name = path.relative_to(project)
        yield name.as_posix(), name, path.read_text(encoding="utf-8") + "# a comment\n"


def leaves(section: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all values that are no mappings."""
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def another(value: Any) -> Any:
    """A value that differs; an architecture's name stays one that exists."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case list():
            numbers = all(isinstance(item, int | float) for item in value)
            return [item + 1 for item in value] if numbers else [*value, "relu"]
        case _:
            return "mlp_relu" if value != "mlp_relu" else "linear"


def changed_stages(name: str, path: Path, text: str) -> tuple[str, str]:
    """The edit's name and the stages that DVC calls changed when the file `path` holds `text`.

    Models of a kind stand together.
    """
    original = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    with patch.object(param, "load_path", cache(param.load_path)):  # else it is read for every stage
        status = Repo().status()
    stages: dict[str, list[str]] = {}
    for address, changes in status.items():
        for change in changes:
            deps = change.get("changed deps", {}) if isinstance(change, dict) else {}
            if any(path.is_relative_to(dep) for dep in deps):  # some are folders
                kind, _, model = address.rpartition(":")[2].partition("@")
                stages.setdefault(kind, []).append(model)
    everything = params.parse(params.PATH.read_text(encoding="utf-8"))
    texts = []
    for kind, models in stages.items():
        known = everything.get(kind.removeprefix("train_"), {}) if models != [""] else {}
        if models == [""]:
            texts.append(kind)
        elif len(models) == len(known) > 1:
            texts.append(f"{kind}: all")
        else:
            texts.append(f"{kind}: {', '.join(sorted(models))}")
    path.write_text(original, encoding="utf-8")
    return name, "; ".join(texts) or "none"


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError, command.UserError) as error:
        sys.exit(f"error: {error}")
