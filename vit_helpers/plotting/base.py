"""What all pictures share: the figure that shows itself with alt text, its colors, an image on an axis."""

import html
import io
import re

import torch
from matplotlib.figure import Figure

from .. import arguments

MAP = "cividis"                              # readable for every kind of color vision, and in gray
COLORS = ("#00418d", "#d97b00", "#2a8f6d", "#a3297b", "#555555")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))      # never color alone


class Picture(Figure):
    """A Matplotlib figure that a notebook shows once, as PNG, with `alt` as the text for who cannot see it.

    The text is stored with the picture, where exported pages find it, and once more as a folded line below it: JupyterLab
    reads the first from no output.
    """

    alt = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100)
        return {"image/png": file.getvalue(), "text/plain": self.alt}, {"image/png": {"alt": self.alt}}

    def _ipython_display_(self):
        from IPython.display import display  # here: only a notebook calls this

        data, metadata = self._repr_mimebundle_()
        display(data, metadata=metadata, raw=True)
        display({"text/html": f"<details><summary>The figure in words</summary>{html.escape(self.alt)}</details>",
                 "text/plain": self.alt}, raw=True)


def new_picture(title, alt, rows=1, columns=1, **size):
    picture = Picture(layout="constrained", **size)
    picture.alt = alt
    axes = picture.subplots(rows, columns, squeeze=False)
    if title:
        picture.suptitle(title, fontsize=11)
    return picture, axes


def as_pixels(image):
    """An image (3, H, W), whole numbers 0..255 or normalized to -1..1, as uint8 (H, W, 3) for imshow.

    Raises TypeError or ValueError for what is no image, and for nan.
    """
    image = arguments.array(image=image)
    arguments.tensor("3 H W", None if image.is_floating_point() else "whole", image=image)
    arguments.no_nan(image=image) if image.is_floating_point() else arguments.in_range(0, 255, image=image)
    if image.is_floating_point():
        image = ((image.detach() * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return image.cpu().to(torch.uint8).permute(1, 2, 0).numpy()


def several(**values):
    """Raise TypeError or ValueError unless each value is a list or tensor of at least one image, or whatever it holds."""
    for name, value in values.items():
        if isinstance(value, (str, bytes, dict, type)) or not hasattr(value, "__len__") or getattr(value, "shape", (1,)) == ():
            raise TypeError(f"{name} must be a list or a tensor (N, 3, H, W), not {arguments.told(value)}")
        if not len(value):
            raise ValueError(f"there are no {name} to draw; give at least one")


def as_maps(axes, **values):
    """The value, one tensor or array with these axes and no nan, as a NumPy array. Raises TypeError or ValueError."""
    (name, value), = values.items()
    value = arguments.array(**values).detach()
    arguments.tensor(axes, **{name: value})
    arguments.real(**{name: value})
    arguments.no_nan(**{name: value})
    return (value.float() if value.dtype in (torch.bfloat16, torch.bool) else value).cpu().numpy()


def show(axis, pixels, label="", **options):
    axis.imshow(pixels, interpolation="nearest", **options)
    axis.set(xticks=[], yticks=[])
    if label != "":                                  # 0 is a label
        axis.set_title(re.sub("(?<=[a-z])(?=[A-Z])", "\n", str(label)), fontsize=8)  # HerbaceousVegetation in two lines
