"""Pictures of your own: read whatever you have, let a trained model say what it shows, map a large one."""

import io
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .data import CLASSES, normalize
from .evaluation import familiarity
from .pretrained import load_pretrained, pretrained_facts
from .runtime import eval_mode, smoke

MOST_PIXELS = 100_000_000                                # larger pictures are refused before they are decoded
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM")
WHITES = (1, 255, 3000, 4095, 65535)                     # floats, bytes, reflectance, 12 bits, 16 bits
BANDS = ("read it as an array (H, W, bands), with tifffile.imread for example, and choose three of them: "
         "array[..., [3, 2, 1]] is red, green and blue of Sentinel-2's thirteen")


def load_picture(picture, size=64, white=None):
    """The middle square of any picture (see `as_rgb`), smoothly shrunk, as uint8 (3, size, size)."""
    image = ImageOps.fit(as_rgb(picture, white), (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()       # (S, S, 3) -> (3, S, S)


def as_rgb(picture, white=None):
    """Any picture that people have as a PIL image in 8-bit RGB, upright (EXIF), of its own size.

    picture: a path, bytes, an open file, a PIL image, or an array (H, W), (H, W, 3), (3, H, W), with alpha
    uint8 (H, W, 4). What is transparent becomes white; of an animation the first frame is taken. white: which
    number becomes 255 where they are not bytes; by default the first of 1, 255, 3000 (reflectance), 4095 (12
    bits) and 65535 that none is above. Raises FileNotFoundError; ValueError for an address, a file that is no
    picture, damaged or over 100 million pixels, more than three bands or one page, NaN, and a range that does
    not tell: negative, or all below a quarter of that white.
    """
    name = str(picture) if isinstance(picture, (str, os.PathLike)) else "the picture"
    if isinstance(picture, Image.Image):
        image = ImageOps.exif_transpose(picture)
    else:
        image = np.asarray(picture) if hasattr(picture, "__array__") else read(picture, name, white)
    if isinstance(image, np.ndarray) or image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(as_bytes(np.asarray(image), name, white))
    if {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read(file, name, white):
    """A path, bytes or an open file -> its PIL image, upright, or an array uint16 (H, W, 3); see `as_rgb`."""
    if not isinstance(file, (str, os.PathLike)):
        file = io.BytesIO(file.read() if hasattr(file, "read") else file)
    elif name.startswith(("http:", "https:")):
        raise ValueError(f"{name} is an address; download the picture first, then give its file")
    elif not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {name}; check the name and the folder")
    try:
        with Image.open(file, formats=FORMATS) as opened:
            size, tags = opened.size, getattr(opened, "tag_v2", {})      # the tags of a TIFF
            if size[0] * size[1] > MOST_PIXELS:
                raise ValueError(f"it has {size[0]:,} x {size[1]:,} pixels")
            deep = ";16" in str(opened.tile) and len(opened.getbands()) > 1
            image = ImageOps.exif_transpose(opened)
            pages = opened.n_frames if tags else 1
            if pages > 1:
                opened.seek(1)                           # smaller ones are overviews of the first
                pages = pages if opened.size == size else 1
        # Of 16 bits in each color Pillow keeps the upper eight; of 12 bits or reflectance nearly nothing.
        if deep and (white or max(top for _, top in image.getextrema()[:3]) < 64):
            image = np.asarray(image, np.uint16) * 256 + np.asarray(lower_bytes(file), np.uint16)
    except Exception as problem:                         # Pillow's many ways to say that the data is wrong
        raise ValueError(f"{name} cannot be read as a picture ({problem}); save it again as PNG, JPEG, TIFF, "
                         f"WebP, GIF or BMP, of at most {MOST_PIXELS:,} pixels" + f"; if it is a TIFF of "
                         f"several bands or of floats, {BANDS}" * ("identify" in str(problem))) from problem
    bands = tags.get(277, 1)
    planes = bands > 1 and tags.get(284) == 2 and max(tags.get(258, (8,))) > 8       # Pillow mixes them up
    if planes or pages > 1 or bands > (3 if isinstance(image, np.ndarray) else len(image.getbands())):
        raise ValueError(f"{name} has {max(bands, pages)} bands or pages, not one picture; {BANDS}")
    return image


def lower_bytes(file):
    """The lower eight of each 16 bits of an image file: as if the other byte of each number came first."""
    with Image.open(file, formats=FORMATS) as image:
        other = str.maketrans("LBN", "BLB" if sys.byteorder == "little" else "BLL")
        for i, tile in enumerate(image.tile):
            mode, *rest = [tile.args] if isinstance(tile.args, str) else tile.args       # such as "RGB;16L"
            mode = mode[:-1] + mode[-1].translate(other)
            image.tile[i] = tile._replace(args=(mode, *rest) if rest else mode)
        return ImageOps.exif_transpose(image)


def as_bytes(values, name, white):
    """Numbers (H, W), (H, W, 3) or (3, H, W) -> uint8 (H, W[, 3]), in which `white` is 255; see `as_rgb`."""
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3, 4):
        values = np.moveaxis(values, 0, 2)
    values = values[:, :, 0] if values.shape[2:] == (1,) else values
    alpha = values.dtype == np.uint8 and values.shape[2:] == (4,)
    if values.ndim < 2 or not (alpha or values.shape[2:] in ((), (3,))):
        raise ValueError(f"{name} is an array {values.shape} of {values.dtype}, not (H, W) or (H, W, 3); of "
                         "more bands choose three: array[..., [3, 2, 1]] is Sentinel-2's red, green and blue")
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    values = values.astype(np.float32)
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise ValueError(f"{name} has values that are not finite (NaN); try np.nan_to_num(array)")
    if white is None:
        white = next((white for white in WHITES if high <= white), np.inf)
        if low < 0 or high < white / 4:
            raise ValueError(f"the values of {name} run from {low:g} to {high:g}, which does not tell what "
                             "is white; say white=... or --white: 3000 for reflectance, 4095 for 12 bits")
    return (values.clip(0, white) * (255 / white)).astype(np.uint8)


@dataclass(frozen=True)
class Prediction:
    """A model's answer to one picture: `image` uint8 (3, S, S) as it saw it, `probabilities` (K,), `classes`.

    `familiar`, -1 to 1: how much it resembles the training tiles of some class; `usual`: whether as much as
    95% of the validation tiles do, True without any (lesson 09).
    """

    image: torch.Tensor
    probabilities: torch.Tensor
    classes: tuple
    familiar: float
    usual: bool
    model: torch.nn.Module

    def __str__(self):
        top, index = self.probabilities.topk(min(3, len(self.classes)))
        said = ", ".join(f"{self.classes[i]} {p:.1%}" for p, i in zip(top, index, strict=True))
        return said if self.usual else f"{said} (unlike the tiles the model knows: do not rely on it)"


def predict(picture, name="auto"):
    """The Prediction of trained weights for any picture (see `as_rgb`), or an image uint8 (3, S, S) as it is.

    name: shipped weights, or the path of your own, see `load_pretrained`. Weights made with validation tiles
    give calibrated probabilities.
    """
    model, facts = load_pretrained(name), pretrained_facts(name)
    white = facts.get("white")
    image = picture if torch.is_tensor(picture) else load_picture(picture, model.img_size[0], white)
    with torch.no_grad():
        pooled = model.pooled(model.forward_features(normalize(image)[None]))        # (1, D)
        probabilities = (model.head(pooled)[0] / facts.get("temperature", 1)).softmax(dim=0)     # (K,)
    familiar = math.nan
    if "class_means" in facts:
        familiar = familiarity(pooled, torch.tensor(facts["class_means"])).item()
    usual = not familiar < facts.get("usual_from", -1)
    return Prediction(image, probabilities, tuple(facts.get("classes", CLASSES)), familiar, usual, model)


def land_use_map(model, picture, stride=16, batch_size=256):
    """What a model for small images says of each pixel of a large one: probabilities (K, H, W), on the CPU.

    The model slides over `picture`, uint8 (C, H, W), in steps of `stride` pixels, up to the border. Windows
    that overlap are averaged: of a classifier one answer for all their pixels, of a Segmenter one for each.
    Raises ValueError for pictures smaller than a window, and too wide strides.
    """
    (height, width), device = getattr(model, "encoder", model).img_size, next(model.parameters()).device
    if picture.shape[1] < height or picture.shape[2] < width or not 1 <= stride <= min(height, width):
        raise ValueError(f"windows of {height} x {width} pixels cannot cover {tuple(picture.shape)} with "
                         f"stride={stride}; give a larger picture, and a stride of 1 to {min(height, width)}")
    stride = max(stride, min(height, width)) if smoke() else stride
    rows, columns = ([*range(0, whole - part, stride), whole - part]
                     for whole, part in zip(picture.shape[1:], (height, width), strict=True))
    corners, total, seen = [(r, c) for r in rows for c in columns], 0, torch.zeros(picture.shape[1:])
    with eval_mode(model), torch.no_grad():
        for start in range(0, len(corners), batch_size):
            some = corners[start:start + batch_size]
            windows = torch.stack([picture[:, r:r + height, c:c + width] for r, c in some])
            probabilities = model(normalize(windows).to(device)).softmax(dim=1).cpu()    # (B, K[, h, w])
            if start == 0:
                total = torch.zeros(probabilities.shape[1], *picture.shape[1:])
            for (r, c), said in zip(some, probabilities, strict=True):
                total[:, r:r + height, c:c + width] += said if said.ndim == 3 else said[:, None, None]
                seen[r:r + height, c:c + width] += 1
    return total / seen
