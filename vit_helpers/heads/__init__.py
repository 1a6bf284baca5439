"""Small heads that turn the course's VisionTransformer, unchanged, into something other than a classifier."""

from .detection import COCO, Detector, average_precision, detect, detection_loss, findings, match, object_at
from .generation import (
    DiffusionTransformer,
    MaskedAutoencoder,
    flow_matching_loss,
    flow_point,
    generate,
    load_head,
    masked_loss,
)
from .segmentation import Segmenter, intersection_over_union, segment, segmentation_loss
from .video import VideoClassifier
