"""What all pictures share: the figure that shows itself with alt text, its colors, an image on an axis."""

import html
import io
import re

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

MAP = "cividis"                              # readable for every kind of color vision, and in gray
COLORS = ("#00418d", "#d97b00", "#2a8f6d", "#a3297b", "#555555")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))      # never color alone
UNIFORM = "times the uniform share 1/N"      # the unit of attention in every picture


class Picture(Figure):
    """A Matplotlib figure that a notebook shows once, as PNG, and `alt`, its text for who cannot see it."""

    def _repr_mimebundle_(self, include=None, exclude=None):
        drawn, file = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=100)
        Image.open(drawn).convert("RGB").save(file, "png", optimize=True)    # without alpha, a tenth smaller
        return {"image/png": file.getvalue(), "text/plain": self.alt}, {"image/png": {"alt": self.alt}}

    def _ipython_display_(self):
        from IPython.display import display  # here: only a notebook calls this

        data, metadata = self._repr_mimebundle_()
        display(data, metadata=metadata, raw=True)           # exported pages find the text in its metadata
        words = f"<details><summary>The figure in words</summary>{html.escape(self.alt)}</details>"
        display({"text/html": words, "text/plain": self.alt}, raw=True)      # JupyterLab reads it only here


def new_picture(title, figsize, rows=1, columns=1, used=None):
    """A picture, its alt text begun, and its axes (rows, columns), hidden from number `used` on."""
    picture = Picture(layout="constrained", figsize=figsize)
    picture.suptitle(title, fontsize=11, in_layout=bool(title))
    picture.alt = f"{title}. ".replace("\n", " ")
    axes = picture.subplots(rows, columns, squeeze=False)
    for axis in () if used is None else axes.flat[used:]:
        axis.axis("off")
    return picture, axes


def as_array(values):
    """A tensor on any device, or numbers in any list, as a NumPy array that Matplotlib can draw."""
    values = torch.as_tensor(values if hasattr(values, "shape") else list(values))
    return (values.float() if values.dtype in (torch.bfloat16, torch.bool) else values).numpy(force=True)


def as_pixels(image):
    """An image (3, H, W), whole numbers 0..255 or normalized to -1..1, as uint8 (H, W, 3) for imshow."""
    image = torch.as_tensor(image)
    if image.is_floating_point():            # generated tiles go beyond 1, but not far
        assert image.abs().max() <= 50, "floats must be normalized to -1..1 and not nan; use normalize(image)"
        image = ((image * 0.5 + 0.5).clamp(0, 1) * 255).round()
    return image.to(torch.uint8).permute(1, 2, 0).numpy(force=True)


def show(axis, pixels, label="", interpolation="nearest", **options):
    axis.imshow(pixels, interpolation=interpolation, **options)
    axis.set(xticks=[], yticks=[])
    axis.set_title(re.sub("(?<=[a-z])(?=[A-Z])", "\n", str(label)), fontsize=8)      # Herbaceous, Vegetation


def on_scale(maps, unit=""):
    """Maps (M, rows, columns) as they are drawn: values, the two ends of their scale, its unit."""
    # Attention, never negative and 1 in the sum of each map, always in 0 to 4 times the uniform share 1/N: a
    # scale stretched to what there is would make even uniform attention look structured.
    maps = as_array(maps).astype(float)
    low, high = maps.min(), maps.max()
    if low < 0 or abs(maps.sum(axis=(1, 2)) - 1).max() > 1e-3:
        return maps, (low, high), unit
    return maps * maps[0].size, (0, 4), UNIFORM


def color_bar(picture, image, unit, **place):
    """The color bar of an image; attention beyond the end of its scale is shown by a pointed end."""
    extend, ticks = ("max", range(5)) if unit == UNIFORM else ("neither", MaxNLocator(3))
    bar = picture.colorbar(image, extend=extend, ticks=ticks, **place)
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def frame(axis, left, top, right, bottom, **style):
    """A frame on an image, given as shares of its width and height, from the left and from the top."""
    corner, place = (left, 1 - top), axis.transAxes
    axis.add_patch(Rectangle(corner, right - left, top - bottom, transform=place, fill=False, **style))
