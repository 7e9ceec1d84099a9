"""Synthetic pictures of flowers: a labelled data set that needs no download, in NumPy only.

A flower is a stack of *whorls* (rings or fans of equal petals), painted from back to front, and
a disc in the middle. Clipped distances to the outlines make edges anti-aliased at any size.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from keras_ddim.checks import check_choice, check_count, check_seed, require

_CHUNK_PIXELS = 2**16  # drawn at once: few enough to stay in the processor's cache
_DRAWS_PER_IMAGE = 96  # random numbers, more than any family uses

_Array = np.ndarray
_Pair = tuple[float, float]
_Colour = tuple[float, float, float]  # hue, saturation, value
_ColourPairs = tuple[tuple[_Colour, _Colour], ...]


class _Whorl(NamedTuple):
    """Equal petals around one point. A pair is a range, lengths are in radii of the flower."""

    petals: tuple[int, int]
    length: _Pair
    width: _Pair  # 1 just fills the petal's sector, more overlaps the neighbours
    base: float = 0.6  # larger: narrower where the petal is attached
    tip: float = 0.4  # larger: more pointed
    twist: float = 0.0  # how far the petals may curve sideways
    tuck: float = 0.0  # shade on the side that lies under the neighbour
    midrib: float = 0.0  # shade along the middle line
    value: float = 1.0  # brightness relative to the family's colours
    turn: _Pair = (0.0, 1.0)  # of the ring, in angles between petals
    colours: str = "petal"
    fan: _Pair | None = None  # None: a full ring; else the angle between petals, pointing up
    sink: float = 0.0  # how far below the flower's centre the petals are attached
    shadow: float = 0.3  # darkness cast on what lies behind
    odds: float = 1.0  # share of the family's flowers that have this whorl


class _Family(NamedTuple):
    """One kind of flower."""

    name: str
    petal: _ColourPairs  # inner and outer colours; each flower has one of the pairs
    whorls: tuple[_Whorl, ...]  # from back to front
    throat: _Pair = (0.0, 1.0)  # where along a petal inner turns into outer colour
    disc: _Pair | None = None  # radius of the disc in radii of the flower
    disc_colours: tuple[_Colour, _Colour] = ((0.12, 0.8, 0.95), (0.09, 0.95, 0.75))  # middle, rim
    seeds: float = 0.0  # contrast of the seeds on the disc
    radius: _Pair = (0.55, 0.85)  # in halves of the shorter image side
    tilt: float = 0.3  # how much shorter one axis may look
    stem: float = 0.4  # share of flowers seen with a stem


def _family(name: str, petal: _ColourPairs, *whorls: _Whorl, **others: Any) -> _Family:
    return _Family(name, petal, whorls, **others)


_leaves = functools.partial(_Whorl, base=0.7, tip=0.9, midrib=0.3, colours="leaf")
_tulip_petals = functools.partial(_Whorl, sink=0.75)
_LEAVES_BEHIND = _leaves((3, 5), (0.9, 1.15), (0.45, 0.7), twist=0.3, odds=0.4)

_FAMILIES = (
    _family(
        "daisy",
        (
            ((0.14, 0.10, 0.92), (0.12, 0.02, 1.0)),
            ((0.92, 0.45, 0.95), (0.93, 0.15, 1.0)),
            ((0.75, 0.40, 0.85), (0.76, 0.28, 0.98)),
        ),
        _Whorl((13, 21), (1, 1), (0.8, 1.0), 0.5, 0.25, value=0.85),
        _Whorl((13, 21), (0.88, 0.97), (0.75, 0.95), 0.5, 0.25),
        disc=(0.24, 0.34),
        seeds=0.15,
    ),
    _family(
        "sunflower",
        (((0.09, 0.95, 0.95), (0.14, 0.85, 1.0)), ((0.05, 0.95, 0.75), (0.12, 0.90, 1.0))),
        _Whorl((15, 20), (1, 1), (0.9, 1.2), 0.5, 0.8, value=0.8, midrib=0.2),
        _Whorl((15, 20), (0.85, 0.95), (0.9, 1.1), 0.5, 0.8, midrib=0.2),
        disc=(0.40, 0.52),
        disc_colours=((0.08, 0.75, 0.22), (0.06, 0.85, 0.42)),
        seeds=0.45,
        radius=(0.65, 0.9),
    ),
    _family(
        "rose",
        (
            ((0.97, 0.95, 0.55), (0.98, 0.85, 0.90)),
            ((0.94, 0.65, 0.80), (0.95, 0.30, 1.0)),
            ((0.09, 0.55, 0.90), (0.11, 0.22, 1.0)),
        ),
        _LEAVES_BEHIND,
        _Whorl((5, 6), (1, 1), (1.2, 1.3), 0.6, 0.3, 0.3, 0.1),
        _Whorl((5, 5), (0.78, 0.84), (1.2, 1.3), 0.6, 0.3, 0.5, 0.15),
        _Whorl((4, 4), (0.56, 0.62), (1.2, 1.3), 0.6, 0.3, 0.7, 0.2, value=0.95),
        _Whorl((3, 3), (0.34, 0.40), (1.2, 1.3), 0.5, 0.25, 1.5, 0.25, value=0.9),
        _Whorl((2, 2), (0.17, 0.20), (1.2, 1.3), 0.5, 0.2, 3.0, 0.3, value=0.75),
        radius=(0.5, 0.75),
    ),
    _family(
        "tulip",
        (
            ((0.14, 0.85, 0.95), (0.99, 0.88, 0.90)),
            ((0.93, 0.50, 0.90), (0.92, 0.25, 1.0)),
            ((0.10, 0.90, 0.95), (0.14, 0.75, 1.0)),
            ((0.80, 0.60, 0.45), (0.79, 0.50, 0.75)),
        ),
        _leaves((2, 2), (1.4, 1.6), (0.20, 0.26), fan=(0.8, 1.2), sink=1.9, shadow=0.2),
        _tulip_petals((2, 2), (1.50, 1.60), (0.34, 0.40), 0.45, 0.6, value=0.7, fan=(0.4, 0.5)),
        _tulip_petals((2, 2), (1.45, 1.55), (0.34, 0.40), 0.40, 0.6, value=0.9, fan=(0.8, 1.0)),
        _tulip_petals((1, 1), (1.35, 1.45), (0.40, 0.48), 0.45, 0.5, midrib=0.12, fan=(1.0, 1.0)),
        radius=(0.42, 0.6),
        tilt=0.1,
        stem=1.0,
    ),
    _family(
        "poppy",
        (
            ((0.00, 0.60, 0.12), (0.01, 0.93, 0.93)),
            ((0.95, 0.80, 0.25), (0.04, 0.85, 1.0)),
            ((0.13, 0.80, 0.90), (0.08, 0.85, 1.0)),
        ),
        _Whorl((2, 3), (1, 1), (0.9, 1.0), 0.55, 0.3, value=0.85, turn=(0, 0)),
        _Whorl((2, 3), (0.95, 1.0), (0.85, 0.95), 0.55, 0.3, turn=(0.4, 0.6)),
        _Whorl((12, 16), (0.30, 0.36), (0.5, 0.7), 3.0, 0.4, colours="stamen", shadow=0.15),
        throat=(0.2, 0.45),
        disc=(0.10, 0.16),
        disc_colours=((0.25, 0.45, 0.65), (0.28, 0.55, 0.35)),
        seeds=0.2,
    ),
    _family(
        "forget-me-not",
        (
            ((0.60, 0.10, 1.0), (0.60, 0.65, 0.95)),
            ((0.62, 0.20, 1.0), (0.66, 0.70, 0.85)),
            ((0.88, 0.10, 1.0), (0.86, 0.38, 0.98)),
        ),
        _LEAVES_BEHIND,
        _Whorl((5, 5), (1, 1), (0.88, 1.05), 0.9, 0.35, midrib=0.1),
        throat=(0.25, 0.45),
        disc=(0.14, 0.2),
        disc_colours=((0.10, 0.9, 0.65), (0.14, 0.85, 1.0)),
        radius=(0.5, 0.75),
    ),
    _family(
        "lily",
        (
            ((0.20, 0.55, 0.80), (0.94, 0.45, 0.98)),
            ((0.17, 0.55, 0.85), (0.15, 0.06, 1.0)),
            ((0.12, 0.85, 0.95), (0.05, 0.85, 1.0)),
        ),
        _Whorl((3, 3), (1, 1), (0.42, 0.50), 0.8, 0.8, 0.15, turn=(0, 0), value=0.85, midrib=0.3),
        _Whorl((3, 3), (0.95, 1.0), (0.46, 0.56), 0.8, 0.8, 0.15, turn=(0.5, 0.5), midrib=0.3),
        _Whorl((6, 6), (0.45, 0.55), (0.14, 0.18), 4.0, 0.25, 0.2, colours="stamen", shadow=0.2),
        throat=(0.05, 0.6),
        radius=(0.65, 0.9),
    ),
    _family(
        "dahlia",
        (
            ((0.88, 0.85, 0.50), (0.87, 0.55, 0.92)),
            ((0.03, 0.95, 0.65), (0.07, 0.80, 1.0)),
            ((0.76, 0.80, 0.40), (0.78, 0.50, 0.85)),
            ((0.96, 0.35, 0.90), (0.10, 0.08, 1.0)),
        ),
        _Whorl((10, 12), (1, 1), (1.0, 1.2), 0.5, 0.5, 0.3, value=0.85),
        _Whorl((10, 11), (0.76, 0.80), (1.0, 1.2), 0.5, 0.5, 0.3, value=0.93),
        _Whorl((8, 9), (0.52, 0.56), (1.0, 1.2), 0.5, 0.5, 0.3),
        _Whorl((5, 6), (0.28, 0.32), (1.0, 1.2), 0.5, 0.5, 0.3, value=0.85),
        radius=(0.6, 0.85),
    ),
)

# Colours at the top and at the bottom of a background.
_BACKGROUNDS = (
    ((0.27, 0.60, 0.50), (0.30, 0.75, 0.22)),  # meadow
    ((0.24, 0.45, 0.72), (0.29, 0.65, 0.35)),  # sunny meadow
    ((0.57, 0.50, 0.92), (0.55, 0.15, 1.00)),  # sky
    ((0.56, 0.30, 0.95), (0.26, 0.55, 0.45)),  # sky over grass
    ((0.62, 0.50, 0.20), (0.65, 0.45, 0.09)),  # night
    ((0.09, 0.15, 0.95), (0.07, 0.25, 0.80)),  # cream
    ((0.50, 0.12, 0.85), (0.52, 0.20, 0.65)),  # mist
)


class _Scene(NamedTuple):
    """The kinds of flowers, their places and their backgrounds."""

    families: tuple[_Family, ...]
    backgrounds: _ColourPairs = _BACKGROUNDS
    lights: int = 4  # in the background
    off_centre: float = 1.0  # largest shift, as a fraction of the way to the edge
    spin: float = 1.0  # largest rotation, as a fraction of a full turn


def _plain(family: _Family) -> _Family:
    """The family large, seen from above, in its first colours, with a fixed number of petals."""
    whorls = tuple(
        whorl._replace(petals=(sum(whorl.petals) // 2,) * 2, turn=(sum(whorl.turn) / 2,) * 2)
        for whorl in family.whorls
        if whorl.odds == 1
    )
    radius = (0.55, 0.6) if family.stem == 1 else (0.8, 0.9)
    return family._replace(
        whorls=whorls, radius=radius, tilt=0.0, stem=float(family.stem == 1), petal=family.petal[:1]
    )


_FLOWERS = _Scene(_FAMILIES)
_PLAIN_FLOWERS = _Scene(
    tuple(_plain(family) for family in _FAMILIES if family.name not in ("rose", "dahlia")),
    tuple((_BACKGROUNDS[i][1],) * 2 for i in (0, 2, 5)),
    lights=0,
    off_centre=0.0,
    spin=0.0,
)

FAMILIES = tuple(family.name for family in _FLOWERS.families)
"""Names of the flower families; the label of a picture is its index in this tuple."""

PLAIN_FAMILIES = tuple(family.name for family in _PLAIN_FLOWERS.families)
"""Names of those that are drawn with `plain=True`."""

_LEAF = (((0.30, 0.75, 0.30), (0.27, 0.60, 0.55)),)
_STAMEN = (((0.16, 0.35, 0.80), (0.11, 0.85, 0.90)), ((0.00, 0.30, 0.15), (0.08, 0.60, 0.30)))


def draw_flowers(
    num_images: int,
    image_size: int | tuple[int, int] = 64,
    seed: int | None = None,
    return_labels: bool = False,
    dtype: str = "float32",
    plain: bool = False,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Draws pictures of synthetic flowers.

    A picture depends on `seed` and its position alone, not on the number of pictures. Another
    `image_size` of the same shape shows the same flowers.

    Args:
        num_images: Number of pictures.
        image_size: Height and width in pixels, or a tuple `(height, width)`. Defaults to 64.
        seed: Integer. `None`, the default, draws new pictures each time.
        return_labels: Whether to return the families too. Defaults to `False`.
        dtype: `"float32"` for values in [0, 1], the default, or `"uint8"` for 0 to 255.
        plain: Whether to draw six of the eight families only, each large and upright in one colour
            on one of three plain backgrounds. A network learns these in a few minutes. Defaults to
            `False`.

    Returns:
        Array of shape `(num_images, height, width, 3)`. With `return_labels=True`, a tuple of it
        and an int32 array `(num_images,)` of indices into `keras_ddim.data.FAMILIES` (with
        `plain=True`, into `keras_ddim.data.PLAIN_FAMILIES`).

    Example:

    >>> images, labels = draw_flowers(1000, image_size=64, seed=0, return_labels=True)
    >>> images.shape
    (1000, 64, 64, 3)
    >>> FAMILIES[labels[0]]
    'lily'
    """
    num_images = check_count("num_images", num_images)
    height, width = check_image_size(image_size)
    seed = check_seed(seed)
    check_choice("dtype", dtype, ("float32", "uint8"))

    # A row for each image: the first rows do not depend on how many follow.
    numbers = np.random.default_rng(seed).random((num_images, _DRAWS_PER_IMAGE), np.float32)
    scene = _PLAIN_FLOWERS if plain else _FLOWERS
    labels = (numbers[:, 0] * len(scene.families)).astype(np.int32)
    images = np.empty((num_images, height, width, 3), dtype)

    def draw(chunk: np.ndarray) -> None:
        family = scene.families[labels[chunk[0]]]
        canvas = _draw(family, scene, _Draws(numbers[chunk, 1:]), height, width)
        if dtype == "uint8":
            canvas = canvas * 255 + 0.5
        images[chunk] = canvas.transpose(0, 2, 3, 1)

    # The pictures of a chunk are of one family, so that they share its whorls.
    step = max(1, _CHUNK_PIXELS // (height * width))
    members = [np.flatnonzero(labels == label) for label in range(len(scene.families))]
    chunks = [same[i : i + step] for same in members for i in range(0, len(same), step)]
    # A third faster: glibc keeps freed memory for reuse once it has seen a larger array freed.
    np.empty(2**24, np.uint8)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(draw, chunks))
    return (images, labels) if return_labels else images


