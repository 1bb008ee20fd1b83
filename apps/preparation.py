"""Pictures as people make them, prepared as the makers of MNIST prepared theirs.

LeCun, Bottou, Bengio and Haffner, 1998, section III.A: the longest side of the ink is reduced to 20 of the
image's 28 pixels, its shape kept and its edges smooth; its centre of mass goes to the middle.
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
"""What is read: pictures of pixels, decoded without the help of another program."""
HEIC = b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1"
POINTER = b"version https://git-lfs"

WORKING = 192
"""Pixels of the longest side while ink is looked for."""
LONGEST = 20 / 28
"""Of an image, the share that the longest side of the ink takes."""
STROKE = 2.25 / 28
"""Of an image, the width of the data set's strokes (median of MNIST): a finer pen's are made as wide."""
WINDOW = 0.4
"""Of a picture, the share that the widest stroke is narrower than; a shadow is wider."""
FINE = 96
"""Pixels of the ink's longest side, at least, while strokes are measured."""
SPECK = 0.02
"""Of the largest piece's area, what a piece has at least if it is ink."""
PART = 0.12
"""Of the heaviest piece's area, what a thing of its own has at least: a 1 beside an 8 has more."""
CONTRAST = 24
"""Gray levels by which ink differs from its ground at least."""
CROSSINGS = 8
"""Lines that cross the border of a picture, at most, if they are ink."""


def open_picture(file: str | Path | BinaryIO, name: str | None = None) -> Image.Image:
    """The picture in a file, decoded, upright as its camera says.

    name: what a complaint calls it, the file's path unless given. Raises UserError if it is no picture, is
    damaged, has more than PIXELS pixels, which is known before it is decoded, or pixels of 32 bits; OSError,
    if there is no such file.
    """
    name = name or str(file)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > PIXELS:
                raise Image.DecompressionBombError
            if picture.mode in ("I", "F"):
                raise UserError(f"{name} has pixels of 32 bits; allowed: 8 or 16 bits a pixel and colour")
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
    """What a file is that is no picture, and what can be done."""
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
    """What is drawn in a picture, each thing as an image of a data set, uint8 (rows, columns), left to right.

    image_size: the images' rows and columns; ground: the gray level of their background. No image if there
    is no ink. Assumes that most of the picture's border is ground, lighter or darker than the ink, and that
    things stand side by side with a gap between them. Shadows, gradients, noise, a ruled or squared ground
    and specks are taken away; a transparent ground takes the colour that the ink is not.
    """
    return [_place(ink, image_size, ground) for ink in _find(_opaque(picture))]


def has_form(picture: Image.Image, image_size: tuple[int, int], ground: int) -> bool:
    """Whether a picture has the form of the data set's images, so that `as_is` is right for it.

    That is so if it is gray, as large as they are, and its ink stands on `ground`, large and in the middle.
    """
    if picture.size != image_size[::-1] or picture.has_transparency_data:
        return False
    colours = np.asarray(_opaque(picture), np.float32)
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
    """The picture as an image, uint8 (rows, columns): made gray and as large, and nothing else."""
    gray = _opaque(picture, ground).convert("L")
    return np.asarray(gray.resize(image_size[::-1], Image.Resampling.LANCZOS))


def _opaque(picture: Image.Image, ground: int | None = None) -> Image.Image:
    """A picture of any kind in red, green and blue.

    ground: the gray level below what is transparent; without one, white or black, which the ink is not.
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
    """White or black, whichever keeps what is seen of a transparent picture in sight.

    If most of the picture is seen, that is not ink but its ground, which goes on below.
    """
    gray, seen = (np.asarray(band, np.float32) / 255 for band in picture.convert("LA").split())
    light = seen.any() and np.average(gray, weights=seen) >= 0.5
    return 255 if light == (seen.mean() >= 0.5) else 0


def _find(picture: Image.Image, closer: bool = True) -> list[np.ndarray]:
    """The ink of each thing in a picture of red, green and blue: 0 to 1, float32 (rows, columns), cut out.

    Looked for in a reduced picture; if all of it lies in a small part, once more in that part alone.
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
    inks = [soft * _grown(thing, 1) for thing in things]  # with its smooth edge
    return [_cut(ink, ink > 0) for ink in inks]


