"""The generated documents: README.md's tables, docs/, and `make docs-check`, on made-up measurements."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import test_bench
import yaml
from conftest import (
    FEW_NAMES,
    MODELS,
    NETWORKS,
    ROOT,
    dvc,
    edit_json,
    git,
    load_architectures,
    load_params,
)
from test_pages import BITS, SPEED

from stages.common import params, results
from stages.console.errors import UserError
from stages.pictures import style
from tools import bench, docs_check, edits, growth, pages, processors, published, readme, scaling
from tools import frameworks as steps

README = f"""# Title
{readme.RESULTS[0]}old
{readme.RESULTS[1]}between
{readme.SPEED[0]}old
{readme.SPEED[1]}
"""
LAYOUT = """## Files and folders
stages/              train_pytorch.py, as other_train_sklearn.py
data/    outputs/    docs/
"""


def rows(text: str) -> dict[str, list[str]]:
    """The cells of a Markdown table's rows, by the first."""
    lines = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return {name: cells for name, *cells in lines[2:]}


@pytest.fixture
def evaluated(compared) -> Path:
    """What the pipeline leaves for the models of FEW, and a README.md with old tables."""
    (compared / "README.md").write_text(README, encoding="utf-8")
    return compared


def test_the_table_of_results_has_every_model_the_best_first(evaluated):
    before, table, after = pages.between(readme.with_results(), *readme.RESULTS)
    assert before.startswith("# Title\n") and "between" in after
    assert set(rows(table)) == {*FEW_NAMES, "ensemble/mean", "ensemble/vote"}
    accuracies = [float(cells[0].rstrip("%")) for cells in rows(table).values()]
    assert accuracies == sorted(accuracies, reverse=True)
    (evaluated / "README.md").write_text("# Title\n")
    with pytest.raises(UserError, match="lacks the line"):
        readme.with_results()


def test_the_machine_is_the_one_that_trained_not_the_one_that_writes(evaluated):
    machine = "some processor, avx2, 2 threads, Linux x86_64, Python 3.11"
    assert f"Measured on: {machine}.\n" in readme.with_results()
    path = results.timings(*FEW_NAMES[0].split("/"))
    edit_json(path, processor="another", python="3.12.1", side_by_side=3)
    other = "another, 2 threads, Linux x86_64, Python 3.12"
    assert f"Measured on: {other}; {machine}; up to 3 stages at once.\n" in readme.with_results()


def test_the_page_of_edits_has_every_parameter_and_file_and_who_depends_on_it(in_the_project):
    found = {edit: stages for edit, (stages,) in rows(edits.page()).items()}
    content, last = load_params(), MODELS["pytorch"][-1]
    users = [model for model, entry in content["pytorch"].items() if entry["optimizer"] == "muon"]
    expected = {
        "data.dataset": "download_mnist; evaluate",
        "device.pytorch": "train_pytorch: all; evaluate",
        f"pytorch.{last}.*": f"train_pytorch: {last}; evaluate",
        "stages/train_scratch.py": "train_scratch: all",
        "stages/optimizers/muon.py": f"train_pytorch: {', '.join(sorted(users))}",
        "stages/templates/report.html": "report",
        "stages/console/errors.py": "none",
    }
    for name in load_architectures():
        users = [
            f"train_{kind}: {', '.join(sorted(names))}"
            for kind in NETWORKS
            if (names := [model for model, entry in content[kind].items() if entry["architecture"] == name])
        ]
        expected[f"architectures.yaml:{name}"] = "; ".join(users) or "none"
    assert found | expected == found
    entries = {f"{framework}.{model}.*" for framework in MODELS for model in MODELS[framework]}
    assert entries <= found.keys()
    files = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "stages").splitlines()
    files = [name for name in files if name.endswith(edits.SOURCES) and Path(name).is_file()]
    assert [edit for edit in found if edit.startswith("stages/")] == sorted(files)


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
    status = json.loads(dvc(project, "status", "--json"))
    assert {name.rpartition(":")[2] for name in status} == set(expected)
    params.content.cache_clear()


