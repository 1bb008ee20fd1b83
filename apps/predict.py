"""Classify photographs, drawings and test images with trained models.

    python -m apps.predict my_seven.png                # with the model of the best validation accuracy
    python -m apps.predict pytorch/pocket 0 7 scans/   # with this one: test images 0 and 7, a folder of files
    python -m apps.predict --all my_seven.png          # with all models
    python -m apps.predict --csv test.csv              # one row of pixels per image, as in competitions

Needs outputs/onnx/, which the stage export writes, but not the libraries that trained the models. A picture
is prepared as MNIST's images were (apps/preparation.py), unless it already has the form of the data set's
images. Separate things in a picture are answered from left to right. An answer is unsure if its probability
is not above the model's threshold, which was chosen on held-out images. Pictures that cannot be answered are
named, the others are answered, and the exit status is 1.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # products are small: more threads are slower

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from apps import preparation
from stages.common import dataset, exported, files, results
from stages.common.exported import Exported
from stages.common.frameworks import FRAMEWORKS
from stages.console import command
from stages.console.errors import UserError, one_line, reading

METRICS = results.OUTPUTS / "metrics"
OTHERS = 2
"""How many classes are named besides the most probable one."""
SIDE, BAR, LINE = 140, 200, 14
"""Sizes in the drawing of --show, in pixels: of an image, of a bar of probability 1, of a line."""


Answer = dict[str, Any]
"""A model's answer for one thing in a picture, see `answer`."""


@dataclass
class Asked:
    """A picture to classify.

    name: as given. source: its file, the number of a test image, or an image, uint8 (rows, columns). picture:
    for --show. images: of the things in it, as the models see them, uint8 (rows, columns) each. error: why
    there are none.
    """

    name: str
    source: Path | int | np.ndarray
    picture: Image.Image | None = None
    images: list[np.ndarray] = field(default_factory=list)
    error: str | None = None


def main() -> None:
    arguments = parse()
    first = exported.load(exported.path_of(arguments.models[0]))
    asked = list(expand(arguments.pictures, first.image_size))
    for each in asked:
        try:
            look(each, first, arguments.as_is)
        except UserError as error:
            each.error = str(error)
        except OSError as error:
            each.error = f"{each.name}: {os.strerror(error.errno) if error.errno else one_line(error)}"
    images = np.array([image for each in asked for image in each.images], np.uint8)
    images = images.reshape(-1, *first.image_size)
    answers = {first.name: [answer(first, row) for row in first.predict_proba(images)]}
    for name in arguments.models[1:]:  # one at a time in memory
        model = exported.load(exported.path_of(name))
        if (model.image_size, model.ground) != (first.image_size, first.ground):
            raise UserError(f"{name} and {first.name} take images of different forms: ask one of them alone")
        answers[name] = [answer(model, row) for row in model.predict_proba(images)]
    records = as_records(asked, answers)
    if arguments.json:
        print(json.dumps(records, indent=2, ensure_ascii=False))
    elif arguments.csv:
        print_submission(records)
    elif arguments.all:
        print_by_picture(records)
    else:
        print_table(records, first)
    if arguments.show:
        files.write_bytes(arguments.show, drawn(asked, answers))
    if errors := [each.error for each in asked if each.error]:
        sys.stdout.flush()
        sys.exit("\n".join(f"error: {error}" for error in errors))


def parse() -> argparse.Namespace:
    """The command line: `pictures`, the names of the `models` that are asked, and the options."""
    parser = argparse.ArgumentParser(
        usage="python -m apps.predict [options] [framework/model] picture …",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "pictures", nargs="+", metavar="picture", help="a file, a folder, a test image's number, a .csv file"
    )
    parser.add_argument("--all", action="store_true", help="ask all models")
    parser.add_argument("--as-is", action="store_true", help="only make pictures gray and resize them")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print all probabilities as JSON")
    output.add_argument("--csv", action="store_true", help="print ImageId,Label: a competition's submission")
    parser.add_argument("--show", type=Path, metavar="FILE.png", help="draw images and probabilities into it")
    arguments = parser.parse_args()
    known = exported.names()
    first, *others = arguments.pictures
    if first in known or (first.partition("/")[0] in FRAMEWORKS and not Path(first).exists()):
        if first not in known:
            raise UserError(f"{first} is not exported; allowed: {', '.join(known)}")
        if arguments.all:
            raise UserError(f"{first} or --all: name one model, or ask all")
        if not others:
            raise UserError(f"nothing for {first} to answer: name a picture, or a test image by its number")
        arguments.models, arguments.pictures = [first], others
    else:
        arguments.models = known if arguments.all else [best(known)]
    if arguments.all and arguments.csv:
        raise UserError("--csv has one label per image: name one model, or none for the best")
    return arguments


