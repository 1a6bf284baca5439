"""EuroSAT's 27,000 tiles: found on this machine, or downloaded; and their spatial split."""

import io
import os
import re
from collections import Counter
from glob import glob
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .folders import cache_file, cache_folder, decoded, files_in, mapped
from .runtime import Progress

CLASSES = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
           "Pasture", "PermanentCrop", "Residential", "River", "SeaLake")
COUNTS = (3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000)    # tiles of each class
# As in torchvision.datasets.EuroSAT, which unpacks 27,000 files, and falls back to http where https fails.
ADDRESS = ("https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
           "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip")
MD5 = "c8fa014336c82ac7804f0398fcb19387"


def find(root=None, download=True):
    """All tiles in torchvision's order, see `load_tiles`: images uint8 (27000, 3, 64, 64), mapped, labels."""
    labels, shape = torch.arange(10).repeat_interleave(torch.tensor(COUNTS)), (sum(COUNTS), 3, 64, 64)
    known = [] if root else sorted(cache_folder().glob("eurosat-*.npy"), key=os.path.getmtime, reverse=True)
    for file in known:
        if (images := mapped(file, shape)) is not None:
            return images, labels
    if not root and not download:
        raise FileNotFoundError("EUROSAT_ROOT is not set, nothing is cached, and download=False")
    problems = []
    for place in locate(Path(root).expanduser()) if root else [fetch()]:
        file = cache_file("eurosat", place, [".", *sorted(glob("*/", root_dir=place))])
        try:
            return decoded(file, shape, lambda place=place: tiles_in(place)), labels
        except OSError as problem:                       # the next place may have them
            problems.append(str(problem))
    raise OSError("; ".join(problems))


def locate(root):
    """Where tiles may be in `root`, at most two levels down: folders with class folders, then archives."""
    # A relative root is meant from where the reader is, or from the folder of the course, for notebooks.
    for base in (Path.cwd() / root, Path(__file__).parents[1] / root):
        if base.is_file():
            return [base]
        folders = ["", *sorted(glob("*/", root_dir=base)), *sorted(glob("*/*/", root_dir=base))]
        places = [base / name for name in folders if any((base / name / kind).is_dir() for kind in CLASSES)]
        places += [base / name for level in ("*.zip", "*/*.zip", "*/*/*.zip")
                   for name in sorted(glob(level, root_dir=base))]
        if places:
            return places
    raise FileNotFoundError(f"no EuroSAT tiles in {Path.cwd() / root}; a root (root=... or the environment "
                            "variable EUROSAT_ROOT) holds EuroSAT.zip or the ten folders of its .jpg files")


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


def tiles_in(place):
    """The tiles of a folder or archive in torchvision's order: their names, and what decodes one."""
    names, read = files_in(place)
    pattern = re.compile(rf"(.*/|)({'|'.join(CLASSES)})/[^/]*\.(?i:(jpg|tif))")
    tiles = [found for found in map(pattern.fullmatch, names) if found]      # groups: folder, class, ending
    jpegs = [tile for tile in tiles if tile[3].lower() == "jpg"]
    if tiles and not jpegs:
        raise OSError(f"{place} holds the multispectral EuroSAT (.tif, 13 bands); fetch EuroSAT_RGB.zip")
    home = Counter(tile[1] for tile in jpegs).most_common(1)[0][0] if jpegs else ""      # the fullest copy
    tiles = sorted((tile[2], tile[0]) for tile in jpegs if tile[1] == home)
    found = Counter(kind for kind, _ in tiles)
    for kind, count in zip(CLASSES, COUNTS, strict=True):
        if found[kind] != count:
            raise OSError(f"{place} is not EuroSAT as published: {found[kind]:,} tiles of class {kind}, not "
                          f"{count:,}; fetch it again")

    def decode(name):
        image = Image.open(io.BytesIO(read(name)), formats=["JPEG"])
        if image.size != (64, 64):
            raise ValueError(f"it has {image.width}x{image.height} pixels instead of 64x64")
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)           # (64, 64, 3) -> (3, 64, 64)

    return [name for _, name in tiles], decode


def spatial_parts():
    """A tile's part of the spatial split: 0 training, 1 validation, 2 test; uint8 (27000,). See splits/."""
    return torch.from_numpy(np.load(Path(__file__).with_name("splits") / "eurosat_spatial.npz")["parts"])