def check_image_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """`image_size`, an integer or (height, width), as two positive ints."""
    sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    require(len(sides) == 2, "image_size", "an integer or (height, width)", image_size)
    return check_count("image_size", sides[0]), check_count("image_size", sides[1])


class _Draws:
    """Random numbers of some images, each used once: one column after the other."""

    def __init__(self, numbers: _Array) -> None:
        self._columns = iter(numbers.T)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> _Array:
        """Numbers between `low` and `high`, shape (images, 1, 1)."""
        return (low + (high - low) * next(self._columns))[:, None, None].astype(np.float32)

    def integer(self, low: int, high: int) -> _Array:
        """Integers from `low` to `high`, both included, as floats of shape (images, 1, 1)."""
        return np.floor(self.uniform(low, high + 1))

    def chance(self, odds: float) -> _Array:
        """1 for a share of the images, 0 for the others, shape (images, 1, 1)."""
        return (self.uniform() < odds).astype(np.float32)

    def colours(self, pairs: _ColourPairs) -> tuple[_Array, _Array]:
        """One of the pairs of colours, slightly varied: two of shape (images, 3, 1, 1), as RGB."""
        options = np.asarray(pairs, np.float32)
        colours = options[(next(self._columns) * len(options)).astype(int)]
        hue, brightness = self.uniform(-0.02, 0.02)[:, 0], self.uniform(-0.06, 0.06)[:, 0]
        colours[..., 0] += hue
        colours[..., 1] *= 1.0 + 2.0 * brightness
        colours[..., 2] *= 1.0 + brightness
        rgb = _rgb(colours)
        return rgb[:, 0, :, None, None], rgb[:, 1, :, None, None]


