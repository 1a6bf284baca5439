"""Vision Transformers, from patches to predictions: what the notebooks of the course share."""

from .attention import attention_maps, attention_rollout, gradient_rollout, patch_evidence
from .checkpoints import load_checkpoint, load_weights, save_checkpoint
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
from .pictures import Prediction, land_use_map, load_picture, predict
from .pretrained import from_torchvision, load_pretrained, load_published, measured, pretrained_facts, stage_differences
from .recipes import BEST, FINETUNE, GOOD, PLAIN, QUICK, RECIPES, Recipe
from .runtime import by_budget, has_fast_bf16, pick_device
from .stored import StoredTiles, pack
from .training import History, fit, learn

__all__ = [
    "BEST",
    "CLASSES",
    "FINETUNE",
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
    "Prediction",
    "Recipe",
    "StoredTiles",
    "Tiles",
    "VisionTransformer",
    "attention_maps",
    "attention_rollout",
    "batches",
    "by_budget",
    "cutmix",
    "eight_views",
    "evaluate",
    "fit",
    "flip_and_transpose",
    "from_torchvision",
    "gradient_rollout",
    "has_fast_bf16",
    "interpolate_positions",
    "land_use_map",
    "learn",
    "load_checkpoint",
    "load_picture",
    "load_pretrained",
    "load_published",
    "load_tiles",
    "load_weights",
    "measured",
    "normalize",
    "pack",
    "patch_evidence",
    "patch_grid",
    "patchify",
    "pick_device",
    "predict",
    "pretrained_facts",
    "save_checkpoint",
    "sincos_positions",
    "stage_differences",
    "unpatchify",
]
