"""The scalars and tables of one model, against figures worked by hand or scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from stages.evaluation import scores

CLASSES = ("Shirt", "Ankle boot", "Bag", "Coat", "zero", "10", "9", "NA", "Dress", "Sandal")
GENERATOR = np.random.default_rng(3)
LABELS = GENERATOR.integers(0, 10, 500).astype(np.uint8)
POWERS = np.exp(GENERATOR.normal(size=(500, 10)) + 2.5 * np.eye(10)[LABELS])
PROBABILITIES = (POWERS / POWERS.sum(axis=1, keepdims=True)).astype(np.float32)
PREDICTED = PROBABILITIES.argmax(axis=1)
TRUE = np.eye(10)[LABELS]


def assess(labels, probabilities):
    return scores.assess(labels, probabilities, CLASSES)


def certain(predicted):
    """Probabilities of 1 for these classes."""
    return np.eye(10, dtype=np.float32)[predicted]


def test_scalars_worked_by_hand():
    labels = np.array([0, 0, 1, 1], np.uint8)
    probabilities = np.zeros((4, 10), np.float32)
    probabilities[:, :2] = [[0.5, 0.5], [0.15, 0.85], [0.25, 0.75], [0, 1]]
    found, _ = assess(labels, probabilities)
    assert found["accuracy"] == 0.75  # a tie goes to the first class
    assert found["log_loss"] == pytest.approx(-np.log([0.5, 0.15, 0.75, 1]).mean(), abs=1e-6)
    # class 0: precision 1, recall 1/2; class 1: precision 2/3, recall 1; eight classes do not occur
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2, abs=1e-6)
    # of the four pairs (an image of 0, one of 1), class 0's probability puts all but (0.15, 0.25) in order
    assert found["macro_auc"] == 0.75
    assert found["brier_score"] == pytest.approx((0.5 + 2 * 0.7225 + 2 * 0.0625 + 0) / 4, abs=1e-6)
    # bins of confidence: 0.5 right, 0.85 wrong, 0.75 right, 1 right
    assert found["calibration_error"] == pytest.approx((0.5 + 0.85 + 0.25 + 0) / 4, abs=1e-6)


@pytest.mark.parametrize("places", [7, 1])  # of one there are many ties
def test_scalars_are_scikit_learn_s(places):
    probabilities = PROBABILITIES.round(places)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found, _ = assess(LABELS, probabilities)
    predicted, known = probabilities.argmax(axis=1), probabilities.astype(float)
    for name, expected in {
        "accuracy": metrics.accuracy_score(LABELS, predicted),
        "macro_f1": metrics.f1_score(LABELS, predicted, average="macro"),
        "macro_auc": np.mean([metrics.roc_auc_score(TRUE[:, c], known[:, c]) for c in range(10)]),
        "brier_score": np.mean(np.sum((known - TRUE) ** 2, axis=1)),
        "log_loss": metrics.log_loss(LABELS, probabilities),
    }.items():
        assert found[name] == pytest.approx(expected, abs=2e-6), name


def test_a_perfect_model_of_few_classes_is_perfect_and_a_class_made_up_is_not():
    labels = np.array([3, 3, 7], np.uint8)
    assert assess(labels, certain(labels))[0]["macro_f1"] == 1
    made_up, _ = assess(labels, certain([3, 3, 5]))  # class 3: 1; class 7: recall 0; class 5: precision 0
    assert made_up["macro_f1"] == pytest.approx(1 / 3, abs=1e-6)


@pytest.mark.parametrize(("correct", "images"), [(0, 20), (7, 20), (20, 20), (9923, 10_000)])
def test_wilson_s_interval_is_scipy_s(correct, images):
    from scipy.stats import binomtest

    interval = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    assert scores.wilson_interval(correct, images) == pytest.approx((interval.low, interval.high), abs=1e-8)


def test_calibration_error_equals_its_definition():
    total = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [(p.max(), p.argmax() == t) for p, t in zip(PROBABILITIES, LABELS, strict=True)]
        inside = [(c, r) for c, r in inside if low < c <= high]
        if inside:
            confidence, right = np.mean(inside, axis=0)
            total += len(inside) / len(LABELS) * abs(confidence - right)
    assert assess(LABELS, PROBABILITIES)[0]["calibration_error"] == pytest.approx(total, abs=1e-6)


def test_a_certain_mistake_costs_a_finite_loss():
    found, _ = assess(LABELS, certain((LABELS + 1) % 10))
    assert found["log_loss"] == pytest.approx(15.94, abs=0.01)


def test_classes_have_scikit_learn_s_figures_in_the_data_set_s_order():
    table = assess(LABELS, PROBABILITIES)[1]["per_class"]
    assert tuple(table["class"]) == CLASSES
    expected = metrics.precision_recall_fscore_support(LABELS, PREDICTED)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert table[name].to_numpy() == pytest.approx(values), name


def test_the_confusion_table_has_every_class_once_and_every_mistake_that_occurs():
    labels = np.array([3, 3, 3, 5], np.uint8)
    table = assess(labels, certain([3, 3, 8, 5]))[1]["confusion"]
    assert tuple(table.truth[:10]) == tuple(table.prediction[:10]) == CLASSES
    assert table.iloc[10:].values.tolist() == [["Coat", "Dress", 1, pytest.approx(1 / 3)]]
    assert table.set_index("truth")["count"]["10"] == 1
    everything = assess(LABELS, PROBABILITIES)[1]["confusion"].set_index(["truth", "prediction"])
    counts = metrics.confusion_matrix(LABELS, PREDICTED)
    for (truth, prediction), row in everything.iterrows():
        assert row["count"] == counts[CLASSES.index(truth), CLASSES.index(prediction)]
    assert everything["count"].sum() == counts.sum()


def sure(labels, sureness):
    """Predictions that are the more often right, the surer; many are equal, as those of sure models are."""
    noise = np.random.default_rng(0).normal(size=(len(labels), 10))
    scaled = np.exp(noise + sureness * np.eye(10)[labels])
    return (scaled / scaled.sum(axis=1, keepdims=True)).round(4).astype(np.float32)


@pytest.mark.parametrize("sureness", [0, 2, 5, 8])
@pytest.mark.parametrize("images", [50, 4000])
def test_a_sampled_curve_is_shifted_by_a_twelfth_of_a_decade_at_most(sureness, images):
    labels = np.tile(np.arange(10), images // 10).astype(np.uint8)
    probabilities = sure(labels, sureness)
    for label, (_, rows) in enumerate(assess(labels, probabilities)[1]["roc"].groupby("class", sort=False)):
        true = metrics.roc_curve(labels == label, probabilities[:, label], drop_intermediate=False)[:2]
        x, y = rows.false_positive_rate.to_numpy(), rows.true_positive_rate.to_numpy()
        assert (x[0], x[-1], y[-1]) == (0, 1, 1)
        rates = np.geomspace(1.3 / images, 1, 500)
        drawn, shift = np.interp(rates, x, y), 10 ** (1 / 12) + 1e-9
        assert (drawn >= np.interp(rates / shift, *true) - 1e-9).all()
        assert (drawn <= np.interp(rates * shift, *true) + 1e-9).all()
        assert len(rows) <= 50


def test_an_area_of_almost_one_is_not_written_as_one():
    labels = np.tile(np.arange(10), 1000).astype(np.uint8)
    probabilities = (0.9 * np.eye(10)[labels] + 0.01).astype(np.float32)
    assert assess(labels, probabilities)[0]["macro_auc"] == 1
    probabilities[0, [0, 5]] = 0.4, 0.52
    probabilities[1, [0, 1]] = 0.41, 0.51  # one 1 is more like a 0 than one 0: the area lacks 1.1e-7
    written, tables = assess(labels, probabilities)
    assert written["macro_auc"] == 0.999999
    assert tables["per_class"].auc[0] == 0.999999


def test_bins_hold_every_image_once_and_their_upper_bound():
    probabilities = np.full((4, 10), 0, np.float32)
    probabilities[:, 0] = [0.2, 0.6, 0.61, 1]
    probabilities[:, 1] = 1 - probabilities[:, 0]
    bins = scores.calibration(np.zeros(4, np.uint8), probabilities)
    assert bins.images.sum() == 4
    assert (bins.low < bins.confidence).all()
    assert (bins.confidence <= bins.high + 1e-7).all()
    assert bins.accuracy.tolist() == [1, 1, 0, 1]  # 0.6; 0.61; 0.8, of the wrong class; 1


def held_out(wrong: list[int], images: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of images, the surest first, the last at 0.3; those at these places wrong."""
    labels = np.arange(images) % 10
    predicted = labels.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    confidence = np.linspace(0.99, 0.3, images)
    probabilities = np.tile((1 - confidence[:, None]) / 9, 10)
    probabilities[np.arange(images), predicted] = confidence
    return labels.astype(np.uint8), probabilities.astype(np.float32)


