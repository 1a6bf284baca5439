"""Procedural satellite tiles: ten drawn classes that stand in for EuroSAT when there is no network."""
import operator
from functools import lru_cache

import numpy as np

# The same (n, seed) must give the same bytes on every machine. RandomState's stream is frozen by NumPy's compatibility
# policy, and everything below uses only draws from random_sample and bytes, and elementwise + - * / min max floor abs,
# which IEEE 754 defines to the last bit. Sines, powers, matrix products and means may differ from one CPU to the next.

SIZE = 64
CANVAS = SIZE + 2  # one pixel of margin on each side, used up by the blur of the lens
Y, X = np.mgrid[:CANVAS, :CANVAS].astype(np.float32) - (CANVAS - 1) / 2

SOIL, PLANT = np.float32([[158, 122, 106], [32, 66, 64]])[:, :, None]
RULER = np.arange(-128, 128, 0.25, dtype=np.float32)  # quarter pixels: a table lookup is cheaper than a search per pixel


# --- brushes: each returns numbers per pixel, shape (CANVAS, CANVAS), or colors, shape (3, count) ---

def uniform(rs, low, high, *shape):
    """A float, or a float32 array of `shape`, between `low` and `high`."""
    values = low + (high - low) * rs.random_sample(shape or None)
    return values.astype(np.float32) if shape else values


def chance(rs, probability):
    return rs.random_sample() < probability


@lru_cache
def knots(cells):
    position = np.arange(CANVAS) * (cells / CANVAS)
    left = position.astype(np.intp)
    t = (position - left).astype(np.float32)
    return left, t * t * (3 - 2 * t)


def noise(rs, cells):
    """Smooth noise between -1 and 1 with `cells` bumps across the tile."""
    left, t = knots(cells)
    grid = uniform(rs, -1, 1, cells + 1, cells + 1)
    rows = grid[left] + t[:, None] * (grid[left + 1] - grid[left])
    start = rows[:, left]
    return start + t * (rows[:, left + 1] - start)


def clouds(rs, cells):
    """Three octaves of smooth noise: patches with patches in them."""
    return 0.55 * noise(rs, cells) + 0.3 * noise(rs, 2 * cells + 1) + 0.15 * noise(rs, 4 * cells + 3)


def grain(rs):
    """White noise between -1 and 1."""
    levels = np.frombuffer(rs.bytes(CANVAS * CANVAS), np.uint8).reshape(CANVAS, CANVAS)
    return levels.astype(np.float32) / 127.5 - 1


def axes(rs, bend=0.0):
    """Pixel coordinates along and across a random direction; `bend` pixels of smooth warp make borders organic."""
    t = uniform(rs, -1, 1)  # (1 - t^2, 2t) / (1 + t^2) lies on the unit circle, without a sine
    c, s = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    u, v = c * X + s * Y, c * Y - s * X
    if bend:
        u, v = u + bend * noise(rs, 3), v + bend * noise(rs, 3)
    return u, v


def intervals(rs, position, low, high):
    """Cuts a line into pieces `low` to `high` pixels long: the piece's number and the distance to its nearer end."""
    ends = np.cumsum(uniform(rs, low, high, int((256 + high) / low) + 2), dtype=np.float32) - 128 - high
    piece = np.searchsorted(ends, RULER)
    near = np.minimum(RULER - ends[piece - 1], ends[piece] - RULER)
    at = ((position + 128) * 4).astype(np.intp)
    return piece.take(at, mode="clip"), near.take(at, mode="clip")


def parcels(rs, u, v, width, length):
    """Strips across `u`, each cut along `v` at places of its own: a number 0..255 and the distance to the border."""
    strip, side = intervals(rs, u, *width)
    shift = uniform(rs, -length[1] / 2, length[1] / 2, 256)
    piece, end = intervals(rs, v + shift[strip & 255], *length)
    return (strip * 37 + piece) & 255, np.minimum(side, end)


def ripple(position, period):
    """Stripes as a triangle wave between 0 and 1."""
    phase = position / period
    return np.abs(phase - np.floor(phase) - 0.5) * 2


