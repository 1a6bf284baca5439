"""Pictures of tiles: grids, patches, predictions, the six stages."""

import numpy as np
import torch

from .. import arguments
from ..patches import patch_grid
from .base import COLORS, MAP, as_maps, as_pixels, new_picture, several, show


def image_grid(images, labels=None, columns=10, title="", scale=1.0):
    """Images (N, 3, H, W), uint8 or normalized, in rows of `columns`, each with its label above it."""
    several(images=images)
    arguments.whole(1, columns=columns)
    arguments.above(0, scale=scale)
    if labels is not None:
        arguments.names(len(images), labels=labels)
    labels, columns = [""] * len(images) if labels is None else labels, int(columns)
    rows = -(-len(images) // columns)
    alt = f"{title}. {len(images)} images in {rows} row{'s' * (rows > 1)}"
    alt += ": " + ", ".join(dict.fromkeys(labels)) if any(labels) else "."
    picture, axes = new_picture(title, alt, rows, columns, figsize=(columns * scale, rows * (scale + 0.35) + 0.4))
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, label in zip(axes.flat, images, labels, strict=False):
        show(axis, as_pixels(image), label)
    return picture


def patch_lines(image, patch_size, title="", numbers=True, width=4.0):
    """An image (3, H, W) with the borders of its patches, and their numbers in reading order."""
    pixels = as_pixels(image)
    arguments.whole(1, patch_size=patch_size)
    arguments.above(0, width=width)
    rows, columns = patch_grid(pixels.shape[:2], patch_size)
    picture, axes = new_picture(title, f"{title}. An image under a grid of {rows} x {columns} patches.",
                             figsize=(width, width * rows / columns + 0.4))
    axis = axes[0, 0]
    show(axis, pixels)
    y, x = (np.arange(n + 1) * patch_size - 0.5 for n in (rows, columns))            # -0.5: the edge of a pixel, not its middle
    axis.hlines(y, x[0], x[-1], color="white", linewidth=0.6)
    axis.vlines(x, y[0], y[-1], color="white", linewidth=0.6)
    for i in range(rows * columns if numbers else 0):
        axis.text(x[i % columns] + patch_size / 2, y[i // columns] + patch_size / 2, i, color="white", fontsize=7, ha="center",
                  va="center", bbox={"color": "black", "alpha": 0.45, "pad": 0.8})
    return picture


def predictions(images, probabilities, classes, labels=None, title="", columns=4):
    """Images (N, 3, H, W) with the three most probable classes as bars; the truth above, where labels are given."""
    several(images=images)
    arguments.whole(1, columns=columns)
    arguments.names(None, classes=classes)
    probabilities = torch.from_numpy(as_maps(f"{len(images)} {len(classes)}", probabilities=probabilities)).float()
    if labels is not None:
        labels = torch.from_numpy(arguments.numbers(labels=labels))
        arguments.as_many(len(images), labels=labels)
        arguments.in_range(0, len(classes) - 1, labels=labels)
    rows, facts = -(-len(images) // columns), []
    picture, axes = new_picture(title, "", rows, 2 * columns, figsize=(3.3 * columns, 1.5 * rows + 0.4))
    for axis in axes.flat:
        axis.axis("off")
    for i, image in enumerate(images):
        tile, chart = axes.flat[2 * i], axes.flat[2 * i + 1]
        truth = "" if labels is None else classes[int(labels[i])]
        show(tile, as_pixels(image), truth)
        tile.axis("on")
        right = labels is None or int(probabilities[i].argmax()) == int(labels[i])
        chart.axis("on")
        index = three_bars(chart, probabilities[i], classes, COLORS[0] if right else COLORS[1], "" if right else "//")
        facts.append(f"{truth or 'image'} predicted {classes[index[0]]} ({probabilities[i].max():.0%})")
    picture.alt = f"{title}. Tiles with their three most probable classes: " + ", ".join(facts)
    return picture


def three_bars(chart, probabilities, classes, color, hatch=""):
    """The three most probable classes as bars with their names and shares; returns the numbers of the classes."""
    top, index = probabilities.topk(min(3, len(probabilities)))
    chart.barh(range(len(top)), top.tolist(), color=color, hatch=hatch)
    for place, (p, c) in enumerate(zip(top.tolist(), index.tolist(), strict=True)):
        chart.text(0.02, place, f"{classes[c]} {p:.0%}", va="center", fontsize=7,
                   bbox={"color": "white", "alpha": 0.7, "pad": 0.5})
    chart.set(xlim=(0, 1), xticks=[], yticks=[])
    chart.invert_yaxis()
    return index.tolist()


def stages(image, patch_size, tokens, positions, weights, probabilities, classes, title=""):
    """The six stages of a Vision Transformer for one image: tokens (N, D), positions (N, D), weights (N, N), (K,)."""
    arguments.names(None, classes=classes)
    probabilities = torch.from_numpy(as_maps(str(len(classes)), probabilities=probabilities)).float()
    tokens, weights = as_maps("N D", tokens=tokens), as_maps("N M", weights=weights)
    positions = as_maps("N D", positions=positions)
    arguments.whole(1, patch_size=patch_size)
    patch_grid(as_pixels(image).shape[:2], patch_size)
    alt = (f"{title}. Six panels: a tile; the tile cut into patches; its tokens as a matrix; the positions as a matrix; the "
           f"attention of each token to each as a matrix; bars of probability, the longest for "
           f"{classes[int(probabilities.argmax())]} ({probabilities.max():.0%}).")
    picture, axes = new_picture(title, alt, 1, 6, figsize=(13, 2.9))
    pixels = as_pixels(image)
    show(axes[0, 0], pixels, "1  image")
    gaps = np.pad(pixels, ((0, 1), (0, 1), (0, 0)), constant_values=255)
    gaps = np.insert(gaps, np.arange(patch_size, len(pixels), patch_size), 255, axis=0)
    gaps = np.insert(gaps, np.arange(patch_size, pixels.shape[1], patch_size), 255, axis=1)
    show(axes[0, 1], gaps, f"2  patches: {len(tokens)}")
    named = ("3  patch embeddings", tokens), ("4  positions", positions), ("5  encoder: attention", weights)
    for axis, (label, values) in zip(axes[0, 2:5], named, strict=True):
        low, high = np.quantile(values, [0.02, 0.98])
        axis.imshow(values, cmap=MAP, aspect="auto", vmin=low, vmax=high)
        axis.set_title(label, fontsize=8)
        axis.set(xticks=[], yticks=[], ylabel=f"{len(values)} tokens")
        axis.set_xlabel("tokens" if values.shape[0] == values.shape[1] else f"{values.shape[1]} numbers")
    axes[0, 5].barh(classes, probabilities.tolist(), color=COLORS[0])
    axes[0, 5].invert_yaxis()
    axes[0, 5].tick_params(labelsize=7)
    axes[0, 5].set_title("6  head: probabilities", fontsize=8)
    axes[0, 5].set(xlim=(0, 1))
    return picture