@pytest.mark.parametrize(("images", "enough"), [(0, False), (40, False), (764, False), (765, True)])
def test_so_few_images_that_no_mistake_proves_nothing_choose_no_threshold(images, enough):
    threshold = scores.sure_above(*held_out([], images), 0.005)
    assert threshold == (pytest.approx(0) if enough else None)


@pytest.mark.parametrize("ties", [1, 40])
def test_the_threshold_is_the_lowest_whose_answers_are_right_often_enough(ties):
    labels, probabilities = held_out([1500, 2100, *range(3000, 4000, 7)], 4000)
    probabilities = np.repeat(probabilities[::ties], ties, axis=0)
    labels = np.repeat(labels[::ties], ties)
    threshold = scores.sure_above(labels, probabilities, 0.005)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels

    def enough(above: float) -> bool:
        sure = confidence > above
        return scores.wilson_interval(right[sure].sum(), sure.sum())[0] >= 0.995

    assert enough(threshold)
    lower = np.unique(confidence[confidence <= threshold])
    assert len(lower) and not any(enough(above - 1e-6) for above in lower)
    assert threshold == round(threshold, 6), "as a table keeps it"
    found = scores.answered(labels, probabilities, threshold)
    assert found["answered"] == np.mean(confidence > threshold)
    assert found["wrong_answers"] == pytest.approx(np.mean(~right[confidence > threshold]))
    assert found["wrong_answers"] <= 0.005