def ground(rs, green, bright=(0.7, 1.2), count=1):
    """`count` colors (3, count) between bare soil and plants; `green` and `bright` are ranges."""
    mix = uniform(rs, *green, count)
    return (SOIL + mix * (PLANT - SOIL)) * uniform(rs, *bright, count) + uniform(rs, -5, 5, 3, count)


def gray(rs, low, high, count=1, tint=4):
    return uniform(rs, low, high, count) + uniform(rs, -tint, tint, 3, count) + np.float32([[-2], [0], [5]])


def fill(color):
    """A canvas (3, CANVAS, CANVAS) of one color."""
    return np.repeat(color, CANVAS * CANVAS, axis=1).reshape(3, CANVAS, CANVAS)


def blend(image, color, amount):
    """Paints `color` (3, 1) or an image over `image` where `amount` is 1; in place."""
    color = color.reshape(3, *(color.shape[1:] if color.ndim == 3 else (1, 1)))
    image += np.clip(amount, 0, 1) * (color - image)
    return image


def dots(rs, count):
    """Lone trees: a mask with `count` small blobs."""
    mask = np.zeros((CANVAS, CANVAS), np.float32)
    y, x = (rs.random_sample((2, count)) * (CANVAS - 1)).astype(np.intp)
    mask[y, x] = mask[y + 1, x] = mask[y, x + 1] = 1
    return mask


# --- the ten classes: each returns an image (3, CANVAS, CANVAS) on the scale 0..255 ---

def annual_crop(rs):
    u, v = axes(rs, bend=uniform(rs, 0, 1.5))
    width = uniform(rs, 6, 26)
    number, edge = parcels(rs, u, v, (width, 2 * width), (1.3 * width, 4 * width))
    low = uniform(rs, -0.3, 0.4)
    image = ground(rs, (low, low + 0.9), (0.8, 1.5), 256)[:, number]
    image *= 1 + 0.06 * ripple(u, uniform(rs, 3, 6)) + uniform(rs, 0.03, 0.1) * clouds(rs, 3)
    if chance(rs, 0.5):
        blend(image, ground(rs, (0, 1), (0.7, 1.3)), 1.2 - edge)
    return image


def forest(rs):
    image = fill(ground(rs, (0.85, 1.1), (0.75, 1.1)))
    image *= 1 + uniform(rs, 0.08, 0.25) * clouds(rs, 4) + uniform(rs, 0.05, 0.14) * (grain(rs) + noise(rs, 32))
    if chance(rs, 0.3):
        blend(image, ground(rs, (0.4, 0.9)), 3 * clouds(rs, 4) - 1)
    return image


def herbaceous_vegetation(rs):
    low = uniform(rs, -0.2, 0.7)
    a, b, c = ground(rs, (low, low + 0.5), (0.8, 1.4), 3).T[:, :, None]
    image = blend(fill(a), b, 0.5 + uniform(rs, 0.8, 2) * clouds(rs, 3))
    blend(image, c, uniform(rs, 1, 3) * clouds(rs, 7) - 0.2)
    image *= 1 + uniform(rs, 0.04, 0.15) * (grain(rs) + noise(rs, 24))
    if chance(rs, 0.5):
        blend(image, ground(rs, (0.6, 1.1), (0.6, 0.9)), grain(rs) + 2 * clouds(rs, 6) - 0.3)
    if chance(rs, 0.4):
        blend(image, ground(rs, (-0.3, 0.2), (0.9, 1.3)), 0.8 - 14 * np.abs(clouds(rs, 2)))
    return image


def pasture(rs):
    u, v = axes(rs, bend=uniform(rs, 3, 8))
    number, edge = parcels(rs, u, v, (15, 45), (22, 60))
    low = uniform(rs, 0.5, 0.85)
    image = ground(rs, (low, low + 0.35), (0.9, 1.3), 256)[:, number]
    image *= 1 + uniform(rs, 0.05, 0.2) * clouds(rs, 3)
    trees = ground(rs, (0.95, 1.1), (0.6, 0.85))
    blend(image, trees, np.clip(1.5 - edge, 0, 1) * (0.4 + 2 * noise(rs, 9)))
    return blend(image, trees, dots(rs, int(uniform(rs, 0, 14))))