@pytest.fixture
def documented(evaluated, monkeypatch, run_main) -> Path:
    """A project on MNIST all of whose documents are up to date."""
    edit_json(evaluated / "data/dataset.json", name="mnist")
    (evaluated / "docs").mkdir()
    docs_check.LAYOUT.write_text(LAYOUT, encoding="utf-8")
    (evaluated / "stages").mkdir()
    (evaluated / "stages" / "train_pytorch.py").touch()
    monkeypatch.setattr(edits, "users", lambda: ({}, {}))
    speed = [replace(SPEED, model=model) for model in FEW_NAMES]
    bits = [replace(BITS, model=model) for model in FEW_NAMES]
    measured = {
        bench.TABLE: [speed[0], replace(speed[1], seeds=4, accuracy_mean=0.98), *speed[2:]],
        processors.TABLE: [bits[0], replace(bits[1], fast_seconds=0.9), *bits[2:]],
        growth.TABLE: test_bench.points(),
        scaling.TABLE: [
            scaling.Row(1, jobs, jobs, 7200 / jobs, 7200, 1800, "a machine") for jobs in (1, 2, 4)
        ],
        steps.TABLE: [
            steps.Row(framework, 16, milliseconds, 1.6, "a machine")
            for framework, milliseconds in (("pytorch", 2.0), ("tensorflow", 3.0), ("scratch", 4.0))
        ],
        published.TABLE: [published.Row(name, 1, 0.9, 2.0, None, "a machine") for name in published.PROGRAMS],
        published.REPORTS: [
            published.Report("somebody", "a network", "90–98", "pytorch/linear"),
            published.Report("somebody", "a forest", "96.8", "`RandomForestClassifier()`"),
            published.Report("somebody", "an ensemble", "90", "ensemble/mean"),
        ],
    }
    for path, made in measured.items():
        pages.write_rows(path, made)
    for tool in (growth, scaling):
        style.save(tool.PICTURE, tool.picture)
    run_main(readme)
    return evaluated


SHOWN = """\
| `pytorch/linear` | 99.00% | 94.55% – 99.82% | 1 | 360 | 0.5 | 0.10 |
|  |  |  |  |
| `pytorch/linear` | 5 | 92.50 ± 0.12 | 2.0 (1.5–3.0) | 0.25 (0.20–0.30) | 12,345 | 1,234 |
| 5 | 92.50 ± 0.12 | 2.0 (1.5–3.0) | 0.25 (0.20–0.30) | 1.2 | 12,345 |  |  | 1,234 | 7,960 |  | 12.5% |
| `tensorflow/cnn` | 4 | 98.00 | 2.0 (1.5–3.0) | 0.25 (0.20–0.30) | 12,345 | 1,234 |
| portable: Intel Haswell | portable: AMD EPYC Milan | fast: Intel Haswell | fast: AMD EPYC Milan |
| pytorch/linear | `0123456789ab` | identical | 1e-07 | 2e-07 | 3e-07 | 1.25 × (1.12–1.50) |
| tensorflow/cnn | `0123456789ab` | identical | 1e-07 | 2e-07 | 3e-07 |  |
Native: a machine.
Emulated by QEMU 10.0,
| 16 | 2.0 (125) | 3.0 (188) | 4.0 (250) |
| 16 | 1.25 × | 1.88 × |
| 1e-08 | 0.5000 | 0.0032 | 0.5000 |
| somebody | a network | `pytorch/linear` | dense | 90–98 | 99.00 | 94.55 – 99.82 | +1.00 |
The whole pipeline is 120 minutes of work.
| `RandomForestClassifier()` | scikit-learn, as it comes | 96.8 | 90.00 | 82.56 – 94.48 | -6.80 |
"""
"""What stands in the documents."""


def test_documents_show_what_was_measured_and_are_then_not_complained_of(documented, capsys):
    text = "".join(document.path.read_text(encoding="utf-8") for document in readme.DOCUMENTS)
    assert not [line for line in SHOWN.splitlines() if line not in text]
    _, table, _ = pages.between(text, *readme.SPEED)
    assert next(iter(rows(table))) == "tensorflow/cnn", "the most accurate model"
    assert checked(capsys) == (0, ["all documents are as they would be written now"])


def checked(capsys) -> tuple[int, list[str]]:
    """The status and the lines of `make docs-check`."""
    capsys.readouterr()
    params.content.cache_clear()
    with pytest.raises(SystemExit) as end:
        docs_check.main()
    return end.value.code, capsys.readouterr().out.splitlines()


