"""List the trainings of each study, with a checksum of everything that determines their results.

    python -m apps.studies.plan

Reads studies/params.yaml, params.yaml, architectures.yaml, and the code and data that trainings need. Writes
studies/plans/<study>.json. A plan changes if, and only if, the results of its study may change.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from apps import trials
from stages.common import files, params
from stages.console import command
from stages.console.errors import UserError

STUDIES, PLANS = Path("studies/params.yaml"), Path("studies/plans")
SEED, IMAGES = "seed", "images"
"""What a study may vary instead of a key of its models' entries."""


def _share(value: Any) -> Any:
    try:
        if not isinstance(value, bool):
            return float(Fraction(value)) if isinstance(value, str) else value
    except (ValueError, ZeroDivisionError):
        pass
    raise ValueError("allowed: a share such as 0.25 or 1/4")


Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1)]
"""A share of the training images, such as 1/4."""


def _plain(value: Any) -> Any:
    parts = value if isinstance(value, list) and value else [value]
    if all(part is None or isinstance(part, str | int) or _is_finite(part) for part in parts):
        return value
    raise ValueError("allowed: a number, text, true, false, null, or a list of these")


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


Value = Annotated[Any, BeforeValidator(_plain)]
"""What a key of a model's entry may be set to."""


class Study(params.Section):
    """An entry of studies/params.yaml.

    question, limits: what it asks, and what it cannot answer. vary, values: a key of the models' entries in
    params.yaml, `seed`, or `images`, and its values. seeds: how many for each value. images: the share of the
    training images, unless it is varied. alone: whether one training runs at a time, because the study
    compares seconds.
    """

    question: str
    limits: str
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    vary: Annotated[str, Field(pattern=r"^\w+(\.\w+|\[\d+\])*$")]
    values: Annotated[tuple[Value, ...], Field(min_length=2)]
    seeds: params.Positive = 1
    images: Share = 1.0
    alone: bool = False

    @model_validator(mode="after")
    def _each_training_once(self) -> Self:
        values = [str(value) for value in self.values]
        if self.vary == IMAGES:
            values = [
                str(Fraction(value)) if re.fullmatch(r"\d+(\.\d+|/[1-9]\d*)?", value) else value
                for value in values
            ]
        if len(set(values)) < len(values):
            raise ValueError("values: one of them is there twice")
        if self.vary == SEED and self.seeds > 1:
            raise ValueError("seeds: where the seed varies, allowed: 1")
        return self


def main() -> None:
    command.no_arguments(__doc__)
    with files.replacing(PLANS) as (folder,):
        for name, study in read().items():
            planned = plan(name, study)
            for one in planned:
                one["trial"] = digest(one["trial"])
            content = {"vary": study.vary, "alone": study.alone, "trainings": planned}
            files.write_json(folder / f"{name}.json", content)
            print(f"{name}: {len(planned)} trainings")


def read() -> dict[str, Study]:
    """The studies by name. Raises UserError, naming what is wrong."""
    names = params.read("studies", dict[params.Name, Any], STUDIES)
    if not names:
        raise UserError(f"{STUDIES}: studies is empty; allowed: a study or more")
    return {name: params.read(f"studies.{name}", Study, STUDIES) for name in names}


def digest(content: Any) -> str:
    """A checksum of the content, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def plan(name: str, study: Study) -> list[dict[str, Any]]:
    """The trainings of a study: model, value, seed and trial of each. Raises UserError for a wrong value."""
    planned = []
    for model in study.models:
        for place, value in enumerate(study.values):
            for seed in range(study.seeds):
                changes, images = {"seed": seed}, study.images
                if study.vary == IMAGES:
                    value = images = params.check(f"studies.{name}.values.{place}", value, Share, STUDIES)
                elif study.vary == SEED:
                    changes["seed"] = params.check(
                        f"studies.{name}.values.{place}", value, params.Seed, STUDIES
                    )
                else:
                    changes[f"{model.replace('/', '.')}.{study.vary}"] = value
                trial = trials.make(model, changes, images=images)
                described = {key: part for key, part in asdict(trial).items() if key != "group"}
                planned.append({"model": model, "value": value, "seed": changes["seed"], "trial": described})
    return planned


if __name__ == "__main__":
    command.run(main)
