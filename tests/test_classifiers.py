"""scikit-learn's classifiers and LightGBM's: what an entry may say, what is learnt, what is told."""

import json

import numpy as np
import pytest
from conftest import left, tiny_arrays

from stages.common import dataset, results, run
from stages.console.errors import UserError
from stages.models import lightgbm, sklearn


def of(kind: str, /, **arguments: object) -> dict[str, object]:
    """An estimator of scikit-learn or LightGBM as params.yaml has it."""
    path = f"lightgbm.{kind}" if kind.startswith("LGBM") else f"sklearn.{kind}"
    return {"estimator": path, "arguments": arguments}


def build(entry: dict[str, object], seed: int = 0):
    library = lightgbm if entry["estimator"].startswith("lightgbm") else sklearn
    return sklearn.build(**entry, seed=seed, library=library), library


def edits(model: str, entry: dict[str, object]) -> dict[str, object]:
    """The edits that make `entry` the model's."""
    library = {"library": "lightgbm"} if entry.get("estimator", "").startswith("lightgbm.LGBM") else {}
    return {f"sklearn.{model}.{key}": value for key, value in (library | entry).items()}


TREE = of("tree.DecisionTreeClassifier", max_depth=1)
FOREST = of("ensemble.RandomForestClassifier", max_depth=4)
REGRESSION = of("linear_model.LogisticRegression")
BAYES = of("naive_bayes.GaussianNB")
QUICK = {"optimizer": None, "max_iter_predict": 1}
UNKNOWN = "is unknown; allowed with library: neighbors is the dotted path of a class in sklearn or stages.mod"


def inner(value: object) -> dict[str, object]:
    return {"arguments": {"n_neighbors": value}}


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"estimator": "os.system"}, f"'os.system' {UNKNOWN}"),
        ({"estimator": "lightgbm.Booster"}, f"'lightgbm.Booster' {UNKNOWN}"),
        ({"library": "xgboost"}, ".library is 'xgboost': .*'sklearn', 'lightgbm' or 'neighbors'"),
        (of("linear_model.LinearRegression"), "is no classifier"),
        (of("svm.LinearSVC"), "gives no probabilities"),
        (inner({"estimator": "os.system"}), f"'os.system' {UNKNOWN}"),
        (inner(of("svm.SVC", c=1)), "sklearn.svm.SVC has no argument 'c'; allowed: C, break_ties"),
        (inner(TREE | {"arguments": ["x"]}), r"TreeClassifier: its arguments are \['x'\]; allowed: \{"),
        (of("ensemble.BaggingClassifier", estimator="SVC"), r"its estimator is 'SVC'; allowed: \{estimator:"),
        ({"arguments": {"n_neighbours": 3}}, "no argument 'n_neighbours'; allowed: n_neighbors"),
        (inner(0), "'n_neighbors' must be a whole number from 1 to 400. Got 0"),
        ({"pixel_range": [0, 1]}, r"whole numbers from 0 to 255: let pixel_range be \[0, 255\]"),
        (of("pipeline.Pipeline"), "Pipeline: .*missing 1 required .*'steps'"),
        (of("pipeline.Pipeline", steps=[], memory="cache"), "memory would keep results where DVC does not"),
        (of("ensemble.RandomForestClassifier", n_jobs=2), "n_jobs is what `threads` decides"),
        (of("naive_bayes.CategoricalNB"), "IndexError: index"),
        (of("LGBMClassifier", n_estimater=3), "no argument 'n_estimater'; allowed: boosting_type, "),
        (of("LGBMClassifier", learning_rate=-1, verbose=-1), "LightGBMError: .*learning_rate"),
        (of("LGBMClassifier", objective="ova", n_estimators=2, verbose=-1), "probabilities do not sum to 1"),
        (of("gaussian_process.GaussianProcessClassifier", **QUICK), "it would be saved with .*choose other"),
    ],
)
def test_an_impossible_estimator_is_one_line_that_names_the_model(run_stage, entry, complaint):
    with pytest.raises(UserError, match=rf"^params\.yaml: sklearn\.knn_3[^\n]*{complaint}[^\n]*$"):
        run_stage("train_sklearn", "knn_3", **edits("knn_3", entry))
    assert not any(path.is_file() for path in results.OUTPUTS.rglob("*"))


def test_a_fault_of_the_program_is_not_told_as_the_users_mistake(run_stage, monkeypatch):
    places = {sklearn: ("to_rows", "_walk", "prepare", "parameter_count"), dataset: ("scale_pixels",)}
    places[run.Record] = "predict", "describe"
    for owner, names in places.items():
        for name in names:
            with monkeypatch.context() as broken:
                broken.setattr(owner, name, None)
                with pytest.raises(TypeError, match="'NoneType' object is not callable"):
                    run_stage("train_sklearn", "random_forest")
    assert not any(path.is_file() for path in results.OUTPUTS.rglob("*"))


def test_warnings_of_the_library_reach_the_user_once(run_stage, capsys):
    entry = of("linear_model.LogisticRegression", max_iter=1, penalty="l2")
    bagging = of("ensemble.BaggingClassifier", estimator=entry, n_estimators=3)
    run_stage("train_sklearn", "random_forest", **edits("random_forest", bagging))
    shown = capsys.readouterr().out
    assert shown.count("\nConvergenceWarning: lbfgs failed to converge") == 1
    assert shown.count("\nFutureWarning: 'penalty' was deprecated") == 1


