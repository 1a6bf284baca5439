"""Procedural satellite tiles: ten painted classes that stand in for EuroSAT where there is no network."""

import numpy as np

# Same (n, seed), same bytes on every machine: RandomState's stream is frozen, and after its draws come only
# + - * / floor, comparisons and lookups, which IEEE 754 fixes to the bit. No sine, power, matrix product.
SIZE = 64
CANVAS = SIZE + 2  # a margin of one pixel, used up by the blur in `photograph`
Y, X = np.mgrid[:CANVAS, :CANVAS].astype(np.float32) - (CANVAS - 1) / 2
RULER = np.arange(-128, 128, 0.25, dtype=np.float32)  # a lookup is cheaper than a search per pixel
SOIL, PLANT, BLUISH = np.float32([[172, 132, 118], [32, 68, 67], [-2, 1, 4]])[:, :, None]  # red, green, blue
DEEP, SILTY = np.float32([[30, 52, 68], [100, 132, 130]])[:, :, None]                      # water


def ripple(position, period):
    """Stripes: a triangle wave between 0 and 1."""
    phase = position / period
    return np.abs(phase - np.floor(phase) - 0.5) * 2


def blend(image, color, amount):
    """Paint `color`, (3, 1) or image, over `image` in place, as far as `amount`, clipped to 0..1, says."""
    color = color if color.ndim == 3 else color[..., None]
    image += np.clip(amount, 0, 1) * (color - image)
    return image


