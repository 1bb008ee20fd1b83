"""The generated documents: README.md's tables, docs/, and `make docs-check`, on made-up measurements."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import test_bench
import yaml
from conftest import ROOT
from test_pages import BITS, SPEED

from stages.common import params
from stages.console.errors import UserError
from tools import bench, docs_check, growth, pages, processors, projects, published, readme, scaling, times

README = f"""# Title
{readme.RESULTS[0]}old
{readme.RESULTS[1]}between
{readme.MACHINES[0]}old
{readme.MACHINES[1]}
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
def documented(workspace, monkeypatch, run_main) -> Path:
    """A project all of whose documents are up to date."""
    (workspace / "README.md").write_text(README, encoding="utf-8")
    for folder in ("docs", "stages", "outputs"):
        (workspace / folder).mkdir(exist_ok=True)
    docs_check.LAYOUT.write_text(LAYOUT, encoding="utf-8")
    (workspace / "stages" / "train_pytorch.py").touch()
    models = projects.models()
    speed = [replace(SPEED, model=model, recipe=bench.recipe(model)) for model in models]
    bits = [replace(BITS, model=model, portable_milan="identical") for model in models]
    measured = {
        bench.TABLE: [speed[0], replace(speed[1], seeds=4, accuracy_mean=0.98), *speed[2:]],
        processors.TABLE: [replace(bits[0], portable_haswell="1e-07", fast_seconds=0.9), *bits[1:]],
        growth.TABLE: test_bench.points(),
        times.TABLE: [times.Row("a machine", 123.4, 61.0, 90.0, 700.0, 530.0)],
        scaling.TABLE: [
            scaling.Row(1, jobs, jobs, 7200 / jobs, 7200, 1800, "a machine") for jobs in (1, 2, 4)
        ],
        published.TABLE: [published.Row(name, 1, 0.9, 2.0, None, "a machine") for name in published.PROGRAMS],
        published.REPORTS: [
            published.Report("a book", "https://example.org", "2015", "a network", "90–98", models[0]),
            published.Report("a notebook", None, None, "a forest", "96.8", "`RandomForestClassifier()`"),
        ],
    }
    for path, made in measured.items():
        pages.write_rows(path, made)
    run_main(readme)
    return workspace


SHOWN = """\
| `pytorch/linear` | 5 | 92.5 ± 0.1 | 85.0 – 95.9 | 93.0 | 2.0 | 7,960 | 2.0 |
A: a machine.
| a machine | 120 | 61 s | 90 s | 12 min | 8.8 min |
| `pytorch/linear` | 2.0 (1.5 – 3.0) | 0.25 | 1.2 | 12,000 |  |  | 1,234 |  | 12% |
A: a machine; product of matrices 100 GFLOP/s.
models (the others: `pytorch/linear`) had the same weights and predictions
Natively: a machine. Emulated by QEMU 10.0,
× (1.12–1.50) | a machine |
| 1e-08 | 0.5000 | 0.0032 | 0.5000 |
| [a book](https://example.org), 2015 | a network | 90–98 | `pytorch/linear` | linear | 92.5 ± 0.1 | -5.5 |
| a notebook | a forest | 96.8 | `RandomForestClassifier()` | scikit-learn, as it comes | 90.00 | -6.8 |
In 0 of 2 comparisons
The whole pipeline is 120 minutes of work.
"""
"""What stands in the documents."""


def test_documents_show_what_was_measured_and_are_then_not_complained_of(documented, capsys):
    text = "".join(document.path.read_text(encoding="utf-8") for document in readme.DOCUMENTS)
    assert not [line for line in SHOWN.splitlines() if line not in text]
    _, table, _ = pages.between(text, *readme.RESULTS)
    assert next(iter(rows(table))) == projects.models()[1], "the most accurate model"
    assert checked(capsys) == (0, ["all documents are as they would be written now"])


def checked(capsys) -> tuple[int, list[str]]:
    """The status and the lines of `make docs-check`."""
    capsys.readouterr()
    params.content.cache_clear()
    with pytest.raises(SystemExit) as end:
        docs_check.main()
    return end.value.code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("path", "old", "new", "complaint"),
    [
        ("README.md", "85.0 –", "85.2 –", "README.md: its table of results is .*readme`"),
        ("README.md", "8.8 min", "8.9 min", "README.md: its table of machines is .*readme`"),
        ("docs/layout.md", "data/", "metadata/", "docs/layout.md does not name data: add it"),
        ("docs/cluster.md", "120 minutes", "121 minutes", "docs/cluster.md: the page is .*readme`"),
        ("docs/speed.md", "12,000", "12,001", "docs/speed.md: the page is .*readme`"),
        ("docs/processors.md", "1.12", "1.13", "docs/processors.md: the page is .*readme`"),
        ("docs/frameworks.md", "| 0.5000 |", "| 0.4 |", "docs/frameworks.md: the page is .*readme`"),
        ("docs/published.md", "| 90.00 |", "| 91 |", "docs/published.md: the page is .*readme`"),
        ("docs/growth.csv", "200,2.0,", "200,4.0,", "docs/growth.png is not .*readme`"),
        (
            "docs/speed.csv",
            "2.0,1.5,3.0",
            "9.0,1.5,9.0",
            r"(?s).*docs/accuracy_by_seconds.png is not .*",
        ),
        (
            "params.yaml",
            "learning_rate",
            "momentum: 0.9\n    learning_rate",
            "docs/speed.csv: .* MODELS=.*",
        ),
        ("docs/published.csv", "`LogisticRegression()`", "x", "(.*)\ndocs/published.csv: `Log.*published`"),
        ("docs/reports.csv", "pytorch/linear", "x", "(.*)\ndocs/reports.csv: .* has no x: .*readme`"),
        ("stages/train_new.py", "", "", "docs/layout.md does not name stages/train_new.py: add it"),
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
    removed = ", ".join(f"pytorch/{name}" for name in content.pop("pytorch"))
    Path("params.yaml").write_text(yaml.safe_dump(content))
    status, lines = checked(capsys)
    assert status == 1
    for table, make in (("docs/speed.csv", "bench"), ("docs/processors.csv", "processors")):
        missing = f"{table}: sklearn/naive_bayes missing: run `make {make} MODELS='sklearn/naive_bayes'`"
        unknown = f"{table}: {removed} not in params.yaml: run `make {make} MODELS=tensorflow/cnn`"
        assert {missing, unknown} <= set(lines)


def test_a_block_without_its_marks_is_refused(documented):
    Path("README.md").write_text("# Title\n")
    with pytest.raises(UserError, match="lacks the line"):
        readme.with_results()


def test_the_lock_holds_every_direct_dependency():
    pins = {line.split("#")[0].strip() for line in (ROOT / "requirements.in").read_text().splitlines()}
    lock = (ROOT / "requirements.txt").read_text().replace(" ; ", " ").splitlines()
    locked = {line.split()[0].lower().replace(".", "-").replace("_", "-") for line in lock if "==" in line}
    missing = {p for p in pins if p and p.lower().replace(".", "-").replace("_", "-") not in locked}
    assert not missing, "run `make lock`"


def test_times_have_two_digits_and_no_exponent():
    text = times.table([times.Row("m", 203.8, 61.0, 90.0, 7262.0, 6000.0)])
    assert text.splitlines()[-1] == "| m | 200 | 61 s | 90 s | 120 min | 100 min |"
