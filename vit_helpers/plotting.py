"""Every picture of the course: functions that take arrays and return a Matplotlib figure with alt text."""

import io
import re

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from .attention import patch_evidence
from .data import normalize

MAP = "cividis"                              # readable for every kind of color vision, and in gray
COLORS = ("#00418d", "#d97b00", "#2a8f6d", "#a3297b", "#6b6b6b")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))      # never color alone


class Picture(Figure):
    """A Matplotlib figure that a notebook shows once, as PNG, with `alt` as the text for who cannot see it."""

    alt = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100)
        return {"image/png": file.getvalue(), "text/plain": self.alt}, {"image/png": {"alt": self.alt}}


def _picture(title, alt, rows=1, columns=1, **size):
    picture = Picture(layout="constrained", **size)
    picture.alt = alt
    axes = picture.subplots(rows, columns, squeeze=False)
    if title:
        picture.suptitle(title, fontsize=11)
    return picture, axes


def as_pixels(image):
    """An image (3, H, W), uint8 or normalized to -1..1, as uint8 (H, W, 3) for imshow."""
    image = torch.as_tensor(image)
    if image.is_floating_point():
        image = ((image.detach() * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return image.cpu().permute(1, 2, 0).numpy()


def _show(axis, pixels, label="", **options):
    axis.imshow(pixels, interpolation="nearest", **options)
    axis.set(xticks=[], yticks=[])
    if label:
        axis.set_title(re.sub("(?<=[a-z])(?=[A-Z])", "\n", label), fontsize=8)       # HerbaceousVegetation in two lines


def image_grid(images, labels=None, columns=10, title="", scale=1.0):
    """Images (N, 3, H, W), uint8 or normalized, in rows of `columns`, each with its label above it."""
    labels = [""] * len(images) if labels is None else labels
    rows = -(-len(images) // columns)
    alt = f"{title}. {len(images)} images in {rows} row{'s' * (rows > 1)}"
    alt += ": " + ", ".join(dict.fromkeys(labels)) if any(labels) else "."
    picture, axes = _picture(title, alt, rows, columns, figsize=(columns * scale, rows * (scale + 0.35) + 0.4))
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, label in zip(axes.flat, images, labels, strict=False):
        _show(axis, as_pixels(image), label)
    return picture


def patch_lines(image, patch_size, title="", numbers=True, width=4.0):
    """An image (3, H, W) with the borders of its patches, and their numbers in reading order."""
    pixels = as_pixels(image)
    rows, columns = pixels.shape[0] // patch_size, pixels.shape[1] // patch_size
    picture, axes = _picture(title, f"{title}. An image under a grid of {rows} x {columns} patches.",
                             figsize=(width, width * rows / columns + 0.4))
    axis = axes[0, 0]
    _show(axis, pixels)
    for r in range(rows):
        for c in range(columns):
            corner = (c * patch_size - 0.5, r * patch_size - 0.5)
            axis.add_patch(Rectangle(corner, patch_size, patch_size, fill=False, color="white", linewidth=0.6))
            if numbers:
                axis.text(corner[0] + patch_size / 2, corner[1] + patch_size / 2, r * columns + c, color="white",
                          fontsize=7, ha="center", va="center", bbox={"color": "black", "alpha": 0.45, "pad": 0.8})
    return picture


def heatmap(values, title="", xlabel="", ylabel="", rows=None, columns=None, numbers=None, unit="", limits=None, size=4.0):
    """A matrix (R, C) as colored cells; `numbers` is a format such as ".2f" to write them in, `unit` names the colors."""
    values = np.asarray(torch.as_tensor(values).detach().cpu())
    low, high = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    peak = np.unravel_index(np.nanargmax(values), values.shape)
    alt = (f"{title}. Heat map of {values.shape[0]} x {values.shape[1]} cells, {unit or 'values'} from {np.nanmin(values):.3g} "
           f"to {np.nanmax(values):.3g}, largest in row {peak[0]}, column {peak[1]}.")
    ratio = min(max(values.shape[0] / values.shape[1], 0.3), 1.5)
    picture, axes = _picture(title, alt, figsize=(size + 1.0, size * ratio + 0.9))
    axis = axes[0, 0]
    image = axis.imshow(values, cmap=MAP, vmin=low, vmax=high, aspect="auto" if ratio == 0.3 else "equal")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    for names, place in ((rows, axis.set_yticks), (columns, axis.set_xticks)):
        if names is not None:
            place(range(len(names)), names, fontsize=8)
    if columns is not None and len(columns) > 6:
        axis.tick_params(axis="x", rotation=90)
    if numbers:
        for (r, c), value in np.ndenumerate(values):
            axis.text(c, r, format(value, numbers), ha="center", va="center", fontsize=8,
                      color="white" if value < (low + high) / 2 else "black")
    picture.colorbar(image, label=unit, shrink=0.8)
    return picture


def cell_maps(maps, labels, title="", mark=None, unit="", columns=4, limits=None):
    """Several (rows, columns) maps as cells on one shared scale; `mark` is a (row, column) to frame, or one for each."""
    maps = np.asarray(torch.as_tensor(maps).detach().cpu())
    low, high = limits or (float(maps.min()), float(maps.max()))
    columns, rows = min(columns, len(maps)), -(-len(maps) // min(columns, len(maps)))
    picture, axes = _picture(title, f"{title}. {len(maps)} maps of {maps.shape[1]} x {maps.shape[2]} cells, {unit} "
                             f"from {low:.3g} to {high:.3g}: " + ", ".join(labels), rows, columns,
                             figsize=(columns * 2.0 + 0.9, rows * 2.2 + 0.4))
    for axis in axes.flat[len(maps):]:
        axis.axis("off")
    marks = [mark] * len(maps) if np.ndim(mark) < 2 else mark
    for axis, values, label, here in zip(axes.flat, maps, labels, marks, strict=False):
        _show(axis, values, label, cmap=MAP, vmin=low, vmax=high)
        if here is not None:
            axis.add_patch(Rectangle((here[1] - 0.5, here[0] - 0.5), 1, 1, fill=False, color="red", linewidth=2))
    picture.colorbar(axes.flat[0].images[0], ax=axes, label=unit, shrink=0.8)
    return picture


def _cells(pixels, values):
    """Values (rows, columns), each repeated for the pixels (H, W, 3) of its patch: (H, W)."""
    return np.kron(values, np.ones((pixels.shape[0] // values.shape[0], pixels.shape[1] // values.shape[1])))


def _frame(axis, pixels, shape, cell):
    height, width = pixels.shape[0] // shape[0], pixels.shape[1] // shape[1]
    corner = (cell[1] * width - 0.5, cell[0] * height - 0.5)
    axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="red", linewidth=1.5))


def attention_on_image(image, weights, query, title="", labels=None):
    """An image (3, H, W) beside it seen through attention (M, rows, columns): cells dark where little is taken from.

    `query` is the (row, column) of the patch that asks; it is framed. Each map is scaled to its own largest weight.
    """
    pixels, weights = as_pixels(image), np.asarray(torch.as_tensor(weights).detach().cpu())
    labels = labels or [f"head {h}" for h in range(len(weights))]
    M, rows, columns = weights.shape
    picture, axes = _picture(title, f"{title}. A tile, and beside it {M} times the same tile with {rows} x {columns} cells "
                             "darkened where attention is low: " + ", ".join(labels), 1, M + 1, figsize=(1.9 * (M + 1), 2.5))
    for axis, values, label in zip(axes.flat, [None, *weights], ["tile", *labels], strict=True):
        shade = 1 if values is None else _cells(pixels, values / values.max())[..., None]
        _show(axis, (pixels * (0.15 + 0.85 * shade)).astype(np.uint8), label)
        _frame(axis, pixels, (rows, columns), query)
    return picture


def _peak(values):
    return tuple(int(i) for i in np.unravel_index(np.argmax(values), values.shape))


def _map_on_image(axis, pixels, values, label):
    """One map (rows, columns) over its image, from its smallest value (blue) to its largest (yellow, framed)."""
    values = np.asarray(torch.as_tensor(values).detach().cpu(), dtype=float)
    low, high = values.min(), values.max()
    colors = colormaps[MAP](_cells(pixels, (values - low) / max(high - low, 1e-12)))[..., :3] * 255      # (H, W, 3)
    blended = 0.4 * pixels.mean(axis=2, keepdims=True) + 0.6 * colors        # the tile shines through in gray
    _show(axis, blended.astype(np.uint8), f"{label}\n{low:.3g} to {high:.3g}")
    peak = tuple(int(i) for i in np.unravel_index(np.argmax(values), values.shape))
    _frame(axis, pixels, values.shape, peak)
    return peak


def maps_on_images(images, maps, labels=None, title=""):
    """Images (M, 3, H, W), one in each row, beside them each of `maps` {name: (M, rows, columns)} laid over them as cells.

    Each map runs from its own smallest (blue) to its own largest value (yellow, framed); both stand above it.
    """
    labels, facts = labels or [""] * len(images), []
    picture, axes = _picture(title, "", len(images), 1 + len(maps), figsize=(1.75 * (1 + len(maps)), 1.95 * len(images) + 0.4))
    for i, image in enumerate(images):
        pixels = as_pixels(image)
        _show(axes[i, 0], pixels, labels[i])
        for axis, (name, values) in zip(axes[i, 1:], maps.items(), strict=True):
            peak = _map_on_image(axis, pixels, values[i], name)
            facts.append(f"{labels[i] or f'image {i}'}, {name}: largest in row {peak[0]}, column {peak[1]}")
    picture.alt = f"{title}. Tiles with maps laid over them as cells. " + "; ".join(facts)
    return picture


def explained(known, title=""):
    """For each (name, Prediction): the picture, its three most probable classes, and what each patch says about the first.

    Evidence by patch, as `patch_evidence` gives it: yellow cells speak most for the class.
    """
    title = title or "Yellow cells are where the model reads the class most clearly"
    picture, axes = _picture(title, "", len(known), 3, figsize=(7.5, 2.3 * len(known) + 0.4))
    facts = []
    for (tile, cells, chart), (name, found) in zip(axes, known, strict=True):
        pixels, index = as_pixels(found.image), found.probabilities.argmax().item()
        evidence = patch_evidence(found.model, normalize(found.image)[None])[0, :, index].unflatten(0, found.model.grid)
        _show(tile, pixels, name if len(name) < 32 else name[:29] + "...")
        _map_on_image(cells, pixels, evidence, f"evidence for {found.classes[index]}")
        _three_bars(chart, found.probabilities, found.classes, COLORS[0] if found.usual else COLORS[4])
        if not found.usual:
            chart.set_title("unlike the tiles it knows", fontsize=8)
        facts.append(f"{name}: {found}")
    picture.alt = f"{title}. " + "; ".join(facts)
    return picture


def _three_bars(chart, probabilities, classes, color, hatch=""):
    """The three most probable classes as bars with their names and shares; returns the numbers of the classes."""
    top, index = probabilities.topk(3)
    chart.barh(range(3), top.tolist(), color=color, hatch=hatch)
    for place, (p, c) in enumerate(zip(top.tolist(), index.tolist(), strict=True)):
        chart.text(0.02, place, f"{classes[c]} {p:.0%}", va="center", fontsize=7,
                   bbox={"color": "white", "alpha": 0.7, "pad": 0.5})
    chart.set(xlim=(0, 1), xticks=[], yticks=[])
    chart.invert_yaxis()
    return index.tolist()


def curves(lines, x=None, title="", xlabel="", ylabel="", logx=False, logy=False, limits=None, size=(6.0, 3.2),
           marker=""):
    """Lines by name, {name: values} or {name: (x, values)}, each with its own color and dash; nan leaves a gap."""
    picture, axes = _picture(title, "", figsize=size)
    axis, facts = axes[0, 0], []
    for i, (name, values) in enumerate(lines.items()):
        here, values = values if isinstance(values, tuple) else (x, values)
        values = np.asarray(values, dtype=float)
        here = np.arange(1, len(values) + 1) if here is None else here
        axis.plot(here, values, label=name, color=COLORS[i % 5], linestyle=STYLES[i % 5], marker=marker)
        facts.append(f"{name} from {values[0]:.3g} to {values[-1]:.3g}" if len(values) else f"{name} without values")
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if logx else "linear", yscale="log" if logy else "linear")
    if logx:                                         # 100, 200, 500, 1,000 instead of powers of ten that run into each other
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    if limits:
        axis.set_ylim(*limits)
    axis.grid(alpha=0.3)
    if len(lines) > 1:
        axis.legend(fontsize=8)
    picture.alt = f"{title}. Line chart of {ylabel} against {xlabel}: " + "; ".join(facts) + "."
    return picture


def bars(names, values, title="", xlabel="", numbers=".1%"):
    """Horizontal bars, one for each name, with their values written at the end."""
    values = [float(v) for v in values]
    picture, axes = _picture(title, f"{title}. Bars of {xlabel}: " + ", ".join(
        f"{n} {format(v, numbers)}" for n, v in zip(names, values, strict=True)), figsize=(6.0, 0.28 * len(values) + 1.0))
    axis = axes[0, 0]
    drawn = axis.barh(range(len(values)), values, color=COLORS[0])
    axis.bar_label(drawn, [format(v, numbers) for v in values], fontsize=8, padding=2)
    axis.set_yticks(range(len(values)), names, fontsize=8)
    axis.set(xlabel=xlabel, xlim=(min(0, *values), max(values) * 1.15 or 1))
    axis.invert_yaxis()
    return picture


def predictions(images, probabilities, classes, labels=None, title="", columns=4):
    """Images (N, 3, H, W) with the three most probable classes as bars; the truth above, where labels are given."""
    probabilities = torch.as_tensor(probabilities).detach().cpu()
    rows, facts = -(-len(images) // columns), []
    picture, axes = _picture(title, "", rows, 2 * columns, figsize=(3.3 * columns, 1.5 * rows + 0.4))
    for axis in axes.flat:
        axis.axis("off")
    for i, image in enumerate(images):
        tile, chart = axes.flat[2 * i], axes.flat[2 * i + 1]
        truth = "" if labels is None else classes[int(labels[i])]
        _show(tile, as_pixels(image), truth)
        tile.axis("on")
        right = labels is None or int(probabilities[i].argmax()) == int(labels[i])
        chart.axis("on")
        index = _three_bars(chart, probabilities[i], classes, COLORS[0] if right else COLORS[1], "" if right else "//")
        facts.append(f"{truth or 'image'} predicted {classes[index[0]]} ({probabilities[i].max():.0%})")
    picture.alt = f"{title}. Tiles with their three most probable classes: " + ", ".join(facts)
    return picture


def reliability(count, confidence, accuracy, title=""):
    """Accuracy against confidence for each bin, with the number of images as bars below."""
    picture, axes = _picture(title, f"{title}. Reliability diagram: " + ", ".join(
        f"{c:.0%} sure, {a:.0%} right" for c, a, n in zip(confidence, accuracy, count, strict=True) if n),
        2, 1, figsize=(4.4, 4.8))
    edges = (np.arange(len(count)) + 0.5) / len(count)
    axes[0, 0].plot([0, 1], [0, 1], color=COLORS[4], linestyle=":", label="as sure as right")
    axes[0, 0].plot(confidence, accuracy, "o-", color=COLORS[0], label="this model")
    axes[0, 0].set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].bar(edges, count, width=0.9 / len(count), color=COLORS[0])
    axes[1, 0].set(xlabel="confidence (largest probability)", ylabel="images", xlim=(0, 1))
    return picture


def scatter(x, y, labels, classes, title="", xlabel="", ylabel=""):
    """Points (N,) by class, each class with its own marker."""
    alt = f"{title}. Scatter of {len(x)} points in {len(classes)} classes, {ylabel} against {xlabel}."
    picture, axes = _picture(title, alt, figsize=(6.4, 4.2))
    for k, (name, marker) in enumerate(zip(classes, "osv^<>PXD*", strict=True)):
        here = np.asarray(labels) == k
        axes[0, 0].scatter(np.asarray(x)[here], np.asarray(y)[here], s=14, marker=marker, label=name, alpha=0.8)
    axes[0, 0].set(xlabel=xlabel, ylabel=ylabel)
    axes[0, 0].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return picture


def stages(image, patch_size, tokens, positions, weights, probabilities, classes, title=""):
    """The six stages of a Vision Transformer for one image: tokens (N, D), positions (N, D), weights (N, N), (K,)."""
    alt = (f"{title}. Six panels: a tile; the tile cut into patches; its tokens as a matrix; the positions as a matrix; the "
           f"attention of each token to each as a matrix; bars of probability, the longest for "
           f"{classes[int(probabilities.argmax())]} ({probabilities.max():.0%}).")
    picture, axes = _picture(title, alt, 1, 6, figsize=(13, 2.9))
    pixels = as_pixels(image)
    _show(axes[0, 0], pixels, "1  image")
    gaps = np.pad(pixels, ((0, 1), (0, 1), (0, 0)), constant_values=255)
    gaps = np.insert(gaps, np.arange(patch_size, len(pixels), patch_size), 255, axis=0)
    gaps = np.insert(gaps, np.arange(patch_size, len(pixels), patch_size), 255, axis=1)
    _show(axes[0, 1], gaps, f"2  patches: {len(tokens)}")
    named = ("3  patch embeddings", tokens), ("4  positions", positions), ("5  encoder: attention", weights)
    for axis, (label, values) in zip(axes[0, 2:5], named, strict=True):
        values = np.asarray(torch.as_tensor(values).detach().cpu())
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
