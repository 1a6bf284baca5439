"""Exercises of lesson 01: back to bytes, statistics of channels, a fair split, one pass over the data."""

import inspect

import torch

from ..data import normalize
from .base import difference, exercise


@exercise(
    cases=lambda: [(torch.tensor([-1.0, -0.6, 1.0, 1.4]).reshape(1, 1, 2, 2),), (torch.randn(2, 3, 5, 7),)],
    mistakes={
        "the numbers are truncated instead of rounded: 50.99999 becomes 50. Call .round() before "
        "converting to bytes.":
            lambda images: ((images + 1) * 127.5).clamp(0, 255).to(torch.uint8),
        "numbers beyond 0 to 255 do not fit into a byte and wrap around to something else; use "
        ".clamp(0, 255) first.":
            lambda images: ((images + 1) * 127.5).round().int().to(torch.uint8),
        "everything below 0 is cut off before the numbers are shifted up; add 1 first, then "
        "multiply by 127.5.":
            lambda images: (images.clamp(0, 1) * 255).round().to(torch.uint8),
        "the numbers are still floats; an image is stored as bytes, .to(torch.uint8).":
            lambda images: ((images + 1) * 127.5).round().clamp(0, 255),
    })
def denormalize(images):
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def first_images():
    """Two images, two channels, two pixels: channel 0 is 0 0 and 255 255, channel 1 is 51 51 and 51 153."""
    return torch.tensor([[[[0, 0]], [[51, 51]]], [[[255, 255]], [[51, 153]]]], dtype=torch.uint8)


def some_images(*shape):
    """Made-up images, each with a brightness of its own."""
    return (torch.rand(shape) * 90 + torch.rand(shape[0], shape[1], 1, 1) * 160).to(torch.uint8)


@exercise(
    cases=lambda: [(first_images(),), (some_images(4, 3, 5, 7),)],
    mistakes={
        "this averages each image's standard deviation, which misses that some images are dark and others "
        "bright; take one over all pixels of all images.":
            lambda images: ((images / 255).mean((0, 2, 3)), (images / 255).std((2, 3)).mean(0)),
        "the numbers run from 0 to 255; divide by 255 first, as ToTensor does.":
            lambda images: (images.float().mean((0, 2, 3)), images.float().std((0, 2, 3))),
        "these are statistics of each image: the image axis is still there. Average over axis 0 too.":
            lambda images: ((images / 255).mean((2, 3)), (images / 255).std((2, 3))),
        "all channels are thrown together; name the axes to average over: images, rows and "
        "columns, 0, 2 and 3.":
            lambda images: ((images / 255).mean(), (images / 255).std()),
        "the squares are divided by the number of pixels, as NumPy does; PyTorch's std divides by one less.":
            lambda images: ((images / 255).mean((0, 2, 3)), (images / 255).std((0, 2, 3), correction=0)),
    })
def channel_statistics(images):
    images = images / 255
    return images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))


