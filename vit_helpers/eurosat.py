"""EuroSAT on this machine: finds or downloads the 27,000 JPEGs, decodes them once, keeps them as one array."""

import hashlib
import io
import os
import shutil
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_dir

from .archives import checked_members, read_member
from .downloads import fetch_file
from .runtime import Progress, written_whole

CLASSES = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
           "Pasture", "PermanentCrop", "Residential", "River", "SeaLake")
COUNTS = (3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000)     # tiles of each class
SHAPE = (sum(COUNTS), 3, 64, 64)
# As in torchvision.datasets.EuroSAT, which itself falls back to http where https fails, begins again after each interruption,
# and unpacks 27,000 files.
ADDRESS = "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip"
MD5 = "c8fa014336c82ac7804f0398fcb19387"
WAIT = 600                                   # seconds for another process that decodes the same tiles


def cache_folder():
    """Where decoded tiles are kept: the environment variable VIT_CACHE, else the user's cache folder."""
    return Path(os.environ.get("VIT_CACHE") or user_cache_dir("vit_helpers"))


def find(root=None, download=True):
    """All tiles, uint8 (27000, 3, 64, 64) memory-mapped, in torchvision's order; see `load_tiles` for where from.

    Raises OSError (FileNotFoundError, TimeoutError, ...) for tiles that are missing or damaged, and ValueError for
    an archive that holds more than plain files, see `checked_members`.
    """
    if root:
        return _decoded(_locate(root))
    images = _kept()
    if images is None and not download:
        raise FileNotFoundError("EUROSAT_ROOT is not set, nothing is cached, and download=False")
    if images is None:
        with _one_at_a_time(cache_folder() / "download"):
            images = _kept()                         # by another process, in the meantime
            if images is None:
                archive = _download()
                images = _decoded(archive)
                if isinstance(images, np.memmap):    # cached: the archive is no longer needed
                    shutil.rmtree(archive.parent, ignore_errors=True)
    return images


def _kept():
    """The tiles that were decoded last, or None."""
    for kept in sorted(cache_folder().glob("eurosat-*.npy"), key=os.path.getmtime, reverse=True):
        images = _open(kept)
        if images is not None:
            return images
    return None


@contextmanager
def _one_at_a_time(path):
    """Let one process after another into the block for `path`. A process that is killed lets the next one in."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=WAIT)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError):
        pass         # a folder that cannot be written, a disk without locks, a holder that hangs: each process for itself
    try:
        yield
    finally:
        lock.release()


def _locate(root):
    """The folder with the ten class folders, or the archive, that `root` means."""
    # A relative root is meant from where the reader is, or from the folder of the course: notebooks run inside it.
    bases = [base / Path(root).expanduser() for base in (Path.cwd(), Path(__file__).parents[1])]
    for base in bases:
        for name in ("eurosat/2750", "2750", "EuroSAT.zip", "eurosat/EuroSAT.zip"):
            if (base / name).exists():
                return base / name
    raise FileNotFoundError(f"no EuroSAT tiles in {bases[0]}; a root holds 'eurosat/2750/<Class>/*.jpg' or "
                            "'EuroSAT.zip' (set by root=... or the environment variable EUROSAT_ROOT)")


def _download():
    """The archive, fetched into the cache folder."""
    archive = cache_folder() / "download" / "EuroSAT.zip"
    try:
        fetch_file(ADDRESS, archive, MD5)
    except TimeoutError:
        raise
    except OSError as problem:
        raise OSError(f"the download failed: {problem}; try again later, or set EUROSAT_ROOT to a folder with "
                      "EuroSAT.zip") from problem
    return archive


def _decoded(place):
    """The tiles of a folder or archive, from the cache if they were decoded before, else decoded and cached now."""
    marks = [place] if place.is_file() else [place / name for name in CLASSES if (place / name).exists()]
    facts = [(str(mark.resolve()), mark.stat().st_size, mark.stat().st_mtime_ns) for mark in marks]
    cached = cache_folder() / f"eurosat-{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}.npy"
    images = _open(cached)
    if images is None:
        with _one_at_a_time(cached):
            images = _open(cached)                   # by another process, in the meantime
            if images is None:
                images = _decode(place)
                try:
                    with written_whole(cached) as temporary, open(temporary, "wb") as file:
                        header = np.lib.format.header_data_from_array_1_0(images)
                        np.lib.format.write_array_header_1_0(file, header)
                        file.write(images)           # np.save would not say that the disk is full, only how far it came
                except OSError as problem:           # the lesson goes on from memory
                    warnings.warn(f"the decoded tiles could not be kept in {cached.parent} ({problem}), so they are decoded "
                                  "again next time; set VIT_CACHE to a folder you can write to, with 340 MB free", stacklevel=2)
                    return images
                images = _open(cached)
    return images


def _open(path):
    """The cached array at `path`, memory-mapped, or None where there is no whole one."""
    try:
        images = np.load(path, mmap_mode="c", allow_pickle=False)           # "c": writing to the array never reaches the file
    except (OSError, ValueError, EOFError):          # EOFError: an empty file, such as a power cut leaves
        return None
    return images if images.shape == SHAPE and images.dtype == np.uint8 else None


def _decode(place):
    """Decode every JPEG of a folder or archive into one array; an error names the file and says how to mend it."""
    from PIL import Image

    if place.is_dir():
        names, read = [f"{name}/{path.name}" for name in CLASSES for path in (place / name).glob("*.jpg")], None
    else:
        try:
            archive = zipfile.ZipFile(place)
        except (zipfile.BadZipFile, OSError) as problem:
            raise OSError(f"{place} is not a whole zip archive ({problem}), perhaps a download that was cut off; "
                          "delete it and fetch it again (95.7 MB)") from problem
        members = {member.filename: member for member in checked_members(archive, place)}
        names = list(members)

        def read(name):
            return read_member(archive, members[name])
    paths = _by_class(place, names)
    images = np.empty(SHAPE, np.uint8)
    for i, path in enumerate(Progress(paths, desc="decoding EuroSAT, once", unit=" tiles")):
        try:
            image = Image.open(io.BytesIO(read(path) if read else (place / path).read_bytes()), formats=["JPEG"])
            if image.size != SHAPE[:1:-1]:
                raise ValueError(f"it has {image.width}x{image.height} pixels instead of 64x64")
            images[i] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)          # (64, 64, 3) -> (3, 64, 64)
        except Exception as problem:                 # PIL, zipfile and zlib each raise their own
            raise OSError(f"the tile {path} in {place} cannot be read ({problem}); replace this file by a fresh copy, "
                          "or delete the data set and fetch it again") from problem
    return images


def _by_class(place, names):
    """The paths of all tiles, class by class, each in torchvision's order; checks the counts."""
    members = {name: [] for name in CLASSES}
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.suffix == ".jpg" and path.parent.name in members:
            members[path.parent.name].append(name)
    for (name, paths), count in zip(members.items(), COUNTS, strict=True):
        if len(paths) != count:
            raise OSError(f"{place} has {len(paths):,} tiles of class {name} instead of {count:,}; some are missing or "
                          "too many, fetch the data set again")
    return [path for paths in members.values() for path in sorted(paths)]
