"""Small heads that turn the course's VisionTransformer, unchanged, into something other than a classifier."""

from .flow import DiffusionTransformer, flow_matching_loss, generate, on_the_way
from .masked import MaskedAutoencoder, masked_loss, random_visible
from .shipped import load_head, save_head

__all__ = [
    "DiffusionTransformer",
    "MaskedAutoencoder",
    "flow_matching_loss",
    "generate",
    "load_head",
    "masked_loss",
    "on_the_way",
    "random_visible",
    "save_head",
]