def permanent_crop(rs):
    u, v = axes(rs, bend=uniform(rs, 0, 4))
    width = uniform(rs, 8, 20)
    number, edge = parcels(rs, u, v, (width, 1.8 * width), (1.2 * width, 3 * width))
    low = uniform(rs, -0.3, 0.4)
    image = ground(rs, (low, low + 0.6), (0.8, 1.4), 256)[:, number]
    period = uniform(rs, 3.2, 5.5)
    across, along = ripple(u, period), ripple(v, period)
    if chance(rs, 0.5):
        rows = 1.6 * across * along  # an orchard: trees where the two directions meet
    else:
        rows = np.where((uniform(rs, 0, 1, 256) < uniform(rs, 0, 1))[number], across, along)
    blend(image, ground(rs, (0.5, 1.1), (0.6, 1)), uniform(rs, 0.35, 0.9) * rows * (edge > 0.8))
    image *= 1 + 0.1 * clouds(rs, 3)
    return image


def build(rs, image, u, v, size, colors, gap, share):
    """Houses or halls in rows, each with its roof and the shadow it throws; in place."""
    number, edge = parcels(rs, u, v, (size, 2 * size), (size, 2.6 * size))
    stands = uniform(rs, 0, 1, 256) < share
    roof = np.clip(edge - uniform(rs, *gap, 256)[number] + 0.5, 0, 1) * stands[number]
    image[:, 1:, 1:] *= 1 - 0.5 * roof[:-1, :-1]
    return blend(image, colors[:, number], roof)


def industrial(rs):
    u, v = axes(rs, bend=uniform(rs, 0, 2))
    image = fill(gray(rs, 70, 125))
    image *= 1 + 0.2 * noise(rs, 14) + 0.15 * grain(rs)
    blend(image, ground(rs, (0.6, 1)), 4 * noise(rs, 5) - uniform(rs, 0.5, 2))
    for size in (uniform(rs, 3.5, 5), uniform(rs, 7, 14)):
        shine = uniform(rs, 0, 1, 256)
        colors = gray(rs, 70, 140, 256, tint=12) + uniform(rs, 80, 140) * shine * shine
        build(rs, image, u, v, size, colors, (0.7, 2.5), uniform(rs, 0.3, 0.75))
    return image


def residential(rs):
    u, v = axes(rs, bend=uniform(rs, 0, 7))
    image = fill(ground(rs, (0.4, 1), (0.7, 1.1)))
    image *= 1 + 0.3 * noise(rs, 12) + 0.25 * grain(rs)
    red = uniform(rs, 0, 1) * uniform(rs, 0, 1, 256)
    colors = gray(rs, 75, 190, 256) + np.float32([[40], [-8], [-20]]) * red
    size = uniform(rs, 2.5, 3.6)
    build(rs, image, u, v, size, colors, (0.1, 1.0), uniform(rs, 0.5, 0.85))
    _, street = parcels(rs, u, v, (3 * size, 6 * size), (5 * size, 12 * size))
    return blend(image, gray(rs, 70, 135), 1.5 - street)


def countryside(rs):
    """What roads and rivers cross."""
    return (annual_crop, pasture, forest, herbaceous_vegetation, permanent_crop)[int(rs.random_sample() * 5)](rs)


def highway(rs):
    image = countryside(rs)
    asphalt, verge = gray(rs, 85, 165), ground(rs, (0.5, 1.1), (0.6, 1.1))
    for _ in range(1 + chance(rs, 0.5)):
        u, v = axes(rs)
        distance = np.abs(v + uniform(rs, -14, 14) + uniform(rs, -0.005, 0.005) * u * np.abs(u))
        half = uniform(rs, 0.8, 2.6)
        blend(image, verge, uniform(rs, 0, 0.9) * np.clip(half + 2.5 - distance + noise(rs, 9), 0, 1))
        blend(image, asphalt, half + 0.5 - distance)
        if half > 1.5:
            blend(image, verge, 0.9 - distance)
    return image


