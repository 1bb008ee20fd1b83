"""The generated documents: README.md's tables, docs/, and `make docs-check`, on made-up measurements."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import test_bench
import test_processors
import yaml
from conftest import ROOT, dvc, few_names

from stages.common import params, results
from stages.console.errors import UserError
from stages.evaluation import scores
from stages.pictures import style
from tools import bench, docs_check, edits, frameworks, growth, pages, processors, published, readme

README = f"""# Title
{readme.RESULTS[0]}old
{readme.RESULTS[1]}between
{readme.SPEED[0]}old
{readme.SPEED[1]}
## What is where
stages/              train_pytorch.py, as other_train_sklearn.py
data/    outputs/    docs/
"""


@pytest.fixture
def evaluated(trained, run_stage) -> Path:
    """What the pipeline leaves for the models of FEW, and a README.md with old tables."""
    params.content.cache_clear()
    run_stage("evaluate")
    run_stage("compare_models")
    (trained / "README.md").write_text(README, encoding="utf-8")
    return trained


def rows(text: str) -> dict[str, list[str]]:
    """The cells of a Markdown table's rows, by the first."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return {name: cells for name, *cells in lines[2:]}


def test_the_table_of_results_shows_every_figure_of_the_pipeline(evaluated):
    before, table, after = pages.between(readme.with_results(), *readme.RESULTS)
    assert before.startswith("# Title\n") and "between" in after
    found = rows(table)
    assert set(found) == {f"`{name}`" for name in (*few_names(), "ensemble/mean", "ensemble/vote")}
    for number, name in enumerate(few_names(), start=1):
        accuracy, interval, *others = found[f"`{name}`"]
        assert accuracy == f"{1 - number / 100:.2%}", "as the fixture made it"
        bounds = [float(bound.rstrip("%")) / 100 for bound in interval.split(" – ")]
        assert bounds == pytest.approx(scores.wilson_interval(100 - number, 100), abs=1e-4)
        assert others == [f"{number}", "360", f"{number / 2:.1f}", "0.10"]
    assert found["`ensemble/mean`"][2:] == ["", "", "", ""]
    accuracies = [float(cells[0].rstrip("%")) for cells in found.values()]
    assert accuracies == sorted(accuracies, reverse=True)


def test_the_machine_is_the_one_that_trained_not_the_one_that_writes(evaluated):
    assert (
        "Measured on: some processor, avx2, 2 threads, Linux x86_64, Python 3.11.\n" in readme.with_results()
    )
    path = results.timings(*few_names()[0].split("/"))
    timings = json.loads(path.read_text()) | {"processor": "another", "python": "3.12.1", "side_by_side": 3}
    path.write_text(json.dumps(timings))
    assert (
        "Measured on: another, 2 threads, Linux x86_64, Python 3.12; some processor, avx2, 2 threads, "
        "Linux x86_64, Python 3.11; up to 3 stages at once.\n"
    ) in readme.with_results()


def test_a_readme_without_marks_is_refused(evaluated):
    (evaluated / "README.md").write_text("# Title\n")
    with pytest.raises(UserError, match="lacks the line"):
        readme.with_results()


PROJECT = {
    "stages": {
        "train_pytorch": {
            "foreach": "${pytorch}",
            "do": {
                "cmd": "true ${key}",
                "deps": ["stages/train_pytorch.py", "stages/optimizers/${item.optimizer}.py"],
                "params": ["pytorch.${key}", "seed", {"architectures.yaml": ["${item.architecture}"]}],
                "outs": ["outputs/${key}"],
            },
        },
        "evaluate": {
            "cmd": "true",
            "deps": ["stages/common/frameworks.py", "outputs"],
            "params": [{"params.yaml": None}],
        },
        "report": {"cmd": "true", "deps": ["stages/templates"], "params": ["data"]},
    }
}
"""A dvc.yaml with all that the project's has."""


