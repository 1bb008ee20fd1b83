"""The frameworks, in the order in which results show them. A new framework is one entry here.

Only stages that evaluate or show results depend on it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Framework:
    """How a framework is shown. colour: dark enough for text on white."""

    label: str
    colour: str


FRAMEWORKS = {  # by the section of params.yaml that holds its models
    "pytorch": Framework("PyTorch", "#c8404f"),
    "tensorflow": Framework("TensorFlow/Keras", "#a86400"),
    "scratch": Framework("NumPy, written from scratch", "#00798c"),
    "sklearn": Framework("scikit-learn and LightGBM", "#5b5f97"),
}
