"""Training: the named recipes, the loop `fit` and its History."""

import inspect
import math
import warnings
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F

from .checkpoints import load_checkpoint, save_checkpoint
from .data import batches, cutmix
from .evaluation import check_classes, evaluate
from .runtime import Progress, has_fast_bf16, pick_device


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


def make_optimizers(model, recipe):
    """The optimizers of a recipe as a list of one, or of two: [Muon, AdamW]. Raises ValueError for unknown names."""
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
    warmup = recipe.warmup * steps
    rising = min(1.0, (step + 1) / warmup) if step < warmup else 1.0
    return min(rising, (steps - step) / max(1.0, steps - warmup)) if recipe.decay else rising


@dataclass
class History:
    """What happened in training, one entry for each finished epoch; `step_loss` has one for each step."""

    loss: list = field(default_factory=list)             # mean training loss of the epoch
    train_accuracy: list = field(default_factory=list)   # 0 to 1, while learning: augmented or mixed tiles, dropout on
    test_accuracy: list = field(default_factory=list)    # 0 to 1; empty without test tiles
    seconds: list = field(default_factory=list)          # of training, without the evaluation
    step_loss: list = field(default_factory=list)
    interrupted: bool = False

    def __len__(self):
        return len(self.loss)

    def __str__(self):
        test = ["-"] * (len(self) - len(self.test_accuracy)) + [f"{accuracy:.1%}" for accuracy in self.test_accuracy]
        columns = zip(self.loss, self.train_accuracy, test, self.seconds, strict=True)
        rows = [f"{i:5}{loss:9.3f}{a:12.1%}{b:>12}{s:9.1f}" for i, (loss, a, b, s) in enumerate(columns, 1)]
        return "\n".join(["epoch     loss    training        test  seconds", *rows])


def fit(model, train, test=None, *, epochs, recipe=GOOD, seed=0, device=None, checkpoint=None, resume=False):
    """Train `model` in place on Tiles for `epochs` passes and return the History; `test` is only reported.

    `epochs` may have a fraction: 0.8 sees four fifths of the tiles, once each; the schedule ends where the run does.
    `seed` fixes order, augmentation and dropout (set torch's seed before building the model for its first weights).
    `checkpoint` names a file that is written after each epoch; with resume=True a run found there goes on and ends
    with the same numbers as one that was never interrupted. Ctrl-C ends training early: model and history so far stay.
    Raises ValueError for data or settings that cannot work, and FloatingPointError when the loss is not finite: then
    the model is back at its last good epoch, and the history so far is in the error's `history`.
    """
    if len(train) == 0 or len(train.labels.unique()) < 2:
        found = f"{len(train)} tiles of one class" if len(train) else "no tiles"
        raise ValueError(f"training needs tiles of at least two classes, not {found}")
    if isinstance(epochs, bool) or not isinstance(epochs, (int, float)) or not 0 < epochs < math.inf:
        raise ValueError(f"epochs={epochs!r} must be a number above 0, such as 5 or 0.8")
    if not 0 < recipe.keep_tokens <= 1:
        raise ValueError(f"keep_tokens={recipe.keep_tokens} is not a share between 0 and 1; choose 0.5 for half of the patches")
    if recipe.keep_until and recipe.keep_tokens < 1 and "keep_tokens" not in inspect.signature(model.forward).parameters:
        raise ValueError(f"{type(model).__name__} cannot leave patches out, as this recipe asks for; use "
                         "recipe=dataclasses.replace(recipe, keep_tokens=1.0)")
    device = pick_device(device)
    model.to(device)
    train = train.to(device)
    steps = math.ceil(len(train) / recipe.batch_size)            # of a whole epoch
    total = max(1, round(epochs * steps))
    optimizers = make_optimizers(model, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: learning_rate_factor(recipe, step, total))
                 for o in optimizers]
    generator, history = torch.Generator().manual_seed(seed), History()
    run = dict(model=model, optimizers=optimizers, schedules=schedules, generator=generator, history=history,
               settings={**asdict(recipe), "epochs": epochs, "tiles": len(train), "seed": seed})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if resume and checkpoint and Path(checkpoint).exists():
            load_checkpoint(checkpoint, **run)
        bar = Progress(total=total, initial=min(total, len(history) * steps), unit=" steps")
        try:
            while len(history) * steps < total:
                kept = {name: value.clone() for name, value in model.state_dict().items()}
                losses, accuracy, seconds = _one_epoch(
                    model, train, recipe, optimizers, schedules, generator, history, bar, total)
                tested = [] if test is None else [evaluate(model, test).accuracy]
                history.step_loss += losses              # all at once: Ctrl-C leaves no epoch half recorded
                history.loss.append(sum(losses) / len(losses))
                history.train_accuracy.append(accuracy)
                history.test_accuracy += tested
                history.seconds.append(seconds)
                if checkpoint:
                    try:
                        save_checkpoint(checkpoint, **run)
                    except OSError as problem:           # a full disk must not cost the run
                        warnings.warn(f"the checkpoint {checkpoint} could not be written ({problem}); training goes on, "
                                      "with the last one that was", stacklevel=2)
        except KeyboardInterrupt:
            history.interrupted = True
        except FloatingPointError as problem:
            model.load_state_dict(kept)
            problem.history = history
            raise
        finally:
            _show(bar, history, math.ceil(total / steps))
            bar.close()
    if history.interrupted:
        print(f"interrupted after {len(history)} of {epochs} epochs; the model and the history so far are usable")
    return history


