"""Training: one loop, `optimize`; around it `fit` for classifiers, with its History, and `learn`."""

import inspect
import math
import warnings
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from .checkpoints import load_checkpoint, save_checkpoint
from .data import batches, cutmix
from .distributed import all_reduce_sum, rank, world_size
from .evaluation import check_classes, check_tiles, evaluate
from .patches import random_patches
from .recipes import GOOD, learning_rate_factor, make_optimizers
from .runtime import Progress, has_fast_bf16, pick_device, smoke


@dataclass
class History:
    """What happened in training, one entry for each finished epoch; `step_loss` has one for each step."""

    loss: list = field(default_factory=list)             # mean training loss of the epoch
    train_accuracy: list = field(default_factory=list)   # 0 to 1, while learning: augmented or mixed tiles
    test_accuracy: list = field(default_factory=list)    # 0 to 1; empty without test tiles
    seconds: list = field(default_factory=list)          # of training, without the evaluation
    step_loss: list = field(default_factory=list)
    interrupted: bool = False

    def __len__(self):
        return len(self.loss)

    def __str__(self):
        test = ["-"] * (len(self) - len(self.test_accuracy)) + [f"{a:.1%}" for a in self.test_accuracy]
        columns = zip(self.loss, self.train_accuracy, test, self.seconds, strict=True)
        rows = [f"{i:5}{loss:9.3f}{a:12.1%}{b:>12}{s:9.1f}" for i, (loss, a, b, s) in enumerate(columns, 1)]
        return "\n".join(["epoch     loss    training        test  seconds", *rows])


ADVICE = "Training stopped; try a tenth of the learning rate, and look for broken values in the images"


def optimize(loss_of, optimizers, schedules, steps, bf16_on, bar, losses):
    """The loop of every training here: `steps` steps downhill on `loss_of()`, a scalar; shown by `bar`.

    `losses` grows by tens, since reading a number makes a GPU wait. bf16_on: a device type, or None. Raises
    FloatingPointError when a loss is not finite.
    """
    window = []
    for step in range(1, steps + 1):
        # For each step anew: autocast keeps its bf16 copies of the weights until it is left.
        with torch.autocast(bf16_on or "cpu", torch.bfloat16, enabled=bf16_on is not None):
            loss = loss_of()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        window.append(loss.detach().float())
        if len(window) == 10 or step == steps:
            some = (all_reduce_sum(torch.stack(window)) / world_size()).tolist()
            if not math.isfinite(sum(some)):
                raise FloatingPointError(f"the loss is not finite by step {step} of {steps}. {ADVICE}")
            losses += some
            bar.set_postfix_str(f"loss {sum(losses[-50:]) / len(losses[-50:]):.3f}", refresh=False)
            bar.update(len(window))
            window.clear()


def learn(model, loss_of, *, steps, recipe=GOOD, seed=0, device=None):
    """Train any model in place by `steps` steps of `loss_of(model, generator)`, a scalar; the losses.

    `loss_of` makes a batch, on the model's device, with the generator (a CPU torch.Generator, seeded with
    `seed`) for its draws. Optimizers, rates, schedule and precision are the recipe's; what it says about
    tiles is left to `loss_of`. Ctrl-C ends training early.
    """
    device, steps = pick_device(device), min(steps, 4) if smoke() else steps
    model.to(device).train()
    optimizers, generator, losses = make_optimizers(model, recipe), torch.Generator().manual_seed(seed), []
    schedules = [LambdaLR(o, lambda step: learning_rate_factor(recipe, step, steps)) for o in optimizers]
    bf16_on = device.type if recipe.bf16 and has_fast_bf16(device) else None
    with torch.random.fork_rng(), Progress(total=steps, unit=" steps") as bar:
        torch.manual_seed(seed)
        try:
            optimize(lambda: loss_of(model, generator), optimizers, schedules, steps, bf16_on, bar, losses)
        except KeyboardInterrupt:
            print(f"interrupted after {len(losses)} of {steps} steps; the model so far is usable")
    return losses


