"""Vision Transformers, from patches to predictions: what the notebooks of the course share."""

from .attention import attention_maps, attention_rollout, gradient_rollout, patch_evidence
from .checkpoints import load_checkpoint, load_weights, save_checkpoint
from .data import CLASSES, Tiles, batches, cutmix, dihedral_views, load_tiles, normalize, random_dihedral
from .embedding import ConvStem, PatchEmbedding, interpolate_positions, sincos_positions
from .evaluation import Evaluation, evaluate
from .model import MLP, EncoderBlock, MultiHeadSelfAttention, VisionTransformer
from .patches import patch_grid, patchify, random_patches, unpatchify
from .pictures import Prediction, land_use_map, load_picture, predict
from .pretrained import (
    from_huggingface,
    from_torchvision,
    load_pretrained,
    load_published,
    measured,
    pretrained_facts,
    stage_differences,
)
from .recipes import BEST, CONV, FINETUNE, GOOD, PLAIN, QUICK, RECIPES, Muon, Recipe
from .runtime import has_fast_bf16, pick_device
from .training import History, fit, learn
