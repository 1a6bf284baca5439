"""Pictures of tiles: grids, films, patches, predictions, the six stages."""

import numpy as np
import torch

from ..patches import patch_grid
from .base import COLORS, MAP, as_array, as_pixels, color_bar, new_picture, on_scale, show


def image_grid(images, labels=None, columns=10, title="", scale=1.0):
    """Images (N, 3, H, W), uint8 or normalized, in rows of `columns`, each with its label above it."""
    n, rows = len(images), -(-len(images) // columns)
    labels = [""] * n if labels is None else labels
    picture, axes = new_picture(title, (columns * scale, rows * (scale + 0.35) + 0.4), rows, columns, used=0)
    for axis, image, label in zip(axes.flat[:n], images, labels, strict=True):
        show(axis, as_pixels(image), label)
    named = ": " + ", ".join(dict.fromkeys(filter(None, labels))) if any(labels) else "."
    picture.alt += f"{n} images in {rows} row{'s' * (rows > 1)}{named}"
    return picture


def film_strips(clips, labels, title="", wrong=None):
    """Clips (n, T, 3, H, W), a row for each: its label, marked as a mistake where `wrong`, and its frames."""
    n, frames, facts = len(clips), len(clips[0]), []
    wrong = [False] * n if wrong is None else wrong
    picture, axes = new_picture(title, (frames * 0.85 + 1.6, n * 0.85 + 0.6), n, frames)
    for row, clip, label, mistaken in zip(axes, clips, labels, wrong, strict=True):
        for t, (axis, image) in enumerate(zip(row, clip, strict=True)):
            show(axis, as_pixels(image), f"frame {t}" if axis in axes[0] else "")
        name, fact = (f"{label} ✗", f"{label} (wrong)") if mistaken else (label, label)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        facts.append(fact)
    named = ", ".join(facts).replace("\n", " ")
    picture.alt += f"{n} film strip{'s' * (n > 1)} of {frames} frames each, top to bottom: {named}."
    return picture


def patch_lines(image, patch_size, title="", numbers=True, width=4.0):
    """An image (3, H, W) with the borders of its patches, and their numbers in reading order."""
    pixels = as_pixels(image)
    rows, columns = patch_grid(pixels.shape[:2], patch_size)
    picture, [[axis]] = new_picture(title, (width, width * rows / columns + 0.4))
    show(axis, pixels)
    y, x = (np.arange(n + 1) * patch_size - 0.5 for n in (rows, columns))    # -0.5: the edge of a pixel
    axis.hlines(y, x[0], x[-1], color="white", linewidth=0.6)
    axis.vlines(x, y[0], y[-1], color="white", linewidth=0.6)
    box = {"color": "black", "alpha": 0.45, "pad": 0.8}
    for i in range(rows * columns if numbers else 0):
        middle = x[i % columns] + patch_size / 2, y[i // columns] + patch_size / 2
        axis.text(*middle, i, color="white", fontsize=7, ha="center", va="center", bbox=box)
    picture.alt += f"An image under a grid of {rows} x {columns} patches."
    return picture


def predictions(images, probabilities, classes, labels=None, title="", columns=4):
    """Images (N, 3, H, W) with the three most probable classes as bars, and above the truth, if given."""
    n, rows, facts = len(images), -(-len(images) // columns), []
    labels = [None] * n if labels is None else [int(label) for label in labels]
    picture, axes = new_picture(title, (3.3 * columns, 1.5 * rows + 0.4), rows, 2 * columns, used=2 * n)
    pairs = axes.reshape(-1, 2)[:n]
    for (tile, chart), image, shares, label in zip(pairs, images, probabilities, labels, strict=True):
        truth = "" if label is None else classes[label]
        show(tile, as_pixels(image), truth)
        right = label is None or shares.argmax() == label
        first = three_bars(chart, shares, classes, COLORS[0] if right else COLORS[1], "" if right else "//")
        facts.append(f"{truth or 'image'} predicted {first} ({shares.max():.0%})")
    picture.alt += f"Tiles with their three most probable classes: {', '.join(facts)}"
    return picture


def three_bars(chart, probabilities, classes, color, hatch=""):
    """The three most probable classes as bars with their names and shares; returns the name of the first."""
    top, index = torch.as_tensor(probabilities).topk(min(3, len(classes)))
    chart.barh(range(len(top)), top.tolist(), color=color, hatch=hatch)
    box = {"color": "white", "alpha": 0.7, "pad": 0.5}
    for place, (p, c) in enumerate(zip(top, index, strict=True)):
        chart.text(0.02, place, f"{classes[c]} {p:.0%}", va="center", fontsize=7, bbox=box)
    chart.set(xlim=(0, 1), xticks=[], yticks=[])
    chart.invert_yaxis()
    return classes[index[0]]


def stages(image, patch_size, tokens, positions, weights, probabilities, classes, title=""):
    """The six stages of a ViT for one image: tokens, positions (N, D), weights (N, N), probabilities (K,)."""
    picture, [[tile, cut, *axes, chart]] = new_picture(title, (13, 3.2), columns=6)
    pixels = as_pixels(image)
    show(tile, pixels, "1  image")
    gaps = np.pad(pixels, ((0, 1), (0, 1), (0, 0)), constant_values=255)
    for side in (0, 1):
        gaps = np.insert(gaps, np.arange(patch_size, pixels.shape[side], patch_size), 255, axis=side)
    show(cut, gaps, f"2  patches: {len(tokens)}")
    numbers = [("3  patch embeddings", as_array(tokens)), ("4  positions", as_array(positions))]
    matrices = [(label, values, np.quantile(values, [0.02, 0.98]), "", f"{values.shape[1]} numbers")
                for label, values in numbers]
    attention, ends, times = on_scale(as_array(weights)[:, None])                    # (N, 1, N)
    matrices.append(("5  encoder: attention", attention[:, 0], ends, times, "tokens"))
    for axis, (label, values, (low, high), unit, across) in zip(axes, matrices, strict=True):
        show(axis, values, label, interpolation=None, cmap=MAP, aspect="auto", vmin=low, vmax=high)
        axis.set_xlabel(across, fontsize=8)
        axis.set_ylabel(f"{len(values)} tokens", fontsize=8)
        color_bar(picture, axis.images[0], unit, ax=axis, location="bottom")
    chart.barh(classes, probabilities.tolist(), color=COLORS[0])
    chart.invert_yaxis()
    chart.tick_params(labelsize=7)
    chart.set_title("6  head: probabilities", fontsize=8)
    chart.set(xlim=(0, 1))
    picture.alt += ("Six panels: a tile; the tile cut into patches; its tokens as a matrix; the positions as "
                    "a matrix; the attention of each token to each as a matrix, in colors from "
                    f"{ends[0]:.3g} to {ends[1]:.3g} {times}; bars of probability, the longest for "
                    f"{classes[probabilities.argmax()]} ({probabilities.max():.0%}).")
    return picture