def best(names: list[str]) -> str:
    """The model with the best accuracy on held-out images, among equal ones that with the lowest log loss.

    Models without held-out images come last; if all have none, the first.
    """

    def rank(name: str) -> tuple[float, float]:
        path = METRICS / f"{name}.json"
        with reading(path, "holds no metrics"):
            metrics = json.loads(path.read_text(encoding="utf-8"))
            accuracy, loss = metrics["validation_accuracy"], metrics["validation_log_loss"]
            return (-1.0, 0.0) if accuracy is None else (float(accuracy), -float(loss))

    return max(names, key=rank)


def expand(names: list[str], image_size: tuple[int, int]) -> Iterator[Asked]:
    """The pictures that the arguments name: files, test images, a folder's files, the rows of a .csv file."""
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file() and file.name[0] != ".")
            if not inside:
                raise UserError(f"{name} holds no files")
            yield from (Asked(str(file), file) for file in inside)
        elif path.suffix == ".csv":
            rows = load_rows(path, image_size)
            yield from (Asked(f"{name}:{number}", row) for number, row in enumerate(rows, start=1))
        else:
            yield Asked(name, int(name) if name.isdecimal() else path)


def load_rows(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """The images of a .csv file, uint8 (n, rows, columns): a header, then one row of pixels per image.

    A first column `label` is left out. Raises UserError, naming the file, if its content is something else.
    """
    with reading(path, "is no table of images", remedy="another file"):
        with path.open(encoding="utf-8-sig") as file:  # Excel begins it with a mark
            header = file.readline().strip().split(",")
            skipped = int(header[0] == "label")
            pixels = image_size[0] * image_size[1]
            if len(header) - skipped != pixels:
                raise ValueError(f"{len(header) - skipped} columns of pixels, not {pixels}")
            rows = np.loadtxt(file, np.uint8, delimiter=",", ndmin=2)
        if rows.size and rows.shape[1] != len(header):
            raise ValueError("its rows are not as long as its header")
    return rows[:, skipped:].reshape(-1, *image_size)


def look(asked: Asked, model: Exported, as_is: bool) -> None:
    """Set `images` and `picture`. Raises UserError, naming the picture, if there is nothing to classify."""
    image_size, ground = model.image_size, model.ground
    if isinstance(asked.source, Path):
        picture = preparation.open_picture(asked.source)
        if as_is or preparation.has_form(picture, image_size, ground):
            asked.images = [preparation.as_is(picture, image_size, ground)]
        else:
            asked.images = preparation.prepare(picture, image_size, ground)
        asked.picture = preparation.opaque(picture)
        asked.picture.thumbnail((SIDE, SIDE))
    else:
        image = asked.source if isinstance(asked.source, np.ndarray) else test_image(asked.source, image_size)
        asked.images, asked.picture = [image], Image.fromarray(image)
    if not all(np.ptp(image) for image in asked.images) or not asked.images:
        asked.images = []
        raise UserError(f"{asked.name} is empty, or what is drawn there is too small or too faint")


def test_image(number: int, image_size: tuple[int, int]) -> np.ndarray:
    """The test image of that number, uint8 (rows, columns)."""
    images = dataset.load_test_images()
    if number >= len(images):
        raise UserError(f"{number}: there are {len(images)} test images, 0 to {len(images) - 1}")
    if images.shape[1:] != image_size:
        sizes = ["×".join(map(str, size)) for size in (images.shape[1:], image_size)]
        raise UserError(f"{number}: the test images have {sizes[0]} pixels, the model's {sizes[1]}")
    return images[number]


def as_records(asked: list[Asked], answers: dict[str, list[Answer]]) -> list[dict[str, Any]]:
    """A record for each picture: `picture`, its name, and `error` or `things`, each with the models' answers.

    answers: of each model, for the images of all pictures.
    """
    records, start = [], 0
    for each in asked:
        record: dict[str, Any] = {"picture": each.name}
        if each.error:
            record["error"] = each.error
        else:
            places = range(start, start := start + len(each.images))
            record["things"] = [{name: said[place] for name, said in answers.items()} for place in places]
        records.append(record)
    return records


def answer(model: Exported, probabilities: np.ndarray) -> Answer:
    """A model's answer: the class, its probability, whether it is sure (None: unknown), all probabilities.

    probabilities: float32 (classes,).
    """
    place = int(probabilities.argmax())
    highest = float(probabilities[place])
    return {
        "class": model.classes[place],
        "probability": highest,
        "sure": None if model.sure_above is None else highest > model.sure_above,
        "probabilities": dict(zip(model.classes, map(float, probabilities), strict=True)),
    }


def in_words(said: Answer) -> list[str]:
    """An answer as cells of a table: the class, its probability, whether it is unsure, the next classes."""
    others = sorted(said["probabilities"].items(), key=lambda item: -item[1])[1 : OTHERS + 1]
    mark = "" if said["sure"] is not False else "unsure"
    return [
        said["class"],
        f"{said['probability']:.1%}",
        mark,
        ", ".join(f"{name} {p:.1%}" for name, p in others),
    ]


def print_table(records: list[dict[str, Any]], model: Exported) -> None:
    """A line for each thing in each picture."""
    rows = [["picture", model.name, "", "", "or"]]
    for record in records:
        things = record.get("things", ())
        for number, by_model in enumerate(things, start=1):
            name = record["picture"] if number == 1 else ""
            rows.append([name, *in_words(by_model[model.name])])
    print_columns(rows)
    if model.sure_above is None:
        print(f"{model.name} does not tell sure answers from unsure ones: it held out too few images")


def print_by_picture(records: list[dict[str, Any]]) -> None:
    """A table of all models for each thing in each picture, and how many of them agree."""
    for record in records:
        things = record.get("things", ())
        for number, by_model in enumerate(things, start=1):
            place = f", thing {number} of {len(things)}" if len(things) > 1 else ""
            print(f"{record['picture']}{place}")
            print_columns([[f"  {name}", *in_words(said)] for name, said in by_model.items()])
            votes = [said["class"] for said in by_model.values()]
            most = max(dict.fromkeys(votes), key=votes.count)
            print(f"  {votes.count(most)} of {len(votes)} models say {most}")


def print_columns(rows: list[list[str]]) -> None:
    """Print rows of cells with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_submission(records: list[dict[str, Any]]) -> None:
    """The form of a competition: images by number, from 1 on; the classes of several things in a row."""
    print("ImageId,Label")
    for number, record in enumerate(records, start=1):
        if "things" in record:
            print(
                f"{number},{''.join(said['class'] for thing in record['things'] for said in thing.values())}"
            )


def drawn(asked: list[Asked], answers: dict[str, list[Answer]]) -> bytes:
    """A PNG file: each picture, its images as the models see them, and the models' mean probabilities."""
    shares = [[list(said["probabilities"].values()) for said in of_model] for of_model in answers.values()]
    probabilities = np.mean(shares, axis=0)
    classes = list(next(iter(answers.values()))[0]["probabilities"]) if len(probabilities) else []
    height = max(SIDE, LINE * len(classes)) + LINE
    pictures = [each.picture for each in asked for _ in each.images]
    images = [image for each in asked for image in each.images]
    sheet = Image.new("RGB", (2 * SIDE + BAR + 14 * LINE, max(1, len(images)) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE - 3)
    for number, (picture, image, row) in enumerate(zip(pictures, images, probabilities, strict=True)):
        top, left = number * height + LINE // 2, 2 * SIDE + LINE
        sheet.paste(picture.convert("RGB"), (0, top))
        scale = SIDE // max(image.shape)
        large = Image.fromarray(image).resize(
            [side * scale for side in image.shape[::-1]], Image.Resampling.NEAREST
        )
        sheet.paste(large, (SIDE + LINE // 2, top))
        for place, (name, probability) in enumerate(zip(classes, row, strict=True)):
            y = top + place * LINE
            bar = left + 6 * LINE, y + 2, left + 6 * LINE + round(BAR * float(probability)), y + LINE - 2
            draw.text((left, y), name[:12], "black", font)
            draw.rectangle(bar, "#0b57d0" if place == row.argmax() else "#9aa0a6")
            draw.text((bar[2] + 4, y), f"{probability:.1%}", "black", font)
    content = BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


if __name__ == "__main__":
    command.run(main)
