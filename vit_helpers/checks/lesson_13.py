"""Exercises of lesson 13: tokens to pixels, the best answer by patch, mean IoU, sliding over a scene."""

import torch
import torch.nn.functional as F
from torch import nn

from ..evaluation import confusion_counts
from ..heads import intersection_over_union
from ..patches import patchify, unpatchify
from .base import exercise


def laid_out(logits, grid):
    return logits.transpose(1, 2).unflatten(2, grid)     # (B, N, K) -> (B, K, N) -> (B, K, rows, columns)


def stretched(logits, grid, patch_size, lay_out=laid_out, **how):
    size = (grid[0] * patch_size, grid[1] * patch_size)
    return F.interpolate(lay_out(logits, grid), size, **(how or {"mode": "bilinear"}))


@exercise(
    cases=lambda: [(torch.tensor([[[0.0, 10.0], [4.0, 20.0]]]), (1, 2), 2),
                   (torch.randn(2, 6, 3), (2, 3), 4), (torch.randn(1, 6, 2), (3, 2), 2)],
    mistakes={
        "the reshape still goes straight from (B, N, K) to (B, K, rows, columns), so a class gets numbers "
        "of other classes. Bring the classes to the front first, with transpose(1, 2).":
            lambda logits, grid, P: stretched(logits, grid, P, lambda x, g: x.reshape(len(x), -1, *g)),
        "the tokens are laid out column by column; they run row by row, as patchify cuts them.":
            lambda logits, grid, P:
                stretched(logits, grid, P, lambda x, g: laid_out(x, g[::-1]).transpose(2, 3)),
        "each token fills its patch with one number (mode='nearest'); blend between the centers instead: "
        "mode='bilinear'.":
            lambda logits, grid, P: stretched(logits, grid, P, mode="nearest"),
        "align_corners=True pulls the centers of the outer patches to the edge of the image; leave it out.":
            lambda logits, grid, P: stretched(logits, grid, P, mode="bilinear", align_corners=True),
    })
def to_pixels(logits, grid, patch_size):
    return stretched(logits, grid, patch_size)