def test_a_model_that_is_never_right_enough_answers_nothing_surely():
    labels, probabilities = held_out(list(range(0, 4000, 20)), 4000)
    assert scores.sure_above(labels, probabilities, 0.005) == 1
    probabilities[:] = np.eye(10)[(labels + 1) % 10]  # wrong, and as sure as can be
    assert scores.sure_above(labels, probabilities, 0.005) == 1
    assert scores.answered(labels, probabilities, 1.0) == {"answered": 0, "wrong_answers": None}
    assert scores.answered(labels, probabilities, None) == {"answered": None, "wrong_answers": None}


def test_a_class_that_is_never_predicted_has_no_precision_and_no_recall():
    missing = PROBABILITIES.copy()
    missing[:, 7] = 0
    missing /= missing.sum(axis=1, keepdims=True)
    of_class = assess(LABELS, missing)[1]["per_class"].set_index("class").loc["NA"]
    assert of_class[["precision", "recall", "f1", "auc"]].tolist() == [0, 0, 0, 0.5]


def test_a_class_that_no_image_shows_is_left_out_of_the_mean_auc():
    kept = LABELS != 4
    found, tables = assess(LABELS[kept], PROBABILITIES[kept])
    areas = tables["per_class"].auc
    assert np.isnan(areas[4])
    assert found["macro_auc"] == pytest.approx(areas.drop(4).mean(), abs=1e-6)
    assert set(tables["roc"]["class"]) == set(CLASSES) - {"zero"}


def test_images_of_one_class_alone_have_no_curve_and_no_auc():
    found, tables = assess(np.full(20, 3, np.uint8), PROBABILITIES[:20])
    assert found["macro_auc"] is None
    assert tables["roc"].empty


def test_predicted_classes_alone_have_no_figures_that_need_probabilities():
    scalars, tables = scores.assess_predictions(LABELS, PREDICTED.astype(np.uint8), CLASSES)
    everything, all_tables = assess(LABELS, PROBABILITIES)
    assert scalars == {name: everything[name] for name in scalars}
    assert set(scalars) == {"accuracy", "accuracy_low", "accuracy_high", "macro_f1"}
    assert set(tables) == {"confusion", "per_class"}
    assert tables["per_class"].equals(all_tables["per_class"].drop(columns="auc"))