def test_without_a_random_state_of_its_own_a_classifier_gets_the_pipelines_seed():
    for arguments, expected in (({}, 3), ({"random_state": None}, 3), ({"random_state": 0}, 0)):
        assert build(FOREST | {"arguments": arguments}, seed=3)[0].random_state == expected


def test_a_classifier_holds_images_out_only_if_it_is_asked_to(run_stage):
    for edit, held_out in (({"data.validation": 100}, 0), ({"sklearn.knn_3.validation": "3/4"}, 300)):
        run_stage("train_sklearn", "knn_3", **edit)
        description = results.load_description("sklearn", "knn_3")
        assert (description.validation_images, description.parameters) == (
            held_out,
            (400 - held_out) * 28 * 28,
        )
    shown = results.load_probabilities(results.validation("sklearn", "knn_3"), 300, 10)
    assert np.mean(shown.argmax(axis=1) == dataset.load_training(0.75).validation_labels) > 0.9


def test_a_class_that_no_training_image_shows_has_probability_zero_and_one_alone_may_be_too_few(run_stage):
    labels = tiny_arrays()["train_labels"]
    np.save("data/train_labels.npy", np.where(labels == 4, 5, labels).astype(np.uint8))
    run_stage("train_sklearn", "knn_3")
    assert (np.load(results.predictions("sklearn", "knn_3"))[:, 4] == 0).all()
    np.save("data/train_labels.npy", np.full(400, 7, np.uint8))
    with pytest.raises(UserError, match="it predicts 2 classes, but the training images show 1"):
        run_stage("train_sklearn", "boosted_trees")


@pytest.mark.parametrize(
    "entry",
    [
        of("calibration.CalibratedClassifierCV", cv=2, estimator=of("svm.LinearSVC", loss="hinge")),
        of("model_selection.GridSearchCV", cv=2, estimator=TREE, param_grid={"max_depth": [2, 3]}),
        of("ensemble.GradientBoostingClassifier", init=FOREST, n_estimators=1, max_depth=1),
        of("ensemble.BaggingClassifier", estimator=FOREST, n_estimators=2, oob_score=True),
    ],
)
def test_parts_fitted_side_by_side_repeat_to_the_bit(run_stage, entry):
    found = []
    for _ in range(4):
        run_stage("train_sklearn", "random_forest", **edits("random_forest", entry))
        found.append(left("sklearn", "random_forest"))
    assert all(again == found[0] for again in found)


COMPONENTS = of("decomposition.PCA", n_components=4)
PIPELINE = of("pipeline.Pipeline", steps=[["components", COMPONENTS], ["regression", REGRESSION]])
PASSING = of("pipeline.Pipeline", steps=[["nothing", "passthrough"], ["regression", REGRESSION]])
CALIBRATION = of("calibration.CalibratedClassifierCV", estimator=PIPELINE, ensemble=False, cv=2)
STACK = {"estimators": [["stump", TREE]], "final_estimator": REGRESSION, "cv": 2}
OF_PIPELINE = (4 * 9 + 9) + (3 * 4 + 3)


@pytest.mark.parametrize(
    ("entry", "parameters"),
    [
        (REGRESSION, 3 * 9 + 3),
        (PIPELINE, OF_PIPELINE),
        (PASSING, None),
        (BAYES, None),
        (of("LGBMClassifier", n_estimators=2, num_leaves=3, min_child_samples=1, verbose=-1), 2 * 3 * 5),
        (CALIBRATION, OF_PIPELINE),
        (of("ensemble.StackingClassifier", **STACK), 3 + (3 * 3 + 3)),
        (of("model_selection.GridSearchCV", cv=2, estimator=TREE, param_grid={"max_depth": [1]}), 3),
        (of("ensemble.GradientBoostingClassifier", n_estimators=4, max_depth=1), 4 * 3 * 3),
        (of("neighbors.KNeighborsClassifier", algorithm="ball_tree", metric="manhattan"), None),
        (of("neural_network.MLPClassifier", solver="sgd", tol=9), None),
        (of("ensemble.VotingClassifier", voting="soft", estimators=[["few", PIPELINE]]), OF_PIPELINE),
    ],
)
def test_parameters_are_counted_in_every_part_and_what_is_saved_loads_again(tmp_path, entry, parameters):
    images, labels = np.random.default_rng(0).random((60, 3, 3), np.float32), np.arange(60) % 3
    classifier, library = build(entry)
    sklearn.fit(classifier, images, labels)
    assert sklearn.parameter_count(classifier) == parameters
    (path := tmp_path / "classifier.skops").write_bytes(sklearn.dumps(classifier, library))
    again = sklearn.predict_proba(sklearn.load(path, library), images, 4)
    np.testing.assert_array_equal(again, sklearn.predict_proba(classifier, images, 4))


def test_a_description_holds_what_yaml_knows_and_json_does_not(run_stage):
    entry = of("linear_model.LogisticRegression", C=float("inf"))
    run_stage("train_sklearn", "random_forest", **edits("random_forest", entry))
    path = results.folder("sklearn", "random_forest") / "model.json"
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["recipe"]["arguments"] == {
        "C": "Infinity"
    }


def test_a_summary_says_in_a_few_words_what_a_tuned_classifier_does():
    assert sklearn.summarize(CALIBRATION) == "CalibratedClassifierCV of PCA + LogisticRegression"
    assert sklearn.summarize(FOREST | {"gray_levels": 4}) == "RandomForestClassifier, 4 gray levels"