def fit(model, train, test=None, *, epochs, recipe=GOOD, seed=0, device=None, checkpoint=None, resume=False):
    """Train `model` in place on Tiles for `epochs` passes and return the History; `test` is only reported.

    `epochs` may have a fraction: 0.8 sees four fifths of the tiles, once each. `seed` fixes order,
    augmentation and dropout (for the first weights set torch's). `checkpoint` names a file that is written
    after each epoch; with resume=True a run found there goes on and ends, in one process, with the same
    numbers as one that was never interrupted. Ctrl-C ends training early: model and history so far stay. The
    model stays on `device`. Under torchrun each process learns from its own share of the tiles. Raises
    ValueError for what cannot be learned from, and FloatingPointError for a loss that is not finite: then the
    model is back at its last good epoch, and the history so far is in the error's `history`.
    """
    check_fit(model, train, test, epochs, recipe)
    device = pick_device(device)
    model.to(device)
    some = train.gather(torch.arange(0, len(train), math.ceil(len(train) / 256))).cpu().numpy()
    if (n := world_size()) > 1:                          # equally many for each, so all take as many steps
        train = train.select(torch.arange(rank(), len(train) // n * n, n))
    train, history, generator = train.to(device), History(), torch.Generator().manual_seed(seed + rank())
    steps = math.ceil(len(train) / max(1, recipe.batch_size // world_size()))        # of a whole epoch
    total = min(max(1, round(epochs * steps)), 4 if smoke() else math.inf)
    optimizers = make_optimizers(model, recipe)
    schedules = [LambdaLR(o, lambda step: learning_rate_factor(recipe, step, total)) for o in optimizers]
    settings = {**asdict(recipe), "epochs": float(epochs), "tiles": len(train), "seed": seed,
                "processes": n, "checksum of some tiles": zlib.crc32(some.tobytes())}
    run = {"model": model, "optimizers": optimizers, "schedules": schedules, "generator": generator,
           "history": history, "settings": settings}
    bf16_on = device.type if recipe.bf16 and has_fast_bf16(device) else None
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed + rank())
        if resume and checkpoint and Path(checkpoint).exists():
            load_checkpoint(checkpoint, **run)
        here = torch.tensor(float(len(history)), device=device)
        if all_reduce_sum(here).item() != len(history) * world_size():
            raise ValueError(f"only some processes find {checkpoint}; use a disk that all machines see")
        parallel = model if world_size() == 1 else DistributedDataParallel(model)    # averages the gradients
        bar = Progress(total=total, initial=len(history) * steps, unit=" steps", disable=rank() > 0)
        try:
            while (done := len(history) * steps) < total:
                good = {name: value.clone() for name, value in model.state_dict().items()}
                started, losses, hits, here = perf_counter(), [], [], min(steps, total - done)
                bar.set_description_str(f"epoch {len(history) + 1}/{math.ceil(total / steps)}", refresh=False)
                feed = batch_losses(parallel, train, recipe, generator, (done, total), hits)
                model.train()
                for layer in model.modules():            # what is frozen keeps its averages, too
                    if isinstance(layer, torch.nn.BatchNorm2d) and not layer.weight.requires_grad:
                        layer.eval()
                optimize(feed.__next__, optimizers, schedules, here, bf16_on, bar, losses)
                if not all(p.isfinite().all() for p in model.parameters()):
                    raise FloatingPointError(f"the last step made weights that are not finite. {ADVICE}")
                accuracy = all_reduce_sum(torch.stack(hits).sum(dim=0)).tolist()     # right ones, of how many
                seconds = perf_counter() - started
                tested = [] if test is None or rank() else [evaluate(model, test).accuracy]
                new = {"loss": [sum(losses) / len(losses)], "train_accuracy": [accuracy[0] / accuracy[1]],
                       "test_accuracy": tested, "seconds": [seconds], "step_loss": losses}
                # In one call: Ctrl-C, which may come between any two, leaves no epoch half recorded.
                vars(history).update({name: getattr(history, name) + values for name, values in new.items()})
                if checkpoint and rank() == 0:
                    try:
                        save_checkpoint(checkpoint, **run)
                    except OSError as problem:           # a full disk must not cost the run
                        warnings.warn(f"{checkpoint} could not be written ({problem}); training goes on, "
                                      "with the last checkpoint that was", stacklevel=2)
        except KeyboardInterrupt:
            model.train()                                # it may have come at the end of an evaluation
            history.interrupted = True
            print(f"interrupted after {len(history)} of {epochs} epochs; model and history are usable")
        except FloatingPointError as problem:
            model.load_state_dict(good)
            problem.history = history
            raise
        finally:
            bar.close()
    return history


def check_fit(model, train, test, epochs, recipe):
    """The door: raise TypeError or ValueError for what cannot be learned from, before the run has begun."""
    check_tiles(train)
    if test is not None:
        check_tiles(test)
    if len(train.labels.unique()) < 2:
        raise ValueError("training needs tiles of at least two classes; these are all of one")
    if not 0 < epochs < math.inf:
        raise ValueError(f"epochs={epochs!r} must be a number above 0, such as 5 or 0.8")
    drops = recipe.keep_tokens < 1 and recipe.keep_until > 0
    if drops and "kept" not in inspect.signature(innermost(model).forward).parameters:
        raise ValueError(f"{type(model).__name__} cannot leave patches out, as this recipe asks; use "
                         "recipe=dataclasses.replace(recipe, keep_tokens=1.0)")


def innermost(model):
    """The model inside torch.compile, DataParallel and DistributedDataParallel."""
    while hasattr(model, "_orig_mod") or hasattr(model, "module"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def batch_losses(model, train, recipe, generator, progress, hits):
    """Yield the loss of each batch of an epoch; `hits` gets (right, images). progress: (steps done, all)."""
    done, total = progress
    batch_size = max(1, recipe.batch_size // world_size())
    feed = batches(train, batch_size, shuffle=True, augment=recipe.augment, generator=generator)
    for step, (images, labels) in enumerate(feed, done):
        own = 1.0                                        # the share of each picture that is its own
        if recipe.cutmix and step / total < 0.9 and torch.rand((), generator=generator) < recipe.cutmix:
            images, own = cutmix(images, generator)
        kept = {}
        if recipe.keep_tokens < 1 and step / total < recipe.keep_until:
            N = math.prod(innermost(model).grid)
            kept["kept"] = random_patches(len(images), N, recipe.keep_tokens).to(images.device)
        images = images.contiguous(memory_format=torch.channels_last)        # faster convolutions, lesson 17
        logits = model(images, **kept).float()           # (B, K)
        check_classes(logits, train)
        loss = own * F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if own < 1:                                      # the rest of each picture is its partner's
            other = F.cross_entropy(logits, labels.flip(0), label_smoothing=recipe.label_smoothing)
            loss += (1 - own) * other
        right = (logits.argmax(dim=1) == labels).sum()
        hits.append(torch.stack([right, torch.full_like(right, len(labels))]))
        yield loss
