"""Exercises of lesson 21: targets and their center, leave-one-out neighbors, balanced targets."""

import torch
import torch.nn.functional as F

from .base import exercise


def targeted(outputs, center, temperature, dim=1, centered=True, renewed=False, raw=True, share=0.1,
             times=False, of=lambda outputs: outputs.mean(dim=0)):
    new = (1 - share) * center + share * of(outputs if raw else outputs - center)
    moved = outputs - (new if renewed else center if centered else 0)
    return (moved * temperature if times else moved / temperature).softmax(dim=dim), new


@exercise(
    cases=lambda: [(torch.tensor([[0.3, 0.1], [0.1, 0.1]]), torch.tensor([0.1, 0.1]), 0.1),
                   (torch.rand(5, 7), torch.rand(7), 0.04)],
    mistakes={
        "the center moves before it is subtracted, so each batch is centered with itself; use the old one "
        "for the targets.":
            lambda *case: targeted(*case, renewed=True),
        "the center follows the centered outputs; it must follow the raw ones, or it stops halfway.":
            lambda *case: targeted(*case, raw=False),
        "the center moves 0.9 of the way; the old center keeps 0.9, the new mean gets 0.1.":
            lambda *case: targeted(*case, share=0.9),
        "nothing is subtracted from the outputs.": lambda *case: targeted(*case, centered=False),
        "the outputs are multiplied by the temperature; dividing by a small one sharpens.":
            lambda *case: targeted(*case, times=True),
        "the temperature is missing; divide the centered outputs by it.":
            lambda outputs, center, temperature: targeted(outputs, center, 1.0),
        "the center follows one mean of all numbers; each output has its own: dim=0.":
            lambda *case: targeted(*case, of=torch.mean),
        "the center follows the targets; it must follow the raw outputs.":
            lambda outputs, center, temperature: targeted(
                outputs, center, temperature,
                of=lambda outputs: ((outputs - center) / temperature).softmax(dim=1).mean(dim=0)),
        "softmax runs over the images; the shares of one image, a row, must sum to 1.":
            lambda *case: targeted(*case, dim=0),
    })
def targets_and_center(outputs, center, temperature):
    return targeted(outputs, center, temperature)


def voted(features, labels, k, temperature, num_classes, own="none", normed=True, weight="exp", largest=True,
          numbers=False):
    unit = F.normalize(features, dim=1) if normed else features
    products = unit @ unit.T                                                                     # (N, N)
    if own == "none":
        products = products + torch.diag(torch.full((len(unit),), -torch.inf if largest else torch.inf))
    if own == "zero":
        products = products.fill_diagonal_(0)
    near = products.topk(k + (own == "first"), dim=1, largest=largest)
    values, indices = (part[:, int(own in ("takes a place", "first")):] for part in near)     # (N, k)
    if numbers:
        return indices[:, 0]
    weights = {"exp": (values / temperature).exp(), "plain": values.exp(),
               "times": (values * temperature).exp(), "cosine": values,
               "one": torch.ones_like(values)}[weight]
    votes = features.new_zeros(len(features), num_classes).scatter_add(1, labels[indices], weights)
    return votes.argmax(dim=1)


@exercise(
    cases=lambda: [(torch.tensor([[5.0, 0.0], [4.0, 3.0], [3.0, 4.0], [3.0, -4.0]]),
                    torch.tensor([0, 0, 1, 1]), 3, 0.1, 2),
                   (torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.arange(3), 1, 0.1, 3),  # a copy
                   (torch.randn(200, 4), torch.randint(5, (200,)), 6, 0.1, 5),
                   (torch.randn(60, 4), torch.randint(5, (60,)), 30, 0.5, 5)],
    mistakes={
        "each tile votes for its own label, the nearest of all; only the others may vote.":
            lambda *case: voted(*case, own="votes"),
        "the tile itself takes one of the k places; take it out before you choose the k nearest.":
            lambda *case: voted(*case, own="takes a place"),
        "the first of the k + 1 nearest is left out, but of two equal tiles that may be the other one; take "
        "out the diagonal.":
            lambda *case: voted(*case, own="first"),
        "0 on the diagonal is nearer than a negative cosine, so a tile can still vote for itself; use -2.":
            lambda *case: voted(*case, own="zero"),
        "the temperature is missing; let a vote weigh exp(cosine / temperature).":
            lambda *case: voted(*case, weight="plain"),
        "a vote weighs its cosine; let it weigh exp(cosine / temperature).":
            lambda *case: voted(*case, weight="cosine"),
        "each neighbor has one whole vote; let it weigh exp(cosine / temperature).":
            lambda *case: voted(*case, weight="one"),
        "the cosines are multiplied by the temperature; divide by it, so that a small one favors near tiles.":
            lambda *case: voted(*case, weight="times"),
        "the vectors are not normalized, so long ones count as near; divide each by its length.":
            lambda *case: voted(*case, normed=False),
        "the farthest tiles vote; the nearest have the largest cosine.":
            lambda *case: voted(*case, largest=False),
        "these are the numbers of the nearest tiles; look up their labels.":
            lambda *case: voted(*case, numbers=True),
    })
def leave_one_out(features, labels, k, temperature, num_classes):
    return voted(features, labels, k, temperature, num_classes)


def balanced(outputs, temperature, rounds, order=(0, 1), safe=True, times=False, begin=None):
    scores = outputs * temperature if times else outputs / temperature
    shares = begin(scores) if begin else (scores - scores.max() if safe else scores).exp()       # (B, K)
    for _ in range(rounds):
        for dim in order:
            shares = shares / shares.sum(dim=dim, keepdim=True)
    return shares


@exercise(
    cases=lambda: [(torch.tensor([[0.2, 0.0], [0.2, 0.1]]), 0.1, 1), (torch.rand(6, 4), 0.1, 3),
                   (5 + torch.rand(3, 5), 0.05, 2)],
    mistakes={
        "the rows come first in each round; end with them, so that each image's shares sum to 1.":
            lambda *case: balanced(*case, order=(1, 0)),
        "only the rows are divided, which is softmax; divide each column by its sum first.":
            lambda *case: balanced(*case, order=(1,)),
        "only the columns are divided; after them, each row must sum to 1.":
            lambda *case: balanced(*case, order=(0,)),
        "each row's own largest number is subtracted, which divides the rows before the columns; subtract "
        "one number, the largest of all.":
            lambda *case: balanced(*case, begin=lambda s: (s - s.amax(dim=1, keepdim=True)).exp()),
        "softmax comes first, which divides the rows before the columns; start from exp.":
            lambda *case: balanced(*case, begin=lambda s: s.softmax(dim=1)),
        "this is one round (columns divided again and again stay as they are until the rows are divided); "
        "repeat both divisions `rounds` times.":
            lambda outputs, temperature, rounds: balanced(outputs, temperature, 1),
        "the outputs are multiplied by the temperature; divide by it.":
            lambda *case: balanced(*case, times=True),
        "exp of large numbers is infinite in float32; subtract the largest number of all first, which "
        "changes no share.":
            lambda *case: balanced(*case, safe=False),
    })
def balanced_targets(outputs, temperature, rounds):
    return balanced(outputs, temperature, rounds)