def _rgb(colours: _Array) -> _Array:
    """Hue, saturation and value (..., 3) as red, green and blue (..., 3)."""
    hue, saturation, value = (colours[..., i : i + 1] for i in range(3))
    k = (np.array([5, 3, 1], np.float32) + 6.0 * hue) % 6.0
    rgb = value * (1.0 - np.clip(saturation, 0, 1) * np.clip(np.minimum(k, 4.0 - k), 0, 1))
    return np.clip(rgb, 0.0, 1.0).astype(np.float32)


def _draw(family: _Family, scene: _Scene, draws: _Draws, height: int, width: int) -> _Array:
    """Pictures of one family, shape (images, 3, height, width), values in [0, 1]."""
    shorter = min(height, width)
    pixel = np.asarray(2.0 / shorter, np.float32)
    # Coordinates of the pixels' centres: the shorter side spans [-1, 1], y points down.
    y = ((np.arange(height, dtype=np.float32) + 0.5) * pixel - height / shorter)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) * pixel - width / shorter)[None, :]

    canvas = _background(scene, draws, x, y)
    radius = draws.uniform(*family.radius)
    # Off the centre, but entirely in the picture.
    slack = scene.off_centre * (np.float32(0.95) - radius)
    x = x - draws.uniform(-1, 1) * (slack + np.float32(scene.off_centre * (width / shorter - 1)))
    y = y - draws.uniform(-1, 1) * (slack + np.float32(scene.off_centre * (height / shorter - 1)))
    x, y, pixel = x / radius, y / radius, pixel / radius

    leaf = draws.colours(_LEAF)
    colours = {"petal": draws.colours(family.petal), "leaf": leaf, "stamen": draws.colours(_STAMEN)}
    _paint(canvas, _stem(x, y, pixel, family, draws), leaf)

    # A tilted flower looks shorter along one axis; one seen from the side only leans.
    upright = any(whorl.fan for whorl in family.whorls)
    turn = draws.uniform(-0.2, 0.2) if upright else draws.uniform(0, 2 * np.pi * scene.spin)
    shorten = 1.0 / (1.0 - draws.uniform(0, family.tilt))
    x, y = np.cos(turn) * x + np.sin(turn) * y, shorten * (np.cos(turn) * y - np.sin(turn) * x)
    spin = draws.uniform(0, 2 * np.pi * scene.spin)
    for whorl in family.whorls:
        throat = family.throat if whorl.colours == "petal" else (0.0, 1.0)
        petals = _petals(x, y, pixel, whorl, throat, spin, draws)
        _paint(canvas, petals, colours[whorl.colours])
    if family.disc is not None:
        disc = _disc(x, y, pixel, draws.uniform(*family.disc), family.seeds)
        _paint(canvas, disc, draws.colours((family.disc_colours,)))
    return np.clip(canvas, 0.0, 1.0, out=canvas)


