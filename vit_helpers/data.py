"""The satellite tiles as arrays: loading, normalizing, splitting, batching and turning them."""

import os
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from . import eurosat
from .eurosat import CLASSES
from .folders import labeled_pictures
from .runtime import smoke
from .synthetic import synthetic_tiles


def normalize(images):
    """uint8 images (..., C, H, W) -> float32 -1..1, as ToTensor and Normalize(0.5, 0.5); else TypeError."""
    if images.dtype != torch.uint8:
        raise TypeError(f"normalize takes uint8 images (0..255), not {images.dtype}; are they normalized "
                        "already? For floats in 0..255 use images.to(torch.uint8)")
    return images.float().div_(127.5).sub_(1)            # equal to (x / 255 - 0.5) / 0.5, to the last bit


class Tiles(torch.utils.data.Dataset):
    """Labeled tiles: `images` uint8 (N, C, H, W), `labels` int64 (N,), `classes` names, `source` a word.

    A PyTorch Dataset, which a DataLoader takes: `tiles[i]` is (float32 image (C, H, W) in -1..1, label), and
    `tiles[0:4]` a batch of four. `index` int64 (N,): only these rows of `images`, which may be memory-mapped
    and shared with other Tiles. Raises TypeError or ValueError where they do not fit.
    """

    def __init__(self, images, labels, classes=CLASSES, source="own", index=None):
        images, labels = torch.as_tensor(images), torch.as_tensor(labels)
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}; "
                            "for floats in 0..255 use images.to(torch.uint8)")
        N = len(images) if index is None else len(index)
        if labels.shape != (N,) or labels.is_floating_point():
            raise ValueError(f"labels must be {N} whole numbers, not {labels.dtype} {tuple(labels.shape)}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(f"labels {labels.min()} to {labels.max()} must be 0 to {len(classes) - 1}")
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
        numbers = torch.arange(len(self))[i]                 # several for a slice, a list or a mask
        images, labels = normalize(self.gather(numbers.reshape(-1))), self.labels[numbers]
        return (images, labels) if numbers.ndim else (images[0], labels.item())

    def __repr__(self):
        shape = tuple(self.base.shape[1:])
        return f"Tiles({len(self):,} {self.source} tiles, {len(self.classes)} classes, {shape})"

    def gather(self, numbers):
        """The images of some tiles, int64 (B,) -> uint8 (B, C, H, W)."""
        numbers = numbers.to(self.base.device)
        if "images" in vars(self):                           # gathered already, and perhaps changed since
            return self.images.index_select(0, numbers)
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
        parts = [F.interpolate(part, size, mode="bilinear", antialias=True)
                 for part in self.images.split(1024)]
        return Tiles(torch.cat(parts), self.labels, self.classes, self.source)

    def _drawn(self, counts, seed):
        """A mask, bool (N,), of so many tiles of each class."""
        # RandomState, not default_rng: NumPy promises that its numbers never change, on any machine.
        random, labels = np.random.RandomState(seed), self.labels.cpu().numpy()
        drawn = torch.zeros(len(self), dtype=torch.bool)
        for c, count in enumerate(counts):
            drawn[random.permutation(np.flatnonzero(labels == c))[:count]] = True
        return drawn

    def split(self, test_fraction=0.2, seed=0):
        """Two disjoint Tiles (train, test), each class cut in the same proportion; alike on all machines."""
        counts = [round(n * test_fraction) for n in self.labels.bincount().tolist()]
        if not 0 < sum(counts) < len(self):
            raise ValueError(f"test_fraction={test_fraction} leaves no tile on one side; choose 0.2")
        test = self._drawn(counts, seed)
        return self.select(~test), self.select(test)

    def subset(self, n, seed=0):
        """`n` tiles with equally many of each class, one more of the first ones where n does not divide."""
        K = len(self.classes)
        most = self.labels.bincount(minlength=K).min().item() * K
        n = min(n, most) if smoke() else n
        if not K <= n <= most:
            raise ValueError(f"n={n} tiles cannot be balanced over {K} classes; choose {K} to {most}")
        return self.select(self._drawn([n // K + (c < n % K) for c in range(K)], seed))

    def spatial_split(self):
        """EuroSAT's split by longitude, 60/20/20: Tiles (train, validation, test), see splits/README.md.

        Of a part, each tile goes where it goes in the whole. Raises ValueError for other tiles, and for what
        `to` and `resized` made of a part.
        """
        parts = eurosat.spatial_parts()
        if self.source != "eurosat" or len(self.base) != len(parts):
            raise ValueError(f"{self} have no spatial split, load_tiles('eurosat') has one; use split()")
        parts = parts if self.index is None else parts[self.index.cpu()]
        return tuple(self.select(parts == part) for part in range(3))

    @classmethod
    def from_folder(cls, folder, size=64, white=None):
        """Pictures of your own, a folder for each class (as in ImageFolder) or a zip archive of it, as Tiles.

        Each picture, also in folders further inside, gives its middle square of `size` pixels (`white` as in
        `load_picture`), decoded once into a memory-mapped array in the cache. What was found is printed.
        Raises FileNotFoundError for no folder or pictures, ValueError for train and test, OSError for damage.
        """
        place = Path(folder).expanduser()
        images, labels, classes = labeled_pictures(place, size, white)
        return cls(images, labels, classes, source=place.resolve().name.removesuffix(".zip"))


def dihedral_view(images, number):
    """View 0 to 7 of images (..., H, W): 1 flips left-right, 2 flips up-down, 4 transposes; sums do both."""
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if number & bit]
    images = images.flip(axes) if axes else images
    return images.transpose(-1, -2) if number & 4 else images


def dihedral_views(images):
    """A list of the views of square images (..., S, S): four flips, then their transposes; of others four."""
    square = images.shape[-1] == images.shape[-2]
    return [dihedral_view(images, number) for number in range(8 if square else 4)]


def random_dihedral(images, generator=None):
    """Each image (B, C, S, S) in one of its eight views, drawn at random; in one of four if not square."""
    bits = 3 if images.shape[-1] == images.shape[-2] else 2
    draws = torch.rand(3, len(images), generator=generator)[:bits] < 0.5             # (3, B)
    numbers = (draws * torch.tensor([1, 2, 4])[:bits, None]).sum(dim=0)              # (B,) which view
    turned = torch.empty_like(images)
    for number in range(2**bits):
        chosen = (numbers == number).nonzero()[:, 0].to(images.device)
        turned.index_copy_(0, chosen, dihedral_view(images.index_select(0, chosen), number))
    return turned


def cutmix(images, generator=None):
    """Images (B, C, H, W) with a random rectangle of each from its partner, and the share that is its own.

    Partners are the batch backwards; the share is 0 to 1. Yun et al. 2019, "CutMix".
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

    Whole batches are gathered, turned and normalized on the tiles' device, which is many times faster than
    one by one. `generator` (a CPU torch.Generator) makes the order repeatable.
    """
    order = torch.randperm(len(tiles), generator=generator) if shuffle else torch.arange(len(tiles))
    for numbers in order.split(batch_size):
        images = tiles.gather(numbers)
        images = random_dihedral(images, generator) if augment else images
        yield normalize(images), tiles.labels[numbers.to(tiles.labels.device)]


def load_tiles(source="auto", root=None, download=True):
    """The EuroSAT tiles (27,000 of 64x64 pixels, ten classes) or their synthetic stand-in, as Tiles.

    source: "eurosat"; "synthetic"; or "auto": EuroSAT where it can be had, else synthetic after a line saying
    so. EuroSAT is looked for in (1) `root`, else the environment variable EUROSAT_ROOT: the archive, or a
    folder that has it or the ten class folders at most two levels down; (2) the user's cache, which VIT_CACHE
    moves; (3) the network, if `download`. It is decoded once and memory-mapped from then on. Raises
    ValueError for a wrong source, OSError for data that is missing or damaged.
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