METRICS = "outputs/metrics/pytorch/linear.json"


@pytest.mark.parametrize(
    ("path", "old", "new", "complaint"),
    [
        ("README.md", "| 360 | 0.5 |", "| 360 | 0.6 |", "README.md: its table of results is .*readme`"),
        ("README.md", "| 12,345 |", "| 12,346 |", "README.md: its table of speed is .*readme`"),
        ("docs/layout.md", "data/", "metadata/", "docs/layout.md does not name data: add it"),
        ("docs/speed.md", "7,960", "7,961", "docs/speed.md: the page is .*readme`"),
        ("docs/processors.md", "identical", "1e-09", "docs/processors.md: the page is .*readme`"),
        ("docs/frameworks.md", "| 0.5000 |", "| 0.4 |", "docs/frameworks.md: the page is .*readme`"),
        ("docs/published.md", "| 90 |", "| 91 |", "docs/published.md: the page is .*readme`"),
        ("docs/edits.md", "seed", "sede", "docs/edits.md: the page is .*edits`"),
        ("docs/growth.csv", "200,2.0,", "200,4.0,", "docs/growth.png: .* docs/growth.csv: .*growth`"),
        ("docs/cluster.md", "120 minutes", "121 minutes", "docs/cluster.md: the page is .*readme`"),
        (METRICS, "0.99", "0.98", f"README.md: .* 99.00% .*{METRICS} 98.00%: .*readme`"),
        ("docs/published.csv", "`LogisticRegression()`", "x", "(.*)\ndocs/published.csv: `Log.*published`"),
        ("docs/reports.csv", "pytorch/linear", "x", "(.*)\ndocs/reports.csv: .* has no x: .*readme`"),
        ("stages/train_new.py", "", "", "(.*)\ndocs/layout.md does not name stages/train_new.py: add it"),
    ],
)
def test_a_stale_document_is_one_line_and_status_1(documented, capsys, path, old, new, complaint):
    text = Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""
    assert old in text
    Path(path).write_text(text.replace(old, new, 1), encoding="utf-8")
    status, lines = checked(capsys)
    assert status == 1
    assert re.fullmatch(complaint, "\n".join(lines)), lines


def test_a_new_model_is_missing_in_the_measurements_and_a_removed_one_too_many(documented, capsys):
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["sklearn"]["naive_bayes"] = content["sklearn"]["knn_3"]
    del content["pytorch"]
    Path("params.yaml").write_text(yaml.safe_dump(content))
    status, lines = checked(capsys)
    assert status == 1
    for table, make in (("docs/speed.csv", "bench"), ("docs/processors.csv", "processors")):
        missing = f"{table}: sklearn/naive_bayes missing: run `make {make} MODELS='sklearn/naive_bayes'`"
        unknown = f"{table}: pytorch/linear not in params.yaml: run `make {make} MODELS=tensorflow/cnn`"
        assert {missing, unknown} <= set(lines)


def test_without_a_finished_pipeline_its_documents_are_skipped_and_stay(documented, run_main, capsys):
    before = Path("README.md").read_text(encoding="utf-8")
    shutil.rmtree("outputs/tables")
    reason = "outputs/tables/summary.csv is missing: `dvc repro` makes it"
    status, lines = checked(capsys)
    assert status == 0
    assert lines[:2] == [
        f"skipped: README.md: its table of results: {reason}",
        f"skipped: docs/published.md: the page: {reason}",
    ]
    run_main(readme)
    assert f"README.md: its table of results stays as it is, for {reason}" in capsys.readouterr().out
    assert Path("README.md").read_text(encoding="utf-8") == before


def test_the_lock_holds_every_direct_dependency():
    pins = {line.split("#")[0].strip() for line in (ROOT / "requirements.in").read_text().splitlines()}
    lock = (ROOT / "requirements.txt").read_text().replace(" ; ", " ").splitlines()
    locked = {line.split()[0].lower().replace(".", "-").replace("_", "-") for line in lock if "==" in line}
    missing = {p for p in pins if p and p.lower().replace(".", "-").replace("_", "-") not in locked}
    assert not missing, "run `make lock`"
