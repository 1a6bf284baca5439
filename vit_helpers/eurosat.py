"""Pictures on this machine: finds or downloads EuroSAT's 27,000 JPEGs; decodes once, keeps arrays."""

import hashlib
import io
import os
import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from platformdirs import user_cache_dir

from .runtime import Progress, atomic_write

CLASSES = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
           "Pasture", "PermanentCrop", "Residential", "River", "SeaLake")
COUNTS = (3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000)    # tiles of each class
# As in torchvision.datasets.EuroSAT, which itself unpacks 27,000 files, and falls back to http where https
# fails.
ADDRESS = ("https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
           "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip")
MD5 = "c8fa014336c82ac7804f0398fcb19387"


def cache_folder():
    """Where decoded tiles are kept: the environment variable VIT_CACHE, else the user's cache folder."""
    return Path(os.environ.get("VIT_CACHE") or user_cache_dir("vit_helpers"))


def find(root=None, download=True):
    """All tiles in torchvision's order: images uint8 (27000, 3, 64, 64), mapped, and labels int64 (27000,).

    See `load_tiles` for where from. Raises OSError for tiles that are missing, damaged, or cannot be
    downloaded.
    """
    known = sorted(cache_folder().glob("eurosat-*.npy"), key=os.path.getmtime, reverse=True)
    if root:
        place = locate(Path(root).expanduser())
        files = [place, *(place / name for name in CLASSES if (place / name).exists())]
        facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        known = [cache_folder() / f"eurosat-{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}.npy"]
    elif not known and not download:
        raise FileNotFoundError("EUROSAT_ROOT is not set, nothing is cached, and download=False")
    whole = [images for images in map(mapped, known) if images is not None and len(images) == sum(COUNTS)]
    if not whole:
        cached = known[0] if root else cache_folder() / "eurosat-downloaded.npy"
        whole = [decoded(cached, *readers(place if root else fetch()), size=64)]
    return whole[0], torch.arange(len(CLASSES)).repeat_interleave(torch.tensor(COUNTS))


def locate(root):
    """The folder with the ten class folders, or the archive, that `root` means."""
    # A relative root is meant from where the reader is, or from the folder of the course: notebooks run
    # inside it.
    for base in (Path.cwd() / root, Path(__file__).parents[1] / root):
        for name in ("eurosat/2750", "2750", "EuroSAT.zip", "eurosat/EuroSAT.zip"):
            if (base / name).exists():
                return base / name
    raise FileNotFoundError(f"no EuroSAT tiles in {Path.cwd() / root}; a root (root=... or the environment "
                            "variable EUROSAT_ROOT) holds 'eurosat/2750/<Class>/*.jpg' or 'EuroSAT.zip'")


def fetch():
    """The archive, downloaded into the cache folder unless it is there, and checked."""
    import pooch  # here: few need it

    pooch.get_logger().setLevel("WARNING")               # it would write to stderr
    try:                                                 # ten seconds without a byte are a no
        with Progress(total=1, unit="B", unit_scale=True, delay=1) as bar:
            loader = pooch.HTTPDownloader(timeout=10, progressbar=bar)
            file = pooch.retrieve(ADDRESS, f"md5:{MD5}", "EuroSAT.zip", cache_folder(), downloader=loader)
        return Path(file)
    except Exception as problem:                         # requests and pooch each raise their own
        raise OSError(f"the download failed: {problem}; try again later, or set EUROSAT_ROOT to a folder "
                      "with EuroSAT.zip") from problem


def readers(place):
    """The tiles of a folder or archive in torchvision's order: their names, and what decodes one."""
    from PIL import Image

    if place.is_dir():
        names = [f"{name}/{path.name}" for name in CLASSES for path in (place / name).glob("*.jpg")]

        def read(name):
            return (place / name).read_bytes()
    else:
        try:
            archive = zipfile.ZipFile(place)
        except (zipfile.BadZipFile, OSError) as problem:
            raise OSError(f"{place} is not a whole zip archive ({problem}), perhaps a download that was cut "
                          "off; delete it and fetch it again (95.7 MB)") from problem
        names, read = archive.namelist(), archive.read   # into memory: nothing is unpacked by its path
    names = [n for n in names if n.endswith(".jpg") and PurePosixPath(n).parent.name in CLASSES]
    names.sort(key=lambda name: (PurePosixPath(name).parent.name, name))
    for kind, count in zip(CLASSES, COUNTS, strict=True):
        found = sum(PurePosixPath(name).parent.name == kind for name in names)
        if found != count:
            raise OSError(f"{place} has {found:,} tiles of class {kind} instead of {count:,}; fetch it again")

    def decode(name):
        image = Image.open(io.BytesIO(read(name)), formats=["JPEG"])
        if image.size != (64, 64):
            raise ValueError(f"it has {image.width}x{image.height} pixels instead of 64x64")
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)           # (64, 64, 3) -> (3, 64, 64)

    return names, decode


def decoded(cached, names, decode, size):
    """The pictures `decode(name)` (3, S, S) of all names as one uint8 tensor (N, 3, S, S).

    They are decoded once, into the file `cached`, which is memory-mapped from then on; where that file cannot
    be written they stay in memory, and a warning says so. Raises OSError, naming it, for a picture that is
    damaged.
    """
    def fill(array):
        for i, name in enumerate(Progress(names, desc="decoding, once", unit=" tiles")):
            try:
                array[i] = decode(name)
            except Exception as problem:                 # PIL, zipfile and zlib each raise their own
                raise OSError(f"the picture {name} cannot be read ({problem}); replace this file by a fresh "
                              "copy, or fetch the data set again") from problem
        return array

    images, shape = mapped(cached), (len(names), 3, size, size)
    if images is not None and tuple(images.shape) == shape:
        return images
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(cached.parent).free > 1.1 * np.prod(shape)
        with tempfile.TemporaryFile(dir=cached.parent) as probe:
            if room and hasattr(os, "posix_fallocate"):  # a mapped file that finds no room kills Python
                os.posix_fallocate(probe.fileno(), 0, int(np.prod(shape)))
    except OSError:
        room = False
    if not room:
        warnings.warn(f"the decoded tiles cannot be kept in {cached.parent}; set VIT_CACHE to a folder you "
                      f"can write to, with {np.prod(shape) / 1e6:,.0f} MB free", stacklevel=2)
        return torch.from_numpy(fill(np.empty(shape, np.uint8)))
    with atomic_write(cached) as temporary:              # nothing maps the file any more when it is renamed
        fill(np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)).flush()
    return mapped(cached)


def mapped(path):
    """The array in a file as a memory-mapped tensor, or None where there is no whole one."""
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c"))    # "c": writing to it never reaches the file
    except (OSError, ValueError, EOFError):              # EOFError: an empty file, such as a power cut leaves
        return None
