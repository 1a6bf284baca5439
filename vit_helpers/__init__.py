"""Vision Transformers, from patches to predictions: what the notebooks of the course share."""

from .checkpoints import load_checkpoint, save_checkpoint
from .data import CLASSES, Tiles, batches, cutmix, eight_views, flip_and_transpose, load_tiles, normalize
from .evaluation import Evaluation, evaluate
from .model import (
    MLP,
    EncoderBlock,
    MultiHeadSelfAttention,
    PatchEmbedding,
    VisionTransformer,
    interpolate_positions,
    sincos_positions,
)
from .patches import patch_grid, patchify, unpatchify
from .pretrained import load_pretrained, measured, pretrained_facts
from .runtime import by_budget, has_fast_bf16, pick_device
from .training import BEST, GOOD, PLAIN, QUICK, RECIPES, History, Recipe, fit

__all__ = [
    "BEST",
    "CLASSES",
    "GOOD",
    "MLP",
    "PLAIN",
    "QUICK",
    "RECIPES",
    "EncoderBlock",
    "Evaluation",
    "History",
    "MultiHeadSelfAttention",
    "PatchEmbedding",
    "Recipe",
    "Tiles",
    "VisionTransformer",
    "batches",
    "by_budget",
    "cutmix",
    "eight_views",
    "evaluate",
    "fit",
    "flip_and_transpose",
    "has_fast_bf16",
    "interpolate_positions",
    "load_checkpoint",
    "load_pretrained",
    "load_tiles",
    "measured",
    "normalize",
    "patch_grid",
    "patchify",
    "pick_device",
    "pretrained_facts",
    "save_checkpoint",
    "sincos_positions",
    "unpatchify",
]
