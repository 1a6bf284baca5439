"""Exercises of lesson 10: evidence between two classes, choice by place, rollout repaired, contrast."""

import torch
from torch import nn

from ..model import VisionTransformer
from .base import exercise


@exercise(
    cases=lambda: [(torch.tensor([[[3.0, 1.0], [0.0, 2.0]]]), 0, 1), (torch.randn(3, 6, 5), 1, 4)],
    mistakes={
        "the numbers of a tile average to the difference of the logits, but they should add up to it: "
        "divide by the number of patches.": lambda evidence, a, b: evidence[:, :, a] - evidence[:, :, b],
        "the two classes are swapped: what favors the first should be positive.":
            lambda evidence, a, b: (evidence[:, :, b] - evidence[:, :, a]) / evidence.shape[1],
        "the second class is missing; a patch that favors both equally decides nothing between them.":
            lambda evidence, a, b: evidence[:, :, a] / evidence.shape[1],
        "this divides by the number of classes; the mean behind the logits runs over the patches.":
            lambda evidence, a, b: (evidence[:, :, a] - evidence[:, :, b]) / evidence.shape[2],
        "softmax has no place here: only raw logits add up exactly.":
            lambda evidence, a, b:
                (evidence.softmax(2)[:, :, a] - evidence.softmax(2)[:, :, b]) / evidence.shape[1],
    })
def evidence_between(evidence, first, second):
    return (evidence[:, :, first] - evidence[:, :, second]) / evidence.shape[1]


def choice(maps):
    """The squared distance of maps (..., N, N) from uniform attention: (...)."""
    return (maps - 1 / maps.shape[-1]).square().sum(dim=(-2, -1))


def some_maps():
    by_hand = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])[:, None, None]
    place, content = torch.randn(1, 2, 3, 5, 5), torch.randn(4, 2, 3, 5, 5)
    return [(by_hand,), ((place + content).softmax(dim=-1),), ((2 * content).softmax(dim=-1),)]


@exercise(
    cases=some_maps,
    mistakes={
        "the uniform share 1/N is not subtracted, so a head that attends to all patches alike would count "
        "as choosing by place.":
            lambda maps: maps.mean(0).square().sum((-2, -1)) / maps.square().sum((-2, -1)).mean(0),
        "this is the share of what changes from tile to tile; the share by place is 1 minus it.":
            lambda maps: 1 - choice(maps.mean(dim=0)) / choice(maps).mean(dim=0),
        "the choice of the single maps is added up over the tiles; take its mean, or more tiles would make "
        "the share smaller.":
            lambda maps: choice(maps.mean(dim=0)) / choice(maps).sum(dim=0),
        "this is the root of the right fraction; distances are squared here, so take no root at the end.":
            lambda maps: (choice(maps.mean(dim=0)) / choice(maps).mean(dim=0)).sqrt(),
        "the fraction is taken for each tile, then averaged, so a tile with hardly any choice outweighs "
        "all others. Average the single maps' numbers first, then divide.":
            lambda maps: (choice(maps.mean(dim=0)) / choice(maps)).mean(dim=0),
    })
def share_by_place(maps):
    return choice(maps.mean(dim=0)) / choice(maps).mean(dim=0)


def strongest(weights, keep):
    """The `keep` largest weights of each row (..., N), the others zero."""
    values, places = weights.topk(keep, dim=-1)
    return torch.zeros_like(weights).scatter(-1, places, values)


def rollout(maps, keep, by_row=True, later_left=True, residual=True, each_head=False, identity_first=False,
            divide=None):
    eye, flow = torch.eye(maps.shape[-1]), None
    for weights in maps:                                         # (H, N, N)
        kept = strongest(weights, keep).mean(dim=0) if each_head else strongest(
            weights.mean(dim=0) + eye * identity_first, keep)
        A = kept + eye * (residual and not identity_first)
        A = divide(A) if divide else A / (A.sum(dim=-1, keepdim=True) if by_row else A.sum(dim=-1))
        flow = A if flow is None else A @ flow if later_left else flow @ A
    return flow


