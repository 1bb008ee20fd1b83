import json
import re

import pytest
from conftest import ROOT, load_params

from tools import readme

README = (ROOT / "README.md").read_text(encoding="utf-8")


def without_seconds(table: str) -> list[str]:
    """The rows less the two timings, which are not in Git."""
    return [line.rsplit("|", 3)[0] for line in table.splitlines()]


def test_the_results_table_is_what_the_pipeline_measured(tmp_path):
    for metrics in (ROOT / "outputs" / "metrics").rglob("*.json"):
        timings = tmp_path / metrics.relative_to(ROOT / "outputs" / "metrics")
        timings.parent.mkdir(exist_ok=True)
        timings.write_text('{"training_seconds": 0, "prediction_seconds": 0}')
    expected = readme.table(ROOT / "outputs" / "metrics", tmp_path)
    shown = README.partition(readme.BEGIN)[2].partition(readme.END)[0]
    rows = shown.partition("\nMeasured on: ")[0]
    assert without_seconds(rows) == without_seconds(expected), "run `make readme`"
    assert readme.with_table(README, shown) == README


def test_every_model_has_a_row():
    models = {f"{f}/{m}" for f in ("pytorch", "tensorflow", "scratch", "sklearn") for m in load_params()[f]}
    assert set(re.findall(r"^\| `(\S+)` \|", README, flags=re.MULTILINE)) == models


def test_a_row_shows_its_figures(tmp_path):
    for folder, content in (
        ("metrics", {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "parameters": 1234}),
        ("timings", {"training_seconds": 1.25, "prediction_seconds": 0.5}),
    ):
        (tmp_path / folder / "f").mkdir(parents=True)
        (tmp_path / folder / "f" / "m.json").write_text(json.dumps(content | {"training_images": 60000}))
    row = readme.table(tmp_path / "metrics", tmp_path / "timings").splitlines()[-1]
    assert row == "| `f/m` | 50.00% | 40.00% – 60.00% | 1,234 | 60,000 | 1.2 | 0.5 |"


def test_a_readme_without_marks_is_refused():
    with pytest.raises(ValueError, match="lacks the line"):
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