def _background(scene: _Scene, draws: _Draws, x: _Array, y: _Array) -> _Array:
    """A gradient from top to bottom with a few soft lights, shape (images, 3, height, width)."""
    top, bottom = draws.colours(scene.backgrounds)
    height = (y / y[-1] + 1) / 2 if len(y) > 1 else np.zeros_like(y)
    # Gradient and lights are products of a row and a column: together one matrix product.
    rows = [top + (bottom - top) * height]
    columns = [np.ones((len(top), 1, x.shape[1]), np.float32)]
    for _ in range(scene.lights):
        size = draws.uniform(0.15, 0.5)
        strength = draws.uniform(-0.15, 0.2)[..., None] * (top + bottom)
        bump = np.exp(-(((y - draws.uniform(-1.2, 1.2)) / size) ** 2))
        rows.append(strength * bump[:, None])
        columns.append(np.exp(-(((x - draws.uniform(-1.2, 1.2)) / size) ** 2)))
    return np.concatenate(rows, axis=-1) @ np.concatenate(columns, axis=1)[:, None]


class _Shape(NamedTuple):
    """Something to paint: arrays that broadcast to (images, height, width)."""

    cover: _Array  # how much of each pixel it covers
    dim: _Array | float  # what its shadow leaves of the light behind it
    shade: _Array  # brightness
    mixture: _Array | float  # 0 for its first colour, 1 for its second


