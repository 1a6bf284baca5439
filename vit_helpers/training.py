"""Training: the loop `fit` for classifiers with its History, and the loop `learn` for everything else."""

import inspect
import math
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F

from . import arguments
from .checkpoints import load_checkpoint, save_checkpoint
from .data import batches, cutmix
from .distributed import data_parallel, of_all, processes, rank, share_of, summed
from .evaluation import check_classes, evaluate
from .model import draw_patches
from .recipes import GOOD, check_recipe, make_optimizers, make_schedules
from .runtime import Progress, has_fast_bf16, pick_device


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
    Under torchrun (see distributed.joined) each process learns from its share of each batch, with the numbers that one process
    would get; but for dropout, which draws in each of them.
    Raises ValueError for data or settings that cannot work, and FloatingPointError when the loss is not finite: then
    the model is back at its last good epoch, and the history so far is in the error's `history`.
    """
    arguments.device_of(model)
    arguments.tiles(train=train, **({} if test is None else {"test": test}))
    arguments.whole(0, 2**63 - 1, seed=seed)
    check_recipe(recipe)
    seed = int(seed)
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
    schedules = make_schedules(optimizers, recipe, total)
    generator, history = torch.Generator().manual_seed(seed), History()
    # One process draws the patches that it keeps as it goes; several have to draw the same ones, whatever else each draws.
    keeper = torch.Generator().manual_seed(seed) if processes() > 1 else None
    run = dict(model=model, optimizers=optimizers, schedules=schedules, generator=generator, history=history, keeper=keeper,
               settings={**asdict(recipe), "epochs": epochs, "tiles": len(train), "seed": seed})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if resume and checkpoint and Path(checkpoint).exists():
            load_checkpoint(checkpoint, **run)
        if len(set(of_all(len(history)))) > 1:
            raise ValueError(f"{checkpoint} is there for some processes only (epochs by rank: {of_all(len(history))}); put it "
                             "on a disk that all machines see")
        if rank():                                   # else all of them would drop the same numbers
            torch.manual_seed(seed + 1_000_003 * rank() + len(history))
        parallel = data_parallel(model)
        bar = Progress(total=total, initial=min(total, len(history) * steps), unit=" steps", disable=rank() > 0)
        try:
            while len(history) * steps < total:
                kept = {name: value.clone() for name, value in model.state_dict().items()}
                losses, accuracy, seconds = _one_epoch(
                    parallel, model, train, recipe, optimizers, schedules, generator, keeper, history, bar, total)
                tested = [] if test is None else [evaluate(model, test).accuracy]
                new = {"loss": [sum(losses) / len(losses)], "train_accuracy": [accuracy], "test_accuracy": tested,
                       "seconds": [seconds], "step_loss": losses}
                # In one call: Ctrl-C, which may come between any two, leaves no epoch half recorded.
                vars(history).update({name: getattr(history, name) + values for name, values in new.items()})
                if checkpoint and rank() == 0:
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
    if history.interrupted and rank() == 0:
        print(f"interrupted after {len(history)} of {epochs} epochs; the model and the history so far are usable")
    return history


def _one_epoch(parallel, model, train, recipe, optimizers, schedules, generator, keeper, history, bar, total):
    model.train()
    started, losses, hits, seen, window = perf_counter(), [], 0, 0, []
    steps, device = math.ceil(len(train) / recipe.batch_size), train.labels.device
    done, epochs = len(history) * steps, math.ceil(total / steps)
    steps = min(steps, total - done)                 # fewer in a last, partial epoch
    sizes = [min(recipe.batch_size, len(train) - i * recipe.batch_size) for i in range(steps)]       # over all processes
    feed = batches(train, recipe.batch_size, shuffle=True, augment=recipe.augment, generator=generator,
                   share=share_of if processes() > 1 else None)
    for size, (images, labels) in zip(sizes, feed, strict=False):
        progress, own = (done + len(losses) + len(window)) / total, 1.0
        if recipe.cutmix and progress < 0.9 and torch.rand((), generator=generator) < recipe.cutmix:
            images, own = cutmix(images, generator)
        # For each step anew: autocast keeps its bf16 copies of the weights until it is left.
        with torch.autocast(device.type, torch.bfloat16, recipe.bf16 and has_fast_bf16(device)):
            fewer = {"keep_tokens": recipe.keep_tokens} if recipe.keep_tokens < 1 and progress < recipe.keep_until else {}
            if fewer and keeper:
                fewer = {"keep_tokens": draw_patches(size, math.prod(model.grid), recipe.keep_tokens, keeper)[share_of(size)]}
            logits = parallel(images, **fewer).float()                               # (B, 10)
        check_classes(logits, train)
        loss = own * F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if own < 1:                                  # the rest of each picture is its partner's
            loss += (1 - own) * F.cross_entropy(logits, labels.flip(0), label_smoothing=recipe.label_smoothing)
        # The gradients of all processes are averaged: this makes their mean that of the whole batch, if shares differ in size.
        loss = loss * (processes() * len(labels) / size) if len(labels) else logits.sum()
        _step(loss, optimizers, schedules)
        window.append(torch.stack([loss.detach().float() / processes(), (logits.argmax(dim=1) == labels).sum()]))
        # Reading a number from a GPU makes it wait, so numbers are read ten at a time.
        if len(window) == 10 or len(losses) + len(window) == steps:
            values = summed(torch.stack(window)).cpu()                               # (10, 2)
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


def learn(model, loss_of, *, steps, recipe=GOOD, seed=0, device=None):
    """Train any model in place for `steps` steps of `loss_of(model, generator) -> scalar loss`; returns the losses, a list.

    For the heads of lessons 13 to 16, whose batches are made on the fly: `loss_of` makes one, with the generator (a CPU
    torch.Generator, seeded with `seed`) for all its draws, on the device of the model. Optimizers, learning rates, schedule and
    precision are the recipe's; what it says about tiles (batches, augmentation, smoothing) is left to `loss_of`.
    Ctrl-C ends training early. Raises ValueError for settings that cannot work, FloatingPointError when the loss is not finite.
    """
    arguments.device_of(model)
    arguments.function(loss_of=loss_of)
    arguments.whole(0, 2**63 - 1, seed=seed)
    check_recipe(recipe)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 10**12:
        raise ValueError(f"steps={steps!r} must be a whole number of at least 1, such as 500")
    device = pick_device(device)
    model.to(device).train()
    optimizers = make_optimizers(model, recipe)
    schedules = make_schedules(optimizers, recipe, steps)
    generator, losses, window = torch.Generator().manual_seed(int(seed)), [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bar = Progress(total=steps, unit=" steps")
        try:
            for step in range(1, steps + 1):
                with torch.autocast(device.type, torch.bfloat16, recipe.bf16 and has_fast_bf16(device)):
                    loss = loss_of(model, generator)
                    if not torch.is_tensor(loss) or loss.ndim or not loss.requires_grad:
                        raise TypeError(f"loss_of must give a scalar that depends on the model, not {arguments.told(loss)}")
                _step(loss, optimizers, schedules)
                window.append(loss.detach().float())
                if len(window) == 10 or step == steps:           # see _one_epoch
                    losses += torch.stack(window).tolist()
                    window.clear()
                    if not math.isfinite(sum(losses[-10:])):
                        raise _diverged(f"the loss is not finite at step {step} of {steps}", "build the model anew")
                    bar.update(step - bar.n)
                    bar.set_postfix_str(f"loss {sum(losses[-50:]) / len(losses[-50:]):.3f}", refresh=False)
        except KeyboardInterrupt:
            print(f"interrupted after {len(losses)} of {steps} steps; the model so far is usable")
        finally:
            bar.close()
    return losses


def _step(loss, optimizers, schedules):
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        schedule.step()


def _diverged(what, now="the model is back at its last good epoch"):
    return FloatingPointError(f"{what}; training stopped, {now}. "
                              "Try a tenth of the learning rate, and look for broken values in the images")


def _show(bar, history, epochs, loss=None, accuracy=None):
    bar.set_description_str(f"epoch {min(len(history) + (loss is not None), epochs)}/{epochs}", refresh=False)
    loss = loss if loss is not None or not len(history) else history.loss[-1]
    accuracy = accuracy if accuracy is not None or not len(history) else history.train_accuracy[-1]
    parts = [] if loss is None else [f"loss {loss:.3f}", f"training {accuracy:.1%}"]
    parts += [f"test {history.test_accuracy[-1]:.1%}"] if history.test_accuracy else []
    bar.set_postfix_str(", ".join(parts), refresh=False)
