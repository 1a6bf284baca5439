"""Pictures of scenes: what each pixel is, and which objects were found."""

import re

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from scipy import ndimage
from torchvision.ops import box_iou

from .base import COLORS, as_array, as_pixels, frame, new_picture, show

# Ten colors that most kinds of color vision can tell apart: Paul Tol's "muted", and gray.
LAND = ListedColormap(["#DDCC77", "#117733", "#999933", "#AA4499", "#882255", "#44AA99", "#CC6677", "#BBBBBB",
                       "#88CCEE", "#332288"], name="land")


def short_name(name):
    """Two letters for a class: the capitals of HerbaceousVegetation, HV, or the first two of Forest, Fo."""
    capitals = "".join(re.findall("[A-Z]", name))
    return capitals[:2] if len(capitals) > 1 else name[:2]


def name_regions(axis, mask, classes, least):
    """A class's two letters in each region of at least `least` pixels, where its border is farthest."""
    for c in np.unique(mask):
        regions, _ = ndimage.label(mask == c)
        for number in 1 + np.flatnonzero(np.bincount(regions.flat)[1:] >= least):
            depth = ndimage.distance_transform_edt(np.pad(regions == number, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            axis.text(column, row, short_name(classes[c]), ha="center", va="center", fontsize=7,
                      bbox={"color": "white", "alpha": 0.7, "pad": 0.6})


def segmentations(images, masks, classes, title="", scale=1.5, wide=False):
    """Images (N, 3, H, W), side by side unless `wide`, with their masks {name: int64 (N, H, W)} in colors."""
    assert len(classes) <= LAND.N, f"{len(classes)} classes are more than the {LAND.N} colors"
    masks, n, parts = {name: as_array(mask) for name, mask in masks.items()}, len(images), ["scene", *masks]
    rows, columns = (n, len(parts)) if wide else (len(parts), n)
    picture, axes = new_picture(title, (scale * columns + 1.6, scale * rows + 0.5), rows, columns)
    axes = axes if wide else axes.T                                              # (n, parts)
    for line, image, *some in zip(axes, images, *masks.values(), strict=True):
        show(line[0], as_pixels(image))
        for axis, mask in zip(line[1:], some, strict=True):
            show(axis, mask, cmap=LAND, vmin=-0.5, vmax=9.5)
            name_regions(axis, mask, classes, mask.size * (0.01 if wide else 0.03))
    for axis, name in zip(axes[0], parts, strict=True):
        axis.set(**{"title" if wide else "ylabel": name})
    handles = [Patch(color=LAND(c), label=f"{short_name(name)}  {name}") for c, name in enumerate(classes)]
    picture.legend(handles=handles, loc="outside right center", fontsize=7)
    first, *others = masks
    shares = [", ".join(f"{name} {np.mean(masks[name][i] == masks[first][i]):.0%}" for name in others)
              for i in range(n)]
    agree = f"; how many pixels agree with it, scene by scene: {'; '.join(shares)}" if others else ""
    picture.alt += f"{n} scene{'s' * (n > 1)}, with each its {first} as colored regions{agree}."
    return picture


def _box(axis, box, color, words, **style):
    """A frame around left, top, right, bottom, 0 to 1, and `words` on its upper edge."""
    frame(axis, *box.tolist(), color=color, **style)
    left, top = box[0].clamp(0, 0.75).item(), box[1].clamp(0, 1).item()
    if words:
        axis.text(left, 1 - top, words, color="white", fontsize=6, va="bottom", transform=axis.transAxes,
                  bbox={"color": color, "alpha": 0.85, "pad": 0.5})


def detections(images, found, truth, classes, title="", columns=4, labels=None, names=True):
    """Images (n, 3, H, W) with found boxes, blue if right, else orange and dotted, over true ones, dashed.

    found: of each boxes (m, 4), classes, scores, or None. truth: boxes (k, 4), classes. Right: IoU of a half.
    """
    n, rows, facts = len(images), -(-len(images) // columns), []
    labels = [""] * n if labels is None else labels
    short = [name if len(name) <= 11 else name[:9] + "…" for name in classes]
    picture, axes = new_picture(title, (3.1 * columns, 3.2 * rows + 0.4), rows, columns, used=0)
    scenes = zip(axes.flat[:n], images, found or [None] * n, truth, labels, strict=True)
    for axis, image, answer, (true_boxes, true_kinds), label in scenes:
        show(axis, as_pixels(image), label)
        for box, kind in zip(true_boxes, true_kinds, strict=True):
            frame(axis, *box.tolist(), color="white", linewidth=3)
            words = short[kind] if names and answer is None else ""
            _box(axis, box, "black", words, linewidth=1.5, linestyle=(0, (3, 3)))
        if answer is None:
            facts.append(", ".join(classes[kind] for kind in true_kinds))
            continue
        boxes, kinds, scores = answer
        hits = (box_iou(boxes, true_boxes) >= 0.5) & (kinds[:, None] == true_kinds)              # (m, k)
        found = [*zip(boxes, kinds, scores, hits.any(dim=1), strict=True)]
        for box, kind, score, right in reversed(found):                          # the surest on top
            color, line = (COLORS[0], "-") if right else (COLORS[1], (0, (1, 1)))
            _box(axis, box, color, f"{short[kind]} {score:.0%}" if names else "", linewidth=2, linestyle=line)
        facts.append(f"{len(true_boxes)} true, {len(boxes)} found, {hits.any(dim=1).sum()} right")
    drawn = "true boxes dashed" + ("" if found is None else " and found boxes solid")
    picture.alt += f"{n} scenes with {drawn}: {'; '.join(facts)}."
    return picture
