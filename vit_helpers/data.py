"""The satellite tiles as arrays: loading, normalizing, splitting, batching and turning them."""

import os

import numpy as np
import torch
import torch.nn.functional as F

from . import arguments, eurosat
from .eurosat import CLASSES
from .patches import pair
from .runtime import by_budget, pick_device
from .synthetic import synthetic_tiles


def normalize(images):
    """uint8 images (..., C, H, W), 0..255 -> float32 of the same shape, -1..1, as ToTensor and Normalize(0.5, 0.5) do.

    Raises TypeError for any other dtype, so that nothing is normalized twice.
    """
    if not torch.is_tensor(images):
        raise TypeError(f"normalize takes a tensor, not {arguments.told(images)}; use torch.as_tensor(images)")
    if images.dtype != torch.uint8:
        raise TypeError(f"normalize takes uint8 images (0..255), not {images.dtype}; are they normalized already?")
    return images.float().div_(127.5).sub_(1)        # the same as dividing by 255, taking off 0.5, dividing by 0.5; bit by bit


class Labelled(torch.utils.data.Dataset):
    """What tiles in memory and tiles on a disk have in common: `labels` int64 (N,), `classes`, and how they are divided."""

    def __len__(self):
        return len(self.labels)

    def numbers(self, index):
        """The numbers of some tiles, a tensor or a list, as int64 (M,). Raises TypeError or ValueError for others."""
        index = arguments.array(index=index)
        index = index if index.numel() else index.long()     # an empty list becomes a float tensor
        arguments.tensor("n", "whole", index=index)
        arguments.in_range(0, len(self) - 1, index=index)
        return index.long().to(self.labels.device)

    def _shuffled_by_class(self, seed):
        # RandomState, not default_rng: NumPy promises that its numbers never change, on any machine.
        random, labels = np.random.RandomState(seed), self.labels.cpu().numpy()
        return [random.permutation(np.flatnonzero(labels == c)) for c in range(len(self.classes))]

    def split(self, test_fraction=0.2, seed=0):
        """Two disjoint Tiles (train, test), each class cut in the same proportion; the same cut on every machine."""
        arguments.number(test_fraction=test_fraction)
        arguments.whole(0, 2**32 - 1, seed=seed)
        if not 0 < test_fraction < 1:
            raise ValueError(f"test_fraction={test_fraction} is not between 0 and 1; choose 0.2 for an 80/20 split")
        train, test = [], []
        for members in self._shuffled_by_class(seed):
            cut = round(len(members) * test_fraction)
            test.append(members[:cut])
            train.append(members[cut:])
        train, test = (torch.from_numpy(np.sort(np.concatenate(part))) for part in (train, test))
        if not len(train) or not len(test):
            raise ValueError(f"{len(self)} tiles are too few to split off {test_fraction:.0%}; use more tiles")
        return self.select(train), self.select(test)

    def subset(self, n, seed=0):
        """`n` tiles with equally many of each class (one more in the first classes where n does not divide)."""
        arguments.whole(-arguments.MOST, n=n)
        arguments.whole(0, 2**32 - 1, seed=seed)
        members, k = self._shuffled_by_class(seed), len(self.classes)
        smallest = min(len(m) for m in members)
        if not k <= n <= smallest * k:
            raise ValueError(f"n={n} tiles cannot be balanced over {k} classes; choose {k} to {smallest * k}"
                             if smallest else f"a balanced subset needs tiles of all {k} classes, some have none")
        take = [n // k + (c < n % k) for c in range(k)]
        index = np.sort(np.concatenate([m[:t] for m, t in zip(members, take, strict=True)]))
        return self.select(torch.from_numpy(index))


class Tiles(Labelled):
    """Labelled tiles in memory: `images` uint8 (N, 3, H, W), `labels` int64 (N,), `classes` names, `source` a word.

    A PyTorch Dataset: `tiles[i]` is (float32 image (3, H, W) in -1..1, label), so a DataLoader takes it. The whole
    arrays are there too, which is faster: see `batches`. Raises ValueError or TypeError where they do not fit.
    """

    def __init__(self, images, labels, classes=CLASSES, source="own"):
        images, labels = arguments.array(images=images, labels=labels)
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} images need labels of shape ({len(images)},), not {tuple(labels.shape)}")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be whole numbers (int64), not {labels.dtype}")
        arguments.tensor("B C H W", images=images)
        arguments.tensor("B", labels=labels)
        arguments.names(None, classes=classes)
        labels = labels.long()
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
            wrong = labels[(labels < 0) | (labels >= len(classes))][0].item()
            raise ValueError(f"label {wrong} is out of range; {len(classes)} classes have labels 0 to {len(classes) - 1}")
        self.images, self.labels, self.classes, self.source = images, labels, tuple(map(str, classes)), source

    def __getitem__(self, i):
        return normalize(self.images[i]), self.labels[i].item()

    def __repr__(self):
        return f"Tiles({len(self):,} {self.source} tiles, {len(self.classes)} classes, {tuple(self.images.shape[1:])})"

    def select(self, index):
        """The tiles at `index` (int64 (M,)), as new Tiles."""
        index = self.numbers(index)
        return Tiles(self.images.index_select(0, index), self.labels[index], self.classes, self.source)

    def resized(self, size):
        """The same tiles with `size` pixels, one number or (height, width), smoothed where they shrink."""
        parts = [F.interpolate(part, pair(size), mode="bilinear", antialias=True) for part in self.images.split(1024)]
        return Tiles(torch.cat(parts), self.labels, self.classes, self.source)

    def to(self, device):
        """The same tiles on another device."""
        device = pick_device(device)
        return Tiles(self.images.to(device), self.labels.to(device), self.classes, self.source)

    def shuffled(self, generator=None):
        """The numbers of all tiles in random order, int64 (N,); `generator` (a CPU torch.Generator) makes it repeatable."""
        return torch.randperm(len(self), generator=generator)

    def read(self, parts):
        """Yield the images of each of `parts`, int64 tensors of numbers of tiles: uint8 (B, C, H, W)."""
        for index in parts:
            yield self.images.index_select(0, index.to(self.images.device))          # twenty times as fast as [index]


