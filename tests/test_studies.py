"""Studies: what is planned, that it runs again only if its results may change, and what the tables say."""

import datetime
import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, TEST, dvc, edit_params, ran, tiny_arrays

from apps import trials
from apps.studies import draw, plan, run
from stages.common import params
from stages.console.errors import UserError

TEXTS = {"question": "What <then>?", "limits": "Much & more."}
STUDIES = {
    "batch_size": {
        "models": ["scratch/mlp_relu", "scratch/mlp_sigmoid"],
        "alone": True,
        "vary": "batch_size",
        "values": [16, 64],
        "seeds": 2,
        "images": "1/2",
    },
    "seeds": {"models": ["scratch/mlp_relu"], "vary": "seed", "values": [0, 1, 2]},
    "images": {"models": ["sklearn/knn_3"], "vary": "images", "values": ["1/4", 1]},
}
STUDIES = {name: TEXTS | study for name, study in STUDIES.items()}


@pytest.fixture(autouse=True)
def _few(workspace, monkeypatch):
    monkeypatch.delenv(trials.SCHEDULER, raising=False)
    edit_params(workspace, "threads", 1)
    Path("studies").mkdir()
    write(STUDIES)


def write(content: dict, path: Path = plan.STUDIES) -> None:
    path.write_text(yaml.safe_dump({"studies": content}, sort_keys=False), encoding="utf-8")
    params.content.cache_clear()


def test_a_study_is_planned_run_and_drawn(workspace, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["plan"])
    plan.main()
    tables = {}
    for name in STUDIES:
        monkeypatch.setattr(sys, "argv", ["run", name])
        run.main()
        tables[name] = pd.read_csv(run.RESULTS / name / "trials.csv")
    monkeypatch.setattr(sys, "argv", ["draw"])
    draw.main()

    table = tables["batch_size"]
    expected = itertools.product(STUDIES["batch_size"]["models"], (16, 64), (0, 1))
    assert list(table[["model", "value", "seed"]].itertuples(index=False, name=None)) == list(expected)
    assert set(table.training_images) == {200 - 40}, "of half of the images, and 40 are held out"
    of_small = table[(table.model == "scratch/mlp_relu") & (table.value == 16)]
    assert of_small.accuracy.nunique() == 2, "another seed is another network"
    assert list(tables["images"].training_images) == [100, 400]
    assert tables["images"].accuracy.is_monotonic_increasing
    trial = trials.make("scratch/mlp_relu", {"seed": 1})
    right = trials.run(trial).predictions().argmax(axis=1) == tiny_arrays()["test_labels"]
    assert tables["seeds"].accuracy[1] == right.mean()

    assert {path.stem for path in draw.PLOTS.iterdir()} == set(STUDIES)
    page = draw.PAGE.read_text()
    assert all(f'src="plots/{name}.png"' in page for name in STUDIES)
    assert page.count("What &lt;then&gt;?</b>") == page.count("Much &amp; more.") == len(STUDIES)
    assert not list(Path("studies").rglob("*partial*")), "what was kept on the way is gone"


def test_a_study_that_was_killed_goes_on_after_what_it_had(workspace, monkeypatch):
    trainings = plan.plan("seeds", plan.Study(**STUDIES["seeds"]))
    kept = run.RESULTS / "seeds.partial.kept"
    run.run("seeds", trainings[:2], kept)
    asked = []
    really = trials.run_all
    monkeypatch.setattr(
        trials, "run_all", lambda pool, queue: asked.append(len(queue)) or really(pool, queue)
    )
    run.run("seeds", trainings, kept)
    assert asked == [1]
    changed = plan.plan("seeds", plan.Study(**STUDIES["seeds"] | {"images": 0.5}))
    run.run("seeds", changed, kept)
    assert asked == [1, 3], "what is kept of other trainings is not theirs"


