"""Maps over patches: attention, evidence, similarity."""

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.patches import Rectangle

from .. import arguments
from ..attention import patch_evidence
from ..data import normalize
from ..patches import patch_grid
from .base import COLORS, MAP, as_maps, as_pixels, new_picture, several, show
from .tiles import three_bars


def cell_maps(maps, labels, title="", mark=None, unit="", columns=4, limits=None):
    """Several (rows, columns) maps as cells on one shared scale; `mark` is a (row, column) to frame, or one for each."""
    maps = as_maps("M rows columns", maps=maps)
    arguments.names(len(maps), labels=labels)
    arguments.whole(1, columns=columns)
    try:
        marks = [mark] * len(maps) if mark is None or np.ndim(mark) == 1 else mark
    except ValueError as problem:                            # lists of unlike lengths
        raise ValueError(f"mark={arguments.told(mark)} must be (row, column), or one for each map") from problem
    arguments.as_many(len(maps), mark=marks)
    for here in marks:
        _check_cell(here, maps.shape[1:])
    low, high = limits or (float(maps.min()), float(maps.max()))
    columns, rows = min(columns, len(maps)), -(-len(maps) // min(columns, len(maps)))
    picture, axes = new_picture(title, f"{title}. {len(maps)} maps of {maps.shape[1]} x {maps.shape[2]} cells, {unit} "
                             f"from {low:.3g} to {high:.3g}: " + ", ".join(labels), rows, columns,
                             figsize=(columns * 2.0 + 0.9, rows * 2.2 + 0.4))
    for axis in axes.flat[len(maps):]:
        axis.axis("off")
    for axis, values, label, here in zip(axes.flat, maps, labels, marks, strict=False):
        show(axis, values, label, cmap=MAP, vmin=low, vmax=high)
        if here is not None:
            axis.add_patch(Rectangle((here[1] - 0.5, here[0] - 0.5), 1, 1, fill=False, color="red", linewidth=2))
    picture.colorbar(axes.flat[0].images[0], ax=axes, label=unit, shrink=0.8)
    return picture


def _check_cell(cell, shape):
    """Raises ValueError unless this is a (row, column) of maps of this shape, or None."""
    if cell is None:
        return
    arguments.as_many(2, cell=cell)
    for name, number, count in zip(("row", "column"), cell, shape, strict=True):
        arguments.whole(0, int(count) - 1, **{name: number.item() if hasattr(number, "item") else number})


def _cells(pixels, values):
    """Values (rows, columns), each repeated for the pixels (H, W, 3) of its patch: (H, W)."""
    patch_grid(pixels.shape[:2], tuple(pixels.shape[i] // values.shape[i] or 1 for i in (0, 1)))
    if any(pixels.shape[i] % values.shape[i] for i in (0, 1)):
        raise ValueError(f"{values.shape[0]} x {values.shape[1]} cells do not divide an image of {pixels.shape[0]} x "
                         f"{pixels.shape[1]} pixels; give a map of the model's grid")
    return np.kron(values, np.ones((pixels.shape[0] // values.shape[0], pixels.shape[1] // values.shape[1])))


def _frame(axis, pixels, shape, cell, style="-"):
    height, width = pixels.shape[0] // shape[0], pixels.shape[1] // shape[1]
    corner = (cell[1] * width - 0.5, cell[0] * height - 0.5)
    axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="red", linewidth=1.5, linestyle=style))


def attention_on_image(image, weights, query, title="", labels=None):
    """An image (3, H, W) beside it seen through attention (M, rows, columns): cells dark where little is taken from.

    `query` is the (row, column) of the patch that asks; it is framed. Each map is scaled to its own largest weight.
    """
    pixels, weights = as_pixels(image), as_maps("M rows columns", weights=weights)
    _check_cell(query, weights.shape[1:])
    if labels is not None:
        arguments.names(len(weights), labels=labels)
    labels = [f"head {h}" for h in range(len(weights))] if labels is None else list(labels)
    M, rows, columns = weights.shape
    picture, axes = new_picture(title, f"{title}. A tile, and beside it {M} times the same tile with {rows} x {columns} cells "
                             "darkened where attention is low: " + ", ".join(labels), 1, M + 1, figsize=(1.9 * (M + 1), 2.5))
    for axis, values, label in zip(axes.flat, [None, *weights], ["tile", *labels], strict=True):
        shade = 1 if values is None else _cells(pixels, values / max(values.max(), 1e-12))[..., None]
        show(axis, (pixels * (0.15 + 0.85 * shade)).astype(np.uint8), label)
        _frame(axis, pixels, (rows, columns), query)
    return picture


def _cell(values, find=np.argmax):
    """The (row, column) of the largest value, or of the one that `find` finds."""
    return tuple(int(i) for i in np.unravel_index(find(values), values.shape))


def _map_on_image(axis, pixels, values, label):
    """One map (rows, columns) over its image, from its smallest value (blue) to its largest (yellow, framed)."""
    values = as_maps("rows columns", values=values).astype(float)
    low, high = values.min(), values.max()
    colors = colormaps[MAP](_cells(pixels, (values - low) / max(high - low, 1e-12)))[..., :3] * 255      # (H, W, 3)
    blended = 0.4 * pixels.mean(axis=2, keepdims=True) + 0.6 * colors        # the tile shines through in gray
    show(axis, blended.astype(np.uint8), f"{label}\n{low:.3g} to {high:.3g}")
    peak = _cell(values)
    _frame(axis, pixels, values.shape, peak)
    return peak


def maps_on_images(images, maps, labels=None, title=""):
    """Images (M, 3, H, W), one in each row, beside them each of `maps` {name: (M, rows, columns)} laid over them as cells.

    Each map runs from its own smallest (blue) to its own largest value (yellow, framed); both stand above it.
    """
    several(images=images)
    arguments.named(maps=maps)
    arguments.as_many(len(images), **maps)
    if labels is not None:
        arguments.names(len(images), labels=labels)
    labels, facts = [""] * len(images) if labels is None else labels, []
    size = (1.75 * (1 + len(maps)), 1.95 * len(images) + 0.4)
    picture, axes = new_picture(title, "", len(images), 1 + len(maps), figsize=size)
    for i, image in enumerate(images):
        pixels = as_pixels(image)
        show(axes[i, 0], pixels, labels[i])
        for axis, (name, values) in zip(axes[i, 1:], maps.items(), strict=True):
            peak = _map_on_image(axis, pixels, values[i], name)
            facts.append(f"{labels[i] or f'image {i}'}, {name}: largest in row {peak[0]}, column {peak[1]}")
    picture.alt = f"{title}. Tiles with maps laid over them as cells. " + "; ".join(facts)
    return picture


def projection(image, weights, values, title=""):
    """An image (3, H, W), a filter `weights` (3, P, P), and the number `values` (rows, columns) that it gives each patch.

    Gray in the filter is zero; the patches with the smallest and the largest number are framed, dashed and solid.
    """
    values = as_maps("rows columns", values=values)
    weights = torch.from_numpy(as_maps("3 P Q", weights=weights))
    low, high = _cell(values, np.argmin), _cell(values)
    alt = (f"{title}. A tile, a filter of {weights.shape[1]} x {weights.shape[2]} pixels, and a map of {values.shape[0]} x "
           f"{values.shape[1]} numbers from {values.min():.3g} (row {low[0]}, column {low[1]}) to {values.max():.3g} (row "
           f"{high[0]}, column {high[1]}).")
    picture, axes = new_picture(title, alt, 1, 3, figsize=(7.4, 2.8))
    pixels = as_pixels(image)
    show(axes[0, 0], pixels, "tile: smallest dashed, largest solid")
    show(axes[0, 1], as_pixels(weights.float() / weights.abs().max().clamp(min=1e-12)), "filter, gray is zero")
    show(axes[0, 2], values, "number of each patch", cmap=MAP)
    for cell, style in ((low, "--"), (high, "-")):
        _frame(axes[0, 0], pixels, values.shape, cell, style)
        _frame(axes[0, 2], values, values.shape, cell, style)
    picture.colorbar(axes[0, 2].images[0], ax=axes[0, 2], shrink=0.8)
    return picture


def explained(known, title=""):
    """For each (name, Prediction): the picture, its three most probable classes, and what each patch says about the first.

    Evidence by patch, as `patch_evidence` gives it: yellow cells speak most for the class.
    """
    several(known=known)
    for i, each in enumerate(known):
        arguments.as_many(2, **{f"known[{i}]": each})
        arguments.names(1, **{f"known[{i}][0]": [each[0]]})
        if not hasattr(each[1], "usual"):
            raise TypeError(f"known[{i}][1] must be a Prediction, as predict gives it, not {arguments.told(each[1])}")
    title = title or "Yellow cells are where the model reads the class most clearly"
    picture, axes = new_picture(title, "", len(known), 3, figsize=(7.5, 2.3 * len(known) + 0.4))
    facts = []
    for (tile, cells, chart), (name, found) in zip(axes, known, strict=True):
        pixels, index = as_pixels(found.image), found.probabilities.argmax().item()
        evidence = patch_evidence(found.model, normalize(found.image)[None])[0, :, index].unflatten(0, found.model.grid)
        show(tile, pixels, name if len(name) < 32 else name[:29] + "...")
        _map_on_image(cells, pixels, evidence, f"evidence for {found.classes[index]}")
        three_bars(chart, found.probabilities, found.classes, COLORS[0] if found.usual else COLORS[4])
        if not found.usual:
            chart.set_title("unlike the tiles it knows", fontsize=8)
        facts.append(f"{name}: {found}")
    picture.alt = f"{title}. " + "; ".join(facts)
    return picture