def view_of(images, number):
    """View 0 to 7 of images (..., H, W): 1 flips left and right, 2 flips up and down, 4 transposes; sums do both."""
    arguments.shaped("... H W", images=images)
    arguments.whole(0, 7, number=number)
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if number & bit]
    images = images.flip(axes) if axes else images
    return images.transpose(-1, -2) if number & 4 else images


def eight_views(images):
    """All views of square images (..., S, S): the four flips, then their transposes; a list of eight like `images`.

    Satellite tiles have no up and no left, so each view shows the same class. Other images have the four flips only.
    """
    arguments.shaped("... H W", images=images)
    return [view_of(images, number) for number in range(8 if images.shape[-1] == images.shape[-2] else 4)]


def flip_and_transpose(images, generator=None, share=None):
    """Each image (B, C, S, S) in one of its eight views, drawn at random: flips and, for squares, the transpose.

    share: these images belong to a larger batch, (its size, their positions in it int64 (B,)), and get the views as in there.
    """
    arguments.shaped("B C H W", images=images)
    arguments.generator(generator)
    bits = 3 if images.shape[-1] == images.shape[-2] else 2
    total, mine = (len(images), slice(None)) if share is None else share
    draws = torch.rand(3, total, generator=generator)[:bits, mine] < 0.5             # (3, B)
    numbers = (draws * torch.tensor([1, 2, 4])[:bits, None]).sum(dim=0)              # (B,) which view each one gets
    # All that get the same view are turned at once, then put back in order: that moves each byte a few times only.
    order = numbers.argsort()
    groups = images.index_select(0, order.to(images.device)).split(torch.bincount(numbers, minlength=2**bits).tolist())
    turned = torch.cat([view_of(group, number) for number, group in enumerate(groups)])
    return turned.index_select(0, order.argsort().to(images.device))


