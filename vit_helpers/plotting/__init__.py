"""Every picture of the course: functions that take arrays and return a Matplotlib figure with alt text."""

from .base import COLORS, MAP, STYLES, UNIFORM, Picture, as_pixels
from .charts import bars, curves, heatmap, reliability
from .drawings import axes_boxes, block_diagram
from .maps import attention_on_image, cell_maps, explained, maps_on_images, projection
from .scenes import detections, segmentations
from .tiles import film_strips, image_grid, patch_lines, predictions, stages
