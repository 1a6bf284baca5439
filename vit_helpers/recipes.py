"""The named recipes of training: learning rates, schedules, optimizers."""

import re
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from .runtime import has_fast_bf16


@dataclass(frozen=True)
class Recipe:
    """Everything that `fit` can vary; `model` holds the arguments of VisionTransformer that go with it."""

    model: dict = field(default_factory=dict)
    optimizer: str = "adam"              # "sgd", "adam", "adamw"; "muon" for blocks and ConvStem, else AdamW
    learning_rate: float = 1e-3          # of SGD, Adam or AdamW
    weight_decay: float = 0.0            # of the same, matrices only
    muon_learning_rate: float = 2e-2
    muon_weight_decay: float = 0.1       # pulls matrices back, so that steps of one size keep turning them
    batch_size: int = 64
    warmup: float = 0.0                  # share of all steps in which the learning rate rises from zero
    decay: bool = False                  # after that: linearly down to zero at the last step; else constant
    augment: bool = False                # each tile in one of its eight flips and transposes
    label_smoothing: float = 0.0
    cutmix: float = 0.0                  # share of the batches that are mixed, in the first 90% of the steps
    keep_tokens: float = 1.0             # share of each image's patches that is used, at random, at first ...
    keep_until: float = 0.0              # ... up to this share of all steps; after that all of them
    layer_decay: float = 1.0             # each layer below the head learns at this share of the rate above it
    bf16: bool = False                   # mixed precision, where the device computes faster in bfloat16

    def __post_init__(self):             # with NumPy's numbers in it, a checkpoint could not be read
        for name, value in vars(self).items():
            object.__setattr__(self, name, value.item() if hasattr(value, "item") else value)


PLAIN = Recipe()
GOOD = Recipe(model={"positions": "sincos", "pool": "mean", "dropout": 0.0},
              optimizer="muon", learning_rate=2e-3, muon_learning_rate=0.012, weight_decay=0.01, warmup=0.1,
              decay=True, augment=True, label_smoothing=0.1, keep_tokens=0.25, keep_until=0.8, bf16=True)
QUICK = replace(GOOD, muon_learning_rate=0.02, learning_rate=4e-3, warmup=0.05)    # for less than two epochs
BEST = replace(GOOD, cutmix=0.5, keep_until=0.6)         # for long runs, which begin to learn tiles by heart
CONV = replace(BEST, model={**BEST.model, "stem": "conv"}, keep_until=0.8)       # for new places
FINETUNE = replace(GOOD, layer_decay=0.75, keep_until=0.0)       # for an encoder that is trained already
RECIPES = {"plain": PLAIN, "quick": QUICK, "good": GOOD, "best": BEST, "conv": CONV}


class Muon(torch.optim.Optimizer):
    """Momentum SGD for matrices (R, C) whose steps are orthogonalized: every direction moves equally far.

    Jordan et al. 2024, "Muon". The same steps as torch.optim.Muon, which computes in bfloat16 on any
    processor, one matrix at a time. Filters (R, C, P, Q) of a convolution count as a matrix (R, C * P * Q).
    lr: length of a step in each direction, times sqrt(R / C) for tall matrices. weight_decay: the share of lr
    by which a matrix shrinks in each step.
    """

    def __init__(self, params, lr=0.02, weight_decay=0.1, momentum=0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(p)
                    momentum = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                    ahead = p.grad.lerp(momentum, group["momentum"])             # Nesterov
                    by_shape.setdefault((len(p), p[0].numel()), []).append((p, ahead.flatten(1)))
            for (rows, columns), pairs in by_shape.items():
                turned = orthogonalized(torch.stack([ahead for _, ahead in pairs]))
                for (p, _), step in zip(pairs, turned, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(step.view_as(p), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def orthogonalized(matrices):
    """Matrices (n, R, C) = U S V^T, about as U V^T: five Newton-Schulz iterations bring S near 1.

    In bfloat16 where the device is faster in it, else in float32. Values far below the largest one stay
    smaller.
    """
    x = matrices.to(torch.bfloat16 if has_fast_bf16(matrices.device) else torch.float32)
    x = x.mT if x.shape[1] > x.shape[2] else x           # the shorter side has the smaller Gram matrix
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)     # no singular value is above 1
    for _ in range(5):                                   # 3.4445 x - 4.7750 (x x^T) x + 2.0315 (x x^T)^2 x
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


BLOCK = re.compile(r"\bblocks\.(\d+)\.")               # in the name of a parameter, also inside a wrapper
FOR_MUON = re.compile(r"\bblocks\.|\bpatch_embed\.proj\.\d")    # the blocks, and the filters of a ConvStem
OPTIMIZERS = {"sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True), "adam": torch.optim.Adam,
              "adamw": torch.optim.AdamW, "muon": torch.optim.AdamW}


def make_optimizers(model, recipe):
    """The optimizers of a recipe as a list of one, or of two: [Muon, AdamW], told apart by timm's names."""
    muon, rest = {}, {}                                  # parameters, by what they have in common
    depth = len({number for name, _ in model.named_parameters() for number in BLOCK.findall(name)})
    if recipe.layer_decay < 1 and depth == 0:
        raise ValueError(f"{type(model).__name__} has no parameters named `blocks.0...`, so no layers whose "
                         "learning rates could differ; use recipe=dataclasses.replace(recipe, layer_decay=1)")
    for name, p in model.named_parameters():
        # Layers between p and the logits: none for the head, depth + 1 for the embedding.
        above = depth + 1 if re.search(r"\b(patch_embed|cls_token|pos_embed)\b", name) else 0
        if block := BLOCK.search(name):
            above = depth - int(block[1])
        share = recipe.layer_decay**above
        if p.requires_grad and recipe.optimizer == "muon" and p.ndim >= 2 and FOR_MUON.search(name):
            muon.setdefault(share, []).append(p)
        elif p.requires_grad:
            rest.setdefault((p.ndim >= 2, share), []).append(p)
    optimizers = []
    if muon:
        groups = [{"params": p, "lr": share * recipe.muon_learning_rate} for share, p in muon.items()]
        optimizers.append(Muon(groups, weight_decay=recipe.muon_weight_decay))
    if rest:
        groups = [{"params": p, "lr": share * recipe.learning_rate,
                   "weight_decay": recipe.weight_decay * matrix} for (matrix, share), p in rest.items()]
        optimizers.append(OPTIMIZERS[recipe.optimizer](groups, lr=recipe.learning_rate))
    return optimizers


def learning_rate_factor(recipe, step, steps):
    """What the learning rate is multiplied by at `step`, from 0: warm-up, then decay or constant."""
    warmup = recipe.warmup * steps
    rising = min(1.0, (step + 1) / warmup) if step < warmup else 1.0
    return min(rising, (steps - step) / max(1.0, steps - warmup)) if recipe.decay else rising