def _paint(canvas: _Array, shape: _Shape, colours: tuple[_Array, _Array]) -> None:
    """Paints a shape over the canvas, (images, 3, height, width), in colours of `_Draws`."""
    first, second = colours
    behind = (1 - shape.cover) * shape.dim
    light = shape.cover * shape.shade
    tinted = light * shape.mixture
    for channel in range(3):
        plane = canvas[:, channel]
        plane *= behind
        plane += first[:, channel] * light
        plane += (second - first)[:, channel] * tinted


def _edge(distance: _Array, pixel: _Array) -> _Array:
    """Fraction of a pixel inside an outline at this signed distance (negative is inside)."""
    return np.clip(0.5 - distance / pixel, 0.0, 1.0)


def _dim(shadow: _Array | float, outside: _Array) -> _Array:
    """The light left outside a shape, whose shadow fades over a sixth of a radius."""
    return np.minimum((1 - shadow) + (6 * shadow) * outside, 1)


def _stem(x: _Array, y: _Array, pixel: _Array, family: _Family, draws: _Draws) -> _Shape:
    present, bend = draws.chance(family.stem), draws.uniform(-0.25, 0.25)
    half_width = np.float32(0.06)
    aside = x - bend * y * y
    # Across the stem, not along the row.
    distance = np.abs(aside) / np.sqrt(1 + (2 * bend * y) ** 2) - half_width
    cover = present * _edge(distance, pixel) * _edge(-y, pixel)
    return _Shape(cover, 1.0, 0.85 - 0.3 * np.clip(aside / half_width, -1, 1), 0.5)


