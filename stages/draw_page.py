"""Write the page to draw on, whose networks answer in the browser itself.

    python -m stages.draw_page

Reads data/dataset.json, outputs/tables/summary.csv and outputs/models/. Writes outputs/draw_page/index.html:
one file that works from a double click or a web server, offline and without a program behind it. It contains
the networks whose weights take less than 1 MB, the most accurate first; stages/drawing/network.js computes
them. Takes 0.5 s.
"""

import base64
import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.common import dataset, files, results, saved
from stages.console import command
from stages.console.errors import reading

PARTS = Path(__file__).parent / "drawing"
PAGE = results.OUTPUTS / "draw_page"
LARGEST = 1_000_000
"""Only networks with fewer bytes of weights are in the page."""
NEEDED = {"recipe", "architecture", "image_size", "ground"}
"""The parts of model.json that computing a network needs."""
PAD = 420
"""Length of the pad's longer side, in pixels."""


def main() -> None:
    command.no_arguments(__doc__)
    data = dataset.describe()
    sure_above = {
        model: level
        for model, level in evaluated().items()
        if results.load_description(*model.split("/")).architecture is not None
        and weights_of(model).stat().st_size < LARGEST
    }
    networks = [
        {
            "model": saved.load(*model.split("/")).description.model_dump(mode="json", include=NEEDED),
            "weights": base64.b64encode(weights_of(model).read_bytes()).decode("ascii"),
        }
        for model in sure_above
    ]
    html, _ = render(sure_above, data.classes, data.image_size, networks)
    with files.replacing(PAGE) as (folder,):
        files.write_text(folder / "index.html", html)
    print(f"{PAGE / 'index.html'}: {len(networks)} networks")


def weights_of(model: str) -> Path:
    """The file with a network's weights; other classifiers have none."""
    return results.folder(*model.split("/")) / "weights.safetensors"


def evaluated() -> dict[str, float | None]:
    """The evaluated models as framework/name, the most accurate first, with their thresholds of sure answers.

    The threshold is None for a model with too few held-out images.
    """
    path = results.OUTPUTS / "tables" / "summary.csv"
    with reading(path, "is no table of results"), path.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: -float(row["accuracy"]))
        levels = [float(row["sure_above"]) if row["sure_above"] else None for row in rows]
        return {row["model"]: level for row, level in zip(rows, levels, strict=True)}


def pad_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the pad in pixels, with the shape of images of `image_size` (rows, columns)."""
    rows, columns = image_size
    return round(PAD * columns / max(image_size)), round(PAD * rows / max(image_size))


def render(
    models: dict[str, float | None],
    classes: tuple[str, ...],
    image_size: tuple[int, int],
    networks: list[dict[str, Any]] | None,
) -> tuple[str, str]:
    """The page, and the Content-Security-Policy that lets it do what it does and nothing else.

    models: their names in the page's order, each with the probability above which its answer is sure.
    networks: for ask_network.js, in the same order; None if a program answers instead.
    """
    in_browser = networks is not None
    names = "pad.js", "ask_network.js" if in_browser else "ask_program.js", "page.js"
    scripts, style = [part(name) for name in names], part("page.css")
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(map(digest, scripts)),
        "style-src": digest(style),
        "img-src": "data:",
        **({"worker-src": "blob:"} if in_browser else {"connect-src": "'self'", "frame-ancestors": "'none'"}),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    of_page = "; ".join(f"{key} {value}" for key, value in policy.items())
    facts = {
        "models": list(models),
        "sure_above": list(models.values()),
        "classes": classes,
        "image_size": image_size,
    }
    template = Environment(
        loader=FileSystemLoader(PARTS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html")
    html = template.render(
        in_browser=in_browser,
        policy=of_page,
        models=list(models),
        classes=classes,
        pad_size=pad_size(image_size),
        style=style,
        scripts=scripts,
        facts=embedded(facts),
        networks=embedded(networks),
        worker="\n".join(part(name) for name in ("network.js", "prepare.js", "worker.js")),
    )
    return html, of_page


def part(name: str) -> str:
    """The text of one of the page's files."""
    return (PARTS / name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """The name by which a policy allows a script or style in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def embedded(content: Any) -> str:
    """JSON for a script element, escaped so that no text in it can end the element."""
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")


if __name__ == "__main__":
    command.run(main)
