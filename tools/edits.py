"""What runs again after an edit: a table of every parameter and every source file.

    make edits      (python -m tools.edits)

Reads from DVC, which resolves dvc.yaml, what each stage depends on, and writes docs/edits.md.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo

from stages.common import params
from stages.console import command
from stages.console.errors import UserError, one_line
from tools import pages

PAGE = Path("docs/edits.md")
SOURCES = (".py", ".html", ".js", ".md")


def main() -> None:
    command.no_arguments(__doc__)
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The text of docs/edits.md, for the project as it is."""
    of_params, of_files = users()
    rows = [*together((key, concerned(key, of_params)) for key in parameters())]
    rows += [(path, concerned(path, of_files)) for path in files()]
    cells = [[f"`{edit}`", in_words(stages) or "none"] for edit, stages in rows]
    return pages.fill("edits.md", table=pages.table(("edit", "stages that run again"), cells, texts=2))


def users() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The stages that depend on each parameter, and those that depend on each file or folder."""
    of_params: dict[str, list[str]] = {}
    of_files: dict[str, list[str]] = {}
    try:
        stages = Repo().stage.collect("dvc.yaml")  # without the studies, a pipeline of their own
    except DvcException as error:
        raise UserError(f"DVC does not read dvc.yaml: {one_line(error)}") from None
    for stage in stages:
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                path = Path(dep.def_path)
                for key in dep.params or leaves(params.content(path)):  # none: the whole file
                    of_params.setdefault(key_in(path, key), []).append(stage.name)
            else:
                of_files.setdefault(dep.def_path, []).append(stage.name)
    return of_params, of_files


def concerned(edited: str, users: dict[str, list[str]]) -> list[str]:
    """The stages that depend on what is edited, or on what it is in."""
    return list(
        dict.fromkeys(
            stage
            for name, stages in users.items()
            if name == edited or edited.startswith((f"{name}.", f"{name}/"))
            for stage in stages
        )
    )


def parameters() -> list[str]:
    """Every leaf of params.yaml and architectures.yaml; lists are leaves, so each architecture is one."""
    paths = params.PATH, params.ARCHITECTURES
    return [key_in(path, key) for path in paths for key in leaves(params.content(path))]


def key_in(path: Path, key: str) -> str:
    """A parameter's name, as `dvc exp run -S` takes it."""
    return key if path == params.PATH else f"{path}:{key}"


def leaves(section: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all values that are no mappings."""
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def files() -> list[str]:
    """Every file under stages/, templates included."""
    return sorted(path.as_posix() for path in Path("stages").rglob("*") if path.suffix in SOURCES)


def together(rows: Iterable[tuple[str, list[str]]]) -> Iterator[tuple[str, list[str]]]:
    """One row `model.*` in place of rows that tell the same for every key of a model."""
    for (model, stages), group in itertools.groupby(rows, lambda row: (model_of(row[0]), row[1])):
        keys = [key for key, _ in group]
        yield (f"{model}.*" if len(keys) > 1 else keys[0]), stages


def model_of(key: str) -> str:
    """The model that a dotted key belongs to, such as pytorch.mlp; other keys stand for themselves."""
    framework, *rest = key.split(".")
    return f"{framework}.{rest[0]}" if len(rest) > 1 else key


def in_words(stages: list[str]) -> str:
    """The stages, models of a kind together."""
    kinds: dict[str, list[str]] = {}
    for stage in stages:
        kind, _, model = stage.partition("@")
        kinds.setdefault(kind, []).append(model)
    texts = []
    for kind, models in kinds.items():
        known = params.content(params.PATH).get(kind.removeprefix("train_"), ())
        everyone = "all" if len(models) == len(known) > 1 else ", ".join(sorted(models))
        texts.append(f"{kind}: {everyone}" if models != [""] else kind)
    return "; ".join(texts)


if __name__ == "__main__":
    command.run(main)
