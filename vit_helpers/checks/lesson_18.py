"""Exercises of lesson 18: the tiles of one process, an MLP in parts, what each worker sends."""

import torch
import torch.nn.functional as F
from torch import nn

from .base import exercise


def drawn(n, epoch, rank, workers, seed=lambda epoch, rank: epoch,
          end=lambda n, workers: n // workers * workers,
          share=lambda order, rank, workers: order[rank::workers]):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed(epoch, rank)))
    return share(order[:end(n, workers)], rank, workers)


@exercise(
    cases=lambda: [(7, 0, 0, 2), (7, 0, 1, 2), (20, 3, 2, 3), (5, 1, 0, 1), (9, 2, 1, 4)],
    mistakes={
        "each process shuffles in an order of its own, so some tiles go to several processes and some to "
        "none; the order must be the same for all.":
            lambda *case: drawn(*case, seed=lambda epoch, rank: epoch + rank),
        "the order is the same in every epoch; seed the generator with the number of the epoch.":
            lambda *case: drawn(*case, seed=lambda epoch, rank: 0),
        "some processes get one tile more than others, and may have to take a step more, in which they wait "
        "forever for the others' gradients; leave the rest out.":
            lambda *case: drawn(*case, end=lambda n, workers: n),
        "this is the whole order; each process takes every workers-th of it, beginning with its rank.":
            lambda *case: drawn(*case, share=lambda order, rank, workers: order),
        "the order is cut into blocks, which is just as good in practice; here process r takes the positions "
        "r, r + workers, and so on.":
            lambda *case: drawn(*case, share=lambda order, rank, workers: order.chunk(workers)[rank]),
        "all processes take the same part of the order: start at `rank`, not at 0.":
            lambda *case: drawn(*case, share=lambda order, rank, workers: order[::workers]),
        "the tiles are not shuffled; take every workers-th of a random order, torch.randperm.":
            lambda n, epoch, rank, workers: torch.arange(n // workers * workers)[rank::workers],
    })
def tiles_of(n, epoch, rank, workers):
    return drawn(n, epoch, rank, workers)


def part(x, w1, b1, w2, b2, rank, workers, bias=lambda b2, rank, workers: b2 * (rank == 0),
         hidden=lambda M, rank, workers: slice(rank * M // workers, (rank + 1) * M // workers),
         first=lambda b1, mine: b1[mine], bend=F.gelu):
    mine = hidden(len(w1), rank, workers)
    return bend(F.linear(x, w1[mine], first(b1, mine))) @ w2[:, mine].T + bias(b2, rank, workers)


def small_mlp(B, D, M, rank, workers):
    return (torch.randn(B, D), torch.randn(M, D), torch.randn(M), torch.randn(D, M), torch.randn(D), rank,
            workers)


@exercise(
    cases=lambda: [small_mlp(1, 2, 4, 0, 2), small_mlp(1, 2, 4, 1, 2), small_mlp(3, 4, 6, 2, 3),
                   small_mlp(2, 3, 8, 0, 1), small_mlp(2, 2, 8, 1, 4)],
    mistakes={
        "every worker adds the second bias, so the sum has it several times; only worker 0 adds it.":
            lambda *case: part(*case, bias=lambda b2, rank, workers: b2),
        "no worker adds the second bias; worker 0 does.":
            lambda *case: part(*case, bias=lambda b2, rank, workers: 0),
        "each worker adds its share of the second bias, which gives the same sum; here worker 0 adds all "
        "of it.":
            lambda *case: part(*case, bias=lambda b2, rank, workers: b2 / workers),
        "the first bias is left out; each worker adds its own part of b1, before GELU.":
            lambda *case: part(*case, first=lambda b1, mine: None),
        "GELU is missing between the two matrices.": lambda *case: part(*case, bend=lambda hidden: hidden),
        "this is ReLU; the blocks of the course have GELU.": lambda *case: part(*case, bend=F.relu),
        "this is the whole result; each worker computes with its own hidden numbers only.":
            lambda x, w1, b1, w2, b2, rank, workers: part(x, w1, b1, w2, b2, 0, 1),
        "the hidden numbers are dealt out one by one, which gives the same sum; here each worker takes a "
        "block of neighbors.":
            lambda *case: part(*case, hidden=lambda M, rank, workers: slice(rank, None, workers)),
        "all workers take the first part of the hidden numbers; worker r takes part r.":
            lambda *case: part(*case, hidden=lambda M, rank, workers: slice(0, M // workers)),
    })
def mlp_part(x, w1, b1, w2, b2, rank, workers):
    return part(x, w1, b1, w2, b2, rank, workers)


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
        "Clear them for each worker.":
            lambda *case: sent(*case, clear=False),
    })
def gradients_to_send(model, images, labels, workers):
    return sent(model, images, labels, workers)
