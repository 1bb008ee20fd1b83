"""Prepare photographs and drawings as the makers of MNIST prepared their images.

LeCun, Bottou, Bengio and Haffner, 1998, section III.A: the longest side of the ink is reduced to 20 of the
image's 28 pixels, keeping its shape and smooth edges; its centre of mass moves to the middle.
"""

import warnings
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from stages.console.errors import DAMAGE, UserError, one_line

PIXELS = 60_000_000
"""The most pixels of a picture that is opened."""
FORMATS = "PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF"
"""The formats that are read: raster images that Pillow decodes without another program."""
HEIC = b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1"
POINTER = b"version https://git-lfs"

WORKING = 192
"""Length of the longest side, in pixels, while ink is looked for."""
LONGEST = 20 / 28
"""The share of an image that the longest side of the ink takes."""
STROKE = 2.25 / 28
"""The least width of strokes, as a share of the image (MNIST's median): thinner ones are widened."""
WINDOW = 0.4
"""Strokes are narrower than this share of a picture; shadows are wider."""
FINE = 96
"""The least length of the ink's longest side, in pixels, while strokes are measured."""
SPECK = 0.02
"""Pieces with less than this share of the largest piece's area are not ink."""
PART = 0.12
"""A thing of its own has at least this share of the largest piece's area: a 1 beside an 8 has more."""
CONTRAST = 24
"""The least difference between ink and its ground, in gray levels."""
CROSSINGS = 8
"""The most lines of ink that may cross the border of a picture; more are a ruled or noisy ground."""


def open_picture(file: str | Path | BinaryIO, name: str | None = None) -> Image.Image:
    """The decoded picture in a file, rotated as its camera says.

    name: what messages call it, by default the file's path. Raises UserError if it is not a picture, is
    damaged, has pixels of 32 bits or in LAB, or has more than PIXELS pixels, which is known before decoding;
    OSError if there is no such file.
    """
    name = name or str(file)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > PIXELS:
                raise Image.DecompressionBombError
            if picture.mode in ("I", "F"):
                raise UserError(f"{name} has pixels of 32 bits; allowed: 8 or 16 bits a pixel and colour")
            if picture.mode == "LAB":
                raise UserError(f"{name} has LAB colours; allowed: gray, RGB, CMYK or a palette")
            picture.draft("RGB", (WORKING * 8, WORKING * 8))  # a JPEG of many pixels is decoded to fewer
            return ImageOps.exif_transpose(picture)
    except UnidentifiedImageError:
        raise UserError(f"{name} {_what(file)}") from None
    except Image.DecompressionBombError:
        raise UserError(f"{name} has too many pixels; allowed: {PIXELS:,}") from None
    except (*DAMAGE, SyntaxError, RuntimeError, MemoryError) as error:  # what Pillow's parsers raise
        if isinstance(error, OSError) and error.filename:
            raise
        raise UserError(f"{name} is a damaged picture: {one_line(error)}") from None


def _what(file: str | Path | BinaryIO) -> str:
    """What a file that is not a picture is instead, and what can be done."""
    if isinstance(file, str | Path):
        with Path(file).open("rb") as opened:
            start = opened.read(32)
    else:
        file.seek(0)
        start = file.read(32)
    if start[4:12] in HEIC:
        return "is HEIC, which is not read: save it as JPEG, as `heif-convert photo.heic photo.jpg` does"
    if start.startswith(POINTER):
        return "is a pointer of Git LFS, not the picture: `git lfs pull` fetches it"
    return "is empty" if not start else "is no picture"


def prepare(picture: Image.Image, image_size: tuple[int, int], ground: int) -> list[np.ndarray]:
    """Each thing drawn in a picture as an image of the data set, uint8 (rows, columns), from left to right.

    image_size: the images' rows and columns; ground: the gray level of their background. Returns no images if
    there is no ink. Assumes that most of the picture's border is ground, lighter or darker than the ink, and
    that things stand side by side with gaps between them. Removes shadows, gradients, noise, ruled or squared
    paper and specks. A transparent ground becomes white or black, whichever the ink is not.
    """
    return [_place(ink, image_size, ground) for ink in _find(opaque(picture))]


