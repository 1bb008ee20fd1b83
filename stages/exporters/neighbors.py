"""Nearest neighbours as an ONNX graph, with integer distances, as in the model."""

import numpy as np
from onnx import TensorProto

from stages.exporters.classifiers import probabilities
from stages.exporters.graph import Graph, whole
from stages.models.neighbors import ExactNeighbors


@probabilities.register
def _(classifier: ExactNeighbors, graph: Graph, rows: str) -> str:
    """int32 holds distances of images of up to 16,000 pixels. Of equal distances, TopK takes the first."""
    images, count = classifier.images_, np.array(classifier.n_neighbors, np.float32)
    squares = np.einsum("np,np->n", images, images, dtype=np.int64).astype(np.int32)
    products = graph.add("MatMulInteger", graph.add("Cast", rows, to=TensorProto.UINT8), images.T)
    # |a - b|² without |a|², which all images share
    distances = graph.add("Sub", squares, graph.add("Mul", products, np.array(2, np.int32)))
    nearest = graph.add("TopK", distances, whole(classifier.n_neighbors), outputs=2, largest=0)
    labels = graph.add("Gather", classifier.labels_.astype(np.int64), nearest)
    votes = graph.add("Gather", np.eye(len(classifier.classes_), dtype=np.float32), labels)
    return graph.add("Div", graph.add("ReduceSum", votes, whole(1), keepdims=0), count)