def _one_epoch(model, train, recipe, optimizers, schedules, generator, history, bar, total):
    model.train()
    started, losses, hits, seen, window = perf_counter(), [], 0, 0, []
    steps, device = math.ceil(len(train) / recipe.batch_size), train.labels.device
    done, epochs = len(history) * steps, math.ceil(total / steps)
    steps = min(steps, total - done)                 # fewer in a last, partial epoch
    feed = batches(train, recipe.batch_size, shuffle=True, augment=recipe.augment, generator=generator)
    for images, labels in islice(feed, steps):
        progress, own = (done + len(losses) + len(window)) / total, 1.0
        if recipe.cutmix and progress < 0.9 and torch.rand((), generator=generator) < recipe.cutmix:
            images, own = cutmix(images, generator)
        # For each step anew: autocast keeps its bf16 copies of the weights until it is left.
        with torch.autocast(device.type, torch.bfloat16, recipe.bf16 and has_fast_bf16(device)):
            fewer = {"keep_tokens": recipe.keep_tokens} if recipe.keep_tokens < 1 and progress < recipe.keep_until else {}
            logits = model(images, **fewer).float()                                  # (B, 10)
        check_classes(logits, train)
        loss = own * F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if own < 1:                                  # the rest of each picture is its partner's
            loss += (1 - own) * F.cross_entropy(logits, labels.flip(0), label_smoothing=recipe.label_smoothing)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        window.append(torch.stack([loss.detach().float(), (logits.argmax(dim=1) == labels).sum()]))
        # Reading a number from a GPU makes it wait, so numbers are read ten at a time.
        if len(window) == 10 or len(losses) + len(window) == steps:
            values = torch.stack(window).cpu()                                       # (10, 2)
            for value in values[:, 0].tolist():
                losses.append(value)
                if not math.isfinite(value):
                    raise _diverged(f"the loss is {value} at step {len(losses)} of {steps}, epoch {len(history) + 1}")
            hits += int(values[:, 1].sum())
            bar.update(len(window))
            window.clear()
            seen = min(len(losses) * recipe.batch_size, len(train))
            _show(bar, history, epochs, sum(losses[-50:]) / len(losses[-50:]), hits / seen)
    if not all(p.isfinite().all() for p in model.parameters()):
        raise _diverged(f"the last step of epoch {len(history) + 1} made weights that are not finite")
    return losses, hits / seen, perf_counter() - started


def _diverged(what):
    return FloatingPointError(f"{what}; training stopped, the model is back at its last good epoch. "
                              "Try a tenth of the learning rate, and look for broken values in the images")


def _show(bar, history, epochs, loss=None, accuracy=None):
    bar.set_description_str(f"epoch {min(len(history) + (loss is not None), epochs)}/{epochs}", refresh=False)
    loss = loss if loss is not None or not len(history) else history.loss[-1]
    accuracy = accuracy if accuracy is not None or not len(history) else history.train_accuracy[-1]
    parts = [] if loss is None else [f"loss {loss:.3f}", f"training {accuracy:.1%}"]
    parts += [f"test {history.test_accuracy[-1]:.1%}"] if history.test_accuracy else []
    bar.set_postfix_str(", ".join(parts), refresh=False)
