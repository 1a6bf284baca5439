"""Small heads that turn the course's VisionTransformer, unchanged, into something other than a classifier."""

from .average_precision import COCO, average_precision
from .detection import Detector, detect, detection_loss, findings, match, overlap, standing_on
from .flow import DiffusionTransformer, flow_matching_loss, generate, on_the_way
from .masked import MaskedAutoencoder, masked_loss, random_visible
from .segmentation import Segmenter, intersection_over_union, segment, segmentation_loss
from .shipped import load_head, save_head
from .video import VideoClassifier

__all__ = [
    "COCO",
    "Detector",
    "DiffusionTransformer",
    "MaskedAutoencoder",
    "Segmenter",
    "VideoClassifier",
    "average_precision",
    "detect",
    "detection_loss",
    "findings",
    "flow_matching_loss",
    "generate",
    "intersection_over_union",
    "load_head",
    "masked_loss",
    "match",
    "on_the_way",
    "overlap",
    "random_visible",
    "save_head",
    "segment",
    "segmentation_loss",
    "standing_on",
]
