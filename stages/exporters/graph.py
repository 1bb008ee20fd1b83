"""An ONNX graph, written node by node: images in, probabilities out.

Every exported model is one function: `images`, uint8 (n, rows, columns), to `probabilities`, float32
(n, classes). The graph includes all preprocessing of the images.
"""

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from stages.common.exported import IMAGES, PROBABILITIES

OPSETS = {"": 20, "ai.onnx.ml": 5}
IR_VERSION = 10
"""The file format of these operator versions. All are fixed, so that the files keep their bytes with another
version of the library."""

GRAY_LEVELS = np.arange(256, dtype=np.uint8)
"""All values that a pixel can have."""

Value = str | np.ndarray
"""An input of a node: the name of another node's output, or an array, which becomes a constant."""


class Graph:
    """Nodes and constants in the order in which they were added."""

    def __init__(self) -> None:
        self._nodes, self._constants = [], []

    def add(
        self, operator: str, *inputs: Value, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node and return the name of its output, or of its last one if it has several."""
        names = [f"{operator}_{len(self._nodes)}_{place}" for place in range(outputs)]
        given = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self._nodes.append(helper.make_node(operator, given, names, domain=domain, **attributes))
        return names[-1]

    def _constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def model(
        self, probabilities: str, image_size: tuple[int, int], classes: int, metadata: dict[str, str]
    ) -> bytes:
        """The checked file of the graph with the output `probabilities`; equal graphs give equal bytes."""
        self._nodes.append(helper.make_node("Identity", [probabilities], [PROBABILITIES]))
        images = helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["n", *image_size])
        result = helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["n", classes])
        graph = helper.make_graph(self._nodes, "classifier", [images], [result], self._constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        helper.set_model_props(model, metadata)
        checker.check_model(model)
        return model.SerializeToString(deterministic=True)


def look_up(graph: Graph, images: str, levels: np.ndarray) -> str:
    """uint8 images of any shape, each gray level replaced by its entry in `levels`, float32 (256,)."""
    return graph.add("Gather", levels, graph.add("Cast", images, to=TensorProto.INT32))


def whole(*numbers: int) -> np.ndarray:
    """Shapes, axes and indices, as ONNX takes them: int64 (numbers,)."""
    return np.array(numbers, np.int64)
