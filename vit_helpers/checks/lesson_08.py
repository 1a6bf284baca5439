"""Exercises of lesson 08: another schedule, the loss by hand, a loop to repair, batches in small pieces."""

from math import cos, pi

import torch
import torch.nn.functional as F
from torch import nn

from .base import difference, exercise


def factor(step, steps, warmup, first=1, end=1.0):
    if step < warmup:
        return (step + first) / warmup
    return (1 + cos(end * pi * (step - warmup) / (steps - warmup))) / 2


@exercise(
    cases=lambda: [(0, 10, 2), (1, 10, 2), (2, 10, 2), (6, 10, 2), (9, 10, 2),
                   (0, 7, 0), (5, 7, 3), (19, 100, 20), (99, 100, 20)],
    mistakes={
        "the warm-up starts at 0, so the first step moves nothing; count from 1, with (step + 1) / warmup.":
            lambda step, steps, warmup: factor(step, steps, warmup, first=0),
        "the cosine runs over the whole training; it starts where the warm-up ends, and has steps - "
        "warmup steps.":
            lambda step, steps, warmup:
                factor(step, steps, warmup) if step < warmup else factor(step, steps, 0),
        "this is the bare cosine, which falls to -1; add 1 and halve it, so that it goes from 1 to 0.":
            lambda step, steps, warmup:
                2 * factor(step, steps, warmup) - 1 if step >= warmup else (step + 1) / warmup,
        "the cosine runs only as far as pi / 2, where the factor is still a half; at pi it is 0.":
            lambda step, steps, warmup: factor(step, steps, warmup, end=0.5),
        "it goes down and up again, one whole wave of 2 pi; half a wave, pi, is enough.":
            lambda step, steps, warmup: factor(step, steps, warmup, end=2.0),
    })
def cosine_factor(step, steps, warmup):
    return factor(step, steps, warmup)


def targets(labels, K, smoothing):
    return (1 - smoothing) * F.one_hot(labels, K) + smoothing / K


@exercise(
    cases=lambda: [(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0]), 0.1),
                   (3 * torch.randn(5, 4), torch.tensor([3, 0, 1, 1, 2]), 0.2),
                   (torch.tensor([[200.0, 0.0, -200.0], [1.0, 2.0, 3.0]]), torch.tensor([2, 1]), 0.0)],
    mistakes={
        "the smoothing is spread over the other classes only; here the true class gets its share of it too.":
            lambda logits, labels, s:
                smooth_cross_entropy.reference(logits, labels, s * logits.shape[1] / (logits.shape[1] - 1)),
        "the mean is taken over the classes too; sum over the classes, then take the mean over the images.":
            lambda logits, labels, s: -(logits.log_softmax(1) * targets(labels, logits.shape[1], s)).mean(),
        "the losses of the images are added up; take their mean, or the loss depends on the batch size.":
            lambda logits, labels, s: -(logits.log_softmax(1) * targets(labels, logits.shape[1], s)).sum(),
        "softmax and logarithm are two steps: a small probability becomes 0 in float32, and its logarithm "
        "infinite. Use `log_softmax`, which does both at once.":
            lambda logits, labels, s:
                -(logits.softmax(1).log() * targets(labels, logits.shape[1], s)).sum(1).mean(),
        "the minus sign is missing; logarithms of probabilities are negative, the loss is not.":
            lambda logits, labels, s:
                (logits.log_softmax(1) * targets(labels, logits.shape[1], s)).sum(1).mean(),
    })
def smooth_cross_entropy(logits, labels, smoothing):
    return -(logits.log_softmax(dim=1) * targets(labels, logits.shape[1], smoothing)).sum(dim=1).mean()


class LouderInTraining(nn.Module):
    """Does something else in training than in use, as dropout does, but without chance."""

    def forward(self, x):
        return 2 * x if self.training else x


def model_and_optimizer(images):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), LouderInTraining(), nn.Linear(images[0].numel(), 3))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def loop(model, images, labels, optimizer, steps, mode=True, clear="before", probabilities=False):
    losses = []
    model.train(mode)
    for _ in range(steps):
        logits = model(images)
        loss = F.cross_entropy(logits.softmax(1) if probabilities else logits, labels)
        if clear == "before":
            optimizer.zero_grad()
        loss.backward()
        if clear == "between":
            optimizer.zero_grad()
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses_of(answer, images, labels, steps):
    """What the loop returns for a small model that comes in eval mode, as after a look at the test tiles."""
    model, optimizer = model_and_optimizer(images)
    return answer(model.eval(), images, labels, optimizer, steps)


def some_images(B, *shape):
    return torch.randn(B, *shape), torch.arange(B) % 3