def has_form(picture: Image.Image, image_size: tuple[int, int], ground: int) -> bool:
    """Whether a picture already has the form of the data set's images, so that it needs only `as_is`.

    It does if it is gray and of the same size, and its ink is on `ground`, large and in the middle.
    """
    if picture.size != image_size[::-1] or picture.has_transparency_data:
        return False
    colours = np.asarray(opaque(picture), np.float32)
    ink = np.abs(colours[..., 0] - ground)
    if np.ptp(colours, axis=2).max() > 8 or np.median(_border(ink)) > 8 or ink.max() < 64:
        return False
    sides, distances = [], []
    for axis, length in enumerate(ink.shape):
        places, sums = np.flatnonzero((ink > 64).any(axis=1 - axis)), ink.sum(axis=1 - axis)
        sides.append(np.ptp(places) + 1)
        distances.append(abs(np.average(np.arange(length), weights=sums) - (length - 1) / 2) / length)
    return max(sides) > 0.85 * LONGEST * min(image_size) and max(distances) < 1 / 14


def as_is(picture: Image.Image, image_size: tuple[int, int], ground: int) -> np.ndarray:
    """The picture as an image, uint8 (rows, columns): only made gray and resized."""
    gray = opaque(picture, ground).convert("L")
    return np.asarray(gray.resize(image_size[::-1], Image.Resampling.LANCZOS))


def opaque(picture: Image.Image, ground: int | None = None) -> Image.Image:
    """A picture of any mode converted to RGB.

    ground: the gray level below transparent pixels; by default white or black, whichever the ink is not.
    """
    if picture.mode.startswith("I;16"):
        levels = np.asarray(picture)
        gray = Image.fromarray((levels >> 8).astype(np.uint8))
        if (transparent := picture.info.get("transparency")) is not None:
            gray.putalpha(Image.fromarray((levels != transparent) * np.uint8(255)))
        picture = gray
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    if ground is None:
        ground = _below(picture)
    return Image.alpha_composite(Image.new("RGBA", picture.size, (ground,) * 3), picture).convert("RGB")


def _below(picture: Image.Image) -> int:
    """White or black, whichever keeps the opaque part of a transparent picture visible.

    If most of the picture is opaque, that part is not ink but the ground, which is continued below.
    """
    gray, seen = (np.asarray(band, np.float32) / 255 for band in picture.convert("LA").split())
    light = seen.any() and np.average(gray, weights=seen) >= 0.5
    return 255 if light == (seen.mean() >= 0.5) else 0


def _find(picture: Image.Image, closer: bool = True) -> list[np.ndarray]:
    """The ink of each thing in an RGB picture: 0 to 1, float32 (rows, columns), cropped to the thing.

    It is looked for in a reduced picture and, if all ink lies in a small part, once more in that part.
    """
    scale = min(1, WORKING / max(picture.size))
    size = [max(1, round(side * scale)) for side in picture.size]
    reduced = picture.resize(size, Image.Resampling.BOX)
    strength, threshold = _strength(np.asarray(reduced, np.float32))
    things = _things(strength > threshold)
    if closer and scale < 1 and things:
        top, bottom, left, right = _box(np.logical_or.reduce(things))
        around = max(bottom - top, right - left) / 2
        if around < WORKING / 4:
            part = left - around, top - around, right + around, bottom + around
            left, top, right, bottom = (round(place / scale) for place in part)
            part = max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height)
            return _find(picture.crop(part), closer=False)
    soft = np.clip(strength / threshold - 0.5, 0, 1)
    inks = [soft * _grown(thing, 1) for thing in things]  # with smooth edges
    return [_cut(ink, ink > 0) for ink in inks]


def _strength(colours: np.ndarray) -> tuple[np.ndarray, float]:
    """How much each pixel differs from the ground towards the ink, float32 (rows, columns), in gray levels,
    and the threshold above which it is ink: infinity if nothing differs enough.

    colours: float32 (rows, columns, 3).
    """
    window = max(3, round(WINDOW * max(colours.shape)))
    step = 2 if max(colours.shape) > WORKING / 2 else 1  # every other pixel is enough
    coarse = colours[::step, ::step]
    off = coarse - _local_mean(coarse, 2 * window // step)
    # ink is the smaller part of its surroundings, so it differs more from their mean
    towards = np.einsum("yxc,yx->c", off, np.square(off).sum(axis=2))
    strength = colours @ (towards / max(np.linalg.norm(towards), 1e-9))
    if min(strength.shape) >= 48:
        strength = _smooth(strength)
    strength -= _opened(strength, window)
    ink = strength > _otsu(strength)
    strength -= np.median(strength[~ink])
    threshold = _otsu(strength)
    ink = strength > threshold
    if _crossings(ink) > CROSSINGS:  # ruled paper: lines are paler than ink
        threshold = _otsu(strength[ink])
        ink = strength > threshold
    faint = not ink.any() or strength[ink].mean() < CONTRAST
    return strength, np.inf if faint or _crossings(ink) > CROSSINGS else threshold


def _border(values: np.ndarray) -> np.ndarray:
    """The outermost pixels of an array (rows, columns, …), (n, …)."""
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])


