"""The satellite tiles as arrays: loading, normalizing, splitting, batching and turning them."""

import hashlib
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from . import eurosat
from .eurosat import CLASSES
from .patches import pair
from .runtime import smoke
from .synthetic import synthetic_tiles


def normalize(images):
    """uint8 images (..., C, H, W), 0..255 -> float32 in -1..1, as ToTensor and Normalize(0.5, 0.5) do.

    Raises TypeError for any other dtype, so that nothing is normalized twice.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"normalize takes uint8 images (0..255), not {images.dtype}; are they normalized "
                        "already? For floats in 0..255 use images.to(torch.uint8)")
    return images.float().div_(127.5).sub_(1)            # equal to (x / 255 - 0.5) / 0.5, to the last bit


class Tiles(torch.utils.data.Dataset):
    """Labeled tiles: `images` uint8 (N, C, H, W), `labels` int64 (N,), `classes` names, `source` a word.

    A PyTorch Dataset: `tiles[i]` is (float32 image (C, H, W) in -1..1, label), so a DataLoader takes it;
    `batches` is faster. `index` int64 (N,): these tiles are only those rows of `images`, which may be
    memory-mapped and larger than memory; parts of Tiles share their images in this way. Raises TypeError or
    ValueError where they do not fit.
    """

    def __init__(self, images, labels, classes=CLASSES, source="own", index=None):
        images, labels = torch.as_tensor(images), torch.as_tensor(labels)
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}; "
                            "for floats in 0..255 use images.to(torch.uint8)")
        N = len(images) if index is None else len(index)
        if labels.shape != (N,) or labels.is_floating_point():
            raise ValueError(f"{N} images need labels of shape ({N},), whole numbers, not {labels.dtype} "
                             f"{tuple(labels.shape)}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(f"labels run from {labels.min()} to {labels.max()}; {len(classes)} classes have "
                             f"labels 0 to {len(classes) - 1}")
        self.base, self.index = images, index
        self.labels, self.classes, self.source = labels.long(), tuple(classes), source

    @cached_property
    def images(self):
        """All images, uint8 (N, C, H, W), in memory where these are a part of other Tiles."""
        return self.base if self.index is None else self.base.index_select(0, self.index)

    @property
    def size(self):
        """Height and width of the tiles in pixels."""
        return tuple(self.base.shape[2:])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return normalize(self.gather(torch.tensor([range(len(self))[i]]))[0]), self.labels[i].item()

    def __repr__(self):
        shape = tuple(self.base.shape[1:])
        return f"Tiles({len(self):,} {self.source} tiles, {len(self.classes)} classes, {shape})"

    def gather(self, numbers):
        """The images of some tiles, int64 (B,) -> uint8 (B, C, H, W)."""
        numbers = numbers.to(self.base.device)
        return self.base.index_select(0, numbers if self.index is None else self.index[numbers])

    def select(self, numbers):
        """The tiles with these numbers, int64 (M,), or of a mask, bool (N,). The images are shared."""
        numbers = torch.as_tensor(numbers)
        numbers = numbers.nonzero()[:, 0] if numbers.dtype == torch.bool else numbers.long()
        rows = numbers.to(self.base.device)
        return Tiles(self.base, self.labels[numbers.to(self.labels.device)], self.classes, self.source,
                     rows if self.index is None else self.index[rows])

    def to(self, device):
        """The same tiles on another device."""
        if torch.device(device) == self.base.device:
            return self
        return Tiles(self.images.to(device), self.labels.to(device), self.classes, self.source)

    def resized(self, size):
        """The same tiles with `size` pixels, one number or (height, width), smoothed where they shrink."""
        parts = [F.interpolate(part, pair(size), mode="bilinear", antialias=True)
                 for part in self.images.split(1024)]
        return Tiles(torch.cat(parts), self.labels, self.classes, self.source)

    def _shuffled_by_class(self, seed):
        # RandomState, not default_rng: NumPy promises that its numbers never change, on any machine.
        random, labels = np.random.RandomState(seed), self.labels.cpu().numpy()
        return [random.permutation(np.flatnonzero(labels == c)) for c in range(len(self.classes))]

    def split(self, test_fraction=0.2, seed=0):
        """Two disjoint Tiles (train, test), each class cut in the same proportion; alike on all machines."""
        members = self._shuffled_by_class(seed)
        cuts = [round(len(m) * test_fraction) for m in members]
        if not 0 < sum(cuts) < len(self):
            raise ValueError(f"test_fraction={test_fraction} leaves nothing on one side of {len(self)} "
                             "tiles; choose 0.2 for an 80/20 split, or use more tiles")
        test = np.sort(np.concatenate([m[:cut] for m, cut in zip(members, cuts, strict=True)]))
        train = np.sort(np.concatenate([m[cut:] for m, cut in zip(members, cuts, strict=True)]))
        return self.select(train), self.select(test)

    def subset(self, n, seed=0):
        """`n` tiles with equally many of each class, one more of the first ones where n does not divide."""
        members, K = self._shuffled_by_class(seed), len(self.classes)
        most = min(map(len, members)) * K
        n = min(n, most) if smoke() else n
        if not K <= n <= most:
            raise ValueError(f"n={n} tiles cannot be balanced over {K} classes; choose {K} to {most}")
        take = [n // K + (c < n % K) for c in range(K)]
        return self.select(np.sort(np.concatenate([m[:t] for m, t in zip(members, take, strict=True)])))

    @classmethod
    def from_folder(cls, folder, size=64):
        """Pictures of your own, a folder for each class (as in ImageFolder), as Tiles of `size` pixels.

        Each picture gives one tile, its middle square. All are decoded once into one array in the cache,
        which is memory-mapped from then on. Raises FileNotFoundError for no folder or no pictures, OSError
        for damaged ones.
        """
        from torchvision.datasets import ImageFolder  # here, so that importing the package stays quick

        from .pictures import load_picture

        found = ImageFolder(folder)                      # its classes and its order; it says what it misses
        paths, labels = zip(*found.samples, strict=True)
        facts = [(str(path), os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths]
        mark = hashlib.sha256(repr((size, facts)).encode()).hexdigest()[:12]
        images = eurosat.decoded(eurosat.cache_folder() / f"own-{mark}.npy", paths,
                                 lambda path: load_picture(path, size).numpy(), size)
        return cls(images, labels, found.classes, source=Path(folder).resolve().name)


def dihedral_view(images, number):
    """View 0 to 7 of images (..., H, W): 1 flips left-right, 2 flips up-down, 4 transposes; sums do both."""
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if number & bit]
    images = images.flip(axes) if axes else images
    return images.transpose(-1, -2) if number & 4 else images


def dihedral_views(images):
    """The views of square images (..., S, S): the four flips, then their transposes; a list of eight.

    Satellite tiles have no up and no left, so each view shows the same class. Other images have the four
    flips only.
    """
    square = images.shape[-1] == images.shape[-2]
    return [dihedral_view(images, number) for number in range(8 if square else 4)]


def random_dihedral(images, generator=None):
    """Each image (B, C, S, S) in one of its eight views, drawn at random; in one of four if not square."""
    bits = 3 if images.shape[-1] == images.shape[-2] else 2
    draws = torch.rand(3, len(images), generator=generator)[:bits] < 0.5             # (3, B)
    numbers = (draws * torch.tensor([1, 2, 4])[:bits, None]).sum(dim=0)          # (B,) which view each gets
    # All that get the same view are turned at once, then put back in order: that moves each byte a few times
    # only.
    order = numbers.argsort()
    counts = torch.bincount(numbers, minlength=2**bits).tolist()
    groups = images.index_select(0, order.to(images.device)).split(counts)
    turned = torch.cat([dihedral_view(group, number) for number, group in enumerate(groups)])
    return turned.index_select(0, order.argsort().to(images.device))


def cutmix(images, generator=None):
    """Images (B, C, H, W) with one random rectangle replaced by that of their partner, the batch backwards.

    Returns (mixed images, share of each that is its own, 0 to 1). Yun et al. 2019, "CutMix".
    """
    (height, width), side = images.shape[-2:], (1 - torch.rand((), generator=generator).item()) ** 0.5
    rows, columns = int(height * side), int(width * side)
    top, left = (torch.randint(0, n + 1, (), generator=generator).item()
                 for n in (height - rows, width - columns))
    here = (..., slice(top, top + rows), slice(left, left + columns))
    mixed = images.clone()
    mixed[here] = images.flip(0)[here]
    return mixed, 1 - rows * columns / (height * width)


def batches(tiles, batch_size=64, *, shuffle=False, augment=False, generator=None):
    """Yield (images float32 (B, C, H, W) in -1..1, labels int64 (B,)) until every tile was there once.

    Whole batches are gathered, turned and normalized at once, on the device where the tiles are, which is
    many times faster than one tile after another. `generator` (a CPU torch.Generator) makes the order
    repeatable.
    """
    order = torch.randperm(len(tiles), generator=generator) if shuffle else torch.arange(len(tiles))
    for numbers in order.split(batch_size):
        images = tiles.gather(numbers)
        images = random_dihedral(images, generator) if augment else images
        yield normalize(images), tiles.labels[numbers.to(tiles.labels.device)]


def load_tiles(source="auto", root=None, download=True):
    """The EuroSAT tiles (27,000 of 64x64 pixels, ten classes) or their synthetic stand-in, as Tiles.

    source: "eurosat"; "synthetic"; or "auto": EuroSAT where it can be had, else synthetic after a line saying
    so. EuroSAT is looked for in (1) `root`, else the environment variable EUROSAT_ROOT: a folder with
    `eurosat/2750/<Class>/*.jpg` or `EuroSAT.zip`; (2) the user's cache folder; (3) the network, if
    `download`. It is decoded once, kept in the cache (VIT_CACHE moves it) and memory-mapped from then on.
    Raises ValueError for a wrong source, FileNotFoundError, OSError for data that is missing or damaged.
    """
    if source not in ("auto", "eurosat", "synthetic"):
        raise ValueError(f"source={source!r} is unknown; choose 'auto', 'eurosat' or 'synthetic'")
    root = root or os.environ.get("EUROSAT_ROOT")
    if source == "synthetic" or (source == "auto" and smoke()):
        return Tiles(*synthetic_tiles(1000 if smoke() else 10_000), source="synthetic")
    try:
        return Tiles(*eurosat.find(root, download), source="eurosat")
    except OSError as problem:
        if source == "eurosat" or root:
            raise
        print(f"EuroSAT is not at hand ({problem}); going on with synthetic tiles.")
        return load_tiles("synthetic")
