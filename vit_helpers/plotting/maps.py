"""Maps over patches: attention, evidence, similarity."""

import numpy as np
import torch

from ..attention import patch_evidence
from ..data import normalize
from .base import COLORS, MAP, as_array, as_pixels, color_bar, frame, new_picture, on_scale, show
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
    """An image (3, H, W) and, beside it, M maps (M, rows, columns) of where its patch (row, column) looks."""
    values, (low, high), unit = on_scale(weights)
    M, R, C = values.shape
    labels = [f"head {h}" for h in range(M)] if labels is None else labels
    picture, [axes] = new_picture(title, (1.75 * (M + 1) + 0.7, 2.5), columns=M + 1)
    show(axes[0], as_pixels(image), "tile")
    facts = []
    for axis, cells, label in zip(axes[1:], values, labels, strict=True):
        most = f"{cells.max():.1f} times" if unit else f"{cells.max():.3g}"
        show(axis, cells, f"{label}\nup to {most}", cmap=MAP, vmin=low, vmax=high)
        facts.append(f"{label} up to {most}")
    for axis in axes:
        frame_cell(axis, query, (R, C))
    color_bar(picture, axes[1].images[0], unit, ax=axes, shrink=0.8)
    colors = f"{R} x {C} cells in colors from {low:.3g} to {high:.3g} {unit}"
    picture.alt += (f"A tile, its patch in row {query[0]}, column {query[1]} framed; beside it where that "
                    f"looks: {colors}; {'; '.join(facts)}.")
    return picture


def _column_of_maps(picture, axes, maps, titles, unit):
    """Maps (M, rows, columns) below each other, on one scale with a color bar, their largest cells framed."""
    values, (low, high), unit = on_scale(maps, unit)
    peaks = [np.unravel_index(cells.argmax(), cells.shape) for cells in values]
    for axis, cells, peak, title in zip(axes, values, peaks, titles, strict=True):
        show(axis, cells, title, cmap=MAP, vmin=low, vmax=high)
        frame_cell(axis, peak, cells.shape)
    color_bar(picture, axes[0].images[0], unit, ax=axes, location="bottom", shrink=0.9)
    at = ", ".join(f"row {r} column {c}" for r, c in peaks)
    return f"{unit}, colors from {low:.3g} to {high:.3g}, largest at {at}"


def maps_on_images(images, maps, labels=None, title=""):
    """Images (M, 3, H, W), one in each row, and beside it `maps` {name: (M, rows, columns)} as cells.

    The maps of a name are drawn on one scale; where they are attention, in multiples of the uniform share.
    """
    n, across, facts = len(images), 1 + len(maps), []
    labels = [f"image {i}" for i in range(n)] if labels is None else labels
    picture, axes = new_picture(title, (1.75 * across, 1.8 * n + 0.8), n, across)
    for axis, image, label in zip(axes[:, 0], images, labels, strict=True):
        show(axis, as_pixels(image), label)
    for column, (name, some) in zip(axes.T[1:], maps.items(), strict=True):
        told = _column_of_maps(picture, column, some, [name] + [""] * (n - 1), name)
        facts.append(told if told.startswith(name) else f"{name}: {told}")
    picture.alt += f"Tiles ({', '.join(labels)}) and beside each its maps as cells. {'; '.join(facts)}."
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
    picture, axes = new_picture(title, (7.5, 2.3 * len(known) + 0.9), len(known), 3)
    evidence, titles = [], []
    for (tile, _, chart), (name, found) in zip(axes, known, strict=True):
        index = found.probabilities.argmax()
        for_class = patch_evidence(found.model, normalize(found.image)[None])[0, :, index]       # (N,)
        evidence.append(for_class.unflatten(0, found.model.grid))
        titles.append(f"evidence for {found.classes[index]}")
        show(tile, as_pixels(found.image), name if len(name) < 32 else name[:29] + "...")
        three_bars(chart, found.probabilities, found.classes, COLORS[0] if found.usual else COLORS[4])
        chart.set_title("" if found.usual else "unlike the tiles it knows", fontsize=8)
    told = _column_of_maps(picture, axes[:, 1], torch.stack(evidence), titles, "evidence in logits")
    picture.alt += "; ".join(f"{name}: {found}" for name, found in known) + f". {told}."
    return picture
