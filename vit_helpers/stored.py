"""Tiles on a disk, more than memory holds: `pack` decodes a folder tree or an archive once, `StoredTiles` reads them."""

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from . import arguments
from .archives import checked_members, read_member
from .data import Labelled, normalize
from .pictures import upright
from .runtime import Progress

SHARD = 32 * 2**20                           # bytes of tiles in one file
OPEN = 8                                     # files that are mapped, and mixed, at a time: no more memory than these is needed
KINDS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif")


class StoredTiles(Labelled):
    """Labelled tiles in the files of `folder`, which `pack` wrote; only some of them are in memory at any time.

    `fit`, `evaluate` and `batches` take them as they take Tiles; `tiles[i]` is (float32 image (3, S, S) in -1..1, label).
    `labels` int64 (N,), `classes` by name, `size` S in pixels. `workers` is the number of processes that read ahead, for slow
    disks. Raises FileNotFoundError for a folder without tiles, ValueError for one whose files are not whole.
    """

    def __init__(self, folder, workers=0):
        arguments.whole(0, 64, workers=workers)
        self.folder, self.workers, self.device = Path(folder), workers, torch.device("cpu")
        if not (self.folder / "tiles.json").exists():
            raise FileNotFoundError(f"no packed tiles in {folder}; make them with: python -m vit_helpers pack "
                                    f"FOLDER_OR_ZIP {folder}")
        try:
            facts = json.loads((self.folder / "tiles.json").read_text(encoding="utf-8"))
            self.size, self.rows, self.classes = facts["size"], facts["rows"], tuple(facts["classes"])
            self.labels = torch.from_numpy(np.load(self.folder / "labels.npy", allow_pickle=False).astype(np.int64))
            self.index = torch.arange(len(self.labels))              # where the tile i of these is among all in the folder
            lengths = [len(part) for part in self.index.split(self.rows)]
            if lengths != [len(self._map(number)) for number in range(len(lengths))]:
                raise ValueError("some files are missing tiles")
        except (OSError, ValueError, KeyError, TypeError, EOFError) as problem:
            raise ValueError(f"the tiles in {folder} are not whole ({problem}); delete it and pack again") from problem
        self.source, self._maps = self.folder.name, {}

    def __repr__(self):
        return f"StoredTiles({len(self):,} tiles in {self.folder}, {len(self.classes)} classes, {(3, self.size, self.size)})"

    def __getitem__(self, i):
        return normalize(self.images_at(torch.tensor([i]))[0]), self.labels[i].item()

    def __getstate__(self):
        return self.__dict__ | {"_maps": {}}                         # a process that reads ahead maps the files itself

    def _map(self, number):
        return np.load(self.folder / f"tiles-{number:05}.npy", mmap_mode="r", allow_pickle=False)

    def images_at(self, index):
        """The images of the tiles with these numbers, int64 (B,): uint8 (B, 3, S, S)."""
        place, images = self.index[index.cpu()], torch.empty(len(index), 3, self.size, self.size, dtype=torch.uint8)
        shard, row = place // self.rows, place % self.rows
        for number in shard.unique().tolist():
            # The file that was used last comes last; the first one goes, and with it the memory that it holds.
            self._maps[number] = self._maps.pop(number) if number in self._maps else self._map(number)
            if len(self._maps) > OPEN:
                del self._maps[next(iter(self._maps))]
            here = shard == number
            images[here] = torch.from_numpy(self._maps[number][row[here].numpy()])
        return images

    def read(self, parts):
        """Yield the images of each of `parts`, int64 tensors of numbers of tiles: uint8 (B, 3, S, S), on the device."""
        # A generator of its own: a DataLoader draws a number from torch's, which would change what comes after it.
        loader = DataLoader(_Batches(self), batch_size=None, sampler=parts, num_workers=self.workers,
                            generator=torch.Generator())
        for images in loader:
            yield images.to(self.device)

    def shuffled(self, generator=None):
        """The numbers of all tiles in random order, int64 (N,): those of a few files mixed, then those of a few others.

        `pack` has thrown all tiles into the files at random, so that any few files are a fair sample.
        """
        order, shard = torch.randperm(len(self), generator=generator), self.index // self.rows
        files = int(shard.max()) + 1 if len(shard) else 0
        if files <= OPEN:
            return order                                             # as Tiles are shuffled
        turn = torch.randperm(files, generator=generator)[shard] // OPEN
        return order[turn[order].argsort(stable=True)]

    def select(self, index):
        """The tiles at `index` (int64 (M,)), as new StoredTiles; nothing is read."""
        chosen, index = object.__new__(StoredTiles), self.numbers(index)
        chosen.__dict__.update(self.__getstate__(), labels=self.labels[index], index=self.index[index.cpu()])
        return chosen

    def to(self, device):
        """The same tiles; their batches will come on another device."""
        moved = self.select(torch.arange(len(self)))
        moved.labels, moved.device = self.labels.to(device), torch.device(device)
        return moved