def water(rs):
    """Deep blue, green or pale with silt."""
    silt = uniform(rs, 0, 1)
    color = np.float32([[30], [52], [68]]) + silt * silt * np.float32([[70], [80], [62]])
    return color + uniform(rs, -8, 8, 3, 1)


def river(rs):
    image = countryside(rs)
    u, v = axes(rs)
    bends = uniform(rs, 6, 16) * noise(rs, 2)[20] + 7 * noise(rs, 4)[20]
    at = np.clip(u + CANVAS / 2, 0, CANVAS - 1).astype(np.intp)
    half = uniform(rs, 2, 10)
    distance = np.abs(v + uniform(rs, -10, 10) + bends[at]) + 1.5 * noise(rs, 8)
    blend(image, ground(rs, (0.3, 1.1), (0.6, 1.1)), uniform(rs, 0.1, 0.5) * (half + uniform(rs, 1, 5) - distance))
    return blend(image, water(rs), half + 0.5 - distance)


def sea_lake(rs):
    u, v = axes(rs, bend=12)
    image = fill(water(rs))
    image += uniform(rs, 0, 8) * clouds(rs, 2) + uniform(rs, 0, 0.3) * u
    image += uniform(rs, 0, 2) * ripple(v, uniform(rs, 5, 9)) + uniform(rs, 0.5, 2.5) * grain(rs)
    if chance(rs, 0.4):
        shore = v + 5 * clouds(rs, 6) - uniform(rs, 6, 28)
        blend(image, ground(rs, (-0.2, 1), (0.8, 1.4)), 0.3 + shore / 4)
        blend(image, countryside(rs), shore / 3 - 0.3)
    return image


PAINTERS = (annual_crop, forest, herbaceous_vegetation, highway, industrial, pasture, permanent_crop, residential,
            river, sea_lake)


def expose(rs, image):
    """The same lens, air and light for all classes: blur, haze, contrast, color cast, sensor noise; uint8 (3, 64, 64)."""
    side = uniform(rs, 0.1, 0.22)
    image = (1 - 2 * side) * image[:, 1:-1] + side * (image[:, :-2] + image[:, 2:])
    image = (1 - 2 * side) * image[:, :, 1:-1] + side * (image[:, :, :-2] + image[:, :, 2:])
    gain = uniform(rs, 0.75, 1.3) * uniform(rs, 0.95, 1.05, 3, 1, 1)
    haze = uniform(rs, 0, 0.2)
    image = image * (gain * (1 - haze)) + haze * np.float32([85, 100, 112])[:, None, None]
    image += uniform(rs, 0.3, 2) * grain(rs)[:SIZE, :SIZE]
    return np.clip(image, 0, 255).astype(np.uint8)


def synthetic_tiles(n, seed=0):
    """Draws `n` tiles, ten classes in EuroSAT's order and as equally often as `n` allows.

    n: number of tiles, an integer of at least 10. seed: an integer from 0 to 2**32 - 1.
    Returns `(images, labels)`: images uint8 (n, 3, 64, 64), red, green, blue, 0..255; labels int64 (n,), 0..9, sorted.
    Each tile has its own random stream made of the seed, its class and its number within the class: a larger `n` adds
    tiles to each class and leaves the first ones as they were.
    Raises ValueError for an `n` that is no integer or below 10.
    """
    try:
        n = operator.index(n)
    except TypeError:
        raise ValueError(f"n={n!r} is not an integer; choose a whole number of tiles, such as n=1000") from None
    if n < len(PAINTERS):
        raise ValueError(f"n={n} is too few for ten classes; choose n=10 or more")
    classes = np.arange(len(PAINTERS))
    labels = np.repeat(classes, n // len(PAINTERS) + (classes < n % len(PAINTERS)))
    images = np.empty((n, 3, SIZE, SIZE), np.uint8)
    rs = np.random.RandomState()
    first = np.searchsorted(labels, classes)
    for i, label in enumerate(labels.tolist()):
        rs.seed([seed, label, i - int(first[label])])
        images[i] = expose(rs, PAINTERS[label](rs))
    return images, labels