def test_a_training_that_failed_is_tried_again_by_the_next_run(workspace):
    training, *_ = plan.plan("seeds", plan.Study(**STUDIES["seeds"]))
    kept = Path("kept")
    kept.mkdir()
    run.keep(kept, training, trials.Result([], False, "no memory", {}, "scratch", "mlp_relu"))
    run.run("seeds", [training], kept)
    row, predictions = run.load(kept, training)
    assert row["failure"] is None and row["accuracy"] == pytest.approx(
        (predictions.argmax(axis=1) == tiny_arrays()["test_labels"]).mean()
    )


def test_a_study_that_is_being_run_is_not_run_twice(workspace, monkeypatch):
    write(STUDIES)
    (run.RESULTS / "seeds.partial.kept").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["run", "seeds"])
    running = trials.only_one(run.RESULTS / "seeds.partial.kept/lock", "this")
    with running, pytest.raises(UserError, match="the study seeds is being run by another process"):
        run.main()


def test_seconds_count_only_of_trainings_that_ran_alone():
    row = {"model": "m", "seed": 0, "failure": None, "accuracy": 0.5, "validation_accuracy": 0.5}
    row |= {"peak_mebibytes": 1, "parameters": 1, "training_images": 1}
    timed = [
        {"value": 1, "training_seconds": 3, "side_by_side": 1},
        {"value": 1, "training_seconds": 9, "side_by_side": 2},
    ]
    table = pd.DataFrame([row | each for each in timed])
    study = plan.Study(question="", limits="", models=["m"], vary="batch_size", values=[1, 2], alone=True)
    assert draw.summarize(study, table)["training (s)"].tolist() == [3]
    together = study.model_copy(update={"alone": False})
    assert "training (s)" not in draw.summarize(together, table)


def test_a_training_that_fails_is_a_row_that_says_why(workspace, monkeypatch):
    write({"rates": STUDIES["batch_size"] | {"vary": "learning_rate", "values": [0.01, 1e30], "seeds": 1}})
    for module, arguments in ((plan, []), (run, ["rates"]), (draw, [])):
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        module.main()
    table = pd.read_csv(run.RESULTS / "rates" / "trials.csv")
    assert table.accuracy.notna().tolist() == [True, False, True, False]
    assert table.failure[1].startswith("scratch.mlp_relu: the loss became nan")
    write({"rates": STUDIES["batch_size"] | {"vary": "learning_rat", "values": [1, 2]}})
    monkeypatch.setattr(sys, "argv", ["plan"])
    plan.main()
    monkeypatch.setattr(sys, "argv", ["run", "rates"])
    with pytest.raises(UserError, match=r"rates: .*learning_rat is unknown"):
        run.main()


def planned(name: str) -> str:
    params.content.cache_clear()
    return json.dumps(plan.plan(name, plan.Study(**STUDIES[name])))


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("scratch.mlp_relu.epochs", 2, {"batch_size", "seeds"}),
        ("scratch.cnn.epochs", 2, set()),
        ("sklearn.knn_3.arguments.n_neighbors", 4, {"images"}),
        ("architectures.mlp_sigmoid", [{"dense": 9}, {"dense": "classes"}], {"batch_size"}),
    ],
)
def test_a_plan_changes_if_and_only_if_a_result_may(workspace, key, value, changed):
    before = {name: planned(name) for name in STUDIES}
    edit_params(workspace, key, value)
    assert {name for name in STUDIES if planned(name) != before[name]} == changed


def test_other_images_change_every_plan(workspace):
    before = {name: planned(name) for name in STUDIES}
    np.save("data/train_labels.npy", tiny_arrays()["train_labels"][::-1])
    assert not [name for name in STUDIES if planned(name) == before[name]]


