import json
import re
import sys

import pytest
from conftest import ROOT, load_params

from stages.common.command import UserError
from tools import readme

README = (ROOT / "README.md").read_text(encoding="utf-8")


def accuracies(table: str) -> list[list[str]]:
    """The first columns: model, accuracy, interval. The others are not in Git."""
    return [line.split("|")[1:4] for line in table.splitlines()]


def test_the_results_table_is_what_the_pipeline_measured():
    expected = readme.table(ROOT / "outputs")
    shown = README.partition(readme.BEGIN)[2].partition(readme.END)[0]
    rows = shown.partition("\nMeasured on: ")[0]
    assert accuracies(rows) == accuracies(expected), "run `make readme`"
    assert readme.with_table(README, shown) == README


def test_every_model_has_a_row():
    models = {f"{f}/{m}" for f in ("pytorch", "tensorflow", "scratch", "sklearn") for m in load_params()[f]}
    models |= {"ensemble/mean", "ensemble/vote"}
    assert set(re.findall(r"^\| `(\S+)` \|", README, flags=re.MULTILINE)) == models


def test_a_row_shows_its_figures_and_no_others(tmp_path):
    contents = {
        "metrics": {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6},
        "cards": {"parameters": 1234, "training_images": 60000},
        "timings": {"training_seconds": 1.25, "prediction_seconds": 0.5},
    }
    for kind, content in contents.items():
        (tmp_path / kind / "f").mkdir(parents=True)
        (tmp_path / kind / "f" / "m.json").write_text(json.dumps(content))
    assert (
        readme.table(tmp_path).splitlines()[-1]
        == "| `f/m` | 50.00% | 40.00% – 60.00% | 1,234 | 60,000 | 1.2 | 0.50 |"
    )
    (tmp_path / "cards/f/m.json").unlink()
    (tmp_path / "timings/f/m.json").unlink()
    assert readme.table(tmp_path).splitlines()[-1] == "| `f/m` | 50.00% | 40.00% – 60.00% |  |  |  |  |"


def test_a_pipeline_that_has_not_run_leaves_the_readme_as_it_is(workspace, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["readme"])
    (workspace / "README.md").write_text(f"{readme.BEGIN}figures\n{readme.END}")
    with pytest.raises(UserError, match=r"outputs/metrics/pytorch/linear\.json is missing: `dvc repro`"):
        readme.main()
    assert "figures" in (workspace / "README.md").read_text()


def test_a_readme_without_marks_is_refused():
    with pytest.raises(UserError, match="lacks the line"):
        readme.with_table("# Title\n", "")


def test_the_annotated_tree_names_every_stage_and_folder():
    tree = README.split("## What is where")[1]
    listed = {path.name for path in (ROOT / "stages").glob("*.py")}
    listed |= {
        path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))
    }
    missing = {name for name in listed if name not in tree}
    assert missing <= {"dvc_plots"}


def test_the_lock_holds_every_direct_dependency():
    pins = {line.split("#")[0].strip() for line in (ROOT / "requirements.in").read_text().splitlines()}
    lock = (ROOT / "requirements.txt").read_text().replace(" ; ", " ").splitlines()
    locked = {line.split()[0].lower().replace(".", "-").replace("_", "-") for line in lock if "==" in line}
    missing = {p for p in pins if p and p.lower().replace(".", "-").replace("_", "-") not in locked}
    assert not missing, "run `make lock`"
