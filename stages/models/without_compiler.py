"""Use PyTorch without torch.compile, which is not needed here.

torch.optim imports torch.compile's modules only to exclude itself from compilation; two functions that do
nothing replace them. On an AMD EPYC (family 25, model 17) with two cores, medians of three starts:
`import torch` and an optimizer take 3.9 s with the compiler, 2.3 s without. To measure again, with and
without the call in train_pytorch.py: time python -m stages.train_pytorch linear
"""

import sys
from types import SimpleNamespace


def install() -> None:
    """Call this before an optimizer is created. The process can then not compile or export networks."""
    sys.modules.setdefault(
        "torch._dynamo",
        SimpleNamespace(graph_break=lambda: None, disable=lambda function, *_, **__: function),
    )