def test_the_mean_of_k_seeds_is_over_all_choices_of_k(workspace):
    labels = tiny_arrays()["test_labels"]
    generator = np.random.default_rng(0)
    arrays = tuple(generator.dirichlet(np.ones(10), TEST).astype(np.float32) for _ in range(3))
    table = run.means(pd.DataFrame({"model": ["a/b"] * 3}), arrays).set_index("seeds")
    for k in (1, 2, 3):
        found = [
            np.mean(np.mean(some, axis=0).argmax(axis=1) == labels)
            for some in itertools.combinations(arrays, k)
        ]
        expected = [np.mean(found), min(found), max(found)]
        assert table.loc[k, ["accuracy", "accuracy_low", "accuracy_high"]].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["scratch/mlp"]}, r"scratch/mlp is unknown; params\.yaml has "),
        ({"vary": "arguments.C"}, r"scratch\.mlp_relu\.arguments\.C is missing"),
        ({"values": [3]}, r"studies/params\.yaml: studies\.batch_size\.values is \[3\]"),
        ({"vary": "images", "values": ["1/2", 2]}, r"studies\.batch_size\.values\.1 is 2"),
        ({"images": "half"}, r"studies\.batch_size\.images is 'half'"),
        ({"values": [16, 16]}, "studies.batch_size: values: one of them is there twice"),
        ({"vary": "images", "values": ["1/2", 0.5]}, "values: one of them is there twice"),
        (
            {"vary": "images", "values": [True, 0.5]},
            r"studies\.batch_size\.values\.0 is True: allowed: a share",
        ),
        ({"vary": "seed", "seeds": 2}, "studies.batch_size: seeds: where the seed varies, allowed: 1"),
        ({"vary": ""}, r"studies\.batch_size\.vary is ''"),
        ({"values": [16, float("nan")]}, r"studies\.batch_size\.values\.1 is nan: allowed: a number, text"),
        ({"values": [{1: 2, "a": 3}, 5]}, r"studies\.batch_size\.values\.0 is .*: allowed: a number, text"),
        ({"values": [datetime.date(2024, 1, 1), 5]}, r"values\.0 is .*: allowed: a number, text"),
        (
            {"seed": 3},
            r"studies\.batch_size\.seed is unknown; allowed: alone, images, limits, models, question, seeds",
        ),
    ],
)
def test_a_wrong_study_is_named_in_one_line(workspace, monkeypatch, change, message):
    write(STUDIES | {"batch_size": STUDIES["batch_size"] | change})
    monkeypatch.setattr(sys, "argv", ["plan"])
    with pytest.raises(UserError, match=message):
        plan.main()


def test_a_file_without_studies_is_one_line(workspace, monkeypatch):
    write({})
    monkeypatch.setattr(sys, "argv", ["plan"])
    with pytest.raises(UserError, match=r"studies/params\.yaml: studies is empty"):
        plan.main()


def test_the_shipped_studies_can_be_planned(workspace, monkeypatch, capsys):
    for path in ("params.yaml", "architectures.yaml", "studies/params.yaml"):
        shutil.copy(ROOT / path, path)
    params.content.cache_clear()
    monkeypatch.setattr(sys, "argv", ["plan"])
    plan.main()
    printed = capsys.readouterr().out
    for name, study in params.content(plan.STUDIES)["studies"].items():
        count = len(study["models"]) * len(study["values"]) * study.get("seeds", 1)
        assert f"{name}: {count} trainings" in printed


@pytest.mark.slow
def test_dvc_runs_a_study_again_only_if_it_may_come_out_otherwise(project):
    def repeated() -> set[str]:
        return {name.rpartition(":")[2] for name in ran(dvc(project, "repro", "studies/dvc.yaml"))}

    assert ran(dvc(project, "repro")) == [], "the studies are a pipeline of their own"
    (project / "studies").mkdir()
    shutil.copy(ROOT / "studies/dvc.yaml", project / "studies")
    write(STUDIES, project / plan.STUDIES)
    assert repeated() == {"plan", "draw", *(f"run@{name}" for name in STUDIES)}
    assert (project / draw.PAGE).is_file()
    assert repeated() == set()
    edit_params(project, "pytorch.linear.epochs", 2)
    assert repeated() == {"plan"}
    edit_params(project, "sklearn.knn_3.arguments.n_neighbors", 4)
    assert repeated() == {"plan", "run@images", "draw"}
