"""Place the test images in two dimensions, similar ones close together, by PCA and t-SNE.

    python -m stages.embed_images

Reads data/dataset.json and data/test_{images,labels}.npy. Writes outputs/embedding.csv: image (its row in
data/), class and the coordinates pca_1, pca_2, tsne_1, tsne_2 of the first 2,000 test images. Takes about
5 s.
"""

from stages.common import environment

if __name__ == "__main__":
    environment.prepare()

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from stages.common import dataset, files, results
from stages.console import command
from stages.console.errors import UserError

IMAGES = 2000
COMPONENTS = 50
PERPLEXITY = 30


def main() -> None:
    command.no_arguments(__doc__)
    environment.use_all_threads()
    images, labels = dataset.load_test()
    pixels, labels = dataset.scale_pixels(images, (0, 1)), labels[:IMAGES]
    components, plane = embed(pixels.reshape(len(pixels), -1))
    names = np.array(dataset.describe().classes)
    table = pd.DataFrame({"image": np.arange(len(labels)), "class": names[labels]})
    table[["pca_1", "pca_2"]] = components[:, :2]
    table[["tsne_1", "tsne_2"]] = plane
    text = table.to_csv(index=False, lineterminator="\n", float_format="%.5g")
    with files.replacing(results.OUTPUTS / "embedding.csv") as (partial,):
        files.write_text(partial, text)
    print(f"{len(table)} test images in two dimensions")


def embed(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the first IMAGES of `rows`: PCA, (images, 50), and t-SNE of these, (images, 2).

    rows: float32 (n, pixels); PCA is fitted to all of them. Fewer than 50 rows have as many components. PCA:
    Hotelling, 1933. t-SNE: van der Maaten and Hinton, 2008, JMLR 9. Raises UserError for fewer than four
    rows, or if all are equal.
    """
    if len(rows) < 4:
        raise UserError(f"{dataset.FOLDER}: {len(rows)} test images; t-SNE needs at least 4")
    pca = PCA(min(COMPONENTS, *rows.shape), random_state=0)
    with np.errstate(invalid="ignore"):  # shares of the variance, if it is 0
        components = pca.fit(rows).transform(rows[:IMAGES])
    if np.ptp(components, axis=0).max() < 1e-6:
        raise UserError(f"{dataset.FOLDER}: the test images are all equal; t-SNE needs different ones")
    tsne = TSNE(
        perplexity=min(PERPLEXITY, (len(components) - 1) / 3),
        init="pca",
        max_iter=500,
        random_state=0,
    )
    return components, tsne.fit_transform(components)


if __name__ == "__main__":
    command.run(main)