def _otsu(values: np.ndarray) -> float:
    """The threshold that splits values into two groups of least variance (Otsu, 1979)."""
    counts, edges = np.histogram(values, 128)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + np.nanargmax(between)]) if np.ptp(values) else float("inf")


def _smooth(values: np.ndarray) -> np.ndarray:
    """The weighted mean of each value and its neighbours, in which nearer ones count more."""
    for axis in (0, 1):
        padded = np.pad(values, [(1, 1) if axis == each else (0, 0) for each in (0, 1)], mode="edge")
        before, after = (padded[:-2], padded[2:]) if axis == 0 else (padded[:, :-2], padded[:, 2:])
        values = values / 2 + (before + after) / 4
    return values


def _local_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean in a square window around each of the values, (rows, columns, …)."""
    sums, half = values.astype(float), window // 2
    for axis in 0, 1:
        length = sums.shape[axis]
        starts, ends = (np.arange(length) + by for by in (-half, half + 1))
        starts, ends = starts.clip(0), ends.clip(max=length)
        total = np.insert(sums.cumsum(axis=axis), 0, 0, axis=axis)
        counts = (ends - starts).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        sums = (total.take(ends, axis=axis) - total.take(starts, axis=axis)) / counts
    return sums


def _opened(values: np.ndarray, window: int) -> np.ndarray:
    """Values (rows, columns) without peaks narrower than the window: the local ground, also in a shadow."""
    values = np.pad(values, window - 1, constant_values=np.inf)  # a window may reach over the border
    for extremum in np.minimum, np.maximum:
        for _ in range(2):
            width, values = 1, values.T
            while width < window:
                step = min(width, window - width)
                values = extremum(values[:-step], values[step:])
                width += step
    return values


def _crossings(ink: np.ndarray) -> int:
    """How many lines of ink cross the border of a mask."""
    sides = ink[0], ink[-1], ink[:, 0], ink[:, -1]
    return sum(int(np.count_nonzero(np.diff(side.astype(np.int8)) == 1)) for side in sides)


class _Piece(NamedTuple):
    """A connected piece of ink, or several that belong together: a mask (rows, columns), and its box, ends
    excluded."""

    mask: np.ndarray
    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def of(cls, mask: np.ndarray) -> "_Piece":
        return cls(mask, *_box(mask))

    @property
    def sides(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    @property
    def size(self) -> float:
        return max(self.sides[0], self.sides[1] / 2)

    def gap(self, other: "_Piece") -> int:
        """The number of empty columns between the two; if negative, of columns that both have."""
        return max(self.left, other.left) - min(self.right, other.right)

    def with_(self, other: "_Piece") -> "_Piece":
        return _Piece.of(self.mask | other.mask)


def _things(ink: np.ndarray) -> list[np.ndarray]:
    """The things in a mask of ink, one mask each, from left to right.

    Large pieces side by side are separate things; a small piece belongs to the nearest thing. Specks, dots
    and lines along the border are not ink.
    """
    labels = _labelled(ink)
    areas = np.bincount(labels.ravel())[1:]
    kept = np.flatnonzero(areas >= max(3, SPECK * areas.max(initial=0))) + 1
    pieces = [_Piece.of(mask) for mask in (labels == label for label in kept) if not _along_border(mask)]
    pieces = [piece for piece in pieces if not _is_ruled(piece, pieces)]
    pieces.sort(key=lambda piece: piece.left)
    most = max((piece.mask.sum() for piece in pieces), default=0)
    heavy = [piece for piece in pieces if piece.mask.sum() >= PART * most]
    largest = max((piece.size for piece in heavy), default=0)
    things: list[_Piece] = []
    for piece in heavy:
        if piece.size >= 0.6 * largest:
            if things and things[-1].gap(piece) < -0.4 * min(things[-1].sides[1], piece.sides[1]):
                things[-1] = things[-1].with_(piece)
            else:
                things.append(piece)
    for piece in pieces:
        if piece.size < 0.6 * largest:
            gaps = [thing.gap(piece) for thing in things]
            nearest = int(np.argmin(gaps))
            if gaps[nearest] <= 0.2 * largest:
                things[nearest] = things[nearest].with_(piece)
            elif piece.size >= 0.4 * largest and piece.mask.sum() >= PART * most:
                things.append(piece)
    things.sort(key=lambda thing: thing.left)
    return [thing.mask for thing in things if not _too_small(thing)]


def _along_border(mask: np.ndarray) -> bool:
    """Whether a piece covers most of a side of the picture: the edge of the paper, or a frame."""
    return max(side.mean() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) > 0.5


def _is_ruled(piece: _Piece, pieces: list[_Piece]) -> bool:
    """Whether a piece is a line from border to border, or a frame, and another piece is the drawing."""
    rows, columns = piece.mask.shape
    others = [each for each in pieces if each is not piece and each.size > 0.2 * piece.size]
    if piece.sides == (rows, columns) or rows == piece.sides[0] or columns == piece.sides[1]:
        return any(each.sides[0] < rows and each.sides[1] < columns for each in others)
    inside = any(
        piece.top < each.top
        and each.bottom < piece.bottom
        and piece.left < each.left
        and each.right < piece.right
        for each in others
    )
    frame, band = _cut(piece.mask, piece.mask), 1 + max(piece.sides) // 10
    edges = (
        frame[:band].any(axis=0),
        frame[-band:].any(axis=0),
        frame[:, :band].any(axis=1),
        frame[:, -band:].any(axis=1),
    )
    return inside and min(edge.mean() for edge in edges) > 0.8


def _too_small(thing: _Piece) -> bool:
    """Whether a thing is only a speck or a dot of a pen."""
    share = max(thing.sides) / max(thing.mask.shape)
    dot = min(thing.sides) > 0.6 * max(thing.sides) and thing.mask.sum() > 0.7 * np.prod(thing.sides)
    return max(thing.sides) < 4 or share < 0.04 or (dot and share < 0.12)


def _labelled(mask: np.ndarray) -> np.ndarray:
    """The 8-connected pieces of a mask, numbered from 1 on; 0 is outside the mask. int64 (rows, columns)."""
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    first = np.searchsorted(rows, np.arange(len(mask) + 1)).tolist()
    beginnings, endings = starts.tolist(), ends.tolist()
    for row in range(1, len(mask)):
        above, last = first[row - 1], first[row]
        for run in range(first[row], first[row + 1]):
            while above < last and endings[above] < beginnings[run]:
                above += 1
            touching = above
            while touching < last and beginnings[touching] <= endings[run]:
                parents[root(run)] = root(touching)
                touching += 1
    _, numbers = np.unique([root(run) for run in range(len(parents))], return_inverse=True)
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = np.repeat(numbers + 1, ends - starts)
    return labels


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a mask's content, ends excluded."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _cut(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The values in the box of a mask's content."""
    top, bottom, left, right = _box(mask)
    return values[top:bottom, left:right]


