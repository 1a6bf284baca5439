"""Exercises of lesson 17: memory of attention weights, days on a GPU, checkpoints, what each worker sends."""

import torch
import torch.nn.functional as F
from torch import nn

from .base import exercise


def counted(height, width, patch_size, batch_size, num_heads, depth,
            tokens=lambda rows, columns: rows * columns, power=2):
    return 4 * batch_size * depth * num_heads * tokens(height // patch_size, width // patch_size) ** power


@exercise(
    cases=lambda: [(8, 8, 4, 1, 2, 1), (64, 96, 8, 16, 4, 3), (224, 224, 16, 2, 12, 12)],
    mistakes={
        "each token is compared with every token, so it is N squared, not N.":
            lambda *case: counted(*case, power=1),
        "each head has weights of its own; multiply by their number.":
            lambda h, w, p, b, heads, depth: counted(h, w, p, b, 1, depth),
        "these are the weights of one layer; each layer has its own.":
            lambda h, w, p, b, heads, depth: counted(h, w, p, b, heads, 1),
        "these are numbers, not bytes; a float32 number takes 4 bytes.": lambda *case: counted(*case) // 4,
        "a float32 number takes 32 bits, which is 4 bytes.": lambda *case: counted(*case) * 8,
        "these are the weights of one image; the batch has several.":
            lambda h, w, p, b, heads, depth: counted(h, w, p, 1, heads, depth),
        "N is the number of patches in one row; it is rows times columns.":
            lambda *case: counted(*case, tokens=lambda rows, columns: columns),
        "the grid is taken to be square; count its columns by the width.":
            lambda *case: counted(*case, tokens=lambda rows, columns: rows**2),
    })
def weights_bytes(height, width, patch_size, batch_size, num_heads, depth):
    return counted(height, width, patch_size, batch_size, num_heads, depth)


def days(multiply_adds, images, epochs, peak, share, checkpoints=False, operations=2, passes=(3, 4),
         seconds=86_400):
    return operations * multiply_adds * passes[checkpoints] * images * epochs / (peak * share) / seconds


@exercise(
    cases=lambda: [(1e9, 8.64e6, 1, 1e12, 0.6, False), (17.6e9, 14.2e6, 30, 989e12, 0.4, False),
                   (4.6e9, 1.28e6, 90, 123e12, 0.3, True)],
    mistakes={
        "a multiply-add is two operations, and the peak counts operations.":
            lambda *case: days(*case, operations=1),
        "only the forward pass is counted; the backward pass costs two more.":
            lambda *case: days(*case, passes=(1, 2)),
        "the backward pass costs as much as two forward passes, not as one: 3 in all.":
            lambda *case: days(*case, passes=(2, 3)),
        "checkpoints are left out; with them each layer runs forward once more: 4 passes instead of 3.":
            lambda *case: days(*case, passes=(3, 3)),
        "this multiplies by the share; a GPU that reaches less of its peak needs longer, so divide by it.":
            lambda m, images, epochs, peak, share, checkpoints:
                days(m, images, epochs, peak, 1 / share, checkpoints),
        "the share is forgotten; no training reaches the whole peak.":
            lambda m, images, epochs, peak, share, checkpoints: days(m, images, epochs, peak, 1, checkpoints),
        "these are seconds; a day has 86,400 of them.": lambda *case: days(*case, seconds=1),
        "these are hours; a day has 24 of them.": lambda *case: days(*case, seconds=3600),
        "this is one epoch; multiply by their number.":
            lambda m, images, epochs, peak, share, checkpoints: days(m, images, 1, peak, share, checkpoints),
    })
def gpu_days(multiply_adds, images, epochs, peak, share, checkpoints=False):
    return days(multiply_adds, images, epochs, peak, share, checkpoints)


def least(layers, inside, entering, segments=lambda layers, n: -(-layers // n), working=lambda layers, n: n,
          longer=False, lengths=lambda layers: range(1, layers + 1)):
    options = [(entering * segments(layers, n) + inside * working(layers, n), -n if longer else n)
               for n in lengths(layers)]
    memory, n = min(options)
    return abs(n), memory


@exercise(
    cases=lambda: [(4, 3, 1), (16, 1, 1), (10, 2, 7), (48, 12, 1), (7, 1, 3), (12, 1, 2), (5, 1, 2)],
    mistakes={
        "all segments are counted as full; only the one being worked on holds what is inside.":
            lambda *case: least(*case, working=lambda layers, n: layers),
        "the last segment may be shorter, but it still counts: round their number up.":
            lambda *case: least(*case, segments=lambda layers, n: layers // n),
        "what enters is taken as one unit; it is `entering` units for each segment.":
            lambda layers, inside, entering: least(layers, inside, 1),
        "only lengths that divide the number of layers are tried; the last segment may be shorter.":
            lambda *case:
                least(*case, lengths=lambda layers: [n for n in range(1, layers + 1) if layers % n == 0]),
        "where two lengths need the same, return the shorter one.": lambda *case: least(*case, longer=True),
        "memory and length are swapped; the length comes first.": lambda *case: least(*case)[::-1],
        "what enters is counted once for each layer; with segments it is kept once for each segment.":
            lambda *case: least(*case, segments=lambda layers, n: layers),
    })
def best_segment(layers, inside, entering):
    return least(layers, inside, entering)


def mirrored(position, batch_size):
    return torch.minimum(position, batch_size - 1 - position)


def sent(model, images, labels, workers, owner=lambda position, B, workers: mirrored(position, B) % workers,
         weight=lambda n, B, workers: n / B, clear=True):
    rows, total = [], 0
    for worker in range(workers):
        mine = owner(torch.arange(len(images)), len(images), workers) == worker
        loss = F.cross_entropy(model(images[mine]), labels[mine])
        loss = loss * weight(int(mine.sum()), len(images), workers)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        total = total + gradient
        rows.append(gradient if clear else total)
    return torch.stack(rows)


def small_batch(B):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    return model, torch.randn(B, 1, 2, 2), torch.arange(B) % 3


@exercise(
    cases=lambda: [(*small_batch(4), 2), (*small_batch(9), 2), (*small_batch(11), 3), (*small_batch(5), 1)],
    mistakes={
        "the gradients are those of each share's mean, so their sum is too large; each counts by its share "
        "of the images.":
            lambda *case: sent(*case, weight=lambda n, B, workers: 1),
        "each worker counts the same; shares differ in size, so a worker with n of the B images "
        "counts n / B.":
            lambda *case: sent(*case, weight=lambda n, B, workers: 1 / workers),
        "the losses of the images are added up, not averaged over the batch: divide by the number "
        "of all images.":
            lambda *case: sent(*case, weight=lambda n, B, workers: n),
        "position i goes to worker i modulo workers, which may separate i from its mirror image, and CutMix "
        "mixes the two.":
            lambda *case: sent(*case, owner=lambda position, B, workers: position % workers),
        "the batch is cut into blocks, first part, second part; position i goes to min(i, B - 1 - "
        "i) modulo workers.":
            lambda *case: sent(*case, owner=lambda position, B, workers: position * workers // B),
        "the mirror image of position i is B - 1 - i, not B - i, as positions start at 0.":
            lambda *case: sent(
                *case, owner=lambda position, B, workers: torch.minimum(position, B - position) % workers),
        "each row still holds the gradients of the workers before it: `backward` adds to what is there. "
        "Clear it for each worker.":
            lambda *case: sent(*case, clear=False),
    })
def gradients_to_send(model, images, labels, workers):
    return sent(model, images, labels, workers)
