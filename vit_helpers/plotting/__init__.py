"""Every picture of the course: functions that take arrays and return a Matplotlib figure with alt text."""

from .base import COLORS, MAP, STYLES, Picture, as_pixels
from .charts import bars, curves, heatmap, reliability, scatter
from .maps import attention_on_image, cell_maps, explained, maps_on_images
from .tiles import image_grid, patch_lines, predictions, stages

__all__ = [
    "COLORS",
    "MAP",
    "STYLES",
    "Picture",
    "as_pixels",
    "attention_on_image",
    "bars",
    "cell_maps",
    "curves",
    "explained",
    "heatmap",
    "image_grid",
    "maps_on_images",
    "patch_lines",
    "predictions",
    "reliability",
    "scatter",
    "stages",
]