@exercise(
    cases=lambda: [(torch.tensor([[[[0.1, 0.7, 0.2], [0.3, 0.1, 0.6], [0.5, 0.3, 0.2]]],     # no ties
                                  [[[0.6, 0.3, 0.1], [0.15, 0.25, 0.6], [0.15, 0.8, 0.05]]]]), 2),
                   (torch.randn(3, 4, 6, 6).mul(2).softmax(dim=-1), 3)],
    mistakes={
        "both mistakes are still there: look at what it divides by, and at the order of the product.":
            lambda maps, keep: rollout(maps, keep, by_row=False, later_left=False),
        "the rows are divided by other rows' sums: without keepdim=True the sums line up with the columns, "
        "and no row sums to one.":
            lambda maps, keep: rollout(maps, keep, by_row=False),
        "the layers are multiplied in the wrong order: a later layer goes on the left, because it draws on "
        "what the earlier ones have mixed.": lambda maps, keep: rollout(maps, keep, later_left=False),
        "columns are divided by their sums; the sum of a row runs along dim=-1.":
            lambda maps, keep: rollout(maps, keep, divide=lambda A: A / A.sum(dim=0, keepdim=True)),
        "half and half is not enough, since dropped weights leave rows below 1: divide each row by its sum.":
            lambda maps, keep: rollout(maps, keep, divide=lambda A: A / 2),
        "only the result is divided by its sums; do it to each layer's matrix before multiplying.":
            lambda maps, keep: by_its_sums(rollout(maps, keep, divide=lambda A: A)),
        "the weak weights are dropped in each head separately; average the heads first, then drop.":
            lambda maps, keep: rollout(maps, keep, each_head=True),
        "the residual is gone: add the identity after dropping the weak weights.":
            lambda maps, keep: rollout(maps, keep, residual=False),
        "the identity is added before the weak weights are dropped, so it may push one of the others out; "
        "drop first.":
            lambda maps, keep: rollout(maps, keep, identity_first=True),
    })
def sparse_rollout(maps, keep):
    return rollout(maps, keep)


def by_its_sums(A):
    return A / A.sum(dim=-1, keepdim=True)


def minus_others(logits, own):
    return own - (logits.sum(1) - own) / (logits.shape[1] - 1)


def relevance(model, images, targets, contrast=minus_others, backwards=False, left=True,
              helps=lambda weights, gradient: (gradient * weights).clamp(min=0).mean(dim=1)):
    """R (B, N, N) of gradient rollout, with room for the mistakes."""
    x, maps = model.embed(images), []
    for block in model.blocks:
        mixed, weights = block.attn(block.norm1(x), return_weights=True)     # (B, N, D), (B, H, N, N)
        x = x + mixed
        x = x + block.mlp(block.norm2(x))
        maps.append(weights)
    logits = model.forward_head(model.norm(x))
    own = logits.gather(1, targets[:, None])[:, 0]               # (B,)
    gradients = torch.autograd.grad(contrast(logits, own).sum(), maps)
    R = torch.eye(x.shape[1]).expand(len(images), -1, -1)
    for weights, gradient in zip(maps, reversed(gradients) if backwards else gradients, strict=True):
        share = helps(weights, gradient)
        R = R + (share @ R if left else R @ share)
    return R.detach()


def small_model(img_size, depth, num_heads, num_classes, pool):
    model = VisionTransformer(img_size, 4, num_classes=num_classes, embed_dim=24, depth=depth,
                              num_heads=num_heads, mlp_dim=24, dropout=0.0, pool=pool).eval()
    for parameter in model.parameters():                 # an untrained head is zero, and so are its gradients
        nn.init.normal_(parameter, std=0.5)
    return model


@exercise(
    cases=lambda: [(small_model((4, 8), 2, 2, 2, "mean"), torch.randn(1, 3, 4, 8), torch.tensor([1])),
                   (small_model((8, 12), 3, 3, 4, "cls"), torch.randn(2, 3, 8, 12), torch.tensor([3, 0]))],
    mistakes={
        "this is plain gradient rollout, of one logit; subtract the mean of the other classes' logits "
        "before the gradient.":
            lambda *case: relevance(*case, contrast=lambda logits, own: own),
        "the mean is taken over all logits, the class itself included; divide the sum of "
        "the others by K - 1.":
            lambda *case: relevance(*case, contrast=lambda logits, own: own - logits.mean(dim=1)),
        "the logits of the other classes are summed; subtract their mean, (sum - own) / (K - 1).":
            lambda *case: relevance(*case, contrast=lambda logits, own: 2 * own - logits.sum(dim=1)),
        "this asks about the predicted class; ask about `targets`.":
            lambda model, images, targets: relevance(model, images, model(images).argmax(dim=1)),
        "all images are asked about the class of the first.":
            lambda model, images, targets: relevance(model, images, targets[:1].expand(len(images))),
        "what hinders is not set to 0: max(0, gradient · weight).":
            lambda *case: relevance(*case, helps=lambda weights, gradient: (gradient * weights).mean(dim=1)),
        "the heads are summed; take their mean.":
            lambda *case: relevance(
                *case, helps=lambda weights, gradient: (gradient * weights).clamp(min=0).sum(dim=1)),
        "the identity is gone; R starts with it and keeps it, only pictures leave it out.":
            lambda *case: relevance(*case) - torch.eye(relevance(*case).shape[1]),
        "the weights of one layer meet the gradient of another; keep both lists in the order of the layers.":
            lambda *case: relevance(*case, backwards=True),
        "the mean over the heads comes before max(0, ...): heads that hinder cancel heads that help. First "
        "clamp, then average.":
            lambda *case: relevance(
                *case, helps=lambda weights, gradient: (gradient * weights).mean(dim=1).clamp(min=0)),
        "the order of the product is wrong: a later layer's share goes on the left of R.":
            lambda *case: relevance(*case, left=False),
    })
def contrast_rollout(model, images, targets):
    return relevance(model, images, targets)