class _Batches(Dataset):
    def __init__(self, tiles):
        self.tiles = tiles

    def __getitem__(self, index):
        return self.tiles.images_at(index)


class _Pictures(Dataset):
    """The pictures of a folder tree or an archive, in one folder for each class: [i] is its tiles, uint8 (n, 3, S, S)."""

    def __init__(self, source, size, large):
        self.source, self.size, self.large, self.archive = Path(source), size, large, None
        if not self.source.exists():
            raise FileNotFoundError(f"there is no folder or archive {source}; check the name")
        if self.source.is_dir():
            names = [path.relative_to(self.source).as_posix() for path in self.source.rglob("*") if path.is_file()]
        else:
            names = list(self._members())
        self.names = sorted(n for n in names if PurePosixPath(n).suffix.lower() in KINDS and PurePosixPath(n).parent.name)
        self.classes = sorted({PurePosixPath(name).parent.name for name in self.names})
        if len(self.classes) < 2:
            found = f"those of {self.classes[0]!r} only" if self.classes else "none"
            raise ValueError(f"{source} must hold pictures in one folder for each of at least two classes, such as "
                             f"Forest/1.jpg; found {found}")
        self.labels = np.array([self.classes.index(PurePosixPath(name).parent.name) for name in self.names], np.int64)

    def __len__(self):
        return len(self.names)

    def __getstate__(self):
        return self.__dict__ | {"archive": None}

    def _members(self):
        if self.archive is None or self.archive[0] != os.getpid():           # an open file must not be shared by processes
            try:
                archive = zipfile.ZipFile(self.source)
            except (zipfile.BadZipFile, OSError) as problem:
                raise ValueError(f"{self.source} is no folder and no whole zip archive ({problem}); fetch it again, or "
                                 "unpack it and name the folder") from problem
            self.archive = os.getpid(), archive, {member.filename: member for member in checked_members(archive, self.source)}
        return self.archive[2]

    def _file(self, i):
        if self.source.is_dir():
            return self.source / self.names[i]
        members = self._members()
        try:
            return io.BytesIO(read_member(self.archive[1], members[self.names[i]]))
        except (zipfile.BadZipFile, OSError) as problem:
            raise ValueError(f"{self.source}/{self.names[i]} is damaged ({problem}); fetch the archive again") from problem

    def count(self, i):
        """How many tiles the picture i gives, from its first bytes."""
        from PIL import Image

        if self.large == "resize":
            return 1
        try:
            with Image.open(self._file(i)) as image:
                return (image.width // self.size) * (image.height // self.size)
        except (OSError, SyntaxError, Image.DecompressionBombError):
            upright(self._file(i), f"{self.source}/{self.names[i]}")         # says what is wrong
            raise

    def __getitem__(self, i):
        from PIL import Image, ImageOps

        image, size = upright(self._file(i), f"{self.source}/{self.names[i]}"), self.size
        if self.large == "resize":
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        rows, columns = image.height // size, image.width // size
        pixels = torch.from_numpy(np.array(image))[:rows * size, :columns * size]
        pixels = pixels.reshape(rows, size, columns, size, 3)                        # (rows S, columns S, 3) -> five axes
        return pixels.permute(0, 2, 4, 1, 3).reshape(-1, 3, size, size)              # -> (rows * columns, 3, S, S)


def pack(source, folder, size=64, large="resize", seed=0, workers=0):
    """Decode the pictures of `source` once and store them as tiles of `size` pixels in a new `folder`: StoredTiles.

    source: a folder tree or a zip archive, with the pictures of each class in a folder of its name, at any depth.
    large: "resize" makes one tile of each picture (its middle square, made smaller); "tile" cuts it into as many tiles as fit,
    and leaves out the rest at its right and lower edge. The tiles are thrown into the files at random (`seed`), so that a few
    files are a fair sample of all. workers: processes that decode besides this one. Memory: some pictures, never all.
    Raises FileExistsError for a folder that is there; FileNotFoundError, ValueError for a source without pictures, for
    damaged ones, and for archives that are not safe (see `checked_members`); then no folder is left behind.
    """
    arguments.whole(1, 10_000, size=size)
    arguments.whole(0, 64, workers=workers)
    arguments.whole(0, 2**32 - 1, seed=seed)
    arguments.one_of(("resize", "tile"), large=large)
    folder, size, seed = Path(folder), int(size), int(seed)      # NumPy's numbers are none of JSON's
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; choose a new folder, or delete it first")
    pictures = _Pictures(source, size, large)
    counts = np.array([pictures.count(i) for i in range(len(pictures))])
    if not counts.sum():
        raise ValueError(f"no picture in {source} has {size}x{size} pixels, so none gives a tile; choose a smaller size")
    places = np.random.RandomState(seed).permutation(counts.sum())
    labels = np.empty(counts.sum(), np.int64)
    labels[places] = pictures.labels.repeat(counts)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as unfinished:
        made = Path(unfinished, "tiles")             # renamed at the end: a folder of that name is always whole
        made.mkdir()
        shards = _Shards(made, len(labels), (3, size, size))
        loader, first = DataLoader(pictures, batch_size=None, num_workers=workers, generator=torch.Generator()), 0
        for tiles in Progress(loader, desc="packing", unit=" pictures"):
            shards.write(places[first:first + len(tiles)], tiles.numpy())
            first += len(tiles)
        np.save(made / "labels.npy", labels)
        facts = {"classes": pictures.classes, "size": size, "rows": shards.rows, "large": large, "seed": seed}
        (made / "tiles.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        made.rename(folder)
    return StoredTiles(folder)


class _Shards:
    """Files tiles-00000.npy, tiles-00001.npy, ... for `count` tiles of `shape`, uint8; each is written piece by piece."""

    def __init__(self, folder, count, shape):
        self.bytes = int(np.prod(shape))
        self.rows = max(1, SHARD // self.bytes)
        self.paths, self.starts = [], []
        for first in range(0, count, self.rows):
            self.paths.append(folder / f"tiles-{len(self.paths):05}.npy")
            here = (min(self.rows, count - first), *shape)
            with open(self.paths[-1], "wb") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": here})
                self.starts.append(file.tell())
                file.truncate(file.tell() + here[0] * self.bytes)

    def write(self, places, tiles):
        """Put `tiles` uint8 (n, *shape) at `places` int64 (n,)."""
        # Written, not mapped: what waits for the disk then does not count as memory of this process.
        for number in np.unique(places // self.rows):
            with open(self.paths[number], "r+b") as file:
                for i in np.flatnonzero(places // self.rows == number):
                    file.seek(self.starts[number] + int(places[i] % self.rows) * self.bytes)
                    file.write(tiles[i].tobytes())
