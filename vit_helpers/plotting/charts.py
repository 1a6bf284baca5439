"""Charts: curves, bars, matrices, reliability."""

from itertools import cycle

import numpy as np
from matplotlib.ticker import LogLocator

from .base import COLORS, MAP, STYLES, as_array, new_picture


def curves(lines, x=None, title="", xlabel="", ylabel="", logx=False, logy=False, limits=None, marker=""):
    """Lines {name: values or (x, values)}, each in its own color and dash; marker: their points' letters."""
    picture, [[axis]] = new_picture(title, (6.0, 3.2))
    axis.set_prop_cycle(color=COLORS, linestyle=STYLES)
    facts = []
    for mark, (name, values) in zip(cycle(marker or [""]), lines.items(), strict=False):
        here, values = values if isinstance(values, tuple) else (x, values)
        values = as_array(values)
        axis.plot(range(1, len(values) + 1) if here is None else here, values, label=name, marker=mark)
        ends = f"from {values[0]:.3g} to {values[-1]:.3g}" if len(values) else "without values"
        facts.append(f"{name} {ends}")
    for one, set_scale in [(axis.xaxis, axis.set_xscale)] * logx + [(axis.yaxis, axis.set_yscale)] * logy:
        set_scale("log")                     # with plain numbers, 100, 200, 500: powers would run together
        low, high = one.get_view_interval()
        one.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        one.set_major_formatter("{x:,g}")
        one.set_minor_formatter("")
    axis.set(xlabel=xlabel, ylabel=ylabel, ylim=limits)
    axis.grid(alpha=0.3)
    if len(lines) > 1:
        axis.legend(fontsize=8)
    picture.alt += f"Line chart of {ylabel} against {xlabel}: {'; '.join(facts)}."
    return picture


def bars(names, values, title="", xlabel="", numbers=".1%", limit=None, points=None):
    """Horizontal bars with their values; points: for each name the values that its bar is the mean of."""
    values = as_array(values).tolist()
    written = [format(value, numbers) for value in values]
    picture, [[axis]] = new_picture(title, (6.0, 0.28 * len(values) + 1.0))
    axis.barh(range(len(values)), values, color=COLORS[0], alpha=1 if points is None else 0.55)
    points = [[]] * len(values) if points is None else points
    for i, (value, words, some) in enumerate(zip(values, written, points, strict=True)):
        axis.plot(some, [i] * len(some), "o", color="black", markersize=4, fillstyle="none")
        beside = max([value, *some]), i
        axis.annotate(words, beside, (4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(values)), names, fontsize=8)
    axis.set(xlabel=xlabel, xlim=(min(0, np.nanmin(values)), limit or np.nanmax(values) * 1.15 or 1))
    axis.invert_yaxis()
    spans = [f" ({min(some):{numbers}} to {max(some):{numbers}})" if len(some) else "" for some in points]
    facts = [f"{name} {value}{span}" for name, value, span in zip(names, written, spans, strict=True)]
    picture.alt += f"Bars of {xlabel}: {'; '.join(facts)}."
    return picture


def heatmap(values, title="", xlabel="", ylabel="", rows=None, columns=None, numbers=None, unit="",
            limits=None, size=4.0, diagonal=True):
    """A matrix (R, C) as colored cells; numbers: a format such as ".2f". diagonal=False leaves that white."""
    values = as_array(values)
    R, C = values.shape
    colored = values if diagonal else np.where(np.eye(R, C, dtype=bool), np.nan, values)
    least, most = np.nanmin(colored), np.nanmax(colored)
    low, high = limits or (least, most)
    ratio = min(max(R / C, 0.3), 1.5)
    picture, [[axis]] = new_picture(title, (size + 1.0, size * ratio + 0.9))
    image = axis.imshow(colored, MAP, vmin=low, vmax=high, aspect="auto" if ratio == 0.3 else "equal")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if rows is not None:
        axis.set_yticks(range(R), rows, fontsize=8)
    if columns is not None:
        axis.set_xticks(range(C), columns, fontsize=8, rotation=90 if C > 6 else 0)
    for (r, c), value in np.ndenumerate(values) if numbers else ():
        color = "white" if colored[r, c] < (low + high) / 2 else "black"             # nan: black on white
        axis.text(c, r, format(value, numbers), ha="center", va="center", fontsize=8, color=color)
    picture.colorbar(image, label=unit, shrink=0.8)
    row, column = np.unravel_index(np.nanargmax(colored), values.shape)
    cells = f"{R} x {C} cells" + ("" if diagonal else " without its diagonal")
    picture.alt += (f"Heat map of {cells}, {unit or 'values'} from {least:.3g} to {most:.3g}, "
                    f"largest in row {row}, column {column}.")
    return picture


def reliability(count, confidence, accuracy, title=""):
    """Accuracy against confidence for each bin, with the number of images as bars below."""
    picture, [[curve], [counts]] = new_picture(title, (4.4, 4.8), rows=2)
    curve.plot([0, 1], [0, 1], color=COLORS[4], linestyle=":", label="as sure as right")
    curve.plot(confidence, accuracy, "o-", color=COLORS[0], label="this model")
    curve.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    curve.legend(fontsize=8)
    middles = (np.arange(len(count)) + 0.5) / len(count)
    bars = counts.bar(middles, count, width=0.9 / len(count), color=COLORS[0])
    counts.bar_label(bars, fontsize=7)
    counts.set(xlabel="confidence (largest probability)", ylabel="images", xlim=(0, 1))
    counts.margins(y=0.15)                               # room for the labels
    bins = zip(count, confidence, accuracy, strict=True)
    facts = [f"{sure:.0%} sure, {right:.0%} right" for images, sure, right in bins if images]
    picture.alt += f"Reliability diagram: {', '.join(facts)}"
    return picture