class Painter(np.random.RandomState):
    """A method per class. Masks are (CANVAS, CANVAS), colors (3, count) from 0 to 255; all are float32."""

    def uniform(self, low, high, *shape):
        """A float, or a float32 array of `shape`, between `low` and `high`."""
        values = low + (high - low) * self.random_sample(shape or None)
        return values.astype(np.float32) if shape else values

    def grain(self):
        """White noise between -1 and 1."""
        levels = np.frombuffer(self.bytes(CANVAS * CANVAS), np.uint8)
        return levels.reshape(CANVAS, CANVAS).astype(np.float32) / 127.5 - 1

    def noise(self, cells):
        """Smooth noise between -1 and 1, with about `cells` bumps across the tile."""
        position = np.arange(CANVAS, dtype=np.float32) * (cells / CANVAS)
        left = position.astype(np.intp)
        t = position - left.astype(np.float32)
        t = t * t * (3 - 2 * t)  # arrives at each knot without a kink
        grid = self.uniform(-1, 1, cells + 1, cells + 1)
        rows = grid[left] + t[:, None] * (grid[left + 1] - grid[left])
        return rows[:, left] + t * (rows[:, left + 1] - rows[:, left])

    def clouds(self, cells):
        """Noise on three scales: patches with patches in them."""
        return 0.55 * self.noise(cells) + 0.3 * self.noise(2 * cells + 1) + 0.15 * self.noise(4 * cells + 3)

    def axes(self, bend=0.0):
        """Pixel coordinates along and across a random direction, warped by up to `bend` pixels."""
        t = self.uniform(-1, 1)  # (1 - t^2, 2t) / (1 + t^2) lies on the unit circle, without a sine
        c, s = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        return c * X + s * Y + bend * self.noise(3), c * Y - s * X + bend * self.noise(3)

    def intervals(self, position, low, high):
        """Cut a line into pieces `low` to `high` pixels long: each pixel's piece and how near its end is."""
        ends = np.cumsum(self.uniform(low, high, int((256 + high) / low) + 2), dtype=np.float32) - 128 - high
        piece = np.searchsorted(ends, RULER)
        distance = np.minimum(RULER - ends[piece - 1], ends[piece] - RULER)
        at = ((position + 128) * 4).astype(np.intp)
        return piece.take(at, mode="clip"), distance.take(at, mode="clip")

    def parcels(self, u, v, width, length):
        """Strips across `u`, each cut along `v`: each pixel's number 0..255, and how near the border is."""
        strip, side = self.intervals(u, *width)
        shift = self.uniform(-length[1] / 2, length[1] / 2, 256)
        piece, end = self.intervals(v + shift[strip & 255], *length)
        return (strip * 37 + piece) & 255, np.minimum(side, end)

    def ground(self, green, bright=(0.7, 1.2), count=1):
        """Colors between bare soil (`green` 0) and plants (1); both arguments are ranges."""
        mix = self.uniform(*green, count)
        return (SOIL + mix * (PLANT - SOIL)) * self.uniform(*bright, count) + self.uniform(-5, 5, 3, count)

    def gray(self, low, high, count=1, tint=4):
        return self.uniform(low, high, count) + self.uniform(-tint, tint, 3, count) + BLUISH

    def water(self):
        silt = self.uniform(0, 1)
        return DEEP + silt * silt * (SILTY - DEEP) + self.uniform(-8, 8, 3, 1)

    def build(self, image, u, v, size, colors, gap, share):
        """Roofs in rows, each with its shadow, in place."""
        number, edge = self.parcels(u, v, (size, 2 * size), (size, 2.6 * size))
        stands = self.uniform(0, 1, 256) < share
        roof = np.clip(edge - self.uniform(*gap, 256)[number] + 0.5, 0, 1) * stands[number]
        image[:, 1:, 1:] *= 1 - 0.5 * roof[:-1, :-1]
        return blend(image, colors[:, number], roof)

    def photograph(self, image):
        """The same lens, air, light and sensor for all classes: blur, haze, gain, color cast, grain."""
        side = self.uniform(0.1, 0.22)
        image = (1 - 2 * side) * image[:, 1:-1] + side * (image[:, :-2] + image[:, 2:])
        image = (1 - 2 * side) * image[:, :, 1:-1] + side * (image[:, :, :-2] + image[:, :, 2:])
        haze, light = self.uniform(0, 0.2), self.uniform(0.75, 1.3) * self.uniform(0.95, 1.05, 3, 1, 1)
        image = image * ((1 - haze) * light) + haze * np.float32([85, 100, 115])[:, None, None]
        image += self.uniform(0.3, 2) * self.grain()[1:-1, 1:-1]
        return np.clip(image, 0, 255).astype(np.uint8)

    def annual_crop(self):
        u, v = self.axes(bend=self.uniform(0, 1.5))
        width, green = self.uniform(6, 26), self.uniform(-0.3, 0.4)
        number, edge = self.parcels(u, v, (width, 2 * width), (1.3 * width, 4 * width))
        image = self.ground((green, green + 0.9), (0.8, 1.5), 256)[:, number]
        image *= 1 + 0.06 * ripple(u, self.uniform(3, 6)) + self.uniform(0.03, 0.1) * self.clouds(3)
        return blend(image, self.ground((0, 1), (0.7, 1.3)), (self.uniform(0, 1) < 0.5) - edge)

    def forest(self):
        image = self.ground((0.85, 1.1), (0.75, 1.1))[..., None]
        image = image * (1 + self.uniform(0.08, 0.25) * self.clouds(4))
        image *= 1 + self.uniform(0.05, 0.14) * (self.grain() + self.noise(32))
        return blend(image, self.ground((0.4, 0.9)), 3 * self.clouds(4) - self.uniform(0.8, 2.5))

    def herbaceous_vegetation(self):
        green = self.uniform(-0.2, 0.7)
        dry, fresh, lush = self.ground((green, green + 0.5), (0.8, 1.4), 3).T[..., None, None]
        image = blend(np.tile(dry, (CANVAS, CANVAS)), fresh, 0.5 + self.uniform(0.8, 2) * self.clouds(3))
        blend(image, lush, self.uniform(1, 3) * self.clouds(7) - 0.2)
        image *= 1 + self.uniform(0.04, 0.15) * (self.grain() + self.noise(24))
        if self.uniform(0, 1) < 0.5:  # bushes
            blend(image, self.ground((0.6, 1.1), (0.6, 0.9)), self.grain() + 2 * self.clouds(6) - 0.3)
        if self.uniform(0, 1) < 0.4:  # trodden paths
            blend(image, self.ground((-0.3, 0.2), (0.9, 1.3)), 0.8 - 14 * np.abs(self.clouds(2)))
        return image

    def pasture(self):
        u, v = self.axes(bend=self.uniform(3, 8))
        number, edge = self.parcels(u, v, (15, 45), (22, 60))
        green = self.uniform(0.5, 0.85)
        image = self.ground((green, green + 0.35), (0.9, 1.3), 256)[:, number]
        image *= 1 + self.uniform(0.05, 0.2) * self.clouds(3)
        trees = np.clip(1.5 - edge, 0, 1) * (0.4 + 2 * self.noise(9))  # hedges, then lone trees
        y, x = self.uniform(0, SIZE, 2, int(self.uniform(0, 14))).astype(np.intp)
        trees[y, x] = trees[y + 1, x] = trees[y, x + 1] = 1
        return blend(image, self.ground((0.95, 1.1), (0.6, 0.85)), trees)

    def permanent_crop(self):
        u, v = self.axes(bend=self.uniform(0, 4))
        width, green, period = self.uniform(8, 20), self.uniform(-0.3, 0.4), self.uniform(3.2, 5.5)
        number, edge = self.parcels(u, v, (width, 1.8 * width), (1.2 * width, 3 * width))
        image = self.ground((green, green + 0.6), (0.8, 1.4), 256)[:, number]
        across, along = ripple(u, period), ripple(v, period)
        vines = np.where((self.uniform(0, 1, 256) < self.uniform(0, 1))[number], across, along)
        rows = 1.6 * across * along if self.uniform(0, 1) < 0.5 else vines  # an orchard: trees where two meet
        blend(image, self.ground((0.5, 1.1), (0.6, 1)), self.uniform(0.35, 0.9) * rows * (edge > 0.8))
        return image * (1 + 0.1 * self.clouds(3))

    def industrial(self):
        u, v = self.axes(bend=self.uniform(0, 2))
        image = self.gray(60, 120)[..., None] * (1 + 0.2 * self.noise(14) + 0.15 * self.grain())
        blend(image, self.ground((0.6, 1)), 4 * self.noise(5) - self.uniform(0.5, 2))
        for size in (self.uniform(3.5, 5), self.uniform(7, 14)):
            shine = self.uniform(0, 1, 256)
            colors = self.gray(70, 140, 256, tint=8) + self.uniform(90, 150) * shine * shine
            self.build(image, u, v, size, colors, (0.7, 2.5), self.uniform(0.3, 0.75))
        return image

    def residential(self):
        u, v = self.axes(bend=self.uniform(0, 7))
        size, red = self.uniform(2.5, 3.6), self.uniform(0, 1) * self.uniform(0, 1, 256)
        land = self.ground((0.4, 1), (0.7, 1.1))[..., None] * (1 + 0.3 * self.noise(12) + 0.25 * self.grain())
        colors = self.gray(75, 215, 256) + np.float32([[40], [-15], [-30]]) * red
        self.build(land, u, v, size, colors, (0.1, 1.1), self.uniform(0.5, 0.85))
        _, street = self.parcels(u, v, (3 * size, 6 * size), (5 * size, 12 * size))
        return blend(land, self.gray(70, 135), 1.5 - street)

    def countryside(self):  # what roads, rivers and shores lie in
        return PAINTERS[(0, 1, 2, 5, 6)[int(self.uniform(0, 5))]](self)

    def highway(self):
        image = self.countryside()
        asphalt, verge = self.gray(95, 175), self.ground((0.5, 1.1), (0.6, 1.1))
        for _ in range(1 + (self.uniform(0, 1) < 0.5)):
            u, v = self.axes()
            distance = np.abs(v + self.uniform(-14, 14) + self.uniform(-0.005, 0.005) * u * np.abs(u))
            half = self.uniform(1.0, 2.6)
            blend(image, verge, self.uniform(0, 0.9) * np.clip(half + 2.5 - distance + self.noise(9), 0, 1))
            blend(image, asphalt, half + 0.5 - distance)
            blend(image, verge, 0.9 * (half > 1.5) - distance)  # between two carriageways
        return image

    def river(self):
        image = self.countryside()
        u, v = self.axes()
        bends = self.uniform(6, 16) * self.noise(2)[20] + 7 * self.noise(4)[20]
        bend = bends[np.clip(u + CANVAS / 2, 0, CANVAS - 1).astype(np.intp)]
        half, bank = self.uniform(3, 10), self.uniform(1, 5)
        distance = np.abs(v + self.uniform(-10, 10) + bend) + 1.5 * self.noise(8)
        blend(image, self.ground((0.3, 1.1), (0.6, 1.1)), self.uniform(0.1, 0.5) * (half + bank - distance))
        return blend(image, self.water(), half + 0.5 - distance)

    def sea_lake(self):
        u, v = self.axes(bend=12)
        image = self.water()[..., None] + self.uniform(0, 8) * self.clouds(2) + self.uniform(0, 0.3) * u
        image += self.uniform(0, 2) * ripple(v, self.uniform(5, 9)) + self.uniform(0.5, 2.5) * self.grain()
        if self.uniform(0, 1) < 0.4:
            shore = v + 5 * self.clouds(6) - self.uniform(6, 28)
            blend(image, self.ground((-0.2, 1), (0.8, 1.4)), 0.3 + shore / 4)  # a beach
            blend(image, self.countryside(), shore / 3 - 0.3)
        return image


PAINTERS = (Painter.annual_crop, Painter.forest, Painter.herbaceous_vegetation, Painter.highway,
            Painter.industrial, Painter.pasture, Painter.permanent_crop, Painter.residential, Painter.river,
            Painter.sea_lake)


def synthetic_tiles(n, seed=0):
    """Paint `n` tiles, ten classes in EuroSAT's order: images uint8 (n, 3, 64, 64), sorted labels int64 (n,).

    Each has a random stream of its own, of seed (0 to 2**32 - 1), class and number: a larger n changes none.
    """
    labels = np.sort(np.arange(n, dtype=np.int64) % 10)
    images, painter = np.empty((n, 3, SIZE, SIZE), np.uint8), Painter()
    for i, label in enumerate(labels):
        painter.seed([seed, label, i - labels.searchsorted(label)])
        images[i] = painter.photograph(PAINTERS[label](painter))
    return images, labels
