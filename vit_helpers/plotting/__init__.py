"""Every picture of the course: functions that take arrays and return a Matplotlib figure with alt text."""

from .base import COLORS, MAP, STYLES, Picture, as_pixels
from .charts import bars, curves, heatmap, reliability, scatter
from .detections import detections, query_places
from .films import film_strips
from .land import land_use, segmentations
from .maps import attention_on_image, cell_maps, explained, maps_on_images, projection
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
    "detections",
    "explained",
    "film_strips",
    "heatmap",
    "image_grid",
    "land_use",
    "maps_on_images",
    "patch_lines",
    "predictions",
    "projection",
    "query_places",
    "reliability",
    "scatter",
    "segmentations",
    "stages",
]
