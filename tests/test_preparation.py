"""Pictures of every kind, drawn here, become what the drawing on clean paper becomes; bad ones one line."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from apps import preparation
from stages.console.errors import UserError

STROKES = {
    2: [[(20, 30), (35, 12), (60, 14), (68, 36), (24, 88), (74, 86)]],
    4: [[(56, 10), (20, 62), (78, 62)], [(58, 36), (56, 92)]],
    5: [[(70, 12), (32, 14), (28, 48), (58, 46), (68, 66), (52, 88), (22, 82)]],
    7: [[(18, 14), (76, 12), (40, 90)], [(34, 50), (68, 50)]],
    0: [[(48, 10), (24, 28), (20, 64), (44, 90), (70, 70), (72, 30), (48, 10)]],
}
"""Digits as lines in a square of 100."""
FORM = (28, 28), 0
PAPER, PEN = (206, 201, 190), (52, 50, 66)


def drawing(digit: int = 2, size: int = 160, width: float = 0.05, at: tuple = (0.2, 0.15, 0.6)) -> np.ndarray:
    """Where the ink is, 0 to 1, float (size, size). at: left, top and height of the square, as shares."""
    large = Image.new("L", (4 * size, 4 * size), 0)
    draw, (left, top, scale) = ImageDraw.Draw(large), at
    for line in STROKES[digit]:
        points = [(4 * size * (left + scale * x / 100), 4 * size * (top + scale * y / 100)) for x, y in line]
        draw.line(points, 255, round(4 * size * width), joint="curve")
    return np.asarray(large.resize((size, size), Image.Resampling.BOX)) / 255


def on(ink: np.ndarray, paper=PAPER, pen=PEN) -> np.ndarray:
    """The drawing in red, green and blue, float (rows, columns, 3)."""
    return np.array(paper) * (1 - ink[..., None]) + np.array(pen) * ink[..., None]


def picture(colours: np.ndarray, noise: float = 0) -> Image.Image:
    colours = colours + np.random.default_rng(1).normal(0, noise, colours.shape)
    return Image.fromarray(colours.clip(0, 255).round().astype(np.uint8))


def ramp(colours: np.ndarray, depth: float) -> np.ndarray:
    """The picture darker towards a corner, by this share."""
    y, x = np.mgrid[0 : 1 : colours.shape[0] * 1j, 0 : 1 : colours.shape[1] * 1j]
    return colours * (1 - depth * (0.6 * x + 0.4 * y))[..., None]


def shaded(colours: np.ndarray, depth: float, place: float = 0.45) -> np.ndarray:
    """The picture with a slanting shadow over all that is right of `place`."""
    rows, columns = colours.shape[:2]
    y, x = np.mgrid[:rows, :columns]
    return (
        colours * (1 - depth / (1 + np.exp(-((x - columns * place) + 0.5 * (y - rows / 2)) / 3)))[..., None]
    )


def ruled(colours: np.ndarray, step: int, depth: float, both: bool = True) -> np.ndarray:
    """The picture on paper with slightly slanting lines, or squares."""
    rows, columns = colours.shape[:2]
    lines = Image.new("L", (2 * columns, 2 * rows), 0)
    draw = ImageDraw.Draw(lines)
    for start in range(-2 * rows, 2 * max(rows, columns), 2 * step):
        draw.line([(0, start), (2 * columns, start + columns / 15)], 255, 2)
        if both:
            draw.line([(start, 0), (start - rows / 15, 2 * rows)], 255, 2)
    share = np.asarray(lines.resize((columns, rows), Image.Resampling.BOX))[..., None] / 255
    return colours - share * np.array([1.2, 0.9, 0.4]) * depth


def transparent(ink: np.ndarray, pen: tuple) -> Image.Image:
    whole = Image.new("RGBA", ink.shape[::-1], pen)
    whole.putalpha(Image.fromarray((ink * 255).round().astype(np.uint8)))
    return whole


def jpeg(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=70)
    return preparation.open_picture(io.BytesIO(content.getvalue()))


def large(ink: np.ndarray) -> Image.Image:
    """A photograph of many pixels with the drawing in a corner."""
    sheet = Image.new("RGB", (2400, 1800), PAPER)
    sheet.paste(picture(on(ink)).resize((400, 400)), (1700, 200))
    return picture(shaded(np.asarray(sheet, float), 0.3), 6)


KINDS = {
    "as dark on light": lambda ink: picture(on(ink)),
    "light on dark": lambda ink: picture(on(ink, (38, 60, 48), (225, 222, 210)), 5),
    "pencil": lambda ink: picture(on(ink, pen=(150, 150, 146)), 5),
    "red on yellow": lambda ink: picture(on(ink, (230, 210, 60), (210, 70, 60)), 5),
    "yellow on a blue as light as it": lambda ink: picture(on(ink, (60, 110, 190), (150, 90, 0)), 4),
    "darker towards a corner": lambda ink: picture(ramp(on(ink), 0.6), 4),
    "half in a shadow": lambda ink: picture(shaded(on(ink), 0.45), 4),
    "mostly in a shadow": lambda ink: picture(shaded(on(ink), 0.45, 0.2), 4),
    "on squares": lambda ink: picture(ruled(on(ink), 18, 50), 3),
    "on small dark squares": lambda ink: picture(ruled(on(ink), 11, 75), 3),
    "on lines": lambda ink: picture(ruled(on(ink), 22, 60, both=False), 3),
    "on squares in a shadow": lambda ink: picture(shaded(ruled(on(ink), 18, 50), 0.3), 3),
    "black on nothing": lambda ink: transparent(ink, (0, 0, 0)),
    "white on nothing": lambda ink: transparent(ink, (255, 255, 255)),
    "blue on nothing": lambda ink: transparent(ink, (20, 30, 160)),
    "with an opaque ground": lambda ink: picture(on(ink)).convert("RGBA"),
    "of 16 bits": lambda ink: Image.fromarray((65535 - 60000 * ink).astype(np.uint16)),
    "of a palette": lambda ink: picture(on(ink)).convert("P"),
    "of two colours": lambda ink: Image.fromarray(ink < 0.5),
    "of printing colours": lambda ink: picture(on(ink)).convert("CMYK"),
    "as a JPEG": lambda ink: jpeg(picture(on(ink), 3)),
    "with specks": lambda ink: speckled(ink),
    "with the table's edge": lambda ink: edged(ink),
    "in a frame": lambda ink: lined(
        ink, [(14, 12, 146, 10), (146, 10, 148, 150), (148, 150, 12, 147), (12, 147, 14, 12)]
    ),
    "in a cell of a form": lambda ink: lined(
        ink, [(0, 10, 160, 8), (0, 152, 160, 150), (9, 0, 11, 160), (150, 0, 152, 160)]
    ),
    "beside a margin": lambda ink: lined(ink, [(14, 0, 12, 160)]),
    "of many pixels": large,
}


def lined(ink: np.ndarray, lines: list[tuple]) -> Image.Image:
    """The drawing on paper with lines as dark as it, from x, y to x, y."""
    sheet = picture(on(ink))
    for line in lines:
        ImageDraw.Draw(sheet).line(line, PEN, 2)
    return picture(np.asarray(sheet, float), 3)


def speckled(ink: np.ndarray) -> Image.Image:
    colours = on(ink)
    for y, x in np.random.default_rng(4).integers(0, len(ink) - 2, (12, 2)):
        colours[y : y + 2, x : x + 2] = PEN
    return picture(colours, 3)


def edged(ink: np.ndarray) -> Image.Image:
    colours = on(ink)
    colours[:, :7] = 60, 40, 30
    return picture(colours, 3)


def alike(image: np.ndarray, other: np.ndarray) -> float:
    """The correlation of two images, the better of all places a pixel around: centres are rounded."""
    moves = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    moved = [np.roll(other, move, axis=(0, 1)) for move in moves]
    return max(np.corrcoef(image.ravel(), each.ravel())[0, 1] for each in moved)


@pytest.mark.parametrize("digit", STROKES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_drawing_on_any_ground_becomes_the_same_image(kind, digit):
    ink = drawing(digit)
    (expected,) = preparation.prepare(Image.fromarray((ink * 255).astype(np.uint8)), *FORM)
    (found,) = preparation.prepare(KINDS[kind](ink), *FORM)
    assert alike(found, expected) > 0.93


@pytest.mark.parametrize(
    ("size", "width", "at"),
    [
        (28, 0.04, (0.3, 0.2, 0.45)),
        (28, 0.04, (0.05, 0.4, 0.5)),
        (400, 0.01, (0.2, 0.2, 0.6)),
        (90, 0.12, (0, 0, 1)),
    ],
)
@pytest.mark.parametrize("digit", STROKES)
def test_small_large_thin_thick_and_shifted_drawings_become_alike(digit, size, width, at):
    (expected,) = preparation.prepare(picture(on(drawing(digit))), *FORM)
    (found,) = preparation.prepare(picture(on(drawing(digit, size, width, at))), *FORM)
    assert alike(found, expected) > 0.8


@pytest.mark.parametrize(
    ("image_size", "ground"), [((28, 28), 0), ((28, 28), 255), ((20, 31), 40), ((64, 40), 200)]
)
@pytest.mark.parametrize("digit", STROKES)
def test_an_image_has_mnist_s_form(digit, image_size, ground):
    (image,) = preparation.prepare(picture(ruled(on(drawing(digit)), 18, 50), 3), image_size, ground)
    assert (image.dtype, image.shape) == (np.uint8, image_size)
    ink = np.abs(image.astype(float) - ground)
    assert image[0, 0] == ground
    assert ink.max() == (255 - ground if ground < 128 else ground), "the darkest stroke is all ink"
    sides = [np.ptp(np.flatnonzero((ink > 1).any(axis=axis))) + 1 for axis in (0, 1)]
    assert abs(max(sides) - 20 / 28 * min(image_size)) <= 1
    for axis, length in enumerate(image_size):
        middle = np.average(np.arange(length) + 0.5, weights=ink.sum(axis=1 - axis))
        assert abs(middle - length / 2) <= 0.75
    assert preparation.has_form(Image.fromarray(image), image_size, ground)


def test_things_that_stand_apart_are_read_from_left_to_right():
    for digits in ([7, 2], [4, 0, 5], [5, 5], [0, 7, 4, 2]):
        inks = [
            drawing(digit, 120, at=(0.2, 0.1 + 0.1 * (place % 2), 0.7)) for place, digit in enumerate(digits)
        ]
        side_by_side = picture(ruled(on(np.concatenate(inks, axis=1)), 17, 40), 3)
        found = preparation.prepare(side_by_side, *FORM)
        assert len(found) == len(digits)
        for image, ink in zip(found, inks, strict=True):
            (alone,) = preparation.prepare(picture(on(ink)), *FORM)
            assert alike(image, alone) > 0.9


def test_a_digit_in_pieces_stays_one():
    ink = drawing(5)
    ink[42:46] = 0  # its bar comes off
    (found,) = preparation.prepare(picture(on(ink), 3), *FORM)
    (whole,) = preparation.prepare(picture(on(drawing(5)), 3), *FORM)
    assert alike(found, whole) > 0.85


def nothing(rows: int = 150, columns: int = 130) -> np.ndarray:
    return np.ones((rows, columns, 3)) * PAPER


def dotted() -> np.ndarray:
    colours = nothing()
    colours[70:78, 60:68] = PEN
    return colours


EMPTY = {
    "paper": picture(nothing()),
    "rough paper": picture(nothing(), 8),
    "paper that darkens": picture(ramp(nothing(), 0.6), 3),
    "a shadow": picture(shaded(nothing(), 0.45), 3),
    "squares": picture(ruled(nothing(), 18, 50), 3),
    "dark squares": picture(ruled(nothing(300, 260), 30, 90), 3),
    "lines": picture(ruled(nothing(), 25, 60, both=False), 3),
    "a dot": picture(dotted(), 3),
    "white": Image.new("RGB", (50, 60), "white"),
    "nothing at all": Image.new("RGBA", (50, 60), (0, 0, 0, 0)),
    "a pixel": Image.new("L", (1, 1)),
    "a line of pixels": Image.new("L", (1, 300)),
    "half black, half white": Image.fromarray(
        np.repeat([[0] * 50 + [255] * 50], 80, axis=0).astype(np.uint8)
    ),
    "noise": Image.fromarray(np.random.default_rng(2).integers(0, 256, (200, 200, 3), np.uint8)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_without_ink_there_is_no_image(name):
    assert preparation.prepare(EMPTY[name], *FORM) == []


@pytest.mark.parametrize(
    ("has", "image"),
    [
        (False, drawing(2, 28) * -255 + 255),  # dark on light
        (False, drawing(2, 28, at=(0, 0, 0.6)) * 255),  # in a corner
        (False, drawing(2, 28, at=(0.35, 0.35, 0.3)) * 255),  # small
        (False, drawing(2, 56) * 255),  # of another size
        (False, np.zeros((28, 28))),
    ],
)
def test_a_picture_of_another_form_is_told(has, image):
    shown = Image.fromarray(image.round().astype(np.uint8))
    assert preparation.has_form(shown, *FORM) == has


def test_a_picture_as_it_is_keeps_its_pixels_and_stands_on_the_ground_of_the_images():
    image = (drawing(2, 28) * 255).astype(np.uint8)
    np.testing.assert_array_equal(preparation.as_is(Image.fromarray(image), *FORM), image)
    assert preparation.as_is(Image.fromarray(image), (14, 14), 0).shape == (14, 14)
    clear = Image.new("LA", (20, 14), (0, 0))
    assert (preparation.as_is(clear, (14, 20), 255) == 255).all()


def written(tmp_path, content, name="picture.png"):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
    return path


def half_a_picture(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8))
    return written(tmp_path, written(tmp_path, noise).read_bytes()[:20_000])


def text_bomb(tmp_path):
    note = PngImagePlugin.PngInfo()
    note.add_text("comment", "y" * 5_000_000, zip=True)
    Image.new("L", (28, 28)).save(path := tmp_path / "picture.png", pnginfo=note)
    return path


def bomb(tmp_path):
    """A PNG file of some kilobytes that says it has 400,000,000 pixels."""
    path = written(tmp_path, Image.new("1", (100, 100)))
    content = bytearray(path.read_bytes())
    content[16:24] = (20_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return written(tmp_path, bytes(content))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (half_a_picture, "is a damaged picture: "),
        (text_bomb, "is a damaged picture: Decompressed data too large"),
        (bomb, "has too many pixels; allowed: 60,000,000"),
        (
            lambda path: written(path, Image.new("1", (10_000, 9_000))),
            "has too many pixels; allowed: 60,000,000",
        ),
        (
            lambda path: written(path, Image.fromarray(np.ones((9, 9), np.float32)), "picture.tiff"),
            "pixels of 32 bits",
        ),
        (
            lambda path: written(path, b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "picture.heic"),
            "is HEIC, .* JPEG",
        ),
        (
            lambda path: written(path, b"version https://git-lfs.github.com/spec/v1\n"),
            "is a pointer of Git LFS",
        ),
        (lambda path: written(path, b""), "is empty"),
        (lambda path: written(path, b"no picture"), "is no picture"),
    ],
)
def test_what_is_no_picture_is_named_in_one_line(tmp_path, make, complaint):
    path = make(tmp_path)
    with pytest.raises(UserError, match=rf"^{path} [^\n]*{complaint}[^\n]*$"):
        preparation.open_picture(path)
    with pytest.raises(UserError, match=f"^what was dropped [^\n]*{complaint}"):
        preparation.open_picture(io.BytesIO(path.read_bytes()), "what was dropped")


def test_a_missing_file_is_the_system_s_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        preparation.open_picture(tmp_path / "missing.png")


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise shows it upright
    upright = picture(on(drawing(7)))
    upright.transpose(Image.Transpose.ROTATE_90).save(path := tmp_path / "picture.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(preparation.open_picture(path)), np.asarray(upright))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
def test_a_damaged_file_is_a_picture_or_one_line_and_nothing_else(kind):
    content, generator = io.BytesIO(), np.random.default_rng(3)
    picture(on(drawing(4, 40)), 3).save(content, kind)
    good = content.getvalue()
    for _ in range(60):
        damaged = bytearray(good)
        for place in generator.integers(0, len(good), generator.integers(1, 6)):
            damaged[place] = generator.integers(256)
        try:
            found = preparation.open_picture(io.BytesIO(damaged), "it")
        except UserError as error:
            assert str(error).startswith("it ") and "\n" not in str(error)
        else:
            preparation.prepare(found, *FORM)
