"""Maps over patches: attention, evidence, similarity."""

import numpy as np
import torch

from ..attention import patch_evidence
from ..data import normalize
from .base import COLORS, MAP, as_array, as_pixels, color_bar, frame, new_picture, on_scale, show
from .tiles import three_bars


def frame_cell(axis, cell, grid, linestyle="-"):
    """A red frame around the cell (row, column) of an image that has a grid of (rows, columns)."""
    (row, column), (rows, columns) = cell, grid
    frame(axis, column / columns, row / rows, (column + 1) / columns, (row + 1) / rows, edgecolor="red",
          linewidth=1.5, linestyle=linestyle)


def largest(cells):
    """The cell (row, column) of the largest value."""
    return np.unravel_index(cells.argmax(), cells.shape)


def draw_maps(picture, axes, maps, ends, unit, titles, marks, **place):
    """Maps (M, rows, columns) as cells on one scale with a color bar, each with a cell framed, or None."""
    for axis, cells, title, mark in zip(axes, maps, titles, marks, strict=True):
        show(axis, cells, title, cmap=MAP, vmin=ends[0], vmax=ends[1])
        if mark is not None:
            frame_cell(axis, mark, cells.shape)
    color_bar(picture, axes[0].images[0], unit, **place)
    return f"{maps.shape[1]} x {maps.shape[2]} cells, {unit} from {ends[0]:.3g} to {ends[1]:.3g}"


def cell_maps(maps, labels, title="", mark=None, unit="", columns=4, limits=None):
    """Maps (M, rows, columns) as cells on one scale; `mark` is a (row, column) to frame, or one for each."""
    maps, M, columns = as_array(maps), len(maps), min(columns, len(maps))
    rows, marks = -(-M // columns), mark if np.ndim(mark) == 2 else [mark] * M
    picture, axes = new_picture(title, (columns * 2.0 + 0.9, rows * 2.2 + 0.4), rows, columns, used=M)
    ends = limits or (maps.min(), maps.max())
    cells = draw_maps(picture, axes.flat[:M], maps, ends, unit, labels, marks, ax=axes, shrink=0.8)
    picture.alt += f"{M} maps of {cells}: {', '.join(labels)}"
    return picture


def attention_on_image(image, weights, query, title="", labels=None):
    """An image (3, H, W) and, beside it, M maps (M, rows, columns) of where its patch (row, column) looks."""
    values, ends, unit = on_scale(weights)
    M = len(values)
    labels = [f"head {h}" for h in range(M)] if labels is None else labels
    most = [f"up to {cells.max():.1f} times" if unit else f"up to {cells.max():.3g}" for cells in values]
    titles = [f"{label}\n{words}" for label, words in zip(labels, most, strict=True)]
    picture, [axes] = new_picture(title, (1.75 * (M + 1) + 0.7, 2.5), columns=M + 1)
    show(axes[0], as_pixels(image), "tile")
    frame_cell(axes[0], query, values.shape[1:])
    cells = draw_maps(picture, axes[1:], values, ends, unit, titles, [query] * M, ax=axes, shrink=0.8)
    where = f"A tile, its patch in row {query[0]}, column {query[1]} framed; beside it where that looks"
    picture.alt += f"{where}, {cells}: {', '.join(titles)}.".replace("\n", " ")
    return picture


def maps_on_images(images, maps, labels=None, title=""):
    """Images (M, 3, H, W), and beside each its maps {name: (M, rows, columns)}; each name has its scale."""
    n, across, facts = len(images), 1 + len(maps), []
    labels = [f"image {i}" for i in range(n)] if labels is None else labels
    picture, axes = new_picture(title, (1.75 * across, 1.8 * n + 0.8), n, across)
    for axis, image, label in zip(axes[:, 0], images, labels, strict=True):
        show(axis, as_pixels(image), label)
    for column, (name, some) in zip(axes.T[1:], maps.items(), strict=True):
        values, ends, unit = on_scale(some, name)
        marks, titles = [largest(cells) for cells in values], [name] + [""] * (n - 1)
        cells = draw_maps(picture, column, values, ends, unit, titles, marks, ax=column, location="bottom")
        at = [f"{label} row {r}, column {c}" for label, (r, c) in zip(labels, marks, strict=True)]
        facts.append(f"{name}: {cells}, largest at {'; '.join(at)}")
    picture.alt += f"Tiles, and beside each its maps. {'. '.join(facts)}."
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
    for (r, c), linestyle in ((largest(-values), "--"), (largest(values), "-")):
        for axis in (tile, cells):
            frame_cell(axis, (r, c), values.shape, linestyle)
        ends.append(f"{values[r, c]:.3g} (row {r}, column {c})")
    (P, Q), (R, C) = weights.shape[1:], values.shape
    picture.alt += (f"A tile, a filter of {P} x {Q} pixels, and a map of {R} x {C} numbers from "
                    f"{' to '.join(ends)}.")
    return picture


def explained(known, title=""):
    """For each (name, Prediction): its picture, what each patch says for the first class, three bars."""
    title, maps = title or "Yellow cells are where the model reads the class most clearly", []
    picture, axes = new_picture(title, (7.5, 2.3 * len(known) + 0.9), len(known), 3)
    for (tile, _, chart), (name, found) in zip(axes, known, strict=True):
        evidence = patch_evidence(found.model, normalize(found.image)[None])[0]                  # (N, K)
        maps.append(evidence[:, found.probabilities.argmax()].unflatten(0, found.model.grid))
        show(tile, as_pixels(found.image), name if len(name) < 32 else name[:29] + "...")
        three_bars(chart, found.probabilities, found.classes, COLORS[0] if found.usual else COLORS[4])
        chart.set_title("" if found.usual else "unlike the tiles it knows", fontsize=8)
    values, ends, unit = on_scale(torch.stack(maps), "evidence in logits")
    titles = [f"evidence for {found.classes[found.probabilities.argmax()]}" for _, found in known]
    marks, middle = [largest(cells) for cells in values], axes[:, 1]
    cells = draw_maps(picture, middle, values, ends, unit, titles, marks, ax=middle, location="bottom")
    picture.alt += f"{'; '.join(f'{name}: {found}' for name, found in known)}. {cells}."
    return picture