@pytest.fixture
def small_project(tmp_path, monkeypatch) -> Path:
    """A DVC project of a few stages, in which one stands."""
    monkeypatch.chdir(tmp_path)
    models = {
        "mlp": {"architecture": "mlp", "optimizer": "adam"},
        "champion": {"architecture": "cnn", "optimizer": "muon"},
        "pocket": {"architecture": "cnn", "optimizer": "muon"},
    }
    content = {"data": {"dataset": "mnist"}, "seed": 0, "pytorch": models}
    architectures = {"mlp": [{"dense": 10}], "cnn": [{"dense": 10}, "relu"], "nobodys": ["relu"]}
    for name, of_file in (("params", content), ("architectures", architectures), ("dvc", PROJECT)):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(of_file, sort_keys=False))
    for name in (
        "train_pytorch.py",
        "common/frameworks.py",
        "console/errors.py",
        "optimizers/adam.py",
        "optimizers/muon.py",
        "templates/page.html",
        "__pycache__/x.pyc",
        ".DS_Store",
    ):
        path = Path("stages", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    dvc(tmp_path, "init", "--no-scm", "--quiet")
    params.content.cache_clear()
    return tmp_path


def test_the_page_of_edits_has_every_parameter_and_file_and_who_depends_on_it(small_project):
    found = {name: cells[0] for name, cells in rows(edits.page()).items()}
    assert found == {
        "`data.dataset`": "evaluate; report",
        "`seed`": "train_pytorch: all; evaluate",
        "`pytorch.mlp.*`": "train_pytorch: mlp; evaluate",
        "`pytorch.champion.*`": "train_pytorch: champion; evaluate",
        "`pytorch.pocket.*`": "train_pytorch: pocket; evaluate",
        "`architectures.yaml:mlp`": "train_pytorch: mlp",
        "`architectures.yaml:cnn`": "train_pytorch: champion, pocket",
        "`architectures.yaml:nobodys`": "none",
        "`stages/common/frameworks.py`": "evaluate",
        "`stages/console/errors.py`": "none",
        "`stages/optimizers/adam.py`": "train_pytorch: mlp",
        "`stages/optimizers/muon.py`": "train_pytorch: champion, pocket",
        "`stages/templates/page.html`": "report",
        "`stages/train_pytorch.py`": "train_pytorch: all",
    }


def test_keys_of_a_model_that_differ_are_not_put_together():
    told = [("pytorch.mlp.a", ["x"]), ("pytorch.mlp.b", ["x"]), ("pytorch.mlp.c", ["y"]), ("seed", ["y"])]
    assert list(edits.together(told)) == [
        ("pytorch.mlp.*", ["x"]),
        ("pytorch.mlp.c", ["y"]),
        ("seed", ["y"]),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "old", "new"),
    [
        ("stages/console/errors.py", "makes it", "creates it"),
        ("stages/common/frameworks.py", "#c8404f", "#c8404e"),
        ("stages/optimizers/adam.py", "Adam", "ADAM"),
        ("stages/models/neighbors.py", "nearest", "closest"),
        ("stages/templates/resume.md", " ", "  "),
        ("params.yaml", "seed: 0", "seed: 1"),
        ("architectures.yaml", "linear:\n- dense: 10", "linear:\n- dense: 11"),
    ],
)
def test_the_page_of_edits_says_what_dvc_says_after_the_edit(project, monkeypatch, edit, old, new):
    monkeypatch.chdir(project)
    params.content.cache_clear()
    key = {"params.yaml": "seed", "architectures.yaml": "architectures.yaml:linear"}.get(edit)
    of_params, of_files = edits.users()
    expected = edits.concerned(key, of_params) if key else edits.concerned(edit, of_files)
    text = (project / edit).read_text(encoding="utf-8")
    assert old in text
    (project / edit).write_text(text.replace(old, new), encoding="utf-8")
    status = json.loads(dvc(project, "status", "dvc.yaml", "--json"))
    assert {name.rpartition(":")[2] for name in status} == set(expected)
    params.content.cache_clear()


REPORTS = [
    published.Report("somebody", "a network", "90", "pytorch/linear"),
    published.Report("somebody", "an ensemble", "90", "ensemble/mean"),
]


@pytest.fixture
def documented(evaluated, monkeypatch) -> Path:
    """A project on MNIST all of whose documents are up to date."""
    described = json.loads((evaluated / "data" / "dataset.json").read_text())
    (evaluated / "data" / "dataset.json").write_text(json.dumps(described | {"name": "mnist"}))
    (evaluated / "docs").mkdir()
    (evaluated / "stages").mkdir()
    (evaluated / "stages" / "train_pytorch.py").touch()
    monkeypatch.setattr(edits, "users", lambda: ({}, {}))
    step = frameworks.Row("pytorch", 16, 1.0, 1.0, "a machine")
    models = few_names()
    for path, measured in (
        (bench.TABLE, [replace(test_bench.ROW, model=model) for model in models]),
        (processors.TABLE, [replace(test_processors.ROW, model=model) for model in models]),
        (growth.TABLE, test_bench.points()),
        (frameworks.TABLE, [step, replace(step, framework="tensorflow"), replace(step, framework="scratch")]),
        (
            published.TABLE,
            [published.Row(name, 1, 0.9, 2.0, None, "a machine") for name in published.PROGRAMS],
        ),
        (published.REPORTS, REPORTS),
    ):
        pages.write_rows(path, measured)
    style.save(growth.PICTURE, growth.picture)
    params.content.cache_clear()
    monkeypatch.setattr(sys, "argv", ["readme"])
    readme.main()
    return evaluated


def checked(capsys) -> tuple[int, list[str]]:
    """The status and the lines of `make docs-check`."""
    capsys.readouterr()
    params.content.cache_clear()
    with pytest.raises(SystemExit) as end:
        docs_check.main()
    return end.value.code, capsys.readouterr().out.splitlines()


