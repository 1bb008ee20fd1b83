"""The exact search of neighbours against comparing every pixel in whole numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from stages.models import neighbors
from stages.models.neighbors import ExactNeighbors


def by_hand(images: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Indices (n, k) of the nearest images: a stable sort keeps the first of equals first."""
    squares = [((images.astype(np.int64) - query) ** 2).sum(axis=1) for query in queries.astype(np.int64)]
    return np.argsort(squares, axis=1, kind="stable")[:, :k]


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_the_nearest_are_found_in_order_ties_and_duplicates_included(data, seed):
    generator = np.random.default_rng(seed)
    n = data.draw(st.integers(2, 300), label="images")
    k = data.draw(st.integers(1, n), label="neighbours")
    levels = data.draw(st.sampled_from([2, 7, 256]), label="gray levels")  # few levels, many ties
    kinds = generator.integers(0, levels, (max(1, n // 3), 40)) * (255 // (levels - 1))
    images = kinds[generator.integers(0, len(kinds), n)].astype(np.uint8)
    queries = np.concatenate([images[:5], generator.integers(0, 256, (20, 40)).astype(np.uint8)])
    search = ExactNeighbors(k).fit(images.astype(np.float32), np.arange(n) % 10)
    np.testing.assert_array_equal(search.kneighbors(queries.astype(np.float32)), by_hand(images, queries, k))


def far_apart(generator: np.random.Generator) -> np.ndarray:
    """Images whose squared distances lie far beyond 2²⁴, half of them darker."""
    images = generator.integers(0, 256, (960, 784)).astype(np.uint8)
    images[::2] //= 8
    return images


def close(generator: np.random.Generator) -> np.ndarray:
    """64×64 images whose squared distances are about 80, differences of sums that float32 rounds to fours."""
    noise = generator.integers(-1, 2, (360, 64 * 64)) * (generator.random((360, 64 * 64)) < 0.015)
    return (generator.choice([1, 254], 64 * 64) + noise).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "dimensions", "many", "all_compared"),
    [
        (far_apart, 1, 100, True),
        (far_apart, 8, 300, True),
        (far_apart, 784, 800, False),
        (close, 96, 40, True),
        (close, 96, 7000, False),
    ],
)
def test_the_result_is_exact_whatever_the_filter_lets_through(
    monkeypatch, kind, dimensions, many, all_compared
):
    compared, compare_all = [], ExactNeighbors._compare_all
    monkeypatch.setattr(neighbors, "DIMENSIONS", dimensions)
    monkeypatch.setattr(neighbors, "MANY", many)
    monkeypatch.setattr(
        ExactNeighbors, "_compare_all", lambda *both: compared.append(both) or compare_all(*both)
    )
    queries, images = np.split(kind(np.random.default_rng(0)), [60])
    search = ExactNeighbors(3).fit(images.astype(np.float32), np.arange(len(images)) % 10)
    np.testing.assert_array_equal(search.kneighbors(queries.astype(np.float32)), by_hand(images, queries, 3))
    assert bool(compared) == all_compared, "not the case it is for"


def test_votes_are_those_of_scikit_learn():
    generator = np.random.default_rng(1)
    images, queries = np.split(generator.integers(0, 256, (600, 784)).astype(np.float32), [500])
    labels = generator.integers(0, 10, 500)
    ours = ExactNeighbors(5).fit(images, labels)
    theirs = KNeighborsClassifier(5, algorithm="brute").fit(images, labels)
    np.testing.assert_allclose(ours.predict_proba(queries), theirs.predict_proba(queries))
    np.testing.assert_array_equal(ours.predict(queries), theirs.predict(queries))
    alone = ExactNeighbors(1).fit(images[:1], np.array([4]))
    assert alone.predict(queries[:3]).tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("pixel", "count", "complaint"),
    [
        *((pixel, 1, r"from 0 to 255: let pixel_range be \[0, 255\]") for pixel in (0.5, -1, 256, np.nan)),
        *((0, count, "'n_neighbors' must be a whole number from 1 to 3") for count in (0, 4, 1.5, True)),
    ],
)
def test_pixels_that_are_no_gray_levels_and_impossible_numbers_of_neighbours_are_refused(
    pixel, count, complaint
):
    images = np.zeros((3, 784), np.float32)
    images[1, 5] = pixel
    with pytest.raises(ValueError, match=complaint):
        ExactNeighbors(count).fit(images, np.arange(3))