def _grown(values: np.ndarray, radius: int) -> np.ndarray:
    """The largest value in a square of `radius` around each of the values, 0 to 1 or a mask."""
    levels = Image.fromarray((values * np.float32(255)).round().astype(np.uint8))
    return np.asarray(levels.filter(ImageFilter.MaxFilter(2 * radius + 1)), np.float32) / 255


def _resized(ink: np.ndarray, times: float) -> np.ndarray:
    """Ink scaled by the factor `times`, with smooth edges."""
    size = [max(1, round(side * times)) for side in ink.shape[::-1]]
    return np.asarray(Image.fromarray(ink.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def _place(ink: np.ndarray, image_size: tuple[int, int], ground: int) -> np.ndarray:
    """Ink, 0 to 1, as an image, uint8 `image_size`: resized, its centre of mass in the middle."""
    room = LONGEST * min(image_size)
    if (times := -(-FINE // max(ink.shape))) > 1:  # so that strokes can grow by less than a pixel
        ink = _resized(ink, times)
    mask = np.pad(ink > 0.5, 1)
    edges = sum(np.count_nonzero(np.diff(mask, axis=axis)) for axis in (0, 1))
    width = 2.4 * np.count_nonzero(mask) / max(edges, 1)  # slanted edges count twice
    finest = STROKE * min(image_size) * max(ink.shape) / room
    if (radius := round((finest - width) / 2)) > 0:
        ink = _grown(np.pad(ink, radius), radius)
    small = _resized(ink, room / max(ink.shape))
    small = small / small.max()
    image = np.zeros(image_size, np.float32)
    starts = []
    for axis, (length, all_of_it) in enumerate(zip(small.shape, image_size, strict=True)):
        centre = np.average(np.arange(length) + 0.5, weights=small.sum(axis=1 - axis))
        starts.append(min(max(round(all_of_it / 2 - centre), 0), all_of_it - length))
    (top, left), (rows, columns) = starts, small.shape
    image[top : top + rows, left : left + columns] = small
    end = 255 if ground < 128 else 0
    return (ground + (end - ground) * image).round().astype(np.uint8)
