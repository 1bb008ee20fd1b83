"""scikit-learn's forests and LightGBM's boosted trees as ONNX graphs with one operator, TreeEnsemble."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, numpy_helper
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from stages.exporters.classifiers import probabilities
from stages.exporters.graph import Graph, whole
from stages.models.lightgbm import lightgbm


@dataclass(frozen=True)
class Tree:
    """A decision tree; node 0 is the root.

    features, thresholds: what each inner node compares, (nodes,); values up to the threshold go left.
    left, right: the next node, (nodes,); below 0 it is a leaf: -1 is the first, -2 the second.
    values: of the leaves, (leaves,). target: the output to which the leaf's value is added.
    """

    features: np.ndarray
    thresholds: np.ndarray
    left: np.ndarray
    right: np.ndarray
    values: np.ndarray
    target: int


@probabilities.register(RandomForestClassifier)
@probabilities.register(ExtraTreesClassifier)
def _(classifier: RandomForestClassifier | ExtraTreesClassifier, graph: Graph, rows: str) -> str:
    """The trees give the row of a table with their leaf's class shares. Leaves of one class alone, which most
    are, share a row. float32 holds rows up to 2²⁴."""
    classes = len(classifier.classes_)
    of_trees = [each.tree_.value[each.tree_.children_left < 0, 0] for each in classifier.estimators_]
    shares, ends = np.concatenate(of_trees), np.cumsum([len(of_tree) for of_tree in of_trees])
    mixed = shares.max(axis=1) < 1
    places = np.where(mixed, classes - 1 + np.cumsum(mixed), shares.argmax(axis=1))
    table = np.concatenate([np.eye(classes), shares[mixed]]).astype(np.float32)
    trees = [
        from_sklearn(each.tree_, values, number)
        for number, (each, values) in enumerate(
            zip(classifier.estimators_, np.split(places, ends[:-1]), strict=True)
        )
    ]
    leaves = graph.add("Cast", ensemble(graph, rows, trees, len(trees)), to=TensorProto.INT32)
    return graph.add("ReduceMean", graph.add("Gather", table, leaves), whole(1), keepdims=0)


def from_sklearn(tree: object, values: np.ndarray, target: int) -> Tree:
    """A tree of scikit-learn. values: of its leaves, in the order of the nodes, (leaves,)."""
    leaf = tree.children_left < 0
    different, which = np.unique(values, return_inverse=True)  # merges leaves of equal value
    places = np.cumsum(~leaf) - 1
    places[leaf] = -1 - which
    left, right = places[tree.children_left[~leaf]], places[tree.children_right[~leaf]]
    return Tree(tree.feature[~leaf], tree.threshold[~leaf], left, right, different, target)


@probabilities.register
def _(classifier: lightgbm.LGBMClassifier, graph: Graph, rows: str) -> str:
    classes, description = len(classifier.classes_), classifier.booster_.dump_model()
    if not description["objective"].startswith(("multiclass ", "binary sigmoid:1")):
        raise NotImplementedError(f"LightGBM's objective {description['objective']} has no builder")
    first = 1 if classes == 2 else 0  # with two classes, only the second has trees
    turns = description["num_tree_per_iteration"]
    trees = [
        from_lightgbm(each["tree_structure"], first + number % turns)
        for number, each in enumerate(description["tree_info"])
    ]
    return graph.add("Softmax", ensemble(graph, rows, trees, classes), axis=1)


def from_lightgbm(root: dict, target: int) -> Tree:
    """A tree of LightGBM's dump_model, which is nested dictionaries."""
    nodes, values = [], []

    def walk(node: dict) -> int:
        if "leaf_value" in node:
            values.append(node["leaf_value"])
            return -len(values)
        if node["decision_type"] != "<=" or node["missing_type"] != "None":
            raise NotImplementedError("LightGBM's categories and missing values have no builder")
        nodes.append(own := [node["split_feature"], node["threshold"]])
        place = len(nodes) - 1
        own += walk(node["left_child"]), walk(node["right_child"])
        return place

    walk(root)
    columns = np.array(nodes).reshape(-1, 4).T
    features, left, right = (columns[place].astype(np.int64) for place in (0, 2, 3))
    return Tree(features, columns[1], left, right, np.array(values), target)


def ensemble(graph: Graph, rows: str, trees: list[Tree], targets: int) -> str:
    """The sums of the trees' values, float32 (n, targets), for rows, float32 (n, values)."""
    trees = list(with_roots(trees))
    inner = np.cumsum([0, *(len(tree.features) for tree in trees)])
    leaves = np.cumsum([0, *(len(tree.values) for tree in trees)])
    arrays = {"nodes_featureids": [tree.features for tree in trees]}
    for name, side in ("true", "left"), ("false", "right"):
        following = [getattr(tree, side) for tree in trees]
        arrays[f"nodes_{name}leafs"] = [places < 0 for places in following]
        arrays[f"nodes_{name}nodeids"] = [
            np.where(places < 0, leaf - 1 - places, node + places)
            for places, node, leaf in zip(following, inner, leaves, strict=False)
        ]
    arrays["leaf_targetids"] = [np.full(len(tree.values), tree.target) for tree in trees]
    thresholds = np.concatenate([tree.thresholds for tree in trees])
    splits = thresholds.astype(np.float32)  # rounded down: float32 values compare alike
    splits = np.where(splits > thresholds, np.nextafter(splits, np.float32(-np.inf)), splits)
    tensors = {
        "nodes_splits": splits,
        "nodes_modes": np.zeros(len(splits), np.uint8),  # all nodes: value ≤ threshold
        "leaf_weights": np.concatenate([tree.values for tree in trees]).astype(np.float32),
    }
    return graph.add(
        "TreeEnsemble",
        rows,
        domain="ai.onnx.ml",
        n_targets=targets,
        aggregate_function=1,  # the sum
        post_transform=0,
        tree_roots=inner[:-1].tolist(),
        **{name: np.concatenate(parts).astype(np.int64).tolist() for name, parts in arrays.items()},
        **{name: numpy_helper.from_array(array, name) for name, array in tensors.items()},
    )


def with_roots(trees: list[Tree]) -> Iterator[Tree]:
    """The trees; a tree of one leaf gets a root above it, because TreeEnsemble begins with an inner node."""
    for tree in trees:
        if len(tree.features):
            yield tree
        else:
            zero, leaf = np.zeros(1), np.array([-1])
            yield Tree(zero, zero, leaf, leaf, tree.values, tree.target)
