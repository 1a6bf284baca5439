"""Drawings that explain: the model, what happens to axes, and the parts that lessons draw their own from."""

from itertools import pairwise
from math import prod

import numpy as np
from matplotlib.patches import Rectangle

from .base import as_pixels, new_picture

PALE = BLUE, ORANGE, GREEN, PINK, GRAY = "#cfdcec", "#f8dfc0", "#cbe6dc", "#ecd0e3", "#e0e0e0"


def canvas(title, width, height):
    """A picture and one empty axis, in units of about an inch, with its origin at the lower left."""
    picture, [[axis]] = new_picture(title, (width, height + 0.3))
    axis.set(xlim=(0, width), ylim=(0, height), aspect="equal", autoscale_on=False)
    axis.axis("off")
    return picture, axis


def write(axis, x, y, words, size=8, va="center", **style):
    axis.text(x, y, words, ha="center", va=va, fontsize=size, zorder=4, **style)


def block(axis, x, y, words="", color=BLUE, width=1.0, height=0.5, below="", rows=1):
    """A block around its middle (x, y), cut into rows, with words in it and below it."""
    left, bottom, part, style = x - width / 2, y - height / 2, height / rows, {"ec": "black", "lw": 0.7}
    for row in range(rows):
        axis.add_patch(Rectangle((left, bottom + row * part), width, part, fc=color, zorder=3, **style))
    write(axis, x, y, words)
    write(axis, x, bottom - 0.06, below, va="top")


def arrow(axis, *points):
    axis.plot(*zip(*points[:-1], strict=True), color="black", linewidth=1)
    style = {"arrowstyle": "-|>", "color": "black", "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", points[-1], points[-2], arrowprops=style)


def block_diagram(image, title, pool="mean"):
    """The stages of the course's ViT with the shapes between them, from `image` (3, 64, 64) to ten scores."""
    T, front, pooled = 64, "", "mean of\n64 tokens"
    if pool == "cls":
        T, front, pooled = 65, "put CLS in front,\n", "keep the\nCLS token"
    stages = [("1  image", "3 x 64 x 64", "pixels", GRAY, 1.0, 1.0, 1),
              ("2  patches", "64 x 192", "cut into 8 rows\nof 8 patches", GRAY, 1.0, 1.0, 1),
              ("3  embeddings", "64 x 128", "times a matrix\n192 x 128", BLUE, 0.8, 1.0, 8),
              ("4  positions", f"{T} x 128", f"{front}add a table\n{T} x 128", ORANGE, 0.8, 1.0, 8),
              ("5  encoder", f"{T} x 128", "4 blocks: attention\nmixes, MLP transforms", GREEN, 0.8, 1.0, 1),
              ("6  head: pool", 128, pooled, GREEN, 0.8, 0.125, 1),
              ("6  head: scores", 10, "times a matrix\n128 x 10", PINK, 0.2, 1.0, 10)]
    picture, axis = canvas(title, 10.0, 2.5)
    x = 0.7 + 1.43 * np.arange(7)
    for shift in (0.15, 0.1, 0.05):
        block(axis, x[4] + shift, 1.45 + shift, "", GREEN, 0.8, 1.0)
    for here, (name, shape, what, color, width, height, cuts) in zip(x, stages, strict=True):
        block(axis, here, 1.45, "", color, width, height, rows=cuts)
        write(axis, here, 2.3, name, 9, fontweight="bold")
        write(axis, here, 0.78, shape, 9)
        write(axis, here, 0.62, what, 7, "top")
        picture.alt += f"{name}: {shape}. "
    for here, there in pairwise(x):
        arrow(axis, (here + 0.58, 1.45), (there - 0.54, 1.45))
    for left in x[:2] - 0.5:
        axis.imshow(as_pixels(image), extent=(left, left + 1, 0.95, 1.95), zorder=3)
    axis.set(xlim=(0, 10.0), ylim=(0, 2.5))
    style = {"color": "white", "linewidth": 1.5, "zorder": 4}
    axis.hlines(0.95 + np.arange(1, 8) / 8, x[1] - 0.5, x[1] + 0.5, **style)
    axis.vlines(x[1] - 0.5 + np.arange(1, 8) / 8, 0.95, 1.95, **style)
    return picture


def axes_boxes(sizes, order, before=None, after=None, title=""):
    """Axes {name: size} as blocks; before, after: groups of names that are one axis, as [["row", "y"]]."""
    names, places = list(sizes), {}
    steps = [("at first", before), ("reshape" if before else "axes", [[name] for name in names]),
             (f"permute{tuple(map(names.index, order))}", [[name] for name in order]), ("reshape", after)]
    steps = [step for step in steps if step[1]]
    picture, axis = canvas(title, 2.4 + 1.3 * len(names), 0.95 * len(steps))
    for y, (step, groups) in zip(0.95 * np.arange(len(steps))[::-1] + 0.5, steps, strict=True):
        shape, x = tuple(prod(map(sizes.get, group)) for group in groups), 2.7
        write(axis, 1.0, y, f"{step}\n{shape}")
        picture.alt += f"{step} {shape}: {', '.join(' * '.join(group) for group in groups)}. "
        for group in groups:
            for name in group:
                block(axis, x, y, f"{name}\n{sizes[name]}", PALE[names.index(name) % len(PALE)], 1.1)
                axis.plot(*zip(places.get(name, (x, y)), (x, y + 0.25), strict=True), color="black", lw=1)
                places[name], x = (x, y - 0.25), x + 1.1
            x += 0.15
    return picture
