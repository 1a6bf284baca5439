"""Exercises of lesson 22: captions in a mirror, recall at k, SigLIP's loss."""

import torch
import torch.nn.functional as F

from .base import exercise

OTHER = {"left": "right", "right": "left"}


def changed(caption, table):
    return " ".join(table.get(word, word) for word in caption.split())


@exercise(
    cases=lambda: [("a river left of a forest",), ("a lake on the left and houses on the right",),
                   ("a bright lake right of a town",), ("a road above a lake",)],
    mistakes={
        "the second replacement undoes the first: once every left is right, all of them become left. Go word "
        "by word, and look each one up.":
            lambda caption: caption.replace("left", "right").replace("right", "left"),
        "left becomes right, but right must also become left.":
            lambda caption: changed(caption, {"left": "right"}),
        "it also changes parts of words, such as the end of bright; compare whole words.":
            lambda caption: caption.replace("left", "-").replace("right", "left").replace("-", "right"),
        "a flip from left to right leaves above and below as they are.":
            lambda caption: changed(caption, {**OTHER, "above": "below", "below": "above"}),
        "the words themselves are in reverse order; only left and right change.":
            lambda caption: " ".join(reversed(changed(caption, OTHER).split())),
    })
def mirrored(caption):
    return changed(caption, OTHER)


def recall(similarity, k, one_more=False):
    better = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
    return (better < k + one_more).float().mean()


@exercise(
    cases=lambda: [(torch.tensor([[0.8, 0.2, 0.1], [0.3, 0.5, 0.6], [0.0, 0.1, 0.9]]), 1),
                   (torch.tensor([[0.8, 0.2, 0.1], [0.3, 0.5, 0.6], [0.0, 0.1, 0.9]]), 2),
                   (torch.randn(20, 20) + torch.eye(20), 3)],
    mistakes={
        "the columns are sorted, not the rows: each row is a query, its columns are what it may find.":
            lambda similarity, k: recall(similarity.T, k),
        "it is one too generous: the right one is among the first k if fewer than k are more similar.":
            lambda similarity, k: recall(similarity, k, one_more=True),
        "only the very first counts, whatever k is.": lambda similarity, k: recall(similarity, 1),
        "the least similar come first; reverse the sort.":
            lambda similarity, k: recall(-similarity, k),
        "this is how many rows; divide by the number of all rows.":
            lambda similarity, k: recall(similarity, k) * len(similarity),
        "this is a share in percent; give it from 0 to 1.":
            lambda similarity, k: recall(similarity, k) * 100,
    })
def recall_at(similarity, k):
    return recall(similarity, k)


def siglip(similarity, scale, bias, signs=True, unsafe=False, pairs=False):
    n = len(similarity)
    logits = (scale * similarity + bias) * (2 * torch.eye(n) - 1 if signs else 1)
    return -(logits.sigmoid().log() if unsafe else F.logsigmoid(logits)).sum() / (n * n if pairs else n)


def softmax_loss(similarity, scale, bias):
    logits, right = scale * similarity + bias, torch.arange(len(similarity))
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


@exercise(
    cases=lambda: [(torch.eye(2), 1.0, 0.0), (torch.rand(4, 4) * 2 - 1, 10.0, -10.0),
                   (-torch.eye(3), 100.0, -10.0)],
    mistakes={
        "pairs off the diagonal should be refused: their logits get a minus.":
            lambda *case: siglip(*case, signs=False),
        "sigmoid, then the logarithm: that is infinite where sigmoid is 0. Use F.logsigmoid.":
            lambda *case: siglip(*case, unsafe=True),
        "it is the mean over all n x n pairs; divide the sum by n.": lambda *case: siglip(*case, pairs=True),
        "the bias is missing; it is added to each of the logits.":
            lambda similarity, scale, bias: siglip(similarity, scale, 0.0),
        "the scale is missing; each similarity is multiplied by it.":
            lambda similarity, scale, bias: siglip(similarity, 1.0, bias),
        "the bias is added before the scale; it is scale * similarity + bias.":
            lambda similarity, scale, bias: siglip(similarity + bias, scale, 0.0),
        "this is CLIP's loss, in which a row's captions share one softmax; here each pair is a question of "
        "its own.":
            softmax_loss,
    })
def sigmoid_loss(similarity, scale, bias):
    return siglip(similarity, scale, bias)
