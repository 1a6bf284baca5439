"""The named recipes of training: learning rates, schedules, optimizers."""

from dataclasses import dataclass, field, replace
from functools import partial

import torch

from . import arguments


@dataclass(frozen=True)
class Recipe:
    """Everything that `fit` can vary; `model` holds the arguments of VisionTransformer that go with it."""

    model: dict = field(default_factory=dict)
    optimizer: str = "adam"              # "sgd", "adam", "adamw" or "muon": Muon for the blocks' matrices, AdamW for the rest
    learning_rate: float = 1e-3          # of SGD, Adam or AdamW
    weight_decay: float = 0.0            # of the same, matrices only
    muon_learning_rate: float = 2e-2
    muon_weight_decay: float = 0.1       # pulls matrices back, so that steps of one size keep turning them
    batch_size: int = 64
    warmup: float = 0.0                  # share of all steps in which the learning rate rises from zero
    decay: bool = False                  # after that: linearly down to zero at the last step; else constant
    augment: bool = False                # each tile in one of its eight flips and transposes
    label_smoothing: float = 0.0
    cutmix: float = 0.0                  # share of the batches, in the first 90 % of the steps, with parts of other tiles
    keep_tokens: float = 1.0             # share of each image's patches that is used, at random, in the first steps ...
    keep_until: float = 0.0              # ... up to this share of all steps; after that all of them
    layer_decay: float = 1.0             # each layer below the head learns at this share of the rate of the one above it
    bf16: bool = False                   # mixed precision, where the device computes faster in bfloat16

    def __post_init__(self):
        arguments.number(0, learning_rate=self.learning_rate, weight_decay=self.weight_decay,
                         muon_learning_rate=self.muon_learning_rate, muon_weight_decay=self.muon_weight_decay)
        arguments.number(0, 1, warmup=self.warmup, label_smoothing=self.label_smoothing, cutmix=self.cutmix,
                         keep_until=self.keep_until, layer_decay=self.layer_decay)
        arguments.number(keep_tokens=self.keep_tokens)
        arguments.whole(1, batch_size=self.batch_size)


PLAIN = Recipe()
GOOD = Recipe(model={"positions": "sincos", "pool": "mean", "dropout": 0.0},
              optimizer="muon", muon_learning_rate=0.012, learning_rate=2e-3, weight_decay=0.01, warmup=0.1, decay=True,
              augment=True, label_smoothing=0.1, keep_tokens=0.25, keep_until=0.8, bf16=True)
QUICK = replace(GOOD, muon_learning_rate=0.02, learning_rate=4e-3, warmup=0.05)    # for less than two epochs
BEST = replace(GOOD, cutmix=0.5, keep_until=0.6)                 # for long runs, which begin to learn tiles by heart
FINETUNE = replace(GOOD, layer_decay=0.75, keep_until=0.0)       # for an encoder that is trained already
RECIPES = {"plain": PLAIN, "quick": QUICK, "good": GOOD, "best": BEST}


OPTIMIZERS = {"sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True), "adam": torch.optim.Adam,
              "adamw": torch.optim.AdamW, "muon": torch.optim.AdamW}


def check_recipe(recipe):
    """Raise TypeError unless this is a Recipe."""
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, such as vit_helpers.GOOD, not {arguments.told(recipe)}")


def make_optimizers(model, recipe):
    """The optimizers of a recipe as a list of one, or of two: [Muon, AdamW]. Raises ValueError for unknown names."""
    arguments.device_of(model)
    check_recipe(recipe)
    if recipe.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer={recipe.optimizer!r} is unknown; choose {', '.join(map(repr, OPTIMIZERS))}")
    muon, rest = {}, {}                              # parameters, by what they have in common
    for name, p in model.named_parameters():
        if p.requires_grad:
            share = recipe.layer_decay ** _layers_above(name, model)
            if recipe.optimizer == "muon" and "blocks." in name and p.ndim == 2:
                muon.setdefault(share, []).append(p)
            else:
                rest.setdefault((p.ndim >= 2, share), []).append(p)
    if not muon and not rest:
        raise ValueError("every parameter of the model is frozen; call requires_grad_(True) on those that are to learn")
    optimizers = []
    if muon:
        groups = [{"params": p, "lr": share * recipe.muon_learning_rate} for share, p in muon.items()]
        optimizers.append(torch.optim.Muon(groups, weight_decay=recipe.muon_weight_decay))
    if rest:
        groups = [{"params": p, "lr": share * recipe.learning_rate, "weight_decay": recipe.weight_decay * matrix}
                  for (matrix, share), p in rest.items()]
        optimizers.append(OPTIMIZERS[recipe.optimizer](groups, lr=recipe.learning_rate))
    return optimizers


def _layers_above(name, model):
    """How many layers stand between a parameter and the logits: 0 for the head, depth + 1 for the patch embedding."""
    blocks = len(getattr(model, "blocks", ()))
    if name.startswith("blocks."):
        return blocks - int(name.split(".")[1])
    return blocks + 1 if name.startswith(("patch_embed", "cls_token", "pos_embed")) else 0


def learning_rate_factor(recipe, step, steps):
    """What the learning rate is multiplied by at `step` (0 ... steps - 1): warm-up, then linear decay or constant."""
    check_recipe(recipe)
    arguments.whole(1, 10**12, steps=steps)
    arguments.whole(0, steps, step=step)
    warmup = recipe.warmup * steps
    rising = min(1.0, (step + 1) / warmup) if step < warmup else 1.0
    return min(rising, (steps - step) / max(1.0, steps - warmup)) if recipe.decay else rising


def make_schedules(optimizers, recipe, steps):
    """For each optimizer the scheduler that follows the recipe over `steps` steps."""
    if not isinstance(optimizers, (list, tuple)) or not all(isinstance(o, torch.optim.Optimizer) for o in optimizers):
        raise TypeError(f"optimizers must be a list, as make_optimizers gives it, not {arguments.told(optimizers)}")
    check_recipe(recipe)
    arguments.whole(1, 10**12, steps=steps)
    return [torch.optim.lr_scheduler.LambdaLR(o, lambda step: learning_rate_factor(recipe, step, steps)) for o in optimizers]