def by_patch(masks, patch_size, choose):
    """Each patch of masks (B, H, W) filled with one number: choose(patches (B, N, P * P)) -> (B, N, 1)."""
    patches = patchify(masks[:, None], patch_size)
    grid = (masks.shape[1] // patch_size, masks.shape[2] // patch_size)
    return unpatchify(choose(patches).expand_as(patches), patch_size, grid)[:, 0]


def most_frequent(patches):
    return patches.mode(dim=-1, keepdim=True).values


def some_masks():
    """Masks (2, 6, 9); each patch of 3 x 3 has four pixels of one class, three and two of others: no ties."""
    counts = torch.tensor([0] * 4 + [1] * 3 + [2] * 2)
    patches = [torch.tensor([0, 9, 2]).roll(int(torch.randint(3, ())))[counts[torch.randperm(9)]]
               for _ in range(12)]
    return unpatchify(torch.stack(patches).unflatten(0, (2, 6)), 3, (2, 3))[:, 0]


@exercise(
    cases=lambda: [(torch.tensor([[[0, 0, 1, 2], [1, 0, 2, 2]]]), 2), (some_masks(), 3)],
    mistakes={
        "this takes the mean of class numbers, but class 2 is no mixture of classes 1 and 3; take the most "
        "frequent one.":
            lambda masks, P: by_patch(masks, P, lambda p: p.float().mean(-1, keepdim=True).round().long()),
        "this takes the first pixel of each patch; take the class of most of its pixels.":
            lambda masks, P: by_patch(masks, P, lambda p: p[..., :1]),
        "this takes the largest class number of each patch; class numbers are names, not sizes.":
            lambda masks, P: by_patch(masks, P, lambda p: p.amax(-1, keepdim=True)),
        "the result has one number for each patch; fill all of its pixels, so that it can be "
        "compared with the mask.":
            lambda masks, P: by_patch(masks, P, most_frequent)[:, ::P, ::P],
        "this takes the median, the middle one when the numbers are sorted; that is not always the most "
        "frequent one.":
            lambda masks, P: by_patch(masks, P, lambda p: p.median(-1, keepdim=True).values),
        "reshape cuts the mask into runs of pixels along its rows, not into squares; use patchify, and "
        "unpatchify to come back.":
            lambda masks, P: most_frequent(masks.reshape(-1, P * P)).expand(-1, P * P).reshape(masks.shape),
    })
def best_by_patch(masks, patch_size):
    return by_patch(masks, patch_size, most_frequent)


def shares(truth, said, num_classes, ignore):
    known = truth != ignore
    return intersection_over_union(confusion_counts(truth[known], said[known], num_classes))


def with_unknown_pixels():
    truth, said = torch.randint(4, (3, 6, 8)), torch.randint(4, (3, 6, 8))       # class 4 of 5 nowhere
    truth[0], said[0, 2:] = 1, 1
    truth[torch.rand(truth.shape) < 0.2] = 255
    return truth, said, 5, 255


@exercise(
    cases=lambda: [(torch.tensor([[0, 0, 0, 1, 1, 9]]), torch.tensor([[0, 0, 1, 1, 1, 0]]), 3, 9),
                   with_unknown_pixels(),
                   # Class 2 is only said, 3 only where the truth is unknown.
                   (torch.tensor([[0, 0, 1, 9]]), torch.tensor([[0, 2, 1, 3]]), 4, 9),
                   # Class 1 is true but never said where the truth is known; another number for unknown.
                   (torch.tensor([[0, 0, 1, 1, 9]]), torch.tensor([[0, 0, 0, 0, 1]]), 2, 9),
                   (torch.tensor([[0, 0, 1, 1, -100]]), torch.tensor([[0, 0, 1, 0, 1]]), 2, -100)],
    mistakes={
        "pixels whose truth is unknown count as errors; leave them out of both the truth "
        "and the prediction.":
            lambda truth, said, K, ignore: torch.stack(
                [((truth == c) & (said == c)).sum() / ((truth == c) | (said == c)).sum()
                 for c in range(K)]).nanmean().item(),
        "a class that occurs nowhere counts as 0; it says nothing about the model, so leave it out "
        "of the mean.":
            lambda *case: shares(*case).nan_to_num().mean().item(),
        "a class that occurs nowhere is 0 / 0, and one nan makes the mean nan; use .nanmean().":
            lambda *case: shares(*case).mean().item(),
        "only the predicted classes are averaged; a class that is true and never predicted has an IoU of 0.":
            lambda truth, said, K, ignore: shares(truth, said, K, ignore)[
                said[truth != ignore].unique()].mean().item(),
        "this is the mean of each scene's own mean; count the pixels of all scenes together, or a class "
        "with three pixels in one scene weighs as much as one that fills it.":
            lambda truth, said, *rest: torch.stack([shares(t, s, *rest).nanmean()
                                                    for t, s in zip(truth, said, strict=True)]).mean().item(),
        "the pixels in both are counted twice in the denominator: divide by true + predicted - both.":
            lambda *case: (shares(*case) / (1 + shares(*case))).nanmean().item(),
        "this is pixel accuracy; take the IoU of each class, then the mean.":
            lambda truth, said, K, ignore: (truth == said)[truth != ignore].float().mean().item(),
        "only the true classes are averaged; a class that is predicted and nowhere true has an IoU of 0.":
            lambda truth, said, K, ignore: shares(truth, said, K, ignore)[
                truth[truth != ignore].unique()].mean().item(),
        "classes with an IoU of 0 are left out too; 0 is the worst score and counts, only 0 / 0 does not.":
            lambda *case: shares(*case)[shares(*case) > 0].mean().item(),
        "a class that occurs nowhere counts as 1, as when a small number is added above and below; leave it "
        "out of the mean.":
            lambda *case: shares(*case).nan_to_num(1).mean().item(),
    })
def mean_iou(truth, predicted, num_classes, ignore):
    return shares(truth, predicted, num_classes, ignore).nanmean().item()


class ChannelMeans(nn.Module):
    """A stand-in for a trained classifier: the logits of a window are the means of its channels."""

    def forward(self, windows):
        return windows.mean(dim=(2, 3))


class OneMore(ChannelMeans):
    """The same, with one class more than channels."""

    def forward(self, windows):
        means = super().forward(windows)
        return torch.cat([means, means.sum(dim=1, keepdim=True)], dim=1)


def starts(whole, size, stride):
    return [*range(0, whole - size, stride), whole - size]


def slid(model, scene, size, stride, starts=starts, say=lambda logits: logits.softmax(dim=-1),
         finish=lambda total, seen: total / seen, overwrite=False):
    total, seen = 0, torch.zeros(scene.shape[1:])
    for top in starts(scene.shape[1], size, stride):
        for left in starts(scene.shape[2], size, stride):
            place = ..., slice(top, top + size), slice(left, left + size)
            said = say(model(scene[place][None])[0])             # (K,)
            total = torch.zeros(len(said), *scene.shape[1:]) if seen.sum() == 0 else total
            total[place] = said[:, None, None] + (0 if overwrite else total[place])
            seen[place] = 1 if overwrite else seen[place] + 1
    return finish(total, seen)


@exercise(
    cases=lambda: [(ChannelMeans(), torch.tensor([[[0.0, 0.0, 0.0, 2.0, 2.0]] * 2, [[1.0] * 5] * 2]), 2, 2),
                   (ChannelMeans(), torch.randn(3, 9, 12).mul(4), 4, 3),
                   (ChannelMeans(), torch.randn(2, 6, 8).mul(4), 4, 2),
                   (OneMore(), torch.randn(2, 8, 4), 4, 4)],
    mistakes={
        "the pixels at the right or lower border are never seen when the steps do not end there: add a last "
        "window that ends at the border.":
            lambda *case: slid(*case, starts=lambda whole, size, stride: range(0, whole - size + 1, stride)),
        "the last window is added even where the steps end at the border already, so it counts twice.":
            lambda *case: slid(*case, starts=lambda whole, size, stride: [
                *range(0, whole - size + 1, stride), whole - size]),
        "softmax runs over the batch of one, so every probability is 1; take it over the classes, dim=1.":
            lambda *case: slid(*case, say=torch.ones_like),
        "logits are averaged, and softmax comes last; average probabilities, or one very sure window "
        "outvotes all others.":
            lambda *case: slid(*case, say=lambda logits: logits,
                               finish=lambda total, seen: (total / seen).softmax(dim=0)),
        "the probabilities are summed but not divided by the number of windows that saw the pixel.":
            lambda *case: slid(*case, finish=lambda total, seen: total),
        "each window writes over the ones before it; add up what they say (+=) and divide by how "
        "many there were.":
            lambda *case: slid(*case, overwrite=True),
        "these are means of logits; take softmax over the classes of what the model gives, then the mean.":
            lambda *case: slid(*case, say=lambda logits: logits),
        "the last windows are cut off at the border; the model is made for size x size pixels, so begin the "
        "last one at whole - size.":
            lambda *case: slid(*case, starts=lambda whole, size, stride: range(0, whole, stride)),
    })
def slide(model, scene, size, stride):
    return slid(model, scene, size, stride)