@exercise(
    use=losses_of,
    cases=lambda: [(*some_images(2, 1, 2, 2), 3), (*some_images(7, 3, 2, 4), 5)],
    mistakes={
        "softmax is still applied before `F.cross_entropy`, which does its own.":
            lambda *case: loop(*case, probabilities=True),
        "the gradients are still not cleared, so each step follows the sum of all gradients so far.":
            lambda *case: loop(*case, clear="never"),
        "the model is still in eval mode, with dropout off: where does it switch to training?":
            lambda *case: loop(*case, mode=False),
        "the loss does not change: is there no `optimizer.step()`, or are the gradients cleared "
        "just before it?":
            lambda *case: loop(*case, clear="between"),
        "all three faults are still there.":
            lambda *case: loop(*case, mode=False, clear="never", probabilities=True),
        "two of the three faults are still there: the mode of the model, and what happens to the "
        "old gradients.":
            lambda *case: loop(*case, mode=False, clear="never"),
        "two of the three faults are still there: the mode of the model, and what goes into "
        "`F.cross_entropy`.":
            lambda *case: loop(*case, mode=False, probabilities=True),
        "two of the three faults are still there: the old gradients, and what goes into `F.cross_entropy`.":
            lambda *case: loop(*case, clear="never", probabilities=True),
    })
def train_steps(model, images, labels, optimizer, steps):
    return loop(model, images, labels, optimizer, steps)


def by_images(piece, batch, pieces):
    return piece / batch


def pieces_loop(model, images, labels, optimizer, batch_size, at_once, share=by_images, clear=True,
                clear_each=False, step_each=False, one_backward=False):
    losses = []
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        if clear:
            optimizer.zero_grad()
        parts, total = list(zip(x.split(at_once), y.split(at_once), strict=True)), 0.0
        for piece, truth in parts:
            if clear_each:
                optimizer.zero_grad()
            loss = F.cross_entropy(model(piece), truth) * share(len(piece), len(x), len(parts))
            total += loss
            if not one_backward:
                loss.backward()
                total = total.detach()
            if step_each:
                optimizer.step()
        if one_backward:
            total.backward()
        if not step_each:
            optimizer.step()
        losses.append(total.item())
    return losses


def losses_weights_and_pieces(answer, images, labels, batch_size, at_once):
    """(What it returned, the weights then, most images in one call, most images awaiting `backward`)."""
    model, optimizer = model_and_optimizer(images)
    waiting, seen, held = [], [0], [0]

    def note(module, inputs, logits):
        seen.append(len(logits))
        if logits.requires_grad:
            waiting.append(len(logits))
            held.append(sum(waiting))
            logits.register_hook(lambda gradient: waiting.clear())

    model.register_forward_hook(note)
    losses = answer(model, images, labels, optimizer, batch_size, at_once)
    if losses is None:
        return None
    return losses, torch.cat([p.detach().flatten() for p in model.parameters()]), max(seen), max(held)


def as_if_at_once(result, images, labels, batch_size, at_once):
    losses, weights, largest, held = result
    wanted = losses_weights_and_pieces(pieces_loop, images, labels, batch_size, at_once)
    if largest > at_once:
        return f"{largest} images went through the model at once; only at_once={at_once} fit into memory."
    if held > at_once:
        return f"{held} images were in memory at once, waiting for `backward`; only at_once={at_once} fit."
    problem = difference(losses, wanted[0], 1e-5)
    if problem is None and not torch.allclose(weights, wanted[1], atol=1e-5):
        return "The losses are right, but the weights afterward are not those of steps with whole batches."
    return problem


@exercise(
    use=losses_weights_and_pieces,
    judge=as_if_at_once,
    cases=lambda: [(*some_images(4, 1, 2, 2), 4, 3), (*some_images(10, 3, 2, 4), 4, 3),
                   (*some_images(5, 1, 2, 2), 2, 8)],
    mistakes={
        "the mean losses of the pieces are added up as they are; each must count by its share of the images "
        "of the batch.":
            lambda *case: pieces_loop(*case, share=lambda piece, batch, pieces: 1),
        "each piece is divided by the number of pieces; a smaller last piece must count less, by its share "
        "of the images.":
            lambda *case: pieces_loop(*case, share=lambda piece, batch, pieces: 1 / pieces),
        "the loss is divided by `batch_size`; the last batch may have fewer images, so count those that it "
        "has.":
            lambda *case: pieces_loop(*case, share=lambda piece, batch, pieces: piece / case[-2]),
        "the gradients of earlier batches are never cleared; do it once for each batch, before its "
        "first piece.":
            lambda *case: pieces_loop(*case, clear=False),
        "the gradients are cleared before each piece, so only the last one counts; clear them once "
        "for each batch.":
            lambda *case: pieces_loop(*case, clear_each=True),
        "there is a step after each piece; a batch is one step, after its last piece.":
            lambda *case: pieces_loop(*case, step_each=True),
        "each batch goes through the model whole; cut it into pieces of at most `at_once` images.":
            lambda *case: pieces_loop(*case[:-1], at_once=case[-2]),
        "the losses of the pieces wait for one `backward` at the end, and everything they were computed "
        "from stays in memory until then; call it for each piece.":
            lambda *case: pieces_loop(*case, one_backward=True),
    })
def train_in_pieces(model, images, labels, optimizer, batch_size, at_once):
    return pieces_loop(model, images, labels, optimizer, batch_size, at_once)
