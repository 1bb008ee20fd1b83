import numpy as np
import pandas as pd
import pytest
from conftest import tiny_arrays, write_data

from stages import embed_images
from stages.console.errors import UserError


def test_like_images_lie_together(workspace, run_stage):
    write_data(workspace, tiny_arrays(), [*"zyxwvutsrq"])
    run_stage("embed_images")
    path = workspace / "outputs/embedding.csv"
    first = path.read_bytes()
    table = pd.read_csv(path)
    assert list(table.columns) == ["image", "class", "pca_1", "pca_2", "tsne_1", "tsne_2"]
    assert len(table) == 100
    names = np.array([*"zyxwvutsrq"])
    np.testing.assert_array_equal(table["class"], names[np.load(workspace / "data/test_labels.npy")])
    for method in ("pca", "tsne"):
        points = table[[f"{method}_1", f"{method}_2"]].to_numpy()
        distances = np.linalg.norm(points[:, None] - points[None], axis=2)
        same = table["class"].to_numpy()[:, None] == table["class"].to_numpy()[None]
        apart = ~np.eye(len(points), dtype=bool)
        assert distances[same & apart].mean() < 0.6 * distances[~same].mean()
    run_stage("embed_images")
    assert path.read_bytes() == first


def test_labels_that_are_not_those_of_the_images_are_refused(workspace, run_stage):
    np.save(workspace / "data/test_labels.npy", np.zeros(99, np.uint8))
    with pytest.raises(UserError, match=r"test_images\.npy holds 100 images, but test_labels\.npy 99 labels"):
        run_stage("embed_images")


def test_principal_components_are_those_of_the_covariance():
    rows = np.random.default_rng(0).normal(size=(60, 784)).astype(np.float32)
    components, _ = embed_images.embed(rows)
    centred = rows - rows.mean(axis=0)
    values = np.linalg.svd(centred.astype(float), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(components, axis=0), values[:50], rtol=1e-3)


@pytest.mark.parametrize(
    ("images", "complaint"),
    [(np.full((40, 784), 0.5, "f4"), "all equal"), (np.zeros((3, 784), "f4"), "needs at least 4")],
)
def test_equal_images_and_too_few_for_a_plane_are_refused(images, complaint):
    with pytest.raises(UserError, match=complaint):
        embed_images.embed(images)