def test_documents_that_are_up_to_date_are_not_complained_of(documented, capsys):
    assert checked(capsys) == (0, ["all documents are as they would be written now"])


def replaced(path: str, old: str, new: str) -> Callable[[], None]:
    """What replaces a text in a file."""

    def replace_it() -> None:
        text = Path(path).read_text(encoding="utf-8")
        assert old in text, f"{path} has no {old}"
        Path(path).write_text(text.replace(old, new, 1), encoding="utf-8")

    return replace_it


FAULTS = {
    "seconds in README.md": (
        replaced("README.md", "| 360 | 0.5 |", "| 360 | 0.6 |"),
        ["README.md: its table of results is not up to date: run `make readme`"],
    ),
    "another accuracy": (
        replaced("outputs/metrics/pytorch/linear.json", '"accuracy": 0.99', '"accuracy": 0.98'),
        [
            "README.md: its table of results says 99.00% for pytorch/linear, "
            "outputs/metrics/pytorch/linear.json 98.00%: run `make readme`"
        ],
    ),
    "the table of speed": (
        replaced("README.md", "| 12,345 |", "| 12,346 |"),
        ["README.md: its table of speed is not up to date: run `make readme`"],
    ),
    "a time doubled": (
        replaced("docs/growth.csv", "images,200,2.0,", "images,200,4.0,"),
        ["docs/growth.png: it is not the picture of docs/growth.csv: run `make growth`"],
    ),
    "a bit on another processor": (
        replaced("docs/processors.md", "identical", "1e-09"),
        ["docs/processors.md: the page is not up to date: run `make readme`"],
    ),
    "another library": (
        replaced("docs/frameworks.md", "| 1e-08 | 0.5000 |", "| 1e-08 | 0.4000 |"),
        ["docs/frameworks.md: the page is not up to date: run `make readme`"],
    ),
    "another report": (
        replaced("docs/published.md", "| 90 |", "| 91 |"),
        ["docs/published.md: the page is not up to date: run `make readme`"],
    ),
    "a program that is not measured": (
        replaced("docs/published.csv", "`LogisticRegression()`", "another"),
        [
            "docs/published.md: the page is not up to date: run `make readme`",
            "docs/published.csv: `LogisticRegression()` missing: run `make published`",
        ],
    ),
    "a stage that the tree lacks": (
        lambda: Path("stages/train_new.py").touch(),
        [
            "docs/edits.md: the page is not up to date: run `make edits`",
            "README.md: “What is where” does not name stages/train_new.py: add it",
        ],
    ),
    "a folder that the tree lacks": (
        replaced("README.md", "data/", "metadata/"),
        ["README.md: “What is where” does not name data: add it"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_stale_document_is_one_line_and_status_1(documented, capsys, fault):
    make_stale, complaints = FAULTS[fault]
    make_stale()
    assert checked(capsys) == (1, complaints)


def test_a_new_model_is_missing_in_the_measurements(documented, capsys):
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["sklearn"]["naive_bayes"] = content["sklearn"]["knn_3"]
    del content["pytorch"]
    Path("params.yaml").write_text(yaml.safe_dump(content))
    status, lines = checked(capsys)
    assert status == 1
    for table, make in (("docs/speed.csv", "bench"), ("docs/processors.csv", "processors")):
        assert (
            f"{table}: sklearn/naive_bayes missing: run `make {make} MODELS='sklearn/naive_bayes'`" in lines
        )
        assert f"{table}: pytorch/linear not in params.yaml: run `make {make} MODELS=tensorflow/cnn`" in lines
    assert "docs/reports.csv: params.yaml has no pytorch/linear: take it out, run `make readme`" in lines


def test_without_a_finished_pipeline_its_documents_are_skipped_and_stay(documented, monkeypatch, capsys):
    before = Path("README.md").read_text(encoding="utf-8")
    shutil.rmtree("outputs/tables")
    reason = "outputs/tables/summary.csv is missing: `dvc repro` makes it"
    status, lines = checked(capsys)
    assert status == 0
    assert lines[:2] == [
        f"skipped: README.md: its table of results: {reason}",
        f"skipped: docs/published.md: the page: {reason}",
    ]
    readme.main()
    assert f"README.md: its table of results stays as it is, for {reason}" in capsys.readouterr().out
    assert Path("README.md").read_text(encoding="utf-8") == before


def test_the_lock_holds_every_direct_dependency():
    pins = {line.split("#")[0].strip() for line in (ROOT / "requirements.in").read_text().splitlines()}
    lock = (ROOT / "requirements.txt").read_text().replace(" ; ", " ").splitlines()
    locked = {line.split()[0].lower().replace(".", "-").replace("_", "-") for line in lock if "==" in line}
    missing = {p for p in pins if p and p.lower().replace(".", "-").replace("_", "-") not in locked}
    assert not missing, "run `make lock`"
