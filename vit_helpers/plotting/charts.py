"""Charts: curves, bars, matrices, points, reliability."""

import numpy as np
import torch
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from .. import arguments
from .base import COLORS, MAP, STYLES, new_picture


def curves(lines, x=None, title="", xlabel="", ylabel="", logx=False, logy=False, limits=None, size=(6.0, 3.2),
           marker=""):
    """Lines by name, {name: values} or {name: (x, values)}, each with its own color and dash; nan leaves a gap."""
    arguments.named(lines=lines)
    picture, axes = new_picture(title, "", figsize=size)
    axis, facts = axes[0, 0], []
    for i, (name, values) in enumerate(lines.items()):
        here, values = values if isinstance(values, tuple) else (x, values)
        values = arguments.numbers(**{name: values})
        here = np.arange(1, len(values) + 1) if here is None else here
        arguments.numbers(**{name: values, f"x of {name}": here})
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


def bars(names, values, title="", xlabel="", numbers=".1%", limit=None):
    """Horizontal bars, one for each name, with their values written at the end; `limit` is where the axis ends."""
    values = arguments.numbers(values=values).tolist()
    arguments.as_many(len(values), names=names)
    known = [v for v in values if np.isfinite(v)]
    if not known:
        raise ValueError(f"there are no bars to draw: {arguments.told(values)}; give at least one number that is finite")
    picture, axes = new_picture(title, f"{title}. Bars of {xlabel}: " + ", ".join(
        f"{n} {format(v, numbers)}" for n, v in zip(names, values, strict=True)), figsize=(6.0, 0.28 * len(values) + 1.0))
    axis = axes[0, 0]
    drawn = axis.barh(range(len(values)), values, color=COLORS[0])
    axis.bar_label(drawn, [format(v, numbers) for v in values], fontsize=8, padding=2)
    axis.set_yticks(range(len(values)), names, fontsize=8)
    axis.set(xlabel=xlabel, xlim=(min(0, *known), limit or max(known) * 1.15 or 1))
    axis.invert_yaxis()
    return picture


def heatmap(values, title="", xlabel="", ylabel="", rows=None, columns=None, numbers=None, unit="", limits=None, size=4.0):
    """A matrix (R, C) as colored cells; `numbers` is a format such as ".2f" to write them in, `unit` names the colors."""
    values = arguments.array(values=values).detach()
    arguments.tensor("R C", values=values)
    if values.is_complex() or not values.isfinite().any():
        raise ValueError(f"values {arguments.told(values)} hold no real number that is finite; give at least one")
    arguments.as_many(len(values), rows=rows)
    arguments.as_many(values.shape[1], columns=columns)
    values = (values.float() if values.dtype == torch.bfloat16 else values).cpu().numpy()
    low, high = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    peak = np.unravel_index(np.nanargmax(values), values.shape)
    alt = (f"{title}. Heat map of {values.shape[0]} x {values.shape[1]} cells, {unit or 'values'} from {np.nanmin(values):.3g} "
           f"to {np.nanmax(values):.3g}, largest in row {peak[0]}, column {peak[1]}.")
    ratio = min(max(values.shape[0] / values.shape[1], 0.3), 1.5)
    picture, axes = new_picture(title, alt, figsize=(size + 1.0, size * ratio + 0.9))
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


def reliability(count, confidence, accuracy, title=""):
    """Accuracy against confidence for each bin, with the number of images as bars below."""
    count, confidence, accuracy = arguments.numbers(count=count, confidence=confidence, accuracy=accuracy)
    if not len(count):
        raise ValueError("there are no bins to draw; give at least one")
    picture, axes = new_picture(title, f"{title}. Reliability diagram: " + ", ".join(
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
    x, y, numbers = arguments.numbers(x=x, y=y, labels=labels)
    arguments.names(None, classes=classes)
    arguments.in_range(0, len(classes) - 1, labels=torch.from_numpy(numbers))
    if len(classes) > 10:
        raise ValueError(f"{len(classes)} classes have not enough markers; give at most 10")
    alt = f"{title}. Scatter of {len(x)} points in {len(classes)} classes, {ylabel} against {xlabel}."
    picture, axes = new_picture(title, alt, figsize=(6.4, 4.2))
    for k, (name, marker) in enumerate(zip(classes, "osv^<>PXD*", strict=False)):
        here = numbers == k
        axes[0, 0].scatter(x[here], y[here], s=14, marker=marker, label=name, alpha=0.8)
    axes[0, 0].set(xlabel=xlabel, ylabel=ylabel)
    axes[0, 0].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return picture
