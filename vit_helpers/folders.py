"""Pictures in folders and zip archives: found, decoded once into one array, memory-mapped from then on."""

import contextlib
import hashlib
import os
import posixpath
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from platformdirs import user_cache_dir

from .runtime import Progress, atomic_write

ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".ppm", ".pgm")
# What is hidden, and what macOS, Windows and disk stations leave behind.
JUNK = re.compile(r"(^|/)(\.[^./]|__MACOSX/|@eaDir/|Thumbs\.db$|desktop\.ini$)")


def files_in(place):
    """The files of a folder tree or a zip archive: their paths in it, with slashes, and what reads one."""
    if place.is_dir():
        tree = os.walk(place, followlinks=True)
        paths = (os.path.join(folder, file) for folder, _, files in tree for file in files)
        names = (path[len(str(place)):].replace(os.sep, "/").lstrip("/") for path in paths)
        return [name for name in names if not JUNK.search(name)], lambda name: (place / name).read_bytes()
    try:
        archive = zipfile.ZipFile(place)                 # read into memory: nothing is unpacked by its path
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no folder or zip archive {place}; check the name") from None
    except (zipfile.BadZipFile, OSError) as problem:
        raise OSError(f"{place} is not a whole zip archive ({problem}); fetch it again") from problem
    return [name for name in archive.namelist() if name[-1] != "/" and not JUNK.search(name)], archive.read


def labeled_pictures(place, size, white=None):
    """The pictures of class folders: images uint8 (N, 3, S, S), labels, classes; see `Tiles.from_folder`."""
    from .pictures import load_picture  # here, since it imports `data`, which imports this module

    names, read = files_in(place)
    class_of = first_folders([name for name in names if name.lower().endswith(ENDINGS)])
    classes, labels, counts = np.unique([*class_of.values()], return_inverse=True, return_counts=True)
    if not class_of:
        raise FileNotFoundError(f"{place} has no folders of pictures, one for each class, such as cat/1.jpg")
    if {name.lower() for name in classes} <= {"train", "val", "valid", "validation", "test"}:
        raise ValueError(f"{place} holds parts of a data set ({', '.join(classes)}); choose one of them")
    print("classes:", ", ".join(f"{name} {n:,}" for name, n in zip(classes, counts, strict=True)))
    if others := sorted(set(names) - set(class_of)):
        more = f" and {len(others) - 5:,} more" if len(others) > 5 else ""
        print(f"left out, being no pictures in a class folder: {', '.join(others[:5])}{more}")
    file = cache_file(f"own-{size}-{white}", place, class_of if place.is_dir() else ["."])
    images = decoded(file, (len(labels), 3, size, size),
                     lambda: (class_of, lambda name: load_picture(read(name), size, white).numpy()))
    return images, labels, classes.tolist()


def first_folders(names, level=0):
    """The first folder on the way to each picture that has one, inside the only one there is: its class."""
    found = {name: name.split("/")[level] for name in names if name.count("/") > level}
    if len(set(found.values())) == 1 and any(name.count("/") > level + 1 for name in found):
        return first_folders(found, level + 1)
    return dict(sorted(found.items(), key=lambda item: (item[1], *posixpath.split(item[0]))))


def cache_folder():
    """Where decoded pictures are kept: the environment variable VIT_CACHE, else the user's cache folder."""
    return Path(os.environ.get("VIT_CACHE") or user_cache_dir("vit_helpers")).expanduser()


def cache_file(kind, place, names):
    """The file for the decoded pictures of `place`: another one once any of `names` in it has changed."""
    stats = [(name, (place / name).stat()) for name in names]
    facts = str(place.resolve()), [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    where, what = (hashlib.sha256(repr(fact).encode()).hexdigest()[:12] for fact in facts)
    return cache_folder() / f"{kind}-{where}-{what}.npy"


def decoded(file, shape, find):
    """Pictures uint8 (N, 3, S, S) from `file`, if need be written: find() gives names and what decodes one.

    Where it cannot be written they stay in memory, and a warning says so. OSError names a damaged picture.
    """
    if (images := mapped(file, shape)) is not None:
        return images
    names, decode = find()

    def pictures():
        for name in Progress(names, desc="decoding, once", unit=" tiles"):
            try:
                yield decode(name)
            except Exception as problem:                 # PIL, zipfile and zlib each raise their own
                raise OSError(f"the picture {name} cannot be read ({problem}); mend or replace this file "
                              "and try again") from problem

    try:
        with atomic_write(file) as temporary, open(temporary, "wb") as array:
            facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(array, facts)
            for picture in pictures():
                array.write(picture.tobytes())
        for old in {*file.parent.glob(f"{file.stem[:-12]}*.npy")} - {file}:      # of the folder as it was
            with contextlib.suppress(OSError):           # Windows keeps what another process has mapped
                old.unlink()
        return mapped(file)
    except OSError as problem:
        if problem.errno is None:                        # a damaged picture, not a disk that is full
            raise
        warnings.warn(f"the decoded tiles cannot be kept in {file.parent} ({problem}); set VIT_CACHE to a "
                      f"folder you can write to, with {np.prod(shape) / 1e6:,.0f} MB free", stacklevel=2)
        return torch.from_numpy(np.fromiter(pictures(), np.dtype((np.uint8, shape[1:])), len(names)))


def mapped(file, shape=None):
    """The array in a file as a memory-mapped tensor, or None where there is no whole one of this shape."""
    try:
        images = torch.from_numpy(np.load(file, mmap_mode="c"))  # "c": writing to it never reaches the file
    except (OSError, ValueError, EOFError):              # EOFError: an empty file, such as a power cut leaves
        return None
    return images if shape in (None, images.shape) else None
