"""Exercises of lesson 09: balanced accuracy, two models on the same tiles, the surest, calibration."""

import torch

from .base import exercise


@exercise(
    cases=lambda: [(torch.tensor([[2, 1, 0], [0, 2, 0], [0, 1, 0]]),), (torch.tensor([[90, 0], [8, 2]]),),
                   (torch.randint(1, 20, (5, 5)),)],
    mistakes={
        "this is plain accuracy: all right answers over all tiles. Take the recall of each class first, "
        "then their mean.":
            lambda confusion: (confusion.trace() / confusion.sum()).item(),
        "the columns are summed, which gives precisions; the row holds all tiles of the true class.":
            lambda confusion: (confusion.diagonal() / confusion.sum(0).clamp(min=1)).mean().item(),
        "the recalls are added up; take their mean over the classes.":
            lambda confusion: (confusion.diagonal() / confusion.sum(1)).sum().item(),
        "each row is divided by the number of all tiles; divide it by its own sum.":
            lambda confusion: (confusion.diagonal() / confusion.sum()).mean().item(),
    })
def balanced_accuracy(confusion):
    return (confusion.diagonal() / confusion.sum(dim=1)).mean().item()


def errors(right):
    """Squared standard error of a share of right answers, as for a sample of its own."""
    p = right.float().mean()
    return p * (1 - p) / len(right)


@exercise(
    cases=lambda: [(torch.tensor([True, True, True, False]), torch.tensor([True, False, True, False])),
                   (torch.rand(50) < 0.6, torch.rand(50) < 0.8),
                   (torch.arange(30) < 27, torch.arange(30) < 24)],
    mistakes={
        "the two error bars are combined as if each model had been tested on tiles of its own; take the "
        "differences first, tile by tile.":
            lambda a, b:
                ((a.float().mean() - b.float().mean()).item(), (errors(a) + errors(b)).sqrt().item()),
        "this is the spread of single tiles; divide it by the root of their number for the error of the "
        "mean.":
            lambda a, b:
                ((a.float() - b.float()).mean().item(), (a.float() - b.float()).std(correction=0).item()),
        "the sign is reversed: positive should mean that the first model is better.":
            lambda a, b: ((b.float() - a.float()).mean().item(),
                          ((b.float() - a.float()).std(correction=0) / len(a) ** 0.5).item()),
        "`std` divides by n - 1 unless told otherwise; as in section 9.3, divide by n (`correction=0`).":
            lambda a, b:
                ((a.float() - b.float()).mean().item(),
                 ((a.float() - b.float()).std() / len(a) ** 0.5).item()),
        "the root is missing: this is the squared standard error.":
            lambda a, b:
                ((a.float() - b.float()).mean().item(),
                 ((a.float() - b.float()).var(correction=0) / len(a)).item()),
    })
def paired_difference(right_a, right_b):
    by_tile = right_a.float() - right_b.float()
    return by_tile.mean().item(), (by_tile.std(correction=0) / len(by_tile) ** 0.5).item()


def surest(probabilities, labels, share, sureness=None, largest=True, of_all=False):
    sureness = probabilities.amax(dim=1) if sureness is None else sureness
    kept = sureness.topk(round(share * len(labels)), largest=largest).indices
    right = (probabilities[kept].argmax(dim=1) == labels[kept]).float()
    return (right.sum() / (len(labels) if of_all else len(right))).item()


@exercise(
    cases=lambda: [(torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2], [0.55, 0.45]]),
                    torch.tensor([1, 1, 0, 0]), 0.5),
                   ((2 * torch.randn(40, 5)).softmax(dim=1), torch.arange(40) % 5, 0.4),
                   ((3 * torch.eye(3).repeat(10, 1) + 2 * torch.randn(30, 3)).softmax(dim=1),
                    torch.arange(30) % 3, 0.2)],
    mistakes={
        "the least sure answers are kept; keep those with the largest probabilities.":
            lambda p, labels, share: surest(p, labels, share, largest=False),
        "the right answers are divided by the number of all tiles; divide by the number of those "
        "that were kept.":
            lambda p, labels, share: surest(p, labels, share, of_all=True),
        "the probability of the true class decides what is kept, but in use nobody knows the true class; "
        "take the largest probability of each row.":
            lambda p, labels, share: surest(p, labels, share, p[torch.arange(len(labels)), labels]),
        "nothing is left out: this is the accuracy on all tiles.":
            lambda p, labels, share: surest(p, labels, 1),
        "the first tiles are kept as they come; sort them by their largest probability.":
            lambda p, labels, share: surest(p, labels, share, -torch.arange(len(labels))),
    })
def accuracy_of_surest(probabilities, labels, share):
    return surest(probabilities, labels, share)


def by_bins(probabilities, labels, bins, confidence=None, weighted=True, signed=False, drop_certain=False):
    """The calibration error with room for the mistakes."""
    predictions = probabilities.argmax(dim=1)
    confidence = probabilities.amax(dim=1) if confidence is None else confidence
    right = (predictions == labels).float()
    bin_of = (confidence * bins).long() if drop_certain else (confidence * bins).long().clamp(max=bins - 1)
    total, filled = 0.0, 0
    for b in range(bins):
        inside = bin_of == b
        if inside.any():
            gap = (right[inside].mean() - confidence[inside].mean()).item()
            total += (gap if signed else abs(gap)) * (inside.float().mean().item() if weighted else 1)
            filled += 1
    return total if weighted else total / filled


def tile_by_tile(p, labels, bins):
    return ((p.argmax(dim=1) == labels).float() - p.amax(dim=1)).abs().mean().item()


@exercise(
    cases=lambda: [(torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35], [0.65, 0.35]]),
                    torch.tensor([0, 0, 0, 1]), 10),
                   ((2 * torch.randn(60, 4)).softmax(dim=1), torch.arange(60) % 4, 7),
                   (torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.25, 0.0, 0.75]]),
                    torch.tensor([0, 2, 2]), 10)],
    mistakes={
        "all bins count the same; weight each by the share of the images that are in it.":
            lambda *case: by_bins(*case, weighted=False),
        "signed distances cancel out; take the absolute value in each bin before you add them up.":
            lambda *case: by_bins(*case, signed=True),
        "each image is compared with its own confidence, without bins; a single answer is right or wrong, "
        "never 90% right.":
            tile_by_tile,
        "the confidence is that of the true class; it should be the largest probability, whatever "
        "the truth is.":
            lambda p, labels, bins: by_bins(p, labels, bins, p[torch.arange(len(labels)), labels]),
        "images with a confidence of exactly 1 fall out of the last bin; count them there.":
            lambda *case: by_bins(*case, drop_certain=True),
    })
def calibration_error(probabilities, labels, bins):
    return by_bins(probabilities, labels, bins)