def _strength(colours: np.ndarray) -> tuple[np.ndarray, float]:
    """How much each pixel differs from the ground towards the ink, in gray levels, and from where on it is
    ink: from infinity on if nothing differs enough.

    colours: float32 (rows, columns, 3).
    """
    window = max(3, round(WINDOW * max(colours.shape)))
    step = 2 if max(colours.shape) > WORKING / 2 else 1  # every other pixel says enough of that
    coarse = colours[::step, ::step]
    off = coarse - _local_mean(coarse, 2 * window // step)
    # ink is the smaller part of what is around it, so that its differences are the larger ones
    towards = np.einsum("yxc,yx->c", off, np.square(off).sum(axis=2))
    strength = colours @ (towards / max(np.linalg.norm(towards), 1e-9))
    if min(strength.shape) >= 48:
        strength = _smooth(strength)
    strength -= _opened(strength, window)
    ink = strength > _otsu(strength)
    strength -= np.median(strength[~ink])
    threshold = _otsu(strength)
    ink = strength > threshold
    if _crossings(ink) > CROSSINGS:  # ruled paper, whose lines are paler than ink
        threshold = _otsu(strength[ink])
        ink = strength > threshold
    faint = not ink.any() or strength[ink].mean() < CONTRAST
    return strength, np.inf if faint or _crossings(ink) > CROSSINGS else threshold


def _border(values: np.ndarray) -> np.ndarray:
    """The outermost pixels of an array (rows, columns, …), (n, …)."""
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])


def _otsu(values: np.ndarray) -> float:
    """The threshold that parts values best in two groups, each of small variance (Otsu, 1979)."""
    counts, edges = np.histogram(values, 128)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + np.nanargmax(between)]) if np.ptp(values) else float("inf")


def _smooth(values: np.ndarray) -> np.ndarray:
    """Each value as a mean of itself and its neighbours, near ones weighing more."""
    for axis in (0, 1):
        padded = np.pad(values, [(1, 1) if axis == each else (0, 0) for each in (0, 1)], mode="edge")
        before, after = (padded[:-2], padded[2:]) if axis == 0 else (padded[:, :-2], padded[:, 2:])
        values = values / 2 + (before + after) / 4
    return values


def _local_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of what lies in a square window around each of the values (rows, columns, …)."""
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
    """Values without what is higher and narrower than the window: the local ground, also in a shadow."""
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
    """Ink of one piece, or what belongs together: a mask (rows, columns), and its box, ends excluded."""

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
        """Empty columns between the two; below 0, how many both have."""
        return max(self.left, other.left) - min(self.right, other.right)

    def with_(self, other: "_Piece") -> "_Piece":
        return _Piece.of(self.mask | other.mask)


def _things(ink: np.ndarray) -> list[np.ndarray]:
    """The things in a mask of ink, a mask each, left to right.

    Large pieces beside each other are things of their own, a small piece belongs to the thing that is near.
    Specks, dots and what lies along the border are no ink.
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
    """Whether a piece takes most of a side of the picture: the edge of the paper, or a frame."""
    return max(side.mean() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) > 0.5


def _is_ruled(piece: _Piece, pieces: list[_Piece]) -> bool:
    """Whether a piece is a line from border to border or a frame, and something else is what was drawn."""
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
    """Whether a thing is a speck or a dot of a pen."""
    share = max(thing.sides) / max(thing.mask.shape)
    dot = min(thing.sides) > 0.6 * max(thing.sides) and thing.mask.sum() > 0.7 * np.prod(thing.sides)
    return max(thing.sides) < 4 or share < 0.04 or (dot and share < 0.12)


def _labelled(mask: np.ndarray) -> np.ndarray:
    """The connected pieces of a mask, also over corners, numbered from 1 on; 0 is not in the mask."""
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
    """Top, bottom, left and right of what is in a mask, the ends excluded."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _cut(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The values in the box of what is in a mask."""
    top, bottom, left, right = _box(mask)
    return values[top:bottom, left:right]


def _grown(values: np.ndarray, radius: int) -> np.ndarray:
    """Each value the largest within a square around it. values: 0 to 1, or a mask."""
    levels = Image.fromarray((values * np.float32(255)).round().astype(np.uint8))
    return np.asarray(levels.filter(ImageFilter.MaxFilter(2 * radius + 1)), np.float32) / 255


def _resized(ink: np.ndarray, times: float) -> np.ndarray:
    """Ink so many times as large, its edges smooth."""
    size = [max(1, round(side * times)) for side in ink.shape[::-1]]
    return np.asarray(Image.fromarray(ink.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def _place(ink: np.ndarray, image_size: tuple[int, int], ground: int) -> np.ndarray:
    """Ink, 0 to 1, as an image: reduced or enlarged, its centre of mass in the middle."""
    room = LONGEST * min(image_size)
    if (times := -(-FINE // max(ink.shape))) > 1:  # for strokes to grow by less than a pixel
        ink = _resized(ink, times)
    mask = np.pad(ink > 0.5, 1)
    edges = sum(np.count_nonzero(np.diff(mask, axis=axis)) for axis in (0, 1))
    width = 2.4 * np.count_nonzero(mask) / max(edges, 1)  # of a slanting stroke some edges count twice
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