def _petals(
    x: _Array, y: _Array, pixel: _Array, whorl: _Whorl, throat: _Pair, spin: _Array, draws: _Draws
) -> _Shape:
    petals = draws.integer(*whorl.petals)
    length = draws.uniform(*whorl.length)
    twist = draws.uniform(-whorl.twist, whorl.twist)
    turn = draws.uniform(*whorl.turn)
    phase = draws.uniform(0, 2 * np.pi)
    width = length * draws.uniform(*whorl.width)
    spread = draws.uniform(*(whorl.fan or (0, 0)))
    present = draws.chance(whorl.odds)

    y = np.float32(whorl.sink) - y
    radii = np.sqrt(x * x + y * y)
    angles = np.arctan2(x, y)
    # Every pixel belongs to the petal whose axis is nearest.
    if whorl.fan is None:
        pitch = np.float32(2 * np.pi) / petals
        width = width * np.sin(pitch / 2)
        angles += spin + turn * pitch
        angles += twist * radii
        axes = pitch * np.rint(angles / pitch)
    else:
        pitch, last = spread, (petals - 1) / 2
        axes = pitch * (np.clip(np.rint(angles / pitch + last), 0, 2 * last) - last)
    angles -= axes
    # Petals of a flower differ a little; going round twice, the last one meets the first.
    unlike = np.sin(2 * axes + phase)
    off_axis = radii * np.sin(np.minimum(np.abs(angles), np.float32(np.pi / 2)))

    # The outline: half as wide as u ** base * (1 - u) ** tip, u running from base to tip.
    reach = radii * (1 - np.float32(0.05) * unlike)
    u = np.clip(reach / length, 0.001, 0.999)
    base, tip = whorl.base, whorl.tip
    peak = base / (base + tip)
    half_width = np.exp(base * np.log(u) + tip * np.log(1 - u))
    half_width *= width / (peak**base * (1 - peak) ** tip)
    slope = half_width * (base / u - tip / (1 - u)) / length
    beside, beyond = off_axis - half_width, reach - length
    distance = np.maximum(beside / np.sqrt(1 + slope * slope), beyond)
    cover = _edge(distance, pixel)
    # A petal thinner than a pixel covers a part of it only.
    cover *= np.minimum(half_width * (2 * present / pixel), present)

    sector = radii * np.sin(np.minimum(pitch / 2, np.float32(np.pi / 2)))
    to_rim = np.minimum(off_axis / (np.minimum(half_width, sector) + pixel / 4), 1)
    shade = whorl.value + np.float32(0.07 * whorl.value) * unlike
    shade *= 1 - 0.2 * to_rim * to_rim
    if whorl.midrib:
        shade *= 1 - whorl.midrib * np.maximum(1 - off_axis * (6 / width), 0)
    if whorl.tuck:
        shade *= 1 + whorl.tuck * np.clip(angles * (2 / pitch), -1, 1)
    start, stop = throat
    mixture = np.clip((u - start) / (stop - start), 0, 1)
    outside = np.maximum(beside, 0) + np.maximum(beyond, 0)
    return _Shape(cover, _dim(present * np.float32(whorl.shadow), outside), shade, mixture)


def _disc(x: _Array, y: _Array, pixel: _Array, radius: _Array, contrast: float) -> _Shape:
    radii = np.sqrt(x * x + y * y)
    distance = radii - radius
    u = np.minimum(radii / radius, 1)
    shade = 1 - np.float32(0.2) * u * u * u - 0.15 * np.clip(y / radius, -1, 1)
    if contrast:
        # Two sets of spirals, as seeds grow; they fade where they are finer than the pixels.
        angles, turns = np.arctan2(x, y), 5 * np.log(radii + pixel)
        fine = np.clip(2 - 13 * pixel / (radii + pixel), 0, 1)
        seeds = np.sin(8 * angles + turns) * np.sin(13 * angles - turns)
        shade *= 1 + contrast * fine * seeds
    return _Shape(_edge(distance, pixel), _dim(0.35, np.maximum(distance, 0)), shade, u)