def cutmix(images, generator=None):
    """Images (B, C, H, W) with one random rectangle of each replaced by that of its partner, the batch read backwards.

    Returns (mixed images, share of each that is its own, 0 to 1). Yun et al. 2019, "CutMix".
    """
    arguments.shaped("B C H W", images=images)
    arguments.generator(generator)
    (height, width), side = images.shape[-2:], (1 - torch.rand((), generator=generator).item()) ** 0.5
    rows, columns = int(height * side), int(width * side)
    top, left = (torch.randint(0, n + 1, (), generator=generator).item() for n in (height - rows, width - columns))
    here = (..., slice(top, top + rows), slice(left, left + columns))
    mixed = images.clone()
    mixed[here] = images.flip(0)[here]
    return mixed, 1 - rows * columns / (height * width)


def batches(tiles, batch_size=64, *, shuffle=False, augment=False, generator=None, share=None):
    """Yield (images float32 (B, C, H, W) in -1..1, labels int64 (B,)) until every tile was there once.

    Whole batches are gathered, turned and normalized at once, on the device where the tiles are, which is many
    times faster than one tile after another. `generator` (a CPU torch.Generator) makes the order repeatable.
    share: a function from the size of a batch to the positions in it, int64, of which this process takes care; default all.
    """
    arguments.tiles(tiles=tiles)
    arguments.whole(1, batch_size=batch_size)
    arguments.generator(generator)
    order = tiles.shuffled(generator) if shuffle else torch.arange(len(tiles))
    whole = order.split(int(batch_size))
    chosen = [slice(None) if share is None else share(len(index)) for index in whole]
    parts = [index[mine] for index, mine in zip(whole, chosen, strict=True)]
    for index, mine, images, total in zip(parts, chosen, tiles.read(parts), map(len, whole), strict=True):
        images = flip_and_transpose(images, generator, (total, mine)) if augment else images
        yield normalize(images), tiles.labels[index.to(tiles.labels.device)]


def load_tiles(source="auto", root=None, download=True):
    """The EuroSAT tiles (27,000 of 64x64 pixels, ten classes) or their synthetic stand-in, as Tiles.

    source: "eurosat"; "synthetic"; or "auto": EuroSAT where it can be had, else synthetic after a line saying so.
    EuroSAT is looked for in (1) `root`, else the environment variable EUROSAT_ROOT: a folder with
    `eurosat/2750/<Class>/*.jpg` or `EuroSAT.zip`; (2) the user's cache folder; (3) the network, if `download`.
    It is decoded once, kept in the cache (VIT_CACHE moves it) and memory-mapped from then on.
    Raises ValueError for a wrong source, FileNotFoundError, OSError for data that is missing or damaged.
    """
    if source not in ("auto", "eurosat", "synthetic"):
        raise ValueError(f"source={source!r} is unknown; choose 'auto', 'eurosat' or 'synthetic'")
    root = root or os.environ.get("EUROSAT_ROOT")
    if source == "synthetic" or (source == "auto" and by_budget(smoke=True, lesson=False, full=False)):
        return Tiles(*synthetic_tiles(by_budget(smoke=1000, lesson=10_000, full=10_000)), source="synthetic")
    try:
        images = eurosat.find(root, download)
    except OSError as problem:
        if source == "eurosat" or root:
            raise
        print(f"EuroSAT is not at hand ({problem}); going on with synthetic tiles.")
        return load_tiles("synthetic")
    labels = torch.arange(len(CLASSES)).repeat_interleave(torch.tensor(eurosat.COUNTS))
    return Tiles(torch.from_numpy(images), labels, source="eurosat")
