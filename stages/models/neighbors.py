"""Exact k nearest neighbours of images, several times faster than comparing all pixels.

PACKAGE and the five constants after it are for models/sklearn.py.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import ThreadpoolController

PACKAGE = __name__
DISTRIBUTION = "scikit-learn"
ERRORS: tuple[type[Exception], ...] = ()
TRUSTED = [f"{__name__}.ExactNeighbors"]
ARGUMENTS: frozenset[str] = frozenset()
DEFAULTS: dict[str, object] = {}

DIMENSIONS = 96
SAMPLE = 10_000
"""Images to which the projection is fitted. It affects the speed only, not the result."""
GROUPS = 1000
SPARE = 5
"""Additional images that are compared to get a tight bound."""
MANY = 7000
"""A query with more candidates is compared with all images by a matrix product, which is faster."""
AT_ONCE = 400
"""Queries that all threads together process at a time, to limit memory."""
ROUNDING = 10.0
"""Bound of float32's rounding error in a distance of two projected images, in gray levels."""
EXACT = 1024
"""Products of two numbers from -128 to 127 that float32 adds without rounding: 1024 · 128² is 2²⁴."""


class ExactNeighbors(ClassifierMixin, BaseEstimator):
    """The vote of the `n_neighbors` nearest training images, in Euclidean distance.

    Pixels are whole gray levels, 0–255, so the squared distances are exact: every computer finds the same
    neighbours. Of equally distant images, the first ones count.

    The search filters and refines (Faloutsos et al., 1994, doi:10.1145/191839.191925). A projection onto
    principal components never increases a distance. So the true distances of a few images that are near
    in the projection give an upper bound for the k-th neighbour. Only images within that bound in the
    projection, about forty per test image of MNIST, are compared pixel by pixel.
    """

    def __init__(self, n_neighbors: int = 5):
        self.n_neighbors = n_neighbors

    def fit(self, pixels: np.ndarray, labels: np.ndarray) -> "ExactNeighbors":
        """Keep the images, float32 (n, pixels) of whole numbers from 0 to 255, and labels (n,).

        Raises ValueError for other pixels or if there are fewer images than neighbours.
        """
        whole = isinstance(self.n_neighbors, Integral) and not isinstance(self.n_neighbors, bool)
        if not whole or not 1 <= self.n_neighbors <= len(pixels):
            raise ValueError(
                f"'n_neighbors' must be a whole number from 1 to {len(pixels)}. Got {self.n_neighbors!r}"
            )
        self.images_ = _gray_levels(pixels)
        self.classes_, self.labels_ = np.unique(labels, return_inverse=True)
        return self

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """The class with most votes for each image, (n,); in a tie, the first."""
        return self.classes_[self.predict_proba(pixels).argmax(axis=1)]

    def predict_proba(self, pixels: np.ndarray) -> np.ndarray:
        """Each class's share of the votes, float64 (n, classes), for images as in `fit`."""
        votes = self.labels_[self.kneighbors(pixels)]
        return np.stack([(votes == c).mean(axis=1) for c in range(len(self.classes_))], axis=1)

    def kneighbors(self, pixels: np.ndarray) -> np.ndarray:
        """Indices of the nearest training images, nearest first, int64 (n, n_neighbors)."""
        check_is_fitted(self)
        queries = _gray_levels(pixels)
        if len(self.images_) == 1:  # too few to fit a projection
            return np.zeros((len(queries), 1), np.int64)
        sample = self.images_[:: -(-len(self.images_) // SAMPLE)].astype(np.float32)
        solver = "covariance_eigh" if sample.shape[1] <= 1024 else "randomized"  # else half a minute at 64×64
        projection = PCA(min(DIMENSIONS, *sample.shape), svd_solver=solver, iterated_power=2, random_state=0)
        with np.errstate(invalid="ignore"):  # the share of the variance, if all images are the same
            projection.fit(sample)
        shadows = np.concatenate(
            [
                projection.transform(self.images_[part].astype(np.float32))
                for part in _parts(len(self.images_), 2000)
            ]
        )
        norms = np.einsum("nd,nd->n", shadows, shadows)
        factors = np.hstack([-2 * shadows, norms[:, np.newaxis]])  # |a - b|² - |a|² = -2 a·b + |b|²
        nearest = np.empty((len(queries), self.n_neighbors), np.int64)
        crowded = np.empty(len(queries), bool)

        def search(part: slice) -> None:
            points = projection.transform(queries[part].astype(np.float32))
            shadow_squares = np.hstack([points, np.ones((len(points), 1), np.float32)]) @ factors.T
            reach = (self._bounds(queries[part], shadow_squares) + ROUNDING) ** 2 + 1e-4 * norms.max()
            reach -= np.einsum("nd,nd->n", points, points)
            candidates = shadow_squares <= reach[:, np.newaxis]
            nearest[part], crowded[part] = self._refine(queries[part], candidates)

        _in_threads(search, len(queries))
        if crowded.any():
            nearest[crowded] = self._compare_all(queries[crowded])
        return nearest

    def _bounds(self, queries: np.ndarray, shadow_squares: np.ndarray) -> np.ndarray:
        """Distances (n,) within which each of the uint8 queries (n, p) has at least n_neighbors images.

        shadow_squares: (n, images), squared projected distances minus a constant per query. The images are
        divided into groups; the nearest image of each of the best groups is compared pixel by pixel.
        """
        groups = min(max(GROUPS, 2 * self.n_neighbors), shadow_squares.shape[1])
        rounds = shadow_squares.shape[1] // groups
        dealt = shadow_squares[:, : rounds * groups].reshape(-1, rounds, groups)
        count = min(self.n_neighbors + SPARE, groups)
        minima, rows = dealt.min(axis=1), np.arange(len(queries))
        best = np.empty((len(queries), count), np.int64)
        for place in range(count):  # faster than argpartition while there are few
            best[:, place] = minima.argmin(axis=1)
            minima[rows, best[:, place]] = np.inf
        turns = np.take_along_axis(dealt, best[:, np.newaxis], axis=2).argmin(axis=1)
        squares = _squares(np.repeat(queries, count, axis=0), self.images_[(turns * groups + best).ravel()])
        return np.sqrt(np.sort(squares.reshape(-1, count), axis=1)[:, self.n_neighbors - 1])

    def _refine(self, queries: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest images (n, k) of uint8 queries (n, p) among candidates, bool (n, images).

        Also returns which queries, bool (n,), have more than MANY candidates: those are skipped.
        """
        nearest = np.zeros((len(queries), self.n_neighbors), np.int64)
        rows, images = np.divmod(np.flatnonzero(candidates), len(self.images_))
        many = np.bincount(rows, minlength=len(queries)) > max(MANY, self.n_neighbors)
        rows, images = rows[~many[rows]], images[~many[rows]]
        keys = self._key(_squares(queries[rows], self.images_[images]), images)
        order = np.lexsort((keys, rows))
        starts = np.searchsorted(rows, np.flatnonzero(~many))
        nearest[~many] = images[order][starts[:, np.newaxis] + np.arange(self.n_neighbors)]
        return nearest, many

    def _compare_all(self, queries: np.ndarray) -> np.ndarray:
        """The nearest images (n, k) of uint8 queries (n, p), by matrix products with all images.

        The products are exact in float32: with 128 subtracted, no sum of EXACT products exceeds 2²⁴.
        """
        a, b = queries.astype(np.float32) - 128, self.images_.astype(np.float32) - 128
        a_norms, b_norms = (np.einsum("np,np->n", c, c, dtype=np.float64).astype(np.int64) for c in (a, b))
        nearest = np.empty((len(a), self.n_neighbors), np.int64)
        for part in _parts(len(a), 100):
            squares = a_norms[part, np.newaxis] + b_norms
            for pixels in _parts(a.shape[1], EXACT):
                squares -= 2 * (a[part, pixels] @ b[:, pixels].T).astype(np.int64)
            keys = self._key(squares, np.arange(len(b)))
            keys = np.sort(np.partition(keys, self.n_neighbors - 1, axis=1)[:, : self.n_neighbors], axis=1)
            nearest[part] = keys % len(b)
        return nearest

    def _key(self, squares: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Sort keys: by squared distance, then by index."""
        return squares * len(self.images_) + images


def _gray_levels(pixels: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # nan, which is refused
        levels = pixels.astype(np.uint8)
    if not np.array_equal(levels, pixels):
        raise ValueError("'pixels' must be whole numbers from 0 to 255: let pixel_range be [0, 255]")
    return levels


def _squares(queries: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Squared distances, int64 (n,), between uint8 queries (n, p) and as many images (n, p)."""
    squares = np.empty(len(queries), np.int64)
    for part in _parts(len(queries), 2000):
        difference = queries[part].astype(np.int32) - images[part]
        squares[part] = np.einsum("np,np->n", difference, difference)
    return squares


def _parts(rows: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows, to limit memory."""
    return (slice(start, start + size) for start in range(0, rows, size))


def _in_threads(work: Callable[[slice], None], rows: int) -> None:
    """Call `work` with slices of all rows, in as many threads as BLAS has. Each call uses one BLAS thread.

    At most about AT_ONCE rows are processed at a time.
    """
    products = ThreadpoolController().select(user_api="blas")
    threads = max((library.num_threads for library in products.lib_controllers), default=1)
    with products.limit(limits=1), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, _parts(rows, max(1, AT_ONCE // threads))):
            pass  # an error in a thread is raised here
