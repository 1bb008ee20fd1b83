"""The scalars and tables of one model, against figures worked by hand or by another method."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import auc

from stages.evaluation import scores

GENERATOR = np.random.default_rng(3)
LABELS = GENERATOR.integers(0, 10, 500).astype(np.uint8)
LOGITS = GENERATOR.normal(size=(500, 10)) + 2.5 * np.eye(10)[LABELS]
POWERS = np.exp(LOGITS)
PROBABILITIES = (POWERS / POWERS.sum(axis=1, keepdims=True)).astype(np.float32)


def scalars(labels, probabilities):
    return scores.assess(labels, probabilities)[0]


def tables(labels, probabilities):
    return scores.assess(labels, probabilities)[1]


def certain(predicted):
    """Probabilities of 1 for these digits."""
    return np.eye(10, dtype=np.float32)[predicted]


def test_scalars_worked_by_hand():
    labels = np.array([0, 0, 1, 1], np.uint8)
    probabilities = np.zeros((4, 10), np.float32)
    probabilities[:, :2] = [[0.5, 0.5], [0.15, 0.85], [0.25, 0.75], [0, 1]]
    found = scalars(labels, probabilities)
    assert found["accuracy"] == 0.75  # a tie goes to the lower digit
    assert found["log_loss"] == pytest.approx(-np.log([0.5, 0.15, 0.75, 1]).mean(), abs=1e-6)
    # digit 0: precision 1, recall 1/2; digit 1: precision 2/3, recall 1; eight digits do not occur
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2, abs=1e-6)
    # of the four pairs (an image of 0, one of 1), digit 0's probability puts all but (0.15, 0.25) in order
    assert found["macro_auc"] == 0.75
    assert found["brier_score"] == pytest.approx((0.5 + 2 * 0.7225 + 2 * 0.0625 + 0) / 4, abs=1e-6)
    # bins of confidence: 0.5 right, 0.85 wrong, 0.75 right, 1 right
    assert found["calibration_error"] == pytest.approx((0.5 + 0.85 + 0.25 + 0) / 4, abs=1e-6)


def test_a_perfect_model_of_few_digits_is_perfect_and_a_digit_made_up_is_not():
    labels = np.array([3, 3, 7], np.uint8)
    assert scalars(labels, certain(labels))["macro_f1"] == 1
    made_up = scalars(labels, certain([3, 3, 5]))  # digit 3: 1; digit 7: recall 0; digit 5: precision 0
    assert made_up["macro_f1"] == pytest.approx(1 / 3, abs=1e-6)


def test_wilson_interval_equals_its_formula():
    found = scalars(LABELS, PROBABILITIES)
    n, p, z = len(LABELS), found["accuracy"], 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert found["accuracy_low"] == pytest.approx(centre - half, abs=1e-6)
    assert found["accuracy_high"] == pytest.approx(centre + half, abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_the_share_of_pairs_in_order(ties):
    probabilities = PROBABILITIES.round(1) if ties else PROBABILITIES
    areas = scores.per_digit(LABELS, probabilities, scores.roc_curves(LABELS, probabilities)).auc
    for digit in range(10):
        positive = digit == LABELS
        ranks = rankdata(probabilities[:, digit])  # Mann and Whitney: equal values share their ranks
        m, n = positive.sum(), (~positive).sum()
        assert areas[digit] == pytest.approx((ranks[positive].sum() - m * (m + 1) / 2) / (m * n), abs=1e-9)


def test_calibration_error_equals_its_definition():
    total = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [(p.max(), p.argmax() == t) for p, t in zip(PROBABILITIES, LABELS, strict=True)]
        inside = [(c, r) for c, r in inside if low < c <= high]
        if inside:
            confidence, right = np.mean(inside, axis=0)
            total += len(inside) / len(LABELS) * abs(confidence - right)
    assert scalars(LABELS, PROBABILITIES)["calibration_error"] == pytest.approx(total, abs=1e-6)


def test_brier_score_and_log_loss_equal_their_definitions():
    found = scalars(LABELS, PROBABILITIES)
    squares = ((PROBABILITIES - np.eye(10)[LABELS]) ** 2).sum(axis=1)
    assert found["brier_score"] == pytest.approx(squares.mean(), abs=1e-6)
    chosen = PROBABILITIES[np.arange(len(LABELS)), LABELS].astype(float)
    assert found["log_loss"] == pytest.approx(-np.log(chosen).mean(), abs=1e-5)


def test_a_certain_mistake_costs_a_finite_loss():
    assert scalars(LABELS, certain((LABELS + 1) % 10))["log_loss"] == pytest.approx(15.94, abs=0.01)


def test_precision_recall_and_f1_are_counted():
    predicted = PROBABILITIES.argmax(axis=1)
    for row in tables(LABELS, PROBABILITIES)["per_digit"].itertuples():
        both = np.sum((predicted == row.digit) & (row.digit == LABELS))
        assert row.precision == pytest.approx(both / np.sum(predicted == row.digit))
        assert row.recall == pytest.approx(both / np.sum(row.digit == LABELS))
        assert row.f1 == pytest.approx(2 * row.precision * row.recall / (row.precision + row.recall))
        assert row.support == np.sum(row.digit == LABELS)


def test_confusion_counts_rows_by_truth():
    labels = np.array([3, 3, 3, 5], np.uint8)
    table = scores.confusion(labels, certain([3, 3, 8, 5]))
    assert len(table) == 100
    cells = table.set_index(["truth", "prediction"])
    assert cells.loc[(3, 8)].tolist() == [1, pytest.approx(1 / 3, abs=1e-6)]
    assert cells.loc[(8, 3)].tolist() == [0, 0]
    assert cells["count"].sum() == 4


def near(labels, sureness):
    """Predictions that are the more often right, the surer; many are equal, as those of sure models are."""
    noise = np.random.default_rng(0).normal(size=(len(labels), 10))
    scaled = np.exp(noise + sureness * np.eye(10)[labels])
    return (scaled / scaled.sum(axis=1, keepdims=True)).round(4).astype(np.float32)


@pytest.mark.parametrize("sureness", [0, 2, 5, 8])
def test_a_curve_of_few_points_looks_like_the_whole_curve(sureness):
    labels = np.tile(np.arange(10), 400).astype(np.uint8)
    curves = scores.roc_curves(labels, near(labels, sureness))
    table = scores.thinned(curves)
    for digit, rows in table.groupby("digit"):
        assert len(rows) <= scores.ROC_POINTS
        points = rows[["false_positive_rate", "true_positive_rate"]].to_numpy()
        assert points[0].tolist() == [0, 0]
        assert points[-1].tolist() == [1, 1]
        assert (np.diff(points, axis=0) >= 0).all()
        on_steps = set(map(tuple, points)) & set(zip(*curves[digit], strict=True))
        between = points[[tuple(point) not in on_steps for point in points]]
        assert between[:, 1] == pytest.approx(np.interp(between[:, 0], *curves[digit]), abs=1e-12)
        assert auc(*points.T) == pytest.approx(auc(*curves[digit]), abs=0.0015)
        corners = [(np.log(np.maximum(x, 1e-4)), np.maximum(y, 0.8)) for x, y in (points.T, curves[digit])]
        few, whole = (np.trapezoid(y, x) for x, y in corners)
        assert few == pytest.approx(whole, rel=0.01)


def test_a_straight_piece_is_bent_where_the_axis_is_logarithmic():
    labels = np.tile(np.arange(10), 400).astype(np.uint8)
    votes = np.round(near(labels, 2) * 3) / 3  # few different scores: long straight pieces
    curves = scores.roc_curves(labels, votes)
    smallest = min(rates[rates > 0].min() for rates, _ in curves.values())  # where the picture's axis begins
    for digit, rows in scores.thinned(curves).groupby("digit"):
        x, y = np.maximum(rows.false_positive_rate, smallest / 2), rows.true_positive_rate
        rates = np.geomspace(smallest, 1, 200)
        true = np.interp(rates, *curves[digit])
        drawn = np.interp(np.log(rates), np.log(x), y)
        assert np.maximum(drawn, 0.8) == pytest.approx(np.maximum(true, 0.8), abs=0.005)


@pytest.mark.parametrize("images", [50, 100, 1000])
def test_a_curve_of_few_scores_is_bent_on_the_axis_that_all_digits_share(images):
    labels = np.tile(np.arange(10), images // 10).astype(np.uint8)
    digits = labels.copy()
    digits[::9] = (digits[::9] + 1 + np.arange(len(digits[::9])) % 3) % 10
    curves = scores.roc_curves(labels, np.eye(10, dtype=np.float32)[digits])  # a model of 0 and 1 alone
    smallest = min(rates[rates > 0].min() for rates, _ in curves.values())
    for digit, rows in scores.thinned(curves).groupby("digit"):
        rates = np.geomspace(smallest, 1, 200)
        x = np.log(np.maximum(rows.false_positive_rate, smallest / 2))
        drawn = np.interp(np.log(rates), x, rows.true_positive_rate)
        true = np.interp(rates, *curves[digit])
        assert np.maximum(drawn, 0.8) == pytest.approx(np.maximum(true, 0.8), abs=0.01)


def test_an_area_of_almost_one_is_not_written_as_one():
    labels = np.tile(np.arange(10), 1000).astype(np.uint8)
    probabilities = (0.9 * np.eye(10)[labels] + 0.01).astype(np.float32)
    assert scores.assess(labels, probabilities)[0]["macro_auc"] == 1
    probabilities[0, [0, 5]] = 0.4, 0.52
    probabilities[1, [0, 1]] = 0.41, 0.51  # one 1 is more like a 0 than one 0: the area lacks 1.1e-7
    written, tables = scores.assess(labels, probabilities)
    assert written["macro_auc"] == 0.999999
    assert tables["per_digit"].auc[0] == 0.999999
    assert scores.not_quite_one(0.5) == 0.5


def test_a_curve_without_a_corner_left_out_stays_whole():
    labels = np.tile(np.arange(10), 400).astype(np.uint8)
    curves = scores.roc_curves(labels, near(labels, 7))  # hardly ever wrong
    for digit, rows in scores.thinned(curves).groupby("digit"):
        x, y = rows.false_positive_rate.to_numpy(), rows.true_positive_rate.to_numpy()
        assert len(rows) < scores.ROC_POINTS < len(curves[digit][0])
        assert auc(x, y) == pytest.approx(auc(*curves[digit]), abs=1e-12)


def test_bins_hold_every_image_once_and_their_upper_bound():
    probabilities = np.full((4, 10), 0, np.float32)
    probabilities[:, 0] = [0.2, 0.6, 0.61, 1]
    probabilities[:, 1] = 1 - probabilities[:, 0]
    bins = scores.calibration(np.zeros(4, np.uint8), probabilities)
    assert bins.images.sum() == 4
    assert (bins.low < bins.confidence).all()
    assert (bins.confidence <= bins.high + 1e-7).all()
    assert bins.accuracy.tolist() == [1, 1, 0, 1]  # 0.6; 0.61; 0.8, of the wrong digit; 1


def test_swapped_columns_an_off_by_one_and_a_missing_class_show():
    before = scalars(LABELS, PROBABILITIES)
    swapped = scalars(LABELS, PROBABILITIES[:, [1, 0, *range(2, 10)]])
    shifted = scalars((LABELS + 1) % 10, PROBABILITIES)
    missing = PROBABILITIES.copy()
    missing[:, 7] = 0
    missing /= missing.sum(axis=1, keepdims=True)
    without, without_tables = scores.assess(LABELS, missing)
    for figure in ("accuracy", "macro_f1", "macro_auc"):
        assert swapped[figure] < before[figure] - 0.05
        assert shifted[figure] < before[figure] - 0.4
    assert without["accuracy"] < before["accuracy"]
    digits = without_tables["per_digit"].set_index("digit")
    assert digits.loc[7, ["precision", "recall", "f1", "auc"]].tolist() == [0, 0, 0, 0.5]


def test_a_digit_that_no_image_shows_is_left_out_of_the_mean_auc():
    kept = LABELS != 4
    found, found_tables = scores.assess(LABELS[kept], PROBABILITIES[kept])
    areas = found_tables["per_digit"].set_index("digit").auc
    assert np.isnan(areas[4])
    assert found["macro_auc"] == pytest.approx(areas.drop(4).mean(), abs=1e-6)
    assert set(found_tables["roc"].digit) == set(range(10)) - {4}


def test_images_of_one_digit_alone_have_no_curve_and_no_auc():
    found, found_tables = scores.assess(np.full(20, 3, np.uint8), PROBABILITIES[:20])
    assert found["macro_auc"] is None
    assert found_tables["roc"].empty
