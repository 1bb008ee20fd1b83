"""README.md and docs/: commands and programs run on tiny data, links and names lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import PATH, ROOT, drawn_digits
from PIL import Image

from stages.sources import idx

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
NOT_TESTED = "# not tested"
"""How a block begins that is not run; the reason follows."""
NEEDS = {"tracking.md": "mlflow", "tuning.md": "optuna"}
"""Packages without which a page's commands are skipped."""
README_LINES, SENTENCE_WORDS = 150, 30


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(language: str, but: tuple[str, ...] = ()) -> list:
    """The pages' code blocks in this language, each with its page's name."""
    return [
        pytest.param(page.name, block, id=f"{page.stem}-{number}")
        for page in PAGES
        if page.name not in but
        for number, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.M | re.S))
    ]


def prose(page: Path) -> str:
    """A page without code blocks."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run(command: list[str], project: Path, **variables: str) -> None:
    """Run a command that must succeed in the project."""
    environment = {**os.environ, "PATH": PATH, "PYTHONPATH": "", **variables}
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 600}
    ended = subprocess.run(command, cwd=project, env=environment, **options)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "block"), blocks("sh", but=("cluster.md",))
)  # test_cluster starts a scheduler and workers
def test_the_commands_of_a_block_run(project, page, block):
    if block.startswith(NOT_TESTED):
        pytest.skip(block.splitlines()[0].removeprefix("# "))
    if page in NEEDS and not find_spec(NEEDS[page]):
        pytest.skip(f"{NEEDS[page]} is not installed")
    pictures, _ = drawn_digits(2, np.random.default_rng(0))
    (project / "scans").mkdir()
    for name, picture in zip(("my_seven.png", "scans/another.png"), pictures, strict=True):
        Image.fromarray(picture).resize((112, 112)).save(project / name)
    (project / "studies").mkdir()
    shutil.copy(ROOT / "studies/dvc.yaml", project / "studies")
    study = {
        "question": "?",
        "limits": "-",
        "models": ["scratch/mlp_relu"],
        "vary": "images",
        "values": [0.5, 1],
    }
    (project / "studies/params.yaml").write_text(yaml.safe_dump({"studies": {"images": study}}))
    # `make` says what it would do: each of its targets runs in a test of its own, or is measured
    run(["bash", "-euo", "pipefail", "-c", block], project, MAKEFLAGS="n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "block"), blocks("python", but=("tracking.md",))
)  # test_tracking has its own
def test_the_program_of_a_block_runs(project, page, block):
    run([sys.executable, "-c", block], project)
    if page == "data.md":
        found = idx.find(project / "my_images")
        assert [len(idx.read(path, part.split("_")[1])) for part, path in found.items()] == [200, 200, 50, 50]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_and_files_that_a_page_names_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    unknown = set(re.findall(r"\bmake ([a-z-]+)(?=[`\n]| +#)", text_of(page))) - targets
    assert not unknown, unknown
    for name in re.findall(r"`((?:apps|docs|stages|tests|tools)/[\w./]*)`", prose(page)):
        assert (ROOT / name).exists(), name


def test_the_index_names_every_page():
    index = ROOT / "docs" / "index.md"
    linked = set(re.findall(r"\]\(([\w.-]+\.md)\)", text_of(index)))
    assert linked == {page.name for page in index.parent.glob("*.md")} - {index.name}


def test_the_readme_is_short_and_so_are_its_sentences():
    readme = ROOT / "README.md"
    assert len(text_of(readme).splitlines()) <= README_LINES
    lines = [line for line in prose(readme).splitlines() if not re.match(r"[|#!<]", line)]
    text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", "\n".join(lines))
    sentences = re.split(r"(?<=[.!?:;])\s|\n\n", text)
    assert not [sentence for sentence in sentences if len(sentence.split()) > SENTENCE_WORDS]