def drawn_by_class(labels, number):
    """Mask of number(members) tiles of each class, drawn at random."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique():
        members = (labels == c).nonzero().flatten()
        mask[members[torch.randperm(len(members))[:number(members)]]] = True
    return mask


def plain_split(labels, test_fraction):
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.randperm(len(labels))[:round(len(labels) * test_fraction)]] = True
    return mask


def first_ones(labels, test_fraction):
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique():
        members = (labels == c).nonzero().flatten()
        mask[members[:round(len(members) * test_fraction)]] = True
    return mask


def unfair(mask, labels, test_fraction):
    """What is wrong with a split, if anything."""
    nothing = torch.zeros(len(labels), dtype=torch.bool)
    problem = difference(mask, nothing, tolerance=1)             # shape and type only
    if problem:
        return problem
    for c in labels.unique():
        members, wanted = mask[labels == c], round((labels == c).sum().item() * test_fraction)
        if members.sum() != wanted:
            return (f"Of the {len(members)} tiles of class {c}, {members.sum()} go to the test; it should be "
                    f"{wanted}.")
        if wanted > 10 and (members[:wanted].all() or members[-wanted:].all()):
            return f"The test got {wanted} neighboring tiles of class {c}; draw them at random."
    return None


@exercise(
    judge=unfair,
    cases=lambda: [(torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1]), 0.4),
                   (torch.arange(3).repeat_interleave(torch.tensor([120, 60, 30]))[torch.randperm(210)], 0.2),
                   (torch.tensor([0] * 7 + [1] * 9), 0.3)],              # 2.1 and 2.7 tiles: 2 and 3
    mistakes={
        "the draw ignores the classes; loop over labels.unique() and draw from each class separately.":
            plain_split,
        "the first tiles of each class are taken, and neighbors in a file may show the same place; shuffle "
        "the members of the class with torch.randperm first.": first_ones,
        "the mask says which tiles are for training; True should mean test.":
            lambda labels, test_fraction:
                ~drawn_by_class(labels, lambda members: round(len(members) * test_fraction)),
        "a coin is tossed for each tile, so the shares come out right only on average; shuffle the members "
        "of each class and take an exact number.":
            lambda labels, test_fraction: torch.rand(len(labels)) < test_fraction,
        "every class gives the same number of tiles; it should be the same share of each.":
            lambda labels, test_fraction: drawn_by_class(
                labels, lambda members: round(len(labels) / len(labels.unique()) * test_fraction)),
    })
def stratified_mask(labels, test_fraction):
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique():
        members = (labels == c).nonzero().flatten()                      # where the tiles of this class are
        shuffled = members[torch.randperm(len(members))]
        mask[shuffled[:round(len(members) * test_fraction)]] = True
    return mask


def cut(images, labels, order, batch_size):
    return [(normalize(images[index]), labels[index]) for index in order.split(batch_size)]


def two_orders(images, labels, batch_size):
    first, second = torch.randperm(len(images)), torch.randperm(len(labels))
    return cut(images[first], labels[second], torch.arange(len(labels)), batch_size)


def not_centered(images, labels, batch_size):
    return [(images[index] / 255, labels[index]) for index in torch.randperm(len(labels)).split(batch_size)]


def as_list(answer, *case):
    """An answer may also `yield` its batches."""
    batches = answer(*case)
    return list(batches) if inspect.isgenerator(batches) else batches


def incomplete(batches, images, labels, batch_size):
    """What is wrong with the batches of one pass, if anything."""
    if not all(isinstance(b, (tuple, list)) and len(b) == 2 and all(map(torch.is_tensor, b))
               for b in batches):
        return "Each batch should be a pair of two tensors: (images, labels)."
    sizes = [len(x) for x, _ in batches]
    wanted = [len(index) for index in torch.arange(len(labels)).split(batch_size)]
    if sizes != wanted:
        return (f"The batches hold {sizes} images; they should hold {wanted}: every tile, and the last batch "
                "may be smaller.")
    for (x, y), size in zip(batches, wanted, strict=True):
        problem = (difference(x, torch.zeros(size, *images.shape[1:]), 1e9, "The images of a batch are")
                   or difference(y, torch.zeros(size, dtype=torch.long), 1e9, "The labels of a batch are"))
        if problem:
            return problem
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    gap = (x.flatten(1)[:, None] - normalize(images).flatten(1)).abs().amax(-1)      # (found, tile)
    nearest = gap.argmin(1)
    if gap.amin(1).max() > 1e-4:
        return ("Some images are not tiles normalized to -1 ... 1: their numbers run from "
                f"{x.min():.2f} to {x.max():.2f}.")
    if len(nearest.unique()) < len(labels):
        return f"Only {len(nearest.unique())} of {len(labels)} tiles came; some came twice, others never."
    if not torch.equal(y, labels[nearest]):
        return f"{(y != labels[nearest]).sum()} of {len(labels)} images came with the label of another tile."
    if len(labels) > 10 and torch.equal(nearest, torch.arange(len(labels))):
        return "The tiles came in the order in which they are stored; they should come in a random order."
    return None


@exercise(
    use=as_list, judge=incomplete,
    cases=lambda: [(some_images(5, 1, 2, 2), torch.arange(5), 2),
                   (some_images(40, 3, 4, 6), torch.randint(10, (40,)), 12),
                   (some_images(12, 1, 2, 2), torch.arange(12), 4)],     # no batch is left over, or empty
    mistakes={
        "images and labels are shuffled by two different orders, so every image gets a random label; draw "
        "one order and use it for both.": two_orders,
        "tiles are drawn with replacement (randint), so some come twice and others never; torch.randperm "
        "gives each number once.": lambda x, y, size: cut(x, y, torch.randint(len(y), (len(y),)), size),
        "the tiles that do not fill a whole batch are dropped; return them as a smaller last batch.":
            lambda x, y, size: cut(x, y, torch.randperm(len(y))[:len(y) // size * size], size),
        "the tiles come in their stored order; shuffle them with torch.randperm.":
            lambda x, y, size: cut(x, y, torch.arange(len(y)), size),
        "the images run from 0 to 1, since they are only divided by 255; use vit_helpers.normalize, which "
        "gives -1 to 1.": not_centered,
    })
def one_pass(images, labels, batch_size):
    order = torch.randperm(len(labels))
    return [(normalize(images[index]), labels[index]) for index in order.split(batch_size)]
