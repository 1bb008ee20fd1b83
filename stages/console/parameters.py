"""Check the params files as a whole, and so find keys that no stage reads, such as misspelt ones."""

from typing import Any, Literal

from pydantic import Field, create_model

from stages.common import params
from stages.common.frameworks import FRAMEWORKS


class Data(params.Section):
    """The training data."""

    dataset: str
    validation: params.Validation


class Device(params.Section):
    """The devices of the frameworks that support several."""

    pytorch: str
    tensorflow: str


Parameters = create_model(
    "Parameters",
    __base__=params.Section,
    data=(Data, ...),
    seed=(params.Seed, ...),
    threads=(params.Threads, ...),
    wrong_answers=(params.Share, ...),
    profile=(Literal["fast", "portable"], ...),
    device=(Device, ...),
    parity=(dict[str, str], ...),
    **{framework: (dict[params.Name, Any], Field(default_factory=dict)) for framework in FRAMEWORKS},
)


def check() -> None:
    """Raise UserError, naming the key, if a params file has a key that nothing reads or lacks one."""
    params.check("", params.content(params.PATH), Parameters)
    params.check("", params.content(params.ARCHITECTURES), dict[params.Name, Any], params.ARCHITECTURES)
