"""Exercises of lesson 19: a loss with weights, Wilson's interval, int8 by rows, folds by place."""

from collections import Counter

import torch

from .base import difference, exercise


def loss(logits, labels, weights, divide=lambda say: say.sum(), sign=-1, of=torch.log_softmax,
         say=lambda logits, labels, weights: weights[labels]):
    by_picture = sign * of(logits, 1)[torch.arange(len(labels)), labels]
    each = say(logits, labels, weights)
    return (each * by_picture).sum() / divide(each)


def loss_by(**how):
    return lambda *case: loss(*case, **how)


def no_gradient(result, *case):
    silent = None if result.requires_grad else "The number is right, but the result has no gradient."
    return difference(result, loss(*case), 1e-5) or silent


@exercise(
    judge=no_gradient,
    cases=lambda: [(torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log().requires_grad_(), torch.tensor([0, 1]),
                    torch.tensor([1.0, 3.0])),
                   (torch.tensor([[0.0, -200.0]], requires_grad=True), torch.tensor([1]),
                    torch.tensor([1.0, 2.0])),
                   (torch.randn(8, 3, requires_grad=True), torch.tensor([0, 0, 1, 2, 0, 0, 1, 0]),
                    torch.tensor([0.5, 1.2, 4.0])),
                   (torch.randn(6, 4, requires_grad=True), torch.tensor([3, 3, 3, 0, 0, 0]),
                    torch.tensor([2.0, 9.0, 9.0, 0.3]))],
    mistakes={
        "this divides by the number of pictures; a weighted mean divides by the sum of their weights.":
            loss_by(divide=len),
        "this is the sum; divide by the sum of the pictures' weights.": loss_by(divide=lambda say: 1),
        "this divides by the sum of the classes' weights; sum the weights of the pictures in the batch.":
            lambda logits, labels, weights: loss(logits, labels, weights, divide=lambda say: weights.sum()),
        "the weights are left out, so each picture counts the same.":
            loss_by(say=lambda logits, labels, weights: torch.ones(len(labels))),
        "a picture has the weight of the class that the model says; it should be that of its true class.":
            loss_by(say=lambda logits, labels, weights: weights[logits.argmax(dim=1)]),
        "the sign is wrong: log-probabilities are negative, the loss is not.": loss_by(sign=1),
        "the logarithm is missing; the loss is -log(p), and log_softmax gives log(p).":
            loss_by(of=torch.softmax),
        "log after softmax: a probability that rounds to 0 gives an infinite loss; log_softmax does not.":
            loss_by(of=lambda logits, dim: logits.softmax(dim).log()),
        "nothing could learn from it; stay with tensors, without .item(), float() or torch.tensor(...).":
            lambda *case: loss(*case).detach(),
    })
def weighted_loss(logits, labels, weights):
    return loss(logits, labels, weights)


def ends(right, n, z=1.96, middle=True, below=True, extra=True, root=True, clip=False):
    p, more = right / n, z**2 / n
    inside = p * (1 - p) / n + (more / (4 * n) if extra else 0)
    down = 1 + more if below else 1
    center = (p + more / 2) / down if middle else p
    distance = z * (inside**0.5 if root is True else inside / 2 if root == "half" else inside) / (
        1 if below == "middle" else down)
    low, high = center - distance, center + distance
    return (max(0.0, low), min(1.0, high)) if clip else (low, high)


@exercise(
    cases=lambda: [(4, 4), (1, 2), (9, 10), (0, 7), (930, 1000), (9, 10, 1.0)],
    mistakes={
        "this is p plus and minus z standard errors, which has no width where all are right.":
            lambda right, n, z=1.96: ends(right, n, z, middle=False, below=False, extra=False),
        "this is lesson 09's, cut off at 0 and 1; it still has no width where all are right.":
            lambda right, n, z=1.96: ends(right, n, z, middle=False, below=False, extra=False, clip=True),
        "the middle is p; Wilson's is pulled toward one half.":
            lambda right, n, z=1.96: ends(right, n, z, middle=False),
        "the division by 1 + z²/n is missing.": lambda right, n, z=1.96: ends(right, n, z, below=False),
        "z²/(4n²) is missing under the root.": lambda right, n, z=1.96: ends(right, n, z, extra=False),
        "only the middle is divided by 1 + z²/n; the distance is, too.":
            lambda right, n, z=1.96: ends(right, n, z, below="middle"),
        "the square root is missing.": lambda right, n, z=1.96: ends(right, n, z, root=False),
        "`** 1/2` halves, as powers go before divisions; write ** 0.5.":
            lambda right, n, z=1.96: ends(right, n, z, root="half"),
        "z is fixed at 1.96; use the one that was given.": lambda right, n, z=1.96: ends(right, n),
    })
