"""Maps over patches: attention, evidence, similarity."""

import numpy as np
import torch
from matplotlib import colormaps

from ..attention import patch_evidence
from ..data import normalize
from .base import COLORS, MAP, as_array, as_pixels, frame, new_picture, show
from .tiles import three_bars


def frame_cell(axis, cell, grid, linewidth=1.5, linestyle="-"):
    """A red frame around the cell (row, column) of an image that has a grid of (rows, columns)."""
    (row, column), (rows, columns) = cell, grid
    frame(axis, column / columns, row / rows, (column + 1) / columns, (row + 1) / rows, edgecolor="red",
          linewidth=linewidth, linestyle=linestyle)


def cell_maps(maps, labels, title="", mark=None, unit="", columns=4, limits=None):
    """Maps (M, rows, columns) as cells on one scale; `mark` is a (row, column) to frame, or one for each."""
    maps = as_array(maps)
    M, R, C = maps.shape
    marks = mark if np.ndim(mark) == 2 else [mark] * M
    low, high = limits or (maps.min(), maps.max())
    columns = min(columns, M)
    rows = -(-M // columns)
    picture, axes = new_picture(title, (columns * 2.0 + 0.9, rows * 2.2 + 0.4), rows, columns, used=M)
    for axis, values, label, cell in zip(axes.flat[:M], maps, labels, marks, strict=True):
        show(axis, values, label, cmap=MAP, vmin=low, vmax=high)
        if cell is not None:
            frame_cell(axis, cell, (R, C), linewidth=2)
    picture.colorbar(axes[0, 0].images[0], ax=axes, label=unit, shrink=0.8)
    picture.alt += f"{M} maps of {R} x {C} cells, {unit} from {low:.3g} to {high:.3g}: {', '.join(labels)}"
    return picture


def attention_on_image(image, weights, query, title="", labels=None):
    """An image (3, H, W), and M times through the attention (M, rows, columns) of its patch (row, column)."""
    pixels, weights = as_pixels(image), as_array(weights)
    M, R, C = weights.shape
    labels = [f"head {h}" for h in range(M)] if labels is None else labels
    picture, [axes] = new_picture(title, (1.9 * (M + 1), 2.5), columns=M + 1)
    show(axes[0], pixels, "tile")
    patch = np.ones((pixels.shape[0] // R, pixels.shape[1] // C))
    for axis, values, label in zip(axes[1:], weights, labels, strict=True):
        shade = np.kron(values / max(values.max(), 1e-12), patch)                        # (H, W)
        show(axis, (pixels * (0.15 + 0.85 * shade[..., None])).astype(np.uint8), label)
    for axis in axes:
        frame_cell(axis, query, (R, C))
    picture.alt += (f"A tile, and beside it {M} times the same tile with {R} x {C} cells darkened where "
                    f"attention is low: {', '.join(labels)}")
    return picture


def _map_on_image(axis, pixels, values, label):
    """A map (rows, columns) over an image, from the smallest value, blue, to the largest, yellow, framed."""
    values = as_array(values).astype(float)
    low, high = values.min(), values.max()
    patch = np.ones((pixels.shape[0] // values.shape[0], pixels.shape[1] // values.shape[1]))
    shares = np.kron((values - low) / max(high - low, 1e-12), patch)                     # (H, W)
    colors = colormaps[MAP](shares)[..., :3] * 255                                       # (H, W, 3)
    blended = 0.4 * pixels.mean(axis=2, keepdims=True) + 0.6 * colors       # the tile shines through in gray
    show(axis, blended.astype(np.uint8), f"{label}\n{low:.3g} to {high:.3g}")
    peak = np.unravel_index(values.argmax(), values.shape)
    frame_cell(axis, peak, values.shape)
    return peak


def maps_on_images(images, maps, labels=None, title=""):
    """Images (M, 3, H, W), one in each row, beside them `maps` {name: (M, rows, columns)} laid over them."""
    n, across, facts = len(images), 1 + len(maps), []
    labels = [""] * n if labels is None else labels
    picture, axes = new_picture(title, (1.75 * across, 1.95 * n + 0.4), n, across)
    for i, (row, image, label, *some) in enumerate(zip(axes, images, labels, *maps.values(), strict=True)):
        pixels = as_pixels(image)
        show(row[0], pixels, label)
        for axis, name, values in zip(row[1:], maps, some, strict=True):
            r, c = _map_on_image(axis, pixels, values, name)
            facts.append(f"{label or f'image {i}'}, {name}: largest in row {r}, column {c}")
    picture.alt += f"Tiles with maps laid over them as cells. {'; '.join(facts)}"
    return picture


def projection(image, weights, values, title=""):
    """An image (3, H, W), a filter (3, P, P), and its numbers (rows, columns) with the extremes framed."""
    pixels, values, weights = as_pixels(image), as_array(values), torch.as_tensor(weights)
    picture, [[tile, kernel, cells]] = new_picture(title, (7.4, 2.8), columns=3)
    show(tile, pixels, "tile: smallest dashed, largest solid")
    show(kernel, as_pixels(weights.float() / weights.abs().max().clamp(min=1e-12)), "filter, gray is zero")
    show(cells, values, "number of each patch", cmap=MAP)
    picture.colorbar(cells.images[0], ax=cells, shrink=0.8)
    ends = []
    for index, linestyle in ((values.argmin(), "--"), (values.argmax(), "-")):
        r, c = np.unravel_index(index, values.shape)
        for axis in (tile, cells):
            frame_cell(axis, (r, c), values.shape, linestyle=linestyle)
        ends.append(f"{values[r, c]:.3g} (row {r}, column {c})")
    (P, Q), (R, C) = weights.shape[1:], values.shape
    picture.alt += (f"A tile, a filter of {P} x {Q} pixels, and a map of {R} x {C} numbers from "
                    f"{' to '.join(ends)}.")
    return picture


def explained(known, title=""):
    """For each (name, Prediction): its picture, what each patch says for the first class, three bars."""
    title = title or "Yellow cells are where the model reads the class most clearly"
    picture, axes = new_picture(title, (7.5, 2.3 * len(known) + 0.4), len(known), 3)
    for (tile, cells, chart), (name, found) in zip(axes, known, strict=True):
        pixels, index = as_pixels(found.image), found.probabilities.argmax()
        evidence = patch_evidence(found.model, normalize(found.image)[None])[0, :, index]        # (N,)
        show(tile, pixels, name if len(name) < 32 else name[:29] + "...")
        label = f"evidence for {found.classes[index]}"
        _map_on_image(cells, pixels, evidence.unflatten(0, found.model.grid), label)
        three_bars(chart, found.probabilities, found.classes, COLORS[0] if found.usual else COLORS[4])
        chart.set_title("" if found.usual else "unlike the tiles it knows", fontsize=8)
    picture.alt += "; ".join(f"{name}: {found}" for name, found in known)
    return picture
