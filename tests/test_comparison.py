"""Models beside each other: tests, intervals and ensembles, against figures worked by hand or by SciPy."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from stages.evaluation import comparison

LABELS = (np.arange(200) % 10).astype(np.uint8)


def right_but(wrong: list[int], sure: float = 0.91) -> np.ndarray:
    """Probabilities that are right for all images but these, where the next class is preferred."""
    predicted = LABELS.astype(int)
    predicted[wrong] = (predicted[wrong] + 1) % 10
    return ((sure - 0.01) * np.eye(10)[predicted] + (1 - sure + 0.01) / 10).astype(np.float32)


def pairs(predictions):
    return comparison.pairs(LABELS, {model: p.argmax(axis=1) for model, p in predictions.items()})


def mean_accuracy(predictions):
    return np.mean(comparison.mean_of(predictions).argmax(axis=1) == LABELS)


def test_mcnemar_worked_by_hand():
    assert comparison.mcnemar(1, 6) == pytest.approx(2 * (1 + 7) / 2**7)
    assert comparison.mcnemar(6, 1) == comparison.mcnemar(1, 6)
    assert comparison.mcnemar(3, 3) == 1
    assert comparison.mcnemar(0, 0) == 1


def test_holm_worked_by_hand():
    corrected = comparison.holm(np.array([0.04, 0.01, 0.03, 0.5]))
    assert corrected == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert comparison.holm(np.array([0.9, 0.8])).max() == 1


def test_the_interval_equals_a_bootstrap_of_the_images():
    first, second = np.ones(200), np.ones(200)
    first[:30] = 0
    second[20:70] = 0
    only_first, only_second = comparison.only(first == 1, second == 1)
    assert (only_first, only_second) == (40, 20)
    interval = comparison.bootstrap_difference(only_first, only_second, 200)
    reference = bootstrap(
        (first, second),
        lambda a, b, axis=-1: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert interval == pytest.approx((reference.low, reference.high), abs=0.006)
    assert interval[0] < 0.1 < interval[1]


def test_pairs_count_the_images_that_only_one_gets_right():
    predictions = {"a/a": right_but([0, 1, 2]), "b/b": right_but([2, 3]), "c/c": right_but([2, 3])}
    table = pairs(predictions).set_index(["model", "other"])
    assert len(table) == 3
    row = table.loc[("a/a", "b/b")]
    assert (row.only_model, row.only_other) == (1, 2)
    assert row.difference == pytest.approx(-0.005)
    assert row.difference_low < row.difference < row.difference_high
    assert row.agreement == pytest.approx(197 / 200)
    assert row.p == pytest.approx(1)
    assert table.loc[("b/b", "c/c")].tolist()[:6] == [0, 0, 1, 0, 0, 0]
    assert (table.p_holm >= table.p).all()


def test_a_vote_counts_models_and_breaks_ties_by_the_mean():
    predictions = {}
    for model, label, sureness in (("a/a", 4, 0.5), ("b/b", 4, 0.5), ("c/c", 7, 0.99)):
        p = np.full((1, 10), (1 - sureness) / 9, np.float32)
        p[0, label] = sureness
        predictions[model] = p
    mean, vote = comparison.mean_of(predictions), comparison.vote_of(predictions)
    assert (vote.dtype, vote.tolist()) == (np.uint8, [4])
    assert (mean.dtype, mean.argmax()) == (np.float32, 7)
    assert mean.sum() == pytest.approx(1, abs=1e-6)
    assert mean[0, 7] == pytest.approx((0.99 + 2 * 0.5 / 9) / 3, abs=1e-6)
    del predictions["b/b"]
    assert comparison.vote_of(predictions).tolist() == [7]


@pytest.mark.parametrize("models", [2, 10, 24, 40])
def test_a_tied_vote_follows_the_mean_however_small_its_lead(models):
    """Half of the models prefer 3, half 7, whose mean is higher by 1e-6; that of 5 is higher than both."""
    rows = np.zeros((models, 10))
    rows[::2, [3, 5, 7]], rows[1::2, [3, 5, 7]] = (0.4, 0.39, 0.21), (0.209999, 0.39, 0.400001)
    predictions = {str(number): row[None].astype(np.float32) for number, row in enumerate(rows)}
    assert comparison.mean_of(predictions).argmax() == 5
    assert comparison.vote_of(predictions).tolist() == [7]
    predictions["one more"] = rows[:1].astype(np.float32)
    assert comparison.vote_of(predictions).tolist() == [3], "a vote is more than any mean"


def test_what_a_model_adds_is_the_accuracy_with_it_less_that_without_it():
    weak, strong = right_but(list(range(60)), sure=0.4), right_but([5], sure=0.95)
    predictions = {"a/weak": weak, "b/weak": weak, "c/strong": strong}
    table = comparison.contributions(LABELS, predictions).set_index("model")
    with_all = mean_accuracy(predictions)
    without = np.mean((weak + weak).argmax(axis=1) == LABELS)
    assert table.gain["c/strong"] == pytest.approx(with_all - without)
    assert table.gained["c/strong"] - table.lost["c/strong"] == round(200 * (with_all - without))
    assert table.p["c/strong"] < 0.05 < table.p["a/weak"]
    assert table.p_holm["c/strong"] == pytest.approx(3 * table.p["c/strong"])


def test_what_is_left_without_a_model_decides_as_an_ensemble_of_the_others_would():
    generator = np.random.default_rng(0)
    for _ in range(20):
        names = [f"a/m{i}" for i in range(3)]  # each a vote of five: many equal probabilities
        votes = generator.multinomial(5, np.full(10, 0.1), size=(3, 200)) / 5
        predictions = dict(zip(names, votes.astype(np.float32), strict=True))
        table = comparison.contributions(LABELS, predictions).set_index("model")
        for name in names:
            others = {other: p for other, p in predictions.items() if other != name}
            assert table.accuracy_without[name] == mean_accuracy(others)
            with_it = table.accuracy_without[name] + table.gain[name]
            assert with_it == pytest.approx(mean_accuracy(predictions))


def test_two_models_are_compared_the_same_whatever_else_is():
    bounds = [
        comparison.bootstrap_difference(only_first, only_second, 10_000)
        for only_first, only_second in [(300, 200), (41, 40), (300, 200)]
    ]
    assert bounds[0] == bounds[2] != bounds[1]
    predictions = {name: right_but(range(at, at + 60)) for name, at in (("a/a", 0), ("b/b", 40), ("c/c", 90))}
    of_three = pairs(predictions).set_index(["model", "other"]).loc[("b/b", "c/c")]
    of_two = pairs({name: predictions[name] for name in ("b/b", "c/c")}).iloc[0]
    for figure in ("difference_low", "difference_high", "p"):
        assert of_three[figure] == of_two[figure]