def wilson(right, n, z=1.96):
    return ends(right, n, z)


def quantized(weight, dim=1, top=127, rounded=torch.round,
              size=lambda weight, **how: weight.abs().amax(**how)):
    scale = size(weight, dim=dim, keepdim=True) / top
    return rounded(weight / scale).to(torch.int8), scale


@exercise(
    cases=lambda: [(torch.tensor([[1.27, -0.5], [0.004, 0.0127]]),), (torch.randn(5, 8) * torch.rand(5, 1),),
                   (torch.tensor([[-2.0, 0.7, 0.3], [0.3, 0.2, -0.1], [-0.5, -3.0, 2.4]]),)],
    mistakes={
        "there is one scale for the whole matrix; each row should have its own.":
            lambda weight: quantized(weight, dim=(0, 1)),
        "the whole matrix shares one scale; take the largest absolute value of each row.":
            lambda weight: (quantized(weight, dim=(0, 1))[0],
                            quantized(weight, dim=(0, 1))[1].expand(len(weight), 1)),
        "these are the largest values; a scale is the largest divided by 127.":
            lambda weight: (quantized(weight)[0], 127 * quantized(weight)[1]),
        "each column has a scale; the weights of one output are a row: dim=1.":
            lambda weight: quantized(weight, dim=0),
        "the scale comes from the largest number; a negative one may be larger in size: take .abs() first.":
            lambda weight: quantized(weight, size=lambda weight, **how: weight.amax(**how)),
        "the largest becomes 128, which int8 does not have: it wraps around to -128. Divide by 127.":
            lambda weight: quantized(weight, top=128),
        "decimals are cut off instead of rounded: .round() before .to(torch.int8).":
            lambda weight: quantized(weight, rounded=torch.trunc),
        "the scales are upside down: the matrix is int8 times scale, so scale = largest / 127.":
            lambda weight: (quantized(weight)[0], 1 / quantized(weight)[1]),
        "the scales have lost an axis; keepdim=True makes them (R, 1), so that the product is by row.":
            lambda weight: (quantized(weight)[0], quantized(weight)[1][:, 0]),
    })
def quantize_rows(weight):
    return quantized(weight)


def dealt(places, folds, order=lambda count: sorted(count, key=lambda place: (-count[place], place)),
          weigh=lambda count, place: count[place], last=False):
    count, size, fold_of = Counter(places), [0] * folds, {}
    for place in order(count):
        smallest = [fold for fold in range(folds) if size[fold] == min(size)]
        fold_of[place] = smallest[-1 if last else 0]
        size[fold_of[place]] += weigh(count, place)
    return torch.tensor([fold_of[place] for place in places])


@exercise(
    cases=lambda: [(list("babcba"), 2), (list("aabbbcccddddde"), 3), (list("ddcbaabbbbbbbee"), 3),
                   (["pond"] * 4 + ["hill"] * 4 + ["lake", "moor", "moor", "bog"], 2)],
    mistakes={
        "pictures are dealt out one by one, so a place has pictures in several folds.":
            lambda places, folds: torch.arange(len(places)) % folds,
        "places are dealt out in turn, or the sizes of the folds count places; a fold's size is its number "
        "of pictures.":
            lambda places, folds: dealt(places, folds, weigh=lambda count, place: 1),
        "everything goes to one fold: add the pictures of a place to the size of its fold.":
            lambda places, folds: dealt(places, folds, weigh=lambda count, place: 0),
        "reverse=True turns the alphabet around as well; use -count in the key.":
            lambda places, folds: dealt(places, folds, order=lambda count: sorted(
                count, key=lambda place: (count[place], place), reverse=True)),
        "places go in the order of the alphabet; begin with the one that has the most pictures.":
            lambda places, folds: dealt(places, folds, order=sorted),
        "places go in the order in which they come; begin with the one that has the most pictures.":
            lambda places, folds: dealt(places, folds, order=list),
        "the places with the fewest pictures go first; begin with the one that has the most.":
            lambda places, folds: dealt(places, folds, order=lambda count: sorted(
                count, key=lambda place: (count[place], place))),
        "of places with equally many pictures, the first in the alphabet should go first.":
            lambda places, folds: dealt(places, folds, order=lambda count: sorted(
                count, key=lambda place: count[place], reverse=True)),
        "of equally small folds the last is taken; take the one with the lowest number.":
            lambda places, folds: dealt(places, folds, last=True),
    })
def folds_by_place(places, folds):
    return dealt(places, folds)
