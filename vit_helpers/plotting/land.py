"""Pictures of land: what each pixel is, as colored regions with their names."""

import re

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from scipy.ndimage import distance_transform_edt

from .. import arguments
from .base import as_maps, as_pixels, new_picture, several, show

# Ten colors that most kinds of color vision can tell apart (Paul Tol's "muted", and gray); names stand on the regions too.
LAND = ListedColormap(["#DDCC77", "#117733", "#999933", "#AA4499", "#882255", "#44AA99", "#CC6677", "#BBBBBB", "#88CCEE",
                       "#332288"], name="land")


def short_name(name):
    """Two letters for a class: the capitals of HerbaceousVegetation, HV, or the first two of Forest, Fo."""
    capitals = "".join(re.findall("[A-Z]", name))
    return capitals[:2] if len(capitals) > 1 else name[:2]


def _regions(axis, mask, classes, label, smallest=0.03):
    """A mask (H, W) in colors, each class that covers enough with its short name at the place farthest from its borders."""
    show(axis, mask, label, cmap=LAND, vmin=-0.5, vmax=9.5)
    for c in np.unique(mask):
        depth = distance_transform_edt(np.pad(mask == c, 1))[1:-1, 1:-1]
        if (mask == c).mean() >= smallest:
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            axis.text(column, row, short_name(classes[c]), ha="center", va="center", fontsize=7,
                      bbox={"color": "white", "alpha": 0.7, "pad": 0.6})


def _checked(masks, axes, classes):
    """Masks {name: classes of pixels} as NumPy arrays of the same shape. Raises TypeError or ValueError for others."""
    arguments.named(masks=masks)
    arguments.names(None, classes=classes)
    if len(classes) > len(LAND.colors):
        raise ValueError(f"{len(classes)} classes have not enough colors; give at most {len(LAND.colors)}")
    tensors = {name: arguments.array(**{name: values}) for name, values in masks.items()}
    arguments.tensor(axes, "whole", **tensors)
    arguments.in_range(0, len(classes) - 1, **tensors)
    return {name: as_maps(axes, **{name: values}) for name, values in tensors.items()}


def segmentations(images, masks, classes, title="", scale=1.5):
    """Images (N, 3, H, W), one in each column, below them each of `masks` {name: int64 (N, H, W)} as colored regions."""
    several(images=images)
    masks = _checked(masks, f"{len(images)} H W", classes)
    arguments.above(0, scale=scale)
    first = next(iter(masks))
    others = {name: values for name, values in masks.items() if name != first}
    shares = [", ".join(f"{name} {np.mean(values[i] == masks[first][i]):.0%}" for name, values in others.items())
              for i in range(len(images))]
    alt = f"{title}. {len(images)} scenes, below each its {first} as colored regions"
    alt += f"; how many pixels agree with it, scene by scene: {'; '.join(shares)}" if others else "."
    size = (scale * len(images) + 1.6, scale * (1 + len(masks)) + 0.4)
    picture, axes = new_picture(title, alt, 1 + len(masks), len(images), figsize=size)
    for column, image in zip(axes.T, images, strict=True):
        show(column[0], as_pixels(image))
    for row, (name, values) in zip(axes[1:], masks.items(), strict=True):
        for axis, mask in zip(row, values, strict=True):
            _regions(axis, mask, classes, "")
        row[0].set_ylabel(name, fontsize=9)
    axes[0, 0].set_ylabel("scene", fontsize=9)
    _legend(picture, classes)
    return picture


def land_use(picture_, masks, classes, title="", scale=3.2):
    """A large picture (3, H, W) and beside it each of `masks` {name: int64 (H, W)} as colored regions."""
    masks = _checked(masks, "H W", classes)
    arguments.above(0, scale=scale)
    truth = next(iter(masks.values()))
    alt = f"{title}. A large scene and beside it, as colored regions: " + ", ".join(
        f"{name} ({np.mean(mask == truth):.0%} of the pixels as in the first)" for name, mask in masks.items())
    picture, axes = new_picture(title, alt, 1, 1 + len(masks), figsize=(scale * (1 + len(masks)) + 1.6, scale + 0.6))
    show(axes[0, 0], as_pixels(picture_), "scene")
    for axis, (name, mask) in zip(axes[0, 1:], masks.items(), strict=True):
        _regions(axis, mask, classes, name, smallest=0.01)
    _legend(picture, classes)
    return picture


def _legend(picture, classes):
    handles = [Patch(color=LAND(c), label=f"{short_name(name)}  {name}") for c, name in enumerate(classes)]
    picture.legend(handles=handles, loc="outside right center", fontsize=7)
